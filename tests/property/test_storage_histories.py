"""Random histories of one workspace against a model: edits, checkpoints, crashes in any call to the store,
collecting, folding, repacking, pins, take-overs by a second host, several that collect at once while
somebody saves, clocks that jump. Whatever was told to be saved and was not forgotten by the model's rules is
there, byte for byte.
"""

import asyncio
import contextlib
import itertools
import os
import random
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.repository import fold, repack, snapshots
from tests.fakes.faulty_store import Crashed
from tests.fakes.storage_rig import PREFIX, REF, Node, objects

KEEP = storage.Retention(keep_last=3, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)
SIZES = (0, 40, 5_000, 400_000, 1_200_000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.integers(0, 6), st.sampled_from(SIZES)),
        st.tuples(st.just("remove"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("save"), st.just(0), st.just(0)),
        st.tuples(st.just("tidy"), st.booleans(), st.just(0)),
        st.tuples(st.just("crash in save"), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("crash in tidy"), st.integers(1, 60), st.booleans()),
        st.tuples(st.just("take over"), st.just(0), st.just(0)),
        st.tuples(st.just("beside"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("forget cache"), st.just(0), st.just(0)),
        st.tuples(st.just("leak"), st.just(0), st.just(0)),
        st.tuples(st.just("restore"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("tidy together"), st.integers(0, 2**16), st.integers(3, 4)),
        st.tuples(st.just("clock jumps"), st.integers(-400, 400), st.just(0)),
    ),
    max_size=18,
)


class Unsteady(MemoryStore):
    """Takes its time, differently each time, so that those who share a bucket meet amid everything."""

    def __init__(self, bucket: MemoryBucket, chance: random.Random) -> None:
        super().__init__(bucket)
        self._chance = chance

    async def _steps(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def create(self, name: str, data: bytes) -> None:
        await self._steps()
        await super().create(name, data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        await self._steps()
        return await super().get(name, start=start, length=length)

    async def head(self, name: str) -> int | None:
        await self._steps()
        return await super().head(name)

    async def delete(self, name: str) -> None:
        await self._steps()
        await super().delete(name)


class World:
    """Two hosts over one bucket, a home, and the model: what each acknowledged checkpoint holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = MemoryBucket()
        self.hosts = [Node(self.bucket, folder / f"host {number}") for number in range(2)]
        self.owner, self.fence, self.takes, self.restores = 0, 0, 0, 0
        self.home = folder / "home"
        self.home.mkdir()
        self.saved: dict[int, dict[str, bytes]] = {}
        self.beside: dict[int, dict[str, bytes]] = {}
        self.newest = 0
        self.opened = self.hosts[0].open()

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.home.iterdir()}

    async def restart(self, *, cold: bool = False) -> None:
        await self.opened.close()
        folder = self.folder / f"cache {next(COUNTER)}" if cold else self.hosts[self.owner].folder
        self.hosts[self.owner] = Node(self.bucket, folder)
        self.opened = self.hosts[self.owner].open()

    async def save(self) -> None:
        done = await self.opened.checkpoint(
            REF, home=self.home, fence=self.fence, session=f"s{self.takes}", reason="test"
        )
        self.saved[done.info.seq] = self.content()
        assert done.info.seq >= self.newest
        self.newest = done.info.seq

    async def tidy(self, policy: storage.Retention | None) -> None:
        report = await self.opened.collect(REF, policy=policy, actor="test")
        assert report.refused == ""

    async def tidy_together(self, seed: int, count: int) -> None:
        """Several processes collect at once, each with a clock of its own, while the owner saves."""
        chance = random.Random(seed)
        others = [Node(self.bucket, self.folder / f"tidier {number}") for number in range(count)]
        for node in others:
            node.store.inner = Unsteady(self.bucket, chance)
            node.clock = itertools.count(chance.randrange(2 * 1_700_000_000_000))

        async def collect(node: Node) -> None:
            async with node.open() as opened:
                report = await opened.collect(REF, policy=KEEP, actor="test")
                assert not report.refused or report.contended, report.refused

        mine = self.hosts[self.owner].store
        mine.inner = Unsteady(self.bucket, chance)
        async with asyncio.TaskGroup() as group:
            for node in others:
                group.create_task(collect(node))
            with contextlib.suppress(storage.CommitContended):
                await self.save()
        mine.inner = MemoryStore(self.bucket)

    async def crash(self, number: int, landed: bool, act) -> None:
        self.hosts[self.owner].store.crash_at(number, landed=landed)
        with contextlib.suppress(Crashed):
            await act
        await self.restart()

    async def take_over(self) -> None:
        """The other host becomes the owner, and restores the newest checkpoint."""
        self.owner = 1 - self.owner
        await self.restart()
        self.takes += 1
        head = await self.opened.take_over(
            REF, fence_at_least=1, node=f"n{self.takes}", session=f"s{self.takes}", registry_epoch=1
        )
        assert head.fence > self.fence
        self.fence = head.fence
        assert head.newest is None or head.newest.seq >= self.newest

    async def do(self, what: str, one: int, two: int) -> None:
        match what:
            case "edit":
                (self.home / f"f{one}").write_bytes(os.urandom(two // 2) * 2)
            case "remove":
                (self.home / f"f{one}").unlink(missing_ok=True)
            case "save":
                await self.save()
            case "tidy":
                await self.tidy(KEEP if one else None)
            case "crash in save":
                await self.crash(one, bool(two), self.save())
            case "crash in tidy":
                await self.crash(one, bool(two), self.tidy(KEEP))
            case "take over":
                await self.take_over()
            case "beside":
                done = await self.opened.checkpoint(
                    REF, home=self.home, fence=self.fence, session="s", reason="test", conflict=True
                )
                self.beside[done.info.seq] = self.content()
            case "leak":
                await self.opened.rotate_keys(REF, leaked=True)
            case "tidy together":
                await self.tidy_together(one, two)
            case "clock jumps":
                node = self.hosts[self.owner]
                node.clock = itertools.count(max(0, next(node.clock) + one * 24 * 3_600_000))
            case "restart" | "forget cache":
                await self.restart(cold=what == "forget cache")
            case "restore":
                await self.restore(one)

    async def restore(self, which: int) -> None:
        """Restore one checkpoint that is listed, and look whether the model has it so."""
        listed = await self.opened.list(REF)
        if listed:
            await self.compare(self.opened, listed[which % len(listed)], self.saved)

    async def compare(self, opened: storage.Storage, info, model: dict[int, dict[str, bytes]]) -> None:
        self.restores += 1
        target = self.folder / f"back {self.restores}"
        await opened.restore(REF, seq=info.seq, into=target)
        if info.seq in model:  # else its answer was lost in a crash
            assert {path.name: path.read_bytes() for path in target.iterdir()} == model[info.seq]

    async def check(self) -> None:
        """By somebody who knows nothing: everything that must be there, whole, and nothing is left over."""
        for _ in range(3):
            await self.tidy(KEEP)
        cold = Node(self.bucket, self.folder / "cold").open()
        listed = await cold.list(REF)
        seqs = [info.seq for info in listed]
        assert not self.saved or max(seqs) >= self.newest, "acknowledged and gone"
        assert [one.seq for one in await self.opened.list(REF)] == seqs, "warm equals cold"
        for info in listed:
            await self.compare(cold, info, self.saved)
        beside = await cold.conflicts(REF)
        assert {info.seq for info in beside} >= set(self.beside)
        for info in beside:
            await self.compare(cold, info, self.beside)
        assert (await cold.verify(REF, "full")).faults == ()
        for name in objects(self.bucket, "x/"):
            del self.bucket.objects[PREFIX + name]
        bare = Node(self.bucket, self.folder / "bare").open()
        assert [info.seq for info in await bare.list(REF)] == seqs, "without index snapshots"
        for opened in (cold, bare, self.opened):
            await opened.close()


COUNTER = itertools.count()


async def live(steps: list[tuple[str, int, int]], folder: Path) -> None:
    world = World(folder)
    await world.take_over()
    await world.save()
    for step in steps:
        await world.do(*step)
    await world.restart()
    await world.check()


def run(steps: list[tuple[str, int, int]]) -> None:
    """Live one history with small limits, so that folds, repacks and snapshots happen all the time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(fold, "ENTRIES_MIN", 4),
        mock.patch.object(repack, "DEAD_BYTES_MIN", 1),
        mock.patch.object(repack, "SMALL_PACKS_MIN", 3),
        mock.patch.object(snapshots, "ENTRIES", 3),
        mock.patch("storage.repository.settle.PAUSES_S", (0.0, 0.0)),
    ):
        asyncio.run(live(steps, Path(folder)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_no_history_loses_what_was_told_to_be_saved(steps):
    run(steps)


@pytest.mark.soak
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_no_history_of_many_loses_what_was_told_to_be_saved(steps):
    run(steps)

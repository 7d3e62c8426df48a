"""Whatever happens to the first store, and whenever the second is away or its writer dies: what stands on the
second store is sound, and one quiet comparison makes both alike.
"""

import asyncio
import itertools
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.replica.second import SecondStore
from storage.repository import fold
from tests.fakes.faulty_store import Crashed, Fault, FaultyStore
from tests.fakes.storage_rig import IMPATIENT, KEEP_ONE, MASTER_KEY, REF, take, write

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 400_000)),
        st.tuples(st.just("tidy"), st.booleans()),
        st.tuples(st.just("follow"), st.just(0)),
        st.tuples(st.just("compare"), st.just(0)),
        st.tuples(st.just("die"), st.integers(1, 40)),
        st.tuples(st.just("away"), st.integers(1, 10)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("rotate"), st.just(0)),
    ),
    max_size=14,
)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first, self.second = MemoryBucket(), MemoryBucket()
        self.clock = itertools.count(1_700_000_000_000)
        self.fence = 0
        self.number = 0
        self.home = folder / "home"
        self.home.mkdir()
        self.there = FaultyStore(MemoryStore(self.second))
        self.opened = self.open()

    def open(self) -> storage.Storage:
        async def opener() -> FaultyStore:
            return self.there

        return storage.Storage(
            MemoryStore(self.first),
            master_key=MASTER_KEY,
            cache_folder=self.folder / "cache",
            fresh=os.urandom,
            clock_ms=lambda: next(self.clock),
            retry=IMPATIENT,
            second=SecondStore(opener, IMPATIENT),
        )

    async def do(self, what: str, value: int) -> None:
        match what:
            case "save":
                self.number += 1
                write(self.home, **{f"f{self.number % 5}": self.number.to_bytes(4, "big") * (value // 4)})
                await self.opened.checkpoint(
                    REF, home=self.home, fence=self.fence, session="s", reason="test"
                )
            case "tidy":
                await self.opened.collect(REF, policy=KEEP_ONE if value else None, actor="test")
            case "rotate":
                await self.opened.rotate_keys(REF)
            case "restart":
                await self.restart()
            case "die":
                self.there.crash_at(value)
                try:
                    await self.opened.replicate(REF, whole=True)
                except (Crashed, BaseExceptionGroup):
                    await self.restart()
                self.there.heal()
            case "away":
                self.there.plan(Fault.UNAVAILABLE, times=value)
                await self.opened.replicate(REF)
                self.there.heal()
            case _:
                look = await self.opened.replicate(REF, whole=what == "compare")
                assert look.state == "in_step", look

    async def restart(self) -> None:
        """The process is gone; only its threads are ended, so that a thousand worlds fit into one test."""
        await asyncio.to_thread(self.opened._threads.close)
        self.opened = self.open()

    async def stands(self, number: int) -> None:
        """What is on the second store is a sound repository, or none yet."""
        if not any("/c/" in name for name in self.second.objects):
            return
        alone = storage.Storage(
            MemoryStore(self.second),
            master_key=MASTER_KEY,
            cache_folder=self.folder / f"look {number}",
            fresh=os.urandom,
            clock_ms=lambda: next(self.clock),
            retry=IMPATIENT,
        )
        async with alone:
            assert (await alone.verify(REF, "structure")).faults == ()


def quiet(report: storage.UpkeepReport) -> bool:
    """Say whether a run found nothing left to do: remnants of a fold are not copied."""
    return not (report.deleted_objects or report.retired_packs or report.orphans or report.folded_entries)


def copied(bucket: MemoryBucket) -> dict[str, bytes]:
    """Return everything that is copied: not the index, which is a cache, nor what tells stores apart."""
    return {name: raw for name, raw in bucket.objects.items() if name.startswith("t/") and "/x/" not in name}


async def history(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="second-") as folder:
        world = World(Path(folder))
        world.fence = await take(world.opened)
        for number, (what, value) in enumerate(steps):
            await world.do(what, value)
            if what in ("follow", "compare", "die", "away"):
                await world.stands(number)
        report = None
        while report is None or not quiet(report):
            report = await world.opened.collect(REF, policy=None, actor="test")
        look = await world.opened.replicate(REF, whole=True)
        assert look.state == "in_step", look
        assert copied(world.first) == copied(world.second)
        await world.restart()


def run(steps: list[tuple[str, int]]) -> None:
    async def proved(store: MemoryStore) -> storage.ProbeVerdict:
        return storage.ProbeVerdict(usable=True, checks=(), took_ms=0)

    with (
        mock.patch.object(fold, "ENTRIES_MIN", 4),
        mock.patch("storage.repository.settle.PAUSES_S", (0.0, 0.0)),
        mock.patch("storage.replica.second.probe_whole", proved),
    ):
        asyncio.run(history(steps))


@settings(max_examples=12)
@given(steps=STEPS)
def test_any_history_ends_alike_on_both_stores(steps):
    run(steps)


@pytest.mark.soak
@settings(max_examples=300)
@given(steps=STEPS)
def test_three_hundred_histories_end_alike_on_both_stores(steps):
    run(steps)

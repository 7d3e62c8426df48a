"""Small worlds for the explorer: machines that save, take over, collect and fold one workspace.

The code is the real one, from the front door down to the format; only its threads run inline and the store
gives turns. Contents lie in packs where a world is about packs, in entries where it is about folds. What is
checked at the end of each order is what the rules of 4.4 promise: whatever a machine was told is verified is
in the log, opens to its last byte after all garbage was collected, and lower fences add nothing.
"""

import asyncio
import contextlib
import functools
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import storage
from storage.errors import (
    CollectRefused,
    CommitContended,
    CommitUncertain,
    FenceMoved,
    NoSuchCheckpoint,
    StorageError,
)
from storage.format import names
from storage.ops import save, uploads
from storage.ops.upkeep import Upkeep, UpkeepReport
from storage.repository import collect, fold, repack
from storage.repository.packer import NewChunks
from tests.fakes.storage_rig import IMPATIENT, MASTER_KEY, PREFIX, REF, seeded
from tests.sim.interleave import Explorer, InlineThreads, NoTurn, Turns, TurnStore

NO_CACHE = Path("/dev/null/none")
LOST = (CommitContended, CommitUncertain, FenceMoved)


def prepare(monkeypatch, homes: Path, *, in_packs: bool) -> None:
    """Put the code into the small: inline threads, tiny packs, no pauses; make the homes A, B and C, and D, E
    and F that hold what two of them hold. Nothing is repacked unless a world asks for it.
    """
    monkeypatch.setattr("storage.front.opened.Threads", InlineThreads)
    for module in ("repository.packer", "ops.look"):
        monkeypatch.setattr(f"storage.{module}.Turn", NoTurn)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(uploads, "PACK_BYTES", 65_536)
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)
    monkeypatch.setattr(repack, "SMALL_PACKS_MIN", 10**9)
    if in_packs:
        monkeypatch.setattr(save, "NewChunks", functools.partial(NewChunks, inline_bytes_max=0))
    for name in "ABC":
        (homes / name).mkdir()
        (homes / name / "file").write_bytes(content(name))
    for name, parts in (("D", "AB"), ("E", "AC"), ("F", "BC")):
        (homes / name).mkdir()
        for part in parts:
            (homes / name / part).write_bytes(content(part))


def content(name: str) -> bytes:
    """Return the bytes of the file of the home A, B or C."""
    return hashlib.sha256(name.encode()).digest() * 8


@dataclass(slots=True)
class Bench:
    """One run's machines and what they were told."""

    objects: dict[str, bytes]
    turns: Turns
    homes: Path
    seen: set[object] = field(default_factory=set)
    told: list[storage.CheckpointInfo] = field(default_factory=list)
    sides: list[storage.CheckpointInfo] = field(default_factory=list)
    wholes: list[str] = field(default_factory=list)
    """Names of full bases: they count once their B stands."""
    fences: list[int] = field(default_factory=list)

    def fold_from(self, entries: int) -> None:
        """From now on fold so many entries; `prepare` has it put back after the test."""
        fold.ENTRIES_MIN = entries

    def machine(self, name: str) -> storage.Storage:
        """Start a process."""
        clock = itertools.count(1_700_000_000_000)
        return storage.Storage(
            TurnStore(self.objects, self.turns, name),
            master_key=MASTER_KEY,
            cache_folder=NO_CACHE,
            fresh=seeded(name),
            clock_ms=lambda: next(clock),
            retry=IMPATIENT,
        )

    async def take(self, machine: storage.Storage, name: str) -> int:
        """Take the workspace over; return the fence."""
        head = await machine.take_over(REF, fence_at_least=1, node=name, session=name, registry_epoch=1)
        self.fences.append(head.fence)
        return head.fence

    async def save(
        self, machine: storage.Storage, home: str, fence: int, *, tries: int = 2, resume: bool = False
    ) -> None:
        """Save a home, and once more if the first plan was too old; give up when fenced."""
        for _ in range(tries):
            try:
                saved = await machine.checkpoint(
                    REF,
                    home=self.homes / home,
                    fence=fence,
                    session="s",
                    reason="sim",
                    final=True,
                    resume=resume,
                )
                self.told.append(saved.info)
                return
            except (CommitContended, CommitUncertain):
                continue
            except FenceMoved:
                return

    async def asleep(self, name: str, act: Coroutine[Any, Any, None], seq: int) -> Coroutine[Any, Any, None]:
        """Begin an act of the machine `name` and let it go on until it is about to place entry `seq`."""
        self.turns.held.add(name)
        begun = asyncio.ensure_future(act)
        await self.turns.until(name, "create", f"{PREFIX}c/{seq:016d}")

        async def wake() -> None:
            await begun

        return wake()

    async def killed(self, name: str, act: Coroutine[Any, Any, None], seq: int) -> None:
        """Begin an act of the machine `name`, and end it when it is about to place entry `seq`."""
        self.turns.held.add(name)
        begun = asyncio.ensure_future(act)
        await self.turns.until(name, "create", f"{PREFIX}c/{seq:016d}")
        self.turns.waiting.pop(name)
        begun.cancel()
        await asyncio.wait([begun])

    async def save_beside(self, machine: storage.Storage, home: str, fence: int) -> None:
        """Save a conflict checkpoint."""
        try:
            saved = await machine.checkpoint(
                REF, home=self.homes / home, fence=fence, session="s", reason="sim", conflict=True
            )
        except CommitContended:
            return
        if saved.info.seq:
            self.sides.append(saved.info)
        else:
            self.wholes.append(saved.info.side)

    def next_seq(self) -> int:
        """Return the number that the next entry gets."""
        taken = [name for name in self.objects if name.startswith(f"{PREFIX}{names.LOG_PREFIX}")]
        return 1 + max(names.log_entry_seq(name.removeprefix(PREFIX)) for name in taken)

    async def take_and_save(self, machine: storage.Storage, home: str) -> None:
        """Take the workspace over and save; lose to somebody who was faster."""
        with contextlib.suppress(*LOST):
            await self.save(machine, home, await self.take(machine, "new"))

    async def adopt(self, machine: storage.Storage) -> None:
        """Let full bases count that wait for it, as a run of upkeep begins."""
        upkeep = Upkeep(await machine._known.required(REF), fresh=machine._fresh, clock_ms=lambda: 0)
        async with upkeep._workspace.lock:
            await upkeep._adoption().run()

    async def drop(self, machine: storage.Storage) -> None:
        """A user drops what was saved beside, and it is promised no more."""
        for info in await machine.conflicts(REF):
            await machine.forget(REF, seqs=[info.seq], actor="user", reason="dropped")
            self.sides = [one for one in self.sides if one.seq != info.seq]
            self.wholes = [one for one in self.wholes if one != info.side]

    async def step_over(self, machine: storage.Storage) -> None:
        """A person says that what jams the log does not count."""
        found = await machine.foreign(REF)
        with contextlib.suppress(CommitContended):
            await machine.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])

    async def collect(self, machine: storage.Storage, *, runs: int) -> None:
        """Collect garbage; a run that lost to a growing log is not planned again."""
        workspace = await machine._known.required(REF)
        for number in range(runs):
            upkeep = Upkeep(
                workspace, fresh=seeded(f"collect {number}"), clock_ms=lambda: 0, spare_fence=False
            )
            try:
                await upkeep._collect(UpkeepReport(), ())
            except (CommitContended, CollectRefused):
                continue

    async def check(self) -> None:
        """Collect what is left to collect, and look whether the promises hold. Many orders end alike: each
        end is looked at once.
        """
        told = (tuple(self.told), tuple(self.sides), tuple(self.wholes), tuple(self.fences))
        end = (frozenset(self.objects.items()), told)
        if end not in self.seen:
            self.seen.add(end)
            await self._check()

    async def _check(self) -> None:
        cleaner = self.machine("cleaner")
        await self.adopt(cleaner)
        await self.collect(cleaner, runs=3)
        workspace = await cleaner._known.required(REF)
        last = Upkeep(workspace, fresh=seeded("last"), clock_ms=lambda: 0, spare_fence=False)
        await last._collect(UpkeepReport(), ())
        reader = self.machine("reader")
        listed = {info.seq: info for info in await reader.list(REF)}
        for info in self.told:
            assert listed.get(info.seq) == info, f"told verified and not there: {info.seq}"
        beside = {info.seq: info for info in await reader.conflicts(REF)}
        for info in self.sides:
            assert beside.get(info.seq) == info, f"told saved beside and not there: {info.seq}"
        named = [info.side for info in beside.values()]
        assert len(named) == len(set(named)), "a side checkpoint counts twice"
        assert set(self.wholes) <= set(named), f"told saved whole and not there: {self.wholes}, {named}"
        order = [(info.seq, info.fence) for info in listed.values()]
        assert order == sorted(order), "a lower fence added something"
        assert len(self.fences) == len(set(self.fences)), "two owners of one fence"
        report = await reader.verify(REF, "full")
        assert report.faults == (), report.faults


async def _begun(homes: Path, saved: str, forget: str) -> dict[str, bytes]:
    """Return the objects of a repository with these homes saved, some of them forgotten."""
    bench = Bench({}, Turns(), homes)
    machine = bench.machine("begin")
    fence = await bench.take(machine, "begin")
    for home in saved:
        await bench.save(machine, home, fence)
    seqs = [info.seq for info, home in zip(bench.told, saved, strict=True) if home in forget]
    if seqs:
        await machine.forget(REF, seqs=seqs, actor="sim", reason="sim")
    return bench.objects


def begun(homes: Path, saved: str, forget: str = "") -> dict[str, bytes]:
    """Return the objects with which every run of a world begins."""
    return asyncio.run(_begun(homes, saved, forget))


Actors = dict[str, Coroutine[Any, Any, None]]
Made = tuple[Actors, Callable[[], Awaitable[None]]]


def world(
    homes: Path, start: dict[str, bytes], actors: Callable[[Bench], Awaitable[Actors]]
) -> Callable[[Turns], Awaitable[Made]]:
    """Return a world for the explorer."""

    seen: set[object] = set()

    async def make(turns: Turns) -> Made:
        bench = Bench(dict(start), turns, homes, seen)
        return await actors(bench), bench.check

    return make


__all__ = ["LOST", "PREFIX", "Bench", "NoSuchCheckpoint", "begun", "prepare", "world"]


def explore(found: Explorer, *, runs_min: int) -> None:
    """Go through all orders. A loss names the order that led to it."""
    try:
        found.explore()
    except (AssertionError, StorageError) as exc:
        exc.add_note("\n".join(" ".join(turn) for turn in found.order))
        raise
    assert found.runs > runs_min, "machines that never meet prove nothing"

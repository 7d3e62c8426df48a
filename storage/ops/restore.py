"""Restores a checkpoint into a folder of its own.

The plan comes first (`restore_plan.py`); then folders, links and empty files; then the files, tier by tier,
with a word when the first tier is there. `lanes.py` writes them. A restore that was cut off may be taken up:
what is whole stays (`draft.py`).

What needs a damaged object is left out and named, and the rest is given, unless the restore must be whole: a
folder that becomes somebody's home must be, for what it lacks would be saved as deleted.

A restore that makes the home of a desktop leaves what it knows to the stat cache: files that it wrote itself
and looked at through the descriptor it wrote them with need not be read again by the first checkpoint.

Source: storage.md 4.6.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from storage.errors import RestoreError, TargetNotEmpty
from storage.format.limits import MIB
from storage.ops.draft import Draft, empty_draft, resumable_draft, write_out
from storage.ops.folder_record import NOWHERE, Blobs, entry_from
from storage.ops.lanes import File, Lanes
from storage.ops.restore_plan import Plan, Planner, tiers
from storage.ops.seeding import Seeding
from storage.ops.stat_cache import VOUCHED_NS, ByFolder, Remembered, StatCache, facts_of
from storage.ops.values import BadPath, LeftOut, Progress, RestoreReport
from storage.repository.index import Places
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.repository.threads import Stop, Threads
from storage.scan.entry import ExtractReport, Kind, RestoreFacts, RestorePolicy, StatFacts
from storage.scan.extract import Extractor, require_space
from storage.scan.seed import open_seed
from storage.scan.settled import keeps_fine_times

TICK_WAIT_S: Final = 0.002
TICKS_MAX: Final = 50
NAMED_MAX: Final = 1_000
PROGRESS_EVERY_ENTRIES: Final = 512
PROGRESS_EVERY_BYTES: Final = 4 * MIB
"""A word of progress wakes the event loop, which takes the interpreter's lock from whoever writes."""
PROGRESS_EVERY_S: Final = 5.0
"""Silence is taken for a hang, so little that comes slowly is told too."""
CLOCK_REALTIME_COARSE: Final = 5
"""The clock that the kernel stamps files with; Python has no name for it."""


NO_FACTS: Final = RestoreFacts(mode=0, uid=None, gid=None, mtime_s=0, mtime_ns=0)


class Restore:
    """One restore. Used once."""

    def __init__(
        self,
        *,
        reader: Reader,
        places: Places,
        row: Row,
        threads: Threads,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None],
        becomes_home: bool = False,
        resumable: bool = False,
        must_be_whole: bool = False,
        path: bytes = b"",
        seed: Path | None = None,
        blobs: Blobs = NOWHERE,
    ) -> None:
        assert not (path and (becomes_home or resumable)), "a part of a home is not made into one"
        assert must_be_whole or not becomes_home, "what a home lacks would be saved as deleted"
        assert row.checkpoint is not None
        self._reader = reader
        self._places = places
        self._row = row
        self._checkpoint = row.checkpoint
        self._threads = threads
        self._owner = owner
        self._progress = progress
        self._stop = Stop()
        self._written = 0
        self._told, self._told_s = 0, time.monotonic()
        self._met = 0
        self._becomes_home = becomes_home
        self._resumable = resumable
        self._must_be_whole = must_be_whole
        self._path = path
        self._seed = seed
        self._blobs = blobs
        self._lanes: Lanes | None = None
        self.cache: StatCache | None = None
        """What the first checkpoint of this home need not read; made by `run` where it is certain."""

    async def run(self, into: Path) -> RestoreReport:
        """Make everything below `into`, which is an empty folder, does not exist, or is to be taken up.

        A failed restore leaves a partial folder that is the caller's to drop, or to try again if resumable.
        So does an incomplete one that is resumable: it may be completed once the objects are back.
        """
        with self._draft(into) as draft:
            plan = await self._plan().run(self._met_one)
            if draft.resumed and plan.folders_lost:
                # Half a file may stand there of which the name cannot be read any more.
                raise TargetNotEmpty(path=os.fspath(into), what="a folder of it cannot be read any more")
            if not draft.resumed:
                require_space(draft.fd, bytes_needed=plan.bytes, entries_needed=plan.entries_made)
            try:
                report = await self._make(draft, plan)
            except RestoreError as exc:
                if not draft.resumed or exc.retryable:
                    raise
                raise TargetNotEmpty(path=os.fspath(into), what="it could not be taken up") from exc
            draft.to_be_continued = bool(plan.left_out)
        plan.differences += [BadPath(path=path, grade=what) for path, what in report.differences]
        assert self._lanes is not None, "it has written"
        return RestoreReport(
            seq=self._row.seq,
            entries=report.entries,
            bytes=report.content_bytes,
            not_made=tuple(plan.not_made[:NAMED_MAX]),
            differences=tuple(plan.differences[:NAMED_MAX]),
            resumed=draft.resumed,
            seeded_bytes=self._lanes.seeded_bytes,
            fetched_bytes=self._lanes.fetched_bytes,
            left_out=tuple(sorted(plan.left_out.values(), key=_path_of)[:NAMED_MAX]),
            left_out_count=len(plan.left_out),
        )

    def _plan(self) -> Planner:
        return Planner(
            self._reader,
            self._places,
            self._row,
            keep_entries=self._becomes_home,
            path=self._path,
            must_be_whole=self._must_be_whole,
        )

    def _draft(self, into: Path) -> AbstractContextManager[Draft]:
        if not self._resumable:
            return empty_draft(into)
        return resumable_draft(into, (self._row.seq, self._row.hash, self._owner, self._becomes_home))

    async def _make(self, draft: Draft, plan: Plan) -> ExtractReport:
        extractor = Extractor(
            draft.fd, self._policy(plan), remember=self._becomes_home, resumed=draft.resumed
        )
        try:
            await self._threads.run(self._stop, self._make_frames, extractor, plan)
            if draft.resumed:
                await self._threads.run(self._stop, self._keep_whole, extractor, plan)
            await self._write_files(extractor, plan)
            report = await self._threads.run(self._stop, self._finish, extractor, plan)
            if self._becomes_home:
                await self._threads.run(self._stop, write_out, draft)
                self.cache = await self._remembered(os.fstat(draft.fd).st_dev, extractor.made, plan)
            return report
        finally:
            extractor.close()

    def _policy(self, plan: Plan) -> RestorePolicy:
        """Return the limits of this restore: what was planned, which was compared with what was announced."""
        return RestorePolicy(
            owner=self._owner,
            captured=self._checkpoint.owner,
            entries_max=plan.entries_made + len(plan.lists_lost),  # some of these may stand there, whole
            bytes_max=plan.bytes + sum(facts.size for _, facts in plan.lists_lost),
        )

    def _make_frames(self, extractor: Extractor, plan: Plan) -> None:
        for path, kind, target, facts in plan.made:
            self._stop.check()
            self._met_one()
            if kind == Kind.FOLDER:
                extractor.folder(path, facts)
            elif kind == Kind.SYMLINK:
                extractor.symlink(path, target, facts)
            elif kind == Kind.FIFO:
                extractor.fifo(path, facts)
            elif not (extractor.resumed and extractor.is_whole(path, facts)):
                extractor.file(path, facts).close()

    def _keep_whole(self, extractor: Extractor, plan: Plan) -> None:
        """Leave out what the restore that is taken up has finished."""
        left: list[File] = []
        linked = Counter(first for _, first in plan.links)
        for file in plan.files:
            self._stop.check()
            self._met_one()
            if extractor.is_whole(file.path, file.facts, names_max=1 + linked[file.path]):
                self._written += file.facts.size
            else:
                left.append(file)
        plan.files = left
        for path, facts in plan.lists_lost:
            if extractor.is_whole(path, facts, names_max=1 + linked[path]):
                del plan.left_out[path]  # it was made when its lists could be read
            else:
                extractor.take_back(path, facts, inode=None)

    async def _write_files(self, extractor: Extractor, plan: Plan) -> None:
        """Write tier by tier, and say when a desktop could start."""
        first, others = tiers(plan.files)
        plan.files = []
        lost_before = len(plan.left_out)
        with self._open_lanes(extractor, plan) as lanes:
            await lanes.write(first)
            if len(plan.left_out) == lost_before:
                self._progress(Progress(stage="usable", done=self._written, total=None, unit="bytes"))
            await lanes.write(others)
            self._tell()
            if lanes.seeded_bytes:
                self._progress(Progress(stage="seeded", done=lanes.seeded_bytes, unit="bytes"))

    @contextmanager
    def _open_lanes(self, extractor: Extractor, plan: Plan) -> Iterator[Lanes]:
        """Open the seed, if there is one, and what writes."""
        seed_fd = None if self._seed is None else open_seed(self._seed)
        beneath = self._path.rpartition(b"/")[0]
        try:
            seed = None
            if seed_fd is not None:
                seed = partial(Seeding, seed_fd, beneath, self._reader.is_data_chunk)
            self._lanes = Lanes(
                extractor,
                self._reader,
                self._places,
                self._threads,
                self._stop,
                written=self._count_written,
                seed=seed,
                lost=None if self._must_be_whole else plan.leave_out,
            )
            with closing(self._lanes):
                yield self._lanes
        finally:
            if seed_fd is not None:
                os.close(seed_fd)

    def _count_written(self, count: int) -> None:
        self._written += count  # a count that two threads lose between them only makes a bar shorter
        much = self._written - self._told >= PROGRESS_EVERY_BYTES
        if much or time.monotonic() - self._told_s >= PROGRESS_EVERY_S:
            self._told, self._told_s = self._written, time.monotonic()
            self._tell()

    def _met_one(self) -> None:
        self._met += 1
        if self._met % PROGRESS_EVERY_ENTRIES == 0:
            self._tell()

    def _tell(self) -> None:
        total = self._checkpoint.totals.size if not self._path else None
        self._progress(Progress(stage="restore", done=self._written, total=total, unit="bytes"))

    def _finish(self, extractor: Extractor, plan: Plan) -> ExtractReport:
        for path, first in plan.links:
            lost = plan.left_out.get(first)
            if lost is None:
                extractor.hardlink(path, first)
            else:
                plan.left_out[path] = replace(lost, path=path)
                extractor.take_back(path, NO_FACTS, inode=None)
        return extractor.finish(root=not (plan.left_out and self._resumable))

    async def _remembered(self, device: int, made: dict[bytes, bytes], plan: Plan) -> StatCache | None:
        """Return a stat cache of the files that were written, or None where it would prove nothing.

        Whoever gets this home may write at once. That such a write moves ctime must be certain: the file
        system is one that keeps fine times, and its clock has gone on since the last file was made.
        """
        newest_ns, coarse = 0, True
        for packed in made.values():
            changed_ns = StatFacts.unpacked(packed).ctime_ns
            newest_ns, coarse = max(newest_ns, changed_ns), coarse and changed_ns % 1_000_000_000 == 0
        if coarse or not keeps_fine_times(device) or not await _clock_is_past(newest_ns):
            return None
        root = Remembered(None, self._checkpoint.root)
        cache = StatCache(
            seq=self._row.seq, hash_=self._row.hash, device=device, root=root, blobs=self._blobs
        )
        folders = ByFolder(cache)
        for path, raw in plan.entries.items():
            found = made.get(path)
            facts = None if found is None else facts_of(StatFacts.unpacked(found))
            read_ns = 0 if found is None else VOUCHED_NS
            folders.take(path, Remembered(facts, entry_from(raw), read_ns))
        folders.end()
        return cache


def _path_of(one: LeftOut) -> bytes:
    return one.path


async def _clock_is_past(newest_ns: int) -> bool:
    """Wait until a write would get a later time than `newest_ns`: a tick of the kernel's clock, some ms."""
    for _ in range(TICKS_MAX):
        if time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > newest_ns:
            return True
        await asyncio.sleep(TICK_WAIT_S)
    return False

"""Restores a checkpoint into a fresh folder.

The plan comes first: every entry of the tree, counted against what the checkpoint announced. Then folders,
links and empty files; then what a desktop reads when it starts (configuration and profiles); then all other
files up to 1 MiB, which are almost all of a home; then the rest. `lanes.py` writes the files. What cannot be
made (sockets, devices, unreadable entries, unknown types) is reported.

A restore that makes the home of a desktop leaves what it knows to the stat cache: files that it wrote itself
and looked at through the descriptor it wrote them with need not be read again by the first checkpoint.

Source: storage.md 4.6.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storage.errors import TargetNotEmpty
from storage.format import tree
from storage.format.extras import Extras, GradeTag
from storage.format.keys import BoxKind
from storage.format.limits import MIB
from storage.format.table import read_chunk_refs
from storage.format.tree import Entry
from storage.ops.lanes import File, Lanes
from storage.ops.stat_cache import VOUCHED_NS, Remembered, StatCache, facts_of
from storage.ops.values import BadPath, Progress, RestoreReport
from storage.repository.index import ChunkIndex
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.repository.threads import Stop, Threads
from storage.repository.verify import walk_tree
from storage.scan.entry import Attributes, ExtractReport, Kind, RestoreFacts, RestorePolicy, StatFacts
from storage.scan.extract import Extractor, require_space
from storage.scan.settled import keeps_fine_times

SMALL_FILE_BYTES: Final = 1 * MIB
PROFILE_FILE_BYTES: Final = 32 * MIB
"""Databases of profiles up to this come with the first files."""
PROFILE_SUFFIXES: Final = (b".sqlite", b".db")
LATER_FOLDERS: Final = (b".cache/",)
TICK_WAIT_S: Final = 0.002
TICKS_MAX: Final = 50
NAMED_MAX: Final = 1_000
PROGRESS_EVERY_ENTRIES: Final = 512
CLOCK_REALTIME_COARSE: Final = 5
"""The clock that the kernel stamps files with; Python has no name for it."""


@dataclass(slots=True)
class _Plan:
    made: list[tuple[bytes, Entry, RestoreFacts]] = field(default_factory=list)
    """Folders, links, fifos and empty files, in the order of the tree."""
    files: list[File] = field(default_factory=list)
    entries: dict[bytes, Entry] = field(default_factory=dict)
    """All of them, for the stat cache; empty unless one is wanted."""
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    not_made: list[BadPath] = field(default_factory=list)
    differences: list[BadPath] = field(default_factory=list)
    groups: dict[bytes, tuple[bytes, Entry]] = field(default_factory=dict)


class Restore:
    """One restore. Used once."""

    def __init__(
        self,
        *,
        reader: Reader,
        index: ChunkIndex,
        row: Row,
        threads: Threads,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None],
        becomes_home: bool = False,
    ) -> None:
        assert row.checkpoint is not None
        self._reader = reader
        self._index = index
        self._row = row
        self._checkpoint = row.checkpoint
        self._threads = threads
        self._owner = owner
        self._progress = progress
        self._stop = Stop()
        self._written = 0
        self._met = 0
        self._becomes_home = becomes_home
        self.cache: StatCache | None = None
        """What the first checkpoint of this home need not read; made by `run` where it is certain."""

    async def run(self, into: Path) -> RestoreReport:
        """Make everything below `into`, which must be an empty folder or not exist.

        A failed restore leaves a partial folder that is the caller's to drop.
        """
        plan = await self._plan()
        root_fd = await self._threads.run(self._stop, _empty_folder, into)
        extractor: Extractor | None = None
        try:
            require_space(
                root_fd,
                bytes_needed=self._checkpoint.totals.size,
                entries_needed=self._checkpoint.totals.entries,
            )
            extractor = Extractor(root_fd, self._policy(), remember=self._becomes_home)
            await self._threads.run(self._stop, self._make_frames, extractor, plan)
            await self._write_files(extractor, plan)
            report = await self._threads.run(self._stop, self._finish, extractor, plan)
            if self._becomes_home:
                self.cache = await self._remembered(os.fstat(root_fd).st_dev, extractor.made, plan)
        finally:
            if extractor is not None:
                extractor.close()
            os.close(root_fd)
        plan.differences += [BadPath(path=path, grade=what) for path, what in report.differences]
        return RestoreReport(
            seq=self._row.seq,
            entries=report.entries,
            bytes=report.content_bytes,
            not_made=tuple(plan.not_made[:NAMED_MAX]),
            differences=tuple(plan.differences[:NAMED_MAX]),
        )

    def _policy(self) -> RestorePolicy:
        totals = self._checkpoint.totals
        return RestorePolicy(
            owner=self._owner,
            captured=self._checkpoint.owner,
            entries_max=totals.entries + 1,
            bytes_max=totals.size,
        )

    async def _plan(self) -> _Plan:
        plan = _Plan()
        root = self._checkpoint.root
        plan.made.append((b"", root, _facts(root, tree.entry_extras(root), None)))
        async for path, entry in walk_tree(self._reader, self._index, self._row):
            self._met_one()
            if self._becomes_home:
                plan.entries[path] = entry
            await self._plan_entry(plan, path, entry)
        return plan

    async def _plan_entry(self, plan: _Plan, path: bytes, entry: Entry) -> None:
        extras = tree.entry_extras(entry)
        if extras.unknown_tags:
            plan.differences.append(BadPath(path=path, grade="unknown properties"))
        if extras.grade in (GradeTag.FUZZY, GradeTag.STALE):
            name = "fuzzy" if extras.grade == GradeTag.FUZZY else "stale"
            plan.differences.append(BadPath(path=path, grade=name))
        reason = _not_made(entry, extras)
        if reason is not None:
            plan.not_made.append(BadPath(path=path, grade=reason))
            return
        if entry.type != Kind.FILE:
            plan.made.append((path, entry, _facts(entry, extras, None)))
            return
        if extras.link_group is not None:
            first = plan.groups.setdefault(extras.link_group, (path, entry))
            if first[0] != path:
                if _same_inode(first[1], entry):
                    plan.links.append((path, first[0]))
                    return
                plan.differences.append(BadPath(path=path, grade="hard link with other content"))
        extents = extras.extents
        if extras.extents_content is not None:
            extents = await self._reader.extents(self._index, entry)
        facts = _facts(entry, extras, extents)
        if isinstance(entry.content, bytes):
            refs = read_chunk_refs(entry.content)
        else:
            refs = [ref async for ref in self._reader.refs(self._index, entry.content)]
        if not refs:
            plan.made.append((path, entry, facts))
            return
        place = self._index.place(BoxKind.DATA, refs[0][0])
        order = (place.container.name, place.segment)
        plan.files.append(File(path, facts, refs, order))

    def _make_frames(self, extractor: Extractor, plan: _Plan) -> None:
        for path, entry, facts in plan.made:
            self._stop.check()
            self._met_one()
            if entry.type == Kind.FOLDER:
                extractor.folder(path, facts)
            elif entry.type == Kind.SYMLINK:
                assert isinstance(entry.content, bytes), "checked when it was decoded"
                extractor.symlink(path, entry.content, facts)
            elif entry.type == Kind.FIFO:
                extractor.fifo(path, facts)
            else:
                extractor.file(path, facts).close()

    async def _write_files(self, extractor: Extractor, plan: _Plan) -> None:
        """Write tier by tier, and say when a desktop could start."""
        lanes = Lanes(
            extractor, self._reader, self._index, self._threads, self._stop, written=self._count_written
        )
        tiers: tuple[list[File], list[File], list[File]] = ([], [], [])
        for file in plan.files:
            tiers[_tier(file)].append(file)
        plan.files = []
        await lanes.write(tiers[0], whole=False)
        self._progress(Progress(stage="usable", done=self._written, total=None, unit="bytes"))
        await lanes.write(tiers[1], whole=False)
        await lanes.write(tiers[2], whole=True)

    def _count_written(self, count: int) -> None:
        self._written += count  # a count that two threads lose between them only makes a bar shorter
        self._tell()

    def _met_one(self) -> None:
        self._met += 1
        if self._met % PROGRESS_EVERY_ENTRIES == 0:
            self._tell()

    def _tell(self) -> None:
        total = self._checkpoint.totals.size
        self._progress(Progress(stage="restore", done=self._written, total=total, unit="bytes"))

    def _finish(self, extractor: Extractor, plan: _Plan) -> ExtractReport:
        for path, first in plan.links:
            extractor.hardlink(path, first)
        return extractor.finish()

    async def _remembered(self, device: int, made: dict[bytes, StatFacts], plan: _Plan) -> StatCache | None:
        """Return a stat cache of the files that were written, or None where it would prove nothing.

        Whoever gets this home may write at once. That such a write moves ctime must be certain: the file
        system is one that keeps fine times, and its clock has gone on since the last file was made.
        """
        newest_ns = max((facts.ctime_ns for facts in made.values()), default=0)
        coarse = all(facts.ctime_ns % 1_000_000_000 == 0 for facts in made.values())
        if coarse or not keeps_fine_times(device) or not await _clock_is_past(newest_ns):
            return None
        root = Remembered(None, self._checkpoint.root)
        cache = StatCache(seq=self._row.seq, hash_=self._row.hash, device=device, root=root)
        folders: dict[bytes, list[Remembered]] = {b"": []}
        for path, entry in plan.entries.items():
            found = made.get(path)
            facts, read_ns = (None, 0) if found is None else (facts_of(found), VOUCHED_NS)
            folders[path[: -len(entry.name) - 1]].append(Remembered(facts, entry, read_ns))
            if entry.type == Kind.FOLDER:
                folders[path] = []
        for path, items in folders.items():
            cache.put(path, items)
        return cache


async def _clock_is_past(newest_ns: int) -> bool:
    """Wait until a write would get a later time than `newest_ns`: a tick of the kernel's clock, some ms."""
    for _ in range(TICKS_MAX):
        if time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > newest_ns:
            return True
        await asyncio.sleep(TICK_WAIT_S)
    return False


def _tier(file: File) -> int:
    """Return 0 for what a desktop reads when it starts, 1 for other small files, 2 for large ones."""
    small = file.facts.size <= SMALL_FILE_BYTES
    hidden = file.path.startswith(b".") and not file.path.startswith(LATER_FOLDERS)
    profile = file.path.endswith(PROFILE_SUFFIXES) and file.facts.size <= PROFILE_FILE_BYTES
    if hidden and (small or profile):
        return 0
    return 1 if small else 2


def _empty_folder(into: Path) -> int:
    """Make or open the target; it must be an empty folder and no link to one."""
    try:
        os.mkdir(into, 0o700)
    except FileExistsError:
        pass  # it may be there, if it is empty
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(into, flags)
    except OSError as exc:
        raise TargetNotEmpty(path=os.fspath(into), errno=exc.errno) from exc
    with os.scandir(fd) as entries:
        occupied = next(entries, None) is not None
    if occupied:
        os.close(fd)
        raise TargetNotEmpty(path=os.fspath(into))
    return fd


def _not_made(entry: Entry, extras: Extras) -> str | None:
    """Return why an entry is not made, if it is not."""
    if extras.unreadable:
        return "unreadable"
    if entry.type in (Kind.SOCKET, Kind.CHAR, Kind.BLOCK):
        return "skipped"
    if entry.type > Kind.BLOCK:
        return "unknown type"
    return None


def _same_inode(a: Entry, b: Entry) -> bool:
    return (a.content, a.size, a.mode, a.mtime_s, a.mtime_ns) == (
        b.content,
        b.size,
        b.mode,
        b.mtime_s,
        b.mtime_ns,
    )


def _facts(entry: Entry, extras: Extras, extents: tuple[tuple[int, int], ...] | None) -> RestoreFacts:
    return RestoreFacts(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_s=entry.mtime_s,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        extents=extents,
        attributes=Attributes(
            xattrs=extras.xattrs,
            xattr_errors=extras.xattr_errors,
            inode_flags=extras.inode_flags,
        ),
    )

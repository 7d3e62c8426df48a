"""Restores a checkpoint into a fresh folder.

The plan comes first: every entry of the tree, counted against what the checkpoint announced. Then folders,
links and empty files; then files up to 1 MiB, which are almost all of a home; then the rest. Within a tier
files are read in the order their bytes lie, in batches: while one is written the next is fetched. Every chunk
is checked against its id before it is written. What cannot be made (sockets, devices, unreadable entries,
unknown types) is reported.

Source: storage.md 4.6.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storage.errors import TargetNotEmpty
from storage.format import tree
from storage.format.extras import Extras, GradeTag
from storage.format.keys import BoxKind
from storage.format.limits import MIB
from storage.format.tree import Entry
from storage.ops.values import BadPath, Progress, RestoreReport
from storage.repository.index import ChunkIndex
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.repository.threads import Stop, Threads
from storage.repository.together import first_failure
from storage.repository.verify import walk_tree
from storage.scan.entry import Attributes, ExtractReport, FileWriter, Kind, RestoreFacts, RestorePolicy
from storage.scan.extract import Extractor, require_space

SMALL_FILE_BYTES: Final = 1 * MIB
BATCH_BYTES: Final = 8 * MIB
"""Fetched while the batch before is written; two of them are in memory."""
NAMED_MAX: Final = 1_000

Ref = tuple[bytes, int]


@dataclass(slots=True)
class _File:
    """A file to be written, with its chunks and where its data goes."""

    path: bytes
    facts: RestoreFacts
    refs: list[Ref]
    order: tuple[str, int]
    """Container and segment of its first chunk: files are read as they lie."""


@dataclass(slots=True)
class _Piece:
    """Some neighbouring chunks of one file."""

    file: _File
    refs: list[Ref]
    start: int
    """Of the data written before; bytes without holes."""
    first: bool
    last: bool
    chunks: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    made: list[tuple[bytes, Entry, RestoreFacts]] = field(default_factory=list)
    """Folders, links, fifos and empty files, in the order of the tree."""
    files: list[_File] = field(default_factory=list)
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
        self._open: FileWriter | None = None

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
            extractor = Extractor(root_fd, self._policy())
            await self._threads.run(self._stop, self._make_frames, extractor, plan)
            small = [file for file in plan.files if file.facts.size <= SMALL_FILE_BYTES]
            large = [file for file in plan.files if file.facts.size > SMALL_FILE_BYTES]
            for tier in (small, large):
                await self._write_tier(extractor, sorted(tier, key=lambda file: file.order))
            report = await self._threads.run(self._stop, self._finish, extractor, plan)
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
        extents = await self._reader.extents(self._index, entry)
        facts = _facts(entry, extras, extents)
        refs = [ref async for ref in self._reader.refs(self._index, entry.content)]
        if not refs:
            plan.made.append((path, entry, facts))
            return
        place = self._index.place(BoxKind.DATA, refs[0][0])
        order = (place.container.name, place.segment)
        plan.files.append(_File(path, facts, refs, order))

    def _make_frames(self, extractor: Extractor, plan: _Plan) -> None:
        for path, entry, facts in plan.made:
            self._stop.check()
            if entry.type == Kind.FOLDER:
                extractor.folder(path, facts)
            elif entry.type == Kind.SYMLINK:
                assert isinstance(entry.content, bytes), "checked when it was decoded"
                extractor.symlink(path, entry.content, facts)
            elif entry.type == Kind.FIFO:
                extractor.fifo(path, facts)
            else:
                extractor.file(path, facts).close()

    async def _write_tier(self, extractor: Extractor, files: list[_File]) -> None:
        """Write files while the next batch is fetched."""
        batches = _batches(files)
        fetched: list[_Piece] = []
        for batch in [*batches, []]:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._fetch(batch), name="fetch-batch")
                    await self._threads.run(self._stop, self._write, extractor, fetched)
            except BaseExceptionGroup as failed:
                raise first_failure(failed) from failed
            fetched = batch
            self._progress(
                Progress(
                    stage="restore",
                    done=self._written,
                    total=self._checkpoint.totals.size,
                    unit="bytes",
                )
            )

    async def _fetch(self, batch: list[_Piece]) -> None:
        places = [self._index.place(BoxKind.DATA, chunk_id) for piece in batch for chunk_id, _ in piece.refs]
        wanted = {
            (place.container.name, place.segment): (
                place.container,
                place.container.segments[place.segment],
            )
            for place in places
        }
        await self._reader.prefetch(wanted.values())
        for piece in batch:
            for chunk_id, length in piece.refs:
                chunk = await self._reader.chunk(self._index, BoxKind.DATA, chunk_id)
                assert len(chunk) == length, "the index has the lengths of the tables"
                piece.chunks.append(chunk)

    def _write(self, extractor: Extractor, batch: list[_Piece]) -> None:
        for piece in batch:
            self._stop.check()
            if piece.first:
                self._open = extractor.file(piece.file.path, piece.file.facts)
            assert self._open is not None, "a file's first piece comes first"
            data = b"".join(piece.chunks)
            piece.chunks.clear()
            for offset, part in _at_extents(piece.file.facts, piece.start, data):
                self._open.write(offset, part)
            self._written += len(data)
            if piece.last:
                self._open.close()
                self._open = None

    def _finish(self, extractor: Extractor, plan: _Plan) -> ExtractReport:
        for path, first in plan.links:
            extractor.hardlink(path, first)
        return extractor.finish()


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


def _batches(files: list[_File]) -> list[list[_Piece]]:
    """Cut files into batches of about 8 MiB; a large file is cut into several pieces."""
    batches: list[list[_Piece]] = []
    size = BATCH_BYTES
    for file in files:
        at = start = 0
        while at < len(file.refs):
            if size >= BATCH_BYTES:
                batches.append([])
                size = 0
            first = at
            taken = 0
            while at < len(file.refs) and size + taken < BATCH_BYTES:
                taken += file.refs[at][1]
                at += 1
            piece = _Piece(file, file.refs[first:at], start, first == 0, at == len(file.refs))
            batches[-1].append(piece)
            start += taken
            size += taken
    return batches


def _at_extents(facts: RestoreFacts, start: int, data: bytes) -> list[tuple[int, bytes]]:
    """Return (file offset, bytes) of data that begins `start` bytes into the file's data."""
    if facts.extents is None:
        return [(start, data)]
    parts: list[tuple[int, bytes]] = []
    before = 0
    for offset, length in facts.extents:
        low, high = max(start, before), min(start + len(data), before + length)
        if low < high:
            parts.append((offset + low - before, data[low - start : high - start]))
        before += length
    return parts

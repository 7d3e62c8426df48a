"""Looks into a checkpoint without restoring it: the list of checkpoints, folders, files."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from storage.errors import HostileTree, LimitReached, PathMissing
from storage.format import tree
from storage.format.entries import CheckpointFlag
from storage.format.extras import GradeTag
from storage.format.keys import BoxKind
from storage.format.limits import DEPTH_FOLDERS_MAX, KIB
from storage.format.tree import Entry
from storage.ops.values import BadPath, CheckpointInfo, EntryInfo, FolderPage
from storage.repository.damage import Damage
from storage.repository.index import Places
from storage.repository.reader import OnLost, Reader
from storage.repository.state import Row
from storage.repository.verify import announced
from storage.scan.entry import Kind
from storage.scan.walk import PATH_BYTES_MAX

FOLDER_PAGE_ENTRIES_MAX: Final = 1_000
"""Entries of one page of a folder: some four nodes, and below a MiB in every message on the way."""
ZEROS: Final = bytes(256 * KIB)
GRADES: Final = {
    0: "skipped",
    int(GradeTag.FUZZY): "fuzzy",
    int(GradeTag.STALE): "stale",
    int(GradeTag.UNREADABLE): "unreadable",
}
KINDS: Final = {
    int(Kind.FILE): "file",
    int(Kind.FOLDER): "folder",
    int(Kind.SYMLINK): "link",
    int(Kind.FIFO): "fifo",
    int(Kind.SOCKET): "socket",
    int(Kind.CHAR): "device",
    int(Kind.BLOCK): "device",
}


def checkpoint_info(row: Row) -> CheckpointInfo:
    """Return a checkpoint as it is listed."""
    checkpoint = row.checkpoint
    assert checkpoint is not None
    report = checkpoint.report
    return CheckpointInfo(
        seq=row.seq,
        hash=row.hash,
        fence=row.fence,
        session=checkpoint.session,
        parent=checkpoint.parent,
        tree_hash=tree.node_ref(checkpoint.root)[0],
        scan_ms=checkpoint.scan_ms,
        time_ms=row.time_ms,
        reason=checkpoint.reason,
        complete=row.has(CheckpointFlag.COMPLETE),
        final=row.has(CheckpointFlag.FINAL),
        first_of_close=row.has(CheckpointFlag.FIRST_OF_CLOSE),
        frozen=row.has(CheckpointFlag.FROZEN),
        owner=checkpoint.owner,
        entries=checkpoint.totals.entries,
        folders=checkpoint.totals.folders,
        bytes=checkpoint.totals.size,
        new_stored_bytes=checkpoint.totals.stored,
        skipped=report.skipped,
        fuzzy=report.fuzzy,
        stale=report.stale,
        unreadable=report.unreadable,
        bad_paths=tuple(
            BadPath(
                path=one.path,
                grade=GRADES.get(one.grade, "unknown"),
                error=f"errno {one.errno}" if one.errno else "",
            )
            for one in report.paths
        ),
    )


def entry_info(entry: Entry) -> EntryInfo:
    """Return an entry as it is shown."""
    extras = tree.entry_extras(entry)
    target = entry.content if entry.type == Kind.SYMLINK else b""
    return EntryInfo(
        name=entry.name,
        kind=KINDS.get(entry.type, "unknown"),
        size=entry.size,
        mode=entry.mode,
        mtime_ms=entry.mtime_s * 1000 + entry.mtime_ns // 1_000_000,
        grade=GRADES.get(extras.grade, "unknown") if extras.grade is not None else "",
        link_target=target if isinstance(target, bytes) else b"",
        hard_link=extras.link_group is not None,
    )


class Browser:
    """Finds paths in one checkpoint."""

    def __init__(self, reader: Reader, index: Places, row: Row) -> None:
        assert row.checkpoint is not None
        self._reader = reader
        self._index = index
        self._row = row
        self._root = row.checkpoint.root

    async def find(self, path: bytes) -> Entry:
        """Return the entry at a path; the empty path is the home itself. Links are not followed."""
        entry = self._root
        for name in path.split(b"/") if path else ():
            entry = await self._child(entry, name, path)
        return entry

    async def _child(self, folder: Entry, name: bytes, path: bytes) -> Entry:
        if folder.type == Kind.FOLDER and name:
            async with aclosing(self.entries(folder, start=name)) as entries:
                async for entry in entries:
                    if entry.name == name:
                        return entry
                    break
        raise PathMissing(path=path)

    async def entries(
        self, folder: Entry, *, start: bytes = b"", lost: OnLost | None = None
    ) -> AsyncGenerator[Entry, None]:
        """Yield what is in a folder, from a name on; nothing if it could not be listed when it was saved."""
        if folder.type != Kind.FOLDER:
            raise PathMissing(path=folder.name, what="not a folder")
        if folder.content is None:
            return
        async for entry in self._reader.folder(self._index, tree.node_ref(folder), start=start, lost=lost):
            yield entry

    async def page(self, folder: Entry, *, after: bytes, prefix: bytes, limit: int) -> FolderPage:
        """Return the next entries of a folder, ascending by the bytes of their names.

        What is read is the way to them and the nodes that hold them, however many others there are.

        Args:
            after: the last name of the page before; empty for the first one. It need not be there.
            prefix: names that begin otherwise are left out, and not read.
            limit: entries at most, 1 to `FOLDER_PAGE_ENTRIES_MAX`.
        """
        if not 1 <= limit <= FOLDER_PAGE_ENTRIES_MAX:
            raise LimitReached(limit="entries of a page", value=limit)
        start = max(after + b"\0", prefix) if after else prefix  # no name has a zero byte: the next one
        found: list[EntryInfo] = []
        async with aclosing(self.entries(folder, start=start)) as entries:
            async for entry in entries:
                if not entry.name.startswith(prefix):
                    break
                if len(found) == limit:
                    return FolderPage(entries=tuple(found), more=True)
                found.append(entry_info(entry))
        return FolderPage(entries=tuple(found), more=False)

    async def below(
        self, folder: Entry, prefix: bytes, *, lost: Callable[[bytes, Damage], None] | None = None
    ) -> AsyncIterator[tuple[bytes, Entry]]:
        """Yield (path, entry) of everything beneath a folder, a folder right before what is in it.

        One node is in memory for each folder on the way, however many entries these have.

        Args:
            lost: told each folder of which not all can be read; then the others follow. Without it the first
                damage is an error.

        Raises:
            HostileTree: there is more than the checkpoint announced, or it is nested too deeply: a few
                nodes can spell more entries than anybody could read.
        """
        totals = announced(self._row)
        opened = [(prefix, self.entries(folder, lost=lost and partial(lost, prefix)))]
        try:
            while opened:
                path, entries = opened[-1]
                entry = await anext(entries, None)
                if entry is None:
                    opened.pop()
                    continue
                totals.count(entry)
                inside = path + b"/" + entry.name if path else entry.name
                yield inside, entry
                if entry.type == Kind.FOLDER:
                    if len(opened) > DEPTH_FOLDERS_MAX:
                        raise HostileTree(path=inside[:PATH_BYTES_MAX], rule="depth")
                    told = lost and partial(lost, inside)
                    opened.append((inside, self.entries(entry, lost=told)))
        finally:
            for _, entries in reversed(opened):
                await entries.aclose()

    async def data(self, entry: Entry) -> AsyncIterator[bytes]:
        """Yield the bytes of a file, holes as zeros."""
        if entry.type != Kind.FILE:
            raise PathMissing(path=entry.name, what="not a file")
        if tree.entry_extras(entry).unreadable:
            raise PathMissing(path=entry.name, what="unreadable when it was saved")
        extents = await self._reader.extents(self._index, entry)
        at = 0
        left = list(extents) if extents is not None else [(0, entry.size)]
        async for chunk_id, _ in self._reader.refs(self._index, entry.content):
            chunk = await self._reader.chunk(self._index, BoxKind.DATA, chunk_id)
            while chunk:
                offset, length = left[0]
                for zeros in _zeros(offset - at):
                    yield zeros
                part, chunk = chunk[:length], chunk[length:]
                yield part
                at = offset + len(part)
                left[0] = (at, length - len(part))
                if not left[0][1]:
                    left.pop(0)
        for zeros in _zeros(entry.size - at):
            yield zeros


def _zeros(count: int) -> list[bytes]:
    whole, rest = divmod(max(count, 0), len(ZEROS))
    return [ZEROS] * whole + ([ZEROS[:rest]] if rest else [])

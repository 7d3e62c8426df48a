"""One scan of a home: walk it, read what changed, and write its tree bottom up.

One thread walks and compares with the stat cache; batches of small files (4 MiB) and large files go to two
reader threads; the walk never waits for a file, only for a free reader. When everything is read, nodes are
written from the deepest folder up. Nothing here knows the store: chunks go to a taker, which keeps the new
ones, or none when the home is only compared.

Source: storage.md 4.2, 4.3.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from storage.errors import Cancelled, HomeMissing
from storage.format.extras import LINK_GROUP_BYTES, GradeTag
from storage.format.keys import CHUNK_ID_BYTES, BoxKind
from storage.format.limits import MIB
from storage.format.table import CHUNK_BYTES
from storage.format.tree import Entry, entry_extras
from storage.ops import stat_cache
from storage.ops.content import FileContent
from storage.ops.entry_maker import EntryMaker, renamed, with_link_group
from storage.ops.stat_cache import Remembered, StatCache, facts_of
from storage.ops.values import Progress
from storage.repository.packer import ChunkTaker
from storage.repository.threads import Stop, Threads
from storage.repository.tree_writer import write_content, write_folder
from storage.scan.attributes import attributes, attributes_at
from storage.scan.entry import Attributes, Found, Grade, Kind, StatFacts
from storage.scan.read import read_stable
from storage.scan.settled import settled_after_ns
from storage.scan.walk import walk

BATCH_BYTES: Final = 4 * MIB
BATCH_FILES: Final = 256
BATCHES_WAITING_MAX: Final = 6
"""Batches under way or waiting; each holds one descriptor per folder in it."""
BATCH_FOLDERS: Final = 32
PROGRESS_EVERY_ENTRIES: Final = 512
PROGRESS_EVERY_PIECES: Final = 16
"""Pieces of 4 MiB and small files that are read, of which nothing may be new."""
SKIPPED_KINDS: Final = frozenset({Kind.SOCKET, Kind.CHAR, Kind.BLOCK})
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Known = Callable[[BoxKind, bytes], bool]


@dataclass(slots=True)
class _Item:
    """One entry of a folder while it is made. `entry` stays None if it vanished."""

    name: bytes
    path: bytes
    facts: StatFacts
    entry: Entry | None = None
    clean: bool = False
    """May be remembered with its stat facts."""
    read_ns: int | None = None
    """When it was read, if by an earlier scan."""
    twin: "_Item | None" = None
    """Another name of the same inode, which is read for both."""
    folder: "_Folder | None" = None
    stale_below: bool = False


@dataclass(slots=True)
class _Folder:
    path: bytes
    facts: StatFacts
    attributes: Attributes
    remembered: dict[bytes, Remembered]
    items: list[_Item] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """Files to be read by one reader, with descriptors of their folders."""

    files: list[tuple[int, _Item, Remembered | None]] = field(default_factory=list)
    folders: list[int] = field(default_factory=list)
    last_folder: _Folder | None = None
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One path of the report. grade 0 is skipped by type."""

    path: bytes
    grade: int
    error: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The result of a scan."""

    root: Entry
    entries: int
    folders: int
    content_bytes: int
    findings: tuple[Finding, ...]
    read_files: int
    cache: StatCache
    took_s: float

    def count(self, grade: int) -> int:
        """Return how many findings have a grade."""
        return sum(finding.grade == grade for finding in self.findings)


class Gather:
    """One scan. Used once."""

    def __init__(
        self,
        *,
        taker: ChunkTaker,
        known: Known,
        seed: int,
        owner: tuple[int, int],
        cache: StatCache | None,
        threads: Threads,
        stop: Stop,
        progress: Callable[[Progress], None],
        exact: bool = False,
    ) -> None:
        """Prepare a scan.

        Args:
            exact: nothing of the home runs, and what is gathered is the last word on it.
        """
        self._exact = exact
        self._settled_ns: int | None = stat_cache.RACY_NS
        self._taker = taker
        self._known = known
        self._seed = seed
        self._maker = EntryMaker(taker, owner)
        self._cache = cache
        self._threads = threads
        self._stop = stop
        self._progress = progress
        self._folders: dict[bytes, _Folder] = {}
        self._inodes: dict[tuple[int, int], _Item] = {}
        self._linked: dict[tuple[int, int], list[_Item]] = {}
        self._findings: list[Finding] = []
        self._lock = threading.Lock()
        self._contents: list[FileContent] = []
        """Read buffers that no thread uses now."""
        self._batch = _Batch()
        self._waiting: set[Future[None]] = set()
        self._met = 0
        self._read_files = 0
        self._pieces = 0

    def run(self, root_fd: int) -> Gathered:
        """Scan the home beneath an open folder, in a thread of its own.

        Raises:
            Cancelled: the stop flag was set.
            HomeMissing, HomeMoved: the root cannot be read.
        """
        started = time.monotonic()
        start_ns = time.time_ns()
        try:
            for found in walk(root_fd, repair_rights=True, stop=self._stop.is_set):
                self._meet(found)
            self._send_batch()
            self._join(0)
        except BaseException:
            self._give_up()
            raise
        self._stop.check()
        return self._assemble(start_ns, started)

    def _meet(self, found: Found) -> None:
        self._met += 1
        if self._met % PROGRESS_EVERY_ENTRIES == 0:
            self._progress(Progress(stage="scan", done=self._met, unit="entries"))
        if not found.path:
            self._meet_root(found)
            return
        parent = self._folders[found.path[: -len(found.name) - 1]]
        item = _Item(found.name, found.path, found.facts)
        parent.items.append(item)
        known = parent.remembered.get(found.name)
        if known is not None and known.entry.type != found.kind:
            known = None
        if found.error is not None:
            self._unreadable(item, found.kind, known, found.error)
        elif found.kind is Kind.FOLDER:
            self._meet_folder(item, found, known)
        elif found.kind is Kind.FILE:
            self._meet_file(parent, item, found, known)
        else:
            self._meet_other(item, found, known)

    def _meet_root(self, found: Found) -> None:
        if found.error is not None:
            raise HomeMissing(errno=found.error)
        if self._exact:
            self._settled_ns = settled_after_ns(found.facts.device)
        told = attributes(found.folder_fd)
        remembered = self._cache.folder(b"") if self._cache is not None else {}
        self._folders[b""] = _Folder(b"", found.facts, told, remembered)

    def _meet_folder(self, item: _Item, found: Found, known: Remembered | None) -> None:
        cache = self._cache
        remembered = cache.folder(found.path) if cache is not None and known is not None else {}
        if known is not None and self._unchanged(known, found.facts):
            extras = entry_extras(known.entry)
            told = Attributes(
                xattrs=extras.xattrs,
                xattr_errors=extras.xattr_errors,
                inode_flags=extras.inode_flags,
            )
        else:
            told = _folder_attributes(found)
        item.clean = True
        item.folder = _Folder(found.path, found.facts, told, remembered)
        self._folders[found.path] = item.folder

    def _meet_file(self, parent: _Folder, item: _Item, found: Found, known: Remembered | None) -> None:
        if found.facts.links > 1:
            inode = (found.facts.device, found.facts.inode)
            self._linked.setdefault(inode, []).append(item)
            first = self._inodes.setdefault(inode, item)
            if first is not item:
                item.twin = first
                return
        if self._usable(known, found.facts):
            assert known is not None
            item.entry = self._maker.again(known.entry, found.facts)
            item.clean, item.read_ns = True, known.read_ns
            return
        self._read_later(parent, item, found, known)

    def _meet_other(self, item: _Item, found: Found, known: Remembered | None) -> None:
        """Links, fifos, sockets, devices: never opened."""
        if found.kind in SKIPPED_KINDS:
            self._find(item.path, 0, 0)
        item.clean = True
        if known is not None and self._unchanged(known, found.facts):
            item.entry = self._maker.again(known.entry, found.facts)
            return
        told = Attributes()
        if found.kind in (Kind.SYMLINK, Kind.FIFO):
            told = attributes_at(found.folder_fd, found.name)
        content: bytes | tuple[int, int] | None = found.target
        if found.kind in (Kind.CHAR, Kind.BLOCK):
            content = (found.facts.major, found.facts.minor)
        item.entry = self._maker.make(item.name, found.kind, found.facts, content, attributes=told)

    def _unchanged(self, known: Remembered, found: StatFacts) -> bool:
        return self._cache is not None and self._cache.unchanged(known, found, settled_ns=self._settled_ns)

    def _usable(self, known: Remembered | None, found: StatFacts) -> bool:
        """Return whether a remembered file may stand for the one that is there."""
        if known is None or not self._unchanged(known, found):
            return False
        content = known.entry.content
        if entry_extras(known.entry).grade is not None:
            return False
        if isinstance(content, bytes):
            known_id, step = self._known, CHUNK_BYTES
            ids = (content[at : at + CHUNK_ID_BYTES] for at in range(0, len(content), step))
            return all(known_id(BoxKind.DATA, chunk_id) for chunk_id in ids)
        if content is None:
            return True
        return isinstance(content[0], bytes) and self._known(BoxKind.META, content[0])

    def _unreadable(self, item: _Item, kind: Kind, known: Remembered | None, error: int) -> None:
        """Keep the last good content where there is one; say so in any case."""
        readable_before = (
            known is not None and known.entry.content is not None and not entry_extras(known.entry).unreadable
        )
        if readable_before and known is not None and kind in (Kind.FILE, Kind.FOLDER, Kind.SYMLINK):
            item.entry = self._maker.stale(known.entry)
            item.stale_below = kind is Kind.FOLDER
            self._find(item.path, GradeTag.STALE, error)
            return
        content = (0, 0) if kind in (Kind.CHAR, Kind.BLOCK) else None
        item.entry = self._maker.make(item.name, kind, item.facts, content, grade=GradeTag.UNREADABLE)
        self._find(item.path, GradeTag.UNREADABLE, error)

    def _find(self, path: bytes, grade: int, error: int) -> None:
        with self._lock:
            self._findings.append(Finding(path=path, grade=int(grade), error=error))

    def _read_later(self, parent: _Folder, item: _Item, found: Found, known: Remembered | None) -> None:
        batch = self._batch
        if batch.last_folder is not parent:
            if len(batch.folders) == BATCH_FOLDERS:
                self._send_batch()
                batch = self._batch
            batch.folders.append(os.dup(found.folder_fd))
            batch.last_folder = parent
        batch.files.append((batch.folders[-1], item, known))
        batch.size += found.facts.size
        if batch.size >= BATCH_BYTES or len(batch.files) == BATCH_FILES:
            self._send_batch()

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.files:
            return
        self._join(BATCHES_WAITING_MAX - 1)
        self._waiting.add(self._threads.read(self._read_batch, batch))

    def _join(self, left_max: int) -> None:
        """Wait until so few batches are left, and let the first failure pass."""
        while len(self._waiting) > left_max:
            done, self._waiting = wait(self._waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._stop.check()

    def _give_up(self) -> None:
        """Let readers stop before descriptors and plans are dropped."""
        self._stop.set()
        for fd in self._batch.folders:
            os.close(fd)
        self._batch = _Batch()
        wait(self._waiting)

    def _read_batch(self, batch: _Batch) -> None:
        with self._lock:
            content = self._contents.pop() if self._contents else FileContent(self._taker, seed=self._seed)
        try:
            for folder_fd, item, known in batch.files:
                self._stop.check()
                self._read_file(folder_fd, item, known, content)
        finally:
            for fd in batch.folders:
                os.close(fd)
        with self._lock:
            self._contents.append(content)

    def _read_file(self, folder_fd: int, item: _Item, known: Remembered | None, content: FileContent) -> None:
        outcome = read_stable(
            folder_fd,
            item.name,
            item.facts,
            sink=content,
            repair_rights=True,
            stop=self._reads_on,
            pause=lambda seconds: not self._stop.wait(seconds),
        )
        if outcome.gone:
            return
        if outcome.grade is Grade.UNREADABLE:
            self._unreadable(item, Kind.FILE, known, outcome.error or errno.EIO)
            return
        refs = content.end()
        item.facts = outcome.facts
        item.entry = self._maker.make(
            item.name,
            Kind.FILE,
            outcome.facts,
            write_content(self._taker, refs),
            attributes=outcome.attributes,
            extents=outcome.extents,
            grade=outcome.grade,
        )
        item.clean = outcome.grade is None
        if outcome.grade is not None:
            self._find(item.path, int(outcome.grade), outcome.error or 0)
        with self._lock:
            self._read_files += 1

    def _reads_on(self) -> bool:
        """Return whether to stop; called at every piece that is read, by any thread."""
        self._pieces += 1  # a count that two threads lose between them only delays a word
        if self._pieces % PROGRESS_EVERY_PIECES == 0:
            self._progress(Progress(stage="scan", done=self._met, unit="entries"))
        return self._stop.is_set()

    def _assemble(self, start_ns: int, started: float) -> Gathered:
        """Write the nodes from the deepest folder up."""
        self._name_link_groups()
        root = self._folders[b""]
        made = _Totals()
        blank = Remembered(None, self._maker.make(b"", Kind.FOLDER, root.facts, (bytes(16), 0)))
        cache = StatCache(seq=0, hash_=b"", device=root.facts.device, root=blank)
        for folder in reversed(self._folders.values()):
            if folder.path:
                self._write(folder, cache, made, start_ns)
        root_entry = self._write(root, cache, made, start_ns)
        cache.root = Remembered(facts_of(root.facts), root_entry, start_ns)
        for path, items in self._stale_parts():
            cache.put(path, items)
            made.count_all([item.entry for item in items])
        return Gathered(
            root=root_entry,
            entries=made.entries,
            folders=made.folders,
            content_bytes=made.content_bytes,
            findings=tuple(sorted(self._findings, key=lambda one: (-one.grade, one.path))),
            read_files=self._read_files,
            cache=cache,
            took_s=time.monotonic() - started,
        )

    def _name_link_groups(self) -> None:
        """Give every inode with several names here a group; it is named by its first path."""
        for items in self._linked.values():
            first = self._inodes[items[0].facts.device, items[0].facts.inode]
            for item in items:
                if item.twin is not None and first.entry is not None:
                    item.entry = renamed(first.entry, item.name)
                    item.facts, item.clean, item.read_ns = first.facts, first.clean, first.read_ns
                    grade = entry_extras(first.entry).grade
                    if grade is not None:
                        self._find(item.path, grade, 0)
                elif item.twin is not None:
                    # The name that was to be read is gone, this one was there: the next scan reads it.
                    self._unreadable(item, Kind.FILE, None, errno.ESTALE)
            there = [item for item in items if item.entry is not None]
            group = None
            if len(there) > 1:
                group = blake3(min(item.path for item in there)).digest(length=LINK_GROUP_BYTES)
            for item in there:
                assert item.entry is not None
                item.entry = with_link_group(item.entry, group)

    def _write(self, folder: _Folder, cache: StatCache, made: "_Totals", start_ns: int) -> Entry:
        """Write one folder, whose subfolders are written already, and return its entry."""
        remembered: list[Remembered] = []
        for item in sorted(folder.items, key=lambda one: one.name):
            if item.folder is not None:
                item.entry = made.folder_entries.pop(item.path)
            if item.entry is not None:
                facts = facts_of(item.facts) if item.clean else None
                read_ns = start_ns if item.read_ns is None else item.read_ns
                remembered.append(Remembered(facts, item.entry, read_ns))
        entries = [one.entry for one in remembered]
        made.count_all(entries)
        cache.put(folder.path, remembered)
        ref = write_folder(self._taker, entries)
        name = folder.path.rpartition(b"/")[2]
        entry = self._maker.make(name, Kind.FOLDER, folder.facts, ref, attributes=folder.attributes)
        if folder.path:
            made.folder_entries[folder.path] = entry
        return entry

    def _stale_parts(self) -> list[tuple[bytes, list[Remembered]]]:
        """Return the remembered folders below those that cannot be listed now."""
        if self._cache is None:
            return []
        return [
            part
            for folder in self._folders.values()
            for item in folder.items
            if item.stale_below
            for part in self._cache.below(item.path)
        ]


@dataclass(slots=True)
class _Totals:
    entries: int = 0
    folders: int = 1
    """The root is one."""
    content_bytes: int = 0
    folder_entries: dict[bytes, Entry] = field(default_factory=dict)
    groups: set[bytes] = field(default_factory=set)

    def count_all(self, entries: list[Entry]) -> None:
        """Count the entries of one folder; data of a link group once."""
        self.entries += len(entries)
        for entry in entries:
            if entry.type == Kind.FOLDER:
                self.folders += 1
            elif entry.type == Kind.FILE and entry.content is not None:
                extras = entry_extras(entry) if entry.extra is not None else None
                if extras is None:
                    self.content_bytes += entry.size
                    continue
                if extras.link_group in self.groups:
                    continue
                if extras.link_group is not None:
                    self.groups.add(extras.link_group)
                self.content_bytes += extras.data_bytes(entry.size) or 0


def _folder_attributes(found: Found) -> Attributes:
    try:
        fd = os.open(found.name, _FOLDER_FLAGS, dir_fd=found.folder_fd)
    except OSError as exc:
        return Attributes(xattr_errors=((b"", exc.errno or errno.EIO),))
    try:
        return attributes(fd)
    finally:
        os.close(fd)


def ignore_progress(progress: Progress) -> None:
    """Take progress that nobody asked for."""


def open_home(path: str | os.PathLike[str]) -> int:
    """Open a home's root folder. It must be a folder itself, not a link to one."""
    try:
        return os.open(path, _FOLDER_FLAGS)
    except OSError as exc:
        raise HomeMissing(path=os.fspath(path), errno=exc.errno) from exc


__all__ = ["Cancelled", "Finding", "Gather", "Gathered", "ignore_progress", "open_home"]

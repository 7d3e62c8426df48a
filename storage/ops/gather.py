"""One scan of a home: walk it, read what changed, and write its tree bottom up.

One thread walks and compares with the stat cache; batches of small files (4 MiB) and large files go to two
reader threads; the walk never waits for a file, only for a free reader. The walk and the readers of small
files take turns (`turn.py`), and native work goes on beside them. A folder is put together
(`assemble.py`) as soon as all in it and beneath it is there; only what holds a name of an inode with several
waits for the end. Nothing here knows the store: chunks go to a taker, which keeps the new ones, or
none when the home is only compared.

What is as it was costs a look and a comparison: no value is made of it. Only what has to be looked at by
itself becomes a `Found`, and only an inode with several names is kept as more than its bytes.

Source: storage.md 4.2, 4.3.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Final

from blake3 import blake3

from storage.errors import HomeMissing, RouteLost
from storage.format.extras import LINK_GROUP_BYTES, GradeTag
from storage.format.keys import CHUNK_ID_BYTES, BoxKind
from storage.format.limits import MIB
from storage.format.table import CHUNK_BYTES
from storage.format.tree import Entry, entry_extras
from storage.ops import stat_cache
from storage.ops.assemble import Assembly, MetFolder
from storage.ops.content import FileContent
from storage.ops.entry_maker import EntryMaker, renamed, with_link_group
from storage.ops.folder_record import (
    NOWHERE,
    SKIPPED_KINDS,
    Blobs,
    FolderRecord,
    Kept,
    Remembered,
    facts_of,
    is_folder,
    is_special,
    remembered_of,
)
from storage.ops.gathered import Finding, Gathered
from storage.ops.notified import assembly_for
from storage.ops.route import NotifiedRoute
from storage.ops.stat_cache import StatCache
from storage.ops.to_read import (
    BATCH_BYTES,
    BATCH_FILES,
    BATCH_FOLDERS,
    BATCHES_WAITING_MAX,
    Batch,
    Linked,
    ToRead,
)
from storage.ops.unsettled import folders_of
from storage.ops.values import Progress
from storage.repository.packer import ChunkTaker
from storage.repository.threads import Stop, Threads
from storage.repository.tree_writer import write_content
from storage.repository.turn import Turn
from storage.scan.attributes import attributes, attributes_at
from storage.scan.descriptors import require_descriptors
from storage.scan.entry import NO_ATTRIBUTES, Attributes, Found, Grade, Kind, StatFacts
from storage.scan.read import read_stable
from storage.scan.settled import settled_after_ns
from storage.scan.walk import UNSEEN, FolderFound, walk_folders

IN_TURN_BYTES_MAX: Final = MIB
"""A larger file is read aside from the turn: nearly all of that is native work."""
SLOW_READ_S: Final = 0.000_5
"""A small file that takes longer comes from a disk, which two readers may keep busier than one."""
PROGRESS_EVERY_ENTRIES: Final = 512
PROGRESS_EVERY_PIECES: Final = 16
"""Pieces of 4 MiB and small files that are read, of which nothing may be new."""
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Known = Callable[[BoxKind, bytes], bool]


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
        turn: Turn,
        stop: Stop,
        progress: Callable[[Progress], None],
        exact: bool = False,
        route: NotifiedRoute | None = None,
        blobs: Blobs = NOWHERE,
    ) -> None:
        """Prepare a scan.

        Args:
            turn: for the threads of this scan; the taker steps aside from the same.
            blobs: where to keep what is to be remembered.
            exact: nothing of the home runs, and what is gathered is the last word on it.
            route: which folders have changed, where that is known.
        """
        self._route = route
        self._silent: set[bytes] = set()
        self._several: set[int] = set()
        """Inodes that have several names."""
        self._exact = exact
        self._settled_ns: int | None = stat_cache.RACY_NS
        self._taker = taker
        self._known = known
        self._seed = seed
        self._owner = owner
        self._maker = EntryMaker(taker, owner)
        self._cache = cache
        self._start_ns = 0
        self._threads = threads
        self._turn = turn
        self._slow = False
        """Whether the file that was read last kept its reader waiting for a disk."""
        self._stop = stop
        self._progress = progress
        self._blobs = blobs
        self._assembly: Assembly | None = None
        self._above: dict[bytes, MetFolder] = {}
        """The folders on the way to where the walk stands, by their paths."""
        self._stale: list[bytes] = []
        """Folders that cannot be listed and stand as they were last seen."""
        self._inodes: dict[tuple[int, int], Linked] = {}
        self._linked: dict[tuple[int, int], list[Linked]] = {}
        self._findings: list[Finding] = []
        self._lock = threading.Lock()
        self._contents: list[FileContent] = []
        """Read buffers that no thread uses now."""
        self._batch = Batch()
        self._waiting: set[Future[Batch]] = set()
        self._seen = 0
        self._told = 0
        self._read_files = 0
        self._pieces = 0

    def run(self, root_fd: int) -> Gathered:
        """Scan the home beneath an open folder, in a thread of its own.

        Raises:
            Cancelled: the stop flag was set.
            HomeMissing, HomeMoved: the root cannot be read.
            RouteLost: what changed cannot be told from what else is there; scan without a route.
        """
        started = time.monotonic()
        self._start_ns = time.time_ns()
        try:
            with self._turn:
                root = self._walk(root_fd)
        except BaseException:
            self._give_up()
            raise
        self._stop.check()
        return self._assemble(root, started)

    def _walk(self, root_fd: int) -> MetFolder:
        """Meet everything, have it read, and return the root, for which nothing else is awaited."""
        for step in walk_folders(root_fd, repair_rights=True, stop=self._stop.is_set, route=self._route):
            if isinstance(step, FolderFound):
                self._meet_folder(step)
            elif step.passed:
                self._parent_of(step).passed.add(step.name)
            else:
                self._meet(self._parent_of(step), step)
        self._send_batch()
        self._join(0)
        return self._leave_above()

    def _tell(self, seen: int) -> None:
        self._seen += seen
        if self._seen - self._told >= PROGRESS_EVERY_ENTRIES:
            self._told = self._seen
            self._progress(Progress(stage="scan", done=self._seen, unit="entries"))

    def _parent_of(self, found: Found | FolderFound) -> MetFolder:
        return self._above[found.path[: -len(found.name) - 1]]

    def _meet_folder(self, found: FolderFound) -> None:
        """Take in a folder and look at its entries, but for its subfolders, which come by themselves."""
        self._tell(1)
        if not found.path:
            folder = self._root(found)
        else:
            parent = self._parent_of(found)
            if found.error is not None:
                if not parent.listed:
                    raise RouteLost(path=found.path, errno=found.error)
                self._unreadable(parent, found.name, Kind.FOLDER, found.facts, found.error)
                return
            folder = self._subfolder(parent, found)
            parent.awaited += 1
        while self._above and not _is_above(next(reversed(self._above)), folder.path):
            self._come(self._above.popitem()[1])
        self._above[folder.path] = folder
        settled_ns = self._settled_ns
        folder.listed = self._route is None or self._route.lists(folder.path)
        if folder.record is not None:
            folder.stands = self._stands(folder.record)
            if folder.stands and folder.listed and settled_ns is not None:
                folder.kept = Kept(folder.record)
        for other in found.others(folder.kept or UNSEEN, settled_ns or 0):
            self._meet(folder, other)
        if not folder.listed and not folder.stands:
            raise RouteLost(path=folder.path, what="nothing is remembered")
        self._tell(folder.kept.count if folder.kept is not None else 0)

    def _come(self, folder: MetFolder) -> None:
        """Something has come that a folder has awaited; write it if that was the last. By the walk only."""
        assert self._assembly is not None
        at: MetFolder | None = folder
        while at is not None:
            at.awaited -= 1
            if at.awaited:
                return
            self._assembly.write(at)
            at = at.parent

    def _leave_above(self) -> MetFolder:
        """Leave the way to where the walk ended; return its beginning."""
        while True:
            _, folder = self._above.popitem()
            if not self._above:
                return folder
            self._come(folder)

    def _root(self, found: FolderFound) -> MetFolder:
        if found.error is not None:
            raise HomeMissing(errno=found.error)
        if self._exact:
            self._settled_ns = settled_after_ns(found.facts.device)
        record = self._cache.record(b"") if self._cache is not None else None
        root = MetFolder(path=b"", facts=found.facts, attributes=attributes(found.fd), record=record)
        self._assembly = assembly_for(
            self._route,
            self._cache,
            taker=self._taker,
            maker=self._maker,
            owner=self._owner,
            start_ns=self._start_ns,
            blobs=self._blobs,
        )
        self._assembly.begin(root)
        return root

    def _subfolder(self, parent: MetFolder, found: FolderFound) -> MetFolder:
        folder = MetFolder(path=found.path, facts=found.facts, attributes=None, parent=parent)
        made = parent.record.made(found.name) if parent.record is not None else None
        cache = self._cache
        if cache is None or made is None or not is_folder(made):
            folder.attributes = attributes(found.fd)
            return folder
        folder.record = cache.record(found.path)
        known = remembered_of(made)
        if not self._unchanged(known, found.facts):
            folder.attributes = attributes(found.fd)
        elif cache.owner == self._owner and not is_special(made):
            folder.known = made
        else:
            extras = entry_extras(known.entry)
            folder.attributes = Attributes(
                xattrs=extras.xattrs, xattr_errors=extras.xattr_errors, inode_flags=extras.inode_flags
            )
        return folder

    def _stands(self, record: FolderRecord) -> bool:
        """Return whether what is remembered of a folder may stand for it as it is, unread.

        Its node is stored; so is all that it names, because a node is given up only with the last checkpoint
        that holds it.
        """
        assert self._cache is not None, "a record is one of the cache"
        same_owner = self._cache.owner == self._owner
        return same_owner and record.node is not None and self._known(BoxKind.META, record.node[0])

    def _meet(self, folder: MetFolder, found: Found) -> None:
        self._tell(1)
        if found.error is not None:
            self._unreadable(folder, found.name, found.kind, found.facts, found.error)
            return
        known = folder.record.remembered(found.name) if folder.record is not None else None
        if known is not None and known.entry.type != found.kind:
            known = None
        if found.facts.links > 1:
            if self._route is not None:
                self._route.meet_linked(found.path, found.facts.inode)
            self._several.add(found.facts.inode)
            folder.unsettled = True
        if found.kind is Kind.FILE:
            self._meet_file(folder, found, known)
        else:
            self._meet_other(folder, found, known)

    def _meet_file(self, folder: MetFolder, found: Found, known: Remembered | None) -> None:
        linked: Linked | None = None
        if found.facts.links > 1:
            linked = Linked(found.name, found.path, folder, found.facts)
            folder.awaited += 1
            inode = (found.facts.device, found.facts.inode)
            self._linked.setdefault(inode, []).append(linked)
            first = self._inodes.setdefault(inode, linked)
            if first is not linked:
                linked.twin = first
                return
        if not self._usable(known, found.facts):
            changed = known is not None and known.facts not in (None, facts_of(found.facts))
            if changed and self._route is not None and self._route.is_silent(folder.path):
                self._silent.add(folder.path)
            self._read_later(folder, found, known, linked)
            return
        assert known is not None
        entry = self._maker.again(known.entry, found.facts)
        if linked is not None:
            linked.entry, linked.clean, linked.read_ns = entry, True, known.read_ns
        else:
            folder.add(entry, found.facts, known.read_ns)

    def _meet_other(self, folder: MetFolder, found: Found, known: Remembered | None) -> None:
        """Links, fifos, sockets, devices: never opened."""
        if found.kind in SKIPPED_KINDS:
            self._find(found.path, 0, 0)
        if known is not None and self._unchanged(known, found.facts):
            folder.add(self._maker.again(known.entry, found.facts), found.facts, self._start_ns)
            return
        told = NO_ATTRIBUTES
        if found.kind in (Kind.SYMLINK, Kind.FIFO):
            told = attributes_at(found.folder_fd, found.name)
        content: bytes | tuple[int, int] | None = found.target
        if found.kind in (Kind.CHAR, Kind.BLOCK):
            content = (found.facts.major, found.facts.minor)
        entry = self._maker.make(found.name, found.kind, found.facts, content, attributes=told)
        folder.add(entry, found.facts, self._start_ns)

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

    def _unreadable(self, folder: MetFolder, name: bytes, kind: Kind, facts: StatFacts, error: int) -> None:
        """Keep the last good content where there is one; say so in any case."""
        entry, grade = self._without_reading(folder, name, kind, facts)
        self._find(_join(folder.path, name), grade, error)
        if grade is GradeTag.STALE and kind is Kind.FOLDER:
            self._stale.append(_join(folder.path, name))
        folder.add(entry, None, self._start_ns)

    def _without_reading(
        self, folder: MetFolder, name: bytes, kind: Kind, facts: StatFacts
    ) -> tuple[Entry, GradeTag]:
        """Return the entry of something that cannot be read, and how good it is."""
        known = folder.record.remembered(name) if folder.record is not None else None
        if known is not None and known.entry.type == kind and kind in (Kind.FILE, Kind.FOLDER, Kind.SYMLINK):
            readable_before = known.entry.content is not None and not entry_extras(known.entry).unreadable
            if readable_before:
                return self._maker.stale(known.entry), GradeTag.STALE
        content = (0, 0) if kind in (Kind.CHAR, Kind.BLOCK) else None
        entry = self._maker.make(name, kind, facts, content, grade=GradeTag.UNREADABLE)
        return entry, GradeTag.UNREADABLE

    def _find(self, path: bytes, grade: int, error: int) -> None:
        with self._lock:
            self._findings.append(Finding(path=path, grade=int(grade), error=error))

    def _read_later(
        self, folder: MetFolder, found: Found, known: Remembered | None, linked: Linked | None
    ) -> None:
        batch = self._batch
        if batch.last_folder is not folder:
            if len(batch.folders) == BATCH_FOLDERS:
                self._send_batch()
                batch = self._batch
            batch.folders.append(os.dup(found.folder_fd))
            batch.last_folder = folder
        folder.awaited += 1
        batch.files.append(ToRead(batch.folders[-1], folder, found.name, found.facts, known, linked))
        batch.size += found.facts.size
        if batch.size >= BATCH_BYTES or len(batch.files) == BATCH_FILES:
            self._send_batch()

    def _send_batch(self) -> None:
        if not self._batch.files:
            return
        self._join(BATCHES_WAITING_MAX - 1)
        self._waiting.add(self._threads.read(self._read_batch, self._batch))
        self._batch = Batch()  # until now its descriptors were ours to close

    def _join(self, left_max: int) -> None:
        """Wait until so few batches are left, and let the first failure pass."""
        while len(self._waiting) > left_max:
            with self._turn.aside():
                done, self._waiting = wait(self._waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                for file in future.result().files:
                    self._come(file.folder)
            self._stop.check()

    def _give_up(self) -> None:
        """Let readers stop before descriptors and plans are dropped."""
        self._stop.set()
        for fd in self._batch.folders:
            os.close(fd)
        self._batch = Batch()
        wait(self._waiting)

    def _read_batch(self, batch: Batch) -> Batch:
        with self._lock:
            content = self._contents.pop() if self._contents else FileContent(self._taker, seed=self._seed)
        try:
            with self._turn:
                for file in batch.files:
                    self._stop.check()
                    if self._slow or file.facts.size > IN_TURN_BYTES_MAX:
                        with self._turn.aside():
                            self._read_file(file, content)
                    else:
                        self._read_file(file, content)
        finally:
            for fd in batch.folders:
                os.close(fd)
        with self._lock:
            self._contents.append(content)
        return batch

    def _read_file(self, file: ToRead, content: FileContent) -> None:
        began = time.perf_counter()
        outcome = read_stable(
            file.folder_fd,
            file.name,
            file.facts,
            sink=content,
            repair_rights=True,
            stop=self._reads_on,
            pause=self._pause,
        )
        self._slow = time.perf_counter() - began > SLOW_READ_S and file.facts.size <= IN_TURN_BYTES_MAX
        if outcome.gone:
            return
        if outcome.grade is Grade.UNREADABLE:
            self._could_not_read(file, outcome.error or errno.EIO)
            return
        entry = self._maker.make(
            file.name,
            Kind.FILE,
            outcome.facts,
            write_content(self._taker, content.end()),
            attributes=outcome.attributes,
            extents=outcome.extents,
            grade=outcome.grade,
        )
        clean = outcome.grade is None
        if outcome.grade is not None:
            self._find(file.path, int(outcome.grade), outcome.error or 0)
        linked = file.linked
        if linked is not None:
            linked.entry, linked.facts = entry, outcome.facts
            linked.clean, linked.read_ns = clean, self._start_ns
        else:
            file.folder.add(entry, outcome.facts if clean else None, self._start_ns)
        with self._lock:
            self._read_files += 1

    def _could_not_read(self, file: ToRead, error: int) -> None:
        linked = file.linked
        if linked is None:
            self._unreadable(file.folder, file.name, Kind.FILE, file.facts, error)
            return
        linked.entry, grade = self._without_reading(file.folder, file.name, Kind.FILE, file.facts)
        self._find(linked.path, grade, error)

    def _reads_on(self) -> bool:
        """Return whether to stop; called at every piece that is read, by any thread."""
        self._pieces += 1  # a count that two threads lose between them only delays a word
        if self._pieces % PROGRESS_EVERY_PIECES == 0:
            self._progress(Progress(stage="scan", done=self._seen, unit="entries"))
        return self._stop.is_set()

    def _pause(self, seconds: float) -> bool:
        """Wait before a file is read again; return whether to read it again."""
        with self._turn.aside():
            return not self._stop.wait(seconds)

    def _assemble(self, root: MetFolder, started: float) -> Gathered:
        """Write what waited for the end."""
        assembly = self._assembly
        assert assembly is not None
        stale = [part for path in self._stale for part in self._remembered_below(path)]
        if self._route is None or self._route.full:
            for _, record in stale:
                assembly.count_remembered(record)
        self._name_link_groups()
        self._come(root)
        made = assembly.end(root)
        for path, record in stale:
            made.cache.put_record(path, record)
        return Gathered(
            root=made.root,
            entries=made.entries,
            folders=made.folders,
            content_bytes=made.content_bytes,
            findings=tuple(sorted(self._findings, key=lambda one: (-one.grade, one.path))),
            read_files=self._read_files,
            cache=made.cache,
            took_s=time.monotonic() - started,
            again=frozenset([*assembly.again, *folders_of(one.path for one in self._findings)]),
            linked=frozenset(self._several),
            silent=frozenset(self._silent),
            stale_folders=bool(self._stale),
        )

    def _remembered_below(self, path: bytes) -> list[tuple[bytes, FolderRecord]]:
        return list(self._cache.below(path)) if self._cache is not None else []

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
                    item.entry = self._maker.make(
                        item.name, Kind.FILE, item.facts, None, grade=GradeTag.UNREADABLE
                    )
                    self._find(item.path, GradeTag.UNREADABLE, errno.ESTALE)
            there = [item for item in items if item.entry is not None]
            group = None
            if len(there) > 1:
                group = blake3(min(item.path for item in there)).digest(length=LINK_GROUP_BYTES)
            for item in there:
                assert item.entry is not None
                entry = with_link_group(item.entry, group)
                item.folder.add(entry, item.facts if item.clean else None, item.read_ns)
        for items in self._linked.values():
            for item in items:
                self._come(item.folder)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _is_above(path: bytes, below: bytes) -> bool:
    return not path or below.startswith(path + b"/")


def ignore_progress(progress: Progress) -> None:
    """Take progress that nobody asked for."""


def open_home(path: str | os.PathLike[str]) -> int:
    """Open a home's root folder. It must be a folder itself, not a link to one."""
    try:
        return os.open(path, _FOLDER_FLAGS)
    except OSError as exc:
        require_descriptors(exc)
        raise HomeMissing(path=os.fspath(path), errno=exc.errno) from exc

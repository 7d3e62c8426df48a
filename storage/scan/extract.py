"""Make files again beneath one open folder, from a checkpoint that may be hostile, and touch nothing else.

Each name is made with O_EXCL (or its like) relative to a folder that this extractor made itself, so nothing
that exists is ever opened for writing and no link is ever followed. Folders stay 0700 and ours until
everything is in them; owners, modes and times of folders come last, the deepest first. Hard links lead only
to files of this restore. Whatever fails, the harm is limited to the fresh folder that the caller gave, and
is his to remove.

A restore that was cut off is taken up by another extractor on the same folder, which nobody but us could
enter meanwhile: what stands there with its right kind, size, mode and time is whole, because times come last.

Devices and sockets are not made. Threads may share an extractor; for plain small files each has a lane of its
own (`lane.py`).
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from storage.errors import (
    DescriptorsExhausted,
    HostileTree,
    RestoreError,
    TargetFailed,
    TargetFull,
    TargetNotEmpty,
)
from storage.scan.attributes import FLAG_NOCOW
from storage.scan.dress import Wardrobe, set_nocow
from storage.scan.entry import ExtractReport, RestoreFacts, RestorePolicy
from storage.scan.open_folders import OpenFolders
from storage.scan.rights import HANDLE, READ_FOLDER
from storage.scan.walk import PATH_BYTES_MAX, facts_of

DIFFERENCES_MAX = 10_000
NAME_BYTES_MAX = 255
TARGET_BYTES_MAX = 4_095
FILE_BYTES_MAX = (1 << 63) - 1

SPARE_BYTES_PER_ENTRY = 1_024
"""Added to the contents when asking whether a target is large enough: names, inodes and rounding."""

OPEN_WHILE_MADE = 0o755
"""Of a plain file's mode these bits are there while it is filled; who may write it comes after its owner."""

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


def require_space(root_fd: int, *, bytes_needed: int, entries_needed: int) -> None:
    """Raise TargetFull unless the file system of `root_fd` has room for that much (as far as it tells)."""
    found = os.statvfs(root_fd)
    bytes_free = found.f_bavail * found.f_frsize
    bytes_wanted = bytes_needed + entries_needed * SPARE_BYTES_PER_ENTRY
    if bytes_wanted > bytes_free:
        raise TargetFull(what="bytes", wanted=bytes_wanted, free=bytes_free)
    if found.f_files and entries_needed > found.f_favail:
        raise TargetFull(what="inodes", wanted=entries_needed, free=found.f_favail)


@dataclass(frozen=True, slots=True)
class _Folder:
    facts: RestoreFacts
    identity: tuple[int, int]
    depth: int


class Extractor:
    """An `EntryExtractor`. Close it, also after an error: it holds descriptors."""

    def __init__(
        self, root_fd: int, policy: RestorePolicy, *, remember: bool = False, resumed: bool = False
    ) -> None:
        """Take an open folder, which stays the caller's to close; it is empty unless `resumed`.

        Args:
            remember: keep in `made` how each file looked through the descriptor it was written with.
            resumed: an extractor for the same checkpoint was here before and was cut off; nobody else was.
        """
        with os.scandir(root_fd) as entries:
            if not resumed and next(entries, None) is not None:
                raise TargetNotEmpty()
        self._resumed = resumed
        self._begun: set[bytes] = set()
        """Files that were not whole when a restore was taken up: to be written over."""
        self._met: set[int] = set()
        """Inodes of what stood already and is no file."""
        self._policy = policy
        self._wardrobe = Wardrobe(policy)
        self._lock = threading.RLock()
        self._root_fd = root_fd
        self._folders: dict[bytes, _Folder] = {}
        self._files: set[int] = set()
        """Inodes of the files made here: what a hard link may lead to."""
        self._writers: set[OpenFile] = set()
        self._renamed: dict[bytes, bytes] = {}
        """Path to the name it really got, where its own was taken."""
        self._open = self.open_folders()
        self._roomy: bytes | None = None
        """The folder that was asked for last, if it is one in which a file of any name may lie."""
        self._entries_max, self._bytes_max = policy.entries_max, policy.bytes_max
        self._entries = 0
        self._bytes = 0
        self._differences: list[tuple[bytes, str]] = []
        self._remember = remember
        self.made: dict[bytes, bytes] = {}
        """`StatFacts`, packed, of files, links and fifos that are exactly what they were to become; without
        those of link groups."""

    def folder(self, path: bytes, facts: RestoreFacts) -> None:
        """Make a folder; for `b""` note what the root shall become."""
        with self._lock, Target(path):
            if path == b"":
                self._folders[path] = _Folder(facts, _identity(os.fstat(self._root_fd)), 0)
                return
            parent_fd, leaf = self._place(path)
            if not self._stands(path, parent_fd, leaf, stat.S_IFDIR):
                leaf = self._make(path, leaf, lambda name: os.mkdir(name, 0o700, dir_fd=parent_fd))
            fd = _open_again(parent_fd, leaf, READ_FOLDER, kind=stat.S_IFDIR, mode=0o700)
            self._open.keep(path, fd)
            self._folders[path] = _Folder(facts, _identity(os.fstat(fd)), _depth(path))

    def file(self, path: bytes, facts: RestoreFacts) -> "OpenFile":
        """Make an empty file and return its writer. Closing the writer gives the file its size, owner and
        times.
        """
        with self._lock:
            self.count(path, _check_extents(path, facts))
            return self.counted_file(path, facts)

    def counted_file(self, path: bytes, facts: RestoreFacts) -> "OpenFile":
        """As `file`, for one that was counted."""
        with self._lock, Target(path):
            parent_fd, leaf = self._place(path, new=False)
            made: list[int] = []
            if path in self._begun:
                again = _open_again(parent_fd, leaf, _AGAIN | os.O_TRUNC, kind=stat.S_IFREG, mode=0o600)
                made.append(again)
            else:
                self._make(
                    path, leaf, lambda name: made.append(os.open(name, NEW_FILE, 0o600, dir_fd=parent_fd))
                )
            found = os.fstat(made[0])
            writer = OpenFile(self, path, made[0], facts, found.st_ino)
            self._writers.add(writer)
            self._files.add(found.st_ino)
            if (facts.attributes.inode_flags or 0) & FLAG_NOCOW and not set_nocow(made[0]):
                self._differs(path, ["flag nocow"])
            return writer

    def count(self, path: bytes, length: int) -> None:
        """Count a file before it is made. Raises HostileTree for more than was announced."""
        self._check_path(path)
        with self._lock:
            self._bytes += length
            if self._bytes > self._bytes_max:
                raise HostileTree(path=path, rule="more bytes than announced")
            self._entries += 1
            if self._entries > self._entries_max:
                raise HostileTree(path=path, rule="more entries than announced")

    def _check_path(self, path: bytes) -> None:
        """As the function, and quicker: what leads to a folder of this restore was checked with it."""
        parent, slash, leaf = path.rpartition(b"/")
        if parent != self._roomy:
            folder = self._folders.get(parent)
            short = slash and len(parent) < PATH_BYTES_MAX - NAME_BYTES_MAX
            if folder is None or not short or folder.depth >= self._policy.depth_max:
                _check_path(path, self._policy.depth_max)
                return
            self._roomy = parent
        _check_name(path, leaf)

    def plain_file(self, path: bytes, found: os.stat_result) -> None:
        """Called by a lane: a file stands with its bytes and all that it was to become."""
        self._files.add(found.st_ino)
        if self._remember and path not in self._renamed:
            self.made[path] = facts_of(found).packed()

    def is_whole(self, path: bytes, facts: RestoreFacts, *, names_max: int = 1) -> bool:
        """Return whether an earlier extractor finished this file, and count it if so; else it is begun anew.

        Asked only of a restore that is taken up, once for each file, after the folders.

        Args:
            names_max: how many names it gets, this one and those by `hardlink`.
        """
        assert self._resumed
        with self._lock, Target(path):
            _check_path(path, self._policy.depth_max)
            parent_fd, leaf = self._place(path, new=False)
            try:
                found = os.stat(leaf, dir_fd=parent_fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(found.st_mode) or found.st_ino in self._files:
                return False  # two names that are one here; it is made under another one, as at first
            if not self._wardrobe.wears(found, facts, names_max=names_max):
                self._begun.add(path)
                return False
            self.count(path, _check_extents(path, facts))
            self.plain_file(path, found)
            return True

    def take_back(self, path: bytes, facts: RestoreFacts, *, inode: int | None) -> None:
        """Remove what was written of a file that cannot be finished: half of it must not keep its name.

        Args:
            inode: of the file as it was made here; None if at most an earlier extractor has left something.
        """
        with self._lock, Target(path):
            parent_fd, leaf = self._place(path, new=False)
            try:
                found = os.stat(leaf, dir_fd=parent_fd, follow_symlinks=False)
            except FileNotFoundError:
                return
            left = inode is None and self._resumed and found.st_ino not in self._files
            if not stat.S_ISREG(found.st_mode) or not (left or found.st_ino == inode):
                return  # what stands there is another one's, if names are compared without case
            os.unlink(leaf, dir_fd=parent_fd)
            self._begun.discard(path)
            if not left:
                self._files.discard(found.st_ino)
                self._entries -= 1
                self._bytes -= _check_extents(path, facts)

    def symlink(self, path: bytes, target: bytes, facts: RestoreFacts) -> None:
        """Write a link; where it leads is nobody's business here."""
        if not 1 <= len(target) <= TARGET_BYTES_MAX or b"\0" in target:
            raise HostileTree(path=path, rule="target of a link")
        with self._lock, Target(path):
            parent_fd, leaf = self._place(path)
            stands = self._stands(path, parent_fd, leaf, stat.S_IFLNK)
            if not stands or os.readlink(leaf, dir_fd=parent_fd) != target:
                leaf = self._make(path, leaf, lambda name: os.symlink(target, name, dir_fd=parent_fd))
            self._dress_handle(path, parent_fd, leaf, stat.S_IFLNK, facts)

    def fifo(self, path: bytes, facts: RestoreFacts) -> None:
        with self._lock, Target(path):
            parent_fd, leaf = self._place(path)
            if not self._stands(path, parent_fd, leaf, stat.S_IFIFO):
                leaf = self._make(path, leaf, lambda name: os.mkfifo(name, 0o600, dir_fd=parent_fd))
            self._dress_handle(path, parent_fd, leaf, stat.S_IFIFO, facts)

    def hardlink(self, path: bytes, first: bytes) -> None:
        """Make `path` another name of `first`, a file this extractor made."""
        with self._lock, Target(path):
            first_fd, first_leaf = self._place(first, new=False)
            handle = os.open(first_leaf, HANDLE, dir_fd=first_fd)
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or found.st_ino not in self._files:
                    raise HostileTree(path=path, rule="hard link to something not restored here")
                self.made.pop(first, None)  # its ctime moves now
                parent_fd, leaf = self._place(path)
                source = f"/proc/self/fd/{handle}"
                if self._stands(path, parent_fd, leaf, stat.S_IFREG, inode=found.st_ino):
                    return
                self._make(path, leaf, lambda name: os.link(source, name, dst_dir_fd=parent_fd))
            finally:
                os.close(handle)

    def finish(self, *, root: bool = True) -> ExtractReport:
        """Dress the folders, each after those in it, the root last; nothing may be made afterwards.

        Without `root` that stays closed to everybody else, so that another extractor may go on here.
        """
        with self._lock:
            assert not self._writers, "every file is closed before the folders are finished"
            for path in sorted(self._folders, reverse=True):  # what is in a folder sorts behind it
                if not path and not root:
                    continue
                folder = self._folders[path]
                with Target(path):
                    fd = self._open.fd(path)
                    if _identity(os.fstat(fd)) != folder.identity:
                        raise HostileTree(path=path, rule="the folder was replaced during the restore")
                    self._differs(path, self._wardrobe.dress(fd, folder.facts))
            self.close()
            return ExtractReport(
                entries=self._entries, content_bytes=self._bytes, differences=tuple(self._differences)
            )

    def close(self) -> None:
        """Close every descriptor; files still being written stay as they are, unfinished."""
        with self._lock:
            for writer in list(self._writers):
                writer.abandon()
            self._open.close()

    def open_folders(self) -> OpenFolders:
        """Return the folders made here, to be held open by one more thread; it closes them."""
        return OpenFolders(self._root_fd, self._folders, self._renamed)

    @property
    def resumed(self) -> bool:
        """Return whether an extractor was here before."""
        return self._resumed

    @property
    def remembers(self) -> bool:
        """Return whether `made` is kept."""
        return self._remember

    @property
    def wardrobe(self) -> Wardrobe:
        """Return the rules of this restore."""
        return self._wardrobe

    def written(self, writer: "OpenFile", left_off: list[str], found: os.stat_result | None = None) -> None:
        """Called by a writer that is done."""
        with self._lock:
            self._writers.discard(writer)
            self._differs(writer.path, left_off)
            if found is not None:
                self._note_made(writer.path, left_off, found)

    def reopen(self, path: bytes, inode: int) -> int:
        """Called by a writer that has rested: open the very file again."""
        with self._lock, Target(path):
            parent_fd, leaf = self._place(path, new=False)
            fd = os.open(leaf, _AGAIN, dir_fd=parent_fd)
            if os.fstat(fd).st_ino != inode:
                os.close(fd)
                raise HostileTree(path=path, rule="the file was replaced during the restore")
            return fd

    def dress(self, fd: int, facts: RestoreFacts) -> list[str]:
        """Called by a writer: the rules of this restore, for one file."""
        return self._wardrobe.dress(fd, facts)

    def _dress_handle(self, path: bytes, parent_fd: int, leaf: bytes, kind: int, facts: RestoreFacts) -> None:
        handle = os.open(leaf, HANDLE, dir_fd=parent_fd)
        try:
            found = os.fstat(handle)
            ours = found.st_uid == os.geteuid() or self._resumed  # then it may be dressed already
            if stat.S_IFMT(found.st_mode) != kind or not ours:
                raise HostileTree(path=path, rule="the entry was replaced during the restore")
            left_off = self._wardrobe.dress(handle, facts, handle=True)
            self._differs(path, left_off)
            self._note_made(path, left_off, os.fstat(handle))
        finally:
            os.close(handle)

    def _note_made(self, path: bytes, left_off: list[str], found: os.stat_result) -> None:
        if self._remember and not left_off and path not in self._renamed:
            self.made[path] = facts_of(found).packed()

    def _place(self, path: bytes, *, new: bool = True) -> tuple[int, bytes]:
        """Return the folder that `path` lies in, open, and the name in it; check the path and the counts."""
        self._check_path(path)
        if new:
            self._entries += 1
            if self._entries > self._entries_max:
                raise HostileTree(path=path, rule="more entries than announced")
        parent, _, leaf = path.rpartition(b"/")
        return self._open.fd(parent), self._renamed.get(path, leaf)

    def _stands(self, path: bytes, parent_fd: int, leaf: bytes, kind: int, *, inode: int = 0) -> bool:
        """Return whether a restore that is taken up has made this entry already."""
        if not self._resumed or path in self._renamed:
            return False
        try:
            found = os.stat(leaf, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_IFMT(found.st_mode) != kind or (inode and found.st_ino != inode):
            return False
        if inode:
            return True
        fresh = found.st_ino not in self._met  # else two names are one here
        self._met.add(found.st_ino)
        return fresh

    def _make(self, path: bytes, leaf: bytes, make: Callable[[bytes], None]) -> bytes:
        """Make an entry under its name, or under a free one where the target takes two names for one."""
        try:
            make(leaf)
            return leaf
        except FileExistsError:
            tag = blake2b(path, digest_size=2).hexdigest().encode()
            other = leaf[: NAME_BYTES_MAX - len(tag) - 1] + b"~" + tag
        make(other)
        self._renamed[path] = other
        self._differs(path, [f"name taken, now ~{tag.decode()}"])
        return other

    def _differs(self, path: bytes, what: list[str]) -> None:
        if not what or len(self._differences) > DIFFERENCES_MAX:
            return
        if len(self._differences) == DIFFERENCES_MAX:
            self._differences.append((b"", "there are more differences than are listed"))
            return
        self._differences.append((path, ", ".join(what)))


class OpenFile:
    """A `FileWriter`: one restored file being written. Bytes outside what is written stay holes."""

    def __init__(self, extractor: Extractor, path: bytes, fd: int, facts: RestoreFacts, inode: int) -> None:
        self.path = path
        self._extractor = extractor
        self._fd = fd
        self.inode = inode
        self._resting = False
        self._facts = facts
        self._end = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write at a place inside the file's size; pieces may come in any order."""
        self.wake()
        assert self._fd >= 0, "written after close"
        end = offset + len(data)
        if offset < 0 or end > self._facts.size:
            raise HostileTree(path=self.path, rule="bytes outside the file")
        with Target(self.path):
            rest = memoryview(data)
            while rest:
                count = os.pwrite(self._fd, rest, offset)
                rest = rest[count:]
                offset += count
        self._end = max(self._end, end)

    def rest(self) -> None:
        """Give the descriptor back for a while; `wake`, or the next write, opens the file again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._resting = True

    def wake(self) -> None:
        """Open the file again if it rests."""
        if self._resting:
            self._fd = self._extractor.reopen(self.path, self.inode)
            self._resting = False

    def close(self) -> None:
        """Give the file its size and everything else but its content, and let go of it."""
        self.wake()
        if self._fd < 0:
            return
        try:
            with Target(self.path):
                if self._end < self._facts.size:
                    os.ftruncate(self._fd, self._facts.size)
                left_off = self._extractor.dress(self._fd, self._facts)
                found = os.fstat(self._fd)
        except BaseException:
            self.abandon()
            raise
        os.close(self._fd)
        self._fd = -1
        self._extractor.written(self, left_off, found)

    def abandon(self) -> None:
        """Let go of an unfinished file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._extractor.written(self, [])


def _check_path(path: bytes, depth_max: int) -> None:
    if len(path) > PATH_BYTES_MAX or _depth(path) > depth_max:
        raise HostileTree(path=path[:PATH_BYTES_MAX], rule="too deep")
    for name in path.split(b"/"):
        _check_name(path, name)


def _check_name(path: bytes, name: bytes) -> None:
    if not 1 <= len(name) <= NAME_BYTES_MAX or name == b"." or name == b".." or 0 in name:
        raise HostileTree(path=path, rule="name")


def _check_extents(path: bytes, facts: RestoreFacts) -> int:
    """Return how many bytes of data the file has."""
    if not 0 <= facts.size <= FILE_BYTES_MAX:
        raise HostileTree(path=path, rule="size")
    if facts.extents is None:
        return facts.size
    at, total = 0, 0
    for offset, length in facts.extents:
        if offset < at or length < 1 or offset + length > facts.size:
            raise HostileTree(path=path, rule="extents")
        at = offset + length
        total += length
    return total


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0


def _open_again(parent_fd: int, leaf: bytes, flags: int, *, kind: int, mode: int) -> int:
    """Open what a restore that was cut off has left. It may have its mode already, which may forbid it to its
    owner; then it gets `mode` until it is dressed again.
    """
    try:
        return os.open(leaf, flags, dir_fd=parent_fd)
    except PermissionError:
        handle = os.open(leaf, HANDLE, dir_fd=parent_fd)
        try:
            if stat.S_IFMT(os.fstat(handle).st_mode) != kind:
                raise
            os.chmod(f"/proc/self/fd/{handle}", mode)
        finally:
            os.close(handle)
        return os.open(leaf, flags, dir_fd=parent_fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def of_target(path: bytes, exc: OSError) -> RestoreError:
    """Return what an error of the operating system means for a restore."""
    if exc.errno in _FULL:
        return TargetFull(path=path, errno=exc.errno)
    if exc.errno in _NO_DESCRIPTOR:
        return DescriptorsExhausted(path=path, errno=exc.errno)
    return TargetFailed(path=path, errno=exc.errno)


class Target:
    """Raises `of_target` instead of an error of the operating system. A class, because it runs per write."""

    __slots__ = ("_path",)

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, OSError):
            raise of_target(self._path, exc) from exc

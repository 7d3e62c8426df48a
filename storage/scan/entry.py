"""What the scanner finds and what the extractor is told: plain values between disk and repository.

Not the entries of the format (`storage/format/tree.py`): these carry inode and ctime, which never leave the
host, and open descriptors' worth of context. Names and paths are bytes, paths are relative to the root
without a leading slash, and `b""` is the root itself.

The functions that fill and use these values (in this folder):

    walk(root_fd, *, repair_rights: bool, stop: Callable[[], bool]) -> Iterator[Found]
        Depth-first, a folder before what is in it, all of one folder's files before its first subfolder.
        The root comes first. lstat through folder descriptors, links never followed, other mounts not entered
        (reported as a folder with error EXDEV). `Found.folder_fd` is open until the next step of the
        iterator. Deep trees hold a bounded number of descriptors. A folder that cannot be listed comes with
        `error`.

    walk_folders(root_fd, *, repair_rights, stop) -> Iterator[FolderFound | Found]
        The same walk by folder. `FolderFound.others(earlier, settled_ns)` passes by what is as it was before,
        without making a value of it.

    read_stable(folder_fd, name, expected: StatFacts, *, sink: Sink, repair_rights: bool, stop) -> ReadOutcome
        O_NOFOLLOW | O_NONBLOCK | O_NOATIME, fstat, data extents by SEEK_DATA/SEEK_HOLE, fstat again; retries
        with pauses of 20, 100 and 500 ms; at last grade FUZZY.

    attributes(fd) -> Attributes
        xattrs of an open file or folder, inode flags, errors by name.

    Extractor(root_fd, policy) -> see `extract.py`; methods folder, file, symlink, hardlink, fifo, finish.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

RawPath: TypeAlias = bytes

_FACTS: Final = struct.Struct("<qqIqIQQIIIIII")
"""Times as the kernel has them: nanoseconds of the year 2300 do not fit into 64 bits."""
_SECOND_NS: Final = 1_000_000_000
PIECE_BYTES: Final = 4 * 1024 * 1024
"""Largest piece that is read at once."""


class Kind(IntEnum):
    """Entry types, with the numbers of the format."""

    FILE = 1
    FOLDER = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR = 6
    BLOCK = 7


class Grade(IntEnum):
    """What is wrong with an entry's content; the numbers of tag 4 of the format. None is a good entry."""

    FUZZY = 1
    STALE = 2
    UNREADABLE = 3


class StatFacts(NamedTuple):
    """lstat, as far as it matters. `mode` is the 12 permission bits only.

    A named tuple as `Found` is: a frozen data class takes five times as long to make, for every file.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    links: int
    major: int = 0
    minor: int = 0

    def packed(self) -> bytes:
        """Return it as it is kept of very many files: a fifth of the bytes."""
        modified, changed = divmod(self.mtime_ns, _SECOND_NS), divmod(self.ctime_ns, _SECOND_NS)
        return _FACTS.pack(self.size, *modified, *changed, *self[3:])

    @classmethod
    def unpacked(cls, raw: bytes) -> "StatFacts":
        """Return what was packed."""
        size, modified_s, modified_ns, changed_s, changed_ns, *others = _FACTS.unpack(raw)
        return cls(size, modified_s * _SECOND_NS + modified_ns, changed_s * _SECOND_NS + changed_ns, *others)


Before: TypeAlias = tuple[bytes, tuple[int, int, int, int, int, int, int] | None, int, int, int, int, object]
"""An entry as an earlier walk saw it: name; mode with type, inode, device, links, uid, gid and size, as a
stat result begins; mtime_ns; ctime_ns; when that look began; a number and a value of whoever remembers it."""


class Earlier(Protocol):
    """What somebody remembers of a folder, entry by entry, in the order of their names."""

    def over(self, names: list[bytes]) -> Iterator[tuple[list[bytes], Mapping[bytes, Before], list[bytes]]]:
        """Take all names from the end of a descending list, piece by piece.

        Each piece comes with what is remembered of it, and with a list that gets the names of those that are
        as they were before the next piece is asked for.
        """
        ...


class Found(NamedTuple):
    """One entry as the walk saw it."""

    path: bytes
    name: bytes
    kind: Kind
    facts: StatFacts
    folder_fd: int
    """Of the folder it lies in (for the root: the root's own); valid until the next step of the walk."""
    target: bytes | None = None
    """Of a symlink."""
    error: int | None = None
    """errno: the link could not be read, or the folder not listed (then nothing below it follows)."""
    passed: bool = False
    """A folder that the walk did not enter, as its route says that nothing changed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Extended attributes, raw and ascending by name, with what could not be read."""

    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    xattr_errors: tuple[tuple[bytes, int], ...] = ()
    inode_flags: int | None = None


NO_ATTRIBUTES: Final = Attributes()
"""Of almost every entry: one value, so that asking for it is a comparison."""


class Sink(Protocol):
    """Takes one file's bytes in order. `begin` starts over: what came before is void."""

    def begin(self, facts: StatFacts) -> None: ...

    def room(self) -> memoryview:
        """Return where the next data is to be put; not empty while the file is not at its end."""

    def data(self, count: int) -> None:
        """Take so many bytes from the beginning of the room."""

    def hole(self, length: int) -> None: ...


class ReadOutcome(NamedTuple):
    """How reading one file ended."""

    facts: StatFacts
    """As of the last look: the size equals what the sink was given (data and holes together)."""
    extents: tuple[tuple[int, int], ...] | None
    """(offset, length) of the data, ascending; None where the whole size is one extent."""
    attributes: Attributes = NO_ATTRIBUTES
    grade: Grade | None = None
    error: int | None = None
    """errno where the grade is UNREADABLE."""
    gone: bool = False
    """Vanished, or no longer a regular file: the caller drops the entry or looks again."""


class RestoreFacts(NamedTuple):
    """What the extractor puts on an entry, besides its content. Owner None means the target user.

    A tuple, because one is made for every entry before the first file is written.
    """

    mode: int
    uid: int | None
    gid: int | None
    mtime_s: int
    mtime_ns: int
    size: int = 0
    extents: tuple[tuple[int, int], ...] | None = None
    attributes: Attributes = NO_ATTRIBUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePolicy:
    """Who the restored files belong to, and what may be put back. `captured` is the format's `self`."""

    owner: tuple[int, int] | None = None
    captured: tuple[int, int] | None = None
    numbered_owners: bool = False
    setuid: bool = False
    privileged_xattrs: bool = False
    entries_max: int = 50_000_000
    bytes_max: int = 1 << 62
    depth_max: int = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReport:
    """What was made, and what of it differs from the checkpoint: (path, what)."""

    entries: int
    content_bytes: int
    differences: tuple[tuple[RawPath, str], ...]


class FileWriter(Protocol):
    """One restored file being written; bytes outside what is written stay holes."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def close(self) -> None: ...


class EntryExtractor(Protocol):
    """Makes entries beneath one folder descriptor. Parents come before children; paths are never trusted."""

    def folder(self, path: bytes, facts: RestoreFacts) -> None: ...

    def file(self, path: bytes, facts: RestoreFacts) -> FileWriter: ...

    def symlink(self, path: bytes, target: bytes, facts: RestoreFacts) -> None: ...

    def hardlink(self, path: bytes, first: bytes) -> None:
        """Make `path` another name of `first`, a file this extractor made."""

    def fifo(self, path: bytes, facts: RestoreFacts) -> None: ...

    def finish(self) -> ExtractReport:
        """Modes, owners, attributes, times; folders deepest first. Also makes the root's own facts true."""

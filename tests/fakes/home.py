"""A home with every entry that backup tools get wrong, a picture of any home, and a copy made by the
product's parts.

The picture is taken with plain calls and none of our code, so that it can bear witness. The copy walks,
reads and extracts as a checkpoint and its restore would, without the repository between them.
"""

import hashlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

from storage.scan.attributes import attributes_at
from storage.scan.entry import PIECE_BYTES, ExtractReport, Found, Kind, RestoreFacts, RestorePolicy, StatFacts
from storage.scan.extract import Extractor
from storage.scan.read import read_stable
from storage.scan.walk import walk

SECOND_NS = 1_000_000_000
MIB = 1 << 20
ODD_NAMES = [
    *(b"latin1-\xe9\xff", b"new\nline", b" lead and trail ", b"-rf", b"tab\t", b"\x01\x7f", b"..."),
    *("nfc-é".encode(), "nfd-e\u0301".encode(), "\u202egnp.exe".encode()),
    *(b"a" * 255, b"q'uote\"`$(x)", b"back\\slash", b"con", b"x:y"),
]

Picture = dict[bytes, tuple[Any, ...]]


def make_odd_home(root: Path) -> None:
    """Fill an empty folder. Needs no privileges."""
    home = os.fsencode(root)
    os.makedirs(home + b"/names")
    for name in ODD_NAMES:
        _put(home + b"/names/" + name, name)
    deep = home + b"/deep/" + b"/".join(b"d%02d" % number for number in range(60))
    os.makedirs(deep)
    _put(deep + b"/leaf", b"")
    with open(home + b"/sparse", "wb") as stream:
        stream.truncate(64 * MIB)
        stream.seek(20 * MIB)
        stream.write(b"s" * MIB)
        stream.seek(40 * MIB)
        stream.write(b"t" * 10_000)
    with open(home + b"/all-hole", "wb") as stream:
        stream.truncate(5 * MIB)
    _put(home + b"/large", os.urandom(MIB) * 9)
    _put(home + b"/hard1", b"h" * 70_000)
    os.makedirs(home + b"/other")
    os.link(home + b"/hard1", home + b"/other/hard2")
    os.link(home + b"/hard1", home + b"/hard3")
    os.mkfifo(home + b"/fifo", 0o640)
    _make_socket(root / "socket")
    os.symlink(b"/nonexistent/target", home + b"/dangling")
    os.symlink(b"loop", home + b"/loop")
    os.symlink(b"/etc", home + b"/leads-out")
    os.symlink(b"\xff\xfe", home + b"/bytes-link")
    _put(home + b"/mode000", b"secret")
    os.chmod(home + b"/mode000", 0)
    _put(home + b"/read-only", b"r")
    os.chmod(home + b"/read-only", 0o400)
    _put(home + b"/setuid", b"x")
    os.chmod(home + b"/setuid", 0o6755)
    _put(home + b"/attributes", b"x")
    os.setxattr(home + b"/attributes", b"user.note", b"\0\xffbin")
    os.setxattr(home + b"/attributes", b"user.empty", b"")
    os.makedirs(home + b"/empty")
    os.makedirs(home + b"/sticky")
    os.chmod(home + b"/sticky", 0o1777)
    os.setxattr(home + b"/sticky", b"user.folder", b"f")
    _put(home + b"/shared", b"x")
    os.setxattr(home + b"/shared", b"system.posix_acl_access", acl(6, 4, 6, 0))
    os.makedirs(home + b"/sharing")
    os.setxattr(home + b"/sharing", b"system.posix_acl_default", acl(7, 5, 5, 1))
    os.makedirs(home + b"/many")
    for number in range(300):
        _put(home + b"/many/%04d" % number, b"%d" % number)
    os.makedirs(home + b"/locked/inner")
    _put(home + b"/locked/inner/file", b"behind two locks")
    for path, at_ns in (
        (b"/setuid", -5 * SECOND_NS + 7),
        (b"/read-only", 9_300_000_000 * SECOND_NS + 999_999_999),
        (b"/names", 1_000_000_000 * SECOND_NS + 1),
        (b"/empty", 123),
        (b"/other", 1_500_000_000 * SECOND_NS),
    ):
        os.utime(home + path, ns=(at_ns, at_ns))
    os.utime(home + b"/dangling", ns=(5, 12_345), follow_symlinks=False)
    os.chmod(home + b"/locked/inner", 0)
    os.chmod(home + b"/locked", 0o100)


def acl(owner: int, group: int, mask: int, others: int) -> bytes:
    """Return an access control list of nobody by number, as the kernel has it: with a mask it is no mode."""
    rows = ((0x01, owner), (0x04, group), (0x10, mask), (0x20, others))
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, 0xFFFF_FFFF) for tag, rights in rows
    )


def picture(root: Path) -> Picture:
    """Everything of a home that a restore must bring back, by path. What a plain user may not read is there
    with its facts alone: to open it would change it.
    """
    home = os.fsencode(root)
    seen: Picture = {b"": _look(home)}
    groups: dict[tuple[int, int], bytes] = {}
    pending = [home]
    while pending:
        folder = pending.pop()
        for name in sorted(_names(folder)):
            path = folder + b"/" + name
            facts = os.lstat(path)
            if stat.S_ISDIR(facts.st_mode):
                pending.append(path)
            relative = path[len(home) + 1 :]
            seen[relative] = _look(path)
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
                groups.setdefault((facts.st_dev, facts.st_ino), relative)
                seen[relative] += (groups[facts.st_dev, facts.st_ino],)
    return seen


def _may_read(path: bytes) -> bool:
    return os.geteuid() == 0 or os.access(path, os.R_OK, follow_symlinks=False)


def _names(folder: bytes) -> list[bytes]:
    return os.listdir(folder) if os.access(folder, os.R_OK | os.X_OK) else []


def _digest(path: bytes) -> str | None:
    if not _may_read(path):
        return None
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _look(path: bytes) -> tuple[Any, ...]:
    facts = os.lstat(path)
    kind = stat.S_IFMT(facts.st_mode)
    content: Any = None
    if kind == stat.S_IFREG:
        content = (facts.st_size, _digest(path))
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    names = [] if kind == stat.S_IFLNK or not _may_read(path) else sorted(os.listxattr(path))
    return (
        kind,
        stat.S_IMODE(facts.st_mode),
        facts.st_mtime_ns,
        content,
        tuple((name, os.getxattr(path, name)) for name in names),
    )


class Collected:
    """A sink that keeps one file's pieces."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.length = 0
        self.begun = 0
        self._room = memoryview(bytearray(PIECE_BYTES))

    def begin(self, facts: StatFacts) -> None:
        self.begun += 1
        self.pieces.clear()
        self.length = 0

    def room(self) -> memoryview:
        return self._room

    def data(self, count: int) -> None:
        self.pieces.append((self.length, bytes(self._room[:count])))
        self.length += count

    def hole(self, length: int) -> None:
        self.length += length


def copy_home(
    source: Path, target: Path, policy: RestorePolicy | None = None, *, repair_rights: bool = False
) -> tuple[ExtractReport, list[Found]]:
    """Copy by walk, read and extract; return the report and what was not copied (sockets, unreadable)."""
    source_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    extractor = Extractor(target_fd, policy or RestorePolicy())
    first_of: dict[int, bytes] = {}
    try:
        left_out = [
            found
            for found in walk(source_fd, repair_rights=repair_rights)
            if found.error is not None or not _copy(extractor, found, first_of, repair_rights)
        ]
        return extractor.finish(), left_out
    finally:
        extractor.close()
        os.close(source_fd)
        os.close(target_fd)


def facts_for(facts: StatFacts) -> RestoreFacts:
    """What a checkpoint by the home's owner would have noted."""
    seconds, ns = divmod(facts.mtime_ns, SECOND_NS)
    return RestoreFacts(mode=facts.mode, uid=None, gid=None, mtime_s=seconds, mtime_ns=ns, size=facts.size)


def _copy(extractor: Extractor, found: Found, first_of: dict[int, bytes], repair_rights: bool) -> bool:
    facts = facts_for(found.facts)
    match found.kind:
        case Kind.FOLDER:
            at = attributes_at(found.folder_fd, found.name or b".")
            extractor.folder(found.path, facts._replace(attributes=at))
        case Kind.SYMLINK:
            assert found.target is not None
            extractor.symlink(found.path, found.target, facts)
        case Kind.FIFO:
            extractor.fifo(found.path, facts)
        case Kind.FILE if found.facts.links > 1 and found.facts.inode in first_of:
            extractor.hardlink(found.path, first_of[found.facts.inode])
        case Kind.FILE:
            sink = Collected()
            outcome = read_stable(
                found.folder_fd, found.name, found.facts, sink=sink, repair_rights=repair_rights
            )
            if outcome.gone or outcome.error is not None:
                return False
            writer = extractor.file(
                found.path,
                facts_for(outcome.facts)._replace(extents=outcome.extents, attributes=outcome.attributes),
            )
            for offset, piece in sink.pieces:
                writer.write(offset, piece)
            writer.close()
            first_of[found.facts.inode] = found.path
        case _:
            return False
    return True


def _put(path: bytes, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)


def _make_socket(path: Path) -> None:
    """Names of sockets are short, so it is bound through its folder's descriptor."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)

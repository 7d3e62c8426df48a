"""Streams a folder of a checkpoint as one zip or tar file, made while it is sent.

tar keeps names as bytes, modes, times, links, hard links and attributes (pax); holes are sent as zeros. zip
is for people: names that are not UTF-8 are shown escaped, links are stored as links, everything else that is
no file or folder is left out. Contents are stored, not compressed: the reader pays no CPU, and the network
compresses where it matters.

What needs a damaged object is left out and listed in the last member (`missing_list.py`). A header tells the
size of what follows, so a file must be known to be whole before its header goes: it is read first if it is
small, or if the caller wants all checked. Of a large one only the beginning is read first, else each of its
bytes would be fetched twice; if damage is met behind that, the archive ends with an error in its middle, and
whoever asked may ask again for one that is checked.
"""

import io
import stat
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from storage.errors import StorageError
from storage.format import tree
from storage.format.limits import MIB
from storage.format.tree import Entry
from storage.ops.browse import Browser
from storage.ops.missing_list import MARK, MissingList, free_name
from storage.ops.restore_plan import same_inode
from storage.ops.tar_reader import XATTR_RECORD
from storage.ops.values import ArchiveKind
from storage.ops.zip_directory import ZipDirectory
from storage.repository.damage import damage_of
from storage.scan import acl
from storage.scan.entry import Kind

READ_FIRST_BYTES: Final = 8 * MIB
"""Of each file, before its header is written."""
LINK_GROUPS_MAX: Final = 50_000
"""Files with several names that are remembered for one tar, some 25 MB; names of others are sent as files."""
SECOND_NS: Final = 1_000_000_000
TAR_BLOCK_BYTES: Final = 512
ZIP_LARGE_BYTES: Final = 1 << 31
ZIP_FIRST_YEAR: Final = 1980
ZIP_LAST_YEAR: Final = 2107
_TAR_TYPES: Final = {
    int(Kind.FILE): tarfile.REGTYPE,
    int(Kind.FOLDER): tarfile.DIRTYPE,
    int(Kind.SYMLINK): tarfile.SYMTYPE,
    int(Kind.FIFO): tarfile.FIFOTYPE,
}


async def stream(
    browser: Browser, start: Entry, *, kind: ArchiveKind, scratch: Path, checked: bool = False
) -> AsyncIterator[bytes]:
    """Yield the bytes of an archive of everything beneath a folder, or of one file.

    Args:
        scratch: where the directory of a large zip may lie meanwhile.
        checked: read each file to its end before it is sent, however large.
    """
    source = _Source(browser, start, checked=checked)
    pieces = _zip(source, scratch) if kind == "zip" else _tar(source)
    async for piece in pieces:
        yield piece


class _Source:
    """Entries and contents of one archive, and what is missing."""

    def __init__(self, browser: Browser, start: Entry, *, checked: bool) -> None:
        self._browser = browser
        self._start = start
        self._checked = checked
        self.missing = MissingList()

    async def entries(self) -> AsyncIterator[tuple[bytes, Entry]]:
        """Yield (path, entry) of all that can be given, a folder before what is in it."""
        if self._start.name:
            yield self._start.name, self._start
        if self._start.type != Kind.FOLDER:
            return
        async for path, entry in self._browser.below(
            self._start, self._start.name, lost=self.missing.add_folder
        ):
            yield path, entry

    async def content(self, path: bytes, entry: Entry) -> AsyncIterator[bytes] | None:
        """Return the bytes of a file; None if it is missing."""
        if self._checked and entry.size > READ_FIRST_BYTES and await self._is_damaged(path, entry):
            return None
        rest = self._browser.data(entry)
        first: list[bytes] = []
        size = 0
        try:
            while size < READ_FIRST_BYTES and (piece := await anext(rest, None)) is not None:
                first.append(piece)
                size += len(piece)
        except StorageError as exc:
            if not self._lose(path, exc):
                raise
            return None
        return _joined(first, rest)

    async def _is_damaged(self, path: bytes, entry: Entry) -> bool:
        try:
            async for _ in self._browser.data(entry):
                pass
        except StorageError as exc:
            if not self._lose(path, exc):
                raise
            return True
        return False

    def _lose(self, path: bytes, exc: StorageError) -> bool:
        damage = damage_of(exc)
        if damage is not None:
            self.missing.add(path, damage)
        return damage is not None

    async def list_name(self) -> str:
        """Return the name of the list of what is missing."""
        return await free_name(self._browser, self._start)


async def _joined(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in first:
        yield piece
    async for piece in rest:
        yield piece


def _has_bytes(entry: Entry) -> bool:
    return entry.type == Kind.FILE and not tree.entry_extras(entry).unreadable


async def _tar(source: _Source) -> AsyncIterator[bytes]:
    links = _Links()
    async for path, entry in source.entries():
        member_type = _TAR_TYPES.get(entry.type)
        if member_type is None or (entry.type == Kind.FILE and not _has_bytes(entry)):
            continue
        first = links.first_name(entry)
        content = None
        if entry.type == Kind.FILE and first is None:
            content = await source.content(path, entry)
            if content is None:
                continue
            links.given(path, entry)
        member = _tar_member(path, entry, member_type)
        if first is not None:
            member.type, member.linkname, member.size = tarfile.LNKTYPE, _as_text(first), 0
        yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if content is not None:
            async for piece in content:
                yield piece
            yield bytes(-entry.size % TAR_BLOCK_BYTES)
    if source.missing.count:
        text = source.missing.text()
        member = tarfile.TarInfo(await source.list_name())
        member.size, member.uname = len(text), MARK.decode()
        yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield text + bytes(-len(text) % TAR_BLOCK_BYTES)
    yield bytes(2 * TAR_BLOCK_BYTES)


class _Links:
    """Which names of one file a tar holds already: another one is sent as a link to it, not once more."""

    def __init__(self) -> None:
        self._given: dict[bytes, tuple[bytes, Entry]] = {}

    def first_name(self, entry: Entry) -> bytes | None:
        """Return the name that was given of this very file; None if it has none, or says something else."""
        group = tree.entry_extras(entry).link_group if entry.type == Kind.FILE else None
        first = None if group is None else self._given.get(group)
        return first[0] if first is not None and same_inode(first[1], entry) else None

    def given(self, path: bytes, entry: Entry) -> None:
        """Know that a file is in the tar with all its bytes."""
        group = tree.entry_extras(entry).link_group
        if group is not None and len(self._given) < LINK_GROUPS_MAX:
            self._given.setdefault(group, (path, entry))


def _tar_member(path: bytes, entry: Entry, member_type: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(_as_text(path))
    member.type = member_type
    member.mode = entry.mode
    member.mtime = entry.mtime_s
    member.pax_headers = _attribute_records(entry)
    if entry.mtime_ns:
        total_ns = entry.mtime_s * SECOND_NS + entry.mtime_ns
        seconds, rest = divmod(abs(total_ns), SECOND_NS)
        member.pax_headers["mtime"] = f"{'-' * (total_ns < 0)}{seconds}.{rest:09d}"
    member.size = entry.size if entry.type == Kind.FILE else 0
    if entry.type == Kind.SYMLINK and isinstance(entry.content, bytes):
        member.linkname = _as_text(entry.content)
    return member


def _attribute_records(entry: Entry) -> dict[str, str]:
    """Return the attributes that a tar carries, as GNU tar and libarchive write and read them.

    Not those that give rights to programs (`security.`, `trusted.`): who unpacks is anybody.
    """
    if entry.type not in (Kind.FILE, Kind.FOLDER):
        return {}
    return {
        (XATTR_RECORD + name.replace(b"%", b"%25").replace(b"=", b"%3D")).decode(): _as_text(value)
        for name, value in tree.entry_extras(entry).xattrs
        if (name.startswith(b"user.") or name in acl.NAMES) and _is_text(name)
    }


def _is_text(name: bytes) -> bool:
    """Return whether a name can stand in a record, whose keys are UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_text(raw: bytes) -> str:
    """Return bytes as tarfile takes them; it writes the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


class _Drain(io.RawIOBase):
    """Where zipfile writes to; what was written is taken out and sent.

    It cannot seek, so sizes follow the data.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.total = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]  # any buffer will do
        self._parts.append(bytes(data))
        self.total += len(data)
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


async def _zip(source: _Source, scratch: Path) -> AsyncIterator[bytes]:
    drain = _Drain()
    archive = zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED, allowZip64=True)
    with ZipDirectory(scratch) as directory, archive:
        async for path, entry in source.entries():
            if entry.type not in (Kind.FILE, Kind.FOLDER, Kind.SYMLINK):
                continue
            if entry.type == Kind.FILE and not _has_bytes(entry):
                continue
            member = _zip_member(path, entry)
            if entry.type == Kind.FILE:
                content = await source.content(path, entry)
                if content is None:
                    continue
                large = entry.size >= ZIP_LARGE_BYTES
                with archive.open(member, "w", force_zip64=large) as out:
                    async for piece in content:
                        out.write(piece)
                        yield drain.take()
            else:
                target = entry.content if entry.type == Kind.SYMLINK else b""
                archive.writestr(member, target if isinstance(target, bytes) else b"")
            directory.take(archive)
            yield drain.take()
        if source.missing.count:
            archive.writestr(await source.list_name(), source.missing.text())
            directory.take(archive)
            yield drain.take()
        for piece in directory.pieces(drain.total, comment=MARK if source.missing.count else b""):
            yield piece
    # What `zipfile` writes when it is closed, the end of an archive without members, is left in the drain.


def _zip_member(path: bytes, entry: Entry) -> zipfile.ZipInfo:
    name = path.decode("utf-8", "backslashreplace")
    when = (ZIP_FIRST_YEAR, 1, 1, 0, 0, 0)
    if 0 <= entry.mtime_s < 1 << 32:
        told = time.gmtime(entry.mtime_s)
        if ZIP_FIRST_YEAR <= told.tm_year <= ZIP_LAST_YEAR:
            when = (told.tm_year, told.tm_mon, told.tm_mday, told.tm_hour, told.tm_min, told.tm_sec)
    kinds = {Kind.FOLDER: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK, Kind.FILE: stat.S_IFREG}
    member = zipfile.ZipInfo(name + "/" if entry.type == Kind.FOLDER else name, when)
    member.create_system = 3  # Unix: the upper half of the attributes is a mode
    member.external_attr = (kinds[Kind(entry.type)] | entry.mode) << 16
    return member

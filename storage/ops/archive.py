"""Streams a folder of a checkpoint as one zip or tar file, made while it is sent.

tar keeps names as bytes, modes, times and links (pax). zip is for people: names that are not UTF-8 are shown
escaped, links are stored as links, everything else that is no file or folder is left out. Contents are
stored, not compressed: the reader pays no CPU, and the network compresses where it matters.

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
from storage.ops.values import ArchiveKind
from storage.ops.zip_directory import ZipDirectory
from storage.repository.damage import damage_of
from storage.scan.entry import Kind

READ_FIRST_BYTES: Final = 8 * MIB
"""Of each file, before its header is written."""
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
    async for path, entry in source.entries():
        member_type = _TAR_TYPES.get(entry.type)
        if member_type is None or (entry.type == Kind.FILE and not _has_bytes(entry)):
            continue
        content = await source.content(path, entry) if entry.type == Kind.FILE else None
        if entry.type == Kind.FILE and content is None:
            continue
        member = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
        member.type = member_type
        member.mode = entry.mode
        member.mtime = entry.mtime_s
        if entry.mtime_ns:
            total_ns = entry.mtime_s * SECOND_NS + entry.mtime_ns
            seconds, rest = divmod(abs(total_ns), SECOND_NS)
            member.pax_headers = {"mtime": f"{'-' * (total_ns < 0)}{seconds}.{rest:09d}"}
        member.size = entry.size if entry.type == Kind.FILE else 0
        if entry.type == Kind.SYMLINK and isinstance(entry.content, bytes):
            member.linkname = entry.content.decode("utf-8", "surrogateescape")
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

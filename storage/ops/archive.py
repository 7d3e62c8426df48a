"""Streams a folder of a checkpoint as one zip or tar file, made while it is sent.

tar keeps names as bytes, modes, times and links (pax). zip is for people: names that are not UTF-8 are shown
escaped, links are stored as links, everything else that is no file or folder is left out. Contents are
stored, not compressed: the reader pays no CPU, and the network compresses where it matters.
"""

import io
import stat
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from storage.format import tree
from storage.format.tree import Entry
from storage.ops.browse import Browser
from storage.ops.values import ArchiveKind
from storage.ops.zip_directory import ZipDirectory
from storage.scan.entry import Kind

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


async def stream(browser: Browser, start: Entry, *, kind: ArchiveKind, scratch: Path) -> AsyncIterator[bytes]:
    """Yield the bytes of an archive of everything beneath a folder, or of one file.

    Args:
        scratch: where the directory of a large zip may lie meanwhile.
    """
    pieces = _zip(browser, start, scratch) if kind == "zip" else _tar(browser, start)
    async for piece in pieces:
        yield piece


async def _entries(browser: Browser, start: Entry) -> AsyncIterator[tuple[bytes, Entry]]:
    if start.type != Kind.FOLDER:
        yield start.name, start
        return
    async for path, entry in browser.below(start, start.name):
        yield path, entry


def _has_bytes(entry: Entry) -> bool:
    return entry.type == Kind.FILE and not tree.entry_extras(entry).unreadable


async def _tar(browser: Browser, start: Entry) -> AsyncIterator[bytes]:
    async for path, entry in _entries(browser, start):
        member_type = _TAR_TYPES.get(entry.type)
        if member_type is None or (entry.type == Kind.FILE and not _has_bytes(entry)):
            continue
        member = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
        member.type = member_type
        member.mode = entry.mode
        member.mtime = entry.mtime_s
        if entry.mtime_ns:
            exact = f"{entry.mtime_s}.{entry.mtime_ns:09d}"
            member.pax_headers = {"mtime": exact} if entry.mtime_s >= 0 else {}
        member.size = entry.size if entry.type == Kind.FILE else 0
        if entry.type == Kind.SYMLINK and isinstance(entry.content, bytes):
            member.linkname = entry.content.decode("utf-8", "surrogateescape")
        yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if entry.type == Kind.FILE:
            async for piece in browser.data(entry):
                yield piece
            yield bytes(-entry.size % TAR_BLOCK_BYTES)
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


async def _zip(browser: Browser, start: Entry, scratch: Path) -> AsyncIterator[bytes]:
    drain = _Drain()
    archive = zipfile.ZipFile(drain, "w", zipfile.ZIP_STORED, allowZip64=True)
    with ZipDirectory(scratch) as directory, archive:
        async for path, entry in _entries(browser, start):
            if entry.type not in (Kind.FILE, Kind.FOLDER, Kind.SYMLINK):
                continue
            if entry.type == Kind.FILE and not _has_bytes(entry):
                continue
            member = _zip_member(path, entry)
            if entry.type == Kind.FILE:
                large = entry.size >= ZIP_LARGE_BYTES
                with archive.open(member, "w", force_zip64=large) as out:
                    async for piece in browser.data(entry):
                        out.write(piece)
                        yield drain.take()
            else:
                target = entry.content if entry.type == Kind.SYMLINK else b""
                archive.writestr(member, target if isinstance(target, bytes) else b"")
            directory.take(archive)
            yield drain.take()
        for piece in directory.pieces(drain.total):
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

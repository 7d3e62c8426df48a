"""The end of a zip: its central directory, kept aside while the members before it are sent.

Not the members: `zipfile` writes those. It would keep an object for each of them until the end, which is a
gigabyte for a folder of a million files; here what is kept is a record of some hundred bytes in a buffer, and
in a file without a name once there are many.

Source: APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16.
"""

import contextlib
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from storage.errors import TargetFull
from storage.format.limits import KIB, MIB

MEMORY_BYTES_MAX: Final = 1 * MIB
"""Records up to this stay in memory: some ten thousand members."""
PIECE_BYTES: Final = 256 * KIB
_RECORD: Final = struct.Struct("<4s2B5H3I5H2I")
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64: Final = struct.Struct("<4sIQI")
_END: Final = struct.Struct("<4s4H2IH")
_UNIX: Final = 3
_VERSION: Final = 45
"""4.5: the first with sizes of 64 bits."""
_UTF8: Final = 0x800
_LARGE_16: Final = 0xFFFF
_LARGE_32: Final = 0xFFFFFFFF
"""In the place of a number that is told with 64 bits elsewhere."""


class ZipDirectory:
    """The records of one archive. Used as a context; its file is gone at the end."""

    def __init__(self, folder: Path) -> None:
        """Take the folder in which a large directory may lie meanwhile."""
        self._records = tempfile.SpooledTemporaryFile(  # noqa: SIM115  # this is the context that closes it
            max_size=MEMORY_BYTES_MAX, dir=os.fspath(folder) if folder.is_dir() else None
        )
        self._members = 0

    def __enter__(self) -> "ZipDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk, once more: nobody needs what is kept back now
            self._records.close()

    def take(self, archive: zipfile.ZipFile) -> None:
        """Take over what an archive keeps of its members that are written."""
        with _told_if_full():
            for member in archive.filelist:
                self._records.write(_record(member))
        self._members += len(archive.filelist)
        archive.filelist.clear()
        archive.NameToInfo.clear()

    def pieces(self, start: int, *, comment: bytes = b"") -> Iterator[bytes]:
        """Yield the directory and the end of an archive whose members have so many bytes."""
        size = self._records.tell()
        with _told_if_full():
            self._records.seek(0)  # writes what was kept back
        while piece := self._records.read(PIECE_BYTES):
            yield piece
        if self._members >= _LARGE_16 or max(size, start) >= _LARGE_32:
            count = self._members
            yield _END_64.pack(
                b"PK\6\6", _END_64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size, start
            )
            yield _LOCATOR_64.pack(b"PK\6\7", 0, start + size, 1)
        count = min(self._members, _LARGE_16)
        size, start = min(size, _LARGE_32), min(start, _LARGE_32)
        yield _END.pack(b"PK\5\6", 0, 0, count, count, size, start, len(comment)) + comment


@contextlib.contextmanager
def _told_if_full() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise TargetFull(what="directory of an archive", errno=exc.errno) from exc


def _record(member: zipfile.ZipInfo) -> bytes:
    flags = member.flag_bits
    if not member.filename.isascii():
        flags |= _UTF8  # as `zipfile` says it in front of the member
    name = member.filename.encode()
    numbers = [member.file_size, member.compress_size, member.header_offset]
    large = [number for number in numbers if number >= _LARGE_32]
    size, packed, offset = (min(number, _LARGE_32) for number in numbers)
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    year, month, day, hour, minute, second = member.date_time
    return b"".join(
        (
            _RECORD.pack(
                b"PK\1\2",
                _VERSION,
                _UNIX,
                _VERSION if large else zipfile.DEFAULT_VERSION,
                flags,
                member.compress_type,
                hour << 11 | minute << 5 | second // 2,
                year - 1980 << 9 | month << 5 | day,
                member.CRC,
                packed,
                size,
                len(name),
                len(extra),
                0,
                0,
                0,
                member.external_attr,
                offset,
            ),
            name,
            extra,
        )
    )

"""Files of the local cache: grown by records, each believed only if its keyed checksum holds.

A cache is never the truth: everything in it can be made again from the store, and a cold start must equal a
warm one. A file that is damaged, of another version, or made with other keys is as good as none, so reading
never fails; writing may fail as well, and costs time only.
"""

import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from storage.format.keys import EpochKeys, derive

RECORDS_MAGIC: Final = b"CKPTRECORDS1"
RECORD_CHECK_BYTES: Final = 16
_LENGTH: Final = struct.Struct("<I")
FILE_BYTES_MAX: Final = 1 << 30


class RecordFile:
    """A file that grows by records, each with a keyed checksum over itself and all before it.

    Reading gives the records up to the first that does not fit: a torn end costs what is behind it, not the
    file.
    """

    __slots__ = ("_check", "_end", "_key", "_path")

    def __init__(self, folder: Path, name: str, keys: EpochKeys) -> None:
        self._path = folder / name
        self._key = derive("local cache", keys.chunk_meta + keys.repository_id + name.encode("ascii"))
        self._end = 0
        self._check = b""

    def read(self) -> list[bytes]:
        """Return every record that is to be believed, and remember where the next one goes."""
        self._end, self._check = 0, b""
        try:
            if self._path.stat().st_size > FILE_BYTES_MAX:
                return []
            raw = self._path.read_bytes()
        except OSError:
            return []
        if not raw.startswith(RECORDS_MAGIC):
            return []
        records: list[bytes] = []
        at = self._end = len(RECORDS_MAGIC)
        while at + _LENGTH.size + RECORD_CHECK_BYTES <= len(raw):
            (length,) = _LENGTH.unpack_from(raw, at)
            start = at + _LENGTH.size + RECORD_CHECK_BYTES
            body = raw[start : start + length]
            check = self._checked(body)
            if len(body) != length or check != raw[at + _LENGTH.size : start]:
                break
            records.append(body)
            at = start + length
            self._end, self._check = at, check
        return records

    @property
    def size(self) -> int:
        """Return how many bytes are read or written so far; 0 before the first of either."""
        return self._end

    def add(self, records: Sequence[bytes], *, anew: bool) -> None:
        """Write records behind the last good one, or in place of all with `anew`. May fail in silence."""
        if anew:
            self._end, self._check = 0, b""
        parts: list[bytes] = [] if self._end else [RECORDS_MAGIC]
        check = self._check
        for body in records:
            check = blake3(check + body, key=self._key).digest(length=RECORD_CHECK_BYTES)
            parts.append(_LENGTH.pack(len(body)) + check + body)
        data = b"".join(parts)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self._path, flags, 0o600), "r+b") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(data)
            self._end, self._check = self._end + len(data), check

    def _checked(self, body: bytes) -> bytes:
        return blake3(self._check + body, key=self._key).digest(length=RECORD_CHECK_BYTES)


def empty_files(folder: Path) -> None:
    """Empty every file of a workspace's cache: it was erased, and they hold names of files."""
    for path in folder.glob("*.cache") if folder.is_dir() else ():
        with open(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "wb") as file:
            file.truncate(0)
            os.fsync(file.fileno())

"""Files of the local cache: written whole, believed only if their keyed checksum holds.

A cache is never the truth: everything in it can be made again from the store, and a cold start must equal a
warm one. A file that is damaged, of another version, or made with other keys is as good as none, so reading
never fails; writing may fail as well, and costs time only.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from blake3 import blake3

from storage.format.keys import EpochKeys, derive

MAGIC: Final = b"CKPTCACHE1"
CHECK_BYTES: Final = 32
FILE_BYTES_MAX: Final = 1 << 30


class CacheFile:
    """One file of one workspace."""

    __slots__ = ("_key", "_path")

    def __init__(self, folder: Path, name: str, keys: EpochKeys) -> None:
        self._path = folder / name
        self._key = derive("local cache", keys.chunk_meta + keys.repository_id + name.encode("ascii"))

    def read(self) -> bytes | None:
        """Return what was last written, or None if there is nothing to be believed."""
        try:
            if self._path.stat().st_size > FILE_BYTES_MAX:
                return None
            raw = self._path.read_bytes()
        except OSError:
            return None
        body = raw[len(MAGIC) + CHECK_BYTES :]
        if raw[: len(MAGIC)] != MAGIC or raw[len(MAGIC) : len(MAGIC) + CHECK_BYTES] != self._check(body):
            return None
        return body

    def write(self, body: bytes) -> None:
        """Replace the file. What cannot be written is left as it was; a torn file fails its checksum."""
        aside = self._path.with_name(f".{self._path.name}.new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(aside, flags, 0o600), "wb") as file:
                file.write(MAGIC + self._check(body) + body)
            aside.replace(self._path)

    def _check(self, body: bytes) -> bytes:
        return blake3(body, key=self._key).digest()

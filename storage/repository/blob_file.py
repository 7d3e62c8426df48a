"""A file of values that are read one by one, and of states that say by what each is found.

For caches that are too large to be held. A frame is header, values, state: values are written while a state
comes together, and count when the state that names them stands. States are chained by keyed checksums, and
each slot carries one of its value, so a torn end, a bit that changed, or another process that wrote into the
same file costs time and never gives out what was not put. Nothing is believed that was made with other keys.

A file is the writer's who holds its lock; another one writes a draft, which takes the place of the first when
it stands. Where nothing can be written, values stay in memory. Not here: what the values are.

Source: docs/design/0023-memory-of-a-save.md.
"""

import fcntl
import os
import struct
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from storage.errors import CacheLost
from storage.format.keys import EpochKeys, derive
from storage.format.limits import KIB, MIB
from storage.repository.cache import FILE_BYTES_MAX

MAGIC: Final = b"CKPTBLOBS1\0\0"
CHECK_BYTES: Final = 16
_FRAME: Final = struct.Struct(f"<QI{CHECK_BYTES}s")
_SLOT: Final = struct.Struct(f"<QI{CHECK_BYTES}s")
BUFFER_BYTES: Final = 256 * KIB
"""Values that wait for being written together."""
LATER_FACTOR: Final = 2
LATER_BYTES_LEAST: Final = 1 * MIB
"""A file grows by what changes until it is so many times as long as when it was written whole."""
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


class BlobFile:
    """One such file, open. For any thread; put and commit are for whoever has the right to write."""

    def __init__(self, folder: Path, name: str, keys: EpochKeys, *, draft: bool = False) -> None:
        """Open a file `<name>.cache` if it is there; as a draft begin another one."""
        self._folder, self._name, self._keys = folder, name, keys
        self._key = derive("local cache", keys.chunk_meta + keys.repository_id + name.encode("ascii"))
        self._lock = threading.Lock()
        self._check = b""
        self._end = len(MAGIC)
        """Where the next frame begins."""
        self._buffer = bytearray()
        self._buffer_at = self._end + _FRAME.size
        self._whole_bytes = 0
        self.named: dict[bytes, bytes] = {}
        """What the states say together; whoever reads and writes them keeps it here."""
        self._draft = draft
        self._fd: int | None = None
        self._writable = True
        """Nothing has spoken against it yet: a draft is opened when there is something to write."""
        if not draft:
            self._draft = not self._open(os.O_RDWR)

    def fresh(self) -> "BlobFile":
        """Return an empty one, which takes this one's place when its first state stands."""
        return BlobFile(self._folder, self._name, self._keys, draft=True)

    @property
    def takes_more(self) -> bool:
        """Return whether the next state is to go behind the others."""
        room = LATER_FACTOR * self._whole_bytes + LATER_BYTES_LEAST
        return self._writable and (self._whole_bytes == 0 or self._end < room)

    @property
    def written(self) -> bool:
        """Return whether a state stands in it."""
        return self._whole_bytes > 0

    @property
    def held_bytes(self) -> int:
        """Return how much of it is in memory."""
        return len(self._buffer)

    def states(self) -> Iterator[bytes]:
        """Yield the states that are to be believed, the oldest first. Before anything is put."""
        fd = self._fd
        if fd is None or self._draft:
            return
        try:
            size = os.fstat(fd).st_size
            if os.pread(fd, len(MAGIC), 0) != MAGIC:
                return
            while self._end + _FRAME.size <= size:
                data_bytes, state_bytes, check = _FRAME.unpack(os.pread(fd, _FRAME.size, self._end))
                at = self._end + _FRAME.size + data_bytes
                if at + state_bytes > size or state_bytes > FILE_BYTES_MAX:
                    return
                state = os.pread(fd, state_bytes, at)
                if check != self._checked(data_bytes, state):
                    return
                self._stand(at + state_bytes, check)
                yield state
        except (OSError, struct.error):
            return

    def put(self, raw: bytes) -> bytes:
        with self._lock:
            slot = _SLOT.pack(self._buffer_at + len(self._buffer), len(raw), self._sum(raw))
            self._buffer += raw
            if len(self._buffer) >= BUFFER_BYTES:
                self._flush()
        return slot

    def get(self, slot: bytes) -> bytes:
        try:
            offset, length, check = _SLOT.unpack(slot)
            with self._lock:
                at = offset - self._buffer_at
                raw = bytes(self._buffer[at : at + length]) if at >= 0 else None
            if raw is None:
                raw = b"" if self._fd is None else os.pread(self._fd, length, offset)
        except (OSError, struct.error, OverflowError) as exc:
            raise CacheLost(what="stat cache") from exc
        if len(raw) != length or self._sum(raw) != check:
            raise CacheLost(what="stat cache")
        return raw

    def mark(self) -> int:
        """Return where the next value goes."""
        with self._lock:
            return self._buffer_at + len(self._buffer)

    def drop_after(self, mark: int) -> None:
        """Forget the values that were put since then: no state will name them."""
        with self._lock:
            if mark >= self._buffer_at:
                del self._buffer[mark - self._buffer_at :]
            elif mark >= self._end + _FRAME.size:
                self._buffer.clear()
                self._buffer_at = mark

    def commit(self, state: bytes) -> bool:
        """Let a state stand behind the values that were put; return whether it does."""
        with self._lock:
            if not self._flush():
                return False
            fd, at = self._fd, self._buffer_at
            assert fd is not None, "it was written to"
            data_bytes = at - self._end - _FRAME.size
            check = self._checked(data_bytes, state)
            try:
                _write(fd, state, at)
                _write(fd, _FRAME.pack(data_bytes, len(state), check), self._end)
                if not self.written:
                    _write(fd, MAGIC, 0)
                if self._draft:
                    os.replace(self._path(draft=True), self._path(draft=False))
                    self._draft = False
            except OSError:
                self._writable = False
                return False
            self._stand(at + len(state), check)
            return True

    def _stand(self, end: int, check: bytes) -> None:
        self._end, self._check = end, check
        self._buffer_at = end + _FRAME.size
        self._whole_bytes = self._whole_bytes or end

    def _open(self, flags: int) -> bool:
        """Open the file, or the draft, and take its lock; return whether it is there."""
        try:
            fd = self._fd = os.open(self._path(draft=self._draft), flags | _OPEN, 0o600)
        except OSError:
            return False
        weakref.finalize(self, os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._draft:
                os.ftruncate(fd, 0)
        except OSError:
            self._writable = False
        return True

    def _path(self, *, draft: bool) -> Path:
        return self._folder / f"{self._name}{'.new' if draft else ''}.cache"

    def _flush(self) -> bool:
        """Write what waits; return whether all is written. It stays in memory where that fails."""
        try:
            if self._writable and self._fd is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._writable = self._open(os.O_RDWR | os.O_CREAT) and self._writable
            fd = self._fd
            if fd is None or not self._writable:
                return False
            _write(fd, self._buffer, self._buffer_at)
        except OSError:
            self._writable = False
            return False
        self._buffer_at += len(self._buffer)
        self._buffer.clear()
        return True

    def _sum(self, raw: bytes) -> bytes:
        return blake3(raw, key=self._key).digest(length=CHECK_BYTES)

    def _checked(self, data_bytes: int, state: bytes) -> bytes:
        return self._sum(b"%s%d %s" % (self._check, data_bytes, state))


def _write(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    finally:
        view.release()

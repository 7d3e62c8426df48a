"""What was sent and is not acknowledged: chunks by reference, trimmed by acknowledgements only.

Not a socket buffer and no copy of one: large chunks stay the objects that were read. Without references a
full stream costs a third more, because every byte is copied into cold memory (gateway.md section 5).
"""

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Final

JOINED_BYTES_MAX: Final = 4096
"""Small chunks are joined up to here: a million of one byte each would cost fifty times their bytes."""
ALONE_BYTES_MIN: Final = 512
"""A chunk of so many bytes is not copied to be joined: what an object costs is less than a tenth of it."""
Piece = bytes | memoryview


class Ring:
    """The sending half of one direction of a stream. Offsets count its bytes from 0.

    Args:
        checked: keep the CRC-32 of all that was trimmed; for the direction whose history is compared.
    """

    __slots__ = ("_checked", "_chunks", "_crc", "_start", "acked", "base", "end", "size")

    def __init__(self, *, checked: bool = False) -> None:
        self._checked = checked
        self._chunks: deque[bytes] = deque()
        self._crc = 0
        self._start = 0
        self.acked = 0
        """The peer has everything before this offset."""
        self.base = 0
        """The first byte that is kept; above `acked` after `forget`."""
        self.end = 0
        """One past the last byte."""
        self.size = 0
        """Bytes of memory that are held."""

    @property
    def unacknowledged(self) -> int:
        """Bytes on their way."""
        return self.end - self.acked

    def append(self, data: bytes) -> None:
        """Keep what is being sent; the caller sends it."""
        length, chunks = len(data), self._chunks
        if length >= ALONE_BYTES_MIN or not chunks or len(chunks[-1]) + length > JOINED_BYTES_MAX:
            if length:
                chunks.append(data)
        else:
            chunks[-1] += data
        self.end += length
        self.size += length

    def acknowledge(self, offset: int) -> bool:
        """Trim everything before `offset`; return False, and change nothing, when it cannot be true."""
        if not self.acked <= offset <= self.end:
            return False
        self.acked = offset
        if offset <= self.base:
            return True
        if self._checked:
            self._crc = self.checksum(offset)
        self.base = offset
        while self._chunks and self._start + len(self._chunks[0]) <= offset:
            gone = len(self._chunks.popleft())
            self._start += gone
            self.size -= gone
        return True

    def holds(self, offset: int) -> bool:
        """Say whether a peer that has everything before `offset` can be given the rest."""
        return max(self.base, self.acked) <= offset <= self.end

    def since(self, offset: int) -> Iterator[Piece]:
        """Yield what the peer lacks, oldest first; `offset` must be held."""
        assert self.holds(offset), (self.acked, self.base, offset, self.end)
        yield from self._between(offset, self.end)

    def checksum(self, offset: int) -> int:
        """Return the CRC-32 of the stream's first `offset` bytes; `offset` must be held."""
        assert self._checked
        crc = self._crc
        for piece in self._between(self.base, offset):
            crc = zlib.crc32(piece, crc)
        return crc

    def forget(self) -> None:
        """Let go of the memory: what is not acknowledged by now cannot be replayed any more."""
        assert not self._checked, "a history that is compared is never forgotten"
        self._chunks.clear()
        self.base = self._start = self.end
        self.size = 0

    def _between(self, low: int, high: int) -> Iterator[Piece]:
        at = self._start
        for chunk in self._chunks:
            if at >= high:
                return
            if at + len(chunk) > low:
                first, last = max(0, low - at), min(len(chunk), high - at)
                yield chunk if last - first == len(chunk) else memoryview(chunk)[first:last]
            at += len(chunk)


def messages_of(piece: Piece, limit: int) -> Iterator[Piece]:
    """Cut a piece into messages of at most `limit` bytes, without a copy."""
    if len(piece) <= limit:
        yield piece
        return
    view = memoryview(piece)
    for at in range(0, len(view), limit):
        yield view[at : at + limit]

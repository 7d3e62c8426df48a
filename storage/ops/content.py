"""From a file's bytes to its content: cut into chunks, hand each to a taker, keep the references.

Bytes are read into one buffer of the reading thread and cut where they lie; only chunks that are new are
copied, by the taker. A file of up to 4 MiB is cut when it was read to its end, because a file that changes
meanwhile is read again and nothing of the first try should be stored.
"""

from typing import Final, Protocol

from storage.format.frame import Buffer
from storage.format.keys import BoxKind
from storage.format.limits import CHUNK_BYTES_MAX
from storage.repository.chunker import WHOLE_FILE_BYTES_MAX, Chunker
from storage.repository.packer import ChunkTaker
from storage.scan.entry import PIECE_BYTES, StatFacts

READ_BUFFER_BYTES: Final = PIECE_BYTES + CHUNK_BYTES_MAX
"""One piece, behind what is left of the one before; one such buffer per reading thread."""


class FileContent:
    """A sink of the scanner, for one file after the other."""

    __slots__ = ("_buffer", "_chunker", "_filled", "_seed", "_size", "_taker", "_whole", "refs")

    def __init__(self, taker: ChunkTaker, *, seed: int) -> None:
        self._taker = taker
        self._seed = seed
        self._buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._filled = 0
        self._size = 0
        self._whole = False
        self._chunker: Chunker | None = None
        self.refs: list[tuple[bytes, int]] = []

    def begin(self, facts: StatFacts) -> None:
        """Start over: what came before is void."""
        self.refs = []
        self._filled = 0
        self._size = facts.size
        self._chunker = None
        self._whole = facts.size <= PIECE_BYTES

    def room(self) -> memoryview:
        """Return where the next data is to be put; at least 4 MiB, less what a small file has so far."""
        return self._buffer[self._filled : self._filled + PIECE_BYTES]

    def data(self, count: int) -> None:
        """Take data in order: that much of `room` was filled."""
        self._filled += count
        if not self._whole:
            self._cut(last=False)

    def hole(self, length: int) -> None:
        """Holes are in the extents, not in the content."""

    def end(self) -> list[tuple[bytes, int]]:
        """Return the references of the whole content."""
        if self._filled and self._size <= WHOLE_FILE_BYTES_MAX and self._filled <= CHUNK_BYTES_MAX:
            chunk = self._buffer[: self._filled]
            return [(self._taker.offer(BoxKind.DATA, chunk), len(chunk))]
        if self._filled:
            self._cut(last=True)
        return self.refs

    def _cut(self, *, last: bool) -> None:
        if self._chunker is None:
            self._chunker = Chunker(file_bytes=self._size, seed=self._seed)
        data = self._buffer[: self._filled]
        at = 0
        for length in self._chunker.cut(data, last=last):
            chunk = data[at : at + length]
            self.refs.append((self._taker.offer(BoxKind.DATA, chunk), length))
            at += length
        self._filled -= at
        assert self._filled <= CHUNK_BYTES_MAX, "what is not cut is shorter than a chunk"
        self._buffer[: self._filled] = data[at:]


class IdsOnly:
    """Names chunks without keeping data; tree nodes that are not stored are kept for a comparison."""

    def __init__(self, chunk_id: "ChunkNamer") -> None:
        self._chunk_id = chunk_id
        self.nodes: dict[bytes, bytes] = {}

    def offer(self, kind: BoxKind, content: Buffer) -> bytes:
        """Return the id that a chunk would get."""
        found = self._chunk_id(kind, content)
        if kind is BoxKind.META:
            self.nodes[found] = bytes(content)
        return found


class ChunkNamer(Protocol):
    """`EpochKeys.chunk_id`."""

    def __call__(self, kind: BoxKind, content: Buffer) -> bytes: ...

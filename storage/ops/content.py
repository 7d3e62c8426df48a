"""From a file's bytes to its content: cut into chunks, hand each to a taker, keep the references.

A file that comes as one piece is only cut when it was read to its end, because a file that changes meanwhile
is read again and nothing of the first try should be stored.
"""

from typing import Protocol

from storage.format.keys import BoxKind
from storage.repository.chunker import Chunker
from storage.repository.packer import ChunkTaker
from storage.scan.entry import PIECE_BYTES, StatFacts


class FileContent:
    """A sink of the scanner for one file."""

    __slots__ = ("_chunker", "_held", "_seed", "_taker", "refs")

    def __init__(self, taker: ChunkTaker, *, seed: int) -> None:
        self._taker = taker
        self._seed = seed
        self._held: list[bytes] | None = None
        self._chunker: Chunker | None = None
        self.refs: list[tuple[bytes, int]] = []

    def begin(self, facts: StatFacts) -> None:
        """Start over: what came before is void."""
        self.refs = []
        self._chunker = Chunker(file_bytes=facts.size, seed=self._seed)
        self._held = [] if facts.size <= PIECE_BYTES else None

    def data(self, piece: bytes) -> None:
        """Take data in order."""
        if self._held is not None:
            self._held.append(piece)
        else:
            self._feed(piece)

    def hole(self, length: int) -> None:
        """Holes are in the extents, not in the content."""

    def end(self) -> list[tuple[bytes, int]]:
        """Return the references of the whole content."""
        for piece in self._held or ():
            self._feed(piece)
        if self._chunker is not None:
            for chunk in self._chunker.end():
                self.refs.append((self._taker.offer(BoxKind.DATA, chunk), len(chunk)))
        return self.refs

    def _feed(self, piece: bytes) -> None:
        assert self._chunker is not None, "begin comes first"
        for chunk in self._chunker.feed(piece):
            self.refs.append((self._taker.offer(BoxKind.DATA, chunk), len(chunk)))


class IdsOnly:
    """Names chunks without keeping data; tree nodes that are not stored are kept for a comparison."""

    def __init__(self, chunk_id: "ChunkNamer") -> None:
        self._chunk_id = chunk_id
        self.nodes: dict[bytes, bytes] = {}

    def offer(self, kind: BoxKind, content: bytes) -> bytes:
        """Return the id that a chunk would get."""
        found = self._chunk_id(kind, content)
        if kind is BoxKind.META:
            self.nodes[found] = content
        return found


class ChunkNamer(Protocol):
    """`EpochKeys.chunk_id`."""

    def __call__(self, kind: BoxKind, content: bytes) -> bytes: ...

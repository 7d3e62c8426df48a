"""Finds in a seed what a restore would fetch: chunk by chunk where the checkpoint has them in a file.

A chunk of the seed counts if its keyed hash is the id that the checkpoint names, and it is these very bytes
in memory that are written: names, sizes and times of the seed prove nothing, and what its owner does to a
file after it was read does not matter. So a wrong seed costs the time to read and hash it, at most as many
bytes as are restored.

No clone of extents (FICLONE): it would have to be checked after it was made, and hole by hole.

Source: storage.md 4.6 "Keep the previous home as a seed".
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final, NamedTuple

from storage.format.limits import CHUNK_BYTES_MAX, MIB
from storage.scan.seed import SeedFolder, read_into

BATCH_BYTES: Final = max(MIB, CHUNK_BYTES_MAX)
"""Read and hashed at once; each lane has a buffer of this."""

IsChunk = Callable[[bytes, memoryview], bool]
Extents = tuple[tuple[int, int], ...]


class Run(NamedTuple):
    """Neighbouring chunks of one file that the seed has, or has not."""

    first: int
    """Number of the first chunk in the file."""
    chunks: int
    data_start: int
    """Bytes of the file's data before it, holes not counted."""
    data: memoryview | None
    """The bytes, until the next run is asked for; None if they must be fetched."""


Runs = Generator[Run, None, None]


class Seeding:
    """One thread's hand of a seed. Close it."""

    def __init__(self, root_fd: int, beneath: bytes, is_chunk: IsChunk) -> None:
        """Take the seed, which stays the caller's to close.

        Args:
            beneath: where in the seed lies what is restored, if that is a part of a home.
        """
        self._folder = SeedFolder(root_fd)
        self._beneath = beneath + b"/" if beneath else b""
        self._is_chunk = is_chunk
        self._buffer = memoryview(bytearray(BATCH_BYTES))

    def runs(self, path: bytes, refs: Sequence[tuple[bytes, int]], extents: Extents | None) -> Runs:
        """Yield all chunks of a file in order; nothing at all if the seed has no such file."""
        fd = self._folder.open(self._beneath + path)
        if fd is None:
            return
        try:
            first = data_start = size = 0
            places = _Places(extents)
            for number, (_, length) in enumerate(refs):
                if size + length > BATCH_BYTES:
                    yield from self._batch(fd, refs, first, number, data_start, places.of(size))
                    first, data_start, size = number, data_start + size, 0
                size += length
            yield from self._batch(fd, refs, first, len(refs), data_start, places.of(size))
        finally:
            os.close(fd)

    def _batch(
        self,
        fd: int,
        refs: Sequence[tuple[bytes, int]],
        first: int,
        end: int,
        data_start: int,
        places: Iterator[tuple[int, int]],
    ) -> Runs:
        """Read some chunks and say which of them are the wanted ones."""
        filled, ended = 0, False
        for offset, length in places:
            if not ended:
                count = read_into(fd, self._buffer[filled : filled + length], offset)
                filled, ended = filled + count, count < length
        at = start = 0
        since, good = first, False
        for number in range(first, end):
            chunk_id, length = refs[number]
            stop = at + length
            here = stop <= filled and self._is_chunk(chunk_id, self._buffer[at:stop])
            if here is not good and number > since:
                yield self._run(since, number, data_start, start, at, good)
                since, start = number, at
            good, at = here, stop
        yield self._run(since, end, data_start, start, at, good)

    def _run(self, first: int, end: int, data_start: int, start: int, stop: int, good: bool) -> Run:
        return Run(first, end - first, data_start + start, self._buffer[start:stop] if good else None)

    def close(self) -> None:
        """Close what it holds open of the seed."""
        self._folder.close()


class _Places:
    """Where the data of a file lies in it, holes left out, from its beginning to its end."""

    def __init__(self, extents: Extents | None) -> None:
        self._extents = extents
        self._number = 0
        self._at = 0

    def of(self, length: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, bytes) of the next `length` bytes of data."""
        if self._extents is None:
            self._at += length
            yield self._at - length, length
            return
        while length and self._number < len(self._extents):
            offset, size = self._extents[self._number]
            count = min(length, size - self._at)
            yield offset + self._at, count
            length -= count
            self._at += count
            if self._at == size:
                self._number, self._at = self._number + 1, 0

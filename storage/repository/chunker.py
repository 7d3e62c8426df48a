"""Where files are cut into chunks. Readers know nothing of it: a cut rule may change without a new format.

Up to 32 KiB: one chunk (95 % of a home). SQLite files: every 4 KiB, which is a page or an even part of one,
because 15 inserts then store 0.019 MB instead of 0.16 MB at 64 KiB (storage.md section 0), and a row changes
two or three parts of a page of 32 KiB, not all. Everything else: FastCDC with the repository's seed, finer
for text, because text grows and is edited: what a log got since its last cut is stored again each time.
Every 32 MiB of data a chunk ends in any case, so that parts of a large file can be worked on
independently.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from storage.errors import PartMissing
from storage.format.limits import CHUNK_BYTES_MAX, KIB, MIB

WHOLE_FILE_BYTES_MAX: Final = 32 * KIB
SUPER_BLOCK_BYTES: Final = 32 * MIB
LARGE_FILE_BYTES: Final = 256 * MIB
NORMALIZED: Final = 2
SEED_MASK: Final = (1 << 63) - 1
"""pyfastcdc 0.3.1 doubles the seed and overflows where its highest bit is set."""
SQLITE_MAGIC: Final = b"SQLite format 3\0"
SQLITE_START_BYTES: Final = 18
SQLITE_CUT_BYTES: Final = 4 * KIB
TEXT_BYTES_MAX: Final = 16 * MIB
"""Of a file that is cut finely: beyond, references would be too many for what edits save."""
TEXT_LOOK_BYTES: Final = 512
_PAGE_SIZE: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSizes:
    """Smallest, average and largest chunk of FastCDC; bytes."""

    smallest: int
    average: int
    largest: int


USUAL: Final = CutSizes(smallest=16 * KIB, average=64 * KIB, largest=256 * KIB)
TEXT: Final = CutSizes(smallest=4 * KIB, average=16 * KIB, largest=64 * KIB)
LARGE: Final = CutSizes(smallest=64 * KIB, average=256 * KIB, largest=1 * MIB)
assert LARGE.largest <= CHUNK_BYTES_MAX, "a chunk must fit the format"


def require_compiled() -> Callable[..., Any]:
    """Return the compiled FastCDC. Without its compiled part it would run 150 times slower, in silence."""
    try:
        from pyfastcdc.cy import FastCDC
    except ImportError as exc:
        raise PartMissing(part="pyfastcdc, compiled") from exc
    return FastCDC  # type: ignore[no-any-return]  # the package has no types


class Chunker:
    """Cuts one file's data. Cut points do not depend on how the data was cut into pieces.

    The caller keeps the data in a buffer and tells how much of it lies there; `cut` answers where it ends
    for certain, and what is behind that must be there again, with more behind it, at the next call.
    """

    __slots__ = ("_block_left", "_cutter", "_page", "_seed", "_size", "_started")

    def __init__(self, *, file_bytes: int, seed: int) -> None:
        self._size = file_bytes
        self._seed = seed
        self._cutter: Any = None
        self._page = 0
        self._started = False
        self._block_left = SUPER_BLOCK_BYTES

    def cut(self, data: memoryview, *, last: bool) -> list[int]:
        """Return the lengths of the chunks that are certain at the beginning of `data`.

        Args:
            data: what was not cut yet, in order, without a gap.
            last: nothing follows, so everything is cut.
        """
        if not self._started:
            self._start(data)
        lengths: list[int] = []
        at = 0
        while len(data) - at >= self._block_left:
            block = data[at : at + self._block_left]
            lengths += self._lengths(block)
            at += len(block)
            self._block_left = SUPER_BLOCK_BYTES
        if at < len(data):
            found = self._lengths(data[at:])
            if not last:
                found.pop()  # its end was the end of the data, perhaps not a cut
            lengths += found
            self._block_left -= sum(found)
        return lengths

    def _start(self, data: memoryview) -> None:
        self._started = True
        if self._size <= WHOLE_FILE_BYTES_MAX:
            return
        start = bytes(data[:TEXT_LOOK_BYTES])
        if is_sqlite(start):
            self._page = SQLITE_CUT_BYTES
        else:
            self._cutter = cutter_for(sizes_for(self._size, start), self._seed & SEED_MASK)

    def _lengths(self, data: memoryview) -> list[int]:
        if self._cutter is not None:
            return [chunk.length for chunk in self._cutter.cut_buf(data)]
        step = self._page or CHUNK_BYTES_MAX
        whole, rest = divmod(len(data), step)
        return [step] * whole + ([rest] if rest else [])


def sizes_for(file_bytes: int, start: bytes) -> CutSizes:
    """Return how to cut a file, from its size and its first bytes."""
    if file_bytes > LARGE_FILE_BYTES:
        return LARGE
    return TEXT if file_bytes <= TEXT_BYTES_MAX and is_text(start) else USUAL


def is_text(start: bytes) -> bool:
    """Return whether a file seems to be text: ASCII, and no NUL."""
    return start.isascii() and b"\0" not in start


def cutter_for(sizes: CutSizes, seed: int) -> Any:
    """Return a cutter."""
    return require_compiled()(
        sizes.average,
        min_size=sizes.smallest,
        max_size=sizes.largest,
        normalized_chunking=NORMALIZED,
        seed=seed,
    )


def is_sqlite(start: bytes) -> bool:
    """Return whether a file is a SQLite database, from its first bytes; what it says of itself must fit."""
    if len(start) < SQLITE_START_BYTES or not start.startswith(SQLITE_MAGIC):
        return False
    told: int
    (told,) = _PAGE_SIZE.unpack_from(start, 16)
    return told == 1 or (told >= 512 and not told & (told - 1))

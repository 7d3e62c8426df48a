"""Where files are cut into chunks. Readers know nothing of it: a cut rule may change without a new format.

Up to 32 KiB: one chunk (95 % of a home). SQLite files: at their own page size, because 15 inserts then store
0.019 MB instead of 0.16 MB at 64 KiB (storage.md section 0). Everything else: FastCDC with the repository's
seed. Every 32 MiB of data a chunk ends in any case, so that parts of a large file can be worked on
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
SQLITE_PAGE_BYTES_MIN: Final = 4 * KIB
SQLITE_PAGE_BYTES_MAX: Final = 64 * KIB
_PAGE_SIZE: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSizes:
    """Smallest, average and largest chunk of FastCDC; bytes."""

    smallest: int
    average: int
    largest: int


USUAL: Final = CutSizes(smallest=16 * KIB, average=64 * KIB, largest=256 * KIB)
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
        self._page = sqlite_page_bytes(bytes(data[:SQLITE_START_BYTES]))
        if not self._page:
            self._cutter = cutter_for(self._size, self._seed & SEED_MASK)

    def _lengths(self, data: memoryview) -> list[int]:
        if self._cutter is not None:
            return [chunk.length for chunk in self._cutter.cut_buf(data)]
        step = self._page or CHUNK_BYTES_MAX
        whole, rest = divmod(len(data), step)
        return [step] * whole + ([rest] if rest else [])


def cutter_for(file_bytes: int, seed: int) -> Any:
    """Return a cutter for a file of that size."""
    sizes = LARGE if file_bytes > LARGE_FILE_BYTES else USUAL
    return require_compiled()(
        sizes.average,
        min_size=sizes.smallest,
        max_size=sizes.largest,
        normalized_chunking=NORMALIZED,
        seed=seed,
    )


def sqlite_page_bytes(start: bytes) -> int:
    """Return at what size to cut a SQLite file, from its first bytes; 0 if it is none."""
    if len(start) < SQLITE_START_BYTES or not start.startswith(SQLITE_MAGIC):
        return 0
    (told,) = _PAGE_SIZE.unpack_from(start, 16)
    page: int = 65_536 if told == 1 else told
    if page < 512 or page & (page - 1):
        return 0
    return min(max(page, SQLITE_PAGE_BYTES_MIN), SQLITE_PAGE_BYTES_MAX)

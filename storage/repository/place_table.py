"""Where chunks lie, packed: 32 bytes for each, in the order of their ids.

A dict of values took 300 bytes for each chunk of every opened repository, most of what an open home kept.
What came lately is in a dict, and goes to the rest between two calls, when there is much of it: packing costs
two thirds of a microsecond for each chunk that is known. Ids are spread evenly, so their first bits find a
place to within four or so. Looking one up takes a microsecond, three times what a dict takes, which is why
the first proof or restore of a process still asks the dict.

Not here: what the numbers mean (`index.py`).
"""

import struct
import threading
from array import array
from bisect import bisect_left
from typing import Final

from storage.format.keys import CHUNK_ID_BYTES
from storage.format.table import checked_chunk_refs

_VALUE: Final = struct.Struct(">IIII")
_FIRST: Final = struct.Struct(f">I{CHUNK_ID_BYTES - 4 + _VALUE.size}x")
ROW_BYTES: Final = CHUNK_ID_BYTES + _VALUE.size
NEW_MIN: Final = 2_048
"""So many late chunks stay in a dict, however few others there are."""
NEW_SHARE: Final = 4
"""More than one in so many are packed between two calls."""
LOADED_MIN: Final = 262_144
"""While a log is read, and from so many on, it is packed whenever it has doubled."""
BUCKET_BITS_LESS: Final = 2
FIRST_BITS: Final = 32

Numbers = tuple[int, int, int, int]
"""Container, segment, first raw byte, length."""
_Packed = tuple[bytes, "array[int]", int]
"""Rows; at which byte of them each bucket begins; by how many bits a bucket's number is shorter than 32."""


class PlaceTable:
    """Four numbers for each chunk id; the first ones that were put stay. For any thread."""

    __slots__ = ("_lock", "_new", "_packed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: dict[bytes, bytes] = {}
        self._packed: _Packed = _nothing()

    def __len__(self) -> int:
        """Return how many ids there are, or a few more: what came lately may have been there already."""
        return len(self._packed[0]) // ROW_BYTES + len(self._new)

    def get(self, chunk_id: bytes) -> Numbers | None:
        """Return what was put for an id."""
        new = self._new  # before what is packed, where it goes from here
        packed = self._packed
        rows, starts, shift = packed
        if rows:
            bucket = int.from_bytes(chunk_id[:4], "big") >> shift
            at = rows.find(chunk_id, starts[bucket], starts[bucket + 1])
            if at % ROW_BYTES:
                at = _find(packed, chunk_id)  # not there, or these bytes lie across two others
            if at >= 0:
                return _VALUE.unpack_from(rows, at + CHUNK_ID_BYTES)
        value = new.get(chunk_id)
        return None if value is None else _VALUE.unpack(value)

    def is_elsewhere(self, container: int, segment: int, refs: bytes) -> bool:
        """Return whether one of the chunks of a segment was put for another one before."""
        for chunk_id, _ in checked_chunk_refs(refs):
            found = self.get(chunk_id)
            if found is None or found[:2] != (container, segment):
                return True
        return False

    def settle(self) -> None:
        """Pack what came lately, if it is much. For whoever is done with what he opened the log for."""
        if len(self._new) > NEW_MIN:
            self._pack(NEW_MIN)

    def put(self, container: int, segment: int, refs: bytes) -> None:
        """Put the chunks of one segment, from packed references in the order in which they lie."""
        start, pack = 0, _VALUE.pack
        with self._lock:
            new = self._new
            for chunk_id, length in checked_chunk_refs(refs):
                if chunk_id not in new:
                    new[chunk_id] = pack(container, segment, start, length)
                start += length
        if len(new) > LOADED_MIN:
            self._pack(LOADED_MIN, 1)

    def _pack(self, least: int, share: int = NEW_SHARE) -> None:
        """Pack what is new if there is more of it than that, and a share of all."""
        with self._lock:
            packed, new = self._packed, self._new
            rows = packed[0]
            if len(new) <= least or len(new) * share * ROW_BYTES <= len(rows):
                return
            found = [chunk_id + value for chunk_id, value in new.items() if _find(packed, chunk_id) < 0]
            found += [rows[at : at + ROW_BYTES] for at in range(0, len(rows), ROW_BYTES)]
            found.sort()
            self._packed = _packed(b"".join(found))
            self._new = {}


def _find(packed: _Packed, chunk_id: bytes) -> int:
    """Return where the row of an id begins, or -1."""
    rows, starts, shift = packed
    bucket = int.from_bytes(chunk_id[:4], "big") >> shift
    at, end = starts[bucket], starts[bucket + 1]
    while (at := rows.find(chunk_id, at, end)) >= 0 and at % ROW_BYTES:
        at += 1  # these bytes lie across others
    return at


def _nothing() -> _Packed:
    return b"", array("Q", (0, 0)), FIRST_BITS


def _packed(rows: bytes) -> _Packed:
    count = len(rows) // ROW_BYTES
    bits = max(0, count.bit_length() - BUCKET_BITS_LESS)
    firsts = array("I", (first for (first,) in _FIRST.iter_unpack(rows)))
    less = FIRST_BITS - bits
    starts = array("Q", (bisect_left(firsts, one << less) * ROW_BYTES for one in range(1 << bits)))
    starts.append(len(rows))
    return rows, starts, less

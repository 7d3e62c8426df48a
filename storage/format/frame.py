"""Frames: the plaintext inside a sealed box, with its codec, its lengths and its padding.

codec u8 (0 stored, 1 zstd), entry kind u8, u16 zero, raw length u32, coded length u32, coded bytes, then zero
bytes. zstd input is hostile until proven: `max_output_size` is ignored when a frame states its size, and a
second frame is dropped in silence (both tried with zstandard 0.25), so the frame's own parameters are looked
at first.

Source: storage.md 4.1 "Box", 4.6 "zstd".
"""

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

import zstandard

from storage.errors import LimitReached, Malformed, NewerServiceNeeded
from storage.format.limits import FRAME_OVERHEAD_BYTES, PADDING_BYTES_MAX, ZSTD_WINDOW_BYTES_MAX

STORED: Final = 0
ZSTD: Final = 1
ZSTD_LEVEL: Final = 1
"""Level 3 costs twice the time for 10 % fewer bytes (measured, storage.md 2.1)."""
ZSTD_LEVEL_LITTLE: Final = 6
"""For the little that a checkpoint of a minute stores: some ms for 300 KB, and a tenth fewer bytes."""
WORTH_IT: Final = 0.97
"""Compressed bytes are kept only where they save at least 3 %."""

_PREFIX: Final = struct.Struct("<BBHII")

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that may belong to a reused buffer: whoever keeps them copies them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An opened frame. `kind` is the entry kind in heads of `c/` and `b/`, else 0."""

    kind: int
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameView:
    """An opened frame whose bytes may lie in the frame itself."""

    kind: int
    raw: Buffer


def new_compressor(level: int = ZSTD_LEVEL) -> zstandard.ZstdCompressor:
    """Return a compressor for frames. One thread at a time may use it."""
    return zstandard.ZstdCompressor(level=level)


def make_frame(raw: bytes, *, kind: int = 0, compress: bool = True, padding: int = 0) -> bytes:
    """Return the frame of `raw`; compressed only where that saves at least 3 %."""
    codec, coded = STORED, raw
    if compress and raw:
        smaller = new_compressor().compress(raw)
        if len(smaller) <= len(raw) * WORTH_IT:
            codec, coded = ZSTD, smaller
    return _PREFIX.pack(codec, kind, 0, len(raw), len(coded)) + coded + _zeros(padding)


def frame_in_place(room: memoryview, compressor: zstandard.ZstdCompressor) -> Buffer:
    """Return the frame of what lies behind the first 12 bytes of `room`; the same as `make_frame`.

    What does not shrink is not copied: its prefix is written into the 12 bytes, and the frame is `room`.
    """
    raw = room[FRAME_OVERHEAD_BYTES:]
    smaller = compressor.compress(raw)
    if len(smaller) <= len(raw) * WORTH_IT:
        return _PREFIX.pack(ZSTD, 0, 0, len(raw), len(smaller)) + smaller
    _PREFIX.pack_into(room, 0, STORED, 0, 0, len(raw), len(raw))
    return room


def pad_frame(frame: Buffer, padding: int) -> bytes:
    """Return a frame with `padding` more zero bytes at its end."""
    return bytes(frame) + _zeros(padding)


def _zeros(padding: int) -> bytes:
    if not 0 <= padding <= PADDING_BYTES_MAX:
        raise LimitReached(limit="padding", value=padding)
    return bytes(padding)


def open_frame(frame: Buffer, *, raw_bytes_max: int) -> Frame:
    """Return what a frame holds, as bytes of its own; else as `view_frame`."""
    opened = view_frame(frame, raw_bytes_max=raw_bytes_max)
    return Frame(kind=opened.kind, raw=bytes(opened.raw))


def view_frame(frame: Buffer, *, raw_bytes_max: int) -> FrameView:
    """Return what a frame holds, not copied where it was stored as it is.

    Raises:
        Malformed: any length, byte or zstd parameter is not as it must be.
        NewerServiceNeeded: unknown codec.
    """
    if len(frame) < FRAME_OVERHEAD_BYTES:
        raise Malformed(rule="frame prefix")
    codec, kind, zero, raw_bytes, coded_bytes = _PREFIX.unpack_from(frame)
    end = FRAME_OVERHEAD_BYTES + coded_bytes
    if zero or raw_bytes > raw_bytes_max or end > len(frame):
        raise Malformed(rule="frame lengths")
    if len(frame) - end > PADDING_BYTES_MAX or any(frame[end:]):
        raise Malformed(rule="frame padding")
    coded = memoryview(frame)[FRAME_OVERHEAD_BYTES:end]
    if codec == STORED:
        if coded_bytes != raw_bytes:
            raise Malformed(rule="stored frame length")
        return FrameView(kind=kind, raw=coded)
    if codec != ZSTD:
        raise NewerServiceNeeded(what="codec", value=codec)
    return FrameView(kind=kind, raw=_expand(coded, raw_bytes))


def _expand(coded: memoryview, raw_bytes: int) -> bytes:
    try:
        told = zstandard.get_frame_parameters(coded)
        if told.content_size != raw_bytes or told.dict_id or told.window_size > ZSTD_WINDOW_BYTES_MAX:
            raise Malformed(rule="zstd frame parameters")
        # A new object per frame: zstandard's must not be shared between threads, and this one is cheap.
        opened = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        raw = opened.decompress(coded, max_output_size=raw_bytes, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError, ValueError) as exc:
        raise Malformed(rule="zstd frame") from exc
    if len(raw) != raw_bytes:
        raise Malformed(rule="zstd frame length")
    return raw

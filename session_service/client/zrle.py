"""ZRLE rectangles: the encoding that costs a program on a slow line a hundredth of the bytes of Raw.

Not a decoder of all pixel formats: only of the one that we ask for (32 bits, 24 of colour, little-endian),
whose compressed pixels are blue, green and red. One zlib stream serves a whole RFB stream, in order, and dies
with it: a resync needs a new decoder. Source: RFC 6143 section 7.7.6.
"""

import zlib
from typing import Final

from session_service.client.framebuffer import NotRfb
from session_service.core.rfb_looking import PIXEL_BYTES

TILE_PIXELS: Final = 64
COLOUR_BYTES: Final = 3
INFLATED_BYTES_MAX: Final = 96 << 20
"""One rectangle, unpacked; a screen of 4096 x 4096 has 64 MiB of pixels."""
_PALETTE_MAX: Final = 16
_PLAIN_RUNS: Final = 128
_PALETTE_RUNS: Final = 130


class Zrle:
    """Decodes the rectangles of one RFB stream."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj()

    def decode(self, data: bytes, width: int, height: int) -> bytes:
        """Return the rows of a rectangle, four bytes a pixel. Raises NotRfb."""
        try:
            plain = self._inflate.decompress(data, INFLATED_BYTES_MAX)
        except zlib.error as exc:
            raise NotRfb("a rectangle that cannot be unpacked") from exc
        if self._inflate.unconsumed_tail:
            raise NotRfb("a rectangle that is too large when unpacked")
        rows = bytearray(width * height * PIXEL_BYTES)
        at = 0
        for y in range(0, height, TILE_PIXELS):
            for x in range(0, width, TILE_PIXELS):
                wide, high = min(TILE_PIXELS, width - x), min(TILE_PIXELS, height - y)
                try:
                    tile, at = _tile(plain, at, wide, high)
                except IndexError as exc:
                    raise NotRfb("a rectangle that ends too early") from exc
                length = wide * PIXEL_BYTES
                for line in range(high):
                    place = ((y + line) * width + x) * PIXEL_BYTES
                    rows[place : place + length] = tile[line * length : (line + 1) * length]
        if at != len(plain):
            raise NotRfb("a rectangle with something behind it")
        return bytes(rows)


def _tile(data: bytes, at: int, width: int, height: int) -> tuple[bytes, int]:
    kind, at, count = data[at], at + 1, width * height
    if kind == 0:
        end = at + count * COLOUR_BYTES
        if end > len(data):
            raise IndexError
        return _wide(data[at:end]), end
    if kind == 1:
        pixel, at = _pixel(data, at)
        return pixel * count, at
    if kind == _PLAIN_RUNS:
        return _plain_runs(data, at, count)
    if kind > _PLAIN_RUNS:
        if kind < _PALETTE_RUNS:
            raise NotRfb(f"a tile of kind {kind}")
        palette, at = _palette(data, at, kind - _PLAIN_RUNS)
        return _palette_runs(data, at, count, palette)
    if kind > _PALETTE_MAX:
        raise NotRfb(f"a tile of kind {kind}")
    palette, at = _palette(data, at, kind)
    return _packed(data, at, width, height, palette)


def _wide(colours: bytes) -> bytes:
    """Three bytes a pixel become four."""
    out = bytearray(len(colours) // COLOUR_BYTES * PIXEL_BYTES)
    for part in range(COLOUR_BYTES):
        out[part::PIXEL_BYTES] = colours[part::COLOUR_BYTES]
    return bytes(out)


def _pixel(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + COLOUR_BYTES
    if end > len(data):
        raise IndexError
    return data[at:end] + b"\0", end


def _palette(data: bytes, at: int, size: int) -> tuple[list[bytes], int]:
    palette = []
    for _ in range(size):
        pixel, at = _pixel(data, at)
        palette.append(pixel)
    return palette, at


def _run(data: bytes, at: int) -> tuple[int, int]:
    length = 1
    while data[at] == 255:
        length, at = length + 255, at + 1
    return length + data[at], at + 1


def _plain_runs(data: bytes, at: int, count: int) -> tuple[bytes, int]:
    out = bytearray()
    while len(out) < count * PIXEL_BYTES:
        pixel, at = _pixel(data, at)
        length, at = _run(data, at)
        out += pixel * _within(length, count)
    return _whole(out, count), at


def _palette_runs(data: bytes, at: int, count: int, palette: list[bytes]) -> tuple[bytes, int]:
    out = bytearray()
    while len(out) < count * PIXEL_BYTES:
        index, at, length = data[at], at + 1, 1
        if index & 0x80:
            length, at = _run(data, at)
        out += palette[index & 0x7F] * _within(length, count)
    return _whole(out, count), at


def _within(length: int, count: int) -> int:
    """A run cannot be longer than its tile; said before memory is taken for it."""
    if length > count:
        raise NotRfb("a run that is longer than its tile")
    return length


def _whole(out: bytearray, count: int) -> bytes:
    if len(out) != count * PIXEL_BYTES:
        raise NotRfb("a run that leaves its tile")
    return bytes(out)


def _packed(data: bytes, at: int, width: int, height: int, palette: list[bytes]) -> tuple[bytes, int]:
    bits = 1 if len(palette) == 2 else 2 if len(palette) <= 4 else 4
    mask, line_bytes = (1 << bits) - 1, (width * bits + 7) // 8
    out = bytearray()
    for _ in range(height):
        if at + line_bytes > len(data):
            raise IndexError
        line = int.from_bytes(data[at : at + line_bytes], "big")
        top = line_bytes * 8 - bits
        for column in range(width):
            out += palette[line >> (top - column * bits) & mask]
        at += line_bytes
    return bytes(out), at

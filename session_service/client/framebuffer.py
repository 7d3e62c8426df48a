"""What a VNC client knows of a screen: a framebuffer, what changes it, and the keys and clicks that it sends.

Pure: bytes in, values out. Only what every server must offer (RFB 3.8, RFC 6143): raw and copied
rectangles and a changed size, 32 bits a pixel. Not a viewer: programs look at pixels and type.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from session_service.core.rfb_looking import PIXEL_BYTES

SIDE_PIXELS_MAX: Final = 16_384
_RETURN: Final = 0xFF0D
_KEYS: Final = {"\n": _RETURN, "\r": _RETURN, "\t": 0xFF09, "\b": 0xFF08, "\x1b": 0xFF1B}


class NotRfb(Exception):
    """The desktop sent what no server sends. Says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The pixels of a rectangle: rows of blue, green, red and an unused byte."""

    width: int
    height: int
    pixels: bytes

    def part(self, x: int, y: int, width: int, height: int) -> "Picture":
        """Return a rectangle of it, cut at its edges."""
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        x, y = min(x, right), min(y, bottom)
        row = self.width * PIXEL_BYTES
        rows = (
            self.pixels[line * row + x * PIXEL_BYTES : line * row + right * PIXEL_BYTES]
            for line in range(y, bottom)
        )
        return Picture(width=right - x, height=bottom - y, pixels=b"".join(rows))

    def png(self) -> bytes:
        """Return it as a PNG file."""
        from PIL import Image  # late: most programs never ask for one, and it takes a tenth of a second

        image = Image.frombuffer("RGB", (self.width, self.height), self.pixels, "raw", "BGRX", 0, 1)
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def differing(self, other: "Picture") -> int:
        """Return how many pixels differ; all of them if the sizes do."""
        if (self.width, self.height) != (other.width, other.height):
            return self.width * self.height
        if self.pixels == other.pixels:
            return 0
        mine, theirs = memoryview(self.pixels).cast("I"), memoryview(other.pixels).cast("I")
        return sum((left ^ right) & 0xFFFFFF != 0 for left, right in zip(mine, theirs, strict=True))


class Framebuffer:
    """The screen as it was last told."""

    def __init__(self, width: int, height: int) -> None:
        self.width = 0
        self.height = 0
        self._pixels = bytearray()
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Take a new size; what was there is void."""
        if not (0 < width <= SIDE_PIXELS_MAX and 0 < height <= SIDE_PIXELS_MAX):
            raise NotRfb(f"a screen of {width} x {height}")
        self.width, self.height = width, height
        self._pixels = bytearray(width * height * PIXEL_BYTES)

    def put(self, x: int, y: int, width: int, height: int, rows: bytes) -> None:
        """Take a raw rectangle."""
        self._check(x, y, width, height)
        length = width * PIXEL_BYTES
        for line in range(height):
            place = ((y + line) * self.width + x) * PIXEL_BYTES
            self._pixels[place : place + length] = rows[line * length : (line + 1) * length]

    def copy(self, x: int, y: int, width: int, height: int, from_x: int, from_y: int) -> None:
        """Take a copied rectangle."""
        self._check(from_x, from_y, width, height)
        self.put(x, y, width, height, self.picture().part(from_x, from_y, width, height).pixels)

    def picture(self) -> Picture:
        """Return all of it as it is now."""
        return Picture(width=self.width, height=self.height, pixels=bytes(self._pixels))

    def _check(self, x: int, y: int, width: int, height: int) -> None:
        if x + width > self.width or y + height > self.height:
            raise NotRfb("a rectangle outside of the screen")


def keys_of(text: str) -> Iterator[bytes]:
    """Give a press and a release for each letter of a text."""
    for letter in text:
        code = ord(letter)
        symbol = _KEYS.get(letter, code if code < 0x100 else 0x1000000 | code)
        yield key(symbol, down=True) + key(symbol, down=False)


def key(symbol: int, *, down: bool) -> bytes:
    """Return one key event."""
    return struct.pack(">BBxxI", 4, down, symbol)


def pointer(x: int, y: int, buttons: int) -> bytes:
    """Return one pointer event; `buttons` is a mask, 1 is the left one."""
    return struct.pack(">BBHH", 5, buttons, x, y)

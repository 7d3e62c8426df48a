"""One look at a desktop for a small picture: connect, ask for the screen strip by strip, hang up.

Not a link: it has no client, holds nothing up and sends no input (docs/design/0024-picture-of-a-desktop.md).
What a desktop says is believed only within what was asked for: the memory is one strip's, whatever size it
claims.

Source: RFC 6143; a server must always understand Raw.
"""

import asyncio
import io
import struct
from typing import TYPE_CHECKING, Final

from session_service.base.errors import PartUnavailable
from session_service.core.rfb_looking import (
    GREETING,
    PIXEL_BYTES,
    RAW,
    SECURITY_NONE,
    SHARED,
    TEXT_BYTES_MAX,
    first_messages,
    update_request,
)
from session_service.gateway.leg import DesktopSocketRefused, open_desktop_socket
from session_service.gateway.limits import GatewayLimits
from session_service.ports.pictures import TakenPicture

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_S: Final = 5.0
"""For a whole look. A display that stands still, or is busy with others, has no picture."""
SIDE_PIXELS: Final = 640
"""The longer side of a picture at most: enough to know a desktop by."""
SCREEN_PIXELS_MAX: Final = 7680 * 4320
"""A larger screen has no picture: reading it would take a core for a second."""
STRIP_BYTES: Final = 512 * 1024
"""Of the screen at a time; one is asked for when the one before was made small."""
PIECES_MAX: Final = 1024
"""Messages and rectangles until a strip is whole. A display needs some; without an end of them one that only
rings its bell would stop the loop, because what is here already is read without a pause.
"""
NAME_BYTES_MAX: Final = 64 * 1024
QUALITY: Final = 75

_UPDATE, _COLOURS, _BELL, _CUT_TEXT = 0, 1, 2, 3


class NoPicture(Exception):
    """The desktop says what no desktop says, or what there is no picture of."""


class DesktopPictures:
    """Implements `ports.pictures.Pictures`."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits

    async def take(self, *, socket: str, uid: int | None) -> TakenPicture:
        """Look once at the desktop behind `socket`."""
        try:
            async with asyncio.timeout(PICTURE_S):
                connected = await open_desktop_socket(socket, uid, self._limits)
                reader, writer = await asyncio.open_unix_connection(sock=connected)
                try:
                    return await _Look(reader, writer).take()
                finally:
                    writer.transport.abort()
        except (OSError, EOFError, TimeoutError, NoPicture, DesktopSocketRefused) as exc:
            raise PartUnavailable("The desktop shows no picture now.", part="desktop") from exc


class _Look:
    """The handshake, then strips."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._width = 0
        self._height = 0
        self._pieces = 0
        """Said since the strip was asked for."""

    async def take(self) -> TakenPicture:
        await self._greet()
        factor = max(1, -(-max(self._width, self._height) // SIDE_PIXELS))
        rows = factor * max(1, STRIP_BYTES // (self._width * PIXEL_BYTES * factor))
        strips: list[Image] = []
        for top in range(0, self._height, rows):
            height = min(rows, self._height - top)
            pixels = await self._strip(top, height)
            strips.append(await asyncio.to_thread(_reduced, pixels, self._width, height, factor))
        return await asyncio.to_thread(_joined, strips)

    async def _greet(self) -> None:
        if await self._read(len(GREETING)) != GREETING:
            raise NoPicture("another greeting than RFB 3.8")
        self._writer.write(GREETING)
        (count,) = await self._read(1)
        if SECURITY_NONE not in await self._read(count):
            raise NoPicture("no security type that we have")
        self._writer.write(bytes((SECURITY_NONE,)))
        if await self._read(4) != bytes(4):
            raise NoPicture("refused")
        self._writer.write(SHARED)
        self._width, self._height, length = struct.unpack(">HH16xI", await self._read(24))
        if not 0 < self._width * self._height <= SCREEN_PIXELS_MAX:
            raise NoPicture(f"a screen of {self._width} x {self._height}")
        await self._skip(length, NAME_BYTES_MAX)
        self._writer.write(first_messages((RAW,)))

    async def _strip(self, top: int, height: int) -> bytearray:
        """Ask for some rows and return them once each of their pixels was told."""
        self._writer.write(update_request(self._width, height, incremental=False, top=top))
        pixels = bytearray(self._width * height * PIXEL_BYTES)
        missing = self._width * height
        self._pieces = 0
        while missing > 0:
            self._count(1)
            (kind,) = await self._read(1)
            if kind == _UPDATE:
                (count,) = struct.unpack(">xH", await self._read(3))
                self._count(count)
                for _ in range(count):
                    missing -= await self._rectangle(pixels, top, height)
            elif kind == _COLOURS:
                _, count = struct.unpack(">xHH", await self._read(5))
                await self._skip(6 * count, TEXT_BYTES_MAX)
            elif kind == _CUT_TEXT:
                (length,) = struct.unpack(">3xI", await self._read(7))
                await self._skip(length, TEXT_BYTES_MAX)
            elif kind != _BELL:
                raise NoPicture(f"message {kind}")
        return pixels

    def _count(self, pieces: int) -> None:
        self._pieces += pieces
        if self._pieces > PIECES_MAX:
            raise NoPicture("too many pieces")

    async def _rectangle(self, pixels: bytearray, top: int, height: int) -> int:
        """Take one rectangle of the strip that begins at `top`; return how many pixels it told."""
        x, y, width, rows, encoding = struct.unpack(">HHHHi", await self._read(12))
        inside = x + width <= self._width and top <= y and y + rows <= top + height
        if encoding != RAW or not inside:
            raise NoPicture("a rectangle that was not asked for")
        length, row = width * PIXEL_BYTES, self._width * PIXEL_BYTES
        data = await self._read(rows * length)
        for line in range(rows):
            place = (y - top + line) * row + x * PIXEL_BYTES
            pixels[place : place + length] = data[line * length : (line + 1) * length]
        return int(width * rows)

    async def _read(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    async def _skip(self, count: int, most: int) -> None:
        if count > most:
            raise NoPicture("a text that is too long")
        await self._read(count)


def _reduced(pixels: bytearray, width: int, height: int, factor: int) -> "Image":
    from PIL import Image  # late: most runs never show a picture, and it takes a tenth of a second

    strip = Image.frombuffer("RGB", (width, height), pixels, "raw", "BGRX", 0, 1)
    return strip.reduce(factor)


def _joined(strips: "list[Image]") -> TakenPicture:
    from PIL import Image

    width, height = strips[0].width, sum(strip.height for strip in strips)
    whole = Image.new("RGB", (width, height))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=QUALITY)
    return TakenPicture(width=width, height=height, jpeg=file.getvalue())

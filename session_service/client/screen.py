"""The RFB of a program that looks at a desktop: bytes in, events and bytes to send out.

No socket and no clock: `desktop.py` carries the bytes, and makes a new `Screen` for each new stream. Not a
viewer: it asks for what every server has (Raw, CopyRect), ZRLE for slow lines, sizes, and the clipboard in
UTF-8. One update is asked for at a time, so that a slow program slows the desktop down and not its memory.

Source: RFC 6143; the RFB protocol (rfbproto.rst) for extended clipboard and desktop size; desktops.md
section 2 for the one full request.
"""

import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from session_service.client.framebuffer import Framebuffer, NotRfb, Picture
from session_service.client.zrle import Zrle
from session_service.core.rfb_looking import (
    COPIED,
    GREETING,
    PIXEL_BYTES,
    RAW,
    RESIZED,
    SECURITY_NONE,
    SHARED,
    TEXT_BYTES_MAX,
    first_messages,
    update_request,
)

ZRLE: Final = 16
LAYOUT: Final = -308
CLIPBOARD: Final = -1063131698
RECTANGLE_BYTES_MAX: Final = 64 << 20
_TEXT: Final = 1
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28
_CAPABLE: Final = _CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """The handshake is through; pixels follow."""

    width: int
    height: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """An update was taken in whole: the picture is consistent."""

    pixels: int
    """How many were told; zero for an update that only told a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """The desktop has another size."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Somebody copied text in the desktop."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """The desktop rang its bell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Bytes that the desktop must be sent now."""

    data: bytes


ScreenEvent = Greeted | Painted | Resized | Copied | Bell | Answer
_Reading = Generator[int, bytes, None]


class Screen:
    """One RFB stream as its client sees it, from the greeting on.

    Args:
        compressed: ask for ZRLE, which costs processor time here and saves bytes on the way.
    """

    def __init__(self, *, compressed: bool = True) -> None:
        self.framebuffer = Framebuffer(1, 1)
        self.name = ""
        self._compressed = compressed
        self._zrle = Zrle()
        self._events: list[ScreenEvent] = []
        self._buffer = bytearray()
        self._reading = self._read()
        self._need = next(self._reading)
        self._layout = b""
        self._knows_layout = False
        self._clipboard = False
        self._copied = ""

    def feed(self, data: bytes) -> list[ScreenEvent]:
        """Take bytes of the desktop in any cut; return what they say, in order. Raises NotRfb."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= self._need:
            part = bytes(self._buffer[at : at + self._need])
            at += self._need
            self._need = self._reading.send(part)
        del self._buffer[:at]
        events, self._events = self._events, []
        return events

    def picture(self) -> Picture:
        """Return the pixels as they are now."""
        return self.framebuffer.picture()

    def copy(self, text: str) -> bytes:
        """Return what puts a text on the desktop's clipboard."""
        if self._clipboard:
            self._copied = text
            return _extended(6, _NOTIFY | _TEXT)
        plain = text.encode("latin-1", "replace")
        return struct.pack(">BxxxI", 6, len(plain)) + plain

    def resize(self, width: int, height: int) -> bytes | None:
        """Return what asks for another size; None when this desktop cannot change it."""
        if not self._knows_layout:
            return None
        first = self._layout[:4] if self._layout else bytes(4)
        screen = first + struct.pack(">HHHHI", 0, 0, width, height, 0)
        return struct.pack(">BxHHBx", 251, width, height, 1) + screen

    # -- reading --------------------------------------------------------------------------------------

    def _read(self) -> _Reading:
        yield from self._greet()
        self._answer(update_request(self.framebuffer.width, self.framebuffer.height, incremental=False))
        while True:
            kind = (yield 1)[0]
            if kind == 0:
                yield from self._update()
            elif kind == 1:
                _, count = struct.unpack(">xHH", (yield 5))
                yield 6 * count
            elif kind == 2:
                self._events.append(Bell())
            elif kind == 3:
                yield from self._cut_text()
            else:
                raise NotRfb(f"message {kind}")

    def _greet(self) -> _Reading:
        if (yield len(GREETING)) != GREETING:
            raise NotRfb("another greeting than RFB 3.8")
        self._answer(GREETING)
        (count,) = yield 1
        if SECURITY_NONE not in (yield count):
            raise NotRfb("no security type that the gateway offers")
        self._answer(bytes((SECURITY_NONE,)))
        if (yield 4) != bytes(4):
            raise NotRfb("refused after the security type")
        self._answer(SHARED)
        width, height, length = struct.unpack(">HH16xI", (yield 24))
        if length > TEXT_BYTES_MAX:
            raise NotRfb("a name that is too long")
        self.name = (yield length).decode("utf-8", "replace")
        self.framebuffer.resize(width, height)
        wanted = [COPIED, RAW, RESIZED, LAYOUT, CLIPBOARD]
        if self._compressed:
            wanted.insert(0, ZRLE)
        self._answer(first_messages(wanted))
        self._events.append(Greeted(width=width, height=height, name=self.name))

    def _update(self) -> _Reading:
        (count,) = struct.unpack(">xH", (yield 3))
        pixels, incremental = 0, True
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", (yield 12))
            if encoding == LAYOUT:
                yield from self._read_layout(x, y, width, height)
            elif encoding == RESIZED:
                self._resized(width, height)
                incremental = False
            else:
                yield from self._rectangle(x, y, width, height, encoding)
                pixels += width * height
        self._events.append(Painted(pixels=pixels))
        # Asked in full once only: who lists the layout is answered the second one without pixels, for ever.
        size = self.framebuffer.width, self.framebuffer.height
        self._answer(update_request(*size, incremental=incremental or self._knows_layout))

    def _rectangle(self, x: int, y: int, width: int, height: int, encoding: int) -> _Reading:
        if encoding == RAW:
            if width * height * PIXEL_BYTES > RECTANGLE_BYTES_MAX * 16:
                raise NotRfb("a rectangle that is too large")
            self.framebuffer.put(x, y, width, height, (yield width * height * PIXEL_BYTES))
        elif encoding == COPIED:
            from_x, from_y = struct.unpack(">HH", (yield 4))
            self.framebuffer.copy(x, y, width, height, from_x, from_y)
        elif encoding == ZRLE:
            (length,) = struct.unpack(">I", (yield 4))
            if length > RECTANGLE_BYTES_MAX:
                raise NotRfb("a rectangle that is too large")
            rows = self._zrle.decode((yield length), width, height)
            self.framebuffer.put(x, y, width, height, rows)
        else:
            raise NotRfb(f"encoding {encoding}")

    def _read_layout(self, reason: int, status: int, width: int, height: int) -> _Reading:
        """The size and its screens; `x` is who asked, `y` whether it was done."""
        (count,) = struct.unpack(">Bxxx", (yield 4))
        self._layout = yield 16 * count
        self._knows_layout = True
        if reason != 1 or status == 0:
            self._resized(width, height)

    def _resized(self, width: int, height: int) -> None:
        if (width, height) != (self.framebuffer.width, self.framebuffer.height):
            self.framebuffer.resize(width, height)
            self._events.append(Resized(width=width, height=height))

    # -- clipboard ------------------------------------------------------------------------------------

    def _cut_text(self) -> _Reading:
        (length,) = struct.unpack(">xxxi", (yield 7))
        if abs(length) > TEXT_BYTES_MAX:
            raise NotRfb("a clipboard that is too long")
        data = yield abs(length)
        if length >= 0:
            self._events.append(Copied(text=data.decode("latin-1")))
            return
        if len(data) < 4:
            raise NotRfb("an extended clipboard without flags")
        (flags,) = struct.unpack_from(">I", data)
        if flags & _CAPS:
            self._clipboard = True
            self._answer(_extended(6, _CAPABLE, struct.pack(">I", TEXT_BYTES_MAX)))
        elif flags & _NOTIFY and flags & _TEXT:
            self._answer(_extended(6, _REQUEST | _TEXT))
        elif flags & _REQUEST and flags & _TEXT:
            self._answer(_provide(self._copied))
        elif flags & _PEEK:
            self._answer(_extended(6, _NOTIFY | (_TEXT if self._copied else 0)))
        elif flags & _PROVIDE and flags & _TEXT:
            self._events.append(Copied(text=_provided(data[4:])))

    def _answer(self, data: bytes) -> None:
        self._events.append(Answer(data=data))


def _extended(kind: int, flags: int, data: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", kind, -4 - len(data), flags) + data


def _provide(text: str) -> bytes:
    plain = text.replace("\r\n", "\n").replace("\n", "\r\n").encode() + b"\0"
    return _extended(6, _PROVIDE | _TEXT, zlib.compress(struct.pack(">I", len(plain)) + plain))


def _provided(data: bytes) -> str:
    try:
        plain = zlib.decompressobj().decompress(data, TEXT_BYTES_MAX + 4)
    except zlib.error as exc:
        raise NotRfb("a clipboard that cannot be unpacked") from exc
    if len(plain) < 4:
        raise NotRfb("a clipboard that ends too early")
    (length,) = struct.unpack_from(">I", plain)
    text = plain[4 : 4 + length].rstrip(b"\0").decode("utf-8", "replace")
    return text.replace("\r\n", "\n")

"""A small RFB 3.8 client over a unix socket (or a local port) for tests: types keys, moves the
pointer, takes a whole picture.

Not a viewer: Raw and CopyRect only, one reader at a time, no resize. It is a real client of a real Xvnc.
"""

import asyncio
import hashlib
import struct
import sys
from pathlib import Path
from types import TracebackType

RAW, COPY = 0, 1
CLIPBOARD = -1063131698
"""The extended clipboard: who looks on must know it, or would be sent texts."""
RETURN, CONTROL_LEFT = 0xFF0D, 0xFFE3
_KEYS = {"\n": RETURN, "\t": 0xFF09}
_COLOUR = int.from_bytes(b"\xff\xff\xff\0", sys.byteorder)


class Picture:
    """One whole frame: rows of 4 bytes (R G B X) per pixel."""

    def __init__(self, width: int, height: int, data: bytes) -> None:
        self.width, self.height, self.data = width, height, data

    def differing(self, other: "Picture") -> int:
        """Count the pixels that differ; the fourth byte of each means nothing."""
        assert (self.width, self.height) == (other.width, other.height)
        mine, theirs = memoryview(self.data).cast("I"), memoryview(other.data).cast("I")
        return sum((a ^ b) & _COLOUR != 0 for a, b in zip(mine, theirs, strict=True)) if mine != theirs else 0

    def part(self, x: int, y: int, width: int, height: int) -> "Picture":
        """Return a rectangle of it."""
        assert 0 <= x <= self.width - width
        assert 0 <= y <= self.height - height
        starts = [((y + line) * self.width + x) * 4 for line in range(height)]
        return Picture(width, height, b"".join(self.data[at : at + width * 4] for at in starts))

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Return (red, green, blue)."""
        place = (y * self.width + x) * 4
        return self.data[place], self.data[place + 1], self.data[place + 2]

    def digest(self) -> str:
        """Return a short name for exactly this picture."""
        return hashlib.sha256(self.data).hexdigest()[:16]


class RfbClient:
    """`async with RfbClient(path) as client: ...`; a number is a port of this machine."""

    def __init__(self, path: Path | str | int, *, greet_s: float = 20.0) -> None:
        self._greet_s = greet_s
        self._port = path if isinstance(path, int) else 0
        self._path = str(path)
        self.width = self.height = 0
        self.name = ""

    async def __aenter__(self) -> "RfbClient":
        if self._port:
            opened = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        else:
            opened = await asyncio.open_unix_connection(self._path, limit=1 << 22)
        self._reader, self._writer = opened
        try:
            await self._greet()
        except BaseException:
            self._writer.close()
            raise
        return self

    async def _greet(self) -> None:
        async with asyncio.timeout(self._greet_s):
            version = await self._reader.readexactly(12)
            assert version == b"RFB 003.008\n", version
            self._writer.write(version)
            (count,) = await self._reader.readexactly(1)
            assert 1 in await self._reader.readexactly(count), "the display asks for a password"
            self._writer.write(b"\x01")
            assert await self._reader.readexactly(4) == bytes(4)
            self._writer.write(b"\x01")
            self.width, self.height, _, length = struct.unpack(">HH16sI", await self._reader.readexactly(24))
            self.name = (await self._reader.readexactly(length)).decode()
        form = struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
        self._writer.write(form + struct.pack(">BxHiii", 2, 3, RAW, COPY, CLIPBOARD))
        self._pixels = bytearray(self.width * self.height * 4)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    def key(self, code: int, *, down: bool) -> None:
        """Press or release one key."""
        self._writer.write(struct.pack(">BBxxI", 4, down, code))

    async def type(self, text: str) -> None:
        """Type a text, each key down and up."""
        for letter in text:
            code = _KEYS.get(letter, ord(letter))
            self.key(code, down=True)
            self.key(code, down=False)
        await self._writer.drain()

    async def click(self, x: int, y: int, *, button: int = 1) -> None:
        """Press and release a pointer button."""
        for mask in (1 << (button - 1), 0):
            self._writer.write(struct.pack(">BBHH", 5, mask, x, y))
        await self._writer.drain()

    async def point(self, x: int, y: int) -> None:
        """Move the pointer."""
        self._writer.write(struct.pack(">BBHH", 5, 0, x, y))
        await self._writer.drain()

    async def picture(self, *, limit_s: float = 20.0) -> Picture:
        """Ask for a whole frame and return it."""
        async with asyncio.timeout(limit_s):
            self._writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
            await self._writer.drain()
            area = 0
            while area < self.width * self.height:
                area += await self._message()
        return Picture(self.width, self.height, bytes(self._pixels))

    async def update(self) -> None:
        """Ask for what changed and take the next message, however long it is away."""
        self._writer.write(struct.pack(">BBHHHH", 3, 1, 0, 0, self.width, self.height))
        await self._writer.drain()
        await self._message()

    async def _message(self) -> int:
        """Read one message; returns how many pixels it brought."""
        (kind,) = await self._reader.readexactly(1)
        if kind == 0:
            (count,) = struct.unpack(">xH", await self._reader.readexactly(3))
            return sum([await self._rectangle() for _ in range(count)])
        if kind == 1:
            (count,) = struct.unpack(">xxxH", await self._reader.readexactly(5))
            await self._reader.readexactly(6 * count)
        elif kind == 3:
            (length,) = struct.unpack(">xxxi", await self._reader.readexactly(7))
            await self._reader.readexactly(abs(length))
        else:
            assert kind == 2, f"unknown message {kind}"
        return 0

    async def _rectangle(self) -> int:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self._reader.readexactly(12))
        if encoding == COPY:
            from_x, from_y = struct.unpack(">HH", await self._reader.readexactly(4))
            rows = [self._row(from_x, from_y + row, width) for row in range(height)]
        else:
            assert encoding == RAW, encoding
            data = await self._reader.readexactly(width * height * 4)
            rows = [data[row * width * 4 : (row + 1) * width * 4] for row in range(height)]
        for row, pixels in enumerate(rows):
            place = ((y + row) * self.width + x) * 4
            self._pixels[place : place + width * 4] = pixels
        return width * height

    def _row(self, x: int, y: int, width: int) -> bytes:
        place = (y * self.width + x) * 4
        return bytes(self._pixels[place : place + width * 4])

"""RFB duties of the gateway over a resumable stream, each against a real Xvnc.

The clipboard's extended form is read and written here as TigerVNC does it: zlib over (length, UTF-8, NUL).
"""

import asyncio
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from session_service.core.rfb import EXTENDED_CLIPBOARD
from tests.fakes.gateway_world import World, running, xvnc
from tests.integration.gateway.test_gateway_desktop import (
    display,
    key,
    keys_down,
    own_selection,
    until_async,
)
from tests.integration.gateway.test_gateway_resume import SID, Page, page

TEXT, CAPS, REQUEST, NOTIFY, PROVIDE = 1, 1 << 24, 1 << 25, 1 << 27, 1 << 28
DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE = -223, -308
VIEWER = "01JD0000000000000000000001"
WORDS = "Grüße, 世界 🙂"


class Rfb:
    """A client of one stream: it reads messages of the desktop and remembers what they said."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._data = b""
        self.width = self.height = 0

    async def take(self, count: int) -> bytes:
        while len(self._data) < count:
            message = await self._socket.recv()
            self._data += message if isinstance(message, bytes) else b""
        found, self._data = self._data[:count], self._data[count:]
        return found

    async def greet(self, *encodings: int) -> None:
        assert (await self.take(12)).startswith(b"RFB 003.008")
        await self._socket.send(b"RFB 003.008\n")
        assert await self.take(2) == b"\x01\x01"
        await self._socket.send(b"\x01")
        assert await self.take(4) == bytes(4)
        await self._socket.send(b"\x00")
        head = await self.take(24)
        self.width, self.height = struct.unpack(">HH", head[:4])
        await self.take(int.from_bytes(head[20:24], "big"))
        await self._socket.send(struct.pack(f">BBH{len(encodings)}i", 2, 0, len(encodings), *encodings))

    async def send(self, data: bytes) -> None:
        await self._socket.send(data)

    async def ask(self, *, incremental: bool = False) -> None:
        await self.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    async def clipboard(self, wanted: int) -> tuple[int, bytes]:
        """The next extended clipboard message with one of these flags, and what follows its flags."""
        while True:
            kind, body = await self.message()
            if kind == "clipboard" and (flags := int.from_bytes(body[:4], "big")) & wanted:
                return flags, body[4:]

    async def message(self) -> tuple[str, bytes]:
        kind = (await self.take(1))[0]
        if kind == 0:
            return "update", await self._update()
        if kind == 3:
            length = int.from_bytes((await self.take(7))[3:], "big", signed=True)
            return ("clipboard" if length < 0 else "text"), await self.take(abs(length))
        assert kind == 2, kind
        return "bell", b""

    async def _update(self) -> bytes:
        (count,) = struct.unpack(">xH", await self.take(3))
        seen = b""
        for _ in range(count):
            _x, _y, width, height, encoding = struct.unpack(">HHHHi", await self.take(12))
            if encoding == 0:
                seen += await self.take(width * height * 4)
            elif encoding == EXTENDED_DESKTOP_SIZE:
                screens = (await self.take(4))[0]
                await self.take(16 * screens)
                self.width, self.height = width, height
            else:
                assert encoding == DESKTOP_SIZE, encoding
                self.width, self.height = width, height
        return seen


@asynccontextmanager
async def attached(world: World, desktop: Path, *encodings: int) -> AsyncIterator[tuple[Page, Rfb]]:
    world.control.add_session(SID, str(desktop))
    async with page(world) as one:
        await one.open()
        rfb = Rfb(one.socket)
        await rfb.greet(*encodings)
        yield one, rfb


def extended(flags: int, data: bytes = b"") -> bytes:
    """A client's extended clipboard message."""
    return struct.pack(">BxxxiI", 6, -(4 + len(data)), flags) + data


async def selection(folder: Path) -> bytes:
    """What a program in the desktop would paste."""
    process = await asyncio.create_subprocess_exec(
        *("xclip", "-selection", "clipboard", "-o"),
        env=display(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    found, _ = await process.communicate()
    return found


async def pointer(folder: Path) -> bytes:
    """Place of the pointer and which buttons are down, as the X server says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", QUERY_POINTER, env=display(folder), stdout=asyncio.subprocess.PIPE
    )
    found, _ = await process.communicate()
    assert process.returncode == 0
    return found.strip()


async def test_text_of_every_script_is_pasted_from_the_desktop(tmp_path: Path) -> None:
    """Extended clipboard, down: caps, notify, request, provide."""
    async with xvnc(tmp_path) as desktop, running() as world:
        async with attached(world, desktop, 0, EXTENDED_CLIPBOARD) as (_, rfb):
            await rfb.clipboard(CAPS)
            await rfb.send(extended(CAPS | REQUEST | NOTIFY | PROVIDE | TEXT, struct.pack(">I", 0)))
            owner = await own_selection(tmp_path, WORDS.encode())
            try:
                await rfb.clipboard(NOTIFY)
                await rfb.send(extended(REQUEST | TEXT))
                _, packed = await rfb.clipboard(PROVIDE)
                plain = zlib.decompressobj().decompress(packed)
                assert plain[4:].rstrip(b"\0").decode() == WORDS
            finally:
                owner.terminate()
                await owner.wait()


async def test_text_of_every_script_is_pasted_into_the_desktop(tmp_path: Path) -> None:
    """Extended clipboard, up: the desktop asks for what it was told of when one of its programs pastes."""
    async with xvnc(tmp_path) as desktop, running() as world:
        async with attached(world, desktop, 0, EXTENDED_CLIPBOARD) as (_, rfb):
            await rfb.clipboard(CAPS)
            await rfb.send(extended(CAPS | REQUEST | NOTIFY | PROVIDE | TEXT, struct.pack(">I", 1 << 20)))
            await rfb.send(extended(NOTIFY | TEXT))

            async def provide() -> None:
                await rfb.clipboard(REQUEST)
                data = WORDS.encode() + b"\0"
                await rfb.send(extended(PROVIDE | TEXT, zlib.compress(struct.pack(">I", len(data)) + data)))

            async with asyncio.TaskGroup() as group:
                group.create_task(provide(), name="provide")
                await until_async(lambda: selection(tmp_path), lambda text: text.decode() == WORDS)


async def test_a_desktop_is_resized_and_says_so(tmp_path: Path) -> None:
    async with xvnc(tmp_path) as desktop, running() as world:
        async with attached(world, desktop, 0, EXTENDED_DESKTOP_SIZE) as (_, rfb):
            await rfb.ask()
            await rfb.message()
            screen = struct.pack(">IHHHHI", 0, 0, 0, 800, 600, 0)
            await rfb.send(struct.pack(">BxHHBx", 251, 800, 600, 1) + screen)
            while (rfb.width, rfb.height) != (800, 600):
                await rfb.ask(incremental=True)
                await rfb.message()


async def test_a_viewer_can_do_none_of_the_acts_that_touch(tmp_path: Path) -> None:
    """Each message type for itself: key, pointer, clipboard, resize, QEMU key; afterwards it still sees."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session(VIEWER, str(desktop), mode="view")
        async with page(world) as one:
            ticket = world.control.ticket(VIEWER)
            await one.say(t="open", aud=world.aud, auth=ticket, can=[])
            opened = await one.text()
            assert (opened["mode"], opened["key"]) == ("view", None)
            rfb = Rfb(one.socket)
            await rfb.greet(0, EXTENDED_CLIPBOARD, EXTENDED_DESKTOP_SIZE)
            before = await pointer(tmp_path)
            screen = struct.pack(">IHHHHI", 0, 0, 0, 320, 200, 0)
            for touch in (
                key(ord("b"), True),
                struct.pack(">BBHH", 5, 1, 321, 123),
                struct.pack(">BxxxI", 6, 5) + b"typed",
                extended(CAPS | REQUEST | NOTIFY | PROVIDE | TEXT, struct.pack(">I", 1 << 20)),
                extended(NOTIFY | TEXT),
                struct.pack(">BBBB", 250, 0, 1, 2),
                struct.pack(">BxHHBx", 251, 320, 200, 1) + screen,
                struct.pack(">BBHII", 255, 0, 1, ord("b"), 48),
            ):
                await rfb.send(touch)
            pixels = 0
            while pixels < 640 * 480 * 4:
                await rfb.ask(incremental=pixels > 0)
                _, seen = await rfb.message()
                pixels += len(seen)
            assert (rfb.width, rfb.height) == (640, 480)
            assert not await keys_down(tmp_path)
            assert await pointer(tmp_path) == before
            assert await selection(tmp_path) == b""


async def test_a_viewer_that_says_something_unknown_is_shown_out(tmp_path: Path) -> None:
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session(VIEWER, str(desktop), mode="view")
        async with page(world) as one:
            await one.say(t="open", aud=world.aud, auth=world.control.ticket(VIEWER), can=[])
            await one.text()
            rfb = Rfb(one.socket)
            await rfb.greet(0, EXTENDED_CLIPBOARD)
            await rfb.send(b"\x63unknown")
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await one.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4400


async def test_a_button_that_was_down_over_a_cut_is_up_for_the_desktop(tmp_path: Path) -> None:
    """Held two seconds at most: the pointer stays where it was, with no button."""
    async with xvnc(tmp_path) as desktop, running() as world:
        async with attached(world, desktop, 0) as (one, rfb):
            await rfb.send(struct.pack(">BBHH", 5, 0, 200, 100) + struct.pack(">BBHH", 5, 1, 201, 101))
            await until_async(lambda: pointer(tmp_path), lambda seen: seen == b"201 101 1")
            one.socket.transport.abort()
        await until_async(lambda: pointer(tmp_path), lambda seen: seen == b"201 101 0")


QUERY_POINTER = """
import ctypes
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
x.XDefaultRootWindow.restype = ctypes.c_ulong
d = ctypes.c_void_p(x.XOpenDisplay(None))
root = ctypes.c_ulong(x.XDefaultRootWindow(d))
window, child = ctypes.c_ulong(), ctypes.c_ulong()
px, py, wx, wy, mask = (ctypes.c_int() for _ in range(5))
r = ctypes.byref
x.XQueryPointer(d, root, r(window), r(child), r(px), r(py), r(wx), r(wy), r(mask))
print(px.value, py.value, (mask.value >> 8) & 1)
"""

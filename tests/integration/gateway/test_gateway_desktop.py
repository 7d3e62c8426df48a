"""The gateway in front of a real Xvnc: a picture arrives, keys reach applications, nothing stays down."""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from websockify.websocket import WebSocket, WebSocketWantReadError

from session_service.core.rfb import EXTENDED_CLIPBOARD
from tests.fakes.gateway_world import greet, read_bytes, running, xvnc


async def test_a_picture_of_a_real_desktop_arrives(tmp_path: Path) -> None:
    """Raw encoding: one update request is answered by the whole screen."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        async with world.opened("s") as client:
            init = await greet(client)
            width, height = struct.unpack(">HH", init[:4])
            assert (width, height) == (640, 480)
            await client.send(struct.pack(">BBHi", 2, 0, 1, 0))
            await client.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
            update = await read_bytes(client, 16 + width * height * 4)
            assert update[:1] == b"\x00"
        end = await world.control.end_of()
        assert end.cause == "tab_closed"
        assert end.bytes_down > width * height * 4


async def test_keys_that_were_down_are_released_when_the_client_vanishes(tmp_path: Path) -> None:
    """The X server itself says which keys are down: before the cut one is, after it none."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        async with world.opened("s") as client:
            await greet(client)
            await client.send(key(ord("a"), True) + struct.pack(">BBHH", 5, 1, 200, 100))
            await until_async(lambda: keys_down(tmp_path), lambda down: bool(down))
            client.transport.abort()
        assert (await world.control.end_of()).cause == "reset"
        await until_async(lambda: keys_down(tmp_path), lambda down: not down)
        assert world.gateway.stats().keys_released == 1


async def test_a_viewer_sees_and_does_not_touch(tmp_path: Path) -> None:
    """Its keys do not arrive; what is copied in the desktop is not sent to it, but is sent to who controls
    it.
    """
    secret = b"hunter2-from-the-desktop"
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        world.control.add_session("v", str(desktop), mode="view")
        async with world.opened("s") as control, world.opened("v") as viewer:
            await greet(control)
            await control.send(struct.pack(">BBHi", 2, 0, 1, 0))
            await greet(viewer)
            await viewer.send(struct.pack(">BBHii", 2, 0, 2, 0, EXTENDED_CLIPBOARD))
            await viewer.send(key(ord("b"), True) + struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480))
            seen = await read_bytes(viewer, 640 * 480 * 4)
            assert not await keys_down(tmp_path)
            owner = await own_selection(tmp_path, secret)
            try:
                told = b""
                while secret not in told:
                    told += await read_bytes(control, 1)
                await viewer.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480))
                seen += await read_bytes(viewer, 640 * 480 * 4)
                assert secret not in seen
            finally:
                owner.terminate()
                await owner.wait()


async def test_the_desktop_lives_on_when_links_come_and_go(tmp_path: Path) -> None:
    """Two clients share it, one is cut in the middle of a picture: the other goes on, and so does the
    next.
    """
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        for _ in range(5):
            async with world.opened("s") as client:
                await greet(client)
                await client.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480))
                await read_bytes(client, 1000)
                client.transport.abort()
        async with world.opened("s") as client:
            await greet(client)
            await client.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480))
            assert len(await read_bytes(client, 640 * 480 * 4)) >= 640 * 480 * 4


async def test_websockifys_own_client_works_unchanged(tmp_path: Path) -> None:
    """The client side of websockify, blocking as it is, with a ticket in the path and `binary`."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        path = f"/s/{world.shard}/t/{world.control.ticket('s')}"
        assert await asyncio.to_thread(websockify_client, world.port, path) == b"\x02\x80\x01\xe0"
        assert (await world.control.end_of()).cause == "tab_closed"


def websockify_client(port: int, path: str) -> bytes:
    """RFB handshake by websockify's WebSocket; returns width and height."""
    client = WebSocket()
    client.connect(f"ws://127.0.0.1:{port}{path}", protocols=["binary"])
    found = b""
    try:
        for expected, answer in ((12, b"RFB 003.008\n"), (2, b"\x01"), (4, b"\x01"), (4, b"")):
            while len(found) < expected:
                found += what_came(client) or b""
            first, found = found[:expected], found[expected:]
            client.send(answer)
        return first
    finally:
        client.shutdown(socket.SHUT_RDWR)
        while what_came(client) is not None:
            pass


def what_came(client: WebSocket) -> bytes | None:
    """One message, b"" when a frame is not whole yet, None at the end."""
    try:
        message = client.recv()
    except WebSocketWantReadError:
        return b""
    return None if message is None else bytes(message)


def key(symbol: int, down: bool) -> bytes:
    return struct.pack(">BBHI", 4, down, 0, symbol)


async def until_async(look: Callable[[], Awaitable[bytes]], state: Callable[[bytes], bool]) -> None:
    """Wait for a state that takes a program to see."""
    async with asyncio.timeout(20):
        while not state(await look()):  # noqa: ASYNC110 - an X server has no event for this
            await asyncio.sleep(0.02)


def display(folder: Path) -> dict[str, str]:
    return {**os.environ, "DISPLAY": ":" + (folder / "display").read_text()}


async def keys_down(folder: Path) -> bytes:
    """The X server's own bitmap of keys that are down, b"" when none is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", QUERY_KEYMAP, env=display(folder), stdout=asyncio.subprocess.PIPE
    )
    found, _ = await process.communicate()
    assert process.returncode == 0
    bitmap = bytes.fromhex(found.decode())
    return bitmap if any(bitmap) else b""


async def own_selection(folder: Path, text: bytes) -> asyncio.subprocess.Process:
    """A program in the desktop that has just copied `text`; it serves the selection until it is ended."""
    process = await asyncio.create_subprocess_exec(
        *("xclip", "-selection", "clipboard", "-quiet"),
        env=display(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.close()
    return process


QUERY_KEYMAP = """
import ctypes
x = ctypes.CDLL("libX11.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
d = x.XOpenDisplay(None)
keys = ctypes.create_string_buffer(32)
x.XQueryKeymap(ctypes.c_void_p(d), keys)
print(keys.raw.hex())
"""

"""A small picture of a real display, and what desktops that lie or stand still get for it: nothing."""

import asyncio
import io
import os
import signal
import socket
import struct
from pathlib import Path

import pytest
from PIL import Image

from session_service.base.errors import PartUnavailable
from session_service.client.framebuffer import pointer
from session_service.core import rfb
from session_service.gateway import pictures
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.pictures import DesktopPictures
from session_service.ports.pictures import TakenPicture
from tests.fakes.gateway_world import greet, read_bytes, running, xvnc
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until


async def taken(path: Path) -> TakenPicture:
    return await DesktopPictures(GatewayLimits()).take(socket=str(path), uid=None)


async def painted(folder: Path, colour: str) -> None:
    display = (folder / "display").read_text()
    process = await asyncio.create_subprocess_exec("xsetroot", "-display", f":{display}", "-solid", colour)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("geometry", "size"),
    [("640x480", (640, 480)), ("1920x1080", (640, 360)), ("333x1500", (111, 500)), ("4096x2160", (586, 309))],
)
async def test_a_picture_shows_what_is_on_the_screen_and_is_small(
    tmp_path: Path, geometry: str, size: tuple[int, int]
) -> None:
    async with xvnc(tmp_path, geometry) as desktop:
        await painted(tmp_path, "#20c040")
        picture = await taken(desktop)
        assert (picture.width, picture.height) == size
        with Image.open(io.BytesIO(picture.jpeg)) as image:
            assert image.size == size
            corners = [(0, 0), (size[0] - 1, 0), (0, size[1] - 1), (size[0] - 1, size[1] - 1)]
            for corner in corners:
                found = image.getpixel(corner)
                assert isinstance(found, tuple)
                assert all(abs(a - b) < 12 for a, b in zip(found, (0x20, 0xC0, 0x40), strict=True)), found
        assert len(picture.jpeg) < 80_000
        assert "JPEG" not in repr(picture)


async def test_looks_leave_a_link_alone_and_no_descriptor_behind(tmp_path: Path) -> None:
    """Its stream goes on where it was, and the gateway counts no link but it."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        async with world.opened("s") as client:
            await greet(client)
            await client.send(struct.pack(">BBHi", 2, 0, 1, 0))
            await taken(desktop)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                await taken(desktop)
                await client.send(pointer(100, 100, 0))
                await client.send(struct.pack(">BBHHHH", 3, 0, 0, 0, 640, 480))
                await read_bytes(client, 16 + 640 * 480 * 4)
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            assert world.gateway.stats().links_open == 1
            assert len(world.gateway.links("s")) == 1


def update(x: int, y: int, width: int, height: int, encoding: int = 0, pixels: bytes | None = None) -> bytes:
    body = bytes(4 * width * height) if pixels is None else pixels
    return struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, encoding) + body


@pytest.mark.parametrize(
    "lie",
    [
        update(0, 0, 641, 1),
        update(0, 470, 640, 20),
        update(0, 0, 640, 480, encoding=16, pixels=b""),
        update(0, 0, 640, 480, encoding=-223, pixels=b""),
        b"\x09",
        struct.pack(">B3xI", 3, 0xFFFFFFFF),
        update(0, 0, 0, 0) * 50,
        update(0, 0, 640, 10),
    ],
    ids=["wide", "below", "encoding", "resized", "message", "clipboard", "nothing", "a part"],
)
async def test_a_desktop_that_lies_has_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: bytes
) -> None:
    monkeypatch.setattr(pictures, "PICTURE_S", 0.5)

    def answer(viewer: Viewer, message: bytes) -> None:
        if message[0] == rfb.UPDATE_REQUEST:
            assert viewer.transport is not None
            viewer.transport.write(lie)

    async with FakeDesktop(tmp_path / "rfb.sock", answer=answer) as desktop:
        with pytest.raises(PartUnavailable):
            await taken(desktop.path)
        viewer = await desktop.viewer()
        await viewer.closed.wait()
        assert viewer.errors == []


@pytest.mark.parametrize(
    "noise",
    [b"\x02", struct.pack(">BxH", 0, 0), struct.pack(">BxH", 0, 9) + bytes(12 * 9)],
    ids=["bells", "updates of nothing", "rectangles of nothing"],
)
async def test_a_desktop_that_says_much_and_shows_nothing_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: bytes
) -> None:
    """What has come is read without a pause: all links of the process would wait."""
    monkeypatch.setattr(pictures, "PICTURE_S", 60)

    def answer(viewer: Viewer, message: bytes) -> None:
        if message[0] == rfb.UPDATE_REQUEST:
            assert viewer.transport is not None
            viewer.transport.write(noise * 2 * pictures.PIECES_MAX)

    async with FakeDesktop(tmp_path / "rfb.sock", answer=answer) as desktop, asyncio.timeout(20):
        with pytest.raises(PartUnavailable):
            await taken(desktop.path)


async def test_a_look_says_nothing_but_what_asks_for_pixels(tmp_path: Path) -> None:
    """No key, no pointer, no clipboard, no size; shared, so that nobody is sent away. What comes in between
    is thrown away.
    """

    def answer(viewer: Viewer, message: bytes) -> None:
        if message[0] == rfb.UPDATE_REQUEST:
            _, whole, x, y, width, height = struct.unpack(">BBHHHH", message)
            assert (whole, x) == (0, 0)
            assert viewer.transport is not None
            viewer.transport.write(b"\x02" + struct.pack(">B3xI", 3, 5) + b"words")
            viewer.transport.write(struct.pack(">BxHH", 1, 0, 2) + bytes(12))
            viewer.transport.write(update(0, y, width, 1))
            viewer.transport.write(update(0, y + 1, width, height - 1))

    async with FakeDesktop(tmp_path / "rfb.sock", answer=answer) as desktop:
        picture = await taken(desktop.path)
        assert (picture.width, picture.height) == (640, 480)
        viewer = await desktop.viewer()
        await viewer.closed.wait()
        assert viewer.shared == b"\x01"
        kinds = {message[0] for message in viewer.messages}
        assert kinds == {rfb.SET_PIXEL_FORMAT, rfb.SET_ENCODINGS, rfb.UPDATE_REQUEST}
        assert viewer.errors == []


async def test_a_display_that_stands_still_has_no_picture_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "PICTURE_S", 0.5)
    async with xvnc(tmp_path) as desktop:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(desktop))
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(PartUnavailable):
                await taken(desktop)
        finally:
            os.kill(pid, signal.SIGCONT)
        monkeypatch.setattr(pictures, "PICTURE_S", 20)
        assert (await taken(desktop)).width == 640


async def test_what_is_no_desktops_socket_is_not_spoken_to(tmp_path: Path) -> None:
    async with FakeDesktop(tmp_path / "real.sock") as desktop:
        (tmp_path / "rfb.sock").symlink_to(desktop.path)
        with pytest.raises(PartUnavailable):
            await taken(tmp_path / "rfb.sock")
        with pytest.raises(PartUnavailable):
            await taken(tmp_path / "nothing.sock")
        assert desktop.viewers == []

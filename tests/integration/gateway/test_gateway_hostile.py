"""Frames against the rules on a live gateway: the code of RFC 6455 (or ours), then the end, and nothing
reaches a desktop.
"""

import asyncio
import os
import random
from pathlib import Path

import pytest
import structlog

from session_service.core.close_codes import Close
from tests.fakes.gateway_world import World, everything, masked, request
from tests.fakes.rfb_desktop import FakeDesktop

KEY_A = b"\x04\x01\x00\x00\x00\x00\x00\x61"


async def stock(world: World, extra: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An open link of a stock client, after the greeting."""
    reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    writer.write(masked(2, b"RFB 003.008\n\x01\x01") + extra)
    return reader, writer


def last_close(found: bytes) -> int:
    """The code of the close frame that ends these bytes."""
    at = found.rindex(b"\x88")
    return int.from_bytes(found[at + 2 : at + 4], "big")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (masked(2, KEY_A, mask=None), 1002),
        (masked(2, KEY_A, reserved=0x40), 1002),
        (masked(2, KEY_A, reserved=0x20), 1002),
        (masked(2, KEY_A, reserved=0x10), 1002),
        (masked(3, KEY_A), 1002),
        (masked(11, KEY_A), 1002),
        (masked(0, KEY_A), 1002),
        (masked(2, KEY_A[:4], fin=False) + masked(2, KEY_A[4:]), 1002),
        (masked(9, b"x" * 126), 1002),
        (masked(9, b"x", fin=False), 1002),
        (masked(8, b"x"), 1002),
        (masked(8, (1005).to_bytes(2, "big")), 1002),
        (masked(8, (999).to_bytes(2, "big")), 1002),
        (masked(8, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        (masked(2, bytes(65537)), Close.MESSAGE_TOO_BIG),
        (masked(2, bytes((150,)) + bytes(39999), fin=False) + masked(0, bytes(30000)), Close.MESSAGE_TOO_BIG),
        (b"\x82\xff" + bytes.fromhex("8000000000000000") + b"mask", 1002),
        (b"\x82\xff" + bytes.fromhex("7fffffffffffffff") + b"mask", Close.MESSAGE_TOO_BIG),
        (masked(1, b"x" * 5000), 1009),
        (masked(1, b"text after the answer"), Close.BAD_MESSAGE),
        (masked(2, b"\x06\x00\x00\x00\x00\x20\x00\x00" + bytes(8)), Close.MESSAGE_TOO_BIG),
    ],
)
async def test_a_broken_frame_ends_the_link_with_its_code(
    world: World, desktop: FakeDesktop, frames: bytes, code: int
) -> None:
    world.control.add_session("s", str(desktop.path))
    reader, _ = await stock(world, frames + masked(2, KEY_A))
    found = await everything(reader)
    assert last_close(found) == code
    assert world.gateway.stats().refusals[int(code)] == 1
    assert (await world.control.end_of()).cause == "unknown"
    viewer = desktop.viewers[0]
    await viewer.closed.wait()
    assert KEY_A not in viewer.messages


async def test_bytes_before_the_answer_are_refused(world: World) -> None:
    reader, _ = await world.raw(request(f"/s/{world.shard}/ws") + masked(2, b"RFB 003.008\n"))
    assert last_close(await everything(reader)) == Close.BAD_MESSAGE


async def test_text_that_is_not_utf8_is_refused(world: World) -> None:
    reader, _ = await world.raw(request(f"/s/{world.shard}/ws") + masked(1, b"\xc3\x28"))
    assert last_close(await everything(reader)) == 1007


async def test_fragments_with_control_frames_between_them_are_legal(
    world: World, desktop: FakeDesktop
) -> None:
    world.control.add_session("s", str(desktop.path))
    reader, _ = await stock(
        world,
        masked(2, KEY_A[:3], fin=False)
        + masked(9, b"hi")
        + masked(0, KEY_A[3:6], fin=False)
        + masked(0, KEY_A[6:]),
    )
    viewer = await desktop.viewer()
    assert await viewer.wait_messages(1) == [KEY_A]
    assert b"\x8a\x02hi" in await reader.readuntil(b"hi")


async def test_a_truncated_frame_and_a_vanished_client_leave_no_trace(
    world: World, desktop: FakeDesktop
) -> None:
    world.control.add_session("s", str(desktop.path))
    _, writer = await stock(world, masked(2, KEY_A + KEY_A)[:-3])
    await desktop.viewer()
    writer.transport.abort()
    end = await world.control.end_of()
    assert end.cause == "reset"
    await desktop.viewers[0].closed.wait()
    assert desktop.viewers[0].messages == []
    assert desktop.viewers[0].errors == []


async def test_random_bytes_never_break_the_gateway(world: World, desktop: FakeDesktop) -> None:
    """Seeded; before the upgrade, before the first message, and on an open link."""
    world.control.add_session("s", str(desktop.path))
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    with structlog.testing.capture_logs() as logs:
        for number in range(60):
            junk = chance.randbytes(chance.randrange(1, 400))
            kind = number % 3
            if kind == 0:
                _, writer = await world.raw(junk + b"\r\n\r\n")
            elif kind == 1:
                _, writer = await world.raw(request(f"/s/{world.shard}/ws") + junk)
            else:
                _, writer = await stock(world, junk)
            await asyncio.sleep(0)
            writer.transport.abort()
        async with world.opened("s") as client:
            assert (await client.recv())[:3] == b"RFB", f"seed {seed}"
    assert not [line for line in logs if line["log_level"] == "error"], f"seed {seed}"


async def test_a_link_in_place_of_the_desktops_socket_is_not_followed(
    world: World, desktop: FakeDesktop
) -> None:
    """A desktop that owns its run folder could lead us to any socket of the machine."""
    fake = desktop.path.with_name("link.sock")
    fake.symlink_to(desktop.path)
    await expect_distrust(world, fake, desktop)


async def test_a_file_in_place_of_the_desktops_socket_is_refused(world: World, desktop: FakeDesktop) -> None:
    fake = desktop.path.with_name("file.sock")
    fake.write_text("not a socket")
    await expect_distrust(world, fake, desktop)


async def test_a_socket_of_another_owner_is_refused(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path), uid=os.geteuid() + 1)
    await expect_distrust(world, desktop.path, desktop, known=True)


async def test_a_socket_that_somebody_else_serves_is_refused(world: World, desktop: FakeDesktop) -> None:
    """The file belongs to the desktop, but another uid listens: only root can arrange it, so only root can
    test it.
    """
    if os.geteuid() != 0:
        return
    os.chown(desktop.path, 12345, -1)
    world.control.add_session("s", str(desktop.path), uid=12345)
    await expect_distrust(world, desktop.path, desktop, known=True, connected=True)


async def test_a_desktop_that_is_not_there_is_a_retry(world: World, desktop: FakeDesktop) -> None:
    await expect_distrust(world, desktop.path.with_name("missing.sock"), desktop)


async def expect_distrust(
    world: World, path: Path, desktop: FakeDesktop, *, known: bool = False, connected: bool = False
) -> None:
    """Control hears that the leg is lost, the client is told to try again, nothing was said to the socket."""
    if not known:
        world.control.add_session("s", str(path))
    with structlog.testing.capture_logs() as logs:
        reader, writer = await world.raw(request(f"/s/{world.shard}/ws"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(masked(1, world.first(world.control.ticket("s")).encode()))
        found = await everything(reader)
        end = await world.control.end_of()
    assert b'"why":"retry"' in found
    assert last_close(found) == Close.RETRY
    assert world.control.legs_lost == [("s", end.link_id)]
    assert [line for line in logs if line["event"] == "desktop.refused"]
    assert connected or not desktop.viewers
    assert not any(viewer.greeted for viewer in desktop.viewers)

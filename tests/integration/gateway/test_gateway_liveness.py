"""Who is noticed to be gone, how soon, and what control is told; limits are shortened, never the code."""

import asyncio
import json
from typing import cast

import pytest
from websockets.exceptions import ConnectionClosed

from session_service.core.close_codes import Close
from session_service.gateway.link import Link
from tests.fakes.gateway_world import SHORT, World, everything, greet, masked, request, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.silent_proxy import SilentProxy
from tests.fakes.until import until

READ_BYTES_MAX = 256 * 1024
"""What one read of a loop may bring beyond a limit."""


@pytest.mark.parametrize(
    ("code", "cause"), [(1000, "tab_closed"), (1001, "tab_closed"), (None, "tab_closed"), (4000, "unknown")]
)
async def test_a_closed_tab_is_told_by_its_code(
    world: World, desktop: FakeDesktop, code: int | None, cause: str
) -> None:
    """noVNC closes without a code, a browser that unloads a page with 1001. The code is given back."""
    world.control.add_session("s", str(desktop.path))
    reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    writer.write(masked(8, b"" if code is None else code.to_bytes(2, "big") + b"bye"))
    end = await world.control.end_of()
    assert (end.cause, end.close_code) == (cause, code or 1005)
    assert await asyncio.wait_for(reader.read(), 10) == (
        b"\x88\x00" if code is None else b"\x88\x02" + code.to_bytes(2, "big")
    )


async def test_a_socket_that_ends_without_a_goodbye_is_a_reset(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    for number, way in enumerate(("abort", "close")):
        client = await world.connect(f"/s/{world.shard}/t/{world.control.ticket('s')}")
        await client.recv()
        getattr(client.transport, way)()
        end = await world.control.end_of(number)
        assert (end.cause, end.close_code) == ("reset", None)
        await client.wait_closed()


async def test_a_half_open_peer_is_noticed_and_reset(hasty: World, desktop: FakeDesktop) -> None:
    """Its TCP peer still acknowledges, so only the missing answer to our ping tells."""
    hasty.control.add_session("s", str(desktop.path))
    async with SilentProxy(hasty.port) as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        hasty.writers.append(writer)
        writer.write(request(f"/s/0/t/{hasty.control.ticket('s')}"))
        await until(lambda: desktop.viewers)
        proxy.silence()
        began = asyncio.get_running_loop().time()
        end = await hasty.control.end_of()
        assert end.cause == "silent"
        assert asyncio.get_running_loop().time() - began < 3 * SHORT.silent_s
        await until(lambda: not hasty.gateway._hub.connections)


async def test_a_quiet_client_that_answers_pings_stays(hasty: World, desktop: FakeDesktop) -> None:
    """Nothing but pongs for several times the limit."""
    hasty.control.add_session("s", str(desktop.path))
    async with hasty.connect(f"/s/0/t/{hasty.control.ticket('s')}") as client:
        await client.recv()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 3 * SHORT.silent_s)
        assert not hasty.control.ends


async def test_any_byte_counts_as_life(hasty: World, desktop: FakeDesktop) -> None:
    """A client that never answers a ping, but is in the middle of something."""
    hasty.control.add_session("s", str(desktop.path))
    reader, writer = await hasty.raw(request(f"/s/0/t/{hasty.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 2 * SHORT.silent_s
    while loop.time() < until_s:
        writer.write(masked(2, b""))
        await asyncio.sleep(SHORT.silent_s / 8)
    assert not hasty.control.ends


async def test_a_client_that_never_reads_holds_little_and_harms_nobody(
    tmp_path: object, hasty: World
) -> None:
    """The desktop is paused, not buffered; another client of the same gateway gets everything meanwhile."""
    from pathlib import Path

    from tests.fakes.rfb_desktop import Viewer

    def flood(viewer: Viewer, message: bytes) -> None:
        async def pour() -> None:
            for _ in range(400):
                assert viewer.transport is not None
                viewer.transport.write(bytes(65536))
                await asyncio.sleep(0)

        viewer.pouring = asyncio.ensure_future(pour())  # type: ignore[attr-defined]  # kept from collection

    async with FakeDesktop(Path(str(tmp_path)) / "rfb.sock", answer=flood) as desktop:
        hasty.control.add_session("s", str(desktop.path))
        session = hasty.control.add_session("t", str(desktop.path))
        assert session
        stuck = await hasty.connect(f"/s/0/t/{hasty.control.ticket('s')}", max_queue=1)
        await greet(stuck)
        await stuck.send(b"\x03" + bytes(9))
        stuck.transport.pause_reading()
        viewer = await desktop.viewer()
        await until(lambda: viewer.full)
        (link,) = hasty.gateway._hub.connections
        waiting = cast("Link", link)._transport.get_write_buffer_size()
        assert waiting <= SHORT.down_bytes_max + READ_BYTES_MAX, "the gateway keeps more than its limit"
        async with hasty.connect(f"/s/0/t/{hasty.control.ticket('t')}") as other:
            await greet(other)
            await other.send(b"\x03" + bytes(9))
            received = 0
            while received < 400 * 65536:
                received += len(await other.recv())
        await hasty.control.end_of(1)
        assert sorted(end.cause for end in hasty.control.ends) == ["silent", "tab_closed"]
        stuck.transport.abort()
        await stuck.wait_closed()


async def test_a_slow_client_that_still_takes_bytes_is_kept(tmp_path: object) -> None:
    """Its answer to our ping lies behind what it has not read yet: it is given four times as long, and uses
    it.
    """
    from dataclasses import replace
    from pathlib import Path

    from tests.fakes.rfb_desktop import Viewer

    def flood(viewer: Viewer, message: bytes) -> None:
        assert viewer.transport is not None
        for _ in range(600):
            viewer.transport.write(bytes(65536))

    limits = replace(SHORT, slow_s=60.0, down_bytes_max=64 * 1024, unsent_bytes_max=16 * 1024)
    async with (
        FakeDesktop(Path(str(tmp_path)) / "rfb.sock", answer=flood) as desktop,
        running(limits) as world,
    ):
        world.control.add_session("s", str(desktop.path))
        reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
        await reader.readuntil(b"RFB 003.008\n")
        writer.write(masked(2, b"RFB 003.008\n\x01\x01\x03" + bytes(9)))
        loop = asyncio.get_running_loop()
        ends = loop.time() + 3 * SHORT.silent_s
        while loop.time() < ends:
            await reader.read(65536)
            await asyncio.sleep(0.01)
        assert not world.control.ends


async def test_a_frame_that_never_ends_is_reset(hasty: World, desktop: FakeDesktop) -> None:
    """One byte now and then keeps a link alive, but not one frame for ever."""
    hasty.control.add_session("s", str(desktop.path))
    reader, writer = await hasty.raw(request(f"/s/0/t/{hasty.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    frame = masked(2, bytes(60000))
    for at in range(1000):
        writer.write(frame[at : at + 1])
        await asyncio.sleep(0.05)
        if hasty.control.ends:
            break
    assert (await hasty.control.end_of()).cause == "silent"


async def test_a_flood_of_pings_is_refused_and_answered_in_bounds(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    writer.write(masked(9, b"x" * 125) * 1000)
    found = await everything(reader)
    assert found.count(b"\x8a\x7d") == 200
    assert int(Close.TOO_MANY).to_bytes(2, "big") in found[-125:]


async def test_a_pong_waits_until_there_is_room(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    (found,) = world.gateway._hub.connections
    link = cast("Link", found)
    link.pause_writing()  # as the loop would
    writer.write(masked(9, b"first") + masked(9, b"last"))
    await until(lambda: link._pong_due == b"last")
    link.resume_writing()
    assert await reader.readexactly(6) == b"\x8a\x04last"


async def test_a_stop_of_the_service_is_told_with_a_range_for_coming_back(desktop: FakeDesktop) -> None:
    """The hold begins at once, with its cause; keys are released; the gateway is gone in about a second."""
    async with running() as world:
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s") as client, world.connect() as waiting:
            await greet(client)
            await client.send(b"\x04\x01\x00\x00\x00\x00\x00\x61")
            viewer = await desktop.viewer()
            await viewer.wait_messages(1)
            closing = asyncio.ensure_future(world.gateway.close())
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "server_restart 0 3000")
            with pytest.raises(ConnectionClosed):
                await waiting.recv()
            await closing
        assert world.control.ends[0].cause == "server_restart"
        assert (await viewer.wait_messages(2))[1] == b"\x04\x00\x00\x00\x00\x00\x00\x61"


async def test_a_dead_loop_accuses_nobody(hasty: World, desktop: FakeDesktop) -> None:
    """When our own loop stood still, its clients are judged by the time after it."""
    import time
    from dataclasses import replace

    async with running(replace(SHORT, stall_s=0.1)) as world:
        world.control.add_session("s", str(desktop.path))
        async with world.connect(f"/s/{world.shard}/t/{world.control.ticket('s')}") as client:
            await client.recv()
            time.sleep(3 * SHORT.silent_s)  # noqa: ASYNC251 - this is the stall
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), SHORT.silent_s)
            assert not world.control.ends
            assert world.gateway.stats().loop_stall_longest_s > SHORT.silent_s


async def test_the_newest_link_wins_and_the_older_stays_down(world: World, desktop: FakeDesktop) -> None:
    """4409 with the newer device's label; its end is reported, and means nothing to the session."""
    world.control.add_session("s", str(desktop.path))
    async with world.opened("s") as older:
        await greet(older)
        async with world.opened("s") as newer:
            await greet(newer)
            with pytest.raises(ConnectionClosed) as closed:
                await older.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == Close.TAKEN
            assert closed.value.rcvd.reason == "taken Other device"
            assert (await world.control.end_of()).cause == "taken_over"
            assert world.gateway.links("s") == (world.control.sessions["s"].link_id,)
            await newer.send(b"\x04\x01\x00\x00\x00\x00\x00\x62")
            viewer = await desktop.viewer(1)
            assert await viewer.wait_messages(1) == [b"\x04\x01\x00\x00\x00\x00\x00\x62"]


async def test_input_of_a_displaced_link_is_not_obeyed(world: World, desktop: FakeDesktop) -> None:
    """It may go on talking until it has read its close."""
    world.control.add_session("s", str(desktop.path))
    reader, writer = await world.raw(request(f"/s/{world.shard}/t/{world.control.ticket('s')}"))
    await reader.readuntil(b"RFB 003.008\n")
    writer.write(masked(2, b"RFB 003.008\n\x01\x01"))
    viewer = await desktop.viewer()
    world.gateway.close_link("s", world.control.sessions["s"].link_id, code=Close.TAKEN, why="taken")
    writer.write(masked(2, b"\x04\x01\x00\x00\x00\x00\x00\x62"))
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1 << 20), 10)
    assert viewer.messages == []


async def test_a_lost_desktop_leg_is_told_to_both_sides(world: World, desktop: FakeDesktop) -> None:
    world.control.add_session("s", str(desktop.path))
    async with world.opened("s") as client:
        await greet(client)
        viewer = await desktop.viewer()
        assert viewer.transport is not None
        viewer.transport.abort()
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == Close.LEG_LOST
    end = await world.control.end_of()
    assert world.control.legs_lost == [("s", end.link_id)]


async def test_counters_are_there_before_anything_happened_and_add_up(
    world: World, desktop: FakeDesktop
) -> None:
    fresh = world.gateway.stats()
    assert fresh.refusals[4409] == 0
    assert fresh.links_ended["silent"] == 0
    world.control.add_session("s", str(desktop.path))
    async with world.opened("s") as client:
        await greet(client)
        during = world.gateway.stats()
        assert (during.links_open, during.links_opened, during.waiting) == (1, 1, 0)
        assert during.bytes_down > 0
    await world.control.end_of()
    after = world.gateway.stats()
    assert (after.links_open, after.links_ended["tab_closed"]) == (0, 1)
    assert after.bytes_down == during.bytes_down
    assert json.dumps(after.refusals)

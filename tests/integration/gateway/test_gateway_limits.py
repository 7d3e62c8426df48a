"""The limits that no other test reaches, each as it stands in gateway.md 9.1 and 9.3, over real sockets; and
where the tests of the others are.

| limit | test |
|---|---|
| head 8 KiB, 15 s | test_gateway_front |
| first message 4 KiB, 15 s; a loop that stalled | here, test_gateway_tickets, test_gateway_liveness |
| sockets without a first message, the oldest is reset | test_gateway_front |
| a client's message 64 KiB over its fragments, text 4 KiB, depth 4 | here, test_gateway_hostile |
| messages of ours 64 KiB, unfragmented | here |
| 200 messages that move nothing in 10 s, acknowledgements and probes included | here |
| not read while 256 KiB wait for the desktop | here |
| acknowledgements up at 4 KiB or 50 ms | here |
| ring 4 MiB, 1 to 32 MiB; detached 1 MiB | here, test_gateway_resume |
| all rings together | test_gateway_rings, test_gateway_resume |
"""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed

from session_service.app.listening import gateway_limits
from session_service.app.settings import Settings
from session_service.core.close_codes import Close
from session_service.core.continuity import limits as wire
from session_service.gateway.limits import GatewayLimits
from tests.fakes.gateway_world import SHORT, World, masked, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_resume import HANDSHAKE, HEAD_BYTES, SID, Page, add, page

MIB = 1 << 20
ASK = b"\x03" + bytes(9)
REVOKED_S = 2.0
"""From a revocation to the cut (gateway.md 9.4, 9.7)."""


def test_every_limit_is_the_one_that_was_specified() -> None:
    """One place for numbers that both ends and proxies rely on: a change here is a change of the wire."""
    gateway = GatewayLimits()
    assert (gateway.head_bytes_max, gateway.head_s, gateway.first_message_s) == (8192, 15.0, 15.0)
    assert (gateway.text_bytes_max, wire.TEXT_BYTES_MAX, wire.DEPTH_MAX) == (4096, 4096, 4)
    assert (gateway.message_bytes_max, wire.MESSAGE_BYTES_MAX) == (65536, 65536)
    assert (gateway.waiting_sockets_max, gateway.stall_s) == (20_000, 5.0)
    assert gateway.controls_max / gateway.controls_s == 20
    assert (gateway.up_bytes_max, wire.UP_RING_BYTES) == (256 << 10, 256 << 10)
    assert (wire.ACK_DOWN_BYTES, wire.ACK_UP_BYTES, wire.ACK_S) == (65536, 4096, 0.05)
    assert (gateway.ring_bytes, wire.DOWN_DETACHED_BYTES, wire.OFFSET_MAX) == (4 * MIB, MIB, 2**52)
    assert (gateway.rings_share, gateway.ack_quiet_s) == (0.25, 30.0)
    assert (gateway.ping_s, gateway.silent_s, gateway.user_timeout_s, gateway.close_s) == (10, 25, 20, 1)


def test_the_ring_is_a_setting_between_1_and_32_mib() -> None:
    assert gateway_limits(Settings()).ring_bytes == 4 * MIB
    for mib in (1, 32):
        assert gateway_limits(Settings.model_validate({"gateway": {"ring_mib": mib}})).ring_bytes == mib * MIB
    for mib in (0, 33):
        with pytest.raises(ValidationError):
            Settings.model_validate({"gateway": {"ring_mib": mib}})


def flood(viewer: Viewer, message: bytes) -> None:
    """A mebibyte for each request."""
    if message[0] == 3 and viewer.transport is not None:
        viewer.transport.write(bytes(MIB))


async def closed_with(one: Page) -> int:
    """The code of the close frame, whatever comes before it."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            async with asyncio.timeout(10):
                await one.socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


@pytest.mark.parametrize("mib", [1, 8])
async def test_a_chosen_ring_is_told_and_is_where_the_desktop_stops(tmp_path: Path, mib: int) -> None:
    """A client that reads and never acknowledges; messages are never longer than 64 KiB."""
    async with (
        running(replace(SHORT, ring_bytes=mib * MIB, silent_s=60.0, ping_s=30.0)) as world,
        FakeDesktop(tmp_path / "flood.sock", answer=flood) as desktop,
    ):
        add(world, desktop)
        async with page(world) as one:
            assert (await one.open())["win"] == [mib * MIB, wire.UP_RING_BYTES]
            await one.socket.send(HANDSHAKE + ASK * (mib + 4))
            got = 0
            while got < mib * MIB:
                message = await one.socket.recv()
                assert len(message) <= wire.MESSAGE_BYTES_MAX
                got += len(message) if isinstance(message, bytes) else 0
            await until(lambda: desktop.viewers[0].full)
            ring = world.gateway._hub.streams[SID].core.ring
            assert mib * MIB <= ring.unacknowledged < mib * MIB + 512 * 1024
            while got < HEAD_BYTES + (mib + 4) * MIB:
                await one.say(a=got)
                async with asyncio.timeout(10):
                    message = await one.socket.recv()
                got += len(message) if isinstance(message, bytes) else 0


async def test_a_detached_stream_keeps_a_mebibyte_and_stops_its_desktop(tmp_path: Path) -> None:
    async with running() as world, FakeDesktop(tmp_path / "flood.sock", answer=flood) as desktop:
        add(world, desktop)
        async with page(world) as one:
            await one.open()
            await one.bytes(12)
            stream = world.gateway._hub.streams[SID]
            await one.socket.send(HANDSHAKE)
            await one.bytes(2)
            await one.socket.send(ASK * 6)
            one.socket.transport.abort()
        await until(lambda: desktop.viewers[0].full)
        kept = stream.core.ring.unacknowledged
        assert kept < 4 * MIB
        assert kept < MIB + 512 * 1024 or kept == stream.core._detached_cap


@pytest.mark.parametrize("said", [{"a": 0}, {"h": 1}, {"t": "something new"}])
async def test_messages_that_move_nothing_are_twenty_a_second_at_most(
    world: World, desktop: FakeDesktop, said: dict[str, Any]
) -> None:
    """Acknowledgements that repeat, probes and unknown words are counted together with pings."""
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        for _ in range(GatewayLimits().controls_max + 1):
            await one.say(**said)
        assert await closed_with(one) == Close.TOO_MANY


async def test_acknowledgements_that_move_are_never_too_many(world: World, desktop: FakeDesktop) -> None:
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        for offset in range(1, 13):
            await one.say(a=offset)
        await one.say(h=1)
        assert await one.text() == {"a": 0}


async def test_of_acknowledgements_that_come_together_the_newest_says_it_all(
    world: World, desktop: FakeDesktop
) -> None:
    """They are counted, and what stands between them keeps its place."""
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        together = [*(json.dumps({"a": offset}) for offset in range(1, 12)), '{"h":1}', '{"a":12}']
        one.socket.transport.write(b"".join(masked(1, text.encode()) for text in together))
        assert await one.text() == {"a": 0}
        await until(lambda: world.gateway._hub.streams[SID].core.ring.acked == 12)
    assert (await world.control.end_of()).acks_in == 12


@pytest.mark.parametrize(
    ("offsets", "code"),
    [
        ([5, 3], Close.BAD_MESSAGE),
        ([5, 3, 8], Close.BAD_MESSAGE),
        ([5, 1 << 40, 8], Close.BAD_MESSAGE),
        ([5, 1 << 52], Close.BAD_MESSAGE),
        ([5, 1 << 40], Close.BAD_MESSAGE),
        ([0] * 201, Close.TOO_MANY),
        ([5] * 202, Close.TOO_MANY),
    ],
)
async def test_no_false_acknowledgement_hides_among_others(
    world: World, desktop: FakeDesktop, offsets: list[int], code: Close
) -> None:
    """One read brings them all; a true one behind a false one excuses nothing."""
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        one.socket.transport.write(b"".join(masked(1, b'{"a":%d}' % offset) for offset in offsets))
        assert await closed_with(one) == code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"x" * 65537, Close.MESSAGE_TOO_BIG),
        ([b"x" * 40000, b"x" * 25537], Close.MESSAGE_TOO_BIG),
        ("x" * 4097, Close.TOO_BIG),
        (["x" * 4000, "x" * 97], Close.TOO_BIG),
        ('{"t":"new","x":[[[[1]]]]}', Close.BAD_MESSAGE),
    ],
)
async def test_one_byte_too_many_ends_the_link_with_its_code(
    world: World, desktop: FakeDesktop, message: Any, code: Close
) -> None:
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.socket.send(message)
        assert await closed_with(one) == code


async def test_a_desktop_that_takes_nothing_stops_its_client_and_not_its_neighbour(
    world: World, desktop: FakeDesktop
) -> None:
    """What waits for it is bounded by 256 KiB and one read; the client's own socket fills up behind that."""
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        viewer = desktop.viewers[0]
        assert viewer.transport is not None
        viewer.transport.pause_reading()
        stream = world.gateway._hub.streams[SID]
        paste = b"\x06\0\0\0" + (60000).to_bytes(4, "big") + bytes(60000)
        writing = asyncio.ensure_future(_all(one, [HANDSHAKE, *[paste] * 400]))
        await until(lambda: stream._leg_full)
        assert stream._leg is not None
        assert stream._leg._transport is not None
        assert stream._leg._transport.get_write_buffer_size() <= 3 * GatewayLimits().up_bytes_max
        viewer.transport.resume_reading()
        await writing
        await until(lambda: sum(m[0] == 6 for m in viewer.messages) == 400)


async def _all(one: Page, messages: list[bytes]) -> None:
    for message in messages:
        await one.socket.send(message)


async def test_input_is_acknowledged_by_four_kibibytes_or_fifty_milliseconds(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        await one.socket.send(HANDSHAKE)
        assert await _next_ack(one) == len(HANDSHAKE)
        began = time.monotonic()
        many = b"\x04\x01\0\0\0\0\0a" * 600
        await one.socket.send(many)
        assert await _next_ack(one) == len(HANDSHAKE) + len(many)
        assert time.monotonic() - began < 5.0


async def _next_ack(one: Page) -> int:
    while True:
        async with asyncio.timeout(10):
            message = await one.socket.recv()
        if isinstance(message, str):
            assert message.startswith('{"a":'), message
            return int(message[5:-1])


async def test_a_revoked_grant_cuts_its_live_links_within_two_seconds(
    world: World, desktop: FakeDesktop
) -> None:
    """One that reads, and one that neither reads nor closes: not a byte of either is obeyed afterwards."""
    add(world, desktop)
    world.control.add_session("v", str(desktop.path), mode="view")
    async with page(world) as polite, world.opened("v") as deaf:
        opened = await polite.open()
        await polite.bytes(12)
        await polite.socket.send(HANDSHAKE)
        deaf.transport.pause_reading()
        streams = world.control.streams
        assert streams is not None
        began = time.monotonic()
        for session in (SID, "v"):
            (link_id,) = world.gateway.links(session)
            streams.close_link(session, link_id, code=Close.REVOKED, why="revoked")
        assert await closed_with(polite) == Close.REVOKED
        await until(lambda: not world.gateway._hub.connections)
        assert time.monotonic() - began < REVOKED_S
        said = len(desktop.viewers[0].messages)
        deaf.transport.abort()
    world.control.sessions[SID].grant += 1
    async with page(world) as back:
        assert (await back.resume(opened, 1, received=12, end=len(HANDSHAKE)))["t"] == "no"
    assert len(desktop.viewers[0].messages) == said

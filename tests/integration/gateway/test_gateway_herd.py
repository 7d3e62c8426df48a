"""Hundreds of clients without manners at once, and one who works: half-open, slow, deaf and lying ones cost
those who sent them, and nobody else a noticeable time.
"""

import asyncio
import contextlib
import json
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from session_service.core.close_codes import Close
from tests.fakes.gateway_world import SHORT, World, greet, masked, request, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until

ECHO_S_MAX = 0.5
"""The middle of what a key's answer takes among all of them; a blocked gateway takes seconds. It is a bound
for a shared machine and no measurement.
"""
PATIENT = replace(
    SHORT, head_s=60.0, first_message_s=60.0, ping_s=30.0, silent_s=90.0, slow_s=90.0, frame_s=90.0
)
Writers = list[asyncio.StreamWriter]


def answer(viewer: Viewer, message: bytes) -> None:
    """A bell for a key, a flood for a request."""
    if viewer.transport is not None and message[:2] == b"\x04\x01":
        viewer.transport.write(b"\x02")
    elif viewer.transport is not None and message[0] == 3:
        viewer.transport.write(bytes(300_000))


@asynccontextmanager
async def worker(world: World) -> AsyncIterator[ClientConnection]:
    world.control.add_session("worker", str(world.desktop))  # type: ignore[attr-defined]  # set by `site`
    async with world.opened("worker") as client:
        await greet(client)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.2)
                continue
            break
        yield client


async def echo_s(client: ClientConnection, count: int) -> float:
    """The middle time from a key to its bell."""
    took = []
    for _ in range(count):
        began = time.monotonic()
        await client.send(b"\x04\x01\0\0\0\0\0a\x04\0\0\0\0\0\0a")
        async with asyncio.timeout(20):
            assert await client.recv() == b"\x02"
        took.append(time.monotonic() - began)
    return statistics.median(took)


async def nothing(world: World, number: int) -> bytes:
    return b""


async def slow_head(world: World, number: int) -> bytes:
    return request(f"/s/{world.shard}/ws")[: 20 + number % 60]


async def no_first_message(world: World, number: int) -> bytes:
    return request(f"/s/{world.shard}/ws")


async def slow_first_message(world: World, number: int) -> bytes:
    return request(f"/s/{world.shard}/ws") + masked(1, world.first("t" * 43).encode())[: 1 + number % 40]


async def deaf(world: World, number: int) -> bytes:
    """Asks for a picture and never reads it."""
    ticket = world.control.ticket("herd")
    return request(f"/s/{world.shard}/t/{ticket}") + masked(2, b"RFB 003.008\n\x01\x01\x03" + bytes(9))


async def liar(world: World, number: int) -> bytes:
    """Acknowledges what was never sent, right behind its ticket and then for ever."""
    name = f"liar{number}"
    world.control.add_session(name, str(world.desktop))  # type: ignore[attr-defined]  # set by `site`
    first = json.dumps({"t": "open", "aud": world.aud, "auth": world.control.ticket(name), "can": []})
    head = request(f"/s/{world.shard}/ws", "Sec-WebSocket-Protocol: continuity.v1")
    return head + masked(1, first.encode())


@asynccontextmanager
async def site(tmp_path: Path) -> AsyncIterator[World]:
    async with running(PATIENT) as world, FakeDesktop(tmp_path / "rfb.sock", answer=answer) as desktop:
        world.desktop = desktop.path  # type: ignore[attr-defined]  # where the herd's sessions lead
        yield world


KINDS: list[Callable[[World, int], object]] = [nothing, slow_head, no_first_message, slow_first_message]


async def _among(tmp_path: Path, count: int) -> None:
    """All kinds of half-open sockets at once, each fed a byte now and then."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    async with site(tmp_path) as world, worker(world) as client:
        writers: Writers = []
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            _, writer = await world.raw(await kind(world, number))  # type: ignore[misc]  # a list of coroutines
            writers.append(writer)
        await until(lambda: len(world.gateway._hub.waiting) >= count, 60)
        assert await echo_s(client, 60) < ECHO_S_MAX
        for writer in writers:
            writer.transport.abort()
        await until(lambda: not world.gateway._hub.waiting, 60)
        assert await echo_s(client, 10) < ECHO_S_MAX


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.soak)])
async def test_half_open_sockets_cost_nobody_else_a_noticeable_time(tmp_path: Path, count: int) -> None:
    await _among(tmp_path, count)


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.soak)])
async def test_clients_that_never_read_cost_nobody_else_a_noticeable_time(tmp_path: Path, count: int) -> None:
    """Each holds at most its own limit, and its desktop is paused."""
    async with site(tmp_path) as world, worker(world) as client:
        for _ in range(count):
            # One session each: a newer link would displace the one before.
            world.control.add_session("herd", str(world.desktop))  # type: ignore[attr-defined]  # see `site`
            _, writer = await world.raw(await deaf(world, 0))
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport as well
        await until(lambda: world.gateway.stats().links_opened > count, 60)
        assert await echo_s(client, 60) < ECHO_S_MAX


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.soak)])
async def test_clients_that_acknowledge_falsely_are_shown_out(tmp_path: Path, count: int) -> None:
    async with site(tmp_path) as world, worker(world) as client:
        for number in range(count):
            reader, writer = await world.raw(await liar(world, number))
            await reader.readuntil(b"RFB 003.008\n")
            writer.write(masked(1, b'{"a":%d}' % (1 << 40)) * 3)
        await until(lambda: world.gateway.stats().refusals[int(Close.BAD_MESSAGE)] == count, 60)
        assert await echo_s(client, 60) < ECHO_S_MAX

"""Behind nginx, HAProxy and Caddy as deploy/examples sets them up: pages and desktops on one origin, upstream
keep-alive, TLS that ends at the proxy, idle time-outs, and whose address is believed.

Time-outs of a minute are two seconds here, and the gateway's signs of life are as much faster.
"""

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from session_service.gateway.limits import GatewayLimits
from tests.fakes.certificates import make_certificate
from tests.fakes.gateway_world import GREETING, World, greet, request, running
from tests.fakes.proxies import Setting, free_port, present, proxy
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_resume import Page, add, page

IDLE_S = 2
LIVELY = GatewayLimits(ping_s=0.4, silent_s=3.0, close_s=0.2, poll_s=0.01)
TRUSTED = (ip_network("127.0.0.1/32"),)
CLIENT = "127.0.0.2"
"""Loopback has many addresses: this one is no proxy's."""
DIRECT = "no proxy"


class Behind:
    """A world whose clients come through a proxy."""

    def __init__(self, world: World, port: int, context: ssl.SSLContext | None) -> None:
        self.world = world
        self.port = port
        self.context = context

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, local_addr=(CLIENT, 0)
        )
        self.world.writers.append(writer)
        return reader, writer


@asynccontextmanager
async def folder_without_spaces() -> AsyncIterator[Path]:
    """For the proxies' files: their configurations have no word for a space in a name."""
    folder = Path(tempfile.mkdtemp(prefix="px-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def behind(name: str, limits: GatewayLimits = LIVELY, processes: int = 1) -> AsyncIterator[Behind]:
    if name == DIRECT:
        async with running(limits, trusted=TRUSTED, processes=processes) as world:
            yield Behind(world, world.port, None)
        return
    port = free_port()
    public = f"https://127.0.0.1:{port}"
    async with (
        running(limits, trusted=TRUSTED, processes=processes, public=public) as world,
        folder_without_spaces() as folder,
    ):
        certificate, key = make_certificate(folder)
        told = Setting(
            folder=folder,
            port=port,
            upstream=world.port,
            certificate=certificate,
            key=key,
            idle_s=IDLE_S,
        )
        async with proxy(name, told):
            yield Behind(world, port, ssl.create_default_context(cafile=str(certificate)))


@pytest.fixture(params=[DIRECT, *present()])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_pages_and_desktops_share_one_origin_whatever_connection_the_proxy_keeps(
    name: str, desktop: FakeDesktop, processes: int
) -> None:
    """Pages fill the proxy's pool of connections first; no websocket is ever put on one of those."""
    async with behind(name, processes=processes) as found:
        world = found.world
        add(world, desktop)
        world.control.add_session("s", str(desktop.path))
        for _ in range(3):
            reader, writer = await found.raw()
            for _ in range(2):
                writer.write(b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % found.port)
                assert b"200" in await asyncio.wait_for(reader.readuntil(b"aiohttp /hello 0"), 10)
            options = {"ssl": found.context} if found.context else {}
            client = await world.connect(**options)
            await client.send(world.first(world.control.ticket("s")))
            assert "opened" in str(await client.recv())
            assert (await greet(client)).startswith(b"\x02\x80")
            await client.close()
        async with page_through(found) as one:
            assert (await one.open())["t"] == "opened"
            assert await one.bytes(12) == GREETING


@asynccontextmanager
async def page_through(found: Behind) -> AsyncIterator[Page]:
    options = {"ssl": found.context} if found.context else {}
    async with page(found.world, **options) as made:
        yield made


@pytest.mark.slow
async def test_an_idle_desktop_outlives_the_proxys_time_out(name: str, desktop: FakeDesktop) -> None:
    """Both subprotocols; nothing is said but signs of life for two time-outs, then a key arrives."""
    async with behind(name) as found:
        world, loop = found.world, asyncio.get_running_loop()
        options = {"ssl": found.context} if found.context else {}
        add(world, desktop)
        world.control.add_session("s", str(desktop.path))
        async with page_through(found) as resumable, world.opened("s", **options) as plain:
            await resumable.open()
            await greet(plain)
            began = loop.time()
            reading = asyncio.ensure_future(resumable.bytes(24))  # a reader answers pings
            await until(lambda: loop.time() - began > 2 * IDLE_S + 0.5, 5 * IDLE_S)
            await plain.send(b"\x04\x01\x00\x00\x00\x00\x00a")
            await until(
                lambda: any(b"\x04\x01\x00\x00\x00\x00\x00a" in viewer.messages for viewer in desktop.viewers)
            )
            assert not reading.done()
            await resumable.socket.send(GREETING)
            await resumable.socket.send(b"\x01\x01")
            assert len(await reading) >= 14
        assert not [end for end in world.control.ends if end.cause == "silent"]


@pytest.mark.slow
@pytest.mark.parametrize("cutting", [DIRECT, *(each for each in present() if each != "caddy")])
async def test_without_signs_of_life_the_time_out_is_real(cutting: str, desktop: FakeDesktop) -> None:
    """What the test before would not notice if the time-out were not in force (Caddy has none)."""
    quiet = replace(LIVELY, ping_s=60.0, silent_s=4 * IDLE_S if cutting == DIRECT else 60.0)
    async with behind(cutting, quiet) as found:
        options = {"ssl": found.context} if found.context else {}
        found.world.control.add_session("s", str(desktop.path))
        async with found.world.opened("s", **options) as client:
            await greet(client)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), 10 * IDLE_S)
    assert len(found.world.control.ends) == 1


async def test_the_address_is_the_proxys_word_and_never_the_clients(name: str) -> None:
    """A client that claims another address is believed by nobody."""
    async with behind(name) as found:
        world = found.world
        claims = request(f"/s/0/t/{'A' * 43}", "X-Forwarded-For: 6.6.6.6", f"Origin: {world.origin}")
        _, writer = await found.raw()
        writer.write(claims.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1:%d" % found.port))
        await until(lambda: len(world.control.offers) == 1)
        assert world.control.offers[0].address == CLIENT

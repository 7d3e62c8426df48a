"""One port, two owners: which connection goes where, and what is refused before a websocket exists."""

import asyncio

import pytest

from tests.fakes.gateway_world import SHORT, World, request, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until


async def answer(world: World, data: bytes) -> bytes:
    """Everything that is answered until the connection closes."""
    reader, _ = await world.raw(data)
    return await asyncio.wait_for(reader.read(), 10)


async def test_a_page_is_served_by_aiohttp_on_the_same_port(world: World) -> None:
    found = await answer(world, b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert found.endswith(b"aiohttp /hello 0")


async def test_a_body_behind_the_head_reaches_aiohttp_whole(world: World) -> None:
    """Head and first part of the body arrive in one read, the rest later."""
    reader, writer = await world.raw(
        b"POST /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"
        + bytes(50000),
    )
    writer.write(bytes(50000))
    assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 100000")


async def test_a_head_may_arrive_byte_by_byte(world: World) -> None:
    reader, writer = await world.raw(b"")
    for byte in b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert b"aiohttp /hello" in await asyncio.wait_for(reader.read(), 10)


async def test_an_upgrade_on_a_connection_that_aiohttp_owns_is_misdirected(world: World) -> None:
    """A proxy that keeps connections alive must take a new one for a websocket."""
    reader, writer = await world.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"aiohttp /hello 0")
    writer.write(request(f"/s/{world.shard}/ws"))
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request("/s/0/ws", "Origin: https://evil.example"), 403),
        (request("/s/0/ws", "Origin: null"), 403),
        (request("/s/0/ws", "Origin: https://a.example", "Origin: https://b.example"), 400),
        (request("/s/9/ws"), 404),
        (request("/s/0/other"), 404),
        (request("/s/0/t/short"), 404),
        (request("/s/0/ws", key="tooshort"), 400),
        (request("/s/0/ws", "Sec-WebSocket-Protocol: continuity.v9"), 400),
        (request("/s/0/ws", "Sec-WebSocket-Protocol: " + "x" * 9000), 431),
        (request("/s/0/ws", method="POST"), 405),
        (request("/s/0/t/" + "A" * 43, method="HEAD"), 405),
        (b"GET /s/0/t/" + b"A" * 43 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET /s/0/ws HTTP/1.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 505),
        (b"GET /s/0/ws HTTP/1.1\r\nbroken\r\n\r\n", 400),
        (b"\xff\xfe /s/0/ws HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_a_wrong_request_is_refused_before_the_upgrade(world: World, head: bytes, status: int) -> None:
    """Each answer closes the connection, is counted, and keeps the address from other sites."""
    found = await answer(world, head.replace(b"/s/0/", f"/s/{world.shard}/".encode()))
    assert found.startswith(b"HTTP/1.1 %d " % status), found[:200]
    assert b"Connection: close" in found
    assert b"Referrer-Policy: no-referrer" in found
    assert sum(one.stats().refusals[status] for one in {world.inside, world.gateway}) == 1
    assert not world.control.offers


async def test_a_request_without_an_origin_is_a_program_and_let_in(world: World) -> None:
    reader, _ = await world.raw(request(f"/s/{world.shard}/ws"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")


async def test_a_head_that_never_ends_is_reset(hasty: World) -> None:
    for beginning in (b"", b"GET /hel", b"GET /s/0/ws HTTP/1.1\r\nA: "):
        reader, _ = await hasty.raw(beginning)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
    await until(lambda: hasty.gateway.stats().waiting == 0)


async def test_a_long_head_of_a_page_is_waited_for_no_longer_than_a_short_one(hasty: World) -> None:
    """Beyond 8 KiB it was handed on before its end, to a server that waits for the rest for ever."""
    reader, writer = await hasty.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"x" * 5000 + b"\r\n")
    writer.write(b"B: " + b"x" * 5000)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    found = await answer(hasty, b"GET /hello HTTP/1.1\r\nHost: x\r\n" + b"A: x\r\n" * 6000)
    assert found.startswith(b"HTTP/1.1 431")
    whole = b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"C: %s\r\n" % (b"c" * 4000) * 4
    assert b"aiohttp /hello 0" in await answer(hasty, whole + b"\r\n")


async def test_connections_for_pages_have_a_limit_and_leave_links_alone(desktop: FakeDesktop) -> None:
    """Each answered and kept open, as browsers do, and as a stranger can."""
    from dataclasses import replace

    async with running(replace(SHORT, page_sockets_max=2, silent_s=60, ping_s=60)) as world:
        world.control.add_session("s", str(desktop.path))
        kept = [await world.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
        for reader, _ in kept:
            await reader.readuntil(b"aiohttp /hello 0")
        found = await answer(world, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 503")
        async with world.opened("s"):
            kept[0][1].close()
            await kept[0][1].wait_closed()
            await until(lambda: len(world.inside._hub.http.connections) < 2)
            ended = b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert b"aiohttp /hello 0" in await answer(world, ended)


async def test_a_reader_of_pages_that_takes_nothing_is_given_up_by_the_kernel(hasty: World) -> None:
    """aiohttp waits for it without a limit; the socket has one."""
    from socket import IPPROTO_TCP, TCP_USER_TIMEOUT

    reader, _ = await hasty.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"aiohttp /hello 0")
    (connection,) = hasty.inside._hub.http.connections
    socket = connection.transport.get_extra_info("socket")
    assert socket.getsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT) == 90_000


async def test_at_the_limit_of_silent_sockets_the_oldest_makes_room() -> None:
    from dataclasses import replace

    async with running(replace(SHORT, head_s=60, first_message_s=60, waiting_sockets_max=3)) as world:
        sockets = [await world.raw(request(f"/s/{world.shard}/ws"))]
        await sockets[0][0].readuntil(b"\r\n\r\n")
        sockets.append(await world.raw(b"GET /he"))
        sockets.append(await world.raw(b""))
        await until(lambda: world.gateway.stats().waiting == 3)
        sockets.append(await world.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        assert b"200 OK" in await asyncio.wait_for(sockets[3][0].read(), 10)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(sockets[0][0].read(), 10)
        assert world.gateway.stats().waiting_reset == 1


async def test_links_beyond_the_limit_are_told_to_come_back(desktop: FakeDesktop) -> None:
    from dataclasses import replace

    async with running(replace(SHORT, links_max=1, silent_s=60, ping_s=60)) as world:
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s"):
            found = await answer(world, request(f"/s/{world.shard}/ws"))
            assert found.startswith(b"HTTP/1.1 503")
            assert b"Retry-After" in found


async def test_the_address_behind_a_proxy_is_believed_from_named_proxies_only(desktop: FakeDesktop) -> None:
    from ipaddress import ip_network

    forwarded = {"X-Forwarded-For": "6.6.6.6, 203.0.113.7, 10.0.0.1"}
    for trusted, expected in (
        ((), "127.0.0.1"),
        ((ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")), "203.0.113.7"),
    ):
        async with running(trusted=trusted) as world:
            world.control.add_session("s", str(desktop.path))
            async with world.opened("s", additional_headers=forwarded):
                assert world.control.offers[0].address == expected

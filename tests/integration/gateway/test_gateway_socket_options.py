"""The options of a client's connection: there whether its listening socket was prepared or not."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from session_service.gateway.limits import GatewayLimits
from session_service.gateway.socket_options import SocketOptions

LIMITS = GatewayLimits()
TCP = socket.IPPROTO_TCP
IDLE_S, INTERVAL_S, PROBES = LIMITS.keepalive_s
WANTED = {
    (TCP, socket.TCP_USER_TIMEOUT): int(LIMITS.user_timeout_s * 1000),
    (TCP, socket.TCP_KEEPIDLE): IDLE_S,
    (TCP, socket.TCP_KEEPINTVL): INTERVAL_S,
    (TCP, socket.TCP_KEEPCNT): PROBES,
    (TCP, socket.TCP_NOTSENT_LOWAT): LIMITS.unsent_bytes_max,
}
SWITCHES = ((TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE))


async def connected(
    stack: AsyncExitStack, listening: socket.socket, before: Callable[[], None] = lambda: None
) -> asyncio.Transport:
    """One connection that was taken from this socket; `before` happens while it waits in the queue."""
    loop = asyncio.get_running_loop()
    client = stack.enter_context(socket.socket(listening.family))
    client.connect(listening.getsockname())
    before()
    accepted, _ = listening.accept()
    accepted.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
    stack.callback(transport.abort)
    return transport


def listening_on(stack: AsyncExitStack) -> socket.socket:
    listening = stack.enter_context(socket.socket())
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def has_all(transport: asyncio.Transport) -> bool:
    connection = transport.get_extra_info("socket")
    return all(connection.getsockopt(*name) == value for name, value in WANTED.items()) and all(
        connection.getsockopt(*name) for name in SWITCHES
    )


async def test_a_prepared_listening_socket_gives_its_options_to_each_connection() -> None:
    """As the kernel does it, before anybody looks; looking changes nothing."""
    async with AsyncExitStack() as stack:
        options, listening = SocketOptions(LIMITS), listening_on(stack)
        options.prepare(listening)
        for _ in range(2):
            transport = await connected(stack, listening)
            assert has_all(transport)
            options.ensure(transport)
            assert has_all(transport)


async def test_a_connection_of_another_socket_gets_them_too() -> None:
    """One that nobody prepared, between two that are: what was learnt of those is not believed of it."""
    async with AsyncExitStack() as stack:
        options, prepared, foreign = SocketOptions(LIMITS), listening_on(stack), listening_on(stack)
        options.prepare(prepared)
        for listening in (prepared, foreign, prepared):
            transport = await connected(stack, listening)
            options.ensure(transport)
            assert has_all(transport)


async def test_a_connection_that_waited_since_before_gets_them_too() -> None:
    """It was in the queue when its socket was prepared: the first start after the port was opened."""
    async with AsyncExitStack() as stack:
        options, listening = SocketOptions(LIMITS), listening_on(stack)
        transport = await connected(stack, listening, before=lambda: options.prepare(listening))
        options.ensure(transport)
        assert has_all(transport)


@pytest.mark.parametrize("lost", sorted(WANTED)[:-1])
async def test_a_kernel_that_hands_on_only_some_is_found_out(lost: tuple[int, int]) -> None:
    """The mark came, another one did not: from then on each connection gets all of them."""
    async with AsyncExitStack() as stack:
        options, listening = SocketOptions(LIMITS), listening_on(stack)
        options.prepare(listening)
        listening.setsockopt(*lost, 77 if lost[1] != socket.TCP_USER_TIMEOUT else 7777)
        for _ in range(2):
            transport = await connected(stack, listening)
            options.ensure(transport)
            assert has_all(transport)


async def test_a_unix_socket_has_none_and_nothing_fails() -> None:
    """The inner end of a relayed connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    options = SocketOptions(LIMITS)
    options.prepare(ours)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    options.ensure(transport)
    transport.abort()
    theirs.close()

"""A connection over our own TLS whose shard is another process's: its inner bytes are relayed.

Not the way for fleets: the socket of a TLS connection cannot be handed on, because its keys are in this
process. A proxy in front that ends TLS leaves a plain socket, which is passed and costs this process nothing
more (docs/running.md).
"""

import asyncio
import socket
from collections.abc import Callable

from session_service.gateway.limits import GatewayLimits
from session_service.gateway.messages import Passed
from session_service.gateway.passing import Owner


class _Side(asyncio.Protocol):
    """One of the two ends. Each slows the other one down when it cannot take more."""

    def __init__(self, ended: Callable[[], None] | None = None) -> None:
        self.peer: asyncio.Transport | None = None
        self._ended = ended
        self._early = bytearray()

    def join(self, peer: asyncio.Transport) -> None:
        self.peer = peer
        if self._early:
            peer.write(bytes(self._early))
            self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self._early += data  # the transport is paused: at most what was under way
        else:
            self.peer.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None and not self.peer.is_closing():
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and not self.peer.is_closing():
            self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ended is not None:
            self._ended()
        if self.peer is None:
            return
        if exc is None:
            self.peer.close()
        else:
            self.peer.abort()


async def relay(
    transport: asyncio.Transport,
    passed: Passed,
    owner: Owner,
    limits: GatewayLimits,
    ended: Callable[[], None],
) -> None:
    """Let `owner` take the inner bytes of a paused transport; reset it when it cannot. `ended` is called
    once, when the client is gone.
    """
    outer, inner = _Side(ended), _Side()
    transport.set_protocol(outer)
    try:
        theirs, ours = socket.socketpair()
    except OSError:  # no descriptors are left
        transport.abort()
        return
    with theirs:
        taken = owner.take(passed, theirs.fileno())
    if not taken or transport.is_closing():
        ours.close()
        transport.abort()
        return
    try:
        between, _ = await asyncio.get_running_loop().create_unix_connection(lambda: inner, sock=ours)
    except OSError:
        ours.close()
        transport.abort()
        return
    between.set_write_buffer_limits(high=limits.up_bytes_max)
    transport.set_write_buffer_limits(high=limits.down_bytes_max)
    inner.join(transport)
    outer.join(between)
    if transport.is_closing():
        between.abort()
    else:
        transport.resume_reading()

"""What the kernel is told about each client's connection: find dead peers, send at once, keep little unsent.

Not set per connection where that can be helped: Linux gives a connection the options of the socket that took
it, so they are set once on what listens. Whether a connection has them is asked each time, by one option that
nobody else sets, because a socket may come from elsewhere, or may have waited in the queue since before.

Source: gateway.md section 7, "Half-open TCP"; docs/design/0021.
"""

import asyncio
import socket
from typing import Final

from session_service.gateway.limits import GatewayLimits

_INET, _STREAM = socket.AF_INET, socket.SOCK_STREAM
_TCP: Final = socket.IPPROTO_TCP


class SocketOptions:
    """The options of one gateway's connections."""

    def __init__(self, limits: GatewayLimits) -> None:
        idle_s, interval_s, probes = limits.keepalive_s
        self._mark = int(limits.user_timeout_s * 1000)
        """Set last on what listens, so that whoever has it has the others."""
        self._wanted = (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (_TCP, socket.TCP_NODELAY, 1),
            (_TCP, socket.TCP_KEEPIDLE, idle_s),
            (_TCP, socket.TCP_KEEPINTVL, interval_s),
            (_TCP, socket.TCP_KEEPCNT, probes),
            (_TCP, socket.TCP_NOTSENT_LOWAT, limits.unsent_bytes_max),
            (_TCP, socket.TCP_USER_TIMEOUT, self._mark),
        )
        self._are_inherited: bool | None = None
        """None until the first connection with the mark has shown whether the others came with it."""

    def prepare(self, listening: socket.socket) -> None:
        """Set them on a socket that listens, or will; a unix socket has none."""
        if listening.family in {socket.AF_INET, socket.AF_INET6}:
            for option in self._wanted:
                listening.setsockopt(*option)

    def ensure(self, transport: asyncio.Transport) -> None:
        """See to it that a client's connection has them."""
        connection = transport.get_extra_info("socket")
        if connection is None:
            return
        # One object for all of them: a transport's own makes a new one for each call. The family does not
        # matter to the options of TCP.
        borrowed = socket.socket(_INET, _STREAM, 0, fileno=connection.fileno())
        try:
            is_marked = borrowed.getsockopt(_TCP, socket.TCP_USER_TIMEOUT) == self._mark
            if is_marked and self._are_inherited is None:
                self._are_inherited = self._has_all(borrowed)
            if not (is_marked and self._are_inherited):
                for option in self._wanted:
                    borrowed.setsockopt(*option)
        except OSError:
            pass  # A unix socket (the inner end of a relay), or a peer that is gone already.
        finally:
            borrowed.detach()

    def _has_all(self, connection: socket.socket) -> bool:
        # A switch that is on reads as any number but 0 on some systems.
        return all(
            bool(found) if wanted == 1 else found == wanted
            for found, wanted in (
                (connection.getsockopt(level, name), wanted) for level, name, wanted in self._wanted
            )
        )

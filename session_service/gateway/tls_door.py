"""Connections over our own TLS, from the kernel's queue to the end of their handshake.

Not a server of asyncio's, which tells nobody of a connection before its handshake is over: as many as dial
could stand in the middle of theirs. Here each is known and counted from its first moment. Only where TLS ends
in this process; plain connections are taken by asyncio's server.

Source: docs/design/0020.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Final

from session_service.gateway.front import Front
from session_service.gateway.hub import Hub

ACCEPTED_AT_ONCE: Final = 64
"""In one turn of the loop; the others wait in the kernel's queue meanwhile."""
FULL_S: Final = 1.0
"""Without taking anybody, after no descriptor was left for a connection (asyncio waits as long)."""
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class TlsDoor:
    """Takes the connections of one listening socket, which it owns."""

    def __init__(self, listening: socket.socket, context: ssl.SSLContext, hub: Hub) -> None:
        self._listening = listening
        self._context = context
        self._hub = hub
        self._again: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Take connections from now on."""
        self._listening.setblocking(False)
        self._listening.listen(self._hub.limits.backlog)
        self._look()

    def close(self) -> None:
        """Take none any more; those in their handshake are the hub's to end. Repeating this is harmless."""
        if self._again is not None:
            self._again.cancel()
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    def _look(self) -> None:
        self._again = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._hub.log.warning("listen.limited", reason=type(exc).__name__, detail=exc.strerror)
                loop.remove_reader(self._listening)
                self._again = loop.call_later(FULL_S, self._look)
                return
            connection.setblocking(False)
            Handshake(connection, self._hub).begin(self._context)


class Handshake:
    """One connection in the middle of it. It counts as a socket without a first message, too."""

    __slots__ = ("_connection", "_hub", "_is_taken", "_shaking")

    _shaking: asyncio.Task[None]

    def __init__(self, connection: socket.socket, hub: Hub) -> None:
        self._connection = connection
        self._hub = hub
        self._is_taken = False
        """The socket is the loop's to close."""

    def begin(self, context: ssl.SSLContext) -> None:
        """Make room for it, and let it go on."""
        self._hub.begin_handshake(self)
        self._shaking = self._hub.tasks.spawn(self._shake(context), name="tls-handshake")

    def over(self) -> None:
        """Whoever it was is a connection now, or gone. Repeating this is harmless."""
        self._hub.end_handshake(self)

    def reset(self) -> None:
        """Drop the connection: room is needed for a newer one, or the gateway ends."""
        self.over()
        with contextlib.suppress(OSError):  # it has just ended by itself
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._shaking.cancel()
        if not self._is_taken:  # it never begins
            self._connection.close()

    async def _shake(self, context: ssl.SSLContext) -> None:
        self._is_taken = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Shaken(self._hub, self),
                self._connection,
                ssl=context,
                ssl_handshake_timeout=self._hub.limits.head_s,
            )
        except OSError:  # no TLS, another certificate wished for, too slow, or gone
            pass
        finally:
            self.over()


class _Shaken(Front):
    """The first bytes inside of it."""

    __slots__ = ("_handshake",)

    def __init__(self, hub: Hub, handshake: Handshake) -> None:
        super().__init__(hub)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Before it counts as one that has said nothing yet: at the limit it would make room for itself.
        self._handshake.over()
        super().connection_made(transport)

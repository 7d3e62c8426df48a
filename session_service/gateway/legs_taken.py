"""Desktops' sockets as a gateway process gets them: asked for by link, they come connected.

Not a way to a desktop: this process could open none. The answer comes over one socket and the descriptor over
another, in either order.

Source: docs/design/0020.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from session_service.base import errors
from session_service.gateway.leg import DesktopSocketRefused
from session_service.gateway.messages import LinkNamed


class LegsTaken:
    """Asks for a link's desktop, and waits for its socket."""

    def __init__(self, ask: Callable[[LinkNamed], Awaitable[bool]], *, limit_s: float) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._awaited: dict[str, asyncio.Future[socket.socket]] = {}

    async def connected(self, session_id: str, link_id: str) -> socket.socket:
        """Return the desktop's socket of a link that control has attached.

        Raises:
            DesktopSocketRefused: the service could not connect it, or the socket was lost on its way.
        """
        arriving: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._awaited[link_id] = arriving
        try:
            async with asyncio.timeout(self._limit_s):
                await self._ask(LinkNamed(session_id=session_id, link_id=link_id))
                return await arriving
        except (errors.SessionError, TimeoutError) as exc:
            _drop(arriving)
            raise DesktopSocketRefused(f"not handed on: {type(exc).__name__}") from exc
        except BaseException:
            _drop(arriving)
            raise
        finally:
            del self._awaited[link_id]

    def arrived(self, link_id: str, connected: socket.socket | None) -> None:
        """A socket came, or only its name, because this process has no descriptor left for it."""
        arriving = self._awaited.get(link_id)
        if arriving is None or arriving.done():
            if connected is not None:
                _end(connected)
        elif connected is None:
            arriving.set_exception(DesktopSocketRefused("no descriptor is left for it"))
        else:
            arriving.set_result(connected)


def _drop(arriving: asyncio.Future[socket.socket]) -> None:
    """Close what nobody takes any more."""
    if arriving.done() and not arriving.cancelled() and arriving.exception() is None:
        _end(arriving.result())


def _end(connected: socket.socket) -> None:
    """Close it for the desktop, too, which the service's descriptor would keep connected."""
    with contextlib.suppress(OSError):  # it was quicker
        connected.shutdown(socket.SHUT_RDWR)
    connected.close()

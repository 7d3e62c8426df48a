"""A link to a desktop for programs: open it with a ticket, type, look at pixels, and cut it as a bad
network would.

Not a viewer and not resumable: it speaks `binary`, as noVNC does. Used by the demo and by tests of the
whole. Refusals are errors with the service's own words; there is no task of our own, a caller reads while
it waits.
"""

import asyncio
import json
import struct
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin, Subprotocol

from session_service.base import errors
from session_service.client.dialling import StraightConnect, trust
from session_service.client.framebuffer import Framebuffer, NotRfb, Picture, key, keys_of, pointer
from session_service.core.rfb_looking import (
    COPIED,
    GREETING,
    PIXEL_BYTES,
    RAW,
    RESIZED,
    SECURITY_NONE,
    SHARED,
    TEXT_BYTES_MAX,
    first_messages,
    update_request,
)

OPEN_S: Final = 10.0
"""Time for the websocket's handshake; a starting desktop may take longer and says how it goes."""
ANSWER_S: Final = 90.0
"""Time between two words of a desktop that starts, and for any RFB message."""
_PORTS: Final = {"http": 80, "https": 443}


class LinkLost(errors.SessionError):
    """The link to the desktop is gone; the desktop is held."""

    code, retryable, status, action = "link_lost", True, 503, "Ask for a new ticket and open a link again."


class LinkRefused(errors.SessionError):
    """The service refused the link."""

    code, status, action = "link_refused", 403, "Do what `next` in the facts says."


class DesktopLink:
    """One open link; made by `open_link`."""

    def __init__(self, socket: ClientConnection, opened: dict[str, Any]) -> None:
        self._socket = socket
        self._buffer = bytearray()
        self.opened = opened
        """What the service said at the opening: mode, hold and so on."""
        self.name = ""
        self.screen = Framebuffer(1, 1)

    async def greet(self) -> None:
        """Go through the RFB handshake. Raises NotRfb, LinkLost."""
        if await self._take(len(GREETING)) != GREETING:
            raise NotRfb("another greeting than RFB 3.8")
        await self._send(GREETING)
        (count,) = await self._take(1)
        if SECURITY_NONE not in await self._take(count):
            raise NotRfb("no security type that the gateway offers")
        await self._send(bytes((SECURITY_NONE,)))
        if await self._take(4) != bytes(4):
            raise NotRfb("refused after the security type")
        await self._send(SHARED)
        width, height = struct.unpack(">HH", await self._take(4))
        await self._take(16)
        (length,) = struct.unpack(">I", await self._take(4))
        if length > TEXT_BYTES_MAX:
            raise NotRfb("a name that is too long")
        self.name = (await self._take(length)).decode("utf-8", "replace")
        self.screen = Framebuffer(width, height)
        await self._send(first_messages())

    async def picture(self) -> Picture:
        """Return the whole screen, freshly asked for."""
        await self._send(update_request(self.screen.width, self.screen.height, incremental=False))
        await self._next_update()
        return self.screen.picture()

    async def until(self, seen: Callable[[Picture], bool], *, limit_s: float) -> Picture:
        """Return the first picture for which `seen` is true. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            picture = await self.picture()
            while not seen(picture):
                await self._send(update_request(self.screen.width, self.screen.height, incremental=True))
                await self._next_update()
                picture = self.screen.picture()
            return picture

    async def settled(self, *, quiet_s: float, limit_s: float) -> Picture:
        """Return the screen once nothing has changed for `quiet_s`. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            picture = await self.picture()
            await self._send(update_request(self.screen.width, self.screen.height, incremental=True))
            while True:
                try:
                    async with asyncio.timeout(quiet_s):
                        await self._until_buffered()
                except TimeoutError:
                    return picture
                await self._next_update()
                changed = self.screen.picture()
                await self._send(update_request(self.screen.width, self.screen.height, incremental=True))
                picture = changed

    async def type(self, text: str) -> None:
        """Type a text, key by key."""
        for pressed in keys_of(text):
            await self._send(pressed)

    async def press(self, symbol: int, *, down: bool) -> None:
        """Press or release one key by its X symbol; a key may stay down."""
        await self._send(key(symbol, down=down))

    async def point(self, x: int, y: int, *, buttons: int = 0) -> None:
        """Move the pointer, with these buttons down."""
        await self._send(pointer(x, y, buttons))

    def cut(self) -> None:
        """Cut the link as a network does: no close, no goodbye."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """Close the link as a closed tab does; the desktop is held."""
        await self._socket.close()

    # -- bytes ----------------------------------------------------------------------------------------

    async def _next_update(self) -> None:
        """Read messages up to and including the next framebuffer update."""
        while True:
            (kind,) = await self._take(1)
            if kind == 0:
                await self._read_update()
                return
            if kind == 1:
                _, count = struct.unpack(">xHH", await self._take(5))
                await self._take(6 * count)
            elif kind == 3:
                (length,) = struct.unpack(">3xI", await self._take(7))
                if length > TEXT_BYTES_MAX:
                    raise NotRfb("a clipboard that is too long")
                await self._take(length)
            elif kind != 2:
                raise NotRfb(f"message {kind}")

    async def _read_update(self) -> None:
        (count,) = struct.unpack(">xH", await self._take(3))
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", await self._take(12))
            if encoding == RAW:
                rows = await self._take(width * height * PIXEL_BYTES)
                self.screen.put(x, y, width, height, rows)
            elif encoding == COPIED:
                from_x, from_y = struct.unpack(">HH", await self._take(4))
                self.screen.copy(x, y, width, height, from_x, from_y)
            elif encoding == RESIZED:
                self.screen.resize(width, height)
                await self._send(update_request(width, height, incremental=False))
            else:
                raise NotRfb(f"encoding {encoding}")

    async def _until_buffered(self) -> None:
        """Return once a byte is there; a cancelled wait loses none."""
        while not self._buffer:
            self._buffer += await self._receive()

    async def _take(self, count: int) -> bytes:
        async with asyncio.timeout(ANSWER_S):
            while len(self._buffer) < count:
                self._buffer += await self._receive()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _receive(self) -> bytes:
        try:
            message = await self._socket.recv(decode=False)
        except ConnectionClosed as exc:
            raise _lost(exc) from exc
        return bytes(message)

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send(data)
        except ConnectionClosed as exc:
            raise _lost(exc) from exc


def _lost(exc: ConnectionClosed) -> LinkLost:
    code = exc.rcvd.code if exc.rcvd is not None else None
    reason = exc.rcvd.reason if exc.rcvd is not None else ""
    return LinkLost(close_code=code, why=reason)


def audience(base_url: str) -> str:
    """Return the address as it is dialled: ws or wss, host in lower case, the port always there."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    scheme = "wss" if parts.scheme == "https" else "ws"
    return f"{scheme}://{host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


async def open_link(
    base_url: str,
    *,
    path: str,
    ticket: str,
    on_wait: Callable[[str, int | None], None] | None = None,
    ssl: SSLContext | None = None,
) -> DesktopLink:
    """Open a link with a ticket and go through the RFB handshake.

    Args:
        base_url: the service's address, http or https.
        path: where to open it, as the ticket's answer says.
        on_wait: told why and how far, while the desktop starts.

    Raises:
        LinkRefused: with code, why and next. PartUnavailable: nobody answers. LinkLost, NotRfb.
    """
    address = audience(base_url)
    try:
        socket = await StraightConnect(
            address + path,
            subprotocols=[Subprotocol("binary")],
            origin=Origin(base_url.rstrip("/")),
            compression=None,
            proxy=None,
            max_size=None,
            max_queue=None,  # at most one update is asked for at a time
            ping_interval=None,
            open_timeout=OPEN_S,
            ssl=trust(address, ssl),
        )
    except (OSError, InvalidHandshake, TimeoutError) as exc:
        raise errors.PartUnavailable(f"No link at {address}.", cause=type(exc).__name__) from exc
    try:
        link = DesktopLink(socket, await _opened(socket, address, ticket, on_wait))
        await link.greet()
    except BaseException:
        socket.transport.abort()
        raise
    return link


async def _opened(
    socket: ClientConnection,
    address: str,
    ticket: str,
    on_wait: Callable[[str, int | None], None] | None,
) -> dict[str, Any]:
    try:
        await socket.send(json.dumps({"t": "open", "aud": address, "auth": ticket, "can": []}))
        while True:
            async with asyncio.timeout(ANSWER_S):
                answer: dict[str, Any] = json.loads(await socket.recv())
            if answer["t"] == "opened":
                return answer
            if answer["t"] == "no":
                facts = {
                    name: answer.get(name) for name in ("code", "why", "next", "retry", "by", "saved_as_of")
                }
                raise LinkRefused(f"The link was refused: {answer.get('why', '')}.", **facts)
            if answer["t"] == "wait" and on_wait is not None:
                on_wait(str(answer.get("why", "")), answer.get("pct"))
    except ConnectionClosed as exc:
        raise _lost(exc) from exc

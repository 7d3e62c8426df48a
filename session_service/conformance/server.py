"""The kit's server: one port, where each case has a session and a gateway's path of its own.

Not the service: it answers the two calls of the API that a client needs (a session, a ticket) and upgrades
`/s/<shard>/ws`. All that it knows of a case is its desk; many cases run at once.
"""

import asyncio
import base64
import hashlib
import json
import re
import ssl
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from session_service.base.aio import Tasks
from session_service.conformance import answers, rules
from session_service.conformance.desk import Desk
from session_service.conformance.links import Link
from session_service.conformance.lobby import Lobby
from session_service.core.continuity.limits import SUBPROTOCOL

HEAD_BYTES_MAX: Final = 16_384
HEAD_S: Final = 15.0
OTHER: Final = "b"
"""Appended to a shard: the same case under another path, for redirects."""
_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WS: Final = re.compile(r"/s/([a-z0-9]{1,16})/ws")
_SESSION: Final = re.compile(r"/api/v1/sessions/([0-9A-Z]{26})(/tickets)?")
_PORTAL: Final = re.compile(r"/portal/([a-z0-9]{1,16})")
_PORTS: Final = {"http": 80, "https": 443}


class Server:
    """Serves the desks of all cases.

    Args:
        url: the address that clients dial; a proxy or TLS may stand in between.
        listen: host and port to listen on; by default those of `url`.
        tls: with it TLS ends here; an `https` address without it has a proxy in front.
    """

    def __init__(
        self, url: str, *, listen: tuple[str, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._scheme = parts.scheme or "http"
        self._port = parts.port if parts.port is not None else _PORTS[self._scheme]
        self._listen = listen or (self._host, self._port)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks = Tasks(self._failed)
        self.desks: dict[str, Desk] = {}
        self.lobby: Lobby | None = None
        """Where clients wait that a person starts, and that know one session for all cases."""
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(
            self._take, *self._listen, limit=HEAD_BYTES_MAX, ssl=self._tls
        )
        if self._port == 0:
            self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._tasks.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The address that clients dial."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self._port}"

    @property
    def aud(self) -> str:
        """The same as clients sign it."""
        return self.url.replace("http", "ws", 1)

    def desk(self, shard: str, session_id: str) -> Desk:
        """Make the desk of a case."""
        made = Desk(shard=shard, session_id=session_id, aud=self.aud)
        self.desks[shard] = self.desks[shard + OTHER] = made
        return made

    def forget(self, desk: Desk) -> None:
        """The case is over: cut what is left of it."""
        for link in desk.links:
            link.abort()
        self.desks = {shard: each for shard, each in self.desks.items() if each is not desk}

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: of one that is cancelled at the end, asyncio of Python 3.11 writes a traceback.
        self._tasks.spawn(self._serve(reader, writer), name="serve")

    def _failed(self, name: str, error: BaseException) -> None:
        self.errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            method, target, headers = _parse(head)
            if match := _WS.fullmatch(target.partition("?")[0]):
                await self._dialled(match.group(1), target, headers, reader, writer)
            else:
                await self._ask(method, target, int(headers.get("content-length", "0")), reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError):
            pass  # No client of ours, or one that left.
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() == 0 else writer.close()

    # -- the API --------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        target: str,
        length: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if length:
            await reader.readexactly(min(length, HEAD_BYTES_MAX))
        if method == "OPTIONS":
            writer.write(answers.answer(204, ""))  # A page of another origin asks whether it may ask.
        elif portal := _PORTAL.fullmatch(target):
            if desk := self.desks.get(portal.group(1)):
                desk.fault("followed a redirect to another address: a captive portal's page", rules.ONLY_A_NO)
            writer.write(answers.answer(200, "Sign in to this network."))
        elif match := _SESSION.fullmatch(target):
            writer.write(
                await self._ask_session(match.group(1), asks=bool(match.group(2)) and method == "POST")
            )
        else:
            writer.write(answers.answer(404, json.dumps({"code": "not_found"})))
        await writer.drain()
        writer.close()

    async def _ask_session(self, session_id: str, *, asks: bool) -> bytes:
        """Answer about a session; `asks`: for a ticket."""
        lobby = self.lobby
        is_guest = lobby is not None and lobby.session_id == session_id
        if not asks and is_guest:
            return answers.answer(200, json.dumps(answers.session(session_id)), "application/json")
        desk = await lobby.desk() if is_guest and lobby is not None else self._desk_of(session_id)
        if desk is None:
            return answers.answer(404, json.dumps({"code": "not_found"}))
        if not asks:
            return answers.answer(200, json.dumps(answers.session(session_id)), "application/json")
        door = desk.next_ticket_door()
        if door.resets:
            return b""
        if door.problem is not None:
            return answers.problem(*door.problem)
        if door.http is not None:
            return answers.portal(desk, door)
        return answers.answer(201, json.dumps(answers.ticket(desk)), "application/json")

    def _desk_of(self, session_id: str) -> Desk | None:
        return next((desk for desk in self.desks.values() if desk.session_id == session_id), None)

    # -- links ----------------------------------------------------------------------------------------

    async def _dialled(
        self,
        shard: str,
        target: str,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        desk = self.desks.get(shard)
        if desk is None and self.lobby is not None and shard.startswith(self.lobby.shard):
            desk = self.lobby.nobody
        if desk is None:
            writer.write(answers.answer(404, ""))
            await writer.drain()
            return
        _look_at_handshake(desk, target, headers)
        door = desk.take_dial(target)
        if door.resets:
            return
        if door.junk or door.http is not None:
            writer.write(door.junk or answers.portal(desk, door))
            await writer.drain()
            writer.close()
            return
        accept = base64.b64encode(
            hashlib.sha1(headers.get("sec-websocket-key", "").encode() + _MAGIC).digest()
        )
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n"
            b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode() + b"\r\n\r\n"
        )
        link = Link(desk, door, reader, writer, len(desk.links))
        desk.links.append(link)
        await link.run()


def _parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    pairs = (line.partition(":") for line in lines[1:] if line)
    return method, target, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _look_at_handshake(desk: Desk, target: str, headers: dict[str, str]) -> None:
    if "?" in target:
        desk.fault("a query in the address: nothing secret may stand there", rules.HANDSHAKE)
    offered = headers.get("sec-websocket-protocol", "")
    if offered != SUBPROTOCOL:
        desk.fault(f"offered the subprotocols '{offered}'; it must be {SUBPROTOCOL} alone", rules.HANDSHAKE)
    if headers.get("sec-websocket-version") != "13" or headers.get("upgrade", "").lower() != "websocket":
        desk.fault("no handshake of RFC 6455", rules.HANDSHAKE)

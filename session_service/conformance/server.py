"""The kit's server: one port, where each case has a session and a gateway's path of its own.

Not the service: it answers the two calls of the API that a client needs (a session, a ticket) and upgrades
`/s/<shard>/ws`. All that it knows of a case is its desk; many cases run at once.
"""

import asyncio
import base64
import hashlib
import json
import re
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from session_service.base.aio import Tasks
from session_service.conformance.desk import Desk
from session_service.conformance.doors import Door
from session_service.conformance.links import Link
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
_NOTHING: Final = [
    "outcome",
    "closed_at",
    "hold_remaining_s",
    "hold_deadline",
    "loss_cause",
    "lost_at",
    "saved_as_of",
    "saved_seq",
    "pending_files",
    "pending_bytes",
    "close_step",
    "close_cause",
    "progress",
    "step_since",
    "start_from_seq",
    "node_id",
    "address",
]


class Server:
    """Serves the desks of all cases.

    Args:
        url: the address that clients dial; a proxy or TLS may stand in between.
        listen: host and port to listen on; by default those of `url`.
    """

    def __init__(self, url: str, *, listen: tuple[str, int] | None = None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._scheme = parts.scheme or "http"
        self._port = parts.port if parts.port is not None else _PORTS[self._scheme]
        self._listen = listen or (self._host, self._port)
        self._server: asyncio.Server | None = None
        self._tasks = Tasks(self._failed)
        self.desks: dict[str, Desk] = {}
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._take, *self._listen, limit=HEAD_BYTES_MAX)
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

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._tasks.spawn(self._serve(reader, writer), name="serve")

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
        if portal := _PORTAL.fullmatch(target):
            if desk := self.desks.get(portal.group(1)):
                desk.fault("followed a redirect to another address: a captive portal's page")
            writer.write(_answer(200, "Sign in to this network."))
        elif match := _SESSION.fullmatch(target):
            found = [desk for desk in self.desks.values() if desk.session_id == match.group(1)]
            if not found:
                writer.write(_answer(404, json.dumps({"code": "not_found"})))
            elif match.group(2) and method == "POST":
                writer.write(_answer(201, json.dumps(_ticket(found[0])), "application/json"))
            else:
                writer.write(_answer(200, json.dumps(_session(found[0])), "application/json"))
        else:
            writer.write(_answer(404, json.dumps({"code": "not_found"})))
        await writer.drain()
        writer.close()

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
        if desk is None:
            writer.write(_answer(404, ""))
            await writer.drain()
            return
        desk.dials.append(asyncio.get_running_loop().time())
        desk.paths.append(target)
        _look_at_handshake(desk, target, headers)
        door = desk.next_door()
        desk.tell()
        if door.resets:
            return
        if door.junk or door.http is not None:
            writer.write(door.junk or _portal(desk, door))
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
        desk.fault("a query in the address: nothing secret may stand there")
    offered = headers.get("sec-websocket-protocol", "")
    if offered != SUBPROTOCOL:
        desk.fault(f"offered the subprotocols '{offered}'; it must be {SUBPROTOCOL} alone")
    if headers.get("sec-websocket-version") != "13" or headers.get("upgrade", "").lower() != "websocket":
        desk.fault("no handshake of RFC 6455")


def _portal(desk: Desk, door: Door) -> bytes:
    assert door.http is not None
    status, body = door.http
    location = f"/portal/{desk.shard}" if 300 <= status < 400 else ""
    return _answer(status, body, location=location)


def _answer(status: int, body: str, kind: str = "text/html", *, location: str = "") -> bytes:
    data = body.encode()
    more = f"Location: {location}\r\n" if location else ""
    head = (
        f"HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"Access-Control-Allow-Origin: *\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + data


def _ticket(desk: Desk) -> dict[str, str]:
    return {
        "ticket": desk.new_ticket(),
        "expires_at": "2099-01-01T00:00:00Z",
        "mode": "control",
        "path": f"/s/{desk.shard}/ws",
        "stock_path": f"/s/{desk.shard}/t/none",
    }


def _session(desk: Desk) -> dict[str, object]:
    known = {
        "id": desk.session_id,
        "workspace": {"id": desk.session_id, "name": "conformance"},
        "user": {"id": desk.session_id, "name": "conformance"},
        "state": "active",
        "generation": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "hold_s": 1800.0,
        "hold_counting": False,
        "links": 0,
        "device_label": "",
        "step_error": "",
        "step_attempts": 0,
        "detail": "",
        "network": "",
        "limits_missing": [],
    }
    return known | dict.fromkeys(_NOTHING)

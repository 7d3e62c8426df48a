"""The first bytes of every connection on the one port: ours below `/s/`, everything else aiohttp's.

Not an HTTP server: it waits for one request head, then hands the connection on with the bytes that were
read, by public APIs only. A second request on a connection that aiohttp owns never comes back here; an
upgrade there is answered 421 by the HTTP part, and proxies must use a new connection for a websocket.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, cast

from session_service.gateway.address import client_address
from session_service.gateway.handshake import RESUMABLE, Refusal, is_ours, read_upgrade, refuse, shard_in
from session_service.gateway.hub import Hub
from session_service.gateway.inner_relay import relay
from session_service.gateway.link import Link
from session_service.gateway.messages import Passed
from session_service.gateway.passing import Owner
from session_service.gateway.resumable_link import ResumableLink

_HEAD_END: Final = b"\r\n\r\n"
_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class Front(asyncio.Protocol):
    """One connection of which nothing is known yet."""

    __slots__ = ("_began_at", "_head", "_hub", "_passed", "_transport")

    _transport: asyncio.Transport

    def __init__(self, hub: Hub, passed: Passed | None = None) -> None:
        self._hub = hub
        self._passed = passed
        self._head = b"" if passed is None else passed.head
        self._began_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By a cast: the transports of uvloop are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._began_at = asyncio.get_running_loop().time()
        self._hub.ticker.add(self, self._began_at + self._hub.limits.head_s)
        self._hub.wait_for_first(self)
        if self._passed is not None:
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing() or self._transport.get_protocol() is not self:
            return  # It was refused; whatever it still says is not answered a second time.
        self._head += data
        end, limits = self._head.find(_HEAD_END), self._hub.limits
        ours = is_ours(self._head)
        most = limits.head_bytes_max if ours else limits.page_head_bytes_max
        too_long = (end if end >= 0 else len(self._head)) > most
        if end < 0 and not too_long:
            return
        if not ours and not too_long:
            # Never before its end: whoever has it then waits for the rest without a limit.
            self._hand_over()
        elif too_long:
            self._refuse(refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "This request is too long."))
        elif (owner := self._owner()) is None or not self._pass_on(owner):
            self._upgrade(end + len(_HEAD_END))

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    def look(self, now: float, excused: float) -> float | None:
        ends = max(self._began_at, excused) + self._hub.limits.head_s
        return None if now >= ends else ends

    def judge(self, now: float, excused: float) -> None:
        if self.look(now, excused) is None:
            self.reset()

    def reset(self) -> None:
        """Drop the connection: too slow, or room is needed for a newer one."""
        self._forget()
        connection = self._transport.get_extra_info("socket")
        if connection is not None and not self._transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._transport.abort()

    def _forget(self) -> None:
        self._hub.ticker.remove(self)
        self._hub.waiting.pop(self, None)

    def _hand_over(self) -> None:
        hub, transport = self._hub, self._transport
        if len(getattr(hub.http, "connections", ())) >= hub.limits.page_sockets_max:
            self._refuse(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Not now; try again soon.", "Retry-After: 2"))
            return
        self._forget()
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in {socket.AF_INET, socket.AF_INET6}:
            milliseconds = int(hub.limits.page_timeout_s * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        protocol = hub.http()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._head)

    def _refuse(self, refusal: Refusal) -> None:
        self._forget()
        self._hub.stats.refused(refusal.status)
        self._hub.log.info("link.refused", status=refusal.status, address=self._address(()))
        self._transport.write(refusal.answer)
        self._transport.close()

    def _owner(self) -> Owner | None:
        """Return who owns the shard of this request, when that is another process which is there."""
        if self._passed is not None or self._head.startswith(self._hub.own):
            return None
        shard = shard_in(self._head)
        return None if shard == self._hub.shard else self._hub.elsewhere(shard)

    def _pass_on(self, owner: Owner) -> bool:
        """Hand the connection to its owner; False when it cannot take it, and nothing happened."""
        hub, transport = self._hub, self._transport
        passed = Passed(peer=self._peer(), head=self._head)
        if transport.get_extra_info("sslcontext") is not None:
            if hub.relayed >= hub.limits.links_max:
                return False
            transport.pause_reading()
            self._forget()
            hub.options.ensure(transport)
            hub.relayed += 1
            relaying = relay(transport, passed, owner, hub.limits, hub.relay_ended)
            hub.tasks.spawn(relaying, name="inner-relay")
            return True
        transport.pause_reading()
        if not owner.take(passed, transport.get_extra_info("socket").fileno()):
            transport.resume_reading()
            return False
        self._forget()
        transport.abort()  # our descriptor is closed; the connection is the owner's now
        return True

    def _upgrade(self, end: int) -> None:
        hub = self._hub
        answer = read_upgrade(self._head[:end], origins=hub.origins(), shards=hub.shards)
        if isinstance(answer, Refusal):
            self._refuse(answer)
            return
        if hub.is_closing or len(hub.links) + hub.relayed >= hub.limits.links_max:
            self._refuse(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Not now; try again soon.", "Retry-After: 2"))
            return
        self._forget()
        kind = ResumableLink if answer.subprotocol == RESUMABLE else Link
        link = kind(hub, answer, self._address(answer.forwarded))
        self._transport.set_protocol(link)
        link.begin(self._transport, self._head[end:])

    def _address(self, forwarded: Sequence[str]) -> str:
        return client_address(self._peer(), forwarded, self._hub.trusted)

    def _peer(self) -> str:
        if self._passed is not None:
            return self._passed.peer
        peer = self._transport.get_extra_info("peername")
        return peer[0] if isinstance(peer, tuple) and peer else "unix"

"""The opening handshake: a request head in, what to do with the connection out.

Not HTTP: everything that is not below `/s/` belongs to aiohttp. A head in its usual form is read by
`upgrade_head.py`; any other one by `ServerProtocol` of websockets, which is thrown away afterwards: its
handshake is right, and each refusal of a form is its word, but it costs ten times ours.
"""

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec
from websockets.datastructures import MultipleValuesError
from websockets.exceptions import NegotiationError
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from session_service.core.continuity.limits import SUBPROTOCOL
from session_service.gateway.upgrade_head import UpgradeHead, read_head

BINARY: Final = "binary"
RESUMABLE: Final = SUBPROTOCOL
TARGET: Final = re.compile(r"/s/([a-z0-9]{1,16})/(?:ws|t/([A-Za-z0-9_-]{16,128}))")
"""The page's address, and the one with a ticket for stock clients; nothing else below `/s/` exists."""
_ALONE: Final = frozenset({BINARY, RESUMABLE})
"""Subprotocols of which one is offered alone by our clients and by noVNC."""
_USUAL: Final = b"GET /s/"
_SHARD: Final = re.compile(rb"[A-Z]{1,16} /s/([a-z0-9]{1,16})/")
USER_AGENT_CHARACTERS_MAX: Final = 256

_SILENT: Final = logging.Logger("session_service.gateway.handshake", logging.CRITICAL + 1)
"""websockets logs request lines when debugging, and a ticket may stand in one."""


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request for a websocket. `accepted` is the whole 101 answer, not yet sent."""

    shard: str
    ticket: str | None
    """None when the ticket comes in the first message."""
    subprotocol: str | None
    """What was agreed and echoed; None when the client offered none."""
    user_agent: str
    forwarded: Sequence[str]
    accepted: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The whole answer to a request that is not let in; the connection is closed after it."""

    status: int
    answer: bytes


def is_ours(head: bytes) -> bool:
    """Say whether a request head (or its beginning) is for a path below `/s/`, whatever its method."""
    if head.startswith(_USUAL):
        return True
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    return len(parts) > 1 and parts[1].startswith(b"/s/")


def shard_in(head: bytes) -> str:
    """Return the shard in the path of a request head; "" when there is none."""
    found = _SHARD.match(head)
    return "" if found is None else found[1].decode()


def read_upgrade(head: bytes, *, origins: Collection[str], shards: Collection[str]) -> Upgrade | Refusal:
    """Judge a whole request head (with its empty line).

    Args:
        head: the bytes as they came.
        origins: the public origins of this service; a browser must come from one, a program sends none.
        shards: those this process may serve.
    """
    usual = read_head(head, _ALONE)
    if usual is None:
        return judge_upgrade(head, origins=origins, shards=shards)
    return _admit(usual, origins, shards)


def judge_upgrade(head: bytes, *, origins: Collection[str], shards: Collection[str]) -> Upgrade | Refusal:
    """The same by `websockets` alone, whatever the form of the head; what the usual form is compared with."""
    parser = ServerProtocol(select_subprotocol=_select, logger=_SILENT)
    parser.receive_data(head)
    events = parser.events_received()
    if not events or not isinstance(events[0], Request):
        return refuse(HTTPStatus.BAD_REQUEST, "This is not a request.")
    request = events[0]
    response = parser.accept(request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        extra = ("Upgrade: websocket",) if response.status_code == HTTPStatus.UPGRADE_REQUIRED else ()
        return refuse(response.status_code, "A websocket is served here, and nothing else.", *extra)
    try:
        origin = request.headers.get("Origin")
        user_agent = request.headers.get("User-Agent", "")
    except MultipleValuesError:
        return refuse(HTTPStatus.BAD_REQUEST, "A header stands twice that may stand once.")
    valid = UpgradeHead(
        path=request.path,
        accept=response.headers["Sec-WebSocket-Accept"],
        origin=origin,
        subprotocol=parser.subprotocol,
        user_agent=user_agent,
        forwarded=tuple(request.headers.get_all("X-Forwarded-For")),
    )
    return _admit(valid, origins, shards)


def _admit(head: UpgradeHead, origins: Collection[str], shards: Collection[str]) -> Upgrade | Refusal:
    """Judge what a valid request asks for: from where, and to what."""
    if head.origin is not None and head.origin not in origins:
        return refuse(
            HTTPStatus.FORBIDDEN,
            "This page is not one of this service (check public_origins and the proxy in front).",
        )
    target = TARGET.fullmatch(head.path.partition("?")[0])
    if target is None or target[1] not in shards:
        return refuse(HTTPStatus.NOT_FOUND, "There is no desktop at this address.")
    if target[2] is not None and head.subprotocol == RESUMABLE:
        return refuse(HTTPStatus.BAD_REQUEST, "A ticket in the path opens a stock client's link only.")
    return Upgrade(
        shard=target[1],
        ticket=target[2],
        subprotocol=head.subprotocol,
        user_agent=_shown(head.user_agent),
        forwarded=head.forwarded,
        accepted=_accepted(head.accept, head.subprotocol),
    )


def _shown(user_agent: str) -> str:
    """Return it as it may stand in a log line."""
    if not user_agent.isprintable():
        user_agent = "".join(filter(str.isprintable, user_agent))
    return user_agent[:USER_AGENT_CHARACTERS_MAX]


def _accepted(accept: str, subprotocol: str | None) -> bytes:
    """Return the whole 101. It has no Date: RFC 9110 (6.6.1) leaves that free for what is no answer yet."""
    agreed = "" if subprotocol is None else f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{agreed}\r\n"
    ).encode("ascii")


def refuse(status: int, text: str, *headers: str) -> Refusal:
    """Return an answer in plain text that ends the connection and tells no other site where it came from."""
    body = (text + "\n").encode()
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Connection: close",
        "Cache-Control: no-store",
        "Referrer-Policy: no-referrer",
        "X-Content-Type-Options: nosniff",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return Refusal(status=status, answer="\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def _select(_parser: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Agree on `binary`, or on `continuity.v1` where it is offered alone: a middlebox that takes it out of a
    list must not downgrade a link in silence. None offered means `binary`, and none is echoed, as noVNC
    expects it.
    """
    if not offered:
        return None
    if RESUMABLE in offered:
        if len(offered) == 1:
            return Subprotocol(RESUMABLE)
        raise NegotiationError("continuity.v1 is offered alone")
    if BINARY in offered:
        return Subprotocol(BINARY)
    raise NegotiationError("no subprotocol in common")

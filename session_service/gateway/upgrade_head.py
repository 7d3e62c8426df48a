"""The head of an upgrade request as browsers and programs send it: bytes in, its few facts out.

Not an HTTP parser: whatever is not plainly right and plain (a header twice, a name or a byte that is seldom,
a body, a list of subprotocols, another method) is `None` here, and `handshake.py` gives it to `websockets`,
which judges and refuses. So this may be strict and short, and can only ever say yes to what the library says
yes to, with the same answer; a property test holds it to that. It exists because the library's parser was a
third of what a return costs (docs/design/0021).
"""

import base64
import hashlib
import re
from collections.abc import Collection
from typing import Final

import msgspec

BYTES_MAX: Final = 4096
"""Larger heads are no usual ones; also the limit of what the expressions below are tried on."""
FIELDS_MAX: Final = 64
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HEAD: Final = re.compile(
    r"GET (/s/[!-~]*) HTTP/1\.1\r\n((?:[-A-Za-z0-9]+:[ -~]*\r\n)+)\r\n",
)
_FIELD: Final = re.compile(r"([-A-Za-z0-9]+):([ -~]*)\r\n")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_CONNECTION: Final = frozenset({"upgrade", "keep-alive, upgrade"})
"""What browsers, programs and the usual proxies send."""
_UNUSUAL: Final = frozenset({"transfer-encoding", "content-length"})


class UpgradeHead(msgspec.Struct, frozen=True, kw_only=True):
    """A GET below `/s/` that asks for a websocket of version 13, and nothing else."""

    path: str
    """With its query; one word of visible ASCII."""
    accept: str
    """The value of Sec-WebSocket-Accept that answers it."""
    origin: str | None
    subprotocol: str | None
    """The one that was offered, as a text that may name none; None when there was no offer."""
    user_agent: str
    forwarded: tuple[str, ...]


def read_head(head: bytes, subprotocols: Collection[str]) -> UpgradeHead | None:
    """Return what stands in a whole request head (with its empty line), or None: let the library judge.

    Args:
        head: the bytes as they came.
        subprotocols: those that may be offered alone; a list, or another one, is for the library.
    """
    if len(head) > BYTES_MAX or not head.isascii():
        return None
    found = _HEAD.fullmatch(head.decode("ascii"))
    if found is None:
        return None
    path, lines = found.groups()
    pairs = _FIELD.findall(lines)
    fields = {name.lower(): value.strip() for name, value in pairs}
    take = fields.get
    key, subprotocol, forwarded = (
        take("sec-websocket-key", ""),
        take("sec-websocket-protocol"),
        take("x-forwarded-for"),
    )
    if (
        len(fields) != len(pairs)
        or len(pairs) > FIELDS_MAX
        or not _UNUSUAL.isdisjoint(fields)
        or take("connection", "").lower() not in _CONNECTION
        or take("upgrade", "").lower() != "websocket"
        or take("sec-websocket-version") != "13"
        or _KEY.fullmatch(key) is None
        or (subprotocol is not None and subprotocol not in subprotocols)
    ):
        return None
    return UpgradeHead(
        path=path,
        accept=accept_value(key),
        origin=take("origin"),
        subprotocol=subprotocol,
        user_agent=take("user-agent", ""),
        forwarded=() if forwarded is None else (forwarded,),
    )


def accept_value(key: str) -> str:
    """Return what proves that a Sec-WebSocket-Key was understood (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")

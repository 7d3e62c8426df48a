"""The first message on the page's address: `{"t":"open","aud":...,"auth":"<ticket>","can":[]}`.

Not a session protocol: on `binary` it is the only text a client ever sends. The message holds a ticket and
is never logged.

Source: gateway.md 9.1, 9.2 and 9.8.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

from session_service.core.close_codes import Close
from session_service.core.websocket import FrameError

DEPTH_MAX: Final = 4
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_OUTSIDE_OF_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*\\?(?:"|\Z)|[^\[\]{}"]+', re.DOTALL)
"""A string that never ends is one to the end of the text: else each quote in it was looked at anew, and one
message of 4 KiB held the process for a third of a second.
"""
_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"http": "ws", "https": "wss"}


class OpenMessage(msgspec.Struct, frozen=True, tag_field="t", tag="open"):
    """Unknown keys are ignored; `can` names features, of which there are none yet."""

    aud: str
    auth: str
    can: list[str] = []


_DECODER: Final = msgspec.json.Decoder(OpenMessage)


def read_open(text: str, origins: Collection[str]) -> str:
    """Return the ticket of an `open`.

    Raises:
        FrameError: 4400, for another form, or for an address that is not one of ours (a proxy is configured
        wrongly).
    """
    depth = deepest = 0
    for character in _OUTSIDE_OF_STRINGS.sub("", text):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEPTH_MAX:
        raise FrameError(Close.BAD_MESSAGE, "message that is too deep")
    try:
        message = _DECODER.decode(text)
    except msgspec.MsgspecError as exc:
        raise FrameError(Close.BAD_MESSAGE, "first message that is not `open`") from exc
    if message.aud not in audiences(origins):
        raise FrameError(Close.BAD_MESSAGE, "aud is not one of public_origins")
    return message.auth if _TICKET.fullmatch(message.auth) else ""


def audiences(origins: Collection[str]) -> frozenset[str]:
    """Return the addresses of all public origins as they are dialled."""
    return _audiences(frozenset(origins))


@lru_cache(maxsize=16)
def _audiences(origins: frozenset[str]) -> frozenset[str]:
    """Worked out once: origins change when the port becomes known, and never again."""
    return frozenset(map(audience, origins))


def audience(origin: str) -> str:
    """Return the address as it is dialled: ws or wss, lower case, the port always there."""
    parts = urlsplit(origin)
    host = (parts.hostname or "").lower()
    if ":" in host:
        host = f"[{host}]"
    return f"{_SCHEMES.get(parts.scheme, parts.scheme)}://{host}:{parts.port or _PORTS.get(parts.scheme, 0)}"

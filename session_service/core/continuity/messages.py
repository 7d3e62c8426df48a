"""The control messages of `continuity.v1`: text in, values out, and back; anything else is one error.

Not a session: what a message means at its moment is decided in `serving.py` and `client.py`. Unknown keys are
ignored, numbers must be whole (1.0 and true are not), nothing is ever guessed. First messages and `opened`
hold secrets and are never logged.

Source: docs/protocol.md, "Messages"; limits in `limits.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from session_service.core.close_codes import Close
from session_service.core.continuity.limits import (
    DEPTH_MAX,
    LABEL_CHARACTERS_MAX,
    NOTE_CHARACTERS_MAX,
    OFFSET_MAX,
    TEXT_BYTES_MAX,
)
from session_service.core.continuity.proof import decode
from session_service.core.websocket import FrameError

_OUTSIDE_OF_STRINGS: Final = re.compile(r'"(?:[^"\\]|\\.)*\\?(?:"|\Z)|[^\[\]{}"]+', re.DOTALL)
"""A string that never ends is one to the end of the text: else each quote in it was looked at anew, and one
message of 4 KiB held the process for a third of a second.
"""
_AUDIENCE: Final = re.compile(r"wss?://[a-z0-9_.:\[\]-]{1,255}:\d{1,5}")
_SESSION: Final = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
_PLAIN_ACK: Final = re.compile(rb'\{"a":(0|[1-9][0-9]{0,15})\}')
_PATH: Final = re.compile(r"/s/[a-z0-9]{1,16}/ws")
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The server's challenge for this socket, written with the 101."""

    challenge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A client with a ticket wants a new stream."""

    aud: str
    ticket: str = field(repr=False)
    can: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A client with a key wants its stream back; `received`, `have` and `end` say where it stands."""

    aud: str
    session_id: str
    grant: int
    leg: str
    number: int
    received: int
    have: int
    end: int
    mac: bytes = field(repr=False)
    ticket: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The session is not ready yet."""

    why: str
    percent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A new stream begins; the key comes this once."""

    session_id: str
    leg: str
    grant: int
    key: bytes | None = field(repr=False)
    mode: str = "control"
    hold_s: float = 0.0
    gap_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The attempt is accepted: the old stream goes on, or a new one begins."""

    number: int
    replay: bool
    leg: str
    taken: int
    """How far the desktop has the client's bytes."""
    checksum: int
    gap_s: float | None
    was: int | None
    """At a resync: how far the old stream had come; None = unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class No:
    """A refusal, with the way forward."""

    code: int
    why: str
    step: str
    retry_ms: int | None
    to: str | None
    facts: Mapping[str, Any]
    planned: "Pause | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Everything before the offset has arrived."""

    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Nothing was sent for a while, and this is how far the stream has come."""

    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """The server goes away: come back within this range of milliseconds, to that path."""

    after_ms: tuple[int, int]
    to: str | None
    planned: "Pause | None" = None
    """The pause that it goes away for, if that was planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A planned pause of the service, for people: no client decides anything by these times."""

    begins_ms: int | None
    """UTC milliseconds; None when it has begun."""
    back_ms: int | None
    """None: there is none any more."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """The user leaves: the session is held, or ended."""

    end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Another device took over."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A message of a later release; ignored, and counted."""


FromClient = Ack | Beat | Bye | Unknown
FromServer = Hello | Wait | Opened | Resumed | No | Ack | Beat | Drain | Pause | Taken | Unknown


def bad(detail: str) -> FrameError:
    """Return the one error of this module: 4400, told to whoever sent the message."""
    return FrameError(Close.BAD_MESSAGE, detail)


def read_first(text: str) -> Open | Resume:
    """Return a client's first message. Raises FrameError (4400)."""
    message = _object(text)
    kind = message.get("t")
    if kind == "open":
        ticket = _text(message, "auth")
        can = message.get("can", [])
        if not isinstance(can, list) or not all(isinstance(name, str) for name in can):
            raise bad("can is not a list of names")
        return Open(
            aud=_audience(message), ticket=ticket if _TICKET.fullmatch(ticket) else "", can=tuple(can)
        )
    if kind != "resume":
        raise bad("first message that is neither open nor resume")
    session_id = _text(message, "sid")
    if not _SESSION.fullmatch(session_id):
        raise bad("sid is not a session's id")
    have, end = _number(message, "have"), _number(message, "end")
    if end < have:
        raise bad("end before have")
    ticket = message.get("auth", "")
    if not isinstance(ticket, str):
        raise bad("auth is not a text")
    return Resume(
        aud=_audience(message),
        session_id=session_id,
        grant=_number(message, "grant"),
        leg=_bytes_text(message, "leg", 8),
        number=_number(message, "n"),
        received=_number(message, "rx"),
        have=have,
        end=end,
        mac=_bytes(message, "mac", 32),
        ticket=ticket if _TICKET.fullmatch(ticket) else "",
    )


def read_client(text: str) -> FromClient:
    """Return a client's message after the answer. Raises FrameError (4400)."""
    message = _object(text)
    if "t" in message:
        if message["t"] != "bye":
            return Unknown()
        end = message.get("end", False)
        if not isinstance(end, bool):
            raise bad("end is not true or false")
        return Bye(end=end)
    if "a" in message:
        return Ack(offset=_number(message, "a"))
    return Beat(offset=_number(message, "h")) if "h" in message else Unknown()


def read_plain_ack(payload: bytes) -> int | None:
    """Return the offset of an acknowledgement in the form in which nearly every one comes (there is one for
    each 64 KiB); None for whatever else, which `read_client` reads.
    """
    plain = _PLAIN_ACK.fullmatch(payload)
    if plain is None:
        return None
    offset = int(plain[1])
    return offset if offset < OFFSET_MAX else None


def read_server(text: str) -> FromServer:
    """Return a server's message. Raises FrameError (4400)."""
    message = _object(text)
    kind = message.get("t")
    if kind is None and "a" in message:
        return Ack(offset=_number(message, "a"))
    if kind is None and "h" in message:
        return Beat(offset=_number(message, "h"))
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    return Unknown() if reader is None else reader(message)


def say(**fields: object) -> str:
    """Return a message with these keys, in this order."""
    text = _ENCODER.encode(fields).decode()
    assert len(text) <= TEXT_BYTES_MAX
    return text


def _hello(message: Mapping[str, Any]) -> Hello:
    return Hello(challenge=_bytes_text(message, "c", 16))


def _wait(message: Mapping[str, Any]) -> Wait:
    percent = message.get("pct")
    return Wait(why=_text(message, "why"), percent=None if percent is None else _number(message, "pct"))


def _opened(message: Mapping[str, Any]) -> Opened:
    key = None if message.get("key") is None else decode(_bytes_text(message, "key", 32))
    return Opened(
        session_id=_text(message, "sid"),
        leg=_bytes_text(message, "leg", 8),
        grant=_number(message, "grant") if key is not None else 0,
        key=key,
        mode=_text(message, "mode"),
        hold_s=_seconds(message, "hold") or 0.0,
        gap_s=_seconds(message, "gap"),
    )


def _resumed(message: Mapping[str, Any]) -> Resumed:
    how = message.get("how")
    if how != "replay" and how != "resync":
        raise bad("how is neither replay nor resync")
    checksum = _number(message, "x")
    if checksum >> 32:
        raise bad("x is not a CRC-32")
    return Resumed(
        number=_number(message, "n"),
        replay=how == "replay",
        leg=_bytes_text(message, "leg", 8),
        taken=_number(message, "rx"),
        checksum=checksum,
        gap_s=_seconds(message, "gap"),
        was=None if message.get("was") is None else _number(message, "was"),
    )


def _no(message: Mapping[str, Any]) -> No:
    retry = message.get("retry")
    return No(
        code=_number(message, "code"),
        why=_text(message, "why"),
        step=_text(message, "next"),
        retry_ms=None if retry is None else _number(message, "retry"),
        to=_path(message),
        facts={name: message[name] for name in ("by", "saved_as_of", "outcome") if name in message},
        planned=_planned(message),
    )


def _drain(message: Mapping[str, Any]) -> Drain:
    after = message.get("after")
    if not isinstance(after, list) or len(after) != 2:
        raise bad("after is not a range")
    low, high = (_number({"after": each}, "after") for each in after)
    if high < low:
        raise bad("after ends before it begins")
    return Drain(after_ms=(low, high), to=_path(message), planned=_planned(message))


def _pause(message: Mapping[str, Any]) -> Pause:
    return _planned(message) or Pause(begins_ms=None, back_ms=None)


def _planned(message: Mapping[str, Any]) -> Pause | None:
    """Return the pause that a message speaks of; it is for people, so that a wrong one is just not shown."""
    begins_ms, back_ms, note = (message.get(name) for name in ("begin", "back", "note"))
    if type(back_ms) is not int or not 0 <= back_ms < OFFSET_MAX:
        return None
    known = type(begins_ms) is int and 0 <= begins_ms < OFFSET_MAX
    return Pause(
        begins_ms=begins_ms if known else None,
        back_ms=back_ms,
        note=_shown(note, NOTE_CHARACTERS_MAX),
    )


def _shown(value: object, characters_max: int) -> str:
    """Return text of the server as it may be shown."""
    return "".join(filter(str.isprintable, value if isinstance(value, str) else ""))[:characters_max]


def _taken(message: Mapping[str, Any]) -> Taken:
    return Taken(by=_shown(message.get("by"), LABEL_CHARACTERS_MAX))


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], FromServer]]] = {
    "hello": _hello,
    "wait": _wait,
    "opened": _opened,
    "resumed": _resumed,
    "no": _no,
    "drain": _drain,
    "pause": _pause,
    "taken": _taken,
}


def _object(text: str) -> dict[str, Any]:
    """Return the object of a message. Its depth is looked at first: a parser that recurses is no limit."""
    # Nearly every message opens so few brackets that it cannot be too deep, whatever stands in its strings.
    if text.count("{") + text.count("[") > DEPTH_MAX and _depth(text) > DEPTH_MAX:
        raise bad("message that is too deep")
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise bad("message that is not JSON") from exc
    if not isinstance(found, dict):
        raise bad("message that is not an object")
    return found


def _depth(text: str) -> int:
    """Return how deep its brackets go, those in strings left out."""
    depth = deepest = 0
    for character in _OUTSIDE_OF_STRINGS.sub("", text):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value < OFFSET_MAX:
        raise bad(f"{name} is not a whole number from 0 on")
    return value


def _seconds(message: Mapping[str, Any], name: str) -> float | None:
    value = message.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(f"{name} is not a number")
    return float(value)


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise bad(f"{name} is not a text")
    return value


def _bytes_text(message: Mapping[str, Any], name: str, length: int) -> str:
    _bytes(message, name, length)
    return _text(message, name)


def _bytes(message: Mapping[str, Any], name: str, length: int) -> bytes:
    try:
        value = decode(_text(message, name))
    except ValueError as exc:
        raise bad(f"{name} is not base64url") from exc
    if len(value) != length:
        raise bad(f"{name} has another length")
    return value


def _audience(message: Mapping[str, Any]) -> str:
    value = _text(message, "aud")
    if not _AUDIENCE.fullmatch(value):
        raise bad("aud is not an address")
    return value


def is_path_of_origin(value: object) -> bool:
    """Say whether this is the one form of a redirect: a path of a gateway on the same origin."""
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


def _path(message: Mapping[str, Any]) -> str | None:
    """Return a path of this origin; every other form of a redirect is ignored."""
    value = message.get("to")
    return value if isinstance(value, str) and is_path_of_origin(value) else None

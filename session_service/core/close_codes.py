"""Why a link ends: every close code, its stable word, and the way forward. One table for gateway, control,
pages and SDK.

Not a decision: who is refused with what is decided in `core/refusals.py` and by the framing itself. A
browser sees only the code (and proxies turn any code into 1006), so a code alone must say what to do next.

Source: gateway.md section 9.5; docs/design/0002-wire.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final


class Close(IntEnum):
    """Close codes that we send. 1000-1015 as in RFC 6455 section 7.4.1, 4400-4504 are ours and follow the
    HTTP status.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL = 1002
    NO_STATUS = 1005
    ABNORMAL = 1006
    NOT_UTF8 = 1007
    TOO_BIG = 1009
    RESTART = 1012
    BAD_MESSAGE = 4400
    LOGIN = 4401
    PROOF_USED = 4403
    NOT_FOUND = 4404
    TOO_SLOW = 4408
    TAKEN = 4409
    HOLD_EXPIRED = 4410
    MESSAGE_TOO_BIG = 4413
    SAVING = 4423
    TOO_MANY = 4429
    ENDED = 4480
    LEG_LOST = 4481
    REVOKED = 4482
    MOVED = 4483
    IN_USE = 4484
    RETRY = 4503
    NODE_UNREACHABLE = 4504


class Next(StrEnum):
    """What a client does after an end; `open` needs a new ticket, on `binary` a resume is an open too."""

    RESUME = "resume"
    OPEN = "open"
    CLICK = "click"
    LOGIN = "login"
    START = "start"
    WAIT = "wait"
    REPORT = "report"
    CONSENT = "consent"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One row: what the client may do by itself, and in plain words what its user is told."""

    why: str
    next: Next
    by_itself: bool
    """True when the client tries again without a click; never for what another device or person decided."""
    shown: str


def _row(why: str, step: Next, by_itself: bool, shown: str) -> Ending:
    return Ending(why=why, next=step, by_itself=by_itself, shown=shown)


_NETWORK: Final = _row("network", Next.RESUME, True, "Reconnecting. Your desktop is kept.")
_BROKEN: Final = _row("protocol", Next.REPORT, False, "Something went wrong with the connection.")

_TOO_BIG: Final = _row("too_big", Next.REPORT, False, "Something went wrong with the connection.")
_KEPT: Final = "Reconnecting. Your desktop is kept."

ENDINGS: Final[Mapping[Close, Ending]] = MappingProxyType(
    {
        Close.NORMAL: _row("left", Next.NONE, False, "You left. Your desktop is kept."),
        Close.GOING_AWAY: _NETWORK,
        Close.NO_STATUS: _NETWORK,
        Close.ABNORMAL: _NETWORK,
        Close.RESTART: _row(
            "server_restart", Next.RESUME, True, "The service restarts. Your desktop goes on."
        ),
        Close.PROTOCOL: _BROKEN,
        Close.NOT_UTF8: _BROKEN,
        Close.TOO_BIG: _TOO_BIG,
        Close.BAD_MESSAGE: _BROKEN,
        Close.MESSAGE_TOO_BIG: _TOO_BIG,
        Close.LOGIN: _row("login", Next.LOGIN, False, "Sign in again; nothing is lost."),
        Close.PROOF_USED: _row("proof_used", Next.CLICK, False, "Open in another copy. Use it here?"),
        Close.NOT_FOUND: _row("not_found", Next.LOGIN, False, "There is nothing here for you. Sign in."),
        Close.TOO_SLOW: _row("too_slow", Next.RESUME, True, _KEPT),
        Close.TAKEN: _row(
            "taken", Next.CLICK, False, "Your desktop is in use on another device. Take it back?"
        ),
        Close.HOLD_EXPIRED: _row(
            "hold_expired", Next.START, False, "Your desktop was closed; its files are saved."
        ),
        Close.SAVING: _row("hold_expired_saving", Next.WAIT, False, "Your desktop is being saved."),
        Close.TOO_MANY: _row("too_many", Next.RESUME, True, _KEPT),
        Close.ENDED: _row("ended", Next.START, False, "Your desktop was ended; its files are saved."),
        Close.LEG_LOST: _row("leg_lost", Next.RESUME, True, "Reconnecting to the screen."),
        Close.REVOKED: _row("revoked", Next.CONSENT, False, "The user ended the view."),
        Close.MOVED: _row("moved", Next.RESUME, True, _KEPT),
        Close.IN_USE: _row("in_use", Next.CLICK, False, "Your desktop is in use on another device."),
        Close.RETRY: _row("retry", Next.RESUME, True, _KEPT),
        Close.NODE_UNREACHABLE: _row("node_unreachable", Next.RESUME, True, "Waiting for its machine."),
    }
)

REASON_BYTES_MAX: Final = 123
"""A close frame carries at most 125 bytes, two of them the code (RFC 6455 section 5.5)."""


def may_be_received(code: int) -> bool:
    """Say whether a peer may send this code in a close frame (RFC 6455 section 7.4; IANA registry)."""
    return code in _RECEIVED or 3000 <= code <= 4999


_RECEIVED: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})

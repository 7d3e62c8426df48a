"""The text messages of a gateway on the page's address: `wait`, `opened`, `no`.

Not a protocol: on `binary` at most these are sent, all before the first byte of the desktop. Every key is
always there, so that a client needs no guessing; times are UTC milliseconds.

Source: gateway.md 9.2, 9.5 and 9.8; docs/design/0002-wire.md.
"""

import msgspec

from session_service.core.close_codes import ENDINGS, Close, Next
from session_service.core.websocket import TEXT, frame_head
from session_service.ports.streams import Attachment, LinkRefusal


def wait(why: str, percent: int | None) -> bytes:
    """Return the frame that says how far a starting session is."""
    return _frame({"t": "wait", "why": why, "pct": percent})


def opened(attachment: Attachment) -> bytes:
    """Return the frame after which only bytes of RFB follow. There is no key on `binary`: after a cut, a
    new ticket.
    """
    return _frame(
        {
            "t": "opened",
            "sid": attachment.session_id,
            "mode": attachment.mode,
            "hold": attachment.hold_s,
            "gap": attachment.gap_s,
            "use": [],
        }
    )


def no(refusal: LinkRefusal) -> bytes:
    """Return the frame of a refusal with its way forward; a close frame with the same code follows."""
    return _frame(
        {
            "t": "no",
            "code": int(refusal.code),
            "why": refusal.why,
            "next": str(refusal.next),
            "retry": refusal.retry_ms,
            "to": refusal.to,
            "by": refusal.by,
            "saved_as_of": refusal.saved_as_of_ms,
            "outcome": refusal.outcome,
            **({} if refusal.back_at_ms is None else {"back": refusal.back_at_ms, "note": refusal.note}),
        }
    )


def refusal(code: int, why: str = "", by: str = "") -> LinkRefusal:
    """Return the refusal that belongs to a code by the table."""
    row = ENDINGS[Close(code)] if code in set(Close) else None
    return LinkRefusal(
        code=code, why=why or (row.why if row else "unknown"), next=row.next if row else Next.OPEN, by=by
    )


def _frame(message: dict[str, object]) -> bytes:
    text = msgspec.json.encode(message)
    return frame_head(TEXT, len(text)) + text

"""What the kit answers on HTTP: a session, a ticket, a problem, and what a portal puts in their place.

Not the decision which of them (`server.py`). Only what a client of the wire needs of the API is here.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Final

from session_service.conformance.desk import TICKET_S, Desk
from session_service.conformance.doors import Door

_UNKNOWN: Final = (
    *("outcome", "closed_at", "hold_remaining_s", "hold_deadline", "loss_cause", "lost_at", "saved_as_of"),
    *("saved_seq", "pending_files", "pending_bytes", "close_step", "close_cause", "progress", "step_since"),
    *("start_from_seq", "node_id", "address"),
)
"""Of a session; none of it matters to a client of the wire."""


def portal(desk: Desk, door: Door) -> bytes:
    """Answer as a network does that wants a sign-in, or that lets no websocket through."""
    assert door.http is not None
    status, body = door.http
    location = f"/portal/{desk.shard}" if 300 <= status < 400 else ""
    return answer(status, body, location=location)


def answer(status: int, body: str, kind: str = "text/html", *, location: str = "") -> bytes:
    """Return a whole answer, after which the line is closed. Pages of any origin may read it."""
    data = body.encode()
    more = f"Location: {location}\r\n" if location else ""
    head = (
        f"HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
        f"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *, Authorization\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + data


def ticket(desk: Desk) -> dict[str, str]:
    """Return a fresh ticket as `POST /api/v1/sessions/{id}/tickets` does."""
    expires = datetime.now(UTC) + timedelta(seconds=TICKET_S)
    return {
        "ticket": desk.new_ticket(),
        "expires_at": expires.isoformat(timespec="seconds"),
        "mode": "control",
        "path": f"/s/{desk.shard}/ws",
        "stock_path": f"/s/{desk.shard}/t/none",
    }


def problem(status: int, code: str) -> bytes:
    """Answer as the API refuses: a problem document."""
    told = {
        "type": "about:blank",
        "title": code,
        "status": status,
        "code": code,
        "detail": code.replace("_", " "),
        "action": "",
        "retryable": status >= 500,
        "facts": {},
        "reference": "",
    }
    return answer(status, json.dumps(told), "application/problem+json")


def session(session_id: str) -> dict[str, object]:
    """Return a session as `GET /api/v1/sessions/{id}` does."""
    known = {
        "id": session_id,
        "workspace": {"id": session_id, "name": "conformance"},
        "user": {"id": session_id, "name": "conformance"},
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
    return known | dict.fromkeys(_UNKNOWN)

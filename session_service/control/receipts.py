"""The receipt of a close: what was proved, in a form that anyone who holds the key can check against the log.

Not its storage. The body is canonical JSON: sorted keys, no spaces, times in UTC milliseconds. Source:
lifecycle.md section 6.5.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from session_service.core.fields import OUTCOMES
from session_service.core.records import LogPosition, Session
from session_service.ports.checkpoints import CheckpointInfo

RECEIPT_VERSION = 1


def closed_facts(session: Session, history: Sequence[CheckpointInfo]) -> dict[str, Any]:
    """Return what the log says of the two checkpoints of this close."""
    by_seq = {info.seq: info for info in history}

    def told(position: LogPosition | None) -> dict[str, Any] | None:
        if position is None:
            return None
        facts: dict[str, Any] = {"seq": position.seq, "hash": position.hash.hex()}
        info = by_seq.get(position.seq)
        if info is not None and info.hash == position.hash:
            facts |= {
                "saved_as_of_ms": info.scan_ms,
                "entries": info.entries,
                "bytes": info.bytes,
                "complete": info.complete,
                "skipped": info.skipped,
                "unreadable": [
                    path.path for path in info.bad_paths if path.grade not in ("skipped", "fuzzy")
                ],
            }
        return facts

    return {"c1": told(session.c1), "c2": told(session.c2)}


def receipt_body(session: Session, checkpoints: dict[str, Any], *, at_ms: int) -> bytes:
    """Return the receipt's bytes."""
    assert session.close_cause is not None
    body = {
        "version": RECEIPT_VERSION,
        "session_id": session.id,
        "workspace_id": session.workspace_id,
        "user_id": session.user_id,
        "fence": session.fence,
        "cause": session.close_cause.value,
        "outcome": OUTCOMES[session.close_cause].value,
        "ended_by": session.close_actor,
        "created_at_ms": session.created_at_ms,
        "loss_cause": session.loss_cause.value if session.loss_cause is not None else None,
        "lost_at_ms": session.lost_at_ms,
        "asked_at_ms": session.asked_at_ms,
        "receipt_at_ms": at_ms,
        "freeze_method": session.freeze_method,
        "hook": session.hook_state.value,
        "refused_windows": list(session.refused_windows),
        "accepted_paths": list(session.accepted_paths),
        **checkpoints,
    }
    return msgspec.json.encode(body, order="sorted")

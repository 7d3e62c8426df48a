"""What both adapters decide alike: what is no unit at all, how a refusal is worded, what is kept how long.

Not the guards themselves: those are looked at where the records are, inside the transaction. A broken
invariant of a unit is an assertion in the caller's task, before it can share a transaction with others.
"""

import unicodedata
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from session_service.base.errors import BadInput, Conflict
from session_service.core.changes import (
    ForgetSignIns,
    PutLease,
    PutMark,
    PutSession,
    PutUser,
    PutWorkspace,
    Tick,
    Unit,
    Write,
)
from session_service.core.records import State

TICKET_KEPT_MS: Final = 24 * 3600 * 1000
"""An expired ticket is kept this long, so that "used" and "too old" can be told from "unknown"."""
IDEMPOTENCY_KEPT_MS: Final = 24 * 3600 * 1000
"""How long a repeated request gets the stored answer; clients retry for minutes, not for days."""
SIGN_IN_KEPT_MS: Final = 24 * 3600 * 1000
"""An expired sign-in is kept this long, for the list of a user's browsers."""
EFFECT_ERROR_CHARS_MAX: Final = 2000
"""What is kept of an effect's last error."""
LIST_MAX: Final = 100_000
"""Rows that one question may ask for; a longer list is read with a cursor. More is an assertion: a list that
was cut in silence reads as "that is all"."""
WRITES_PER_UNIT_MAX: Final = 256
"""A unit is one decision; more writes than this are a loop that belongs in several units."""


class Reason(StrEnum):
    """Why a unit was refused; `reason` in the facts of a Conflict."""

    ABSENT = "absent"
    EXISTS = "exists"
    GENERATION = "generation"
    LOSS_EPOCH = "loss_epoch"
    IMMUTABLE = "immutable"
    NAME_TAKEN = "name_taken"
    OTHER_OWNER = "other_owner"
    FENCE_BACKWARDS = "fence_backwards"
    NOT_REACHED = "not_reached"
    EPOCH = "epoch"
    BEAT = "beat"
    INCARNATION = "incarnation"
    NODE_NOT_UP = "node_not_up"
    COUNT_BACKWARDS = "count_backwards"
    SECOND_SESSION = "second_session"
    USED = "used"
    EXPIRED = "expired"
    VALUE = "value"


def refused(what: str, reason: Reason, **facts: str | int | None) -> Conflict:
    """Return the Conflict of one guard or expected value; `what` is the class that was refused."""
    detail = "This name is taken." if reason is Reason.NAME_TAKEN else ""
    return Conflict(detail, what=what, reason=reason.value, **facts)


def name_key(name: str) -> str:
    """Return the form under which names are compared: without case, and one form for equal-looking signs."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def check_unit(unit: Unit) -> None:
    """Assert what every unit must be, before it may share a transaction with others.

    Audit entries are looked at when they are chained: a BadInput there refuses this unit alone.

    Raises:
        BadInput: a name has no visible sign.
    """
    assert len(unit.writes) <= WRITES_PER_UNIT_MAX, len(unit.writes)
    for write in unit.writes:
        _check_write(write)


def _check_write(write: Write) -> None:
    match write:
        case PutSession(session=session, expected=expected):
            follows(session.generation, expected)
            held = session.hold
            assert held is None or (held.left_ms >= 0 and held.base_ms >= 0), held
            assert session.state is not State.CLOSED or session.outcome is not None, session.id
        case PutLease(lease=lease, expected=expected):
            follows(lease.generation, expected)
        case PutWorkspace(workspace=workspace, expected=expected):
            follows(workspace.generation, expected)
            check_name(workspace.name)
        case PutUser(user=user, expected=expected):
            follows(user.generation, expected)
            check_name(user.name)
        case PutMark(mark=mark, expected=expected):
            assert mark.epoch >= expected, "an epoch never goes back"
        case Tick(count_ms=count_ms, beat=beat):
            assert min(count_ms, beat) >= 0, write
        case ForgetSignIns(hash=hash_, user_id=user_id):
            assert (hash_ is None) != (user_id is None), "either one sign-in or all of a user"
        case _:
            pass


def list_limit(limit: int) -> int:
    """Return the limit of a list, asserted."""
    assert 0 <= limit <= LIST_MAX, limit
    return limit


def follows(generation: int, expected: int | None) -> None:
    """Assert that a record's generation is the one after the one it replaces; the first may be any from 1."""
    assert generation == expected + 1 if expected is not None else generation >= 1, (generation, expected)


def check_name(name: str) -> None:
    """Refuse a name that compares as nothing."""
    if not name_key(name).strip():
        raise BadInput("a name has at least one visible sign", field="name")


def opened_workspaces(unit: Unit) -> Iterator[str]:
    """Yield the workspaces in which this unit leaves a session open; each may have one open session only."""
    sessions = [write.session for write in unit.writes if isinstance(write, PutSession)]
    yield from dict.fromkeys(one.workspace_id for one in sessions if one.state is not State.CLOSED)


IMMUTABLE: Final = ("workspace_id", "user_id", "created_at_ms")
"""Fields of a session that are what it is: authority is keyed by them (lifecycle.md 1)."""

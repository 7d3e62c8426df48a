"""What a refused caller is told: a code, why, and the way forward. Never just "no".

Not the wire: the gateway sends this as `no` and closes with the code. One function per question, pure.
Source: lifecycle.md section 3 ("What the refused caller is told") and gateway.md 9.5.
"""

from dataclasses import dataclass

from session_service.core.close_codes import Close, Next
from session_service.core.records import CloseStep, Outcome, Session, State

RETRY_MS = 1_000
SAVING_RETRY_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Code, why and next as gateway.md 9.5 has them; times and outcome where they help."""

    code: int
    why: str
    next: str
    retry_ms: int | None = None
    by: str = ""
    saved_as_of_ms: int | None = None
    outcome: str = ""
    to: str | None = None
    """Where it is carried now: a path of this origin, for `moved`."""


UNKNOWN_TICKET = Refusal(code=Close.NOT_FOUND, why="not_found", next="login")
USED_TICKET = Refusal(code=Close.PROOF_USED, why="proof_used", next="click")
SIGNED_OUT = Refusal(code=Close.LOGIN, why="login", next="login")
OLD_TICKET = Refusal(code=Close.PROOF_USED, why="proof_used", next="click")
NOT_IN_PATH = Refusal(code=Close.NOT_FOUND, why="not_found", next="login")
RETRY_NEW_TICKET = Refusal(code=Close.RETRY, why="retry", next="open", retry_ms=RETRY_MS)
RETRY_RESUME = Refusal(code=Close.RETRY, why="retry", next="resume", retry_ms=RETRY_MS)
STARTING = Refusal(code=Close.RETRY, why="starting", next="open", retry_ms=RETRY_MS)


def too_many(*, step: Next, retry_ms: int) -> Refusal:
    """This address failed too often (only failing attempts are told so), or enough people look on already."""
    return Refusal(code=Close.TOO_MANY, why="too_many", next=step, retry_ms=retry_ms)


def moved(to: str) -> Refusal:
    """The session is carried elsewhere: a path of the same origin. Proof and ticket are unused."""
    return Refusal(code=Close.MOVED, why="moved", next=Next.RESUME, retry_ms=0, to=to)


def node_unreachable(*, saved_as_of_ms: int | None) -> Refusal:
    """The session's machine is declared lost: it waits, or its user goes on from the last checkpoint."""
    return Refusal(
        code=Close.NODE_UNREACHABLE,
        why="node_unreachable",
        next=Next.RESUME,
        retry_ms=SAVING_RETRY_MS,
        saved_as_of_ms=saved_as_of_ms,
    )


def in_use(session: Session) -> Refusal:
    """Another device has the desktop and the policy lets it keep it; the ticket is unused."""
    return Refusal(code=Close.IN_USE, why="in_use", next="click", by=session.device_label)


def by_state(session: Session, *, saved_as_of_ms: int | None) -> Refusal | None:
    """Return why nobody attaches in this state; None when an attach is possible."""
    if session.state in (State.STARTING, State.ACTIVE, State.HELD):
        return None
    if session.state is State.CLOSING:
        if session.close_step in (CloseStep.ACCESS_ENDED, CloseStep.EXITING) and session.c2 is None:
            return Refusal(
                code=Close.SAVING,
                why="hold_expired_saving",
                next="login",
                retry_ms=SAVING_RETRY_MS,
                saved_as_of_ms=saved_as_of_ms,
            )
        return Refusal(
            code=Close.SAVING,
            why="hold_expired_saving",
            next="wait",
            retry_ms=SAVING_RETRY_MS,
            saved_as_of_ms=saved_as_of_ms,
        )
    outcome = session.outcome or Outcome.SAVED
    if outcome in (Outcome.ENDED_BY_USER, Outcome.ENDED_BY_OPERATOR, Outcome.START_FAILED):
        return Refusal(
            code=Close.ENDED, why="ended", next="start", outcome=outcome.value, saved_as_of_ms=saved_as_of_ms
        )
    return Refusal(
        code=Close.HOLD_EXPIRED,
        why="hold_expired",
        next="start",
        outcome=outcome.value,
        saved_as_of_ms=saved_as_of_ms,
    )

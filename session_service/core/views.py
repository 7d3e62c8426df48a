"""What is shown of a session: the record joined with what is only known now. Plain data for API, pages
and CLI.

Not stored. Times are UTC milliseconds, made for display from counters when asked; nothing decides by them.
"""

from dataclasses import dataclass, field

from session_service.core.records import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """One session as its user and the operators see it. No secret, ticket or socket is ever in it."""

    session: Session
    workspace_name: str
    user_name: str
    hold_remaining_s: float | None = None
    hold_deadline_ms: int | None = None
    """Wall now + what remains; None when not held."""
    counting: bool = True
    """False while the hold stands still because this node could not accept its user."""
    saved_as_of_ms: int | None = None
    saved_seq: int | None = None
    pending_files: int | None = None
    pending_bytes: int | None = None
    pending_looked_at_ms: int | None = None
    """None = unknown; never 0 by default."""
    link_since_ms: int | None = None
    links: int = 0
    address: str = ""
    progress_stage: str = ""
    progress_done: int = 0
    progress_total: int | None = None
    progress_unit: str = ""
    progress_per_s: float | None = None
    progress_left_s: float | None = None
    """None where nobody can know."""
    save_interval_s: float | None = None
    save_rule: str = ""
    """Which rule of `core/pace.py` decided the interval."""
    save_promise_s: float | None = None
    """While something changes, saved-as-of is at most this old; None before the first save."""
    step_error: str = ""
    """The error of the close step or start that is being tried again, in words."""
    step_since_ms: int | None = None
    step_attempts: int = 0
    network: str = ""
    limits_missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that needs a person; it closes itself when its cause is gone."""

    id: str
    kind: str
    since_ms: int
    detail: str
    action: str
    session_id: str | None = None
    facts: tuple[tuple[str, str | int | float | bool | None], ...] = field(default=())

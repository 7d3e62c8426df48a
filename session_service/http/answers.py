"""What the API answers: one model per answer. Plain data; no live capability, secret or socket is in any
list.

Times are ISO 8601 UTC texts. Unknown is null, never 0. Made from records in `render.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from session_service.ports.damage import LeftOut

LEFT_OUT_NAMED_MAX: Final = 1_000
"""Paths that one answer names."""

Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Fact = str | int | float | bool | None


class Answer(BaseModel):
    """Base of everything that we send."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class ProblemOut(Answer):
    """Why a request failed (RFC 9457) and what to do next."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    action: str
    facts: dict[str, Fact]
    reference: str


class NamedOut(Answer):
    """An id and the name that goes with it now."""

    id: str
    name: str


class ProgressOut(Answer):
    """How far a start or a close is; total is null while unknown."""

    stage: str
    done: int
    total: int | None
    unit: str
    per_s: float | None
    """Units by second, over the last seconds."""
    left_s: float | None
    """Seconds left at this speed; null where nobody can know."""


class SessionOut(Answer):
    """One session as its user and the operators see it."""

    id: str
    workspace: NamedOut
    user: NamedOut
    state: str
    outcome: str | None
    generation: int
    created_at: Instant
    closed_at: Instant | None
    hold_s: float
    hold_remaining_s: float | None
    hold_deadline: Instant | None
    hold_counting: bool
    loss_cause: str | None
    lost_at: Instant | None
    saved_as_of: Instant | None
    saved_seq: int | None
    pending_files: int | None
    pending_bytes: int | None
    pending_looked_at: Instant | None
    save_interval_s: float | None
    """The pause between periodic saves that is in force."""
    save_rule: str
    """Why: target, scan, duration, crowd, bandwidth, store or risk."""
    save_promise_s: float | None
    """While something changes, saved_as_of is at most this old."""
    links: int
    link_since: Instant | None
    device_label: str
    close_step: str | None
    close_cause: str | None
    progress: ProgressOut | None
    step_error: str
    step_since: Instant | None
    step_attempts: int
    start_from_seq: int | None
    chosen_seq: int | None
    refused_windows: list[str]
    accepted_paths: list[str]
    detail: str
    network: str
    limits_missing: list[str]
    node_id: str | None
    """Operators only."""
    address: str | None
    """Operators only."""


class SessionsOut(Answer):
    """A page of sessions, newest first."""

    items: list[SessionOut]
    next_cursor: str | None


class TicketOut(Answer):
    """A one-use right to open a link; never shown again."""

    ticket: str
    expires_at: Instant
    mode: str
    path: str
    """Where to open the websocket; the ticket goes into its first message."""
    stock_path: str
    """For stock clients, where policy allows it: the ticket stands in the path."""


class PictureOut(Answer):
    """A small picture of one's own desktop; to be shown with its age and kept nowhere."""

    taken_at: Instant
    width: int
    height: int
    media_type: str
    data: str
    """The image, as base64."""


class ExplainedOut(Answer):
    """One line of "explain this session"."""

    at: Instant
    words: str
    facts: dict[str, Fact]


class ExplanationOut(Answer):
    """Why a session is as it is, oldest first."""

    session_id: str
    items: list[ExplainedOut]


class WorkspaceOut(Answer):
    """A user's named home."""

    id: str
    name: str
    user_id: str
    created_at: Instant
    open_session_id: str | None
    saved_as_of: Instant | None
    saved_seq: int | None


class WorkspacesOut(Answer):
    """All workspaces of one user."""

    items: list[WorkspaceOut]
    next_cursor: str | None


class BadPathOut(Answer):
    """An entry that is not whole in a checkpoint, and why."""

    path: str
    grade: str
    error: str


class CheckpointOut(Answer):
    """One restorable point of a workspace."""

    seq: int
    hash: str
    session_id: str
    saved_as_of: Instant
    reason: str
    complete: bool
    final: bool
    frozen: bool
    entries: int
    bytes: int
    new_stored_bytes: int
    skipped: int
    fuzzy: int
    unreadable: int
    """What could not be read when it was made; `stale` ones have the content of an earlier checkpoint."""
    pinned: bool
    """No policy forgets it: by hand, or while somebody reads it."""
    bad_paths: list[BadPathOut]


class CheckpointsOut(Answer):
    """Checkpoints of a workspace, newest first."""

    items: list[CheckpointOut]
    next_cursor: str | None


class FileOut(Answer):
    """One entry of a folder in a checkpoint."""

    name: str
    path: str
    kind: str
    size: int
    mode: str
    modified_at: Instant
    grade: str
    link_target: str


class FilesOut(Answer):
    """A folder at the time of a checkpoint."""

    path: str
    seq: int
    items: list[FileOut]
    next_cursor: str | None


class UploadOut(Answer):
    """Where the uploaded file lies in the home."""

    path: str
    bytes: int


class LeftOutOut(Answer):
    """A file that was left out, or a folder (`kind`) that is not whole, because an object is damaged."""

    path: str
    kind: str
    object: str
    reason: str


def left_out(found: Sequence[LeftOut]) -> list[LeftOutOut]:
    """Return what an answer names of it; the rest is counted, where that is told."""
    return [
        LeftOutOut(path=one.path, kind=one.kind, object=one.object, reason=one.reason)
        for one in found[:LEFT_OUT_NAMED_MAX]
    ]


class DiffersOut(Answer):
    """Something that is there and not quite as it was saved: setuid, an owner by number, a name in use."""

    path: str
    what: str


class RestoredOut(Answer):
    """Where what was restored lies in the home; `not_made` names what could not be made again, `differs` what
    was made and is not quite as it was, because that may not or cannot be put back.

    Unless it is `complete`, an object of the store is damaged, and `left_out` names the first of what needs
    it; of these files nothing was made.
    """

    path: str
    entries: int
    bytes: int
    not_made: list[str]
    differs: list[DiffersOut]
    complete: bool
    left_out: list[LeftOutOut]
    left_out_count: int


class ReceiptOut(Answer):
    """What a close proved; `body` is what was sealed in the object store."""

    session_id: str
    workspace_id: str
    user_id: str
    written_at: Instant
    body: dict[str, Any]


class ReceiptsOut(Answer):
    """Receipts, newest first."""

    items: list[ReceiptOut]
    next_cursor: str | None


class EventOut(Answer):
    """One audit record."""

    seq: int
    kind: str
    actor: str
    at: Instant
    session_id: str | None
    workspace_id: str | None
    user_id: str | None
    facts: dict[str, Fact]
    hash: str


class EventsOut(Answer):
    """Audit records in the order asked for."""

    items: list[EventOut]
    next_cursor: str | None


class UserOut(Answer):
    """An account, without anything secret."""

    id: str
    name: str
    role: str
    disabled: bool
    created_at: Instant
    generation: int


class UsersOut(Answer):
    """Accounts by id."""

    items: list[UserOut]
    next_cursor: str | None


class SignInOut(Answer):
    """A signed-in browser."""

    id: str
    device_label: str
    created_at: Instant
    last_seen: Instant
    expires_at: Instant
    this_one: bool


class SignInsOut(Answer):
    """The browsers in which one is signed in."""

    items: list[SignInOut]
    next_cursor: str | None


class MeOut(Answer):
    """Who the caller is and what this sign-in or token may do."""

    user: UserOut
    via: str
    scopes: list[str]
    device_id: str
    device_label: str
    expires_at: Instant | None


class TokenOut(Answer):
    """A token for programs, without the token."""

    id: str
    user_id: str
    name: str
    scopes: list[str]
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class TokensOut(Answer):
    """One's own tokens; administrators see all."""

    items: list[TokenOut]
    next_cursor: str | None


class NewTokenOut(TokenOut):
    """A new token; `token` is never shown again."""

    token: str


class AlarmOut(Answer):
    """Something that needs a person; it closes itself when its cause is gone."""

    id: str
    kind: str
    since: Instant
    detail: str
    action: str
    session_id: str | None
    facts: dict[str, Fact]


class AlarmsOut(Answer):
    """All open alarms."""

    items: list[AlarmOut]
    next_cursor: str | None


class StoreTrafficOut(Answer):
    """What all workers asked of the store since the first of them opened it, each try counted."""

    since: Instant
    puts: int
    gets: int
    heads: int
    lists: int
    deletes: int
    failures: int
    sent_bytes: int
    fetched_bytes: int


class StoreCheckOut(Answer):
    """One thing that the store was asked to show when it was opened."""

    name: str
    passed: bool
    needed: bool
    """A store that fails it is not used."""
    words: str


class StorageOut(Answer):
    """The object store as last asked."""

    usable: bool | None
    """null = it was not asked, or gave no answer in time."""
    error: str
    url: str | None
    key_id: str | None
    key_backed_up: bool | None
    watching: str | None
    """How changes in homes are noticed, in words; for operators."""
    traffic: StoreTrafficOut | None
    """For operators."""
    checks: list[StoreCheckOut] | None
    """What the store showed when it was last probed; for operators."""


class StatusOut(Answer):
    """How the service is; details are for those who are signed in."""

    ready: bool
    setup_needed: bool
    time: Instant
    storage: StorageOut
    version: str | None
    node_id: str | None
    node_name: str | None
    alarms: int | None

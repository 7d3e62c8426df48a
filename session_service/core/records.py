"""The durable records: what the registry keeps, field by field, and the closed lists of their values.

Not behaviour: the table that changes them is `core/lifecycle.py`. Writers of each field: lifecycle.md
section 1 and docs/lifecycle.md.
Units: `_ms` and `_s` as named, ticks are readings of the node's availability counter in milliseconds, UTC
milliseconds only for display.
"""

from dataclasses import dataclass
from enum import StrEnum

from session_service.base.ids import (
    DeviceId,
    EffectId,
    LinkId,
    NodeId,
    PolicyId,
    SessionId,
    TenantId,
    UserId,
    WorkspaceId,
)


class State(StrEnum):
    """The five states of a session."""

    STARTING = "starting"
    ACTIVE = "active"
    HELD = "held"
    CLOSING = "closing"
    CLOSED = "closed"


OPEN_STATES = frozenset({State.STARTING, State.ACTIVE, State.HELD, State.CLOSING})


class Outcome(StrEnum):
    """How a closed session ended; the cause is separate."""

    SAVED = "saved"
    SAVED_AFTER_DEATH = "saved_after_death"
    HIBERNATED = "hibernated"
    ENDED_BY_USER = "ended_by_user"
    ENDED_BY_OPERATOR = "ended_by_operator"
    REUSED = "reused"
    START_FAILED = "start_failed"
    NODE_LOST = "node_lost"
    DESKTOP_LOST = "desktop_lost"


class LossCause(StrEnum):
    """Why the last client was lost; `taken_over` is never a loss and stands here for a link's end only."""

    TAB_CLOSED = "tab_closed"
    TAB_HIDDEN = "tab_hidden"
    NETWORK_CHANGED = "network_changed"
    SILENT = "silent"
    PROXY_IDLE = "proxy_idle"
    SERVER_RESTART = "server_restart"
    RESET = "reset"
    TAKEN_OVER = "taken_over"
    NEVER_ATTACHED = "never_attached"
    UNKNOWN = "unknown"


class CloseStep(StrEnum):
    """The durable steps of a close, in order; the record names the last one that is done."""

    ACCESS_ENDED = "access_ended"
    EXITING = "exiting"
    ENDING = "ending"
    ENDED = "ended"
    WIPED = "wiped"
    RECEIPTED = "receipted"


class CloseCause(StrEnum):
    """What began a close."""

    HOLD = "hold"
    IDLE = "idle"
    LENGTH = "length"
    USER = "user"
    OPERATOR = "operator"
    DEATH = "death"


class HookState(StrEnum):
    """The user's before-close hook: intent is recorded before it runs, and it is never run twice."""

    NONE = "none"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


class NodeState(StrEnum):
    """A node's standing; `lost` ends nothing."""

    UP = "up"
    DRAINING = "draining"
    LOST = "lost"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """One entry of a workspace's commit log: its number and the hash that binds everything before it."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A running hold: due when the counter of `clock` reaches `base_ms + left_ms`. Counted in ticks,
    never a datetime.
    """

    clock: NodeId
    base_ms: int
    left_ms: int

    @property
    def deadline_ms(self) -> int:
        """The counter reading at which this hold ends."""
        return self.base_ms + self.left_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One life of a desktop over a workspace. Written by its owner through `core.lifecycle.step` only."""

    id: SessionId
    workspace_id: WorkspaceId
    user_id: UserId
    policy_id: PolicyId
    policy_rev: int
    state: State
    generation: int
    registry_epoch: int
    fence: int
    node_id: NodeId
    hold_s: float
    created_at_ms: int
    outcome: Outcome | None = None
    loss_epoch: int = 0
    loss_cause: LossCause | None = None
    lost_at_ms: int | None = None
    hold: Hold | None = None
    start_attempts: int = 0
    start_from: LogPosition | None = None
    """The checkpoint the home was restored from; None for a first, empty home."""
    chosen_seq: int | None = None
    """The older checkpoint that the user chose to start from, told what is missing."""
    close_step: CloseStep | None = None
    close_cause: CloseCause | None = None
    close_actor: str | None = None
    asked_at_ms: int | None = None
    hook_state: HookState = HookState.NONE
    refused_windows: tuple[str, ...] = ()
    freeze_method: str | None = None
    accepted_paths: tuple[str, ...] = ()
    c1: LogPosition | None = None
    c2: LogPosition | None = None
    grant: int = 0
    grant_cause: str = "start"
    link_id: LinkId | None = None
    device_id: DeviceId | None = None
    device_label: str = ""
    closed_at_ms: int | None = None
    detail: str = ""
    """Why a start failed or a desktop was lost, for its user; never trusted as data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A user's named home. At most one live session, by the lease."""

    id: WorkspaceId
    user_id: UserId
    tenant_id: TenantId
    name: str
    policy_group: str = "default"
    created_at_ms: int = 0
    generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who may act for a workspace. One row per workspace, never deleted; `session_id` None = free."""

    workspace_id: WorkspaceId
    fence: int
    node_id: NodeId
    session_id: SessionId | None
    generation: int
    newest: LogPosition | None = None
    """The newest log entry this registry knows of: number and hash, never the number alone."""
    saved_as_of_ms: int | None = None
    saved_seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desktop:
    """A launched desktop: what its provider returned to find it again. Keyed by workspace and fence."""

    workspace_id: WorkspaceId
    fence: int
    node_id: NodeId
    session_id: SessionId
    """The session the desktop was launched for; a returned desktop serves a later session under the same
    fence.
    """
    handle: bytes
    """The provider's handle, JSON."""
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that runs desktops, and its durable availability counter."""

    id: NodeId
    boot_id: str
    incarnation: int
    address: str
    count_ms: int
    beat: int
    state: NodeState = NodeState.UP


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryMark:
    """One row about the registry itself; a new epoch stops everything destructive until each owner
    settled.
    """

    epoch: int
    system_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRecord:
    """Something to be done because a record changed; written in the same transaction, removed when done."""

    id: EffectId
    session_id: SessionId
    generation: int
    kind: str
    args: bytes = b"{}"
    attempts: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A one-use right to open a link; only the hash is kept."""

    hash: bytes
    session_id: SessionId
    user_id: UserId
    device_id: DeviceId
    device_label: str
    mode: str
    created_at_ms: int
    expires_at_ms: int
    used_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An account. `role` is user, operator or administrator."""

    id: UserId
    tenant_id: TenantId
    name: str
    role: str
    password_hash: str
    created_at_ms: int
    generation: int = 1
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """A signed-in browser: the hash of its cookie."""

    hash: bytes
    user_id: UserId
    device_id: DeviceId
    device_label: str
    created_at_ms: int
    last_seen_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A token for programs; only the hash is kept, shown once when it is made."""

    id: str
    user_id: UserId
    name: str
    scopes: tuple[str, ...]
    hash: bytes
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a close proved. `body` is the JSON that was sealed in the object store, too."""

    session_id: SessionId
    workspace_id: WorkspaceId
    user_id: UserId
    body: bytes
    written_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One audit record before it is chained; the registry adds number and hash in the same transaction."""

    kind: str
    actor: str
    at_ms: int
    session_id: SessionId | None = None
    workspace_id: WorkspaceId | None = None
    user_id: UserId | None = None
    facts: tuple[tuple[str, str | int | float | bool | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One link of the audit chain: hash = BLAKE3-256 over the previous hash and the entry's canonical
    msgpack.
    """

    seq: int
    entry: AuditEntry
    prev: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The stored answer of a request with an Idempotency-Key: the repeat gets the same answer."""

    key: str
    user_id: UserId
    request_hash: bytes
    status: int
    body: bytes
    created_at_ms: int

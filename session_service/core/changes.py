"""What is written to the registry, as data: one `Unit` is all or nothing, by compare-and-set.

Not SQL and not a session's rules: `core/lifecycle.py` makes units, a registry adapter carries them out.
Units that arrive within
20 ms share a transaction; each keeps its own fate (lifecycle.md section 11). A unit may be sent twice:
its guards decide.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from session_service.base.ids import EffectId, NodeId, SessionId
from session_service.core.records import (
    ApiToken,
    AuditEntry,
    Desktop,
    EffectRecord,
    Idempotency,
    Lease,
    Node,
    Receipt,
    RegistryMark,
    Session,
    SignIn,
    Ticket,
    User,
    Workspace,
)


class Rank(IntEnum):
    """Order inside one group: resumes are looked at before expiries."""

    TICK = 0
    RESUME = 1
    DROP = 2
    EXPIRY = 3
    STEP = 4
    OTHER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterReached:
    """Guard of an expiry: the written counter of the node is at or past `at_ms`, looked at inside the
    transaction.
    """

    node_id: NodeId
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionIs:
    """Guard: the session is at this generation and loss epoch now (the expiry names both)."""

    session_id: SessionId
    generation: int
    loss_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseIs:
    """Guard: the lease of the session's workspace is held by this node under this fence."""

    workspace_id: str
    node_id: NodeId
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochIs:
    """Guard: the registry is at this epoch, so nothing was lost in between."""

    epoch: int


Guard = CounterReached | SessionIs | LeaseIs | EpochIs


@dataclass(frozen=True, slots=True, kw_only=True)
class PutSession:
    """Insert (`expected` None) or replace the session at generation `expected`; the new one has the next
    generation.
    """

    session: Session
    expected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutLease:
    """Insert (`expected` None) or replace the lease at generation `expected`."""

    lease: Lease
    expected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutWorkspace:
    """Insert (`expected` None) or replace a workspace. (user, name) is unique."""

    workspace: Workspace
    expected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutUser:
    """Insert (`expected` None) or replace a user. The name is unique, compared without case."""

    user: User
    expected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDesktop:
    """Record what was launched for (workspace, fence); repeating replaces."""

    desktop: Desktop


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetDesktop:
    """Remove the row of a desktop that was ended and wiped; absent is done."""

    workspace_id: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddEffect:
    """Add an effect; the same id again changes nothing."""

    effect: EffectRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectDone:
    """Remove an effect; absent is done."""

    effect_id: EffectId


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectFailed:
    """Count an attempt of an effect and keep its error."""

    effect_id: EffectId
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Advance a node's counter to an absolute value under a beat number.

    Applies where id, incarnation, beat (the one before) match and the node is up; else the unit conflicts.
    """

    node_id: NodeId
    incarnation: int
    beat: int
    count_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PutNode:
    """Insert (`expected_incarnation` None) or replace a node's row at its start."""

    node: Node
    expected_incarnation: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutMark:
    """Replace the registry's mark at epoch `expected`."""

    mark: RegistryMark
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTicket:
    """Store a ticket. One to control uses up every older unused one to control of its session and device,
    because a late `open` would displace its own page; those to look on displace nobody and stay.
    """

    ticket: Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTicket:
    """Use a ticket up: it exists, is unused, not expired at `now_ms`; else the unit conflicts."""

    hash: bytes
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PutSignIn:
    """Insert or replace a signed-in browser."""

    sign_in: SignIn


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSignIns:
    """Remove sign-ins: the one with this hash, or all of a user; with the unused tickets that they made."""

    hash: bytes | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutApiToken:
    """Insert or replace an API token; a revoked one loses its unused tickets."""

    token: ApiToken


@dataclass(frozen=True, slots=True, kw_only=True)
class AddReceipt:
    """Store a receipt; the same session again changes nothing."""

    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class AddIdempotency:
    """Store a request's answer; conflicts when the key of this user is there already."""

    entry: Idempotency


@dataclass(frozen=True, slots=True, kw_only=True)
class PutSetting:
    """Keep one named value (setup done, default policy, alarms acknowledged); `expected` is the value
    replaced or None.
    """

    name: str
    value: bytes
    expected: bytes | None


Write = (
    PutSession
    | PutLease
    | PutWorkspace
    | PutUser
    | PutDesktop
    | ForgetDesktop
    | AddEffect
    | EffectDone
    | EffectFailed
    | Tick
    | PutNode
    | PutMark
    | AddTicket
    | UseTicket
    | PutSignIn
    | ForgetSignIns
    | PutApiToken
    | AddReceipt
    | AddIdempotency
    | PutSetting
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One transaction: guards, then writes in order, then audit records. Any refusal undoes the whole
    unit.

    A `Tick` among the writes counts before the guards are looked at: an expiry carries the tick that makes it
    due (lifecycle.md 4.3). After the writes, a workspace whose session was put has one open session at most.
    """

    rank: Rank = Rank.OTHER
    guards: tuple[Guard, ...] = ()
    writes: tuple[Write, ...] = field(default=())
    audit: tuple[AuditEntry, ...] = ()

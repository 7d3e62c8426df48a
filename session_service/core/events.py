"""What can happen to a session, what must be done after it, and the facts that come with it.

Not the rules: which event is allowed where stands in `core/lifecycle.py`. Facts are given by the caller, who
read the clocks and looked at the machine; nothing here looks anywhere. Source: lifecycle.md section 2.
"""

from dataclasses import dataclass
from enum import StrEnum

from session_service.base.ids import DeviceId, LinkId, NodeId
from session_service.core.records import CloseStep, HookState, LogPosition, LossCause, Session


class Event(StrEnum):
    """The closed list of events. Closing a tab is a drop; only an explicit End ends."""

    START = "start"
    DESKTOP_READY = "desktop_ready"
    START_FAILED = "start_failed"
    CLIENT_ATTACHED = "client_attached"
    CLIENT_RESUMED = "client_resumed"
    CLIENT_DROPPED = "client_dropped"
    KEYS_REVOKED = "keys_revoked"
    HOLD_EXPIRED = "hold_expired"
    HOLD_CHANGED = "hold_changed"
    IDLE_LIMIT = "idle_limit"
    LENGTH_LIMIT = "length_limit"
    USER_END = "user_end"
    OPERATOR_END = "operator_end"
    DESKTOP_DIED = "desktop_died"
    DESKTOP_ABSENT = "desktop_absent"
    STEP_DONE = "step_done"
    HOME_CHANGED = "home_changed"
    DESKTOP_REUSED = "desktop_reused"
    PATHS_ACCEPTED = "paths_accepted"
    MOVED = "moved"
    TAKEN_OVER = "taken_over"
    NODE_GONE = "node_gone"
    SETTLED = "settled"


class Effect(StrEnum):
    """What is to be done after the commit, in order. All may be repeated."""

    PUT_E = "put_e"
    RESTORE = "restore"
    LAUNCH = "launch"
    RELAUNCH = "relaunch"
    TELL_PROGRESS = "tell_progress"
    OPEN_STREAM = "open_stream"
    ARM_HOLD = "arm_hold"
    RELEASE_KEYS = "release_keys"
    CHECKPOINT = "checkpoint"
    DETACH_OLD = "detach_old"
    WARN = "warn"
    THAW = "thaw"
    END_ACCESS = "end_access"
    CLOSE = "close"
    NEXT_STEP = "next_step"
    SAVE_AGAIN = "save_again"
    REPORT = "report"


DURABLE_EFFECTS = frozenset({Effect.THAW, Effect.LAUNCH})
"""Effects that a restart could not derive from the record: written as rows in the same transaction (a launch
keeps what the user asked for: geometry, keyboard, language). The others follow from the state (held: hold and
checkpoint; closing: close) or concern a link that died with the process.
"""


class Found(StrEnum):
    """What the owner's own look at its machine found of the session's desktop."""

    RUNNING = "running"
    PROCESSES_ENDED = "processes_ended"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a rule may look at beside the record. Times: `at_ms` wall (display only), `*_count_ms` the
    owner's counter.
    """

    at_ms: int
    epoch: int
    """The registry epoch that the caller is settled in."""
    settled: bool = True
    """False while the node has not settled this session after a new epoch: nothing destructive is decided."""
    actor: str = "system"
    reason: str = ""
    clock: NodeId | None = None
    base_count_ms: int | None = None
    """Counter plus gap so far, rounded up, read when the transaction is built: the base of a hold that begins
    now.
    """
    written_count_ms: int | None = None
    """The counter as last written: what an expiry is compared with."""
    attached: bool = False
    """A control link is attached now, as memory knows it."""
    marked: bool = False
    """A provisional resume left its mark on the disk."""
    loss_epoch: int | None = None
    link_id: LinkId | None = None
    device_id: DeviceId | None = None
    device_label: str = ""
    cause: LossCause | None = None
    revoked: bool = False
    """Its user may come back after signing in only: no key that is out there attaches any more."""
    delta_ms: int = 0
    takeover_allowed: bool = True
    limit_reached: bool = False
    found: Found = Found.UNKNOWN
    launched: bool = True
    """False when no process of this session was ever started."""
    final_is_newest: bool = False
    """The log's newest entry is the final checkpoint of this fence."""
    step: CloseStep | None = None
    hook: HookState | None = None
    position: LogPosition | None = None
    refused_windows: tuple[str, ...] = ()
    freeze_method: str | None = None
    paths: tuple[str, ...] = ()
    start_from: LogPosition | None = None
    fence: int | None = None
    node_id: NodeId | None = None
    old_count_ms: int | None = None
    """The counter of the node that gives a session away, read in the same transaction (4.4)."""
    new: Session | None = None
    """START only: the record to begin with."""

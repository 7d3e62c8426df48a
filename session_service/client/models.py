"""What the API answers, as this client's users see it: plain values, only the fields that programs use.

Not the server's models: a client must read answers of newer servers, so unknown fields are ignored. A test
checks that every field here is one that the API sends.
"""

from typing import Any

import msgspec

Fact = str | int | float | bool | None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base: unknown fields are ignored."""


class Named(_Answer, frozen=True, kw_only=True):
    """An id and the name that goes with it now."""

    id: str
    name: str


class Progress(_Answer, frozen=True, kw_only=True):
    """How far a start or a close is."""

    stage: str
    done: int
    total: int | None
    unit: str = ""
    per_s: float | None = None
    left_s: float | None = None


class Session(_Answer, frozen=True, kw_only=True):
    """One session. Times are ISO 8601 UTC texts; unknown is None, never 0."""

    id: str
    workspace: Named
    user: Named
    state: str
    outcome: str | None
    generation: int
    created_at: str
    closed_at: str | None
    hold_s: float
    hold_remaining_s: float | None
    hold_deadline: str | None
    hold_counting: bool
    loss_cause: str | None
    lost_at: str | None
    saved_as_of: str | None
    saved_seq: int | None
    pending_files: int | None
    pending_bytes: int | None
    save_interval_s: float | None = None
    save_rule: str = ""
    save_promise_s: float | None = None
    links: int
    device_label: str
    close_step: str | None
    close_cause: str | None
    progress: Progress | None
    step_error: str
    step_since: str | None
    step_attempts: int
    start_from_seq: int | None
    detail: str
    network: str
    limits_missing: list[str]
    node_id: str | None
    address: str | None


class Ticket(_Answer, frozen=True, kw_only=True):
    """A one-use right to open a link."""

    ticket: str
    expires_at: str
    mode: str
    path: str
    stock_path: str

    def __repr__(self) -> str:
        return f"Ticket(mode={self.mode!r}, expires_at={self.expires_at!r})"


class Explained(_Answer, frozen=True, kw_only=True):
    """One line of an explanation."""

    at: str
    words: str
    facts: dict[str, Fact]


class Workspace(_Answer, frozen=True, kw_only=True):
    """A user's named home."""

    id: str
    name: str
    user_id: str
    created_at: str
    open_session_id: str | None
    saved_as_of: str | None
    saved_seq: int | None


class BadPath(_Answer, frozen=True, kw_only=True):
    """An entry that is not whole in a checkpoint."""

    path: str
    grade: str
    error: str


class Checkpoint(_Answer, frozen=True, kw_only=True):
    """One restorable point of a workspace."""

    seq: int
    hash: str
    session_id: str
    saved_as_of: str
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
    bad_paths: list[BadPath]
    pinned: bool = False


class File(_Answer, frozen=True, kw_only=True):
    """One entry of a folder in a checkpoint; `path` can be sent back as it is."""

    name: str
    path: str
    kind: str
    size: int
    mode: str
    modified_at: str
    grade: str
    link_target: str


class Verification(_Answer, frozen=True, kw_only=True):
    """What a check of a workspace's repository found; no fault is good."""

    level: str
    faults: list[str]


class Retention(_Answer, frozen=True, kw_only=True):
    """Which checkpoints stay when old ones are forgotten."""

    keep_last: int
    keep_hourly: int
    keep_daily: int
    keep_weekly: int
    keep_monthly: int
    keep_within_s: float


class Foreign(_Answer, frozen=True, kw_only=True):
    """An object behind a log's last entry that does not open and stops everybody."""

    seq: int
    hash: str
    size: int
    why: str


class Foreigners(_Answer, frozen=True, kw_only=True):
    """All of them."""

    items: list[Foreign]


class SteppedOver(_Answer, frozen=True, kw_only=True):
    """The number of the entry that says so."""

    seq: int


class Collected(_Answer, frozen=True, kw_only=True):
    """What a run of collecting did; what it gave up is deleted by the next one."""

    forgotten: list[int]
    deleted_objects: int
    deleted_bytes: int
    given_up_packs: int
    repacked_packs: int
    given_up_bytes: int
    orphans: int
    folded_entries: int
    refused: str


class EpochOfKeys(_Answer, frozen=True, kw_only=True):
    """What lies under one key epoch; 0 for a key that nothing opens."""

    key_epoch: int
    key_id: str
    packs: int
    entries: int


class Keys(_Answer, frozen=True, kw_only=True):
    """The keys of a workspace, by their public names."""

    master_key_id: str
    key_epoch: int
    min_key_epoch: int
    epochs: list[EpochOfKeys]


class TenantKeys(_Answer, frozen=True, kw_only=True):
    """By what the keys of one tenant are wrapped: counts of keys."""

    tenant_id: str
    keys: int
    opened: int
    under_master: int
    under_previous: int
    under_recovery: int
    under_other_codes: int


class StoreKeys(_Answer, frozen=True, kw_only=True):
    """Every way into the store, by public names."""

    master_key_id: str
    key_backed_up: bool
    recovery_id: str
    kms_key: str
    tenants: list[TenantKeys]
    refused: list[str]


class Rewrapped(_Answer, frozen=True, kw_only=True):
    """What a re-wrap moved."""

    workspaces: int
    made: int
    removed: int
    left: list[str]


class Erased(_Answer, frozen=True, kw_only=True):
    """What an erasure deleted; the receipt is base64."""

    slots: int
    objects: int
    bytes: int
    versions: int | None
    processes: int
    receipt: str
    finished: bool = True
    second: str = ""
    locked: int = 0
    locked_keys: int = 0
    locked_until: str | None = None


class ErasedWorkspace(Erased, frozen=True, kw_only=True):
    """One workspace of an erased person."""

    workspace_id: str


class Erasure(_Answer, frozen=True, kw_only=True):
    """The erasure of a person."""

    user_id: str
    finished: bool
    at: str
    actor: str
    reason: str
    workspaces: list[ErasedWorkspace]


class Replica(_Answer, frozen=True, kw_only=True):
    """How far the second copy of one workspace is."""

    workspace_id: str
    state: str
    behind_entries: int
    behind_bytes: int
    behind_seconds: float
    replica_seq: int | None
    looked_at: str | None
    faults: list[str]
    error: str


class Spared(_Answer, frozen=True, kw_only=True):
    """An object of the main store that was read from the second one."""

    object: str
    what: str


class SecondStore(_Answer, frozen=True, kw_only=True):
    """The second store, and all workspaces together."""

    configured: bool
    required: str
    url: str | None
    usable: bool | None
    error: str
    in_step: bool
    behind_entries: int
    behind_bytes: int
    behind_seconds: float
    workspaces: list[Replica]
    spared: list[Spared]


class SecondCopy(_Answer, frozen=True, kw_only=True):
    """What stands on the second store, looked at as if it were the only one."""

    entries: int
    newest_checkpoint: int | None
    newest_saved_as_of: str | None
    faults: list[str]


class Repair(_Answer, frozen=True, kw_only=True):
    """What came back into the main store, and what did not."""

    objects: list[str]
    left: list[str]


class Promotion(_Answer, frozen=True, kw_only=True):
    """Which store is the main one now."""

    url: str


class PathChange(_Answer, frozen=True, kw_only=True):
    """One path that differs between two checkpoints. what: added, removed, changed."""

    path: str
    what: str
    size_before: int | None
    size_after: int | None


class LeftOut(_Answer, frozen=True, kw_only=True):
    """A file that was left out, or a folder that is not whole, because an object of the store is damaged."""

    path: str
    kind: str
    object: str
    reason: str


class Difference(_Answer, frozen=True, kw_only=True):
    """What changed from one checkpoint to another; `more`: not every path is named.

    What is left out are folders that could not be compared to their end, because the store is damaged.
    """

    changes: list[PathChange]
    more: bool
    left_out: list[LeftOut] = msgspec.field(default_factory=list)


class AuditChain(_Answer, frozen=True, kw_only=True):
    """The audit chain as it was recomputed."""

    records: int


class Upload(_Answer, frozen=True, kw_only=True):
    """Where an uploaded file lies in the home."""

    path: str
    bytes: int


class Differs(_Answer, frozen=True, kw_only=True):
    """Something that is there and not quite as it was saved."""

    path: str
    what: str


class Restored(_Answer, frozen=True, kw_only=True):
    """Where restored files lie in the home, and what of them could not be made again.

    Unless it is `complete`, something that is damaged in the store was left out and is named.
    """

    path: str
    entries: int
    bytes: int
    not_made: list[str]
    complete: bool = True
    left_out: list[LeftOut] = msgspec.field(default_factory=list)
    left_out_count: int = 0
    differs: list[Differs] = msgspec.field(default_factory=list)
    """What may not or cannot be put back: setuid bits, owners by number, names that count as one."""


class Receipt(_Answer, frozen=True, kw_only=True):
    """What a close proved."""

    session_id: str
    workspace_id: str
    user_id: str
    written_at: str
    body: dict[str, Any]


class AuditEvent(_Answer, frozen=True, kw_only=True):
    """One audit record."""

    seq: int
    kind: str
    actor: str
    at: str
    session_id: str | None
    workspace_id: str | None
    user_id: str | None
    facts: dict[str, Fact]
    hash: str


class User(_Answer, frozen=True, kw_only=True):
    """An account."""

    id: str
    name: str
    role: str
    disabled: bool
    created_at: str
    generation: int


class Me(_Answer, frozen=True, kw_only=True):
    """Who this client is for the service."""

    user: User
    via: str
    scopes: list[str]
    device_id: str
    device_label: str
    expires_at: str | None


class Token(_Answer, frozen=True, kw_only=True):
    """A token's record."""

    id: str
    user_id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewToken(Token, frozen=True, kw_only=True):
    """A new token with its secret, which is never shown again."""

    token: str

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r}, name={self.name!r})"


class Alarm(_Answer, frozen=True, kw_only=True):
    """Something that needs a person."""

    id: str
    kind: str
    since: str
    detail: str
    action: str
    session_id: str | None
    facts: dict[str, Fact]


class StoreTraffic(_Answer, frozen=True, kw_only=True):
    """What the service asked of the store since its workers opened it, each try counted."""

    since: str
    puts: int
    gets: int
    heads: int
    lists: int
    deletes: int
    failures: int
    sent_bytes: int
    fetched_bytes: int


class StoreCheck(_Answer, frozen=True, kw_only=True):
    """One thing that the store was asked to show when it was opened."""

    name: str
    passed: bool
    needed: bool
    """A store that fails it is not used."""
    words: str


class Storage(_Answer, frozen=True, kw_only=True):
    """The object store as last asked."""

    usable: bool | None
    error: str
    url: str | None
    key_id: str | None
    key_backed_up: bool | None
    watching: str | None = None
    """How changes in homes are noticed."""
    traffic: StoreTraffic | None = None
    checks: list[StoreCheck] | None = None
    """What the store showed when it was last probed; for operators."""


class Status(_Answer, frozen=True, kw_only=True):
    """How the service is."""

    ready: bool
    setup_needed: bool
    time: str
    storage: Storage
    version: str | None
    node_id: str | None
    node_name: str | None
    alarms: int | None


class LiveEvent(_Answer, frozen=True, kw_only=True):
    """One event of the live stream: snapshot, session, alarm or beat, with its data."""

    kind: str
    data: Any

"""The contract of saving and restoring homes: what control asks of the storage workers.

Not the format (storage/FORMAT.md) and not the lifecycle. The adapter in `checkpoints/` gives each call to
a worker process, one home
at a time each; every call is cancellable and may be repeated. Structs are msgspec because they travel
between processes.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import msgspec

from session_service.ports.damage import LeftOut
from session_service.ports.desktops import EndProof
from session_service.ports.keys import ErasedLook, KeyLook, RewrapLook, StoreKeys, TombstoneLook
from session_service.ports.upkeep import Difference, ForeignLook, KeepRule, Upkept


class WorkspaceName(msgspec.Struct, frozen=True, kw_only=True):
    """Tenant and workspace ids (ULIDs); the adapter turns them into names of the object store."""

    tenant_id: str
    workspace_id: str


class BadPath(msgspec.Struct, frozen=True, kw_only=True):
    """One entry that is not whole in a checkpoint. grade: skipped, fuzzy, stale, unreadable."""

    path: str
    """UTF-8 with surrogate escapes shown as \\xNN."""
    grade: str
    error: str = ""


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of a workspace, as listed."""

    seq: int
    hash: bytes
    fence: int
    session_id: str
    scan_ms: int
    """Freeze or scan start, UTC ms: this is `saved_as_of`."""
    reason: str
    complete: bool
    final: bool
    frozen: bool
    entries: int
    bytes: int
    new_stored_bytes: int
    skipped: int = 0
    fuzzy: int = 0
    unreadable: int = 0
    """What could not be read when it was made: with an older content (stale), or with none."""
    bad_paths: tuple[BadPath, ...] = ()
    pinned: bool = False
    """By hand, or while somebody reads it: no policy forgets it."""
    side: str = ""
    """Of one that was saved beside the main line: its object. Its `seq` is then that of the entry that makes
    it count; 0 where the log cannot be used and takes none.
    """


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workspace's log stands. `newest` is the newest complete checkpoint, None only for a log
    without any.
    """

    fence: int
    seq: int
    hash: bytes
    newest: CheckpointInfo | None


class CheckpointResult(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is committed and verified (read back). `unchanged`: nothing new, `info` is the
    newest with a new scan_ms.
    """

    info: CheckpointInfo
    unchanged: bool
    saved_as_of_ms: int
    scan_s: float
    total_s: float
    store_asked: bool = True
    """False: nothing happened in the home, so this says nothing of the store."""


QUEUED: Final = "queued"
"""The stage of work that waits for a free worker."""
BEGUN: Final = "begun"
"""The stage of work that has its worker, and has done nothing yet."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a call is; totals are None while unknown. stage: queued, begun, scan, upload, restore.

    Told only when something was done since: who waits takes silence for a call that hangs.
    """

    stage: str
    done: int
    total: int | None
    unit: str = "files"


class PendingLook(msgspec.Struct, frozen=True, kw_only=True):
    """Files and bytes changed since the newest checkpoint at the last look; None = unknown, never 0 by
    default.
    """

    files: int | None
    bytes: int | None
    looked_at_ms: int


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """A restored home; `home` is its final folder (renamed into place when whole).

    A new home is whole or is not made. What is brought back beside a home may lack what is damaged: then
    `left_out_count` is not 0, and `left_out` names the first of it.
    """

    home: str
    seq: int | None
    entries: int
    bytes: int
    not_made: tuple[BadPath, ...] = ()
    differs: tuple[BadPath, ...] = ()
    """What is there and not quite as it was saved; the grade says what was left off."""
    seconds: float = 0.0
    seeded_bytes: int = 0
    """Found on this machine, and not fetched."""
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0


class LastLook(msgspec.Struct, frozen=True, kw_only=True):
    """What one more look at home and log found. `proof` is there only when both still agree with the
    checkpoint.
    """

    same: bool
    proof: EndProof | None
    differences: tuple[str, ...] = ()


class FolderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a folder in a checkpoint. kind: file, folder, link, fifo, socket, device."""

    name: str
    raw_name: bytes
    kind: str
    size: int
    mode: int
    mtime_ms: int
    grade: str = ""
    link_target: str = ""


class FolderPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some neighbouring entries of a folder, ascending by the bytes of their names.

    With `more` the next page begins after the `raw_name` of the last one.
    """

    entries: list[FolderEntry]
    more: bool


class WatchLook(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker learns of changes in homes."""

    mode: str
    """fanotify, inotify, or scan only."""
    folders: int
    folders_max: int | None
    homes: int
    homes_unwatched: int
    """Homes that are scanned, because they cannot be watched or there are no watches left."""
    scans: dict[str, int]
    """By their reason; `notified` are those of changed folders only."""
    silent: int
    """Folders in which full scans found changes that no event told of."""


class TrafficLook(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker asked of the main store since it opened it."""

    worker: int
    since_ms: int
    """When it opened the store: UTC milliseconds."""
    requests: dict[str, int]
    """By kind: put, get, head, list, delete, versions."""
    failures: int
    sent_bytes: int
    fetched_bytes: int


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The object store as last probed or used."""

    url: str
    usable: bool
    verdict: tuple[tuple[str, bool, bool, str], ...]
    """(check, passed, needed, words) of the conformance probe."""
    error: str = ""
    key_backed_up: bool = False
    key_id: str = ""
    watching: tuple[WatchLook, ...] = ()
    """How each worker learns of changes in homes."""
    traffic: tuple[TrafficLook, ...] = ()
    """What each worker asked of the store."""


class SavePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to checkpoint and under which right."""

    workspace: WorkspaceName
    session_id: str
    fence: int
    home: str
    reason: str
    """periodic, loss, demand, first_of_close, final, conflict."""
    frozen: bool
    final: bool = False
    first_of_close: bool = False
    resume: bool = True
    """An earlier attempt may have stored something. False after one that ended well: no listing then."""


class Checkpoints(Protocol):
    """Store away: StorageUnavailable (retryable). Wrong for good: StorageRefused. Another owner:
    FenceMoved.
    """

    async def take_over(
        self,
        workspace: WorkspaceName,
        *,
        fence_at_least: int,
        node_id: str,
        session_id: str,
        registry_epoch: int,
    ) -> LogHead:
        """Write entry E with fence = max(fence_at_least, highest in the log + 1 unless it is ours) and
        read the newest after it stands.
        """
        ...

    async def head(self, workspace: WorkspaceName) -> LogHead | None:
        """Return the log's end; None only when the log cleanly does not exist."""
        ...

    async def save(
        self, plan: SavePlan, *, progress: Callable[[Progress], None] | None = None
    ) -> CheckpointResult:
        """Take, commit and verify one checkpoint. Incomplete ones are committed too and say so: look at
        `info.complete`.
        """
        ...

    async def pending(self, workspace: WorkspaceName, *, home: str) -> PendingLook: ...

    async def prove(
        self, workspace: WorkspaceName, *, session_id: str, fence: int, seq: int, hash: bytes, home: str
    ) -> EndProof:
        """Check that the log still holds this checkpoint, verified, and seal an EndProof of kind
        "verified".
        """
        ...

    async def last_look(
        self,
        workspace: WorkspaceName,
        *,
        session_id: str,
        fence: int,
        seq: int,
        hash: bytes,
        home: str,
        accepted: bool = False,
    ) -> LastLook:
        """Compare the home as it lies with the checkpoint, and the log with (seq, hash); seal a proof of
        kind "same". A log that does not hold the checkpoint any more is a difference.

        Args:
            accepted: somebody accepted by name what the checkpoint lacks; that may be unreadable still.
        """
        ...

    async def new_home(
        self,
        workspace: WorkspaceName,
        *,
        fence: int,
        seq: int | None,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        """Make the home of (workspace, fence): restored from `seq`, or empty with the skeleton when seq
        is None.

        A home of this fence that is there already is returned as it is, never overwritten.
        """
        ...

    async def history(self, workspace: WorkspaceName) -> list[CheckpointInfo]: ...

    async def folder(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, after: bytes, prefix: bytes, limit: int
    ) -> FolderPage:
        """Return at most `limit` entries of a folder that follow the name `after` and begin with `prefix`.

        Both may be empty. The price of a page does not grow with the folder.
        """
        ...

    def read(self, workspace: WorkspaceName, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        """Stream one file's bytes."""
        ...

    def archive(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, kind: str = "zip", checked: bool = False
    ) -> AsyncIterator[bytes]:
        """Stream a folder as a zip or a tar; what is damaged in the store is listed in its last member.

        Args:
            checked: read each file to its end before it is sent, so that damage never ends the stream.
        """
        ...

    async def bring_back(
        self,
        workspace: WorkspaceName,
        *,
        seq: int,
        path: bytes,
        home: str,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        """Put a file or folder of a checkpoint into a new folder below `Restored` of a living home.

        Nothing that is there is touched; `home` of the report is the new folder's path in the home. What
        cannot be given is named in the report; where nothing can be, FilesDamaged is raised.
        """
        ...

    async def upload(
        self, workspace: WorkspaceName, *, home: str, name: str, source: str, owner: tuple[int, int] | None
    ) -> str:
        """Move an uploaded temporary file into the home's Uploads folder safely; returns the path in the
        home.
        """
        ...

    async def put_receipt(self, workspace: WorkspaceName, *, session_id: str, body: bytes) -> bytes:
        """Write the receipt create-only and read it back; a repeat with the same body is success. Returns
        its hash.
        """
        ...

    async def receipt(self, workspace: WorkspaceName, *, session_id: str) -> bytes | None: ...

    async def verify(
        self,
        workspace: WorkspaceName,
        *,
        level: str,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[str]:
        """Check the repository (structure, sample or full); returns the faults found, none = good."""
        ...

    async def forget(self, workspace: WorkspaceName, *, seqs: list[int], actor: str, reason: str) -> None:
        """Forget checkpoints by hand. Raises Conflict where one must stay; then none was forgotten."""
        ...

    async def keep(self, workspace: WorkspaceName, *, seq: int, pin: bool, actor: str, reason: str) -> None:
        """Pin a checkpoint, so that no policy forgets it, or let it go its way again."""
        ...

    async def collect(
        self,
        workspace: WorkspaceName,
        *,
        actor: str,
        forget: KeepRule | None,
        witness: tuple[int, bytes] | None = None,
        renew_index: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Upkept:
        """Forget by a rule if given, free what earlier runs gave up, give up what is dead, repack, fold.

        `witness` is the entry that the registry remembers: a log that does not hold it is not touched.
        With `renew_index` the cache for cold starts is given up first, because it contradicts the log.
        """
        ...

    async def foreign(self, workspace: WorkspaceName) -> list[ForeignLook]:
        """Return what lies behind the log's last entry, does not open, and stops everybody."""
        ...

    async def step_over(self, workspace: WorkspaceName, *, confirmed: list[tuple[int, bytes]]) -> int:
        """Let such objects not count, by number and hash; return the number of the entry that says so.

        Raises:
            Conflict: other objects lie there than were confirmed.
        """
        ...

    async def told(self, workspace: WorkspaceName, *, seqs: list[int], actor: str) -> None:
        """Note that the user was told of conflict checkpoints; 30 days later policy may forget them."""
        ...

    async def diff(self, workspace: WorkspaceName, *, before: int, after: int) -> Difference:
        """Compare two checkpoints path by path."""
        ...

    async def keys(self, workspace: WorkspaceName) -> KeyLook: ...

    async def rotate_keys(self, workspace: WorkspaceName, *, leaked: bool) -> KeyLook:
        """Begin a new key epoch for new objects; `leaked` also refuses older ones to every writer."""
        ...

    async def store_keys(self) -> StoreKeys:
        """Look at every tenant's keys."""
        ...

    async def set_recovery(self, public: bytes) -> None:
        """Keep the public half of a recovery code; a re-wrap then makes its slots."""
        ...

    async def rewrap(self, tenant_id: str) -> RewrapLook:
        """Move a tenant's secrets to the ways in of now, after every worker has read these again."""
        ...

    async def rotate_tenant(self, tenant_id: str) -> RewrapLook:
        """Make a new tenant key, move its workspaces to it, and remove older ones last."""
        ...

    async def erase(self, workspace: WorkspaceName, *, actor: str, reason: str) -> ErasedLook:
        """Erase a workspace for ever: tombstone, keys, every worker's memory, objects. A repeat finishes
        what was begun.
        """
        ...

    async def tombstone(self, workspace: WorkspaceName) -> TombstoneLook | None:
        """Return who erased a workspace; None if it was not erased."""
        ...

    async def conflicts(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        """Return the conflict checkpoints that nobody dropped yet."""
        ...

    async def status(self, *, probe: bool = False) -> StoreStatus: ...

    async def workspaces(self) -> list[WorkspaceName]:
        """List the workspaces found in the object store alone ("this machine burned")."""
        ...

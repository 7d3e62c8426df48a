"""What the front door takes and returns: plain, frozen values that can cross the border of a process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from storage.ids import WorkspaceRef
from storage.repository.verify import VerifiedCheckpoint

Level: TypeAlias = Literal["structure", "sample", "full"]
ArchiveKind: TypeAlias = Literal["zip", "tar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """Where the objects lie: `file:///path` or `s3://bucket/prefix?endpoint=...&region=...`."""

    url: str
    credentials_file: Path | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a call is; `total` is None while unknown. stage: scan, upload, restore, usable, seeded; verify,
    trees; mark, delete, move.
    """

    stage: str
    done: int
    total: int | None = None
    unit: str = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPath:
    """One entry that is not whole.

    grade: skipped, fuzzy, stale, unreadable; of a restore, what was not made.
    """

    path: bytes
    grade: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """One checkpoint, as listed."""

    seq: int
    hash: bytes
    fence: int
    session: str
    parent: int
    tree_hash: bytes
    scan_ms: int
    """Freeze or scan start, UTC ms: this is `saved_as_of`."""
    time_ms: int
    reason: str
    complete: bool
    final: bool
    first_of_close: bool
    frozen: bool
    owner: tuple[int, int]
    entries: int
    folders: int
    bytes: int
    """Of data in files; holes are not counted, a group of hard links counts once."""
    new_stored_bytes: int
    skipped: int = 0
    fuzzy: int = 0
    stale: int = 0
    unreadable: int = 0
    bad_paths: tuple[BadPath, ...] = ()
    pinned: bool = False
    side: str = ""
    """The side checkpoint's name; `seq` and `hash` are then those of the B that makes it count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """Where a log stands. `fence` is the highest take-over; `newest` the newest complete checkpoint."""

    fence: int
    seq: int
    hash: bytes
    newest: CheckpointInfo | None
    newest_is_final: bool
    """The log's newest E or C is a final checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointResult:
    """A checkpoint that is committed and verified.

    With `unchanged` nothing new was written: `info` is the newest.
    """

    info: CheckpointInfo
    proof: VerifiedCheckpoint | None
    """None for a full base beside a main line that cannot be used: it was read back, and no log holds it yet.
    Its number is 0.
    """
    unchanged: bool
    saved_as_of_ms: int
    read_files: int
    new_bytes: int
    """New raw bytes of chunks, before compression."""
    stored_bytes: int
    scan_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What changed since the newest checkpoint, by stat."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """The last look: whether home and log still agree with a checkpoint, and up to 100 paths that do not."""

    same: bool
    paths: tuple[bytes, ...] = ()
    proof: VerifiedCheckpoint | None = None

    def __bool__(self) -> bool:
        return self.same


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that differs between two checkpoints. what: added, removed, changed."""

    path: bytes
    what: str
    size_before: int | None
    size_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What could not be given because an object that it needs is damaged or missing. Of a file nothing is
    given; of a folder what could be read of it is.
    """

    path: bytes
    kind: str
    """file; or folder: not all of its names could be read."""
    object: str
    """Name of the damaged object in the repository; empty if none could be told."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs between two checkpoints; `more` says that not every path is named."""

    changes: tuple[Change, ...]
    more: bool = False
    left_out: tuple[LeftOut, ...] = ()
    """Folders of which not all could be compared, because an object is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryInfo:
    """One entry of a folder. kind: file, folder, link, fifo, socket, device, unknown."""

    name: bytes
    kind: str
    size: int
    mode: int
    mtime_ms: int
    grade: str = ""
    link_target: bytes = b""
    hard_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPage:
    """Some neighbouring entries of a folder, ascending by the bytes of their names.

    With `more` the next page begins after the name of the last one.
    """

    entries: tuple[EntryInfo, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What a restore made; everything that differs from the checkpoint is named."""

    seq: int
    entries: int
    bytes: int
    not_made: tuple[BadPath, ...] = ()
    differences: tuple[BadPath, ...] = ()
    resumed: bool = False
    """A restore that was cut off before was taken up: what it had finished was not written again."""
    seeded_bytes: int = 0
    """Of contents that were in the seed, and not fetched."""
    fetched_bytes: int = 0
    """Of sealed segments with contents that were fetched from the store."""
    left_out: tuple[LeftOut, ...] = ()
    """The first of them, by path."""
    left_out_count: int = 0

    @property
    def complete(self) -> bool:
        """Return whether all was given that the checkpoint holds."""
        return not self.left_out_count

    @property
    def whole(self) -> bool:
        """Return whether every entry of the checkpoint was made."""
        return self.complete and not self.not_made


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verify looked at, and what is wrong; `faults` are sentences with object names."""

    level: Level
    entries: int
    checkpoints: int
    objects: int
    bytes_read: int
    faults: tuple[str, ...]
    orphans: int
    """Packs that no entry names: left by crashes, removed by garbage collection."""

    @property
    def sound(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.faults


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLook:
    """By what the keys of one tenant are wrapped; counts of keys."""

    tenant: str
    keys: int
    opened: int
    under_master: int
    under_previous: int
    """Still under a master key that is being replaced: a re-wrap moves them."""
    under_recovery: int
    under_other_codes: int
    """Under recovery codes that are not the present one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """Which tenants' keys the master key opens."""

    master_key_id: str
    opened: tuple[str, ...]
    refused: tuple[str, ...]
    workspaces: tuple[WorkspaceRef, ...]
    tenants: tuple[TenantLook, ...] = ()

    @property
    def fits(self) -> bool:
        """Return whether this master key opens everything that is there."""
        return not self.refused

"""Everything that can be expected to go wrong in `storage`, as a tree of facts.

Not sentences: an error has a stable `code`, says whether trying again may help (`retryable`), and carries its
facts as plain values, so that it can cross the border of a process and be counted. Texts for people are made
at the edge. This is the lowest module of `storage`: it imports nothing of it.
"""

from typing import ClassVar, TypeAlias

Fact: TypeAlias = str | int | bool | bytes | None


class StorageError(Exception):
    """The root: every declared failure of `storage` is one of these."""

    code: ClassVar[str] = "storage_error"
    retryable: ClassVar[bool] = False

    def __init__(self, **facts: Fact) -> None:
        self.facts: dict[str, Fact] = facts
        told = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        super().__init__(f"{self.code}: {told}" if told else self.code)


class IdRefused(StorageError):
    """A tenant, workspace or session id is not one that may stand in an object name."""

    code = "id_refused"


# --- the object store -------------------------------------------------------------------------------------


class StoreError(StorageError):
    """The object store did not do what was asked."""

    code = "store_error"


class ObjectExists(StoreError):
    """Create-only refused: the name is taken (412). Says nothing about whose bytes are there."""

    code = "object_exists"


class ObjectNotFound(StoreError):
    """A clean "no such object" with the bucket reachable. Never a listing error, never a missing bucket."""

    code = "object_not_found"


class StoreUnavailable(StoreError):
    """Not reachable, too slow, or asks to come back later. For a create: certainly nothing was written."""

    code = "store_unavailable"
    retryable = True


class StoreFull(StoreUnavailable):
    """The disk or the quota of the store is used up.

    Retryable, because freeing space heals it; nothing was written.
    """

    code = "store_full"


class CreateConflict(StoreError):
    """409 on a conditional create: somebody races; send the same bytes again."""

    code = "create_conflict"
    retryable = True


class AmbiguousWrite(StoreError):
    """Time-out, 5xx or a lost connection after bytes were sent: they may have landed, or land later."""

    code = "ambiguous_write"
    retryable = True


class StoreRefused(StoreError):
    """Permanent: wrong credentials, no such bucket, name refused, too large, wrong set-up."""

    code = "store_refused"


class ObjectLocked(StoreRefused):
    """The bucket keeps this version against everybody (object lock), until a time or until a hold is lifted.

    `until_ms` is nil for a hold. What the service may do about it: wait. Whoever runs the bucket may lift a
    hold, or shorten a governance lock.
    """

    code = "object_locked"


class StoreUnsafe(StoreError):
    """The probe found that this store does not keep the promises that checkpoints need (create-only)."""

    code = "store_unsafe"


# --- the format -------------------------------------------------------------------------------------------


class FormatError(StorageError):
    """Bytes of a repository are not what format version 1 says."""

    code = "format_error"


class Malformed(FormatError):
    """Refused by a rule of the format. Facts: `rule`, and `object` where known."""

    code = "malformed"


class WrongKey(FormatError):
    """The object names another key, or its commitment says that key, name or repository do not fit."""

    code = "wrong_key"


class NotAuthentic(FormatError):
    """A sealed box did not open: the bytes were changed, or moved."""

    code = "not_authentic"


class NewerServiceNeeded(FormatError):
    """Well-formed, but made by a newer version: unknown version, flag, feature, or entry kind below 128."""

    code = "newer_service_needed"


class LimitReached(FormatError):
    """A writer was asked for something that version 1 has no room for."""

    code = "limit_reached"


# --- the repository ---------------------------------------------------------------------------------------


class RepositoryError(StorageError):
    """The repository of a workspace cannot do what was asked."""

    code = "repository_error"


class RepositoryMissing(RepositoryError):
    """There is no repository: its config and its log do not exist, and the store said so cleanly."""

    code = "repository_missing"


class KeyMissing(RepositoryError):
    """No slot can be opened with the keys at hand (wrong master key, or the slots were erased)."""

    code = "key_missing"


class ChainBroken(RepositoryError):
    """The commit log contradicts itself: a gap, a wrong predecessor, a name that holds other bytes."""

    code = "chain_broken"


class FenceMoved(RepositoryError):
    """Another owner has taken the workspace over: a higher E stands in the log.

    Nothing more may be written.
    """

    code = "fence_moved"


class NoSuchCheckpoint(RepositoryError):
    """The log holds no such checkpoint (any more), or it was forgotten."""

    code = "no_such_checkpoint"


class CheckpointVoid(RepositoryError):
    """The entry exists but does not count: its fence is below an earlier take-over."""

    code = "checkpoint_void"


class PathMissing(RepositoryError):
    """The checkpoint has no such path, or it is of another kind."""

    code = "path_missing"


class ObjectDamaged(RepositoryError):
    """An object that the log needs is missing, has another size, or does not open."""

    code = "object_damaged"


class ObjectMissing(ObjectDamaged):
    """An object or a chunk is not where the log had it. It may have been moved meanwhile: who reads looks at
    the log again, and only what is missing by the newest log, too, is damage.
    """


class CommitContended(RepositoryError):
    """The end of the log moved again and again while an entry was being placed."""

    code = "commit_contended"
    retryable = True


class CommitUncertain(RepositoryError):
    """An answer to the create of a log entry never came; the same bytes must be sent again first."""

    code = "commit_uncertain"
    retryable = True


class ClocksApart(RepositoryError):
    """Host and store disagree about the time by more than a day: nothing is forgotten or unpinned."""

    code = "clocks_apart"
    retryable = True


class KeysChanged(RepositoryError):
    """The repository has a newer key epoch than this process opened; the next call opens it anew."""

    code = "keys_changed"
    retryable = True


class MustBeKept(RepositoryError):
    """A checkpoint that may not be forgotten: the newest of its kind, pinned, or the first one of a close."""

    code = "must_be_kept"


class CollectRefused(RepositoryError):
    """Garbage collection or fold met something that it does not understand or that contradicts the log.

    Nothing was written and nothing deleted because of it.
    """

    code = "collect_refused"


class ReplicaDiverged(RepositoryError):
    """The second store holds other bytes under a name of the main one, or is ahead of it.

    Nothing is overwritten.
    """

    code = "replica_diverged"


class NotMain(StoreError):
    """Another store was made the main one; this one must not be written as such."""

    code = "not_main"


class PartMissing(RepositoryError):
    """A compiled part that the format needs is not installed (pyfastcdc, zstandard, AES)."""

    code = "part_missing"


# --- scan and restore -------------------------------------------------------------------------------------


class ScanError(StorageError):
    """The home folder cannot be read as asked."""

    code = "scan_error"


class HomeMissing(ScanError):
    """The home folder does not exist, is no folder, or is not reachable."""

    code = "home_missing"


class HomeMoved(ScanError):
    """The root of the scan was replaced or unmounted while it was being read."""

    code = "home_moved"


class RouteLost(ScanError):
    """A scan of what changed met something that only a scan of everything can tell. Its caller makes one."""

    code = "route_lost"


class CacheLost(ScanError):
    """What is remembered of a home cannot be read any more. Its caller scans without it."""

    code = "cache_lost"


class RestoreError(StorageError):
    """A restore could not be done."""

    code = "restore_error"


class TargetNotEmpty(RestoreError):
    """A restore goes into a folder of its own; this one exists and holds something."""

    code = "target_not_empty"


class RestoreRunning(RestoreError):
    """Another process restores into the same folder at this moment."""

    code = "restore_running"
    retryable = True


class TargetFull(RestoreError):
    """The target has not enough space or inodes for what the checkpoint says."""

    code = "target_full"


class TargetFailed(RestoreError):
    """The target refused something that a restore needs. Facts: `path`, `errno`."""

    code = "target_failed"


class DescriptorsExhausted(RestoreError, ScanError):
    """No open file is to be had any more, here (EMFILE) or on the whole machine (ENFILE)."""

    code = "descriptors_exhausted"
    retryable = True


class HostileTree(RestoreError):
    """The tree exceeds what its checkpoint announced, or breaks a rule that restore relies on."""

    code = "hostile_tree"


class Cancelled(StorageError):
    """The caller gave up; threads saw the flag and stopped. Nothing was committed after that."""

    code = "cancelled"
    retryable = True


class KeyServiceFailed(RepositoryError):
    """The KMS, or the command that asks it, did not answer as it must. Nothing was written because of it."""

    code = "key_service_failed"
    retryable = True


class WorkspaceErased(RepositoryError):
    """A tombstone says that this workspace was erased on purpose. It is never "no checkpoint"."""

    code = "workspace_erased"

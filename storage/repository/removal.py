"""The single module of `storage` that may delete an object.

An object of a repository goes only if the commit log, as it was just read from the store, says so: packs, old
histories that no R names, forgotten side checkpoints and outdated index snapshots by an R that names them,
entries by a fold. Entries go in ascending order, each proven gone before the next: a sleeping writer's look
at its predecessor relies on it. What no log speaks of is erasure, which follows a tombstone, and key slots
that a re-wrap has replaced, each while another slot of its secret is there. (The objects that a probe of the
store made a moment before are removed by the probe: tests/arch/allowances.py.)

Source: storage.md 4.4 rules 3, 5 and 6, 4.5 "Erasure".
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from storage.errors import CollectRefused, ObjectLocked, ObjectNotFound, StorageError
from storage.format import names
from storage.format.header import header_key_id
from storage.format.limits import HEADER_BYTES
from storage.objects.store import ObjectStore
from storage.objects.versions import ObjectVersion, delete_version, versions_below
from storage.repository.state import LogState
from storage.repository.ways import METHOD_RECOVERY


def may_go(state: LogState, name: str) -> bool:
    """Return whether an entry of this log gave an object up. Asked only of a chain that was read itself."""
    if state.snapshot_at:
        raise CollectRefused(what="the log was read from an index snapshot", seq=state.snapshot_at)
    state.require_whole()
    if name.startswith(names.LOG_PREFIX):
        return names.log_entry_seq(name) <= state.folded_to
    if name in state.index.containers or name not in state.retired:
        return False
    if name.startswith(names.PACK_PREFIX):
        return True
    if name.startswith(names.HISTORY_PREFIX):
        return name not in dict(state.histories)
    if name.startswith(names.SIDE_PREFIX):
        return name not in state.side_objects()
    return name.startswith(names.INDEX_PREFIX)


def may_leave_replica(main: LogState, replica: LogState, name: str, *, on_main: Container[str]) -> bool:
    """Return whether a copy may follow its original, which the main store has no more.

    Both logs must end with the same entry, so that every R that allows it stands on the replica, too, and the
    original must not have been lost by accident: nothing that either log needs ever goes. A name that neither
    log knows and the main store does not have was given up by an R that a fold has taken in since: it was
    copied because the log once named it.

    Args:
        on_main: what the main store listed after the replica, and before `main` was read.
    """
    if (main.seq, main.hash) != (replica.seq, replica.hash) or name in on_main:
        return False
    if main.damaged or replica.damaged:
        return False
    if name.startswith(names.LOG_PREFIX):
        return may_go(replica, name)
    if not name.startswith((names.PACK_PREFIX, names.HISTORY_PREFIX, names.SIDE_PREFIX)):
        return False
    return not any(_names(state, name) for state in (main, replica))


def _names(state: LogState, name: str) -> bool:
    """Return whether a log needs an object."""
    sides = any(side.name == name for side in state.sides.values())
    return sides or name in state.index.containers or name in dict(state.histories)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedVersion:
    """A version that the bucket keeps, whatever the service asks."""

    name: str
    until_ms: int | None
    """None: until a hold is lifted."""


def lock_ends_ms(locked: Sequence[LockedVersion]) -> int | None:
    """Return when the last lock ends; None if there is none, or one of them is a hold."""
    times = [one.until_ms for one in locked]
    return max((one for one in times if one is not None), default=None) if None not in times else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How much an erasure deleted."""

    slots: int
    objects: int
    bytes: int
    versions: int | None
    """Noncurrent versions and marks of deletion that went with them; None: the store cannot say."""
    locked: tuple[LockedVersion, ...] = ()
    """What a bucket with object lock still holds; nothing of it is shown to who does not ask for versions."""


async def remove_erased_slots(store: ObjectStore, *, tenant: str, workspace: str) -> Erased:
    """Delete the key slots of a workspace whose tombstone stands, with every version of them.

    Raises:
        CollectRefused: there is no tombstone, or something is still listed afterwards.
    """
    await _require_tombstone(store, tenant, workspace)
    return await _remove_below(store, names.repository_prefix(tenant, workspace) + names.KEY_PREFIX)


async def remove_erased(store: ObjectStore, *, tenant: str, workspace: str) -> Erased:
    """Delete a workspace whose tombstone stands: every key slot first, proven gone, then everything else.

    Raises:
        CollectRefused: there is no tombstone, or something is still listed afterwards.
    """
    slots = await remove_erased_slots(store, tenant=tenant, workspace=workspace)
    rest = await _remove_below(store, names.repository_prefix(tenant, workspace))
    told = None if slots.versions is None or rest.versions is None else slots.versions + rest.versions
    return Erased(
        slots=slots.objects,
        objects=rest.objects,
        bytes=slots.bytes + rest.bytes,
        versions=told,
        locked=rest.locked,  # it looked below the slots, too
    )


async def _require_tombstone(store: ObjectStore, tenant: str, workspace: str) -> None:
    stone = names.tenant_prefix(tenant) + names.tombstone(workspace)
    if await store.head(stone) is None:
        raise CollectRefused(what="no tombstone allows it", object=stone)


async def _remove_below(store: ObjectStore, prefix: str) -> Erased:
    found = [info async for info in store.list(prefix)]
    for info in found:
        await store.delete(info.name)
    versions = await versions_below(store, prefix)
    locked = await _remove_each(store, versions or ())
    async for info in store.list(prefix):
        raise CollectRefused(what="still there after its delete", object=info.name)
    kept = {one.name for one in locked}
    left = await versions_below(store, prefix) if versions else ()
    if any(one.name not in kept for one in left or ()):
        raise CollectRefused(what="older versions are still there after their delete", object=prefix)
    count = None if versions is None else len(versions) - len(left or ())
    return Erased(
        slots=0,
        objects=len(found),
        bytes=sum(info.size for info in found),
        versions=count,
        locked=tuple(locked),
    )


async def _remove_each(store: ObjectStore, versions: Sequence[ObjectVersion]) -> list[LockedVersion]:
    """Remove versions, then the marks of deletion of what has none left; return what the store keeps.

    A mark goes last, and stays above a version that is kept: without it that version would count again.
    """
    locked: list[LockedVersion] = []
    for one in (one for one in versions if not one.is_mark):
        try:
            await delete_version(store, one)
        except ObjectLocked as exc:
            until_ms = exc.facts.get("until_ms")
            assert until_ms is None or isinstance(until_ms, int), "as the adapter says it"
            locked.append(LockedVersion(name=one.name, until_ms=until_ms))
    kept = {one.name for one in locked}
    for one in (one for one in versions if one.is_mark and one.name not in kept):
        await delete_version(store, one)
    return locked


async def remove_slot(store: ObjectStore, prefix: str, name: str, *, instead: str) -> None:
    """Delete a key slot whose secret lies in another slot as well: `instead` was made or read a moment ago.

    Raises:
        CollectRefused: `instead` is the slot itself, is of another secret, is not there, or opens by a
            recovery code only, which no running service has.
    """
    of, _, slot = name.rpartition("-")
    of_instead, _, slot_instead = instead.rpartition("-")
    if not name.startswith(names.KEY_PREFIX) or of != of_instead or slot == slot_instead:
        raise CollectRefused(what="no other slot of this secret", object=name)
    if slot_instead.startswith(METHOD_RECOVERY) and not slot.startswith(METHOD_RECOVERY):
        raise CollectRefused(what="what is left would open by the recovery code alone", object=name)
    if await store.head(prefix + instead) is None:
        raise CollectRefused(what="the other slot of this secret is gone", object=name)
    await _remove_versions(store, prefix + name)


async def remove_tenant_key(store: ObjectStore, tenant: str, tenant_key_id: bytes, *, instead: bytes) -> int:
    """Delete every slot of a tenant key that a rotation has replaced by `instead`; return how many.

    Raises:
        CollectRefused: the other key has no slot, or a workspace still has a slot under the older key and
        none under the other, as both are listed now.
    """
    prefix = names.tenant_prefix(tenant)
    old, new = f"-m{tenant_key_id.hex()}", f"-m{instead.hex()}"
    if tenant_key_id == instead or not [
        info async for info in store.list(f"{prefix}{names.KEY_PREFIX}{instead.hex()}-")
    ]:
        raise CollectRefused(what="no other tenant key", tenant=tenant)
    stones = await tombstones_under(store, tenant, tenant_key_id)
    if stones:
        raise CollectRefused(what="tombstones need this tenant key", tenant=tenant, tombstones=stones)
    there = {info.name async for info in store.list(f"{prefix}w/")}
    for name in there:
        if "/k/" in name and name.endswith(old) and name.removesuffix(old) + new not in there:
            raise CollectRefused(what="a workspace needs this tenant key", object=name)
    gone = [info.name async for info in store.list(f"{prefix}{names.KEY_PREFIX}{tenant_key_id.hex()}-")]
    for name in gone:
        await _remove_versions(store, name)
    return len(gone)


async def tombstones_under(store: ObjectStore, tenant: str, tenant_key_id: bytes) -> int:
    """Count tombstones that only this key opens: they say who erased what, and stay readable."""
    count = 0
    async for info in store.list(f"{names.tenant_prefix(tenant)}{names.TOMBSTONE_PREFIX}"):
        try:
            raw = await store.get(info.name, length=HEADER_BYTES)
        except ObjectNotFound as exc:
            raise CollectRefused(what="a tombstone is gone", object=info.name) from exc
        count += header_key_id(raw, info.name) == tenant_key_id
    return count


async def remove_damaged(
    store: ObjectStore, prefix: str, name: str, *, check: Callable[[bytes], None]
) -> None:
    """Delete a copy that is not what the log names, so that a whole one can take its place a moment later.

    Never a log entry, nor what opens a repository. `check` raises for a damaged object; a whole one stays.

    Raises:
        CollectRefused: it is whole, or of a kind that is never taken away.
    """
    replaceable = (names.PACK_PREFIX, names.HISTORY_PREFIX, names.SIDE_PREFIX, names.RECEIPT_PREFIX)
    if not name.startswith(replaceable):
        raise CollectRefused(what="such an object is never replaced", object=name)
    raw = await store.get(prefix + name)  # that it cannot be read says nothing about what lies there
    try:
        check(raw)
    except StorageError:
        await store.delete(prefix + name)
        return
    raise CollectRefused(what="nothing is wrong with it", object=name)


async def _remove_versions(store: ObjectStore, name: str) -> None:
    """Delete an object with every noncurrent version of it.

    Raises:
        ObjectLocked: it is gone for whoever reads the bucket, and a version of it is kept.
    """
    await store.delete(name)
    found = await versions_below(store, name)
    locked = await _remove_each(store, [one for one in found or () if one.name == name])
    if locked:
        raise ObjectLocked(
            name=name,
            until_ms=lock_ends_ms(locked),
            what="it is gone for every reader, and the bucket keeps a version of it",
            advice="ask again when the lock has ended",
        )


class Remover:
    """Deletes objects of one repository. `state` is always the log as it was read for this purpose."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def remove(self, state: LogState, name: str) -> None:
        """Delete an object that an R of `state` gave up.

        Raises:
            CollectRefused: no entry says that it may go.
        """
        if name.startswith(names.LOG_PREFIX) or not may_go(state, name):
            raise CollectRefused(what="no entry of the log gave it up", object=name)
        await self._store.delete(self._prefix + name)

    async def remove_from_replica(
        self, main: LogState, replica: LogState, name: str, *, on_main: Container[str]
    ) -> None:
        """Delete a copy whose original went by the rules. Entries go by `remove_folded`.

        Raises:
            CollectRefused: a log needs it, or the two do not end alike.
        """
        if name.startswith(names.LOG_PREFIX) or not may_leave_replica(main, replica, name, on_main=on_main):
            raise CollectRefused(what="no entry of both logs gave it up", object=name)
        await self._store.delete(self._prefix + name)

    async def remove_folded(self, state: LogState, seqs: Sequence[int]) -> None:
        """Delete entries that a fold of `state` has in its history, ascending."""
        for seq in sorted(seqs):
            name = names.log_entry(seq)
            if not may_go(state, name):
                raise CollectRefused(what="no fold has it", object=name)
            if seq > 1 and await self._there(names.log_entry(seq - 1)):
                raise CollectRefused(what="the entry before it is still there", object=name)
            await self._store.delete(self._prefix + name)
            if await self._there(name):
                raise CollectRefused(what="a deleted entry is still there", object=name)

    async def _there(self, name: str) -> bool:
        return await self._store.head(self._prefix + name) is not None

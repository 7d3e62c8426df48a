"""The single module of `storage` that may delete an object.

An object of a repository goes only if the commit log, as it was just read from the store, says so: packs, old
histories that no R names, forgotten side checkpoints and outdated index snapshots by an R that names them,
entries by a fold. Entries go in ascending order, each proven gone before the next: a sleeping writer's look
at its predecessor relies on it. What no log speaks of is erasure, which follows a tombstone. (The objects
that a probe of the store made a moment before are removed by the probe: tests/arch/allowances.py.)

Source: storage.md 4.4 rules 3, 5 and 6, 4.5 "Erasure".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.errors import CollectRefused
from storage.format import names
from storage.objects.store import ObjectStore
from storage.repository.state import LogState


def may_go(state: LogState, name: str) -> bool:
    """Return whether an entry of this log gave an object up. Asked only of a chain that was read itself."""
    if state.snapshot_at:
        raise CollectRefused(what="the log was read from an index snapshot", seq=state.snapshot_at)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How much an erasure deleted."""

    slots: int
    objects: int
    bytes: int


async def remove_erased(store: ObjectStore, *, tenant: str, workspace: str) -> Erased:
    """Delete a workspace whose tombstone stands: every key slot first, proven gone, then everything else.

    Raises:
        CollectRefused: there is no tombstone, or something is still listed afterwards.
    """
    stone = names.tenant_prefix(tenant) + names.tombstone(workspace)
    if await store.head(stone) is None:
        raise CollectRefused(what="no tombstone allows it", object=stone)
    prefix = names.repository_prefix(tenant, workspace)
    slots = await _remove_all(store, prefix + names.KEY_PREFIX)
    rest = await _remove_all(store, prefix)
    return Erased(slots=len(slots), objects=len(rest), bytes=sum(slots) + sum(rest))


async def _remove_all(store: ObjectStore, prefix: str) -> list[int]:
    sizes: list[int] = []
    for info in [info async for info in store.list(prefix)]:
        await store.delete(info.name)
        sizes.append(info.size)
    async for info in store.list(prefix):
        raise CollectRefused(what="still there after its delete", object=info.name)
    return sizes


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

"""What lies above a workspace on a second store: the tenant's key slots, and tombstones of erased workspaces.

Slots come before anything that they open. An erased workspace is erased on the second store in the same order
as on the first: the tombstone first, then its key slots, then everything else. Objects of a tenant's other
workspaces are not touched.

Source: storage.md 4.5 "Erasure"; docs/design/0011-second-target.md.
"""

import contextlib

from storage.errors import CollectRefused, ObjectNotFound, ReplicaDiverged
from storage.format import names
from storage.format.header import ObjectType
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.replica.copier import put_copy
from storage.replica.sealed import check_type
from storage.repository.prefixed import Prefixed
from storage.repository.removal import Erased, remove_erased, remove_slot, remove_tenant_key


async def copy_tenant_slots(main: ObjectStore, second: ObjectStore, tenant: str) -> int:
    """Copy the slots of a tenant's keys that the second store lacks; return how many."""
    here, there = (Prefixed(store, names.tenant_prefix(tenant)) for store in (main, second))
    known = {info.name async for info in there.list(names.KEY_PREFIX)}
    wanted = [info.name async for info in here.list(names.KEY_PREFIX)]
    copied = 0
    for name in (name for name in wanted if name not in known):
        names.tenant_slot_parts(name)
        raw = await here.get(name)
        check_type(name, raw, ObjectType.KEY_SLOT)
        await put_copy(there, name, raw)
        copied += 1
    for name in sorted(known - set(wanted)):
        await _follow_removal(second, there, tenant, name, wanted)
    return copied


async def _follow_removal(
    second: ObjectStore, there: Prefixed, tenant: str, name: str, wanted: list[str]
) -> None:
    """Remove a slot that the main store has no more, as far as the rules allow it on the second one now."""
    key_id, _ = names.tenant_slot_parts(name)
    ids = [names.tenant_slot_parts(one)[0] for one in wanted]
    if key_id in ids:
        with contextlib.suppress(CollectRefused):  # what is left would open by the recovery code alone
            await remove_slot(second, there.prefix, name, instead=wanted[ids.index(key_id)])
        return
    for other in sorted(set(ids)):
        # Refused while a workspace or a tombstone there needs it: the next comparison asks again.
        with contextlib.suppress(CollectRefused):
            await remove_tenant_key(second, tenant, key_id, instead=other)
            return


async def is_erased(store: ObjectStore, ref: WorkspaceRef) -> bool:
    """Return whether a tombstone stands."""
    return await store.head(names.tenant_prefix(ref.tenant) + names.tombstone(ref.workspace)) is not None


async def refuse_erased_copy(second: ObjectStore, ref: WorkspaceRef) -> None:
    """Stop where the second store says "erased" and the main one does not: a rolled back main store."""
    if await is_erased(second, ref):
        raise ReplicaDiverged(what="erased on the second store", workspace=ref.workspace)


async def erase_copy(main: ObjectStore, second: ObjectStore, ref: WorkspaceRef) -> Erased:
    """Erase a workspace on the second store, whose tombstone stands on the main one. May be repeated."""
    name = names.tombstone(ref.workspace)
    here, there = (Prefixed(store, names.tenant_prefix(ref.tenant)) for store in (main, second))
    await copy_tenant_slots(main, second, ref.tenant)
    if await there.head(name) is None:
        try:
            raw = await here.get(name)
        except ObjectNotFound as exc:
            raise ReplicaDiverged(what="no tombstone on the main store", workspace=ref.workspace) from exc
        check_type(name, raw, ObjectType.TOMBSTONE)
        await put_copy(there, name, raw)
    return await remove_erased(second, tenant=ref.tenant, workspace=ref.workspace)

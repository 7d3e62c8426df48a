"""Moving secrets from one wrapping to another: a new master key, a new tenant key, a recovery code, a KMS.

Nothing is sealed anew but slots of 200 bytes; data keys and data stay. For every secret, in this order: the
slots that are wanted are made, each is read back and opened, and only then the slots go that a known older
way made. What no known way made is left alone. A crash at any point leaves more slots, never fewer; the next
run goes on. A live node goes on through all of it: it has its secrets in memory, and one that opens meanwhile
reads the listing again (`slots.py`).

Source: storage.md 4.5; docs/design/0009-keys-and-erasure.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from storage.errors import KeyMissing, StorageError, StoreUnavailable
from storage.format import names
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.repository.prefixed import Prefixed
from storage.repository.removal import remove_slot, remove_tenant_key, tombstones_under
from storage.repository.slots import Keyring, OpenedSlot
from storage.repository.ways import (
    METHOD_ABOVE,
    METHOD_KMS,
    METHOD_RECOVERY,
    ByKey,
    Wrapper,
    tenant_makers,
    workspace_kms,
)

Step = Callable[[], None]
"""Told after each workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What one run did."""

    tenants: int = 0
    workspaces: int = 0
    made: int = 0
    removed: int = 0
    left: tuple[str, ...] = ()
    """What could not be moved, in words; run it again after looking into it."""

    def plus(self, other: "Rewrapped") -> "Rewrapped":
        """Return the sum of two runs."""
        return Rewrapped(
            tenants=self.tenants + other.tenants,
            workspaces=self.workspaces + other.workspaces,
            made=self.made + other.made,
            removed=self.removed + other.removed,
            left=self.left + other.left,
        )


class Rewrapper:
    """Re-wraps the slots of one store."""

    def __init__(self, store: ObjectStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring

    async def tenant(self, tenant: str) -> Rewrapped:
        """Bring the slots of a tenant's keys to the ways of now."""
        place = Prefixed(self._store, names.tenant_prefix(tenant))
        found = await self._keyring.tenant(tenant)
        makers = tenant_makers(self._keyring.ways)
        made = removed = 0
        for tenant_key_id, secret in found.opened.items():
            there = {slot for key, slot in found.slots if key == tenant_key_id}
            for way in makers:
                if way.slot not in there:
                    made += 1
                await self._keyring.wrap_tenant_key(place, secret, way)
            for slot in sorted(there - {way.slot for way in makers}):
                if self._is_outdated(slot):
                    old = names.tenant_slot(tenant_key_id, slot)
                    kept = names.tenant_slot(tenant_key_id, makers[0].slot)
                    await remove_slot(self._store, place.prefix, old, instead=kept)
                    removed += 1
        closed = {key for key, _ in found.slots} - set(found.opened)
        left = tuple(f"tenant {tenant}: nothing here opens key {key.hex()}" for key in sorted(closed))
        return Rewrapped(tenants=1, made=made, removed=removed, left=left)

    def _is_outdated(self, slot: str) -> bool:
        """Return whether a slot that no present way makes was made by a way that this process replaced."""
        ways = self._keyring.ways
        if slot[0] == METHOD_RECOVERY:
            return ways.public_half is not None  # of an older code: whoever finds that paper opens nothing
        return slot in {ByKey(secret).slot for secret in ways.previous}

    async def rotate_tenant(self, tenant: str, step: Step) -> Rewrapped:
        """Make a new tenant key, move every workspace to it, and remove older ones last."""
        before = set((await self._keyring.tenant(tenant)).opened)
        newest = await self._keyring.make_tenant_key(tenant)
        made = len(tenant_makers(self._keyring.ways))
        done = (await self.workspaces(tenant, step)).plus(Rewrapped(tenants=1, made=made))
        if done.left:
            return done
        # A workspace that was born meanwhile has a slot for the new key too, or is met by this second look.
        done = done.plus(await self._once_more(tenant))
        for tenant_key_id in sorted(before - {newest}):
            stones = await tombstones_under(self._store, tenant, tenant_key_id)
            if stones:
                kept = f"tenant {tenant}: key {tenant_key_id.hex()} stays for {stones} tombstones"
                done = done.plus(Rewrapped(left=(kept,)))
                continue
            gone = await remove_tenant_key(self._store, tenant, tenant_key_id, instead=newest)
            done = done.plus(Rewrapped(removed=gone))
        return done

    async def _once_more(self, tenant: str) -> Rewrapped:
        again = await self.workspaces(tenant, lambda: None)
        return Rewrapped(made=again.made, removed=again.removed, left=again.left)

    async def workspaces(self, tenant: str, step: Step) -> Rewrapped:
        """Bring the slots of a tenant's workspaces to its newest key, or to their keys in the KMS."""
        done = Rewrapped()
        for workspace in await self._workspaces_of(tenant):
            try:
                done = done.plus(await self._workspace(WorkspaceRef(tenant=tenant, workspace=workspace)))
            except StoreUnavailable:
                raise
            except StorageError as exc:
                done = done.plus(Rewrapped(left=(f"workspace {workspace}: {exc}",)))
            step()
        return done

    async def _workspaces_of(self, tenant: str) -> list[str]:
        prefix = f"{names.tenant_prefix(tenant)}w/"
        found: set[str] = set()
        async for info in self._store.list(prefix):
            workspace, _, rest = info.name.removeprefix(prefix).partition("/")
            if rest.startswith(names.KEY_PREFIX):
                found.add(workspace)
        return sorted(found)

    async def _workspace(self, ref: WorkspaceRef) -> Rewrapped:
        if await self._is_erased(ref):
            return Rewrapped()
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        _, opened, present = await self._keyring.opened_slots(ref)
        if not opened:
            raise KeyMissing(workspace=ref.workspace, what="no slot opens", slots=len(present))
        way = workspace_kms(self._keyring.ways, ref.workspace) or await self._newest(ref.tenant)
        made = removed = 0
        for one in opened:
            wanted = names.epoch_slot(one.key_epoch, way.slot)
            if wanted not in present:
                made += 1
                present.append(wanted)
            await self._keyring.wrap_secrets(place, one.secrets, way)
        for one in opened:
            if one.slot != way.slot and self._may_go(one, way):
                wanted = names.epoch_slot(one.key_epoch, way.slot)
                await remove_slot(self._store, place.prefix, one.name, instead=wanted)
                removed += 1
        return Rewrapped(workspaces=1, made=made, removed=removed)

    async def _newest(self, tenant: str) -> Wrapper:
        return ByKey(next(iter((await self._keyring.tenant_keys(tenant)).values())))

    def _may_go(self, one: OpenedSlot, way: Wrapper) -> bool:
        """A slot of an older tenant key goes, and one of the tenant's where the workspace has a KMS key."""
        return one.slot[0] == METHOD_ABOVE and way.slot[0] in (METHOD_ABOVE, METHOD_KMS)

    async def _is_erased(self, ref: WorkspaceRef) -> bool:
        place = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        return await place.head(names.tombstone(ref.workspace)) is not None

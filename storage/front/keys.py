"""Keys of tenants and workspaces: looked at, rotated, re-wrapped; and the erasure that destroys them.

The ways in themselves (master key, recovery code, KMS) are given from outside and never leave this process.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias, TypeVar

from storage.errors import (
    IdRefused,
    StorageError,
    StoreUnavailable,
)
from storage.format import names
from storage.front.opened import Opened
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.ops.erasure import Erasure, ErasureReport, Second, Tombstone
from storage.ops.values import KeyReport, Progress, TenantLook
from storage.replica.second import SecondStore
from storage.replica.tenants import erase_copy
from storage.repository.key_use import EpochUse, epochs_in_use
from storage.repository.removal import LockedVersion
from storage.repository.rewrap import Rewrapped, Rewrapper
from storage.repository.ways import METHOD_RECOVERY, ByKey, ByRecovery

T = TypeVar("T")
Rows: TypeAlias = list[T]
"""A list; `Storage` has a method of that name."""
Told: TypeAlias = Callable[[Progress], None]


class Keys(Opened):
    """What is asked about keys."""

    async def rotate_keys(self, ref: WorkspaceRef, *, leaked: bool = False) -> int:
        """Begin a new key epoch for new objects; return its number. Older ones stay readable.

        With `leaked` the log says that no writer may use an older epoch any more. What was written before is
        not protected by it, until a repack has moved it (`key_use`).
        """
        await self._known.required(ref)
        epoch = await self._keyring.rotate(ref)
        self._known.drop(ref)
        if leaked:
            await (await self._upkeep(ref)).require_key_epoch(epoch)
        return epoch

    async def key_use(self, ref: WorkspaceRef) -> Rows[EpochUse]:
        """Return which live packs and entries lie under which key epoch, the oldest first."""
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        return await epochs_in_use(workspace.place, workspace.keys, state)

    async def min_key_epoch(self, ref: WorkspaceRef) -> int:
        """Return the oldest key epoch that writers may use, as the log says."""
        return (await self._refreshed(await self._known.required(ref))).version.min_key_epoch

    async def refresh_ways(self) -> str:
        """Read the ways in again; return the public name of the master key."""
        await self._keyring.refresh()
        return self._keyring.master_key_id

    async def rewrap(self, tenant: str | None = None, *, progress: Told | None = None) -> Rewrapped:
        """Bring every slot of the store, or of one tenant, to the ways in of now: a new master key, recovery
        code or KMS.
        """
        await self._keyring.refresh()
        refs = [ref for ref in await self.workspaces() if tenant in (None, ref.tenant)]
        tenants = [one for one in await self._tenants(refs) if tenant in (None, one)]
        rewrapper = Rewrapper(self._store, self._keyring)
        step = _Steps(progress, "rewrap", len(tenants) + len(refs))
        done = Rewrapped()
        for one in tenants:
            try:
                done = done.plus(await rewrapper.tenant(one))
            except StoreUnavailable:
                raise
            except StorageError as exc:
                done = done.plus(Rewrapped(left=(f"tenant {one}: {exc}",)))
                continue
            step()
            done = done.plus(await rewrapper.workspaces(one, step))
        return done

    async def rotate_tenant(self, tenant: str, *, progress: Told | None = None) -> Rewrapped:
        """Make a new tenant key, move its workspaces to it, and remove older ones last."""
        count = sum(ref.tenant == tenant for ref in await self.workspaces())
        rewrapper = Rewrapper(self._store, self._keyring)
        return await rewrapper.rotate_tenant(tenant, _Steps(progress, "rotate", count))

    async def erase(self, ref: WorkspaceRef, *, actor: str, reason: str, processes: int = 0) -> ErasureReport:
        """Erase a workspace for ever: tombstone, keys, objects. Repeating it finishes what was begun.

        Args:
            processes: how many others have confirmed `drop`, for the receipt.

        Returns:
            What was done, and what is left: a second store that does not answer now (`second`), versions that
            a bucket keeps locked (`locked`). Nothing is promised of these.
        """
        elsewhere = None if self._second is None else partial(self._erased_on_second, self._second, ref)
        # First the keys, and writers of this process are waited for: what they place falls with the rest.
        await self.destroy_keys(ref, actor=actor, reason=reason)
        report = await self._erasure().run(
            ref, actor=actor, reason=reason, processes=processes, elsewhere=elsewhere
        )
        await self._known.erase(ref)
        return report

    async def _erased_on_second(
        self, second: SecondStore, ref: WorkspaceRef
    ) -> tuple[Second, tuple[LockedVersion, ...]]:
        """Erase the copy; one that cannot be erased now is erased by the next run of the replication."""
        async with self._replicating.setdefault(ref, asyncio.Lock()):
            self._copiers.pop(ref, None)
            try:
                gone = await erase_copy(self._store, await second.for_writing(), ref)
            except StorageError:
                return "waits", ()
        return "erased", gone.locked

    async def destroy_keys(self, ref: WorkspaceRef, *, actor: str, reason: str) -> None:
        """Do the first half of an erasure: tombstone and keys. Other processes `drop` it next."""
        erasure = self._erasure()
        await erasure.bury(ref, actor=actor, reason=reason)
        self._known.refuse_writers(ref)
        await erasure.destroy_keys(ref, actor=actor, reason=reason)
        await self._known.erase(ref)

    async def drop(self, ref: WorkspaceRef) -> None:
        """Forget everything about a workspace, its keys included; who asks for it next reads the store."""
        await self._known.erase(ref)

    async def tombstone(self, ref: WorkspaceRef) -> Tombstone | None:
        """Return who erased a workspace, when and why; None if it was not erased."""
        return await self._erasure().tombstone(ref)

    async def sweep_erased(self) -> Rows[WorkspaceRef]:
        """Delete what a backup or a late writer brought back of erased workspaces; return whose it was."""
        back = await self._erasure().sweep()
        for ref in back:
            await self._known.erase(ref)
        return back

    def _erasure(self) -> Erasure:
        return Erasure(self._store, self._keyring, self._signer, fresh=self._fresh, clock_ms=self._clock_ms)

    @property
    def master_key(self) -> bytes:
        """Return the master key that new slots are made for. Never logged, never sent."""
        return self._keyring.ways.master

    @property
    def master_key_id(self) -> str:
        """Return the public name of the master key."""
        return self._keyring.master_key_id

    async def key_epoch(self, ref: WorkspaceRef) -> int:
        """Return the newest key epoch that this master key opens."""
        return (await self._known.required(ref)).keys.key_epoch

    async def key_check(self) -> KeyReport:
        """Look which tenants' keys open, by what they are wrapped, and whether each workspace opens."""
        refs = await self.workspaces()
        opened: list[str] = []
        refused: list[str] = []
        looks: list[TenantLook] = []
        for tenant in await self._tenants(refs):
            try:
                looks.append(await self._look(tenant))
                opened.append(tenant)
            except StoreUnavailable:
                raise
            except StorageError:
                refused.append(tenant)
        return KeyReport(
            master_key_id=self._keyring.master_key_id,
            opened=tuple(opened),
            refused=tuple(refused),
            workspaces=tuple(refs),
            tenants=tuple(looks),
        )

    async def _look(self, tenant: str) -> TenantLook:
        found = await self._keyring.tenant(tenant)
        ways = self._keyring.ways
        old = {ByKey(secret).slot for secret in ways.previous}
        ours = None if ways.public_half is None else ByRecovery(ways.public_half).slot
        keys = {key for key, _ in found.slots}
        under = {slot: {key for key, one in found.slots if one == slot} for _, slot in found.slots}
        return TenantLook(
            tenant=tenant,
            keys=len(keys),
            opened=len(found.opened),
            under_master=len(under.get(ByKey(ways.master).slot, ())),
            under_previous=len({key for slot in old for key in under.get(slot, ())}),
            under_recovery=len(under.get(ours, ())) if ours else 0,
            under_other_codes=len(
                {key for key, slot in found.slots if slot[0] == METHOD_RECOVERY and slot != ours}
            ),
        )

    async def _tenants(self, refs: Iterable[WorkspaceRef]) -> Rows[str]:
        """Return every tenant that has a workspace or a key."""
        found = {ref.tenant for ref in refs}
        async for info in self._store.list("t/"):
            parts = info.name.split("/")
            if len(parts) == 4 and f"{parts[2]}/" == names.KEY_PREFIX:
                found.add(parts[1])
        return sorted(found)

    async def workspaces(self) -> Rows[WorkspaceRef]:
        """Return every workspace that has a repository."""
        return await _list_workspaces(self._store)


class _Steps:
    """Counts and tells."""

    def __init__(self, progress: Told | None, stage: str, total: int) -> None:
        self._progress = progress
        self._stage = stage
        self._total = total
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            done = min(self._done, self._total)
            self._progress(Progress(stage=self._stage, done=done, total=self._total, unit="slots"))


async def _list_workspaces(store: ObjectStore) -> list[WorkspaceRef]:
    found: list[WorkspaceRef] = []
    async for info in store.list("t/"):
        parts = info.name.split("/")
        if len(parts) == 5 and parts[2] == "w" and parts[4] == names.CONFIG:
            try:
                found.append(WorkspaceRef(tenant=parts[1], workspace=parts[3]))
            except IdRefused:
                continue  # not a name that we can have made
    return found

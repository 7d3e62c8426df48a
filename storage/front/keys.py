"""Keys of tenants and workspaces, and the erasure that destroys them.

The master key itself never leaves this process.
"""

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
from storage.ops.erasure import Erasure, ErasureReport
from storage.ops.values import KeyReport

T = TypeVar("T")
Rows: TypeAlias = list[T]
"""A list; `Storage` has a method of that name."""


class Keys(Opened):
    """What is asked about keys."""

    async def rotate_keys(self, ref: WorkspaceRef, *, leaked: bool = False) -> int:
        """Begin a new key epoch for new objects; return its number. Older ones stay readable.

        With `leaked` the log says that no writer may use an older epoch any more. What was written before is
        not protected by it.
        """
        await self._known.required(ref)
        epoch = await self._keyring.rotate(ref)
        self._known.drop(ref)
        if leaked:
            await (await self._upkeep(ref)).require_key_epoch(epoch)
        return epoch

    async def erase(self, ref: WorkspaceRef, *, actor: str, reason: str) -> ErasureReport:
        """Erase a workspace for ever: tombstone, keys, objects. Repeating it finishes what was begun."""
        erasure = Erasure(
            self._store, self._keyring, self._signer, fresh=self._fresh, clock_ms=self._clock_ms
        )
        report = await erasure.run(ref, actor=actor, reason=reason)
        await self._known.erase(ref)
        return report

    @property
    def master_key_id(self) -> str:
        """Return the public name of the master key."""
        return self._keyring.master_key_id

    async def key_epoch(self, ref: WorkspaceRef) -> int:
        """Return the newest key epoch that this master key opens."""
        return (await self._known.required(ref)).keys.key_epoch

    async def key_check(self) -> KeyReport:
        """Look which tenants' keys the master key opens."""
        refs = await self.workspaces()
        opened: list[str] = []
        refused: list[str] = []
        for tenant in sorted({ref.tenant for ref in refs}):
            try:
                await self._keyring.check(tenant)
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
        )

    async def workspaces(self) -> Rows[WorkspaceRef]:
        """Return every workspace that has a repository."""
        return await _list_workspaces(self._store)


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

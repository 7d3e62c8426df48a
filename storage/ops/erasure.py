"""Erasure of one workspace: a tombstone first, then its keys, then its objects; with a signed receipt.

From the tombstone on nobody opens the workspace any more, and it is never "no checkpoint". From the last slot
on nobody can read what lies there: noncurrent versions of slots go with them where the store has any and
tells. A repeat goes on where a crash ended it. Between keys and objects the caller lets every process forget
what it remembers (`destroy_keys`, then all of them `drop`, then `run`). What a backup of the bucket brought
back is swept: the tombstone is there, so its slots go again. Copies that this store does not know of (backups
kept elsewhere) are not reached from here: a KMS key per workspace reaches them.

Source: storage.md 4.5 "Erasure"; docs/design/0009-keys-and-erasure.md.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from storage.errors import IdRefused, KeyMissing, Malformed
from storage.format import names
from storage.format.encoding import Body, decode, encode
from storage.format.envelope import make_object, open_head
from storage.format.header import ObjectType, header_key_id, make_header
from storage.format.keys import NO_REPOSITORY, EpochKeys
from storage.format.secrets import ReceiptSigner
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.objects.versions import versions_below
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.removal import LockedVersion, lock_ends_ms, remove_erased, remove_erased_slots
from storage.repository.settle import settle_create
from storage.repository.slots import Keyring


class Tombstone(Body, frozen=True):
    """What lies at `e/<workspace>`, under the tenant key."""

    workspace: str
    actor: str
    at_ms: int
    reason: str
    slots: list[str]
    """Names of the key slots that were there."""


class _ErasureBody(Body, frozen=True):
    tenant: str
    tombstone: Tombstone
    slots: int
    objects: int
    bytes: int
    versions: int | None = None
    processes: int = 0
    second: str = ""
    locked: list[tuple[str, int | None]] = msgspec.field(default_factory=list)
    locked_count: int = 0


_decoder: Final = msgspec.msgpack.Decoder(Tombstone)
LOCKED_TOLD_MAX: Final = 1_000
"""Names of kept versions in one receipt; more are counted."""
Second = Literal["", "erased", "waits"]
"""Of the second store: there is none; nothing is left there; it will be erased there when it answers."""
Elsewhere = Callable[[], Awaitable[tuple[Second, tuple[LockedVersion, ...]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReport:
    """What was erased; `receipt` is signed as receipts of sessions are."""

    actor: str
    at_ms: int
    slots: int
    objects: int
    size: int
    """Bytes of objects that were deleted."""
    versions: int | None
    """Noncurrent versions that went with them; None: the store cannot say whether it keeps any."""
    receipt: bytes
    second: Second = ""
    locked: tuple[LockedVersion, ...] = ()
    """Versions that a bucket with object lock keeps, here or in the second store, until their time."""

    @property
    def finished(self) -> bool:
        """Return whether nothing is left that this service knows of."""
        return self.second != "waits" and not self.locked

    @property
    def locked_slots(self) -> int:
        """Return how many of the kept versions are key slots: until they go, who has the bucket and the key
        above them reads what lies there.
        """
        return sum(f"/{names.KEY_PREFIX}" in one.name for one in self.locked)

    @property
    def locked_until_ms(self) -> int | None:
        """Return when the last lock ends; None if there is none, or one of them is a hold."""
        return lock_ends_ms(self.locked)


class Erasure:
    """Erases workspaces of one store."""

    def __init__(
        self,
        store: ObjectStore,
        keyring: Keyring,
        signer: ReceiptSigner,
        *,
        fresh: Fresh,
        clock_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._signer = signer
        self._fresh = fresh
        self._clock_ms = clock_ms

    async def destroy_keys(self, ref: WorkspaceRef, *, actor: str, reason: str) -> None:
        """Place the tombstone and delete every key slot: from now on nobody who does not know K reads it."""
        await self.bury(ref, actor=actor, reason=reason)
        await remove_erased_slots(self._store, tenant=ref.tenant, workspace=ref.workspace)

    async def run(
        self,
        ref: WorkspaceRef,
        *,
        actor: str,
        reason: str,
        processes: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> ErasureReport:
        """Erase a workspace, or finish an erasure that was begun: then who, when and why are those of its
        tombstone. The receipt says what is true when it is signed: what is left, and where, is in it.

        Args:
            processes: how many have confirmed that they forgot the keys; for the receipt.
            elsewhere: erases the copy on the second store, once the tombstone stands; None: there is none.
        """
        stone = await self.bury(ref, actor=actor, reason=reason)
        second, there = ("", ()) if elsewhere is None else await elsewhere()
        gone = await remove_erased(self._store, tenant=ref.tenant, workspace=ref.workspace)
        slots = max(gone.slots, len(stone.slots))
        locked = (*gone.locked, *there)
        told = [(one.name, one.until_ms) for one in locked[:LOCKED_TOLD_MAX]]
        body = encode(
            _ErasureBody(
                ref.tenant,
                stone,
                slots,
                gone.objects,
                gone.bytes,
                gone.versions,
                processes,
                second,
                told,
                len(locked),
            )
        )
        return ErasureReport(
            actor=stone.actor,
            at_ms=stone.at_ms,
            slots=slots,
            objects=gone.objects,
            size=gone.bytes,
            versions=gone.versions,
            receipt=self._signer.sign(body),
            second=second,
            locked=locked,
        )

    async def sweep(self) -> list[WorkspaceRef]:
        """Delete what came back of erased workspaces, keys first, and return whose it was. What was locked
        when they were erased goes as well.
        """
        erased: set[WorkspaceRef] = set()
        there: set[WorkspaceRef] = set()
        async for info in self._store.list("t/"):
            parts = info.name.split("/")
            try:
                if len(parts) == 4 and parts[2] == "e":
                    erased.add(WorkspaceRef(tenant=parts[1], workspace=parts[3]))
                elif len(parts) >= 5 and parts[2] == "w":
                    there.add(WorkspaceRef(tenant=parts[1], workspace=parts[3]))
            except IdRefused:
                continue  # not a name that we can have made
        for ref in erased - there:
            if await versions_below(self._store, names.repository_prefix(ref.tenant, ref.workspace)):
                # What a lock kept: it may have ended.
                await remove_erased(self._store, tenant=ref.tenant, workspace=ref.workspace)
        back = sorted(erased & there, key=lambda ref: (ref.tenant, ref.workspace))
        for ref in back:
            await remove_erased(self._store, tenant=ref.tenant, workspace=ref.workspace)
        return back

    async def tombstone(self, ref: WorkspaceRef) -> Tombstone | None:
        """Return who erased a workspace, when and why; None if it was not erased."""
        tenant = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        if await tenant.head(names.tombstone(ref.workspace)) is None:
            return None
        return await self._read(ref, tenant)

    async def bury(self, ref: WorkspaceRef, *, actor: str, reason: str) -> Tombstone:
        """Place the tombstone and read it back."""
        tenant = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        name = names.tombstone(ref.workspace)
        if await tenant.head(name) is None:
            if not await self._keyring.tenant_keys(ref.tenant):
                await self._keyring.make_tenant_key(ref.tenant)  # nothing was saved yet, and nothing will be
            wrapping = await self._wrapping(ref.tenant)
            slots = [info.name async for info in place.list(names.KEY_PREFIX)]
            stone = Tombstone(ref.workspace, actor, self._clock_ms(), reason, slots)
            keys = next(iter(wrapping.values()))
            header = make_header(keys, ObjectType.TOMBSTONE, name, self._fresh(32))
            raw = make_object(
                keys, header, kind=0, body=encode(stone), boxes=(), fresh=self._fresh(32), compress=False
            )
            await settle_create(tenant, name, raw)
        return await self._read(ref, tenant)

    async def _wrapping(self, tenant: str) -> dict[bytes, EpochKeys]:
        """Return the keys of tombstones by key id, the tenant's newest first."""
        tenant_keys = await self._keyring.tenant_keys(tenant)
        return {key: EpochKeys.wrapping(NO_REPOSITORY, secret) for key, secret in tenant_keys.items()}

    async def _read(self, ref: WorkspaceRef, tenant: Prefixed) -> Tombstone:
        name = names.tombstone(ref.workspace)
        raw = await tenant.get(name)
        keys = (await self._wrapping(ref.tenant)).get(header_key_id(raw, name))
        if keys is None:
            raise KeyMissing(object=name, key_id=header_key_id(raw, name).hex())
        opened = open_head(keys, ObjectType.TOMBSTONE, name, raw)
        found = decode(_decoder, opened.body, what="tombstone")
        if found.workspace != ref.workspace or opened.area_start != len(raw):
            raise Malformed(rule="tombstone of another workspace", object=name)
        return found

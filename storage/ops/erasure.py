"""Erasure of one workspace: a tombstone first, then its keys, then its objects; with a signed receipt.

From the tombstone on nobody opens the workspace any more, and it is never "no checkpoint". From the last slot
on nobody can read what lies there. A repeat goes on where a crash ended it. Copies elsewhere (noncurrent
versions, replicas, backups of the bucket with their slots) are not reached from here: see the design note.

Source: storage.md 4.5 "Erasure".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from storage.errors import Malformed
from storage.format import names
from storage.format.encoding import Body, decode, encode
from storage.format.envelope import make_object, open_head
from storage.format.header import ObjectType, header_key_id, make_header
from storage.format.keys import NO_REPOSITORY, EpochKeys, key_id
from storage.format.secrets import ReceiptSigner
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.removal import remove_erased
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


_decoder: Final = msgspec.msgpack.Decoder(Tombstone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReport:
    """What was erased; `receipt` is signed as receipts of sessions are."""

    actor: str
    at_ms: int
    slots: int
    objects: int
    size: int
    """Bytes of objects that were deleted."""
    receipt: bytes


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

    async def run(self, ref: WorkspaceRef, *, actor: str, reason: str) -> ErasureReport:
        """Erase a workspace, or finish an erasure that was begun: then who, when and why are those of its
        tombstone.
        """
        stone = await self._bury(ref, actor=actor, reason=reason)
        gone = await remove_erased(self._store, tenant=ref.tenant, workspace=ref.workspace)
        body = encode(_ErasureBody(ref.tenant, stone, gone.slots, gone.objects, gone.bytes))
        return ErasureReport(
            actor=stone.actor,
            at_ms=stone.at_ms,
            slots=gone.slots,
            objects=gone.objects,
            size=gone.bytes,
            receipt=self._signer.sign(body),
        )

    async def _bury(self, ref: WorkspaceRef, *, actor: str, reason: str) -> Tombstone:
        """Place the tombstone and read it back."""
        tenant = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        tenant_keys = await self._keyring.tenant_keys(ref.tenant)
        wrapping = {
            key_id(secret): EpochKeys.wrapping(NO_REPOSITORY, secret) for secret in tenant_keys.values()
        }
        name = names.tombstone(ref.workspace)
        if await tenant.head(name) is None:
            slots = [info.name async for info in place.list(names.KEY_PREFIX)]
            stone = Tombstone(ref.workspace, actor, self._clock_ms(), reason, slots)
            keys = wrapping[min(wrapping)]
            header = make_header(keys, ObjectType.TOMBSTONE, name, self._fresh(32))
            raw = make_object(
                keys, header, kind=0, body=encode(stone), boxes=(), fresh=self._fresh(32), compress=False
            )
            await settle_create(tenant, name, raw)
        raw = await tenant.get(name)
        opened = open_head(wrapping[header_key_id(raw, name)], ObjectType.TOMBSTONE, name, raw)
        found = decode(_decoder, opened.body, what="tombstone")
        if found.workspace != ref.workspace or opened.area_start != len(raw):
            raise Malformed(rule="tombstone of another workspace", object=name)
        return found

"""Looks through the key slots of a workspace and its tenant: which of them do not open as they should?

A repository opens while one slot of each secret does, and a process that has opened it reads none again. So
a slot may be damaged for months, until the day on which it is the last one. This look reads every slot anew
and opens each by itself, by whatever way in this process has. What only a recovery code opens is looked at
by whoever has the code: nobody else can tell its bytes from others.

Source: storage.md 4.5.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from storage.errors import (
    FormatError,
    KeyMissing,
    KeyServiceFailed,
    Malformed,
    ObjectNotFound,
    RepositoryError,
)
from storage.format import names
from storage.format.header import ObjectType, header_key_id
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.repository.prefixed import Prefixed
from storage.repository.slots import Keyring, RepositoryKeys
from storage.repository.ways import METHOD_KMS, ByKey, Wrapper, tenant_openers, workspace_kms

TYPE_AT: Final = 5
"""Of the type in a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFault:
    """A slot that does not open, or a key without any."""

    name: str
    error: FormatError | RepositoryError


class SlotLook:
    """One look at the slots of one workspace and of its tenant."""

    def __init__(self, store: ObjectStore, keyring: Keyring, ref: WorkspaceRef) -> None:
        self._store = store
        self._keyring = keyring
        self._ref = ref

    async def faults(self, keys: RepositoryKeys, *, ask_kms: bool) -> list[SlotFault]:
        """Return what is wrong.

        Args:
            keys: those that this process works with; each must have a slot still.
            ask_kms: open slots of a KMS, too, at one call to it for each.
        """
        found: list[SlotFault] = []
        secrets: list[bytes] = []
        async for name, outcome in self._tenant(ask_kms=ask_kms):
            if isinstance(outcome, bytes):
                secrets.append(outcome)
            else:
                found.append(SlotFault(name=f"the tenant's {name}", error=outcome))
        ways: list[Wrapper] = [ByKey(secret) for secret in secrets]
        kms = workspace_kms(self._keyring.ways, self._ref.workspace)
        if kms is not None and ask_kms:
            ways.append(kms)
        return found + await self._workspace(keys, {way.slot: way for way in ways})

    async def _tenant(
        self, *, ask_kms: bool
    ) -> AsyncIterator[tuple[str, bytes | FormatError | RepositoryError]]:
        place = Prefixed(self._store, names.tenant_prefix(self._ref.tenant))
        ways = {way.slot: way for way in tenant_openers(self._keyring.ways)}
        async for info in place.list(names.KEY_PREFIX):
            try:
                key_id, slot = names.tenant_slot_parts(info.name)
                way = ways.get(slot)
                if way is None:
                    await _looks_like_one(place, info.name)
                elif ask_kms or not slot.startswith(METHOD_KMS):
                    secret = await self._keyring.open_tenant_slot(place, way, key_id, self._ref.tenant)
                    yield info.name, secret.tenant_key
            except ObjectNotFound:
                continue  # re-wrapped since it was listed
            except (FormatError, KeyMissing, KeyServiceFailed) as exc:
                yield info.name, exc

    async def _workspace(self, keys: RepositoryKeys, ways: dict[str, Wrapper]) -> list[SlotFault]:
        place = Prefixed(self._store, names.repository_prefix(self._ref.tenant, self._ref.workspace))
        found: list[SlotFault] = []
        epochs: set[int] = set()
        async for info in place.list(names.KEY_PREFIX):
            try:
                epoch, slot = names.epoch_slot_parts(info.name)
                epochs.add(epoch)
                way = ways.get(slot)
                if way is None:
                    await _looks_like_one(place, info.name)
                else:
                    await self._keyring.epoch_secrets(
                        place, info.name, way, keys.repository_id, self._ref, epoch
                    )
            except ObjectNotFound:
                continue
            except (FormatError, KeyMissing, KeyServiceFailed) as exc:
                found.append(SlotFault(name=info.name, error=exc))
        for epoch in sorted(set(keys.numbers.values()) - epochs):
            missing = KeyMissing(what="every slot of this key epoch is gone", key_epoch=epoch)
            found.append(SlotFault(name=f"{names.KEY_PREFIX}{epoch}", error=missing))
        return found


async def _looks_like_one(place: Prefixed, name: str) -> None:
    """Check what can be seen without its key: that it is a slot at all, and not cut in its header."""
    raw = await place.get(name)
    header_key_id(raw, name)
    if raw[TYPE_AT] != ObjectType.KEY_SLOT:
        raise Malformed(rule="object type", object=name, found=raw[TYPE_AT])

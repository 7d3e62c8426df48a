"""Keys on the store: tenant keys below the master key, epoch keys below a tenant key, and the birth of both.

Racing nodes must end with the same keys. For a repository: config first (create-only, one winner, whose hint
names the first slot), then that slot (create-only; on 412 the winner's is opened), then E. For a tenant: a
slot with a random key, then the listing is read again and the first name counts; another key that lost the
race stays openable and does no harm. Secrets live in memory only.

Not here: recovery slots, KMS and erasure. Their names are known; slots that cannot be opened are
left alone.

Source: storage.md 4.5; docs/design/0001-format-version-1.md "Birth".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from storage.errors import (
    ChainBroken,
    FormatError,
    KeyMissing,
    Malformed,
    ObjectDamaged,
    RepositoryMissing,
    WorkspaceErased,
)
from storage.format import config as config_format
from storage.format import names
from storage.format.encoding import encode
from storage.format.envelope import make_object, open_head
from storage.format.header import ObjectType, header_key_id, make_header
from storage.format.keys import NO_REPOSITORY, EpochKeys, key_id
from storage.format.secrets import (
    SECRET_BYTES,
    EpochSecrets,
    TenantSecret,
    decode_epoch_secrets,
    decode_tenant_secret,
)
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create

METHOD_ABOVE: Final = "m"
"""Wrapped by the key above: the master key for a tenant key, the tenant key for an epoch key."""
FIRST_EPOCH: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryKeys:
    """What is needed to read and write one repository."""

    repository_id: bytes
    config_hash: bytes
    epochs: dict[bytes, EpochKeys] = field(repr=False)
    """By key id, as headers name them."""
    newest: EpochKeys
    key_epoch: int

    def of_header(self, raw: bytes, name: str) -> EpochKeys:
        """Return the keys that an object's header names: exactly these are tried."""
        named = header_key_id(raw, name)
        keys = self.epochs.get(named)
        if keys is None:
            raise KeyMissing(object=name, key_id=named.hex())
        return keys


class Keyring:
    """Opens and makes keys. One per service process; it holds the master key and opened tenant keys."""

    def __init__(self, store: ObjectStore, master_key: bytes, fresh: Callable[[int], bytes]) -> None:
        if len(master_key) != SECRET_BYTES:
            raise Malformed(rule="the master key has 32 bytes")
        self._store = store
        self._fresh = fresh
        self._wrapping = EpochKeys.wrapping(NO_REPOSITORY, master_key)
        self._tenants: dict[str, dict[bytes, bytes]] = {}

    @property
    def master_key_id(self) -> str:
        """Return the public name of the master key, for people who look for the right one."""
        return self._wrapping.key_id.hex()

    async def tenant_keys(self, tenant: str) -> dict[bytes, bytes]:
        """Return every tenant key that the master key opens, by key id, ascending.

        Raises:
            KeyMissing: there are slots, and none of them is for this master key.
        """
        place = Prefixed(self._store, names.tenant_prefix(tenant))
        found: dict[bytes, bytes] = {}
        others = 0
        async for info in place.list(names.KEY_PREFIX):
            tenant_key_id, slot = names.tenant_slot_parts(info.name)
            if slot != names.slot_id(METHOD_ABOVE, self._wrapping.key_id):
                others += 1
                continue
            raw = await place.get(info.name)
            body = _opened_body(self._wrapping, info.name, raw)
            secret = decode_tenant_secret(body, tenant=tenant)
            if key_id(secret) != tenant_key_id:
                raise Malformed(rule="tenant key id", object=info.name)
            found[tenant_key_id] = secret
        if others and not found:
            raise KeyMissing(tenant=tenant, master_key_id=self.master_key_id, slots=others)
        self._tenants[tenant] = found
        return found

    async def open(self, ref: WorkspaceRef) -> RepositoryKeys | None:
        """Return the keys of a repository, or None if it was never born.

        Raises:
            WorkspaceErased, KeyMissing: it existed, and cannot be opened.
            ChainBroken: parts of it exist without its config.
        """
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        await self._refuse_erased(ref)
        raw = await place.find(names.CONFIG)
        if raw is None:
            async for info in place.list():
                raise ChainBroken(what="config is missing", workspace=ref.workspace, found=info.name)
            return None
        config = config_format.decode_config(raw)
        slots = [info.name async for info in place.list(names.KEY_PREFIX)]
        if not slots:
            if await place.head(names.log_entry(1)) is not None:
                raise KeyMissing(workspace=ref.workspace, what="every slot is gone")
            return None
        tenant_keys = await self.tenant_keys(ref.tenant)
        epochs: dict[int, EpochKeys] = {}
        for name in slots:
            epoch, slot = names.epoch_slot_parts(name)
            wrapper = tenant_keys.get(bytes.fromhex(slot[1:])) if slot[0] == METHOD_ABOVE else None
            if wrapper is not None:
                epochs[epoch] = await self._open_slot(place, name, wrapper, config.repository_id, ref, epoch)
        if not epochs:
            raise KeyMissing(workspace=ref.workspace, what="no slot for the tenant's keys", slots=len(slots))
        newest = max(epochs)
        return RepositoryKeys(
            repository_id=config.repository_id,
            config_hash=config_format.config_hash(raw),
            epochs={keys.key_id: keys for keys in epochs.values()},
            newest=epochs[newest],
            key_epoch=newest,
        )

    async def bear(self, ref: WorkspaceRef, *, created_ms: int) -> RepositoryKeys:
        """Make config and first slot, or finish what another node or an earlier try began."""
        opened = await self.open(ref)
        if opened is not None:
            return opened
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        tenant_key_id = await self._writing_tenant_key(ref.tenant)
        hint = f"{FIRST_EPOCH}-{names.slot_id(METHOD_ABOVE, tenant_key_id)}"
        raw = config_format.encode_config(
            repository_id=self._fresh(16), created_ms=created_ms, first_slot=hint
        )
        if not await settle_create(place, names.CONFIG, raw):
            raw = await place.get(names.CONFIG)
        config = config_format.decode_config(raw)
        slot_name = f"{names.KEY_PREFIX}{config.hints[0] if config.hints else hint}"
        epoch, slot = names.epoch_slot_parts(slot_name)
        tenant_key_id = bytes.fromhex(slot[1:])
        wrapper = (await self.tenant_keys(ref.tenant)).get(tenant_key_id)
        if wrapper is None or epoch != FIRST_EPOCH or slot[0] != METHOD_ABOVE:
            raise KeyMissing(workspace=ref.workspace, what="the first slot is for another key", slot=slot)
        await self._make_slot(place, slot_name, wrapper, config.repository_id, ref, epoch)
        opened = await self.open(ref)
        if opened is None:
            raise RepositoryMissing(workspace=ref.workspace, what="gone while it was made")
        return opened

    async def rotate(self, ref: WorkspaceRef) -> int:
        """Begin a new key epoch: its slot is made, with a new epoch key and the same id secret, so that
        deduplication goes on. Return its number. Racing callers end with one.
        """
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        await self._refuse_erased(ref)
        config = config_format.decode_config(await place.get(names.CONFIG))
        tenant_keys = await self.tenant_keys(ref.tenant)
        slots = [names.epoch_slot_parts(info.name) async for info in place.list(names.KEY_PREFIX)]
        ours = [(epoch, slot) for epoch, slot in slots if slot[0] == METHOD_ABOVE]
        ours = [(epoch, slot) for epoch, slot in ours if bytes.fromhex(slot[1:]) in tenant_keys]
        if not ours:
            raise KeyMissing(workspace=ref.workspace, what="no slot for the tenant's keys", slots=len(slots))
        newest, slot = max(ours)
        wrapper = tenant_keys[bytes.fromhex(slot[1:])]
        repository_id = config.repository_id
        old = await self._secrets(place, names.epoch_slot(newest, slot), wrapper, repository_id, ref, newest)
        secrets = EpochSecrets(
            repository_id, ref.tenant, ref.workspace, newest + 1, self._fresh(SECRET_BYTES), old.id_secret
        )
        name = names.epoch_slot(newest + 1, slot)
        sealed = self._sealed(EpochKeys.wrapping(repository_id, wrapper), name, encode(secrets))
        await settle_create(place, name, sealed)
        await self._secrets(place, name, wrapper, repository_id, ref, newest + 1)
        return newest + 1

    async def _refuse_erased(self, ref: WorkspaceRef) -> None:
        tenant = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        if await tenant.head(names.tombstone(ref.workspace)) is not None:
            raise WorkspaceErased(tenant=ref.tenant, workspace=ref.workspace)

    async def _writing_tenant_key(self, tenant: str) -> bytes:
        found = await self.tenant_keys(tenant)
        if not found:
            secret = self._fresh(SECRET_BYTES)
            name = names.tenant_slot(key_id(secret), names.slot_id(METHOD_ABOVE, self._wrapping.key_id))
            body = encode(TenantSecret(tenant, secret))
            place = Prefixed(self._store, names.tenant_prefix(tenant))
            if not await settle_create(place, name, self._sealed(self._wrapping, name, body)):
                raise ObjectDamaged(object=name, what="a slot of this very key has other bytes")
            found = await self.tenant_keys(tenant)
        return min(found)

    async def _open_slot(
        self,
        place: Prefixed,
        name: str,
        wrapper: bytes,
        repository_id: bytes,
        ref: WorkspaceRef,
        key_epoch: int,
    ) -> EpochKeys:
        secrets = await self._secrets(place, name, wrapper, repository_id, ref, key_epoch)
        return EpochKeys.from_secrets(repository_id, secrets.epoch_key, secrets.id_secret)

    async def _secrets(
        self,
        place: Prefixed,
        name: str,
        wrapper: bytes,
        repository_id: bytes,
        ref: WorkspaceRef,
        key_epoch: int,
    ) -> EpochSecrets:
        raw = await place.get(name)
        return decode_epoch_secrets(
            _opened_body(EpochKeys.wrapping(repository_id, wrapper), name, raw),
            repository_id=repository_id,
            tenant=ref.tenant,
            workspace=ref.workspace,
            key_epoch=key_epoch,
        )

    async def _make_slot(
        self,
        place: Prefixed,
        name: str,
        wrapper: bytes,
        repository_id: bytes,
        ref: WorkspaceRef,
        key_epoch: int,
    ) -> None:
        """Create the first slot; if it exists already, another node won and its secrets count."""
        secrets = EpochSecrets(
            repository_id,
            ref.tenant,
            ref.workspace,
            key_epoch,
            self._fresh(SECRET_BYTES),
            self._fresh(SECRET_BYTES),
        )
        keys = EpochKeys.wrapping(repository_id, wrapper)
        await settle_create(place, name, self._sealed(keys, name, encode(secrets)))

    def _sealed(self, keys: EpochKeys, name: str, body: bytes) -> bytes:
        header = make_header(keys, ObjectType.KEY_SLOT, name, self._fresh(32))
        raw = make_object(keys, header, kind=0, body=body, boxes=(), fresh=self._fresh(32), compress=False)
        assert _opened_body(keys, name, raw) == body, "decoded before upload"
        return raw

    async def check(self, tenant: str) -> int:
        """Return how many tenant keys the master key opens. Raises what `tenant_keys` raises."""
        try:
            return len(await self.tenant_keys(tenant))
        except FormatError as exc:
            raise KeyMissing(tenant=tenant, master_key_id=self.master_key_id) from exc


def _opened_body(keys: EpochKeys, name: str, raw: bytes) -> bytes:
    """Open a slot of method m: nothing follows its head (methods k and r have a blob there)."""
    head = open_head(keys, ObjectType.KEY_SLOT, name, raw)
    if head.area_start != len(raw):
        raise Malformed(rule="bytes after a key slot", object=name)
    return head.body

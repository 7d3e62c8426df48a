"""Keys on the store: tenant keys below the ways in, epoch keys below a tenant key, and the birth of both.

Racing nodes must end with the same keys. For a repository: config first (create-only, one winner, whose hint
names the first slot), then that slot (create-only; on 412 the winner's is opened), then E. For a tenant: a
slot with a random key, then the listing is read again and the newest one counts; another key that lost the
race stays openable and does no harm. Secrets live in memory only.

A slot may be re-wrapped at any moment (`rewrap.py`), the slot that was listed may be gone when it is read,
and a worker may have been told yesterday's master key. So whoever cannot open reads the ways in and the
listing again, once, before he says so. And whoever makes a slot of a workspace looks afterwards which tenant
keys there are: if a new one came meanwhile, he wraps for that one too, before a byte is written under it.

Source: storage.md 4.5; docs/design/0001-format-version-1.md "Birth", 0009-keys-and-erasure.md.
"""

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

from storage.errors import (
    ChainBroken,
    FormatError,
    KeyMissing,
    KeyServiceFailed,
    Malformed,
    ObjectDamaged,
    ObjectNotFound,
    RepositoryError,
    RepositoryMissing,
    StorageError,
    WorkspaceErased,
)
from storage.format import config as config_format
from storage.format import names
from storage.format.encoding import encode
from storage.format.header import header_key_id
from storage.format.key_slot import open_slot, seal_slot
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
from storage.repository.ways import (
    ByKey,
    KeyWays,
    Wrapper,
    tenant_makers,
    tenant_openers,
    workspace_kms,
)

FIRST_EPOCH: Final = 1
KEYS_PER_TENANT_MAX: Final = 64
"""One usually, two during a rotation. More: somebody writes slots who should not."""
T = TypeVar("T")
Reread = Callable[[], Awaitable[KeyWays]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryKeys:
    """What is needed to read and write one repository."""

    repository_id: bytes
    config_hash: bytes
    epochs: dict[bytes, EpochKeys] = field(repr=False)
    """By key id, as headers name them."""
    newest: EpochKeys
    key_epoch: int
    numbers: dict[bytes, int] = field(default_factory=dict)
    """The key epoch of each key id."""

    def of_header(self, raw: bytes, name: str) -> EpochKeys:
        """Return the keys that an object's header names: exactly these are tried."""
        named = header_key_id(raw, name)
        keys = self.epochs.get(named)
        if keys is None:
            raise KeyMissing(object=name, key_id=named.hex())
        return keys


ReopenKeys: TypeAlias = Callable[[], Awaitable[RepositoryKeys | None]]
"""Reads the slots of a repository anew, for whoever meets a key that he does not have."""


async def newer_keys(reopen: ReopenKeys | None, keys: RepositoryKeys) -> RepositoryKeys | None:
    """Return what the slots say by now if they hold a key epoch that `keys` do not have. Slots that do not
    open say nothing new; of them `slot_look.py` tells.

    Raises:
        WorkspaceErased: there are no keys any more.
    """
    try:
        found = None if reopen is None else await reopen()
    except WorkspaceErased:
        raise
    except (FormatError, RepositoryError):
        return None
    return None if found is None or found.epochs.keys() <= keys.epochs.keys() else found


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSlot:
    """One slot of a workspace that opened."""

    name: str
    slot: str
    key_epoch: int
    secrets: EpochSecrets = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKeys:
    """The keys of one tenant, as its slots say."""

    opened: dict[bytes, TenantSecret] = field(repr=False)
    """By key id, the newest first."""
    slots: tuple[tuple[bytes, str], ...]
    """(key id, slot id) of every slot there, opened or not."""

    @property
    def secrets(self) -> dict[bytes, bytes]:
        """Return the keys by key id, the newest first."""
        return {key: secret.tenant_key for key, secret in self.opened.items()}


class Keyring:
    """Opens and makes keys. One per service process; it holds the ways in."""

    def __init__(
        self,
        store: ObjectStore,
        ways: KeyWays,
        fresh: Callable[[int], bytes],
        *,
        reread: Reread | None = None,
    ) -> None:
        """Take the parts.

        Args:
            reread: reads the ways in again, where they may have changed since.
        """
        self.ways = ways
        self._store = store
        self._fresh = fresh
        self._reread = reread

    @property
    def master_key_id(self) -> str:
        """Return the public name of the master key, for people who look for the right one."""
        return key_id(self.ways.master).hex()

    async def refresh(self) -> None:
        """Read the ways in again."""
        if self._reread is not None:
            self.ways = await self._reread()

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it; if a key is missing or a slot was moved meanwhile, once more with what is there now."""
        try:
            return await work()
        except (KeyMissing, ObjectNotFound):
            await self.refresh()
            return await work()

    async def tenant_keys(self, tenant: str) -> dict[bytes, bytes]:
        """Return every tenant key that opens, by key id, the newest first.

        Raises:
            KeyMissing: there are slots, and no way in opens one.
        """
        return (await self.tenant(tenant)).secrets

    async def tenant(self, tenant: str) -> TenantKeys:
        """Return the keys of a tenant with their slots; raises as `tenant_keys`."""
        return await self._patiently(lambda: self._tenant(tenant))

    async def _tenant(self, tenant: str) -> TenantKeys:
        place = Prefixed(self._store, names.tenant_prefix(tenant))
        slots = [names.tenant_slot_parts(info.name) async for info in place.list(names.KEY_PREFIX)]
        if len({key for key, _ in slots}) > KEYS_PER_TENANT_MAX:
            raise Malformed(rule="number of tenant keys", tenant=tenant)
        found: dict[bytes, TenantSecret] = {}
        failed: dict[bytes, StorageError] = {}
        for way in tenant_openers(self.ways):
            for key, slot in slots:
                if slot != way.slot or key in found:
                    continue
                try:
                    found[key] = await self.open_tenant_slot(place, way, key, tenant)
                except (KeyServiceFailed, FormatError) as exc:
                    failed[key] = exc  # another slot may be whole; `slot_look.py` tells of this one
        _require_found(failed, found)
        if slots and not found:
            raise KeyMissing(tenant=tenant, master_key_id=self.master_key_id, slots=len(slots))
        order = sorted(found, key=lambda key: (-found[key].number, key))
        return TenantKeys(opened={key: found[key] for key in order}, slots=tuple(slots))

    async def open_tenant_slot(
        self, place: Prefixed, way: Wrapper, tenant_key_id: bytes, tenant: str
    ) -> TenantSecret:
        """Read and open one slot of a tenant key.

        Raises:
            FormatError, KeyMissing, KeyServiceFailed, ObjectNotFound: why it does not open.
        """
        name = names.tenant_slot(tenant_key_id, way.slot)
        raw = await place.get(name)
        body = open_slot(await way.opening(name, raw), NO_REPOSITORY, name, raw)
        secret = decode_tenant_secret(body, tenant=tenant)
        if key_id(secret.tenant_key) != tenant_key_id:
            raise Malformed(rule="tenant key id", object=name)
        return secret

    async def open(self, ref: WorkspaceRef) -> RepositoryKeys | None:
        """Return the keys of a repository, or None if it was never born.

        Raises:
            WorkspaceErased, KeyMissing: it existed, and cannot be opened.
            ChainBroken: parts of it exist without its config.
        """
        return await self._patiently(lambda: self._open(ref))

    async def _open(self, ref: WorkspaceRef) -> RepositoryKeys | None:
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        await self.refuse_erased(ref)
        raw = await place.find(names.CONFIG)
        if raw is None:
            async for info in place.list():
                raise ChainBroken(what="config is missing", workspace=ref.workspace, found=info.name)
            return None
        config = config_format.decode_config(raw)
        slots = [info.name async for info in place.list(names.KEY_PREFIX)]
        if not slots:
            if not await self._was_never_used(place):
                raise KeyMissing(workspace=ref.workspace, what="every slot is gone")
            return None
        opened = await self._open_slots(place, ref, config.repository_id, slots)
        if not opened:
            raise KeyMissing(workspace=ref.workspace, what="no slot for the tenant's keys", slots=len(slots))
        epochs: dict[bytes, EpochKeys] = {}
        numbers: dict[bytes, int] = {}
        for one in opened:
            keys = EpochKeys.from_secrets(config.repository_id, one.secrets.epoch_key, one.secrets.id_secret)
            epochs[keys.key_id] = keys
            numbers[keys.key_id] = one.key_epoch
        newest = max(numbers, key=lambda key: (numbers[key], key))
        return RepositoryKeys(
            repository_id=config.repository_id,
            config_hash=config_format.config_hash(raw),
            epochs=epochs,
            newest=epochs[newest],
            key_epoch=numbers[newest],
            numbers=numbers,
        )

    async def opened_slots(self, ref: WorkspaceRef) -> tuple[bytes, list[OpenedSlot], list[str]]:
        """Return a repository's id, its slots that open, and the names of all slots."""
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        config = config_format.decode_config(await place.get(names.CONFIG))
        slots = [info.name async for info in place.list(names.KEY_PREFIX)]
        return config.repository_id, await self._open_slots(place, ref, config.repository_id, slots), slots

    async def _open_slots(
        self, place: Prefixed, ref: WorkspaceRef, repository_id: bytes, slots: list[str]
    ) -> list[OpenedSlot]:
        tenant_keys = await self._tenant(ref.tenant)
        ways: dict[str, Wrapper] = {}
        for secret in tenant_keys.secrets.values():
            way = ByKey(secret)
            ways[way.slot] = way
        opened: list[OpenedSlot] = []
        failed: dict[int, StorageError] = {}
        kms = workspace_kms(self.ways, ref.workspace)
        if kms is not None:
            ways[kms.slot] = kms
        for name in slots:
            epoch, slot = names.epoch_slot_parts(name)
            opener = ways.get(slot)
            if opener is not None:
                try:
                    secrets = await self.epoch_secrets(place, name, opener, repository_id, ref, epoch)
                except FormatError as exc:
                    failed[epoch] = exc
                    continue
                opened.append(OpenedSlot(name=name, slot=slot, key_epoch=epoch, secrets=secrets))
        _require_found(failed, {one.key_epoch for one in opened})
        return opened

    async def bear(self, ref: WorkspaceRef, *, created_ms: int) -> RepositoryKeys:
        """Make config and first slot, or finish what another node or an earlier try began."""
        return await self._patiently(lambda: self._bear(ref, created_ms))

    async def _bear(self, ref: WorkspaceRef, created_ms: int) -> RepositoryKeys:
        opened = await self._open(ref)
        if opened is not None:
            return opened
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        makers = await self._workspace_makers(ref)
        hint = f"{FIRST_EPOCH}-{makers[0].slot}"
        raw = config_format.encode_config(
            repository_id=self._fresh(16), created_ms=created_ms, first_slot=hint
        )
        if not await settle_create(place, names.CONFIG, raw):
            raw = await place.get(names.CONFIG)
        config = config_format.decode_config(raw)
        epoch, slot = names.epoch_slot_parts(f"{names.KEY_PREFIX}{config.hints[0] if config.hints else hint}")
        way = {one.slot: one for one in await self._workspace_makers(ref)}.get(slot)
        if way is None and await self._was_never_used(place):
            # It was named for a tenant key that a rotation has removed since, so nothing can lie under it.
            way = (await self._workspace_makers(ref))[0]
        if way is None or epoch != FIRST_EPOCH:
            raise KeyMissing(workspace=ref.workspace, what="the first slot is for another key", slot=slot)
        fresh = EpochSecrets(
            config.repository_id,
            ref.tenant,
            ref.workspace,
            FIRST_EPOCH,
            self._fresh(SECRET_BYTES),
            self._fresh(SECRET_BYTES),
        )
        await self._place_secrets(place, ref, fresh, way)
        opened = await self._open(ref)
        if opened is None:
            raise RepositoryMissing(workspace=ref.workspace, what="gone while it was made")
        return opened

    async def _was_never_used(self, place: Prefixed) -> bool:
        """Return whether nothing can lie under keys that are not there. Entry 1 alone does not say so: a fold
        takes it away, and leaves its history and higher entries.
        """
        for prefix in (names.LOG_PREFIX, names.HISTORY_PREFIX):
            async for _ in place.list(prefix):
                return False
        return True

    async def rotate(self, ref: WorkspaceRef) -> int:
        """Begin a new key epoch: its slot is made, with a new epoch key and the same id secret, so that
        deduplication goes on. Return its number. Racing callers end with one.
        """
        return await self._patiently(lambda: self._rotate(ref))

    async def _rotate(self, ref: WorkspaceRef) -> int:
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        await self.refuse_erased(ref)
        repository_id, opened, slots = await self.opened_slots(ref)
        if not opened:
            raise KeyMissing(workspace=ref.workspace, what="no slot for the tenant's keys", slots=len(slots))
        newest = max(opened, key=lambda one: one.key_epoch)
        secrets = EpochSecrets(
            repository_id,
            ref.tenant,
            ref.workspace,
            newest.key_epoch + 1,
            self._fresh(SECRET_BYTES),
            newest.secrets.id_secret,
        )
        await self._place_secrets(place, ref, secrets, (await self._workspace_makers(ref))[0])
        return newest.key_epoch + 1

    async def _workspace_makers(self, ref: WorkspaceRef) -> list[Wrapper]:
        """Return the ways that a workspace's secrets are wrapped for, the one for the first slot first. A
        tenant's first key is made here.
        """
        kms = workspace_kms(self.ways, ref.workspace)
        if kms is not None:
            return [kms]
        found = await self._tenant(ref.tenant)
        if not found.opened:
            await self.make_tenant_key(ref.tenant)
            found = await self._tenant(ref.tenant)
        return [ByKey(secret) for secret in found.secrets.values()]

    async def make_tenant_key(self, tenant: str) -> bytes:
        """Make the next tenant key with a slot for every way in, each read back; return its id."""
        present = (await self._tenant(tenant)).opened.values()
        number = max((one.number for one in present), default=0) + 1
        secret = TenantSecret(tenant, self._fresh(SECRET_BYTES), number)
        place = Prefixed(self._store, names.tenant_prefix(tenant))
        for way in tenant_makers(self.ways):
            await self.wrap_tenant_key(place, secret, way)
        return key_id(secret.tenant_key)

    async def wrap_tenant_key(self, place: Prefixed, secret: TenantSecret, way: Wrapper) -> None:
        """Make one slot of a tenant key, and read it back."""
        name = names.tenant_slot(key_id(secret.tenant_key), way.slot)
        await self._place_slot(place, name, way, NO_REPOSITORY, encode(secret))

    async def _place_slot(
        self, place: Prefixed, name: str, way: Wrapper, repository_id: bytes, body: bytes
    ) -> None:
        wrapping_key, blob = await way.sealing(self._fresh)
        fresh = (self._fresh(32), self._fresh(32))
        raw = seal_slot(wrapping_key, repository_id, name, body, blob=blob, fresh=fresh)
        ours = await settle_create(place, name, raw)
        found = await place.get(name)
        if ours and found != raw:
            raise ObjectDamaged(object=name, what="a slot reads back differently")
        if not ours:  # an earlier try, or another node: what it holds must be the same
            try:
                same = open_slot(await way.opening(name, found), repository_id, name, found) == body
            except KeyMissing:
                same = True  # for the recovery code: its id is in the name, and nobody here can look inside
            if not same:
                raise ObjectDamaged(object=name, what="the slot of this key holds something else")

    async def _place_secrets(
        self, place: Prefixed, ref: WorkspaceRef, fresh: EpochSecrets, way: Wrapper
    ) -> None:
        """Make the slot of an epoch by `way`, or take over the one that is there; then wrap its secrets for
        the tenant key that a rotation has made meanwhile.
        """
        name = names.epoch_slot(fresh.key_epoch, way.slot)
        wrapping_key, blob = await way.sealing(self._fresh)
        raw = seal_slot(
            wrapping_key,
            fresh.repository_id,
            name,
            encode(fresh),
            blob=blob,
            fresh=(self._fresh(32), self._fresh(32)),
        )
        await settle_create(place, name, raw)
        secrets = await self.epoch_secrets(place, name, way, fresh.repository_id, ref, fresh.key_epoch)
        if isinstance(way, ByKey):
            present = (await self._tenant(ref.tenant)).opened
            newest = next(iter(present.values()))
            used = present.get(key_id(way.secret))
            if used is None or newest.number > used.number:
                await self.wrap_secrets(place, secrets, ByKey(newest.tenant_key))

    async def wrap_secrets(self, place: Prefixed, secrets: EpochSecrets, way: Wrapper) -> None:
        """Make one slot of a workspace's key epoch, and read it back.

        Raises:
            ObjectDamaged: there is one already, with other secrets.
        """
        name = names.epoch_slot(secrets.key_epoch, way.slot)
        await self._place_slot(place, name, way, secrets.repository_id, encode(secrets))

    async def refuse_erased(self, ref: WorkspaceRef) -> None:
        """Raise WorkspaceErased if its tombstone stands."""
        tenant = Prefixed(self._store, names.tenant_prefix(ref.tenant))
        if await tenant.head(names.tombstone(ref.workspace)) is not None:
            raise WorkspaceErased(tenant=ref.tenant, workspace=ref.workspace)

    async def epoch_secrets(
        self,
        place: Prefixed,
        name: str,
        way: Wrapper,
        repository_id: bytes,
        ref: WorkspaceRef,
        key_epoch: int,
    ) -> EpochSecrets:
        """Read and open one slot of a workspace; raises as `open_tenant_slot`."""
        raw = await place.get(name)
        return decode_epoch_secrets(
            open_slot(await way.opening(name, raw), repository_id, name, raw),
            repository_id=repository_id,
            tenant=ref.tenant,
            workspace=ref.workspace,
            key_epoch=key_epoch,
        )

    async def check(self, tenant: str) -> int:
        """Return how many tenant keys open. Raises what `tenant_keys` raises."""
        try:
            return len(await self.tenant_keys(tenant))
        except FormatError as exc:
            raise KeyMissing(tenant=tenant, master_key_id=self.master_key_id) from exc


def _require_found(failed: Mapping[T, StorageError], found: Container[T]) -> None:
    """Raise why a secret was not opened, if none of its slots did. It may be the newest: who went on under an
    older one would hide that.
    """
    for one, exc in failed.items():
        if one not in found:
            raise exc

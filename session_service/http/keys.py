"""Keys by their public names: which are in use, new ones, and moving secrets from one to another.

No key and no recovery code ever comes by here: a code's public half is all that is sent. Each act is in the
audit log before it is done. Erasure is `erasure.py`.
"""

import asyncio
from typing import Annotated, Final

from pydantic import Field

from session_service.base import errors
from session_service.http import access, answers, asks, audit
from session_service.http.routes import API, Exchange, Route
from session_service.http.workspaces import any_workspace, workspace_name
from session_service.ports.keys import KeyLook, RewrapLook

REWRAP_S: Final = 3600.0
"""One tenant; a workspace takes some requests. Over it: `storage_unavailable`, and the next try goes on."""
_STORE: Final = (
    errors.NotFound,
    errors.StorageUnavailable,
    errors.StorageRefused,
    errors.WorkspaceErased,
    errors.PartUnavailable,
)


class RotateAsk(asks.Ask):
    """Whether the old key leaked: then no writer may use it any more."""

    leaked: bool = False


class EpochOut(answers.Answer):
    """What lies under one key epoch; 0 for a key that nothing here opens."""

    key_epoch: int
    key_id: str
    packs: int
    entries: int


class KeysOut(answers.Answer):
    """The keys of a workspace, by their public names."""

    master_key_id: str
    key_epoch: Annotated[int, Field(description="new objects are written under this epoch")]
    min_key_epoch: Annotated[int, Field(description="older epochs are refused to every writer")]
    epochs: list[EpochOut]


class TenantKeysOut(answers.Answer):
    """By what the keys of one tenant are wrapped: counts of keys."""

    tenant_id: str
    keys: int
    opened: int
    under_master: int
    under_previous: Annotated[int, Field(description="a re-wrap moves them")]
    under_recovery: int
    under_other_codes: int


class StoreKeysOut(answers.Answer):
    """Every way into the store, by public names."""

    master_key_id: str
    key_backed_up: Annotated[bool, Field(description="losing this machine would lose no key")]
    recovery_id: Annotated[str, Field(description="public name of the recovery code; empty if none was made")]
    kms_key: str
    tenants: list[TenantKeysOut]
    refused: Annotated[list[str], Field(description="tenants whose keys nothing here opens")]


class RecoveryAsk(asks.Ask):
    """The public half of a recovery code, in hex. The code itself never leaves the terminal."""

    public: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TenantAsk(asks.Ask):
    """Of which tenant."""

    tenant_id: asks.Id


class RewrapOut(answers.Answer):
    """What was moved."""

    workspaces: int
    made: int
    removed: int
    left: Annotated[list[str], Field(description="What could not be moved, in words.")]


async def show_keys(exchange: Exchange) -> KeysOut:
    """Say which key epochs a workspace has, and what lies under each."""
    workspace = await any_workspace(exchange)
    return _keys(await exchange.services.checkpoints.keys(workspace_name(workspace)))


async def rotate_keys(exchange: Exchange) -> KeysOut:
    """Begin a new key epoch for new objects."""
    ask = exchange.body(RotateAsk)
    workspace = await any_workspace(exchange)
    entry = audit.entry(exchange, "keys.rotated", workspace_id=workspace.id, leaked=ask.leaked)
    await audit.record(exchange, entry)
    return _keys(
        await exchange.services.checkpoints.rotate_keys(workspace_name(workspace), leaked=ask.leaked)
    )


def _keys(look: KeyLook) -> KeysOut:
    epochs = [
        EpochOut(key_epoch=one.key_epoch, key_id=one.key_id, packs=one.packs, entries=one.entries)
        for one in look.epochs
    ]
    return KeysOut(
        master_key_id=look.master_key_id,
        key_epoch=look.key_epoch,
        min_key_epoch=look.min_key_epoch,
        epochs=epochs,
    )


async def show_store_keys(exchange: Exchange) -> StoreKeysOut:
    """Say what opens the store, tenant by tenant."""
    found = await exchange.services.checkpoints.store_keys()
    tenants = [
        TenantKeysOut(
            tenant_id=one.tenant_id,
            keys=one.keys,
            opened=one.opened,
            under_master=one.under_master,
            under_previous=one.under_previous,
            under_recovery=one.under_recovery,
            under_other_codes=one.under_other_codes,
        )
        for one in found.tenants
    ]
    return StoreKeysOut(
        master_key_id=found.master_key_id,
        key_backed_up=found.key_backed_up,
        recovery_id=found.recovery_id,
        kms_key=found.kms_key,
        tenants=tenants,
        refused=list(found.refused),
    )


async def set_recovery(exchange: Exchange) -> StoreKeysOut:
    """Keep the public half of a recovery code that was typed back; re-wraps then make its slots."""
    ask = exchange.body(RecoveryAsk)
    await audit.record(exchange, audit.entry(exchange, "keys.recovery_set", public=ask.public))
    await exchange.services.checkpoints.set_recovery(bytes.fromhex(ask.public))
    return await show_store_keys(exchange)


async def rewrap(exchange: Exchange) -> RewrapOut:
    """Move a tenant's secrets to the ways in of now."""
    tenant = exchange.body(TenantAsk).tenant_id
    await audit.record(exchange, audit.entry(exchange, "keys.rewrapped", tenant=tenant))
    try:
        async with asyncio.timeout(REWRAP_S):
            return _rewrapped(await exchange.services.checkpoints.rewrap(tenant))
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The re-wrap did not end in time; ask again.") from exc


async def rotate_tenant(exchange: Exchange) -> RewrapOut:
    """Make a new key for a tenant and move its workspaces to it."""
    tenant = exchange.body(TenantAsk).tenant_id
    await audit.record(exchange, audit.entry(exchange, "keys.tenant_rotated", tenant=tenant))
    try:
        async with asyncio.timeout(REWRAP_S):
            return _rewrapped(await exchange.services.checkpoints.rotate_tenant(tenant))
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The rotation did not end in time; ask again.") from exc


def _rewrapped(done: RewrapLook) -> RewrapOut:
    return RewrapOut(workspaces=done.workspaces, made=done.made, removed=done.removed, left=list(done.left))


ROUTES: Final = (
    Route(
        method="GET",
        path=f"{API}/keys",
        name="showStoreKeys",
        tag="keys",
        summary="What opens the store: master key, recovery code, KMS; tenant by tenant.",
        handler=show_store_keys,
        access=access.ADMIN,
        answer=StoreKeysOut,
        may_fail_with=_STORE,
    ),
    Route(
        method="PUT",
        path=f"{API}/keys/recovery",
        name="setRecovery",
        tag="keys",
        summary="Keep the public half of a recovery code.",
        handler=set_recovery,
        access=access.ADMIN,
        body=RecoveryAsk,
        answer=StoreKeysOut,
        may_fail_with=_STORE,
    ),
    Route(
        method="POST",
        path=f"{API}/keys/rewrap",
        name="rewrapKeys",
        tag="keys",
        summary="Move a tenant's secrets to the master key, recovery code and KMS of now.",
        handler=rewrap,
        access=access.ADMIN,
        body=TenantAsk,
        answer=RewrapOut,
        idempotent=True,
        may_fail_with=_STORE,
    ),
    Route(
        method="POST",
        path=f"{API}/keys/rotate",
        name="rotateTenantKey",
        tag="keys",
        summary="Make a new key for a tenant and move its workspaces to it; older ones go last.",
        handler=rotate_tenant,
        access=access.ADMIN,
        body=TenantAsk,
        answer=RewrapOut,
        idempotent=True,
        may_fail_with=_STORE,
    ),
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/keys",
        name="showKeys",
        tag="keys",
        summary="Which key epochs a workspace has, and how many packs lie under each.",
        handler=show_keys,
        access=access.ADMIN,
        answer=KeysOut,
        may_fail_with=_STORE,
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/keys/rotate",
        name="rotateKeys",
        tag="keys",
        summary="Begin a new key epoch for new objects; older ones stay readable.",
        handler=rotate_keys,
        access=access.ADMIN,
        body=RotateAsk,
        answer=KeysOut,
        idempotent=True,
        may_fail_with=_STORE,
    ),
)

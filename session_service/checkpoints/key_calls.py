"""The worker's calls about keys and erasure, and what it does about erased workspaces by itself.

No key is in any of them: what opens the store is read by each worker from its sources. Not the order of an
erasure over several workers (`key_asks.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

import storage
from session_service.base import log, rpc
from session_service.base.ids import hex_to_ulid, ulid_to_hex
from session_service.checkpoints import keyring
from session_service.checkpoints.key_sources import KeySources
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.keys import (
    EpochLook,
    ErasedLook,
    KeyLook,
    RewrapLook,
    StoreKeys,
    TenantKeys,
    TombstoneLook,
)

CALLS: Final = (
    "keys", "rotate_keys", "store_keys", "set_recovery", "refresh_keys", "rewrap", "rotate_tenant",
    "destroy_keys", "drop", "erase", "tombstone",
)  # fmt: skip
SWEEP_FIRST_S: Final = 300.0
SWEEP_EVERY_S: Final = 86_400.0
"""What a backup of the bucket brought back of an erased workspace lies there for a day at most."""


class Rotate(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    leaked: bool


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName
    actor: str
    reason: str
    processes: int = 0


class Named(msgspec.Struct, frozen=True, kw_only=True):
    workspace: WorkspaceName


class OfTenant(msgspec.Struct, frozen=True, kw_only=True):
    tenant_id: str


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    public: bytes


def _ref(workspace: WorkspaceName) -> storage.WorkspaceRef:
    return storage.WorkspaceRef(
        tenant=ulid_to_hex(workspace.tenant_id), workspace=ulid_to_hex(workspace.workspace_id)
    )


class KeyCalls:
    """Answers them, on the storage that the worker opens."""

    def __init__(self, opened: Callable[[], Awaitable[storage.Storage]], sources: KeySources) -> None:
        self._opened = opened
        self._sources = sources

    async def keys(self, call: rpc.Call) -> KeyLook:
        return await self._look(_ref(call.params(Named).workspace))

    async def _look(self, ref: storage.WorkspaceRef) -> KeyLook:
        store = await self._opened()
        uses = await store.key_use(ref)
        return KeyLook(
            master_key_id=keyring.name_of(store.master_key),
            key_epoch=await store.key_epoch(ref),
            min_key_epoch=await store.min_key_epoch(ref),
            epochs=tuple(
                EpochLook(
                    key_epoch=use.key_epoch,
                    key_id=use.key_id,
                    packs=len(use.packs),
                    entries=len(use.entries),
                )
                for use in uses
            ),
        )

    async def rotate_keys(self, call: rpc.Call) -> KeyLook:
        ask = call.params(Rotate)
        await (await self._opened()).rotate_keys(_ref(ask.workspace), leaked=ask.leaked)
        return await self._look(_ref(ask.workspace))

    async def store_keys(self, call: rpc.Call) -> StoreKeys:
        store = await self._opened()
        found = await store.key_check()
        ways = await self._sources.required_ways()
        public = self._sources.recovery_public()
        return StoreKeys(
            master_key_id=keyring.name_of(ways.master),
            key_backed_up=self._sources.is_safe(ways.master),
            recovery_id="" if public is None else storage.recovery_id(public),
            kms_key=ways.kms_key or ways.kms_workspace_key,
            tenants=tuple(
                TenantKeys(
                    tenant_id=hex_to_ulid(one.tenant),
                    keys=one.keys,
                    opened=one.opened,
                    under_master=one.under_master,
                    under_previous=one.under_previous,
                    under_recovery=one.under_recovery,
                    under_other_codes=one.under_other_codes,
                )
                for one in found.tenants
            ),
            refused=tuple(hex_to_ulid(tenant) for tenant in found.refused),
        )

    async def set_recovery(self, call: rpc.Call) -> None:
        public = call.params(Recovery).public
        at = datetime.now(UTC).isoformat(timespec="seconds")
        await asyncio.to_thread(self._sources.put_recovery_public, public, at=at)
        log.get_logger().info("key.recoverable", key=storage.recovery_id(public))

    async def refresh_keys(self, call: rpc.Call) -> str:
        """Read the ways in again; return the public name of the master key."""
        return await (await self._opened()).refresh_ways()

    async def rewrap(self, call: rpc.Call) -> RewrapLook:
        tenant = ulid_to_hex(call.params(OfTenant).tenant_id)
        store = await self._opened()
        done = _rewrapped(await store.rewrap(tenant))
        await asyncio.to_thread(self._sources.remember_signers, store.signers)
        return done

    async def rotate_tenant(self, call: rpc.Call) -> RewrapLook:
        tenant = ulid_to_hex(call.params(OfTenant).tenant_id)
        return _rewrapped(await (await self._opened()).rotate_tenant(tenant))

    async def destroy_keys(self, call: rpc.Call) -> None:
        ask = call.params(Erase)
        store = await self._opened()
        await store.destroy_keys(_ref(ask.workspace), actor=ask.actor, reason=ask.reason)
        await self._follow(store, _ref(ask.workspace))

    async def _follow(self, store: storage.Storage, ref: storage.WorkspaceRef) -> None:
        """Let the second store follow; one that is away follows later, and shows until then that it is
        behind.
        """
        if store.has_second:
            await store.replicate(ref)

    async def drop(self, call: rpc.Call) -> None:
        """Forget everything about a workspace, its keys included."""
        await (await self._opened()).drop(_ref(call.params(Named).workspace))

    async def erase(self, call: rpc.Call) -> ErasedLook:
        ask = call.params(Erase)
        store = await self._opened()
        done = await store.erase(
            _ref(ask.workspace), actor=ask.actor, reason=ask.reason, processes=ask.processes
        )
        return ErasedLook(
            actor=done.actor,
            at_ms=done.at_ms,
            slots=done.slots,
            objects=done.objects,
            size=done.size,
            receipt=done.receipt,
            versions=done.versions,
            processes=ask.processes,
            second=done.second,
            locked=len(done.locked),
            locked_keys=done.locked_slots,
            locked_until_ms=done.locked_until_ms,
        )

    async def tombstone(self, call: rpc.Call) -> TombstoneLook | None:
        stone = await (await self._opened()).tombstone(_ref(call.params(Named).workspace))
        if stone is None:
            return None
        return TombstoneLook(actor=stone.actor, at_ms=stone.at_ms, reason=stone.reason)


def _rewrapped(done: storage.Rewrapped) -> RewrapLook:
    return RewrapLook(
        tenants=done.tenants,
        workspaces=done.workspaces,
        made=done.made,
        removed=done.removed,
        left=done.left,
    )


async def sweep_for_ever(opened: Callable[[], Awaitable[storage.Storage]]) -> None:
    """Once a day delete what came back of erased workspaces. One worker of a machine does it."""
    pause_s = SWEEP_FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = SWEEP_EVERY_S
        try:
            back = await (await opened()).sweep_erased()
        except (storage.StorageError, OSError) as exc:
            log.get_logger().warning("erasure.unswept", error=str(exc))
            continue
        for ref in back:
            log.get_logger().warning("erasure.swept", workspace_id=hex_to_ulid(ref.workspace))

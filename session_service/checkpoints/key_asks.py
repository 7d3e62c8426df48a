"""The service's half of keys and erasure: in which order workers are asked, and all of them where it counts.

An erasure is finished when every worker said that it forgot the workspace: tombstone and keys first, then all
forget, then the objects go. A worker that died has nothing to forget, and the one that takes its place meets
the tombstone. One that does not answer leaves the erasure unfinished: it is asked for again.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from session_service.base import errors, rpc
from session_service.checkpoints import key_calls
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.keys import ErasedLook, KeyLook, RewrapLook, StoreKeys, TombstoneLook

CONFIRM_S: Final = 60.0
"""For one worker to confirm: it may be started again meanwhile, or finish a save of this workspace first."""
AGAIN_S: Final = 0.5


class HomeCall(Protocol):
    """Hands a call to a free worker (`workers.py`)."""

    async def __call__(
        self, order: int, workspace: WorkspaceName, method: str, params: Any, answer: type[Any]
    ) -> Any: ...


class KeyAsks:
    """What `Workers` can be asked about keys."""

    def __init__(self, workers: Sequence[rpc.Client], home_call: HomeCall, order: int) -> None:
        self._workers = workers
        self._home_call = home_call
        self._order = order

    async def keys(self, workspace: WorkspaceName) -> KeyLook:
        return await self._workers[0].call("keys", key_calls.Named(workspace=workspace), KeyLook)

    async def rotate_keys(self, workspace: WorkspaceName, *, leaked: bool) -> KeyLook:
        params = key_calls.Rotate(workspace=workspace, leaked=leaked)
        look: KeyLook = await self._home_call(self._order, workspace, "rotate_keys", params, KeyLook)
        return look

    async def store_keys(self) -> StoreKeys:
        return await self._workers[0].call("store_keys", None, StoreKeys)

    async def set_recovery(self, public: bytes) -> None:
        await self._workers[0].call("set_recovery", key_calls.Recovery(public=public), type(None))

    async def rewrap(self, tenant_id: str) -> RewrapLook:
        await self._all("refresh_keys", None, str)
        return await self._workers[0].call("rewrap", key_calls.OfTenant(tenant_id=tenant_id), RewrapLook)

    async def rotate_tenant(self, tenant_id: str) -> RewrapLook:
        params = key_calls.OfTenant(tenant_id=tenant_id)
        return await self._workers[0].call("rotate_tenant", params, RewrapLook)

    async def erase(self, workspace: WorkspaceName, *, actor: str, reason: str) -> ErasedLook:
        ask = key_calls.Erase(workspace=workspace, actor=actor, reason=reason, processes=len(self._workers))
        await self._home_call(self._order, workspace, "destroy_keys", ask, type(None))
        await self._all("drop", key_calls.Named(workspace=workspace), type(None))
        done: ErasedLook = await self._home_call(self._order, workspace, "erase", ask, ErasedLook)
        return done

    async def tombstone(self, workspace: WorkspaceName) -> TombstoneLook | None:
        found: TombstoneLook | None = await self._workers[0].call(
            "tombstone",
            key_calls.Named(workspace=workspace),
            TombstoneLook | None,  # type: ignore[arg-type]  # msgspec takes unions as types
        )
        return found

    async def _all(self, method: str, params: Any, answer: type[Any]) -> None:
        """Ask every worker, and wait until each has answered."""
        async with asyncio.TaskGroup() as group:
            for client in self._workers:
                group.create_task(self._confirmed(client, method, params, answer), name=method)

    async def _confirmed(self, client: rpc.Client, method: str, params: Any, answer: type[Any]) -> None:
        async with asyncio.timeout(CONFIRM_S):
            while True:
                try:
                    await client.call(method, params, answer)
                    return
                except errors.PartUnavailable:
                    await asyncio.sleep(AGAIN_S)  # its parent starts it again

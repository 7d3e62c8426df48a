"""The `Checkpoints` port over the storage workers: each call goes to a free worker, one home at a time each.

It holds no state that a crash would lose: every call may be repeated. Final checkpoints overtake periodic
ones in the queue, since a
close must not wait behind somebody's first checkpoint. A worker that dies is started again by the parent;
the call is answered
`PartUnavailable` and its caller repeats it.
"""

import asyncio
import contextlib
import heapq
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from session_service.base import errors, log, rpc
from session_service.base.aio import Tasks
from session_service.checkpoints import messages, replica_calls, upkeep
from session_service.checkpoints.key_asks import KeyAsks
from session_service.checkpoints.standing_back import Ahead
from session_service.ports.checkpoints import (
    BEGUN,
    QUEUED,
    CheckpointInfo,
    CheckpointResult,
    FolderPage,
    LastLook,
    LogHead,
    PendingLook,
    Progress,
    RestoreReport,
    SavePlan,
    StoreStatus,
    WorkspaceName,
)
from session_service.ports.desktops import EndProof
from session_service.ports.keys import ErasedLook, KeyLook, RewrapLook, StoreKeys, TombstoneLook
from session_service.ports.replication import Repaired, ReplicaLook, SecondProof, SecondStatus
from session_service.ports.upkeep import Difference, ForeignLook, KeepRule, Upkept

URGENT: Final = 0
"""A close or a start waits for it."""
SOON: Final = 1
"""A person asked, or a client was just lost."""
ROUTINE: Final = 2
"""Periodic work."""
RESERVED: Final = 1
"""Workers that only urgent calls may take, where there are two or more: a save of hours that began a moment
ago must not stand between a closing session and its last checkpoint."""
_ORDER: Final = {
    "final": URGENT,
    "first_of_close": URGENT,
    "loss": SOON,
    "demand": SOON,
    "conflict": SOON,
    "periodic": ROUTINE,
}


class _Queue:
    """Hands out workers, most urgent caller first, in order of arrival within a class; never the last one to
    work that can wait.
    """

    def __init__(self, clients: Sequence[rpc.Client]) -> None:
        self.all = tuple(clients)
        self._free = list(clients)
        self._waiting: list[tuple[int, int, asyncio.Future[rpc.Client]]] = []
        self._arrivals = 0
        self._others = 0
        """Workers that calls have which are not urgent."""
        self._others_max = max(1, len(clients) - RESERVED)

    @asynccontextmanager
    async def worker(self, order: int, workspace: WorkspaceName) -> AsyncIterator[rpc.Client]:
        """Wait for a free worker and give it back afterwards.

        The one that served this workspace before is preferred: it remembers what it has read. Another one is
        right, too, only slower.
        """
        if self._free and self._may(order):
            usual = self.all[zlib.crc32(workspace.workspace_id.encode()) % len(self.all)]
            client = usual if usual in self._free else self._free[0]
            self._free.remove(client)
            self._count(order, 1)
        else:
            self._arrivals += 1
            turn: asyncio.Future[rpc.Client] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (order, self._arrivals, turn))
            try:
                client = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(turn.result(), order)
                raise
        try:
            yield client
        finally:
            self._give_back(client, order)

    def _may(self, order: int) -> bool:
        return order == URGENT or self._others < self._others_max

    def _count(self, order: int, change: int) -> None:
        self._others += change if order != URGENT else 0

    def _give_back(self, client: rpc.Client, order: int) -> None:
        self._count(order, -1)
        self._free.append(client)
        while self._waiting and self._free:
            first, _, turn = self._waiting[0]
            if not turn.done() and not self._may(first):
                return  # who is first can wait, and so can all behind
            heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(self._free.pop())
                self._count(first, 1)


class Workers:
    """Implements `ports.checkpoints.Checkpoints`."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        assert sockets
        self._homes = _Queue([rpc.Client(path, part="worker") for path in sockets])
        self._readers = [rpc.Client(path, part="worker") for path in sockets]
        self._turn = 0
        self._tasks = Tasks(log.task_failed)
        self._ahead = Ahead(self._readers, self._tasks)
        self._keys = KeyAsks(self._readers, self._home_call, SOON)

    async def close(self) -> None:
        """Close the connections; the workers go on."""
        await self._tasks.close()
        for client in (*self._readers, *self._homes.all):
            await client.close()

    def _reader(self) -> rpc.Client:
        self._turn = (self._turn + 1) % len(self._readers)
        return self._readers[self._turn]

    def _usual_reader(self, workspace: WorkspaceName) -> rpc.Client:
        """The worker that remembers how far this workspace's second copy is; it takes no turn of a home."""
        return self._readers[zlib.crc32(workspace.workspace_id.encode()) % len(self._readers)]

    async def _home_call(
        self,
        order: int,
        workspace: WorkspaceName,
        method: str,
        params: Any,
        answer: type[Any],
        progress: Callable[[Progress], None] | None = None,
    ) -> Any:
        # Who waits for us may limit the time without progress; the time in the queue is not this call's.
        if progress is not None:
            progress(Progress(stage=QUEUED, done=0, total=None, unit=""))
        async with self._homes.worker(order, workspace) as client:
            if progress is not None:
                progress(Progress(stage=BEGUN, done=0, total=None, unit=""))
            with self._ahead.going() if order == URGENT else contextlib.nullcontext():
                return await client.call(method, params, answer, event=Progress, on_event=progress)

    async def take_over(
        self,
        workspace: WorkspaceName,
        *,
        fence_at_least: int,
        node_id: str,
        session_id: str,
        registry_epoch: int,
    ) -> LogHead:
        params = messages.TakeOver(
            workspace=workspace,
            fence_at_least=fence_at_least,
            node_id=node_id,
            session_id=session_id,
            registry_epoch=registry_epoch,
        )
        return await self._reader().call("take_over", params, LogHead)

    async def head(self, workspace: WorkspaceName) -> LogHead | None:
        answer: LogHead | None = await self._reader().call(
            "head",
            messages.Named(workspace=workspace),
            LogHead | None,  # type: ignore[arg-type]  # msgspec takes unions as types
        )
        return answer

    async def save(
        self, plan: SavePlan, *, progress: Callable[[Progress], None] | None = None
    ) -> CheckpointResult:
        order = _ORDER.get(plan.reason, ROUTINE)
        result: CheckpointResult = await self._home_call(
            order, plan.workspace, "save", messages.Save(plan=plan), CheckpointResult, progress
        )
        return result

    async def pending(self, workspace: WorkspaceName, *, home: str) -> PendingLook:
        return await self._reader().call(
            "pending", messages.Pending(workspace=workspace, home=home), PendingLook
        )

    async def prove(
        self, workspace: WorkspaceName, *, session_id: str, fence: int, seq: int, hash: bytes, home: str
    ) -> EndProof:
        look = messages.Look(
            workspace=workspace, session_id=session_id, fence=fence, seq=seq, hash=hash, home=home
        )
        proof: EndProof = await self._home_call(URGENT, workspace, "prove", look, EndProof)
        return proof

    async def last_look(
        self,
        workspace: WorkspaceName,
        *,
        session_id: str,
        fence: int,
        seq: int,
        hash: bytes,
        home: str,
        accepted: bool = False,
    ) -> LastLook:
        look = messages.Look(
            workspace=workspace,
            session_id=session_id,
            fence=fence,
            seq=seq,
            hash=hash,
            home=home,
            accepted=accepted,
        )
        found: LastLook = await self._home_call(URGENT, workspace, "last_look", look, LastLook)
        return found

    async def new_home(
        self,
        workspace: WorkspaceName,
        *,
        fence: int,
        seq: int | None,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        params = messages.NewHome(workspace=workspace, fence=fence, seq=seq, owner=owner)
        report: RestoreReport = await self._home_call(
            URGENT, workspace, "new_home", params, RestoreReport, progress
        )
        return report

    async def history(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        return await self._reader().call("history", messages.Named(workspace=workspace), list[CheckpointInfo])

    async def folder(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, after: bytes, prefix: bytes, limit: int
    ) -> FolderPage:
        params = messages.FolderPart(
            workspace=workspace, seq=seq, path=path, after=after, prefix=prefix, limit=limit
        )
        return await self._reader().call("folder", params, FolderPage)

    def read(self, workspace: WorkspaceName, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        params = messages.AtPath(workspace=workspace, seq=seq, path=path)
        return self._reader().stream("read", params, bytes)

    def archive(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, kind: str = "zip", checked: bool = False
    ) -> AsyncIterator[bytes]:
        params = messages.Archive(workspace=workspace, seq=seq, path=path, kind=kind, checked=checked)
        return self._reader().stream("archive", params, bytes)

    async def bring_back(
        self,
        workspace: WorkspaceName,
        *,
        seq: int,
        path: bytes,
        home: str,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        params = messages.BringBack(workspace=workspace, seq=seq, path=path, home=home, owner=owner)
        report: RestoreReport = await self._home_call(
            SOON, workspace, "bring_back", params, RestoreReport, progress
        )
        return report

    async def upload(
        self,
        workspace: WorkspaceName,
        *,
        home: str,
        name: str,
        source: str,
        owner: tuple[int, int] | None,
    ) -> str:
        params = messages.Upload(workspace=workspace, home=home, name=name, source=source, owner=owner)
        return await self._reader().call("upload", params, str)

    async def put_receipt(self, workspace: WorkspaceName, *, session_id: str, body: bytes) -> bytes:
        params = messages.ReceiptOf(workspace=workspace, session_id=session_id, body=body)
        return await self._reader().call("put_receipt", params, bytes)

    async def receipt(self, workspace: WorkspaceName, *, session_id: str) -> bytes | None:
        answer: bytes | None = await self._reader().call(
            "receipt",
            messages.ReceiptOf(workspace=workspace, session_id=session_id),
            bytes | None,  # type: ignore[arg-type]  # msgspec takes unions as types
        )
        return answer

    async def verify(
        self,
        workspace: WorkspaceName,
        *,
        level: str,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[str]:
        params = messages.Verify(workspace=workspace, level=level)
        return await self._reader().call("verify", params, list[str], event=Progress, on_event=progress)

    async def forget(self, workspace: WorkspaceName, *, seqs: list[int], actor: str, reason: str) -> None:
        params = upkeep.Forget(workspace=workspace, seqs=seqs, actor=actor, reason=reason)
        await self._home_call(SOON, workspace, "forget", params, type(None))

    async def keep(self, workspace: WorkspaceName, *, seq: int, pin: bool, actor: str, reason: str) -> None:
        params = upkeep.Keep(workspace=workspace, seq=seq, pin=pin, actor=actor, reason=reason)
        await self._home_call(SOON, workspace, "keep", params, type(None))

    async def collect(
        self,
        workspace: WorkspaceName,
        *,
        actor: str,
        forget: KeepRule | None,
        witness: tuple[int, bytes] | None = None,
        renew_index: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Upkept:
        params = upkeep.Collect(
            workspace=workspace, actor=actor, forget=forget, witness=witness, renew_index=renew_index
        )
        done: Upkept = await self._home_call(ROUTINE, workspace, "collect", params, Upkept, progress)
        return done

    async def foreign(self, workspace: WorkspaceName) -> list[ForeignLook]:
        params = upkeep.Named(workspace=workspace)
        return await self._reader().call("foreign", params, list[ForeignLook])

    async def step_over(self, workspace: WorkspaceName, *, confirmed: list[tuple[int, bytes]]) -> int:
        params = upkeep.StepOver(workspace=workspace, confirmed=confirmed)
        seq: int = await self._home_call(SOON, workspace, "step_over", params, int)
        return seq

    async def told(self, workspace: WorkspaceName, *, seqs: list[int], actor: str) -> None:
        params = upkeep.Told(workspace=workspace, seqs=seqs, actor=actor)
        await self._home_call(SOON, workspace, "told", params, type(None))

    async def diff(self, workspace: WorkspaceName, *, before: int, after: int) -> Difference:
        params = upkeep.Diff(workspace=workspace, before=before, after=after)
        return await self._reader().call("diff", params, Difference)

    async def keys(self, workspace: WorkspaceName) -> KeyLook:
        return await self._keys.keys(workspace)

    async def rotate_keys(self, workspace: WorkspaceName, *, leaked: bool) -> KeyLook:
        return await self._keys.rotate_keys(workspace, leaked=leaked)

    async def store_keys(self) -> StoreKeys:
        return await self._keys.store_keys()

    async def set_recovery(self, public: bytes) -> None:
        await self._keys.set_recovery(public)

    async def rewrap(self, tenant_id: str) -> RewrapLook:
        return await self._keys.rewrap(tenant_id)

    async def rotate_tenant(self, tenant_id: str) -> RewrapLook:
        return await self._keys.rotate_tenant(tenant_id)

    async def erase(self, workspace: WorkspaceName, *, actor: str, reason: str) -> ErasedLook:
        return await self._keys.erase(workspace, actor=actor, reason=reason)

    async def tombstone(self, workspace: WorkspaceName) -> TombstoneLook | None:
        return await self._keys.tombstone(workspace)

    async def conflicts(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        params = upkeep.Named(workspace=workspace)
        return await self._reader().call("conflicts", params, list[CheckpointInfo])

    async def replicate(
        self, workspace: WorkspaceName, *, whole: bool = False, receipts: tuple[str, ...] = ()
    ) -> ReplicaLook:
        params = replica_calls.Replicate(workspace=workspace, whole=whole, receipts=receipts)
        return await self._usual_reader(workspace).call("replicate", params, ReplicaLook)

    async def second_status(self, *, probe: bool = False) -> SecondStatus:
        params = replica_calls.SecondAsk(probe=probe)
        return await self._reader().call("second_status", params, SecondStatus)

    async def verify_second(self, workspace: WorkspaceName, *, level: str) -> SecondProof:
        params = replica_calls.verify_second(workspace, level)
        return await self._reader().call("verify_second", params, SecondProof)

    async def repair(self, workspace: WorkspaceName) -> Repaired:
        params = replica_calls.Replicate(workspace=workspace)
        done: Repaired = await self._home_call(SOON, workspace, "repair", params, Repaired)
        return done

    async def promote(self, *, actor: str, reason: str) -> str:
        return await self._reader().call("promote", replica_calls.Promote(actor=actor, reason=reason), str)

    async def status(self, *, probe: bool = False) -> StoreStatus:
        told: StoreStatus = await self._readers[0].call("status", messages.Status(probe=probe), StoreStatus)
        watching, traffic = list(told.watching), list(told.traffic)
        for client in self._readers[1:]:
            with contextlib.suppress(errors.PartUnavailable):  # it is being started again
                other: StoreStatus = await client.call("status", messages.Status(probe=False), StoreStatus)
                watching += other.watching
                traffic += other.traffic
        return msgspec.structs.replace(told, watching=tuple(watching), traffic=tuple(traffic))

    async def workspaces(self) -> list[WorkspaceName]:
        return await self._reader().call("workspaces", None, list[WorkspaceName])

"""Saving without a store: a create-only log per workspace over the homes of a fake machine.

Stricter than reality: a writer with an old fence is refused, a checkpoint reads the home at its start and
lands later, and everything that should be answered from the log is. The log outlives the service.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from session_service.base.errors import BadInput, FenceMoved, NotFound, StorageUnavailable
from session_service.ports.checkpoints import (
    BadPath,
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
from session_service.ports.clock import Clock
from session_service.ports.desktops import EndProof
from session_service.ports.upkeep import Difference, ForeignLook, KeepRule, PathChange, Upkept
from tests.fakes.desktops import Home, Machine


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry: E without content, C with it."""

    seq: int
    fence: int
    session_id: str
    hash: bytes
    info: CheckpointInfo | None = None
    content: frozenset[int] = frozenset()


class Repository:
    """A `ports.checkpoints.Checkpoints`."""

    def __init__(self, *, machine: Machine, clock: Clock) -> None:
        self.machine = machine
        self.clock = clock
        self.logs: dict[str, list[Entry]] = {}
        self.receipts: dict[str, bytes] = {}
        self.down = False
        self.hang = False
        self.scan_s = 0.01
        self.upload_s = 0.0
        self.steady = False
        """A slow upload tells of its progress every minute; else it is silent."""
        self.saves: list[str] = []
        self.asked_left: list[bool] = []
        """Whether each save was to look for what an earlier one left."""
        self.upkept: list[tuple[str, tuple[int, ...], str, str]] = []
        self.restored: list[tuple[str, int, frozenset[int]]] = []
        machine.saved_in = self.content_of

    # -- what a test does to it -----------------------------------------------------------------------

    def content_of(self, workspace_id: str, seq: int, hash_: bytes) -> frozenset[int] | None:
        for entry in self.logs.get(workspace_id, []):
            if entry.seq == seq and entry.hash == hash_ and entry.info is not None:
                return entry.content
        return None

    def newest(self, workspace_id: str) -> Entry | None:
        found = [
            entry
            for entry in self.logs.get(workspace_id, [])
            if entry.info is not None and entry.info.complete
        ]
        return found[-1] if found else None

    def lose_newest(self, workspace_id: str) -> None:
        """The store loses the end of a log."""
        if self.logs.get(workspace_id):
            self.logs[workspace_id].pop()

    async def _reach(self, call: str) -> None:
        self.machine.calls.append(call)
        if self.hang:
            await asyncio.sleep(100_000)
        if self.down:
            raise StorageUnavailable("The store is down.")

    def _append(self, workspace_id: str, fence: int, session_id: str, **more: object) -> Entry:
        log = self.logs.setdefault(workspace_id, [])
        seq = len(log) + 1
        prev = log[-1].hash if log else b""
        words = f"{seq} {fence} {session_id} {sorted(more.get('content', ()))} {more}"  # type: ignore[call-overload]  # a set of numbers
        entry = Entry(seq, fence, session_id, hashlib.sha256(prev + words.encode()).digest())
        log.append(entry)
        return entry

    def _fence(self, workspace_id: str) -> int:
        return max((entry.fence for entry in self.logs.get(workspace_id, [])), default=0)

    # -- the port -------------------------------------------------------------------------------------

    async def take_over(
        self,
        workspace: WorkspaceName,
        *,
        fence_at_least: int,
        node_id: str,
        session_id: str,
        registry_epoch: int,
    ) -> LogHead:
        await self._reach("take_over")
        log = self.logs.setdefault(workspace.workspace_id, [])
        ours = [
            entry
            for entry in log
            if entry.info is None and entry.session_id == session_id and entry.fence >= fence_at_least
        ]
        if not ours or ours[-1].fence < self._fence(workspace.workspace_id):
            fence = max(fence_at_least, self._fence(workspace.workspace_id) + 1)
            self._append(workspace.workspace_id, fence, session_id)
        head = await self.head(workspace)
        assert head is not None
        return head

    async def head(self, workspace: WorkspaceName) -> LogHead | None:
        await self._reach("head")
        log = self.logs.get(workspace.workspace_id)
        if not log:
            return None
        newest = self.newest(workspace.workspace_id)
        return LogHead(
            fence=self._fence(workspace.workspace_id),
            seq=log[-1].seq,
            hash=log[-1].hash,
            newest=newest.info if newest is not None else None,
        )

    def _home(self, home: str) -> Home:
        workspace_id, _, fence = home.rpartition("/")
        found = self.machine.homes.get((workspace_id.removeprefix("/homes/"), int(fence)))
        if found is None:
            raise NotFound("There is no such home.")
        return found

    async def save(
        self, plan: SavePlan, *, progress: Callable[[Progress], None] | None = None
    ) -> CheckpointResult:
        await self._reach(f"save {plan.reason}")
        self.asked_left.append(plan.resume)
        self.saves.append(plan.reason)
        workspace_id = plan.workspace.workspace_id
        scan_ms = self.clock.wall_ms()
        home = self._home(plan.home)
        content, unreadable = frozenset(home.writes), sorted(home.unreadable)
        if progress is not None:
            progress(Progress(stage="scan", done=len(content), total=None))
        if self.steady and progress is not None:
            for minute in range(round(self.upload_s / 60)):
                await asyncio.sleep(60)
                progress(Progress(stage="upload", done=minute, total=None))
        else:
            await asyncio.sleep(self.upload_s)
        await self._reach(f"upload {plan.reason}")
        if self._fence(workspace_id) > plan.fence:
            raise FenceMoved()
        return self._saved(plan, content, unreadable, scan_ms)

    def _saved(
        self, plan: SavePlan, content: frozenset[int], unreadable: list[str], scan_ms: int
    ) -> CheckpointResult:
        workspace_id = plan.workspace.workspace_id
        newest = self.newest(workspace_id)
        plain = not (plan.final or plan.first_of_close or unreadable)
        if plain and newest is not None and newest.content == content and newest.info is not None:
            return CheckpointResult(
                info=newest.info, unchanged=True, saved_as_of_ms=scan_ms, scan_s=self.scan_s, total_s=0.1
            )
        entry = self._append(
            workspace_id, plan.fence, plan.session_id, content=content, reason=plan.reason, scan=scan_ms
        )
        info = CheckpointInfo(
            seq=entry.seq,
            hash=entry.hash,
            fence=plan.fence,
            session_id=plan.session_id,
            scan_ms=scan_ms,
            reason=plan.reason,
            complete=not unreadable,
            final=plan.final,
            frozen=plan.frozen,
            entries=len(content),
            bytes=len(content) * 100,
            new_stored_bytes=100,
            unreadable=len(unreadable),
            bad_paths=tuple(BadPath(path=path, grade="unreadable") for path in unreadable),
        )
        kept = Entry(entry.seq, entry.fence, entry.session_id, entry.hash, info, content)
        self.logs[workspace_id][-1] = kept
        return CheckpointResult(
            info=info, unchanged=False, saved_as_of_ms=scan_ms, scan_s=self.scan_s, total_s=0.1
        )

    async def pending(self, workspace: WorkspaceName, *, home: str) -> PendingLook:
        newest = self.newest(workspace.workspace_id)
        known = newest.content if newest is not None else frozenset()
        new = len(self._home(home).writes - known)
        return PendingLook(files=new, bytes=new * 100, looked_at_ms=self.clock.wall_ms())

    def _proof(
        self,
        kind: str,
        workspace: WorkspaceName,
        session_id: str,
        fence: int,
        seq: int,
        hash_: bytes,
        home: str,
    ) -> EndProof:
        return EndProof(
            kind=kind,
            workspace_id=workspace.workspace_id,
            session_id=session_id,
            fence=fence,
            seq=seq,
            hash=hash_,
            home=home,
            made_at_boot_ms=self.clock.boot_ms(),
            seal=self.machine.proof_secret,
        )

    async def prove(
        self, workspace: WorkspaceName, *, session_id: str, fence: int, seq: int, hash: bytes, home: str
    ) -> EndProof:
        await self._reach("prove")
        if self.content_of(workspace.workspace_id, seq, hash) is None:
            raise NotFound("The log does not hold this checkpoint.")
        return self._proof("verified", workspace, session_id, fence, seq, hash, home)

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
        await self._reach("last_look")
        content = self.content_of(workspace.workspace_id, seq, hash)
        lies = frozenset(self._home(home).writes)
        if content is None:
            return LastLook(same=False, proof=None, differences=("the log lacks it",))
        if lies != content:
            return LastLook(same=False, proof=None, differences=tuple(map(str, sorted(lies ^ content))))
        if self._home(home).unreadable and not accepted:
            return LastLook(same=False, proof=None, differences=("unreadable",))
        return LastLook(same=True, proof=self._proof("same", workspace, session_id, fence, seq, hash, home))

    async def new_home(
        self,
        workspace: WorkspaceName,
        *,
        fence: int,
        seq: int | None,
        owner: tuple[int, int] | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        await self._reach("new_home")
        key = (workspace.workspace_id, fence)
        content: frozenset[int] = frozenset()
        if key not in self.machine.homes:
            if seq is not None:
                found = [
                    one
                    for one in self.logs[workspace.workspace_id]
                    if one.seq == seq and one.info is not None
                ]
                if not found:
                    raise NotFound("no such checkpoint")
                content = found[0].content
            self.machine.homes[key] = Home(writes=set(content))
            self.restored.append((workspace.workspace_id, fence, content))
        path = f"/homes/{workspace.workspace_id}/{fence}"
        return RestoreReport(home=path, seq=seq, entries=len(content), bytes=0)

    async def history(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        await self._reach("history")
        return [entry.info for entry in self.logs.get(workspace.workspace_id, []) if entry.info is not None]

    async def folder(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, after: bytes, prefix: bytes, limit: int
    ) -> FolderPage:
        raise BadInput("not in this fake")

    def read(self, workspace: WorkspaceName, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        raise BadInput("not in this fake")

    def archive(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, kind: str = "zip", checked: bool = False
    ) -> AsyncIterator[bytes]:
        raise BadInput("not in this fake")

    async def upload(
        self, workspace: WorkspaceName, *, home: str, name: str, source: str, owner: tuple[int, int] | None
    ) -> str:
        raise BadInput("not in this fake")

    async def put_receipt(self, workspace: WorkspaceName, *, session_id: str, body: bytes) -> bytes:
        await self._reach("put_receipt")
        there = self.receipts.setdefault(session_id, body)
        assert there == body, "a receipt is written once"
        return hashlib.sha256(body).digest()

    async def receipt(self, workspace: WorkspaceName, *, session_id: str) -> bytes | None:
        await self._reach("receipt")
        return self.receipts.get(session_id)

    async def verify(
        self,
        workspace: WorkspaceName,
        *,
        level: str,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[str]:
        return []

    async def forget(self, workspace: WorkspaceName, *, seqs: list[int], actor: str, reason: str) -> None:
        self.upkept.append(("forget", tuple(seqs), actor, reason))

    async def keep(self, workspace: WorkspaceName, *, seq: int, pin: bool, actor: str, reason: str) -> None:
        self.upkept.append(("keep" if pin else "release", (seq,), actor, reason))

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
        self.upkept.append(("collect", (), actor, workspace.workspace_id))
        return Upkept(deleted_objects=2, deleted_bytes=1_000)

    async def foreign(self, workspace: WorkspaceName) -> list[ForeignLook]:
        return [ForeignLook(seq=3, hash=bytes(32), size=7, why="it does not open")]

    async def step_over(self, workspace: WorkspaceName, *, confirmed: list[tuple[int, bytes]]) -> int:
        self.upkept.append(("step over", tuple(seq for seq, _ in confirmed), "", ""))
        return max(seq for seq, _ in confirmed) + 1

    async def told(self, workspace: WorkspaceName, *, seqs: list[int], actor: str) -> None:
        self.upkept.append(("told", tuple(seqs), actor, ""))

    async def diff(self, workspace: WorkspaceName, *, before: int, after: int) -> Difference:
        change = PathChange(path="letter", what="changed", size_before=1, size_after=2)
        return Difference(changes=(change,))

    async def conflicts(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        return []

    async def status(self, *, probe: bool = False) -> StoreStatus:
        return StoreStatus(url="fake:", usable=not self.down, verdict=())

    async def workspaces(self) -> list[WorkspaceName]:
        return []

"""Checkpoints for tests of the HTTP side: a few trees in memory, and a store that can be told to fail or
to hang.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from session_service.base import errors
from session_service.ports.checkpoints import (
    BadPath,
    CheckpointInfo,
    FolderEntry,
    FolderPage,
    Progress,
    RestoreReport,
    StoreStatus,
    WorkspaceName,
)
from session_service.ports.damage import LeftOut
from session_service.ports.keys import (
    ErasedLook,
    KeyLook,
    RewrapLook,
    StoreKeys,
    TenantKeys,
    TombstoneLook,
)
from session_service.ports.upkeep import (
    Difference,
    ForeignLook,
    KeepRule,
    PathChange,
    Upkept,
)
from tests.fakes.http_control import checkpoint

HOSTILE_NAME = b'a "b"\\\xff\n;.txt'


class HttpFiles:
    """The calls of `ports.checkpoints.Checkpoints` that HTTP uses; any other is a mistake."""

    def __init__(self) -> None:
        self.files: dict[bytes, bytes] = {
            b"notes.txt": b"hello world",
            b"docs/plan.txt": b"<script>alert(1)</script>",
            b"docs/" + HOSTILE_NAME: b"odd",
        }
        self.failure: Exception | None = None
        self.fails_after: int | None = None
        self.left_out: list[LeftOut] = []
        self.hangs = False
        self.hanging = 0
        self.uploaded: list[tuple[str, str, bytes, tuple[int, int] | None]] = []
        self.reading = 0
        self.upkept: list[tuple[str, tuple[int, ...], str, str]] = []
        self.recovery_id = ""
        self.erasures_fail = 0
        self.second_erased = ""
        self.locked = 0
        self.tombstones: dict[str, TombstoneLook] = {}

    async def history(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        await self._answer()
        return [checkpoint(seq, session_id="0" * 26, scan_ms=seq * 1000) for seq in range(1, 6)]

    async def folder(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, after: bytes, prefix: bytes, limit: int
    ) -> FolderPage:
        await self._answer()
        self._known(seq)
        top = path + b"/" if path else b""
        names: dict[bytes, bytes | None] = {}
        for name, body in self.files.items():
            if name.startswith(top):
                first, _, rest = name[len(top) :].partition(b"/")
                names[first] = None if rest else body
        if not names:
            raise errors.NotFound()
        wanted = sorted(name for name in names if name > after and name.startswith(prefix))
        entries = [
            FolderEntry(
                name=name.decode("utf-8", "replace"),
                raw_name=name,
                kind="folder" if names[name] is None else "file",
                size=len(names[name] or b""),
                mode=0o644,
                mtime_ms=1_700_000_000_123,
            )
            for name in wanted[:limit]
        ]
        return FolderPage(entries=entries, more=len(wanted) > limit)

    async def read(self, workspace: WorkspaceName, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        self.reading += 1
        try:
            await self._answer()
            self._known(seq)
            if path not in self.files:
                raise errors.NotFound()
            body = self.files[path]
            for place in range(0, len(body), 4):
                if self.fails_after is not None and place >= self.fails_after:
                    raise errors.StorageUnavailable()
                yield body[place : place + 4]
        finally:
            self.reading -= 1

    async def archive(
        self, workspace: WorkspaceName, *, seq: int, path: bytes, kind: str = "zip", checked: bool = False
    ) -> AsyncIterator[bytes]:
        await self._answer()
        self._known(seq)
        yield b"PK\x05\x06" + bytes(18)

    async def bring_back(
        self,
        workspace: WorkspaceName,
        *,
        seq: int,
        path: bytes,
        home: str,
        owner: object,
        progress: object = None,
    ) -> RestoreReport:
        await self._answer()
        self._known(seq)
        return RestoreReport(
            home="Restored/2026-01-01 00.00.00",
            seq=seq,
            entries=1,
            bytes=5,
            differs=(BadPath(path="docs/tool", grade="setuid"),),
            left_out=tuple(self.left_out),
            left_out_count=len(self.left_out),
        )

    async def upload(
        self,
        workspace: WorkspaceName,
        *,
        home: str,
        name: str,
        source: str,
        owner: tuple[int, int] | None,
    ) -> str:
        await self._answer()
        body = await asyncio.to_thread(Path(source).read_bytes)
        self.uploaded.append((home, name, body, owner))
        return os.path.join("Uploads", name)

    async def verify(
        self,
        workspace: WorkspaceName,
        *,
        level: str,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[str]:
        await self._answer()
        if progress is not None:
            progress(Progress(stage="verify", done=1, total=2, unit="objects"))
            progress(Progress(stage="verify", done=2, total=2, unit="objects"))
            progress(Progress(stage="trees", done=1, total=1, unit="folders"))
            await asyncio.sleep(0)
            progress(Progress(stage="packs", done=1, total=1, unit="packs"))
        return ["one fault"] if level == "full" else []

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

    async def keys(self, workspace: WorkspaceName) -> KeyLook:
        return KeyLook(master_key_id="aa", key_epoch=1)

    async def rotate_keys(self, workspace: WorkspaceName, *, leaked: bool) -> KeyLook:
        self.upkept.append(("rotate", (), "", str(leaked)))
        return KeyLook(master_key_id="aa", key_epoch=2)

    async def erase(self, workspace: WorkspaceName, *, actor: str, reason: str) -> ErasedLook:
        self.upkept.append(("erase", (), actor, reason))
        if self.erasures_fail:
            self.erasures_fail -= 1
            raise errors.StorageUnavailable("planned")
        repeated = workspace.workspace_id in self.tombstones
        self.tombstones[workspace.workspace_id] = TombstoneLook(actor=actor, at_ms=1, reason=reason)
        objects = 0 if repeated else 5
        return ErasedLook(
            actor=actor,
            at_ms=1,
            slots=1,
            objects=objects,
            size=9,
            receipt=b"r",
            second=self.second_erased,
            locked=self.locked,
            locked_keys=min(1, self.locked),
            locked_until_ms=86_400_000 if self.locked else None,
        )

    async def tombstone(self, workspace: WorkspaceName) -> TombstoneLook | None:
        return self.tombstones.get(workspace.workspace_id)

    async def store_keys(self) -> StoreKeys:
        tenant = TenantKeys(
            tenant_id="0" * 26,
            keys=1,
            opened=1,
            under_master=1,
            under_previous=0,
            under_recovery=len(self.recovery_id) // 16,
            under_other_codes=0,
        )
        return StoreKeys(
            master_key_id="aa",
            key_backed_up=bool(self.recovery_id),
            recovery_id=self.recovery_id,
            kms_key="",
            tenants=(tenant,),
            refused=(),
        )

    async def set_recovery(self, public: bytes) -> None:
        self.recovery_id = public.hex()[:16]

    async def rewrap(self, tenant_id: str) -> RewrapLook:
        self.upkept.append(("rewrap", (), "", tenant_id))
        return RewrapLook(tenants=1, workspaces=2, made=1, removed=1)

    async def rotate_tenant(self, tenant_id: str) -> RewrapLook:
        self.upkept.append(("rotate_tenant", (), "", tenant_id))
        return RewrapLook(tenants=1, workspaces=2, made=1, removed=1)

    async def conflicts(self, workspace: WorkspaceName) -> list[CheckpointInfo]:
        return [checkpoint(9, session_id="0" * 26, scan_ms=1)]

    async def status(self, *, probe: bool = False) -> StoreStatus:
        await self._answer()
        return StoreStatus(
            url="file:///store",
            usable=True,
            verdict=(("create_only", True, True, "the second create was refused"),),
            key_backed_up=False,
            key_id="k1",
            error="none so far",
        )

    async def _answer(self) -> None:
        if self.hangs:
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        if self.failure is not None:
            raise self.failure

    def _known(self, seq: int) -> None:
        if not 1 <= seq <= 5:
            raise errors.NotFound()

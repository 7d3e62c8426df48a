"""The storage worker: the process that reads and writes homes and speaks to the object store.

It has no listening port, no registry and no desktop; it holds the master key and file capabilities only.
Hostile files are parsed
here and nowhere else. Killing it loses nothing: what was not committed is done again by another call.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

import storage
from session_service.base import errors, log, priority, rpc
from session_service.base.ids import hex_to_ulid, ulid_to_hex
from session_service.base.layout import Layout
from session_service.checkpoints import (
    homes,
    key_calls,
    keyring,
    messages,
    quiet,
    replica_calls,
    translate,
    upkeep,
)
from session_service.checkpoints.emitter import Emitter
from session_service.checkpoints.key_sources import KeySources
from session_service.checkpoints.standing_back import StandingBack
from session_service.core import proof
from session_service.ports.checkpoints import (
    CheckpointInfo,
    CheckpointResult,
    FolderPage,
    LastLook,
    LogHead,
    PendingLook,
    RestoreReport,
    SavePlan,
    StoreStatus,
    WorkspaceName,
)
from session_service.ports.desktops import EndProof

DIFFERENCES_MAX: Final = 20
LEVELS: Final[Mapping[str, Literal["structure", "sample", "full"]]] = {
    "structure": "structure",
    "sample": "sample",
    "full": "full",
}

ARCHIVES: Final[Mapping[str, Literal["zip", "tar"]]] = {"zip": "zip", "tar": "tar"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told at its start."""

    layout: Layout
    number: int
    store_url: str
    own_store: bool
    """The store is the folder in our state folder: made on the first start, and only then."""
    credentials_file: Path | None
    keys: KeySources
    service_uid: int
    service_gid: int
    second_url: str | None = None
    second_credentials_file: Path | None = None
    watch_group: int | None = None
    """A descriptor of fanotify that the parent has opened; inotify without it."""
    workers: int = 1
    """How many there are on this machine; each watches the homes that it saves, with a share of the line."""
    upload_bytes_per_s: float | None = None
    """What all workers together may send to the store; None: as much as the line carries."""
    download_bytes_per_s: float | None = None


def wall_ms() -> int:
    """UTC milliseconds, for display in log entries."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """CLOCK_BOOTTIME in milliseconds, for the age of proofs on this machine."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _ref(workspace: WorkspaceName) -> storage.WorkspaceRef:
    return storage.WorkspaceRef(
        tenant=ulid_to_hex(workspace.tenant_id), workspace=ulid_to_hex(workspace.workspace_id)
    )


class Worker:
    """Answers the calls of the service about homes and checkpoints."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._storage: storage.Storage | None = None
        self._watching: storage.Watching | None = None
        self._quiet = quiet.QuietHomes(clock_s=time.monotonic, wall_ms=wall_ms)
        self._second: storage.Storage | None = None
        self._witness: bytes | None = None
        self._opening = asyncio.Lock()
        self._priority = StandingBack(clock_s=time.monotonic, able=priority.may_return())
        self._opened_ms = 0
        self._status = StoreStatus(url=settings.store_url, usable=False, verdict=(), error="not opened yet")

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        """Return what runs beside the calls; one worker of a machine sweeps."""
        return [key_calls.sweep_for_ever(self._open)] if self._settings.number == 0 else []

    async def _open(self) -> storage.Storage:
        async with self._opening:
            witness = replica_calls.read_witness(self._layout.keys)
            if self._storage is not None and self._witness != witness:
                try:
                    await self._storage.require_main(witness)
                except storage.NotMain:
                    # Another worker named a new main store. What runs on the old one ends by itself.
                    self._storage = None
                    raise
                self._witness = witness
            if self._storage is None:
                self._storage = await self._open_store()
                self._opened_ms = wall_ms()
            return self._storage

    async def _open_second(self) -> storage.Storage:
        """Open the second store as if it were the only one, to look at what stands there."""
        spec = self._second_spec()
        async with self._opening:
            if self._second is None:
                ways = await self._settings.keys.ways()
                if spec is None or ways is None:
                    raise errors.StorageRefused("there is no second store, or no key to read it with")
                self._second = await storage.Storage.open(
                    spec,
                    master_key=ways,
                    reread=self._settings.keys.required_ways,
                    cache_folder=self._layout.cache / f"second-{self._settings.number}",
                    clock_ms=wall_ms,
                )
            return self._second

    def _watched(self) -> storage.Watching:
        """Return what tells of changes in homes; it outlives a store that is opened again."""
        if self._watching is None:
            told = self._settings
            self._watching = storage.open_watching(
                self._layout.homes, group=told.watch_group, share=1 / told.workers
            )
        return self._watching

    def close(self) -> None:
        """Stop watching homes; the rest ends with the process."""
        if self._watching is not None:
            self._watching.close()

    async def _open_store(self) -> storage.Storage:
        sources = self._settings.keys
        ways = await sources.ways()
        spec = self._spec(create=self._settings.own_store and sources.is_first_start())
        if ways is None:
            if await storage.has_repositories(spec):
                raise errors.StorageRefused(
                    f"the store holds checkpoints but the master key {sources.file} is missing: put the copy "
                    "back, or open the store with the recovery code: session-service keys open"
                )
            key = keyring.make(sources.file)
            log.get_logger().info("key.created", key=keyring.name_of(key), file=str(sources.file))
            ways = await sources.required_ways()
        opened = await storage.Storage.open(
            spec,
            master_key=ways,
            reread=sources.required_ways,
            signers=sources.signers(),
            cache_folder=self._layout.cache / f"worker-{self._settings.number}",
            fresh=os.urandom,
            clock_ms=wall_ms,
            second=self._second_spec(),
            watching=self._watched(),
            limits=self._share_of_line(),
        )
        try:
            await self._require_usable(opened, ways)
        except BaseException:
            await opened.close()  # a store that is full, say, is opened again every few seconds
            raise
        return opened

    async def _require_usable(self, opened: storage.Storage, ways: storage.KeyWays) -> None:
        """Let the store show what it does, and look whether it is the main one still."""
        sources = self._settings.keys
        verdict = await opened.probe()
        sources.remember_signers(opened.signers)
        safe = sources.is_safe(ways.master)
        self._status = translate.status(self._settings.store_url, verdict, ways.master, safe=safe)
        if not verdict.usable:
            raise errors.StorageRefused("the object store does not keep its promises: " + self._status.error)
        kept = await opened.require_main(replica_calls.read_witness(self._layout.keys))
        replica_calls.write_witness(self._layout.keys, kept)
        self._witness = replica_calls.read_witness(self._layout.keys)

    def _share_of_line(self) -> storage.LineLimits | None:
        """Each worker has the same part, also while others rest: so a close finds its own part free."""
        told = self._settings
        up, down = told.upload_bytes_per_s, told.download_bytes_per_s
        if up is None and down is None:
            return None
        return storage.LineLimits(
            upload_bytes_per_s=None if up is None else up / told.workers,
            download_bytes_per_s=None if down is None else down / told.workers,
        )

    def _second_spec(self) -> storage.StoreSpec | None:
        url, file = self._settings.second_url, self._settings.second_credentials_file
        return None if url is None else storage.StoreSpec(url=url, credentials_file=file)

    def _spec(self, *, create: bool) -> storage.StoreSpec:
        """Our own folder is made on the very first start only: later an empty one is an unmounted disk."""
        url = self._settings.store_url + ("?create=true" if create else "")
        return storage.StoreSpec(url=url, credentials_file=self._settings.credentials_file)

    def handlers(self) -> dict[str, rpc.Handler]:
        """Return every call by name, with storage's errors turned into ours."""
        names = (
            "take_over", "head", "save", "pending", "prove", "last_look", "new_home", "history", "folder",
            "read", "archive", "bring_back", "upload", "put_receipt", "receipt", "verify", "status",
            "workspaces",
        )  # fmt: skip
        mine = {name: getattr(self, name) for name in names}
        for name in ("prove", "last_look", "new_home"):
            mine[name] = self._urgently(mine[name])
        mine["stand_back"] = self._priority.stand_back
        tidying = upkeep.UpkeepCalls(self._open)
        mine |= {name: getattr(tidying, name) for name in upkeep.CALLS}
        about_keys = key_calls.KeyCalls(self._open, self._settings.keys)
        mine |= {name: getattr(about_keys, name) for name in key_calls.CALLS}
        copying = replica_calls.ReplicaCalls(
            opened=self._open,
            second=self._open_second,
            main_spec=self._spec(create=False),
            second_spec=self._second_spec(),
            keys_folder=self._layout.keys,
            clock_ms=wall_ms,
        )
        mine |= {name: getattr(copying, name) for name in replica_calls.CALLS}
        return {name: _translated(method) for name, method in mine.items()}

    def _urgently(self, method: rpc.Handler) -> rpc.Handler:
        async def handler(call: rpc.Call) -> Any:
            with self._priority.urgent():
                return await method(call)

        return handler

    async def take_over(self, call: rpc.Call) -> LogHead:
        ask = call.params(messages.TakeOver)
        store = await self._open()
        head = await store.take_over(
            _ref(ask.workspace),
            fence_at_least=ask.fence_at_least,
            node=ask.node_id,
            session=ulid_to_hex(ask.session_id),
            registry_epoch=ask.registry_epoch,
        )
        return translate.head(head)

    async def head(self, call: rpc.Call) -> LogHead | None:
        head = await (await self._open()).head(_ref(call.params(messages.Named).workspace))
        return None if head is None else translate.head(head)

    async def save(self, call: rpc.Call) -> CheckpointResult:
        plan = call.params(messages.Save).plan
        closes = plan.final or plan.first_of_close
        with self._priority.urgent() if closes else contextlib.nullcontext():
            return await self._save(call, plan)

    async def _save(self, call: rpc.Call, plan: SavePlan) -> CheckpointResult:
        home = self._home(plan.workspace, plan.home, plan.fence)
        store = await self._open()
        known = await asyncio.to_thread(self._quiet.answer, plan, self._watched().clean_since)
        if known is not None:
            return known
        self._quiet.drop(plan)
        result = await store.checkpoint(
            _ref(plan.workspace),
            home=home,
            fence=plan.fence,
            session=ulid_to_hex(plan.session_id),
            reason=plan.reason,
            frozen=plan.frozen,
            final=plan.final,
            first_of_close=plan.first_of_close,
            conflict=plan.reason == "conflict",
            resume=plan.resume,
            progress=Emitter(call),
        )
        answer = translate.result(result)
        if plan.reason != "conflict":
            self._quiet.keep(plan, answer)
        return answer

    async def pending(self, call: rpc.Call) -> PendingLook:
        ask = call.params(messages.Pending)
        home = self._home(ask.workspace, ask.home)
        found = await (await self._open()).pending(_ref(ask.workspace), home=home)
        return PendingLook(files=found.files, bytes=found.bytes, looked_at_ms=wall_ms())

    async def prove(self, call: rpc.Call) -> EndProof:
        ask = call.params(messages.Look)
        self._home(ask.workspace, ask.home, ask.fence)
        await (await self._open()).prove(_ref(ask.workspace), seq=ask.seq, hash=ask.hash)
        return self._seal("verified", ask)

    async def last_look(self, call: rpc.Call) -> LastLook:
        ask = call.params(messages.Look)
        home = self._home(ask.workspace, ask.home, ask.fence)
        store = await self._open()
        try:
            found = await store.same_as(
                _ref(ask.workspace), seq=ask.seq, hash=ask.hash, home=home, accepted=ask.accepted
            )
        except storage.NoSuchCheckpoint:
            return LastLook(same=False, proof=None, differences=("the log does not hold it any more",))
        words = tuple(translate.path(path) for path in found.paths[:DIFFERENCES_MAX])
        return LastLook(
            same=found.same, proof=self._seal("same", ask) if found.same else None, differences=words
        )

    def _home(self, workspace: WorkspaceName, home: str, fence: int | None = None) -> Path:
        return homes.checked(self._layout, home, workspace_id=workspace.workspace_id, fence=fence)

    def _seal(self, kind: str, ask: messages.Look) -> EndProof:
        key = self._layout.seal_key.read_bytes()
        unsealed = EndProof(
            kind=kind,
            workspace_id=ask.workspace.workspace_id,
            session_id=ask.session_id,
            fence=ask.fence,
            seq=ask.seq,
            hash=ask.hash,
            home=ask.home,
            made_at_boot_ms=boot_ms(),
            seal=b"",
        )
        return msgspec.structs.replace(unsealed, seal=proof.seal_of(unsealed, key))

    async def new_home(self, call: rpc.Call) -> RestoreReport:
        ask = call.params(messages.NewHome)
        home = self._layout.home(ask.workspace.workspace_id, ask.fence)
        with homes.sole_maker(home):
            if home.exists():
                return RestoreReport(home=str(home), seq=ask.seq, entries=0, bytes=0)
            began = time.monotonic()
            if ask.seq is None:
                await _to_its_end(homes.drop_drafts, home)
                await _to_its_end(homes.make_empty, home, ask.owner)
                return RestoreReport(home=str(home), seq=None, entries=0, bytes=0)
            draft = homes.draft_of(home, ask.seq)
            await _to_its_end(partial(homes.drop_drafts, home, but=draft))
            try:
                report = await self._restored(ask, ask.seq, draft, call)
            except storage.TargetNotEmpty:  # it cannot be taken up, or only in part: begun anew, once
                await _to_its_end(homes.drop_drafts, home)
                report = await self._restored(ask, ask.seq, draft, call)
            await _to_its_end(homes.publish, draft, home, ask.owner)
            return translate.restored(str(home), report, time.monotonic() - began)

    async def _restored(
        self, ask: messages.NewHome, seq: int, draft: Path, call: rpc.Call
    ) -> storage.RestoreReport:
        """Fill a draft, going on from what a call that was cut off has finished."""
        return await (await self._open()).restore(
            _ref(ask.workspace),
            seq=seq,
            into=draft,
            owner=ask.owner,
            becomes_home=True,
            resumable=True,
            seed=homes.earlier(self._layout.home(ask.workspace.workspace_id, ask.fence)),
            progress=Emitter(call),
        )

    async def history(self, call: rpc.Call) -> list[CheckpointInfo]:
        found = await (await self._open()).list(_ref(call.params(messages.Named).workspace))
        return [translate.info(item) for item in found]

    async def folder(self, call: rpc.Call) -> FolderPage:
        ask = call.params(messages.FolderPart)
        store = await self._open()
        found = await store.folder(
            _ref(ask.workspace),
            seq=ask.seq,
            path=ask.path,
            after=ask.after,
            prefix=ask.prefix,
            limit=ask.limit,
        )
        return translate.page(found)

    async def read(self, call: rpc.Call) -> None:
        ask = call.params(messages.AtPath)
        await _pass_on(call, (await self._open()).read(_ref(ask.workspace), seq=ask.seq, path=ask.path))

    async def archive(self, call: rpc.Call) -> None:
        ask = call.params(messages.Archive)
        store = await self._open()
        kind = ARCHIVES.get(ask.kind)
        if kind is None:
            raise errors.BadInput(f"an archive is one of {', '.join(ARCHIVES)}", kind=ask.kind)
        pieces = store.archive(
            _ref(ask.workspace), seq=ask.seq, path=ask.path, kind=kind, checked=ask.checked
        )
        await _pass_on(call, pieces)

    async def bring_back(self, call: rpc.Call) -> RestoreReport:
        ask = call.params(messages.BringBack)
        home = self._home(ask.workspace, ask.home)
        began = time.monotonic()
        store = await self._open()
        draft = homes.draft_of(home)
        try:
            report = await store.restore(
                _ref(ask.workspace),
                seq=ask.seq,
                path=ask.path,
                into=draft,
                owner=ask.owner,
                seed=home,  # most of it is there, as a rule, and needs no fetching
                progress=Emitter(call),
            )
            if report.left_out and not report.entries:
                raise _nothing_given(report)
            where = await asyncio.to_thread(homes.put_restored, draft, home, ask.owner)
        finally:
            await asyncio.to_thread(homes.drop_draft, draft)
        return translate.restored(where, report, time.monotonic() - began)

    async def upload(self, call: rpc.Call) -> str:
        ask = call.params(messages.Upload)
        home = self._home(ask.workspace, ask.home)
        return await asyncio.to_thread(homes.put_upload, self._layout, home, ask.name, ask.source, ask.owner)

    async def put_receipt(self, call: rpc.Call) -> bytes:
        ask = call.params(messages.ReceiptOf)
        store = await self._open()
        return await store.put_receipt(
            _ref(ask.workspace), session=ulid_to_hex(ask.session_id), body=ask.body
        )

    async def receipt(self, call: rpc.Call) -> bytes | None:
        ask = call.params(messages.ReceiptOf)
        return await (await self._open()).receipt(_ref(ask.workspace), session=ulid_to_hex(ask.session_id))

    async def verify(self, call: rpc.Call) -> list[str]:
        ask = call.params(messages.Verify)
        if ask.level not in LEVELS:
            raise errors.BadInput(f"a level is one of {', '.join(LEVELS)}", level=ask.level)
        store = await self._open()
        report = await store.verify(_ref(ask.workspace), level=LEVELS[ask.level], progress=Emitter(call))
        return list(report.faults)

    async def status(self, call: rpc.Call) -> StoreStatus:
        ask = call.params(messages.Status)
        try:
            store = await self._open()
            if ask.probe:
                verdict = await store.probe()
                self._status = translate.status(
                    self._settings.store_url, verdict, store.master_key, safe=False
                )
            safe = self._settings.keys.is_safe(store.master_key)
            name = keyring.name_of(store.master_key)
            watching = (translate.watching(self._watched().tally()),)
            traffic = (translate.traffic(self._settings.number, self._opened_ms, store.traffic()),)
            return msgspec.structs.replace(
                self._status, key_backed_up=safe, key_id=name, watching=watching, traffic=traffic
            )
        except (errors.SessionError, storage.StorageError) as exc:
            return StoreStatus(url=self._settings.store_url, usable=False, verdict=(), error=str(exc))

    async def workspaces(self, call: rpc.Call) -> list[WorkspaceName]:
        return [
            WorkspaceName(tenant_id=hex_to_ulid(ref.tenant), workspace_id=hex_to_ulid(ref.workspace))
            for ref in await (await self._open()).workspaces()
        ]


def _nothing_given(report: storage.RestoreReport) -> errors.FilesDamaged:
    [first, *_] = translate.left_out(report.left_out)
    words = f"Nothing of it can be given: {first.object} of the store is damaged: {first.reason}"
    return errors.FilesDamaged(words, object=first.object)


async def _to_its_end(work: Callable[..., None], *args: Any) -> None:
    """Run something in a thread. Whoever is cut off meanwhile still waits for its end: a thread cannot be
    stopped, and what it does to a home must be over before somebody else may begin.
    """
    running = asyncio.get_running_loop().run_in_executor(None, partial(work, *args))
    cut_off: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as exc:
            cut_off = exc
    if cut_off is not None:
        raise cut_off
    running.result()


async def _pass_on(call: rpc.Call, pieces: AsyncIterator[bytes]) -> None:
    async for piece in pieces:
        await call.event(piece)


def _translated(method: Callable[[rpc.Call], Awaitable[Any]]) -> rpc.Handler:
    async def handler(call: rpc.Call) -> Any:
        try:
            return await method(call)
        except storage.StorageError as exc:
            raise translate.error(exc) from exc

    return handler


async def run(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Serve until `stop`; the store is opened on first use, and a later call tries again if it was away."""
    worker = Worker(settings)
    server = rpc.Server(
        settings.layout.worker_socket(settings.number),
        worker.handlers(),
        peer_uids=frozenset({settings.service_uid, os.geteuid(), 0}),
    )
    await server.start(mode=0o660, gid=settings.service_gid if os.getgid() != settings.service_gid else None)
    async with asyncio.TaskGroup() as beside:
        beside_us = [beside.create_task(work, name="sweep-erased") for work in worker.beside()]
        await stop.wait()
        for task in beside_us:
            task.cancel()
    await server.close()
    worker.close()

"""The front door of `storage`: open a store, and save, look at, prove and restore homes in it.

Takes and returns plain data, tells progress, can be cancelled at any await. Disk and CPU work runs in a
bounded pool of threads. It knows nothing of sessions: `session` and `node` are texts that it keeps. One
process may serve many workspaces; calls that write a workspace's log wait for each other, reading does not
wait.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

from storage.errors import (
    IdRefused,
    NoSuchCheckpoint,
    StorageError,
    StoreUnavailable,
    StoreUnsafe,
)
from storage.format import names
from storage.format.entries import CheckpointFlag, EntryKind
from storage.format.secrets import ReceiptSigner
from storage.ids import WorkspaceRef
from storage.objects.open import open_store
from storage.objects.probe import probe
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.store import ObjectStore, ProbeVerdict
from storage.ops import archive, save
from storage.ops.browse import Browser, checkpoint_info, entry_info
from storage.ops.checkpointing import Checkpointing
from storage.ops.conflict import ConflictSaving, side_infos
from storage.ops.diff import compare
from storage.ops.erasure import Erasure, ErasureReport
from storage.ops.gather import ignore_progress
from storage.ops.look import count_pending, differing_paths, look_again
from storage.ops.receipts import Receipts
from storage.ops.restore import Restore
from storage.ops.upkeep import Upkeep, UpkeepReport
from storage.ops.values import (
    ArchiveKind,
    CheckpointInfo,
    CheckpointResult,
    Diff,
    Differences,
    EntryInfo,
    KeyReport,
    Level,
    LogHead,
    Pending,
    Progress,
    RestoreReport,
    StoreSpec,
    VerifyReport,
)
from storage.ops.workspace import Workspace, Workspaces
from storage.repository.retention import Retention
from storage.repository.scrub import Scrub
from storage.repository.slots import Keyring
from storage.repository.state import LogState, Row
from storage.repository.threads import Stop, Threads
from storage.repository.verify import VerifiedCheckpoint

RETRY: Final = RetryPolicy(give_up_after_s=20.0)
"""A call that cannot reach the store says so after this; whoever closes a session calls again for ever."""

T = TypeVar("T")
Rows: TypeAlias = list[T]
"""A list; `Storage` has a method of that name."""
Tell = Callable[[Progress], None]


class Storage:
    """Checkpoints of homes in one object store. Made by `open`; also an asynchronous context manager."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        master_key: bytes,
        cache_folder: Path,
        fresh: Callable[[int], bytes],
        clock_ms: Callable[[], int],
        retry: RetryPolicy = RETRY,
    ) -> None:
        """Take a store that is open already. `open` is the usual way."""
        self._bare = store
        self._store = RetryingStore(store, retry)
        self._keyring = Keyring(self._store, master_key, fresh)
        self._signer = ReceiptSigner(master_key)
        self._fresh = fresh
        self._clock_ms = clock_ms
        self._threads = Threads()
        self._known = Workspaces(
            self._store,
            self._keyring,
            self._threads,
            cache_folder=cache_folder,
            clock_ms=clock_ms,
        )

    @classmethod
    async def open(
        cls,
        spec: StoreSpec,
        *,
        master_key: bytes,
        cache_folder: Path,
        fresh: Callable[[int], bytes] = os.urandom,
        clock_ms: Callable[[], int],
        retry: RetryPolicy = RETRY,
    ) -> "Storage":
        """Open the store of a spec.

        Call `probe` before anything is entrusted to a store for the first time.
        """
        store = await _open_bare(spec)
        return cls(
            store,
            master_key=master_key,
            cache_folder=cache_folder,
            fresh=fresh,
            clock_ms=clock_ms,
            retry=retry,
        )

    async def __aenter__(self) -> "Storage":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back threads and connections. Nothing is lost by not calling it."""
        await asyncio.to_thread(self._threads.close)
        await self._store.close()

    async def probe(self) -> ProbeVerdict:
        """Let the store show what the commit log relies on. A store that is not usable must not be used."""
        return await probe(self._bare)

    async def require_safe(self) -> None:
        """Probe the store; raise StoreUnsafe unless it keeps every needed promise."""
        verdict = await self.probe()
        if not verdict.usable:
            broken = [one.name for one in verdict.checks if one.needed and not one.passed]
            raise StoreUnsafe(broken=", ".join(broken))

    async def take_over(
        self, ref: WorkspaceRef, *, fence_at_least: int, node: str, session: str, registry_epoch: int
    ) -> LogHead:
        """Take a workspace over: place E with a fence above every one in the log, and read the log after it.

        Births the repository where there is none. A session that has taken it over already, and nobody after
        it, keeps its fence: a start that is tried again leaves no trail. The returned head is read after E
        stands, so its newest checkpoint is final: nobody with a lower fence can add one that counts.

        Raises:
            FenceMoved: somebody took it over after us, before this could return.
        """
        workspace = await self._known.born(ref)
        writer = save.EntryWriter(keys=workspace.keys.newest, fresh=self._fresh, clock_ms=self._clock_ms)

        def plan(state: LogState) -> bytes:
            own = _own_take_over(state, session)
            if own is not None and own.fence >= fence_at_least and own.seq not in fallen:
                raise _Standing(own)
            return writer.take_over(
                state,
                fence_at_least=fence_at_least,
                node=node,
                session=session,
                registry_epoch=registry_epoch,
            )

        fallen: set[int] = set()
        async with workspace.lock:
            while True:
                try:
                    placed = await workspace.log.append(plan)
                except _Standing as standing:
                    row = standing.row
                    if await workspace.log.row_stands(row):
                        break
                    fallen.add(row.seq)
                else:
                    row = placed.row
                    await workspace.verifier.placed(placed)
                    break
            state = await workspace.log.refresh()
            await workspace.log.save_cache()
        # The log may hold a later E already: its fence is another owner's, never to be returned as ours.
        save.require_fence(state, row.fence)
        return _head(state)

    async def head(self, ref: WorkspaceRef) -> LogHead | None:
        """Return where the log stands; None only if it cleanly does not exist."""
        workspace = await self._known.opened(ref)
        if workspace is None:
            return None
        state = await self._refreshed(workspace)
        return _head(state) if state.seq else None

    async def checkpoint(
        self,
        ref: WorkspaceRef,
        *,
        home: Path,
        fence: int,
        session: str,
        reason: str,
        frozen: bool = False,
        final: bool = False,
        first_of_close: bool = False,
        owner: tuple[int, int] | None = None,
        conflict: bool = False,
        progress: Tell | None = None,
    ) -> CheckpointResult:
        """Save a home: committed and verified when this returns.

        With `conflict` it goes beside the main line, under a fence that is not in force any more: what a
        stale desktop holds is never dropped. Its `info.side` is the side checkpoint's name, and `info.seq`
        that of the entry B that makes it count.

        Nothing is written if nothing changed since the newest checkpoint and this one is neither final nor
        the first of a close; then the newest is returned with the new `saved_as_of_ms`.

        Raises:
            FenceMoved: another owner took the workspace over; nothing counts that is written for this fence.
            CommitContended, CommitUncertain, StoreUnavailable: try again.
        """
        plan = save.SavePlan(
            home=home,
            fence=fence,
            session=session,
            reason=reason,
            frozen=frozen,
            final=final,
            first_of_close=first_of_close,
            owner=owner,
        )
        workspace = await self._known.required(ref)
        saving = ConflictSaving if conflict else Checkpointing
        return await saving(
            workspace,
            threads=self._threads,
            fresh=self._fresh,
            clock_ms=self._clock_ms,
            progress=self._told(progress),
        ).run(plan)

    async def pending(self, ref: WorkspaceRef, *, home: Path) -> Pending:
        """Return what changed in a home since its newest checkpoint, as far as stat tells."""
        workspace = await self._known.required(ref)
        async with workspace.lock:
            cache = await workspace.remembered(await workspace.log.refresh())
        stop = Stop()
        return await self._threads.run(stop, count_pending, home, cache, stop)

    async def same_as(
        self, ref: WorkspaceRef, *, seq: int, hash: bytes, home: Path, accepted: bool = False
    ) -> Differences:
        """The last look: does the home equal that checkpoint, and does the log still hold it, whole?

        Args:
            accepted: somebody accepted by name what that checkpoint says it lacks; exactly that may be
                unreadable still.

        Raises:
            NoSuchCheckpoint: the log does not hold (seq, hash) any more.
        """
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        row = _held(state, seq, hash)
        assert row.checkpoint is not None
        async with workspace.lock:
            cache = await workspace.remembered(state, cold=False)
        gathered, taker = await look_again(
            home,
            row,
            keys=workspace.keys.newest,
            known=state.index.knows,
            threads=self._threads,
            cache=cache,
        )
        saved = row.checkpoint.root
        lacking = gathered.count(2) or gathered.count(3)
        if gathered.root != saved or (lacking and not accepted):
            paths = await differing_paths(workspace.reader, state.index, saved, gathered.root, taker.nodes)
            return Differences(same=False, paths=paths)
        return Differences(same=True, proof=await self.prove(ref, seq=seq, hash=hash))

    async def prove(self, ref: WorkspaceRef, *, seq: int, hash: bytes) -> VerifiedCheckpoint:
        """Prove that a checkpoint stands: the log holds it, it opens, everything that it refers to exists."""
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        return await workspace.verifier.prove(state, seq=seq, hash_=hash)

    async def list(self, ref: WorkspaceRef) -> Rows[CheckpointInfo]:
        """Return every checkpoint that counts, oldest first. Empty only if there is none."""
        workspace = await self._known.opened(ref)
        if workspace is None:
            return []
        state = await self._refreshed(workspace)
        return [
            replace(checkpoint_info(row), pinned=state.pinned.get(row.seq, False))
            for row in state.checkpoints()
        ]

    async def conflicts(self, ref: WorkspaceRef) -> Rows[CheckpointInfo]:
        """Return the conflict checkpoints that nobody dropped yet, oldest first."""
        workspace = await self._known.opened(ref)
        state = None if workspace is None else await self._refreshed(workspace)
        return [] if state is None else side_infos(state)

    async def diff(self, ref: WorkspaceRef, *, before: int, after: int) -> Diff:
        """Return what differs between two checkpoints."""
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        rows = _countable(state, before), _countable(state, after)
        return await compare(workspace.reader, state.index, *rows)

    async def forget(self, ref: WorkspaceRef, *, seqs: Sequence[int], actor: str, reason: str) -> None:
        """Forget checkpoints by hand; a later `collect` frees what only they needed.

        Raises:
            MustBeKept: one of them may not go; none was forgotten.
        """
        await (await self._upkeep(ref)).forget(seqs, actor=actor, reason=reason)

    async def keep(self, ref: WorkspaceRef, *, seq: int, pin: bool, actor: str, reason: str) -> None:
        """Pin a checkpoint, so that no policy forgets it, or let it go its way again."""
        await (await self._upkeep(ref)).keep(seq, pin=pin, actor=actor, reason=reason)

    async def rotate_keys(self, ref: WorkspaceRef, *, leaked: bool = False) -> int:
        """Begin a new key epoch for new objects; return its number. Older ones stay readable.

        With `leaked` the log says that no writer may use an older epoch any more. What was written before is
        not protected by it.
        """
        await self._known.required(ref)
        epoch = await self._keyring.rotate(ref)
        self._known.drop(ref)
        if leaked:
            await (await self._upkeep(ref)).require_key_epoch(epoch)
        return epoch

    async def erase(self, ref: WorkspaceRef, *, actor: str, reason: str) -> ErasureReport:
        """Erase a workspace for ever: tombstone, keys, objects. Repeating it finishes what was begun."""
        erasure = Erasure(
            self._store, self._keyring, self._signer, fresh=self._fresh, clock_ms=self._clock_ms
        )
        report = await erasure.run(ref, actor=actor, reason=reason)
        await self._known.erase(ref)
        return report

    @property
    def master_key_id(self) -> str:
        """Return the public name of the master key."""
        return self._keyring.master_key_id

    async def key_epoch(self, ref: WorkspaceRef) -> int:
        """Return the newest key epoch that this master key opens."""
        return (await self._known.required(ref)).keys.key_epoch

    async def collect(
        self,
        ref: WorkspaceRef,
        *,
        policy: Retention | None,
        actor: str,
        told_ms: dict[int, int] | None = None,
        witness: tuple[int, bytes] | None = None,
    ) -> UpkeepReport:
        """Forget by policy, free what earlier runs gave up, give up what is dead now, fold.

        Args:
            told_ms: when users were told of their conflict checkpoints, by number.
            witness: number and hash of an entry that the registry remembers; a log without it is not touched.
        """
        upkeep = await self._upkeep(ref)
        witnesses = () if witness is None else (witness,)
        return await upkeep.run(policy, actor=actor, told_ms=told_ms, witnesses=witnesses)

    async def folder(self, ref: WorkspaceRef, *, seq: int, path: bytes = b"") -> Rows[EntryInfo]:
        """Return what is in a folder of a checkpoint."""
        browser = await self._browser(ref, seq)
        where = await browser.find(path)
        return [entry_info(entry) async for entry in browser.entries(where)]

    async def read(self, ref: WorkspaceRef, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        """Yield the bytes of one file of a checkpoint."""
        browser = await self._browser(ref, seq)
        entry = await browser.find(path)
        async for piece in browser.data(entry):
            yield piece

    async def archive(
        self, ref: WorkspaceRef, *, seq: int, path: bytes = b"", kind: ArchiveKind = "zip"
    ) -> AsyncIterator[bytes]:
        """Yield a zip or tar of a folder of a checkpoint, made while it is read."""
        browser = await self._browser(ref, seq)
        entry = await browser.find(path)
        async for piece in archive.stream(browser, entry, kind=kind):
            yield piece

    async def restore(
        self,
        ref: WorkspaceRef,
        *,
        seq: int,
        into: Path,
        owner: tuple[int, int] | None = None,
        becomes_home: bool = False,
        progress: Tell | None = None,
    ) -> RestoreReport:
        """Restore a checkpoint into a folder that does not exist or is empty.

        If this raises, the folder is partial and the caller drops it.

        Args:
            becomes_home: the next checkpoints of this workspace will be taken of this folder, which nobody
                else has touched when this returns; it may be renamed. Then they need not read it first.
        """
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        row = _countable(state, seq)
        restore = Restore(
            reader=workspace.reader,
            index=state.index,
            row=row,
            threads=self._threads,
            owner=owner,
            progress=self._told(progress),
            becomes_home=becomes_home,
        )
        report = await restore.run(into)
        if restore.cache is not None:
            async with workspace.lock:
                await workspace.remember(restore.cache, row)
        return report

    async def put_receipt(self, ref: WorkspaceRef, session: str, body: bytes) -> bytes:
        """Store the signed receipt of a session and read it back; return BLAKE3-256 of the body."""
        return await self._receipts(await self._known.required(ref)).put(session, body)

    async def receipt(self, ref: WorkspaceRef, session: str) -> bytes | None:
        """Return the body of a receipt whose signature holds, or None if there is none."""
        workspace = await self._known.opened(ref)
        return None if workspace is None else await self._receipts(workspace).get(session)

    async def workspaces(self) -> Rows[WorkspaceRef]:
        """Return every workspace that has a repository."""
        return await _list_workspaces(self._store)

    async def verify(
        self, ref: WorkspaceRef, level: Level = "structure", *, progress: Tell | None = None
    ) -> VerifyReport:
        """Look for damage. Reads the log from its beginning, without any cache."""
        workspace = await self._known.required(ref)
        scrub = Scrub(ref, workspace.place, workspace.keys, self._threads, signer=self._signer)
        result = await scrub.run(level)
        if progress is not None:
            progress(Progress(stage="verify", done=result.objects, unit="objects"))
        return VerifyReport(
            level=level,
            entries=result.entries,
            checkpoints=result.checkpoints,
            objects=result.objects,
            bytes_read=result.bytes_read,
            faults=tuple(result.faults),
            orphans=result.orphans,
        )

    async def key_check(self) -> KeyReport:
        """Look which tenants' keys the master key opens."""
        refs = await self.workspaces()
        opened: list[str] = []
        refused: list[str] = []
        for tenant in sorted({ref.tenant for ref in refs}):
            try:
                await self._keyring.check(tenant)
                opened.append(tenant)
            except StoreUnavailable:
                raise
            except StorageError:
                refused.append(tenant)
        return KeyReport(
            master_key_id=self._keyring.master_key_id,
            opened=tuple(opened),
            refused=tuple(refused),
            workspaces=tuple(refs),
        )

    async def _refreshed(self, workspace: Workspace) -> LogState:
        async with workspace.lock:
            return await workspace.log.refresh()

    async def _upkeep(self, ref: WorkspaceRef) -> Upkeep:
        workspace = await self._known.required(ref)
        return Upkeep(workspace, fresh=self._fresh, clock_ms=self._clock_ms)

    async def _browser(self, ref: WorkspaceRef, seq: int) -> Browser:
        workspace = await self._known.required(ref)
        state = await self._refreshed(workspace)
        return Browser(workspace.reader, state.index, _countable(state, seq))

    def _receipts(self, workspace: Workspace) -> Receipts:
        return Receipts(workspace.place, workspace.keys, self._signer, self._fresh)

    def _told(self, progress: Tell | None) -> Tell:
        """Return a progress function that threads may call."""
        if progress is None:
            return ignore_progress
        loop = asyncio.get_running_loop()

        def tell(value: Progress) -> None:
            loop.call_soon_threadsafe(progress, value)

        return tell


class _Standing(Exception):
    """An E of the same session is the last that counts; nothing has to be written."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.seq)
        self.row = row


def _own_take_over(state: LogState, session: str) -> Row | None:
    """Return the newest E that counts if it is the session's."""
    for row in reversed(state.rows):
        if row.kind == EntryKind.TAKE_OVER and not row.void:
            return row if row.session == session else None
    return None


async def has_repositories(spec: StoreSpec) -> bool:
    """Return whether anything of a tenant lies in a store. Needs no key."""
    store = RetryingStore(await _open_bare(spec), RETRY)
    try:
        async for _ in store.list("t/"):
            return True
        return False
    finally:
        await store.close()


async def _open_bare(spec: StoreSpec) -> ObjectStore:
    file = Path(spec.credentials_file) if spec.credentials_file is not None else None
    return await open_store(spec.url, credentials_file=file)


async def _list_workspaces(store: ObjectStore) -> list[WorkspaceRef]:
    found: list[WorkspaceRef] = []
    async for info in store.list("t/"):
        parts = info.name.split("/")
        if len(parts) == 5 and parts[2] == "w" and parts[4] == names.CONFIG:
            try:
                found.append(WorkspaceRef(tenant=parts[1], workspace=parts[3]))
            except IdRefused:
                continue  # not a name that we can have made
    return found


def _head(state: LogState) -> LogHead:
    newest = state.newest(complete=True)
    last = state.newest_take_over_or_checkpoint()
    return LogHead(
        fence=state.fence,
        seq=state.seq,
        hash=state.hash,
        newest=checkpoint_info(newest) if newest is not None else None,
        newest_is_final=last is not None and last.has(CheckpointFlag.FINAL),
    )


def _countable(state: LogState, seq: int) -> Row:
    side = state.sides.get(seq)
    row = side.row if side is not None else state.row(seq)
    if row is None or not (side is not None or state.counts(row)):
        raise NoSuchCheckpoint(seq=seq)
    return row


def _held(state: LogState, seq: int, hash_: bytes) -> Row:
    row = _countable(state, seq)
    if row.hash != hash_:
        raise NoSuchCheckpoint(seq=seq, what="the log holds another entry under this number")
    return row

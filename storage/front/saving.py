"""Taking a workspace over, saving its home, and proving what was saved.

Calls that write a workspace's log wait for each other; nothing here forgets or removes anything.
"""

from functools import partial
from pathlib import Path

from storage.errors import CacheLost, NoSuchCheckpoint
from storage.format.entries import CheckpointFlag, EntryKind
from storage.front.countable import countable
from storage.front.opened import Opened, Tell
from storage.ids import WorkspaceRef
from storage.objects.limited import going_first
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.checkpointing import Checkpointing
from storage.ops.conflict import ConflictSaving
from storage.ops.look import count_pending, differing_paths, look_again
from storage.ops.receipts import Receipts
from storage.ops.values import (
    CheckpointResult,
    Differences,
    LogHead,
    Pending,
)
from storage.ops.workspace import Workspace
from storage.repository.state import LogState, Row
from storage.repository.threads import Stop
from storage.repository.verify import VerifiedCheckpoint


class Saving(Opened):
    """What a session asks of its workspace."""

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
        head = _head(state)
        await self._lending.let_go(await self._upkeep(ref), state)
        return head

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
        resume: bool = False,
        progress: Tell | None = None,
    ) -> CheckpointResult:
        """Save a home: committed and verified when this returns.

        With `conflict` it goes beside the main line, under a fence that is not in force any more: what a
        stale desktop holds is never dropped. Its `info.side` is the side checkpoint's name, and `info.seq`
        that of the entry B that makes it count.

        With `resume` packs of an earlier attempt of this fence that no entry names are looked for:
        what they hold is not uploaded again. That is one listing, and two reads for each such pack.

        Nothing is written if nothing changed since the newest checkpoint and this one is neither final nor
        the first of a close; then the newest is returned with the new `saved_as_of_ms`.

        What belongs to a close goes first on a limited line.

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
            resume=resume,
        )
        workspace = await self._known.required(ref)
        told = self._told(progress)
        with going_first(yes=final or frozen or first_of_close):
            if conflict:
                return await ConflictSaving(
                    workspace,
                    threads=self._threads,
                    fresh=self._fresh,
                    clock_ms=self._clock_ms,
                    progress=told,
                ).run(plan)
            return await Checkpointing(
                workspace,
                threads=self._threads,
                fresh=self._fresh,
                clock_ms=self._clock_ms,
                progress=told,
                watching=self._watching,
            ).run(plan)

    async def pending(self, ref: WorkspaceRef, *, home: Path) -> Pending:
        """Return what changed in a home since its newest checkpoint, as far as stat tells."""
        workspace = await self._known.required(ref)
        async with workspace.lock:
            cache = await workspace.remembered(await workspace.log.refresh())
        stop = Stop()
        try:
            return await self._threads.run(stop, count_pending, home, cache, stop)
        except CacheLost:
            return await self._threads.run(stop, count_pending, home, None, stop)

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
        look = partial(
            look_again,
            home,
            row,
            keys=workspace.keys.newest,
            known=state.index.knows,
            threads=self._threads,
        )
        try:
            gathered, taker = await look(cache=cache)
        except CacheLost:
            gathered, taker = await look(cache=None)
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

    async def put_receipt(self, ref: WorkspaceRef, session: str, body: bytes) -> bytes:
        """Store the signed receipt of a session and read it back; return BLAKE3-256 of the body."""
        return await self._receipts(await self._known.required(ref)).put(session, body)

    async def receipt(self, ref: WorkspaceRef, session: str) -> bytes | None:
        """Return the body of a receipt whose signature holds, or None if there is none."""
        workspace = await self._known.opened(ref)
        return None if workspace is None else await self._receipts(workspace).get(session)

    def _receipts(self, workspace: Workspace) -> Receipts:
        return Receipts(workspace.place, workspace.keys, self._signer, self._fresh, self.signers)


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


def _held(state: LogState, seq: int, hash_: bytes) -> Row:
    row = countable(state, seq)
    if row.hash != hash_:
        raise NoSuchCheckpoint(seq=seq, what="the log holds another entry under this number")
    return row

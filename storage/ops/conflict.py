"""Conflict checkpoints: what a stale desktop holds is saved beside the main line, never dropped.

The side checkpoint `b/<fence>-<n>` comes first, with the body of a C under the stale owner's fence; then a B
at the end of the main log makes it count, planned like a C: if objects were retired meanwhile, chunks that it
relies on may be gone, and the whole is done again. Saved only when the B was read back. Nothing of the main
line changes, whatever the fence of its writer. Where the main line cannot be used at all, the whole home goes
there instead (`full_base.py`).

Source: storage.md 4.4 "Side branch".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from storage.errors import (
    ChainBroken,
    CommitContended,
    FormatError,
    KeyMissing,
    NoSuchCheckpoint,
    ObjectDamaged,
)
from storage.format.entries import SideBranch
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.full_base import FullBaseSaving
from storage.ops.side_branch import SideBranch as SideBranchOf
from storage.ops.side_branch import given_by_the_log
from storage.ops.values import CheckpointInfo, CheckpointResult, Progress
from storage.ops.workspace import Workspace
from storage.repository.log import Placed
from storage.repository.log_writer import LogWriter
from storage.repository.packer import Fresh
from storage.repository.state import LogState, Row, StoredSide
from storage.repository.threads import Threads

PLANS_MAX: Final = 3
_UNUSABLE: Final = (ChainBroken, FormatError, KeyMissing, ObjectDamaged)
"""What a main line says that is there and cannot be read. Not: a store that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A side checkpoint that lies in the store and was read back."""

    side: StoredSide
    prepared: save.Prepared


class ConflictSaving:
    """One conflict checkpoint of one workspace."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        threads: Threads,
        fresh: Fresh,
        clock_ms: Callable[[], int],
        progress: Callable[[Progress], None],
    ) -> None:
        self._workspace = workspace
        self._threads = threads
        self._fresh = fresh
        self._clock_ms = clock_ms
        self._progress = progress
        self._writer = LogWriter(keys=workspace.keys.newest, fresh=fresh, clock_ms=clock_ms)

    async def run(self, plan: save.SavePlan) -> CheckpointResult:
        """Save a home in the side branch of its fence."""
        workspace = self._workspace
        async with workspace.lock:
            for left in reversed(range(PLANS_MAX)):
                try:
                    return await self._save(plan)
                except CommitContended:
                    if not left:
                        raise
        raise AssertionError("the last plan returned or raised")

    async def _save(self, plan: save.SavePlan) -> CheckpointResult:
        workspace = self._workspace
        after = workspace.log.state.hash
        try:
            state = await workspace.log.refresh()
        except _UNUSABLE:
            return await self._save_whole(plan, after)
        if state.writers_stop is not None:
            return await self._save_whole(plan, state.hash)
        retired_at = state.retired_at
        prepared = await save.prepare(
            plan,
            state=state,
            keys=workspace.keys.newest,
            place=workspace.place,
            threads=self._threads,
            cache=None,
            fresh=self._fresh,
            scan_ms=self._clock_ms(),
            progress=self._progress,
        )
        stored = await self._store(plan, prepared, state)
        placed = await workspace.log.append(
            lambda now: self._branch(now, stored, planned=state, retired_at=retired_at),
            sides=[stored.side],
        )
        await workspace.verifier.placed(placed)
        await workspace.log.save_cache()
        return await self._result(placed, stored)

    async def _save_whole(self, plan: save.SavePlan, after: bytes) -> CheckpointResult:
        """The main line takes no B and cannot be relied on: a full base, which counts later."""
        saving = FullBaseSaving(
            workspace=self._workspace,
            threads=self._threads,
            fresh=self._fresh,
            clock_ms=self._clock_ms,
            progress=self._progress,
            writer=self._writer,
        )
        return await saving.run(plan, after=after)

    def _branch(self, now: LogState, stored: _Stored, *, planned: LogState, retired_at: int) -> bytes:
        if now is not planned or now.retired_at != retired_at:
            raise CommitContended(what="the plan is older than the log", seq=now.seq)
        return self._writer.entry(now, SideBranch(stored.side.name, stored.side.hash))

    async def _store(self, plan: save.SavePlan, prepared: save.Prepared, state: LogState) -> _Stored:
        """Put the side checkpoint behind the last one of its branch, and read it back."""
        # A parent is a number of the same log; the branch's first entry names the main line by its hash.
        fields = msgspec.structs.replace(save.checkpoint_fields(plan, prepared, state), parent=0)
        workspace = self._workspace
        branch = SideBranchOf(
            place=workspace.place, keys=workspace.keys, writer=self._writer, fence=plan.fence
        )
        side = await branch.store(
            fields,
            inline=prepared.inline,
            tables=prepared.tables,
            after=state.hash,
            given=given_by_the_log(state, plan.fence, self._fresh),
        )
        return _Stored(side=side, prepared=prepared)

    async def _result(self, placed: Placed, stored: _Stored) -> CheckpointResult:
        state = self._workspace.log.state
        row = side_row(state, placed.row.seq)
        proof = await self._workspace.verifier.prove(state, seq=row.seq, hash_=row.hash)
        prepared = stored.prepared
        return CheckpointResult(
            info=replace(checkpoint_info(row), side=stored.side.name),
            proof=proof,
            unchanged=False,
            saved_as_of_ms=prepared.scan_ms,
            read_files=prepared.gathered.read_files,
            new_bytes=prepared.new_bytes,
            stored_bytes=prepared.stored_bytes,
            scan_s=prepared.gathered.took_s,
            total_s=prepared.gathered.took_s,
        )


def side_row(state: LogState, seq: int) -> Row:
    """Return what the side branch of B number `seq` holds.

    Raises:
        NoSuchCheckpoint: it was dropped since its B was placed.
    """
    side = state.sides.get(seq)
    if side is None or side.row is None:
        raise NoSuchCheckpoint(seq=seq, what="it was dropped as soon as it stood")
    return side.row


def side_infos(state: LogState) -> list[CheckpointInfo]:
    """Return the live side branches as they are listed."""
    return [
        replace(checkpoint_info(side.row), side=side.name, pinned=state.pinned.get(seq, False))
        for seq, side in sorted(state.sides.items())
        if side.row is not None
    ]

"""The order of one checkpoint: read the log, scan and store, place the entry, verify, remember.

Nothing is remembered before it is verified; a plan that is older than the log is thrown away, not patched.
"""

import time
from collections.abc import Callable
from typing import Final

from storage.format.entries import CheckpointFlag
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.values import CheckpointResult, Progress
from storage.ops.workspace import Workspace
from storage.repository.packer import Fresh
from storage.repository.state import LogState, Row
from storage.repository.threads import Threads
from storage.repository.verify import VerifiedCheckpoint

COMMIT_STEPS: Final = 3
"""Packs stored, entry placed, entry verified: what progress counts after the scan."""


class Checkpointing:
    """One checkpoint of one workspace."""

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

    async def run(self, plan: save.SavePlan) -> CheckpointResult:
        """Save a home. The workspace's lock is held from the first look at the log to the last."""
        started = time.monotonic()
        workspace = self._workspace
        async with workspace.lock:
            state = await workspace.log.refresh()
            save.require_fence(state, plan.fence)
            retired_at = state.retired_at
            prepared = await save.prepare(
                plan,
                state=state,
                keys=workspace.keys.newest,
                place=workspace.place,
                threads=self._threads,
                cache=await workspace.remembered(state),
                fresh=self._fresh,
                scan_ms=self._clock_ms(),
                progress=self._progress,
            )
            self._step(1)
            newest = state.newest(complete=False)
            unchanged = newest is not None and _is_unchanged(plan, prepared, newest)
            if unchanged and newest is not None:
                row, proof = newest, await workspace.proof_of(state, newest)
            else:
                row, proof = await self._commit(plan, prepared, state, retired_at)
            self._step(COMMIT_STEPS)
            workspace.proof = proof
            await workspace.remember(prepared.gathered.cache, row)
            await workspace.write_snapshot(self._fresh)
            await workspace.log.save_cache()
        return CheckpointResult(
            info=checkpoint_info(row),
            proof=proof,
            unchanged=unchanged,
            saved_as_of_ms=prepared.scan_ms,
            read_files=prepared.gathered.read_files,
            new_bytes=prepared.new_bytes,
            stored_bytes=0 if unchanged else prepared.stored_bytes,
            scan_s=prepared.gathered.took_s,
            total_s=round(time.monotonic() - started, 6),
        )

    async def _commit(
        self, plan: save.SavePlan, prepared: save.Prepared, planned: LogState, retired_at: int
    ) -> tuple[Row, VerifiedCheckpoint]:
        workspace = self._workspace
        writer = save.EntryWriter(keys=workspace.keys.newest, fresh=self._fresh, clock_ms=self._clock_ms)
        placed = await workspace.log.append(
            lambda state: writer.checkpoint(state, plan, prepared, planned=planned, retired_at=retired_at),
            tables=prepared.tables,
        )
        self._step(2)
        return placed.row, await workspace.verifier.new_checkpoint(placed)

    def _step(self, number: int) -> None:
        self._progress(Progress(stage="upload", done=number, total=COMMIT_STEPS, unit="steps"))


def _is_unchanged(plan: save.SavePlan, prepared: save.Prepared, newest: Row) -> bool:
    """Return whether a new entry would say nothing new. The entries of a close are always written."""
    if plan.final or plan.first_of_close or newest.checkpoint is None:
        return False
    if not prepared.complete or not newest.has(CheckpointFlag.COMPLETE):
        return False
    return newest.checkpoint.root == prepared.gathered.root

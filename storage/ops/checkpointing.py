"""The order of one checkpoint: read the log, scan and store, place the entry, verify, remember.

Nothing is remembered before it is verified; a plan that is older than the log is thrown away, not patched.
"""

import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from storage.errors import CacheLost, RouteLost
from storage.format.entries import CheckpointFlag
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.left_packs import NOTHING_LEFT, LeftPacks, find_left
from storage.ops.stat_cache import StatCache
from storage.ops.values import CheckpointResult, Progress
from storage.ops.workspace import Workspace
from storage.repository.packer import Fresh
from storage.repository.state import LogState, Row
from storage.repository.threads import Threads
from storage.repository.verify import VerifiedCheckpoint
from storage.watch.watching import Base, Left, Round, Watching

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
        watching: Watching,
    ) -> None:
        self._workspace = workspace
        self._threads = threads
        self._fresh = fresh
        self._clock_ms = clock_ms
        self._progress = progress
        self._watching = watching

    async def run(self, plan: save.SavePlan) -> CheckpointResult:
        """Save a home. The workspace's lock is held from the first look at the log to the last."""
        started = time.monotonic()
        workspace = self._workspace
        async with workspace.lock:
            state = await workspace.log.refresh()
            save.require_fence(state, plan.fence)
            retired_at = state.retired_at
            cache = await workspace.remembered(state)
            left = await self._left(plan, state)
            async with AsyncExitStack() as looks:
                looks.callback(workspace.stat_file.drop_after, workspace.stat_file.mark())
                look, prepared = await self._look(plan, state, cache, looks, left)
                self._step(1)
                newest = state.newest(complete=False)
                unchanged = newest is not None and _is_unchanged(plan, prepared, newest)
                if unchanged and state.damaged:
                    unchanged = not (prepared.packs or prepared.inline)  # what was lost is stored anew
                if unchanged and newest is not None:
                    row, proof = newest, await workspace.proof_of(state, newest)
                else:
                    row, proof = await self._commit(plan, prepared, state, retired_at)
                self._step(COMMIT_STEPS)
                workspace.proof = proof
                await workspace.remember(prepared.gathered.cache, row, without=state.damaged)
                looks.pop_all()
                look.keep(_left(prepared))
            await workspace.write_snapshot(self._fresh)
            await workspace.log.save_cache()
            await self._threads.quick(workspace.log.state.index.settle)
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

    async def _look(
        self,
        plan: save.SavePlan,
        state: LogState,
        cache: StatCache | None,
        looks: AsyncExitStack,
        left: LeftPacks,
    ) -> tuple[Round, save.Prepared]:
        """Look at what changed, or at everything where that is not known or turns out to be too little.

        Args:
            looks: undoes the look that is returned, if nothing comes of it.
        """
        try:
            try:
                return await self._look_once(plan, state, cache, looks, left)
            except RouteLost:
                return await self._look_once(plan, state, cache, looks, left)
        except CacheLost:
            self._workspace.forget_stat()
            return await self._look_once(plan, state, None, looks, left)

    async def _left(self, plan: save.SavePlan, state: LogState) -> LeftPacks:
        if not plan.resume:
            return NOTHING_LEFT
        workspace = self._workspace
        return await find_left(
            plan.fence,
            state=state,
            log=workspace.log,
            place=workspace.place,
            keys=workspace.keys.newest,
            spoiled=workspace.spoiled,
        )

    async def _look_once(
        self,
        plan: save.SavePlan,
        state: LogState,
        cache: StatCache | None,
        looks: AsyncExitStack,
        left: LeftPacks,
    ) -> tuple[Round, save.Prepared]:
        # The time comes first: everything that was written before it is in the queue that is read now.
        scan_ms = self._clock_ms()
        look = await self._threads.quick(
            partial(self._watching.begin, os.fspath(plan.home), base=_base_of(cache), exact=plan.exact)
        )
        looks.callback(look.undo)
        try:
            prepared = await save.prepare(
                plan,
                state=state,
                keys=self._workspace.keys.newest,
                place=self._workspace.place,
                threads=self._threads,
                cache=cache,
                fresh=self._fresh,
                scan_ms=scan_ms,
                progress=self._progress,
                look=look,
                left=left,
                spoiled=self._workspace.spoiled,
                blobs=self._workspace.stat_file,
            )
        except (CacheLost, RouteLost):
            look.lose()
            raise
        return look, prepared

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


def _base_of(cache: StatCache | None) -> Base | None:
    """Return what tells one remembered state of a home from any other."""
    if cache is None or cache.totals is None:
        return None
    return cache.seq, cache.hash, cache.root.read_ns


def _left(prepared: save.Prepared) -> Left:
    gathered = prepared.gathered
    base = _base_of(gathered.cache)
    assert base is not None, "a scan counts"
    return Left(
        base=base,
        again=gathered.again,
        linked=gathered.linked,
        silent=gathered.silent,
        full_next=gathered.stale_folders,
        complete=prepared.complete,
    )


def _is_unchanged(plan: save.SavePlan, prepared: save.Prepared, newest: Row) -> bool:
    """Return whether a new entry would say nothing new. The entries of a close are always written."""
    if plan.final or plan.first_of_close or newest.checkpoint is None:
        return False
    if not prepared.complete or not newest.has(CheckpointFlag.COMPLETE):
        return False
    return newest.checkpoint.root == prepared.gathered.root

"""Conflict checkpoints: what a stale desktop holds is saved beside the main line, never dropped.

The side checkpoint `b/<fence>-<n>` comes first, with the body of a C under the stale owner's fence; then a B
at the end of the main log makes it count, planned like a C: if objects were retired meanwhile, chunks that it
relies on may be gone, and the whole is done again. Saved only when the B was read back. Nothing of the main
line changes, whatever the fence of its writer.

Source: storage.md 4.4 "Side branch".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from storage.errors import CommitContended, ObjectDamaged, StoreUnavailable
from storage.format import names
from storage.format.entries import SideBranch, decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.values import CheckpointInfo, CheckpointResult, Progress
from storage.ops.workspace import Workspace
from storage.repository.log import Placed
from storage.repository.log_writer import LogWriter
from storage.repository.packer import Fresh
from storage.repository.settle import settle_create
from storage.repository.state import LogState, Row, StoredSide
from storage.repository.threads import Threads

NAME_TRIES_MAX: Final = 64
PLANS_MAX: Final = 3


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
        state = await workspace.log.refresh()
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

    def _branch(self, now: LogState, stored: _Stored, *, planned: LogState, retired_at: int) -> bytes:
        if now is not planned or now.retired_at != retired_at:
            raise CommitContended(what="the plan is older than the log", seq=now.seq)
        return self._writer.entry(now, SideBranch(stored.side.name, stored.side.hash))

    async def _store(self, plan: save.SavePlan, prepared: save.Prepared, state: LogState) -> _Stored:
        """Put the side checkpoint behind the last one of its branch, and read it back."""
        # A parent is a number of the same log; the branch's first entry names the main line by its hash.
        fields = msgspec.structs.replace(save.checkpoint_fields(plan, prepared, state), parent=0)
        number, prev = await self._branch_end(plan.fence, state)
        for seq in range(number, number + NAME_TRIES_MAX):
            name = names.side_checkpoint(plan.fence, seq)
            raw = self._writer.side(
                name, seq=seq, prev=prev, fence=plan.fence, fields=fields, inline=prepared.inline
            )
            if await settle_create(self._workspace.place, name, raw):
                if await self._workspace.place.get(name) != raw:
                    raise ObjectDamaged(object=name, what="side checkpoint reads back otherwise")
                opened = open_head(self._writer.keys, ObjectType.SIDE_CHECKPOINT, name, raw)
                tables = list(prepared.tables)
                side = StoredSide(
                    name, opened.entry_hash, opened.kind, opened.area_start, opened.body, [*tables]
                )
                return _Stored(side=side, prepared=prepared)
            prev = await self._hash_of(name)
        raise StoreUnavailable(what="every name of the side branch is taken", fence=plan.fence)

    async def _branch_end(self, fence: int, state: LogState) -> tuple[int, bytes]:
        """Return the next number of a branch and what it names as its predecessor: the branch's last entry,
        or the newest main entry that was read.
        """
        last = 0
        async for info in self._workspace.place.list(f"{names.SIDE_PREFIX}{fence}-"):
            last = max(last, names.side_parts(info.name)[1])
        if not last:
            return 1, state.hash
        return last + 1, await self._hash_of(names.side_checkpoint(fence, last))

    async def _hash_of(self, name: str) -> bytes:
        raw = await self._workspace.place.get(name)
        keys = self._workspace.keys.of_header(raw, name)
        opened = open_head(keys, ObjectType.SIDE_CHECKPOINT, name, raw)
        decode_entry(opened.kind, opened.body)
        return opened.entry_hash

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
    """Return what the side branch of B number `seq` holds."""
    row = state.sides[seq].row
    assert row is not None, "it was just placed"
    return row


def side_infos(state: LogState) -> list[CheckpointInfo]:
    """Return the live side branches as they are listed."""
    return [
        replace(checkpoint_info(side.row), side=side.name, pinned=state.pinned.get(seq, False))
        for seq, side in sorted(state.sides.items())
        if side.row is not None
    ]

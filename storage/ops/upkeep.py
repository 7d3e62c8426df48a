"""Upkeep of one repository: forget by policy or by hand, pin, collect garbage, fold, say a new version.

Everything here is entries of the commit log, placed and verified like a checkpoint. A run reads the chain
from the store, never from a cache, and needs the data key only for a fold: the rest works with keys that
open names and sizes, no content. The workspace's lock is held, so a run and a checkpoint of this process
never make each other plan again; other processes are safe without it.

Source: storage.md 4.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from storage.errors import (
    ClocksApart,
    CollectRefused,
    CommitContended,
    LimitReached,
    MustBeKept,
    NoSuchCheckpoint,
    ObjectDamaged,
)
from storage.format import names
from storage.format.entries import Fields, Forget, Keep, Retire, Version
from storage.format.keys import EpochKeys
from storage.ops.full_base import Adoption
from storage.ops.workspace import Workspace
from storage.repository import collect, fold
from storage.repository.collect import NOTHING_MOVED, Collector, Listing
from storage.repository.log import Placed
from storage.repository.log_writer import LogWriter
from storage.repository.mark import Marks
from storage.repository.moving import Mover
from storage.repository.packer import Fresh
from storage.repository.reader import Reader
from storage.repository.repack import choose, live_bytes
from storage.repository.retention import (
    Retention,
    closed_firsts,
    may_forget,
    now_of,
    sides_to_forget,
    to_forget,
)
from storage.repository.slots import RepositoryKeys
from storage.repository.state import TOLD, LogState
from storage.repository.stepping import ForeignObject, find_foreign, step_over
from storage.repository.telling import Tell, tell_nobody
from storage.repository.verify import Verifier

TRIES_MAX: Final = 3
"""Runs that lost to a growing log are planned again this often; then the next hour's run comes."""
SEQS_PER_ENTRY_MAX: Final = 10_000
Witnesses = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepReport:
    """What one run did. `refused` says why collecting did not run; forgetting may have."""

    forgotten: tuple[int, ...] = ()
    released: tuple[int, ...] = ()
    """First checkpoints of finished closes that policy may forget from now on."""
    deleted_objects: int = 0
    deleted_bytes: int = 0
    retired_packs: int = 0
    repacked_packs: int = 0
    """Of these, packs whose reached chunks lie in new ones now."""
    orphans: int = 0
    retired_bytes: int = 0
    folded_entries: int = 0
    moved_bytes: int = 0
    refused: str = ""
    contended: bool = False
    """Refused only because others wrote meanwhile."""
    adopted: tuple[str, ...] = ()
    """Full bases that count from now on: they were saved beside a main line that could not be used."""
    clocks_apart: bool = False
    """Host and store disagree about the time by more than a day: nothing was forgotten."""


def without_data(keys: RepositoryKeys) -> RepositoryKeys:
    """Return keys that open names, sizes and trees, and no content: all that marking needs."""

    def stripped(one: EpochKeys) -> EpochKeys:
        return replace(one, data=None, chunk_data=None)

    return replace(
        keys,
        epochs={key_id: stripped(one) for key_id, one in keys.epochs.items()},
        newest=stripped(keys.newest),
    )


class Upkeep:
    """Upkeep of one workspace."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        fresh: Fresh,
        clock_ms: Callable[[], int],
        store_ms: int | None = None,
        spare_fence: bool = True,
        tell: Tell = tell_nobody,
    ) -> None:
        """Take the parts.

        Args:
            store_ms: what the store's own clock said a moment ago, if it has one.
        """
        self._workspace = workspace
        self._fresh = fresh
        self._clock_ms = clock_ms
        self._store_ms = store_ms
        self._spare_fence = spare_fence
        self._tell = tell

    async def run(
        self,
        policy: Retention | None,
        *,
        actor: str,
        told_ms: dict[int, int] | None = None,
        witnesses: Witnesses = (),
        renew_index: bool = False,
    ) -> UpkeepReport:
        """Release, forget, delete, retire and fold, in this order, as far as each is due and allowed."""
        async with self._workspace.lock:
            if renew_index:
                try:
                    await self._renew_index()
                except CollectRefused as exc:
                    return UpkeepReport(refused=str(exc))
            adopted = await self._adoption().run()
            report = UpkeepReport()
            if policy is not None:
                report = await self._forget_by(policy, actor, told_ms or {})
            report = replace(report, adopted=adopted)
            if not collect.ENABLED:
                return report
            return await self._collect_patiently(report, witnesses)

    async def forget(self, seqs: Sequence[int], *, actor: str, reason: str) -> None:
        """Forget checkpoints, or side branches by the number of their B, because a person said so.

        Raises:
            MustBeKept: one of them may not go; none was forgotten.
        """
        async with self._workspace.lock:
            await self._workspace.log.refresh()
            await self._place(lambda state: self._forget_fields(state, seqs, actor=actor, reason=reason))

    async def keep(self, seq: int, *, pin: bool, actor: str, reason: str) -> None:
        """Pin a checkpoint, or let it go its way again.

        Raises:
            ClocksApart: it would be unpinned while host and store disagree about the time.
        """
        reason = "" if reason == TOLD else reason  # that word says something else
        if not pin:
            self.now_ms()
        async with self._workspace.lock:
            await self._place(lambda state: _keep_fields(state, seq=seq, pin=pin, actor=actor, reason=reason))

    def now_ms(self) -> int:
        """Return the time of retention. Raises ClocksApart."""
        return now_of(self._clock_ms(), self._store_ms)

    async def _renew_index(self) -> None:
        """Give up every index snapshot, and read the log by its chain. An R that names a snapshot ends the
        belief in it at once, for whoever starts cold; the next one that is due is written from the chain.
        """
        workspace = self._workspace
        state = await workspace.log.read_chain()
        if state.damaged:
            workspace.log.forget()  # the table of a damaged pack may lie in a snapshot: read that again
        state.require_whole()
        there = [info.name async for info in workspace.place.list(names.INDEX_PREFIX)]
        gone = [name for name in there if name not in state.retired][: collect.NAMES_MAX]
        if gone:
            await self._place(lambda now: Retire([], 0, gone, [], None))
        workspace.log.snapshot_seq, workspace.log.snapshot_chunks = 0, 0
        await workspace.log.save_cache()

    async def place(self, fields_for: Callable[[LogState], Fields]) -> Placed:
        """Place one entry, decided anew for every state that it may follow."""
        async with self._workspace.lock:
            await self._workspace.log.refresh()
            return await self._place(fields_for)

    async def told(self, seqs: Sequence[int], *, actor: str) -> None:
        """Note that a user was told of side branches, once for each: 30 days later policy may forget them."""
        async with self._workspace.lock:
            state = await self._workspace.log.refresh()
            for seq in seqs:
                if seq in state.sides and seq not in state.told_ms:
                    await self._place(partial(_keep_fields, seq=seq, pin=False, actor=actor, reason=TOLD))

    async def require_key_epoch(self, epoch: int) -> None:
        """Refuse older key epochs from now on: after a leak. Their objects stay readable."""
        async with self._workspace.lock:
            await self._place(
                lambda state: Version(
                    state.version.min_reader,
                    state.version.min_writer,
                    state.version.min_gc,
                    max(state.version.min_key_epoch, epoch),
                    list(state.version.must_features),
                    list(state.version.chunker),
                    list(state.version.void),
                )
            )

    async def foreign(self) -> tuple[ForeignObject, ...]:
        """Return what lies behind the last entry and stops everybody; empty if the log is whole."""
        workspace = self._workspace
        async with workspace.lock:
            return await find_foreign(workspace.log.another(), workspace.place)

    async def step_over(self, confirmed: Sequence[tuple[int, bytes]]) -> int:
        """Say that objects which do not open do not count; return the number of the V that says so.

        Raises:
            ChainBroken: other objects lie there than were confirmed.
        """
        workspace = self._workspace
        async with workspace.lock:
            log = workspace.log.another()
            seq = await step_over(log, workspace.place, self._writer(workspace.keys.newest), confirmed)
            await workspace.log.refresh()
            await workspace.log.save_cache()
            await self._adoption().run()
            return seq

    async def _place(self, fields_for: Callable[[LogState], Fields]) -> Placed:
        """Place one entry and verify it; plan again where the log was folded beneath it."""
        log = self._workspace.log
        writer = self._writer(self._workspace.keys.newest)
        for left in reversed(range(TRIES_MAX)):
            placed = await log.append(lambda state: writer.entry(state, fields_for(state)))
            try:
                await self._workspace.verifier.placed(placed)
            except CommitContended:
                if not left:
                    raise
                continue
            await log.save_cache()
            return placed
        raise AssertionError("the last try returned or raised")

    def _forget_fields(self, state: LogState, seqs: Sequence[int], *, actor: str, reason: str) -> Forget:
        now = self.now_ms()
        for seq in seqs:
            why = may_forget(state, seq, now)
            if why:
                raise MustBeKept(seq=seq, reason=why)
        return Forget(sorted(set(seqs)), reason, actor)

    async def _forget_by(self, policy: Retention, actor: str, told_ms: dict[int, int]) -> UpkeepReport:
        """Write K for the first checkpoints of finished closes, and one F for what policy lets go."""
        try:
            now = self.now_ms()
        except ClocksApart as exc:
            return UpkeepReport(refused=str(exc), clocks_apart=True)
        log = self._workspace.log
        state = await log.refresh()
        if state.damaged:
            return UpkeepReport()  # an older checkpoint may be the last whole one; collecting says why
        released = [row.seq for row in closed_firsts(state)]
        for seq in released:
            await self._place(
                partial(_keep_fields, seq=seq, pin=False, actor=actor, reason="its close is verified")
            )
        state = await log.refresh()
        seqs = to_forget(state, policy, now) + sides_to_forget(state, state.told_ms | told_ms, set(), now)
        seqs = seqs[:SEQS_PER_ENTRY_MAX]
        if seqs:
            # Asked again for the state that the entry follows: a take-over in between changes nothing of it.
            await self._place(lambda state: _policy_forget(state, seqs, policy, now, actor))
        return UpkeepReport(forgotten=tuple(seqs), released=tuple(released))

    async def _collect_patiently(self, report: UpkeepReport, witnesses: Witnesses) -> UpkeepReport:
        warm = self._workspace.log.state
        if warm.seq:
            witnesses = (*witnesses, (warm.seq, warm.hash))
        for left in reversed(range(TRIES_MAX)):
            try:
                return await self._collect(report, witnesses)
            except CommitContended as exc:
                if not left:
                    return replace(report, refused=str(exc), contended=True)
            except CollectRefused as exc:
                return replace(report, refused=str(exc))
        return report

    async def _collect(self, report: UpkeepReport, witnesses: Witnesses) -> UpkeepReport:
        collector = self.collector()
        state = await collector.read(witnesses=witnesses)
        seen = state.seq, state.hash
        try:
            report = await self._run_on(report, collector, state)
        except (CollectRefused, ObjectDamaged) as exc:
            # What another run moved and deleted meanwhile is missing here: that is no damage, only late.
            now = await self._workspace.log.another().refresh()
            if (now.seq, now.hash) == seen:
                raise
            raise CommitContended(what="the log grew during the run", seq=now.seq) from exc
        log = self._workspace.log
        await log.refresh()
        await self._workspace.write_snapshot(self._fresh)
        await log.save_cache()
        return report

    async def _run_on(self, report: UpkeepReport, collector: Collector, state: LogState) -> UpkeepReport:
        """Do what is due on a chain that was just read."""
        listing = await collector.listing(state)
        swept = await collector.sweep(state, listing)
        marks = await collector.mark(state)
        try:
            report = await self._give_up(report, collector, state, listing, marks)
        except LimitReached as exc:
            report = replace(report, refused=str(exc))
        return replace(report, deleted_objects=swept.objects, deleted_bytes=swept.bytes)

    async def _give_up(
        self, report: UpkeepReport, collector: Collector, state: LogState, listing: Listing, marks: Marks
    ) -> UpkeepReport:
        """Fold, or else retire what is dead and what is worth moving. One R per run: after a fold whatever
        else there is to do comes first, so that a busy log does not fold for ever.
        """
        leaked = await collector.under_older_keys(state)
        live = live_bytes(state.index, marks)
        choice = choose(state, live, leaked=leaked)
        written = any(name.startswith(names.LOG_PREFIX) and name in live for name in leaked)
        just_folded = bool(state.fold_at) and state.fold_at == state.retired_at
        if written or (fold.is_due(state) and not (just_folded and choice.packs)):
            folded = await self.folder().run(collector, state, listing, marks)
            return replace(report, folded_entries=folded.entries, moved_bytes=folded.moved_bytes)
        moved = await self.mover().move(state, choice.packs, marks) if choice.packs else NOTHING_MOVED
        retired = await collector.retire(state, listing, marks, emptied=choice.packs, moved=moved)
        return replace(
            report,
            retired_packs=retired.packs,
            repacked_packs=retired.repacked,
            moved_bytes=moved.moved_bytes,
            orphans=retired.orphans,
            retired_bytes=retired.bytes,
        )

    def collector(self) -> Collector:
        """Return one run's collector, with a log and a reader of its own, and without data keys."""
        workspace = self._workspace
        keys = without_data(workspace.keys)
        log = workspace.log.another(keys)
        reader = Reader(workspace.place, keys, workspace.threads)
        return Collector(
            place=workspace.place,
            remover=workspace.remover,
            log=log,
            reader=reader,
            verifier=Verifier(workspace.ref, workspace.place, log, reader),
            writer=self._writer(keys.newest),
            key_epochs=keys.numbers,
            spare_fence=self._spare_fence,
            tell=self._tell,
        )

    def _adoption(self) -> Adoption:
        return Adoption(workspace=self._workspace, writer=self._writer(self._workspace.keys.newest))

    def folder(self) -> fold.Folder:
        """Return what folds."""
        workspace = self._workspace
        return fold.Folder(
            place=workspace.place, keys=workspace.keys.newest, mover=self.mover(), fresh=self._fresh
        )

    def mover(self) -> Mover:
        """Return what moves contents; it has every key."""
        workspace = self._workspace
        return Mover(
            place=workspace.place,
            keys=workspace.keys.newest,
            reader=Reader(workspace.place, workspace.keys, workspace.threads),
            threads=workspace.threads,
            fresh=self._fresh,
            tell=self._tell,
        )

    def _writer(self, keys: EpochKeys) -> LogWriter:
        return LogWriter(keys=keys, fresh=self._fresh, clock_ms=self._clock_ms)


def _keep_fields(state: LogState, *, seq: int, pin: bool, actor: str, reason: str) -> Keep:
    row = state.row(seq)
    if row is None or not (state.counts(row) or seq in state.sides):
        raise NoSuchCheckpoint(seq=seq)
    return Keep(seq, row.hash, pin, reason, actor)


def _policy_forget(
    state: LogState, seqs: Sequence[int], policy: Retention, now_ms: int, actor: str
) -> Forget:
    """Return the F, without what a K or a new checkpoint has meanwhile made worth keeping."""
    still = set(to_forget(state, policy, now_ms)) | {seq for seq in seqs if seq in state.sides}
    return Forget([seq for seq in seqs if seq in still], policy.words(), actor)

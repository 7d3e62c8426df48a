"""Garbage collection by log entry: no clocks, no age rules, no locks.

A run reads the chain from the store. It deletes what R entries of *earlier* runs gave up, and then gives up
what is dead now: packs in which no reached chunk lies, and orphans that were listed while the log had this
length. The R is placed like any entry; if the log grew meanwhile, nothing was decided. What it names is
deleted by the next run, after that has read the R again in the chain.

It refuses where anything contradicts the log: a gap, a name it does not know, an object that is missing, a
tree that cannot be read. A listing finds candidates only; it is never proof that something is not there.

Source: storage.md 4.4 rules 3, 4, 5, 7 and 8.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import CollectRefused, CommitContended, FormatError
from storage.format import names
from storage.format.entries import Fields, PackRef, Retire
from storage.repository.guards import missing_guards, raise_guard
from storage.repository.index import Container
from storage.repository.log import CommitLog, Placed
from storage.repository.log_writer import LogWriter, fitting_refs
from storage.repository.mark import Marks, mark
from storage.repository.moving import Moved
from storage.repository.prefixed import Prefixed
from storage.repository.reader import READS_AT_ONCE, Reader
from storage.repository.removal import Remover, may_go
from storage.repository.snapshots import differing
from storage.repository.state import LogState
from storage.repository.telling import Tell, tell_nobody
from storage.repository.together import together
from storage.repository.verify import Verifier

ENABLED: Final = True
"""Garbage collection and fold run since the exhaustive interleavings of the real code pass
(tests/sim/test_storage_interleavings.py). Whoever changes the protocol switches this off until they do again.
"""
NOTHING_MOVED: Final = Moved()
NAMES_MAX: Final = 10_000
"""Objects that one R gives up; what is over waits for the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every object of a repository, by name, with its size; listed while the log had `seq` entries."""

    sizes: dict[str, int]
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a run deleted."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What a run gave up, for the next one to delete."""

    packs: int = 0
    """Those that were dead, and those whose reached chunks lie in new ones now."""
    repacked: int = 0
    orphans: int = 0
    snapshots: int = 0
    bytes: int = 0


class Collector:
    """One run over one repository. `log` must be one that nobody else uses and that has no cache."""

    def __init__(
        self,
        *,
        place: Prefixed,
        remover: Remover,
        log: CommitLog,
        reader: Reader,
        verifier: Verifier,
        writer: LogWriter,
        key_epochs: Mapping[bytes, int],
        spare_fence: bool = True,
        tell: Tell = tell_nobody,
    ) -> None:
        """Take the parts.

        Args:
            key_epochs: number of each key epoch that can be opened, by its key id.
            spare_fence: leave orphans of the fence in force alone: a courtesy to its owner, who may be
                uploading. Safe either way.
        """
        self._place = place
        self._remover = remover
        self._log = log
        self._reader = reader
        self._verifier = verifier
        self._writer = writer
        self._key_epochs = key_epochs
        self._spare_fence = spare_fence
        self._tell = tell

    async def read(self, *, witnesses: tuple[tuple[int, bytes], ...] = ()) -> LogState:
        """Read the chain; it must hold what witnesses (the registry, a warm log) remember of it."""
        state = await self._log.refresh()
        if state.writers_stop is not None:
            raise state.writers_stop
        if state.collectors_stop:
            raise CollectRefused(what=state.collectors_stop)
        if state.config_told not in (b"", state.config_hash):
            raise CollectRefused(what="config is not the one that this log began with")
        state.require_whole()
        if state.unopened_side():
            raise CollectRefused(what=f"{state.unopened_side()} does not open")
        for seq, hash_ in witnesses:
            row = state.row(seq)
            if row is None or row.hash != hash_:
                raise CollectRefused(what="the log is not the one that is remembered", seq=seq)
        return state

    async def listing(self, state: LogState) -> Listing:
        """List everything, and hold it against the log."""
        sizes: dict[str, int] = {}
        last = ""
        async for info in self._place.list():
            if info.name <= last:
                raise CollectRefused(what="a listing repeats itself", object=info.name)
            last = info.name
            sizes[info.name] = info.size
            _refuse_unknown(info.name)
        for number in missing_guards(len(state.histories), sizes):
            await raise_guard(self._place, number)  # it was lost: it stands again before anything is freed
        await self._compare(state, sizes)
        return Listing(sizes=sizes, seq=state.seq, hash=state.hash)

    async def _compare(self, state: LogState, sizes: dict[str, int]) -> None:
        if any(name.startswith(names.INDEX_PREFIX) for name in sizes):
            await self._compare_snapshot(state)
        for name in sizes:
            if name.startswith(names.LOG_PREFIX) and names.log_entry_seq(name) > state.seq:
                raise CommitContended(what="the log grew while it was listed", seq=state.seq)
        for seq in range(state.folded_to + 1, state.seq + 1):
            await self._must_be_there(sizes, names.log_entry(seq), None)
        for name, _ in state.histories:
            await self._must_be_there(sizes, name, None)
        for name, container in state.index.containers.items():
            if not may_go(state, name):
                await self._must_be_there(sizes, name, container.size)

    async def _compare_snapshot(self, state: LogState) -> None:
        """Hold what a cold start would believe against the chain (rule 8)."""
        shown = await self._log.another(snapshots=True).refresh()
        if (shown.seq, shown.hash) != (state.seq, state.hash):
            raise CommitContended(what="the log grew while it was read", seq=state.seq)
        what = differing(state, shown)
        if what:
            raise CollectRefused(
                what=f"an index snapshot and the chain disagree about {what}: renew the index"
            )

    async def _must_be_there(self, sizes: dict[str, int], name: str, size: int | None) -> None:
        found = sizes[name] if name in sizes else await self._place.head(name)
        if found is None:
            raise CollectRefused(what="missing", object=name)
        if size is not None and found != size:
            raise CollectRefused(what="size", object=name, size=found, expected=size)

    async def sweep(self, state: LogState, listing: Listing) -> Swept:
        """Delete what entries of this chain gave up. Never call it after placing an R with the same state."""
        gone = [name for name in listing.sizes if may_go(state, name)]
        folded = [names.log_entry_seq(name) for name in gone if name.startswith(names.LOG_PREFIX)]
        for number, name in enumerate(gone):
            self._tell("delete", number, len(gone), "objects")
            if not name.startswith(names.LOG_PREFIX):
                await self._remover.remove(state, name)
        await self._remover.remove_folded(state, folded)
        return Swept(objects=len(gone), bytes=sum(listing.sizes[name] for name in gone))

    async def mark(self, state: LogState) -> Marks:
        """Return what kept checkpoints and side branches reach."""
        return await mark(self._reader, state, self._tell)

    async def retire(
        self,
        state: LogState,
        listing: Listing,
        marks: Marks,
        *,
        emptied: Sequence[Container] = (),
        moved: Moved = NOTHING_MOVED,
    ) -> Retired:
        """Give up dead packs, orphans, outdated snapshots, and packs whose reached chunks were moved, with
        one R, if there are any.

        Args:
            emptied: packs that are given up because everything reached in them lies in those of `moved`.

        Raises:
            CommitContended: the log grew since it was read; nothing was decided.
        """
        live = marks.containers(state.index)
        containers = state.index.containers
        dead = [name for name in state.packs if name not in live]
        orphans = [name for name in listing.sizes if self._is_orphan(state, name)]
        outdated = outdated_snapshots(state, listing.sizes)
        loose = [name for name, one in containers.items() if _is_dead_side(state, one) and name not in live]
        loose += [name for name in sorted(state.dropped) if name not in containers]
        loose += [name for name in orphans if name.startswith(names.HISTORY_PREFIX)] + outdated
        packs = [one.name for one in emptied] + dead
        packs += [name for name in orphans if name.startswith(names.PACK_PREFIX)]
        packs, loose = packs[:NAMES_MAX], loose[:NAMES_MAX]
        if not packs and not loose:
            return Retired()
        refs = fitting_refs(moved.refs)
        fields = Retire([names.pack_parts(name) for name in packs], 0, loose, refs, None)
        await self.place(listing, fields, moved.refs)
        return Retired(
            packs=len(dead) + len(emptied),
            repacked=len(emptied),
            orphans=len(orphans),
            snapshots=len(outdated),
            bytes=sum(listing.sizes.get(name, 0) for name in packs + loose),
        )

    async def under_older_keys(self, state: LogState) -> list[str]:
        """Return the objects with contents that a key opens which a V put out of use: after a leak."""
        wanted = state.version.min_key_epoch
        if wanted <= 1:
            return []
        found = list(state.index.containers.values())
        reads = [self._reader.key_id(container) for container in found]
        key_ids = await together(reads, at_once=READS_AT_ONCE)
        older = {key_id for key_id, number in self._key_epochs.items() if number < wanted}
        return [one.name for one, key_id in zip(found, key_ids, strict=True) if key_id in older]

    async def place(self, listing: Listing, fields: Retire, refs: tuple[PackRef, ...] = ()) -> Placed:
        """Place an R right behind the entries it was planned against, and verify it."""

        def plan(now: LogState) -> bytes:
            return self._planned(now, listing, fields)

        nil = any(ref.table is None for ref in fields.new_packs)
        tables = [ref.table for ref in refs if nil and ref.table is not None]
        placed = await self._log.append(plan, tables=tables)
        await self._verifier.placed(placed)
        return placed

    def _planned(self, now: LogState, listing: Listing, fields: Fields) -> bytes:
        if (now.seq, now.hash) != (listing.seq, listing.hash):
            raise CommitContended(what="the log grew since it was read", seq=now.seq)
        return self._writer.entry(now, fields)

    def _is_orphan(self, state: LogState, name: str) -> bool:
        """Return whether no entry speaks of an object. `b/` is never one: its B may still come."""
        if name in state.retired:
            return False  # deleted by this very run
        if name.startswith(names.HISTORY_PREFIX):
            return name not in dict(state.histories)
        if not name.startswith(names.PACK_PREFIX) or name in state.packs:
            return False
        return not self._spare_fence or names.pack_parts(name)[0] < state.fence


def _is_dead_side(state: LogState, container: Container) -> bool:
    return container.name.startswith(names.SIDE_PREFIX) and container.name not in state.side_objects()


def outdated_snapshots(state: LogState, listed: Iterable[str]) -> list[str]:
    """Return the index snapshots that no cold start of this log needs: all but its newest."""
    found = [name for name in listed if name.startswith(names.INDEX_PREFIX) and name not in state.retired]
    usable = [name for name in found if state.fold_at <= names.snapshot_seq(name) <= state.seq]
    newest = max(usable, key=names.snapshot_seq, default=None)
    return [name for name in found if name != newest and names.snapshot_seq(name) <= state.seq]


def _refuse_unknown(name: str) -> None:
    """Refuse a name that this version cannot have made: somebody newer writes here."""
    if name == names.CONFIG or name.startswith((names.RECEIPT_PREFIX, names.KEY_PREFIX)):
        return
    try:
        if name.startswith(names.PACK_PREFIX):
            names.pack_parts(name)
        elif name.startswith(names.LOG_PREFIX):
            names.log_entry_seq(name)
        elif name.startswith(names.HISTORY_PREFIX):
            names.history_to(name)
        elif name.startswith(names.GUARD_PREFIX):
            names.guard_number(name)
        elif name.startswith(names.SIDE_PREFIX):
            _side_object(name)
        elif name.startswith(names.INDEX_PREFIX):
            names.snapshot_seq(name)
        else:
            raise CollectRefused(what="a name that this version does not know", object=name[:80])
    except FormatError as exc:
        raise CollectRefused(what="a name that this version does not know", object=name[:80]) from exc


def _side_object(name: str) -> None:
    """Refuse a name below `b/` that is neither a side checkpoint's nor one of its packs'."""
    if names.is_side_pack(name):
        return
    names.side_parts(name)

"""Copies one workspace's sealed objects to a second store, and follows its removals.

Create-only on both sides: an object is read from the main store, checked against the log, created on the
second one and read back. Other bytes under a name stop everything: nothing is ever overwritten. All that a
crash leaves is a shorter copy, and the next run goes on from what is listed there.

`follow` copies what came since the last time and lists nothing; `compare` lists both stores, finds whatever
is missing, and removes what an R that stands on both logs gave up and the main store has no more.

Not here: which objects, in which order (`wanted.py`), whether one may be removed (`repository/removal.py`),
erasure of a whole workspace and keys of a tenant (`tenants.py`).

Source: docs/design/0011-second-target.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from blake3 import blake3

from storage.errors import (
    FormatError,
    ObjectDamaged,
    ObjectNotFound,
    ReplicaDiverged,
    RepositoryError,
)
from storage.format import names
from storage.format.envelope import head_end
from storage.objects.store import ObjectStore
from storage.ops.workspace import Workspace
from storage.replica.look import ReplicaLook
from storage.replica.sealed import check_sealed
from storage.replica.wanted import (
    Position,
    Wanted,
    newest_entry,
    odd_sizes,
    rank,
    wanted_of,
    wanted_since,
)
from storage.repository.entry_head import find_head
from storage.repository.log import CommitLog
from storage.repository.prefixed import Prefixed
from storage.repository.removal import Remover, may_leave_replica, remove_slot
from storage.repository.settle import settle_create
from storage.repository.state import FOREIGN_KIND, LogState, Row
from storage.repository.together import together

COPIES_AT_ONCE: Final = 2
"""Packs under way: each is in memory once, and read back once more."""
REPLANS_MAX: Final = 4
"""The main store was tidied while it was copied; then the log is read again."""
FAULTS_MAX: Final = 100


class _Moved(Exception):
    """The main store's garbage collection was faster; what was planned is not wanted any more."""


@dataclass(slots=True)
class _Count:
    objects: int = 0
    bytes: int = 0
    removed: int = 0
    faults: list[str] = field(default_factory=list)


class Copier:
    """The second copy of one repository. It remembers a position, which is a cache of both stores."""

    def __init__(self, workspace: Workspace, second: ObjectStore) -> None:
        self.workspace = workspace
        self._second = second
        self._place = Prefixed(second, workspace.place.prefix)
        self.known: Position | None = None

    async def follow(self, *, receipts: Sequence[str] = ()) -> ReplicaLook:
        """Copy what came since the last time; the first time, compare.

        Raises:
            ReplicaDiverged: nothing was overwritten.
            StoreError: one of the stores did not do what was asked; another call goes on.
        """
        state = await self._refreshed()
        wanted = self._since(state)
        if wanted is None:
            return await self.compare()
        wanted += [Wanted(name=names.receipt(session)) for session in receipts]
        count = _Count()
        try:
            reached = _position(state, self.workspace)
            await self._copy(wanted, count)
        except _Moved:
            return await self.compare()
        if count.faults:
            self.known = None  # only a comparison finds out whether that is over
        else:
            self.known = reached
        return self._look(count, reached)

    async def compare(self) -> ReplicaLook:
        """List both stores, copy whatever is missing, remove what both logs gave up."""
        count = _Count()
        for _ in range(REPLANS_MAX):
            # This order: whatever another replicator copied meanwhile came from the main store, so it is in
            # its listing or in the log that is read after both.
            there = {info.name: info.size async for info in self._place.list()}
            here = {info.name: info.size async for info in self.workspace.place.list()}
            state = await self._refreshed()
            if state.snapshot_at:  # what may go is asked of a chain that was read itself
                async with self.workspace.lock:
                    state = await self.workspace.log.read_chain()
            await self._require_same_log(state, there)
            wanted = wanted_of(state, here)
            reached = _position(state, self.workspace)
            count.faults = [f"{name}: another size on the second store" for name in odd_sizes(wanted, there)]
            try:
                await self._copy([one for one in wanted if one.name not in there], count)
            except _Moved:
                continue
            await self._remove(there, here, count)
            self.known = None if count.faults else reached
            return self._look(count, reached)
        return self._look(count, None)

    def behind(self, state: LogState) -> ReplicaLook:
        """Say how far the second store is behind as far as it is known, without asking it."""
        wanted = self._since(state)
        if wanted is None:
            return ReplicaLook(state="behind", main_seq=state.seq)
        times = [one.time_ms for one in wanted if one.time_ms is not None]
        assert self.known is not None, "a position is needed to know what came since"
        return ReplicaLook(
            state="behind" if times else "in_step",
            main_seq=state.seq,
            replica_seq=self.known.seq,
            behind_entries=state.seq - self.known.seq,
            behind_bytes=sum(one.container.size for one in wanted if one.container is not None),
            oldest_ms=min(times, default=None),
        )

    def behind_known(self) -> ReplicaLook:
        """Say the same of what this process has read of the main log."""
        return self.behind(self.workspace.log.state)

    async def _refreshed(self) -> LogState:
        async with self.workspace.lock:
            return await self.workspace.log.refresh()

    def _since(self, state: LogState) -> list[Wanted] | None:
        if self.known is None or self.known.key_epoch != self.workspace.keys.key_epoch:
            return None
        return wanted_since(state, self.known)

    async def _require_same_log(self, state: LogState, there: dict[str, int]) -> None:
        """Stop where the second store's log is not a beginning of the main one."""
        seq = newest_entry(there)
        if seq > state.seq:
            state = await self._refreshed()  # somebody else may have copied what came meanwhile
        if seq > state.seq:
            raise ReplicaDiverged(what="the second store's log is longer", seq=seq, main_seq=state.seq)
        raw = await self._place.find(names.CONFIG)
        if raw is not None and blake3(raw).digest() != state.config_hash:
            raise ReplicaDiverged(what="another repository", object=names.CONFIG)
        row = state.row(seq)
        if row is not None and await self._hash_there(row) != row.hash:
            raise ReplicaDiverged(what="other bytes", object=names.log_entry(seq))

    async def _hash_there(self, row: Row) -> bytes:
        """Return what lies on the second store under a row's number, as the log names it."""
        if row.kind == FOREIGN_KIND:
            return blake3(await self._place.get(names.log_entry(row.seq))).digest()
        return await entry_hash(self._place, row.seq)

    async def _copy(self, wanted: Sequence[Wanted], count: _Count) -> None:
        """Copy stage by stage; entries one after the other, so that no higher one stands without a lower."""
        damaged = self.workspace.log.state.damaged.values()
        count.faults += [f"{one.name}: {one.why}" for one in damaged][:FAULTS_MAX]
        for stage in range(4):
            part = [one for one in wanted if rank(one.name) == stage]
            at_once = 1 if stage == 2 else COPIES_AT_ONCE
            await together([self._copy_one(one, count) for one in part], at_once=at_once)

    async def _copy_one(self, wanted: Wanted, count: _Count) -> None:
        name = wanted.name
        try:
            raw = await self.workspace.place.get(name)
        except ObjectNotFound:
            await self._missing(wanted, count)
            return
        try:
            check = partial(check_sealed, self.workspace.keys, wanted, raw)
            await self.workspace.threads.quick(check)
        except (FormatError, RepositoryError) as exc:
            await self._broken(wanted, exc, count)
            return
        await put_copy(self._place, name, raw)
        count.objects += 1
        count.bytes += len(raw)

    async def _missing(self, wanted: Wanted, count: _Count) -> None:
        if await self._is_wanted(wanted):
            await self._broken(wanted, ObjectDamaged(object=wanted.name, what="missing"), count)

    async def _broken(self, wanted: Wanted, exc: Exception, count: _Count) -> None:
        """An entry that cannot be copied ends the copy; other objects are told, and what follows goes on."""
        if wanted.name.startswith(names.LOG_PREFIX):
            if await self._is_wanted(wanted):
                raise exc
            return
        if len(count.faults) < FAULTS_MAX:
            count.faults.append(f"{wanted.name}: {exc}")

    async def _is_wanted(self, wanted: Wanted) -> bool:
        """Return whether the log, read again, still names an object; raise _Moved if it does not."""
        state = await self._refreshed()
        if rank(wanted.name) in (0, 3) or any(one.name == wanted.name for one in wanted_of(state, ())):
            return True
        raise _Moved

    async def _remove(self, there: dict[str, int], here: dict[str, int], count: _Count) -> None:
        """Follow the removals of the main store: only once what allows them stands on the second one too."""
        gone = [name for name in there if name not in here]
        if not gone:
            return
        replica = await CommitLog(self._place, self.workspace.keys, self.workspace.threads, None).refresh()
        main = self.workspace.log.state
        remover = Remover(self._second, self._place.prefix)
        free = [name for name in gone if may_leave_replica(main, replica, name, on_main=here)]
        for name in free:
            if not name.startswith(names.LOG_PREFIX):
                await remover.remove_from_replica(main, replica, name, on_main=here)
        await self._remove_slots(gone, here)
        entries = [names.log_entry_seq(name) for name in free if name.startswith(names.LOG_PREFIX)]
        await remover.remove_folded(replica, entries)
        count.removed += len(free)

    async def _remove_slots(self, gone: Sequence[str], here: dict[str, int]) -> None:
        """A slot that was wrapped anew goes, where the other one of the same secret stands on both stores."""
        for name in (name for name in gone if name.startswith(names.KEY_PREFIX)):
            of = name.rpartition("-")[0]
            others = [one for one in here if one.rpartition("-")[0] == of and one != name]
            if others:
                await remove_slot(self._second, self._place.prefix, name, instead=others[0])

    def _look(self, count: _Count, reached: Position | None) -> ReplicaLook:
        look = self.behind_known()
        if reached is not None and look.replica_seq is None:
            look = replace(look, replica_seq=reached.seq)
        return replace(
            look,
            state="damaged" if count.faults else look.state,
            copied_objects=count.objects,
            copied_bytes=count.bytes,
            removed_objects=count.removed,
            faults=tuple(count.faults),
        )


def _position(state: LogState, workspace: Workspace) -> Position:
    return Position(
        seq=state.seq,
        hash=state.hash,
        histories=len(state.histories),
        key_epoch=workspace.keys.key_epoch,
    )


async def put_copy(place: Prefixed, name: str, raw: bytes) -> None:
    """Create an object with exactly these bytes, and read it back.

    Raises:
        ReplicaDiverged: the name holds other bytes; they are left as they are.
    """
    if not await settle_create(place, name, raw):
        raise ReplicaDiverged(what="other bytes", object=name)
    try:
        if await place.get(name) == raw:
            return
    except ObjectNotFound as exc:
        raise ObjectDamaged(object=name, what="a copy is gone after it was made") from exc
    raise ObjectDamaged(object=name, what="a copy reads back otherwise")


async def entry_hash(place: Prefixed, seq: int) -> bytes:
    """Return the hash of a log entry as it lies in a store. Needs no key."""
    name = names.log_entry(seq)
    raw = await find_head(place, name)
    if raw is None:
        raise ObjectNotFound(name=name)
    return blake3(raw[: head_end(raw, name)]).digest()

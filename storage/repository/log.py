"""The commit log on the store: read it to its end, and place one entry behind it.

The log is the only truth, and the create-only PUT of its next number the only point where writers meet. The
end is the number that cleanly does not exist; numbers are dense; a listing only finds candidates. An entry
whose PUT got no certain answer keeps its number: the same bytes are sent again before this process writes
anything else.

A fold frees names: entries up to its number go, in ascending order, and a sleeping writer may create one of
them again. So a log is read from its newest end down to the newest fold, and a warm reader believes an end
only if the entry that it started from is still there afterwards (rule 6).

Not here: what an entry says (`state.py`), when it may be believed (`verify.py`).

Source: storage.md 4.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import msgspec
from blake3 import blake3

from storage.errors import (
    ChainBroken,
    CommitContended,
    FormatError,
    KeyMissing,
    KeysChanged,
    ObjectDamaged,
    RepositoryError,
    RepositoryMissing,
    StorageError,
    StoreError,
)
from storage.format import names
from storage.format.encoding import decode, encode
from storage.format.entries import EntryKind, PackRef, Retire, SideBranch, Version, decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.history import read_history
from storage.format.snapshot import read_snapshot
from storage.format.table import Table
from storage.repository.cache import RecordFile
from storage.repository.entry_head import find_head
from storage.repository.footers import Footers
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.slots import ReopenKeys, RepositoryKeys, newer_keys
from storage.repository.state import (
    HISTORY_KIND,
    SNAPSHOT_KIND,
    LogState,
    Row,
    StoredHead,
    StoredHistory,
    StoredSide,
    StoredSnapshot,
    is_full_base,
    pack_name,
    pack_refs,
    stored_head_decoder,
)
from storage.repository.threads import Threads
from storage.repository.together import together

READ_AHEAD_ENTRIES: Final = 16
COLD_TRIES_MAX: Final = 3
"""A log that is folded while it is read is read again."""
STEPPED_OVER_MAX: Final = 16
"""Objects in a row that one V may step over."""
CONTENTION_MAX: Final = 16
"""Places lost to others before a plan is given up as contended."""

Plan: TypeAlias = Callable[[LogState], bytes]
"""Makes the bytes of the next entry for a state; may raise to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An entry whose create was answered: the number holds these bytes."""

    row: Row
    raw: bytes
    next_fold: int
    """Number of the first fold that the plan did not know of."""


class _Snapshot(NamedTuple):
    """An index snapshot that opened: number and hash of its last entry, and what it says."""

    seq: int
    hash: bytes
    stored: StoredSnapshot


class CommitLog:
    """The log of one repository as this process knows it. One caller at a time (`ops` holds a lock)."""

    def __init__(
        self,
        place: Prefixed,
        keys: RepositoryKeys,
        threads: Threads,
        cache: RecordFile | None,
        *,
        snapshots: bool = False,
        reopen: ReopenKeys | None = None,
    ) -> None:
        """Take the parts.

        Args:
            snapshots: begin a cold start with the newest index snapshot. Not for whoever deletes, proves or
                looks for damage: he reads the chain.
            reopen: reads the slots anew; asked before a key that is not known is called missing.
        """
        self._place = place
        self._keys = keys
        self._threads = threads
        self._cache = cache
        self._snapshots = snapshots
        self._reopen = reopen
        self._known_to: CommitLog | None = None
        """Who asked this one, which knew nothing: what it finds out about the keys is true for him, too."""
        self.snapshot_seq: int | None = None
        """Number of the newest index snapshot as far as it is known; None if nobody looked yet."""
        self.snapshot_chunks = 0
        """How many chunks it had."""
        self._unsaved: list[StoredHead] = []
        self._anew = False
        self._last: StoredHead | None = None
        self._unsettled: tuple[str, bytes] | None = None
        self._loaded = False
        self._footers = Footers(place, keys)
        self._knew_keys = False
        self.keys_changed = False
        """The repository has keys that this process did not open; who holds this log drops it."""
        self.read_well = 0
        """How often it was read to an end behind which entries may be placed."""
        self.state = LogState(config_hash=keys.config_hash)

    async def refresh(self) -> LogState:
        """Read every entry behind the last known one; start over if that one is not there any more."""
        try:
            return await self._refresh()
        except KeyMissing as exc:
            if not (self._knew_keys or await newer_keys(self._reopen, self._keys)):
                raise
            self.keys_changed = True
            if self._known_to is not None:
                self._known_to.keys_changed = True
            raise KeysChanged(seq=self.state.seq) from exc

    async def _refresh(self) -> LogState:
        state = await self._read_whole()
        self._knew_keys = True
        self.read_well += state.writers_stop is None
        if state.version.min_key_epoch > self._keys.key_epoch:
            self.keys_changed = True
        return state

    async def _read_whole(self) -> LogState:
        if not self._loaded:
            await self._load_cache()
        if self.state.damaged and await self._footers.is_one_back(list(self.state.damaged.values())):
            self.forget()
        if self.state.seq and await self._read_on_from_known():
            return self.state
        failure: StorageError | None = None
        for _ in range(COLD_TRIES_MAX):
            self.forget()
            try:
                await self._read_cold()
                return self.state
            except (ChainBroken, ObjectDamaged) as exc:
                failure = exc
        self.forget()
        assert failure is not None, "every try failed"
        raise failure

    def another(self, keys: RepositoryKeys | None = None, *, snapshots: bool = False) -> "CommitLog":
        """Return the same log as somebody sees it who knows nothing of it yet, by its chain alone."""
        keys = keys if keys is not None else self._keys
        found = CommitLog(self._place, keys, self._threads, None, snapshots=snapshots, reopen=self._reopen)
        found._known_to = self
        return found

    async def read_chain(self) -> LogState:
        """Read everything anew by the chain alone, whatever this process knew and an index snapshot says."""
        self.forget()
        snapshots, self._snapshots = self._snapshots, False
        try:
            return await self.refresh()
        finally:
            self._snapshots = snapshots

    @property
    def unsettled(self) -> bool:
        """Return whether an entry waits to be sent again."""
        return self._unsettled is not None

    def forget(self) -> None:
        """Drop what is known: the next refresh reads everything from the store."""
        self._unsaved = []
        self._anew = True
        self._last = None
        self.state = LogState(config_hash=self._keys.config_hash)
        self._loaded = True

    async def append(
        self, plan: Plan, *, tables: Sequence[Table] = (), sides: Sequence[StoredSide] = ()
    ) -> Placed:
        """Place one entry at the end of the log; `plan` is asked again whenever somebody else was faster.

        `tables` are those of the pack references that carry none, `sides` what a B names.

        Raises:
            CommitUncertain: no certain answer; the next append sends the same bytes again first.
            CommitContended: others were faster too often.
        """
        await self._settle()
        for _ in range(CONTENTION_MAX):
            state = await self.refresh()
            if state.writers_stop is not None:
                raise state.writers_stop
            if self.keys_changed:
                raise KeysChanged(key_epoch=self._keys.key_epoch, wanted=state.version.min_key_epoch)
            name = names.log_entry(state.seq + 1)
            raw = await self._threads.quick(plan, state)
            self._unsettled = (name, raw)
            try:
                ours = await settle_create(self._place, name, raw)
            except StoreError:
                self._unsettled = None  # nothing was written, so the number is free for other bytes
                raise
            self._unsettled = None
            if ours:
                next_fold = len(state.histories) + 1
                row = self._take_in(state.seq + 1, raw, tables, sides)
                return Placed(row=row, raw=raw, next_fold=next_fold)
        raise CommitContended(seq=self.state.seq)

    async def entry_bytes(self, seq: int) -> bytes:
        """Read a whole entry."""
        return await self._place.get(names.log_entry(seq))

    async def predecessor_stands(self, row: Row) -> bool:
        """Return whether what a row names as its predecessor is still there: the look of rule 6."""
        name = names.log_entry(row.seq - 1) if row.seq > 1 else names.CONFIG
        return await self._place.head(name) is not None

    async def fold_began(self, number: int) -> bool:
        """Return whether the log's fold `number` may have happened, so that numbers may have been freed."""
        return await self._place.head(names.fold_guard(number)) is not None

    async def row_stands(self, row: Row) -> bool:
        """Return whether a row that was read before is in the chain now. False: read again to know."""
        return not await self.fold_began(len(self.state.histories) + 1) and await self.is_linked(row)

    async def is_linked(self, row: Row) -> bool:
        """Return whether what a row follows is there: its predecessor, or the fold that took it in."""
        at = row.seq - 1 if row.seq > self.state.folded_to + 1 else self.state.fold_at
        name = names.log_entry(at) if at else names.CONFIG
        return await self._place.head(name) is not None

    async def _settle(self) -> None:
        if self._unsettled is not None:
            name, raw = self._unsettled
            await settle_create(self._place, name, raw)
            self._unsettled = None

    def _take_in(self, seq: int, raw: bytes, tables: Sequence[Table], sides: Sequence[StoredSide]) -> Row:
        opened = self._opened(seq, raw)
        head = msgspec.structs.replace(opened, tables=list(tables), sides=list(sides))
        row = self.state.apply(head)
        self._last = head
        self._unsaved.append(head)
        return row

    async def _read_on_from_known(self) -> bool:
        """Read behind the last known entry. False: what was known is not what the store holds."""
        started = self._last
        assert started is not None, "asked only where an entry is known"
        try:
            await self._read_on()
        except (ChainBroken, ObjectDamaged):
            return False
        # Names are freed in ascending order, so while this one stands, none behind it was ever freed.
        return await self._still_there(started)

    async def _still_there(self, last: StoredHead) -> bool:
        """Look whether a known entry is in the store, with the bytes we know."""
        raw = await self._place.find(names.log_entry(last.seq), length=last.area_start)
        return raw is not None and blake3(raw).digest() == last.hash

    async def _read_cold(self, until: int = 0) -> None:
        """Read from the newest end, or from entry `until` and nothing behind it."""
        highest = until or await self.listed_end()
        if not highest and await self._place.head(names.CONFIG) is None:
            self.keys_changed = True  # erased, or lost as a whole: opening it again tells which
            raise RepositoryMissing(what="config is gone", prefix=self._place.prefix)
        snapshot = await self._newest_snapshot(highest) if self._snapshots else None
        heads, fold = await self._read_back(highest, snapshot.seq - 1 if snapshot is not None else 0)
        if snapshot is not None and not _is_believed(snapshot, heads):
            snapshot = None
            if fold is None:
                heads, fold = await self._read_back(highest, 0)
        retired = {name for head in heads for name in _retired_by(head)}
        if snapshot is not None:
            await self._begin_with(snapshot, heads.pop(0), retired)
        elif fold is not None:
            await self._apply(await self._read_history(fold, retired))
        for head in heads:
            await self._apply(await self._completed(head, retired))
        started = self._last
        if not until:
            await self._read_on()
        if started is not None and not await self._still_there(started):
            raise ChainBroken(what="the log moved while it was read", seq=started.seq)

    async def listed_end(self) -> int:
        """Return the highest number that is listed: where to begin, and no proof of an end."""
        highest = 0
        async for info in self._place.list(names.LOG_PREFIX):
            highest = max(highest, names.log_entry_seq(info.name))
        return highest

    async def _newest_snapshot(self, highest: int) -> "_Snapshot | None":
        """Return the newest index snapshot of entries that are listed, if there is one that opens."""
        found = [names.snapshot_seq(info.name) async for info in self._place.list(names.INDEX_PREFIX)]
        self.snapshot_seq = max((seq for seq in found if seq <= highest), default=0)
        if not self.snapshot_seq:
            return None
        name = names.index_snapshot(self.snapshot_seq)
        raw = await self._place.find(name)
        if raw is None:
            return None
        try:
            keys = self._keys.of_header(raw, name)
            stored = StoredSnapshot(*await self._threads.quick(read_snapshot, keys, name, raw))
        except (FormatError, RepositoryError):
            return None  # a cache that does not open is as good as none
        return _Snapshot(self.snapshot_seq, stored.head.hash, stored)

    async def _begin_with(self, snapshot: "_Snapshot", last: StoredHead, retired: set[str]) -> None:
        """Take in a snapshot in place of the entries up to `last`, which is in the chain."""
        told = snapshot.stored.head
        sides = await self._sides([(side.name, side.hash) for side in told.sides], retired, told.packs)
        body = encode(snapshot.stored)
        await self._apply(StoredHead(last.seq, last.hash, SNAPSHOT_KIND, last.area_start, body, [], sides))
        self.snapshot_chunks = sum(self.state.index.counts())

    async def _read_back(self, highest: int, floor: int) -> tuple[list[StoredHead], tuple[str, bytes] | None]:
        """Return the entries behind `floor` or the newest fold's number, whichever is higher, ascending, and
        the history of that fold. The newest fold is met first.
        """
        found: list[StoredHead] = []
        fold: tuple[str, bytes] | None = None
        stepped_over: dict[int, bytes] = {}
        at = highest
        while at > floor:
            seqs = range(at, max(floor, at - READ_AHEAD_ENTRIES), -1)
            heads = await together([self._try_head(seq) for seq in seqs], at_once=READ_AHEAD_ENTRIES)
            for seq, head in zip(seqs, heads, strict=True):
                if seq <= floor:
                    break
                if head is None:
                    raise ChainBroken(what="gap in the log", seq=seq, listed=highest)
                if isinstance(head, StorageError):
                    if seq not in stepped_over:
                        raise head
                    await self._require_foreign(seq, stepped_over[seq])
                    continue
                stepped_over.update(_void_of(head))
                found.append(head)
                fields = _retire_fields(head)
                if fold is None and fields is not None and fields.history is not None:
                    floor, fold = max(floor, fields.entries_to), fields.history
            at = seqs[-1] - 1
        found.reverse()
        return found, fold

    async def _read_on(self) -> None:
        while True:
            seq = self.state.seq + 1
            try:
                head = await self._read_head(seq)
            except (FormatError, KeyMissing):
                head = await self._stepped_over(seq)
                if head is None:
                    raise
            if head is None:
                return
            await self._apply(await self._completed(head, set()))

    async def _stepped_over(self, first: int) -> StoredHead | None:
        """Return the V behind objects that do not open, if it names exactly these: else they stop all."""
        for seq in range(first + 1, first + 1 + STEPPED_OVER_MAX):
            try:
                head = await self._read_head(seq)
            except (FormatError, KeyMissing):
                continue
            if head is None:
                return None
            told = dict(_void_of(head))
            for foreign in range(first, seq):
                await self._require_foreign(foreign, told.get(foreign))
            return head
        return None

    async def _require_foreign(self, seq: int, hash_: bytes | None) -> None:
        """Look whether what lies under a number is what a V stepped over. It stays until a fold takes it, or
        a reader who comes from below would take its place for the log's end.
        """
        raw = await self._place.find(names.log_entry(seq))
        if raw is None:
            raise ChainBroken(what="gap in the log", seq=seq)
        if hash_ is None or blake3(raw).digest() != hash_:
            raise ChainBroken(what="an object that does not open", seq=seq)

    async def head_opens(self, seq: int) -> bool:
        """Return whether there is an entry under a number, and it opens.

        Raises:
            FormatError, KeyMissing: it does not; why.
        """
        return await self._read_head(seq) is not None

    async def read_up_to(self, seq: int) -> LogState:
        """Read the log as if it ended with entry `seq`: for whoever steps over what lies behind it."""
        self.forget()
        await self._read_cold(seq)
        return self.state

    async def _apply(self, head: StoredHead) -> None:
        await self._threads.quick(self.state.apply, head)
        self._last = head
        self._unsaved.append(head)

    async def _try_head(self, seq: int) -> StoredHead | StorageError | None:
        try:
            return await self._read_head(seq)
        except (FormatError, KeyMissing) as exc:
            return exc

    async def _read_head(self, seq: int) -> StoredHead | None:
        """Read the head of one entry, without what it refers to."""
        name = names.log_entry(seq)
        raw = await find_head(self._place, name)
        return None if raw is None else self._opened(seq, raw)

    async def _completed(self, head: StoredHead, retired: set[str]) -> StoredHead:
        """Return a head with the tables of its packs and the side checkpoint that it names."""
        fields = decode_entry(head.kind, head.body).fields
        tables, damaged = await self._footers.live(pack_refs(fields), retired)
        sides: list[StoredSide] = []
        if isinstance(fields, SideBranch):
            sides = await self._sides([(fields.name, fields.hash)], retired)
        if not (tables or sides):
            return head
        return msgspec.structs.replace(head, tables=tables, sides=sides, damaged=damaged)

    async def _sides(
        self, named: Sequence[tuple[str, bytes]], retired: set[str], live: Sequence[PackRef] | None = None
    ) -> list[StoredSide]:
        """Read side checkpoints. One that is missing or does not open is left out, and hinders nobody who
        only reads the main line.
        """
        found: list[StoredSide] = []
        for name, hash_ in named:
            try:
                side = await self.read_side(name, retired, live)
            except (FormatError, RepositoryError):
                continue
            if side is not None and side.hash == hash_:
                found.append(side)
        return found

    async def read_side(
        self, name: str, retired: set[str], live: Sequence[PackRef] | None = None
    ) -> StoredSide | None:
        """Read a side checkpoint, whether a B names it or not; None if it cleanly does not exist.

        Args:
            retired: packs that an R has given up; their tables are left out.
            live: the main line's packs, where not every such R is read.

        Raises:
            FormatError, RepositoryError: it, or a footer that it needs, does not open.
        """
        raw = await self._place.find(name)
        if raw is None:
            return None
        opened = open_head(self._keys.of_header(raw, name), ObjectType.SIDE_CHECKPOINT, name, raw)
        fields = decode_entry(opened.kind, opened.body).fields
        beside = is_full_base(fields)
        if live is not None and not beside:
            there = {pack_name(ref, beside=False) for ref in live}
            named = {pack_name(ref, beside=False) for ref in pack_refs(fields)}
            retired = retired | (named - there)
        tables = await self._footers.required(pack_refs(fields), retired, beside=beside)
        return StoredSide(name, opened.entry_hash, opened.kind, opened.area_start, opened.body, tables)

    async def _read_history(self, fold: tuple[str, bytes], retired: set[str]) -> StoredHead:
        """Read what a fold left, as a head of kind 0."""
        name, hash_ = fold
        raw = await self._place.find(name)
        if raw is None:
            raise ObjectDamaged(object=name, what="missing")
        keys = self._keys.of_header(raw, name)
        head, rows = await self._threads.quick(partial(read_history, keys, name, raw, hash_=hash_))
        tables, damaged = await self._footers.live(head.packs, retired)
        sides = await self._sides([(side.name, side.hash) for side in head.sides], retired, head.packs)
        body = encode(StoredHistory(head, rows))
        return StoredHead(head.to, rows[-1].hash, HISTORY_KIND, 0, body, tables, sides, damaged)

    def _opened(self, seq: int, raw: bytes) -> StoredHead:
        name = names.log_entry(seq)
        head = open_head(self._keys.of_header(raw, name), ObjectType.LOG_ENTRY, name, raw)
        return StoredHead(seq, head.entry_hash, head.kind, head.area_start, head.body, [])

    async def _load_cache(self) -> None:
        """Take in the heads of the local cache, if they fit; the first look at the store follows."""
        self._loaded = True
        if self._cache is None:
            return
        records = await self._threads.quick(self._cache.read)
        try:
            await self._threads.quick(self._take_cached, records)
        except StorageError:
            self.forget()
        self._unsaved = []

    def _take_cached(self, records: Sequence[bytes]) -> None:
        for raw in records:
            self._last = decode(stored_head_decoder, raw, what="log cache")
            self.state.apply(self._last)

    async def save_cache(self) -> None:
        """Add to the local cache what was read or placed since the last time."""
        if self._cache is None or not (self._unsaved or self._anew) or self.state.damaged:
            return  # what lacks chunks is not remembered: once it is whole again it is read from the store
        records = [encode(head) for head in self._unsaved]
        await self._threads.quick(self._cache.add, records, anew=self._anew)
        self._unsaved, self._anew = [], False


def _is_believed(snapshot: _Snapshot, heads: Sequence[StoredHead]) -> bool:
    """Return whether a snapshot may stand for what is before `heads`. Not if it ends before a fold, or with
    another entry than the chain's, or a later R gave it up: somebody found that it does not tell the truth.
    """
    if not heads or (heads[0].seq, heads[0].hash) != (snapshot.seq, snapshot.hash):
        return False
    name = names.index_snapshot(snapshot.seq)
    return not any(name in fields.names for fields in map(_retire_fields, heads) if fields is not None)


def _retire_fields(head: StoredHead) -> Retire | None:
    if head.kind != EntryKind.RETIRE:
        return None
    fields = decode_entry(head.kind, head.body).fields
    return fields if isinstance(fields, Retire) else None


def _void_of(head: StoredHead) -> list[tuple[int, bytes]]:
    """Return what a V stepped over, by number."""
    if head.kind != EntryKind.VERSION:
        return []
    fields = decode_entry(head.kind, head.body).fields
    return fields.void if isinstance(fields, Version) else []


def _retired_by(head: StoredHead) -> list[str]:
    fields = _retire_fields(head)
    return [] if fields is None else [names.pack(fence, pack_id) for fence, pack_id in fields.packs]

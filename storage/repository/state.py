"""What the commit log says, entry by entry, as one value that grows: rows, fences, chunks, checkpoints.

Pure: it is given opened heads in order and draws the conclusions of 4.4. The same heads always give the same
state, whether they came from the store or from the local cache, and whether or not what is before a fold
was read: a fold brings the state of a process that knows every entry to what its history says.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from storage.errors import ChainBroken, CollectRefused, Malformed, NewerServiceNeeded
from storage.format import names
from storage.format.encoding import Body, decode
from storage.format.entries import (
    Checkpoint,
    CheckpointFlag,
    EntryKind,
    Fields,
    Forget,
    Keep,
    LogEntry,
    PackRef,
    Retire,
    SideBranch,
    TakeOver,
    Version,
    decode_entry,
)
from storage.format.header import ObjectType
from storage.format.history import HistoryHead, HistoryRow
from storage.format.limits import HEADER_BYTES
from storage.format.snapshot import SnapshotHead, SnapshotObject
from storage.format.table import Table, read_table
from storage.repository.index import ChunkIndex, Container, DamagedPack

OUR_VERSION: Final = 1
"""As reader and writer of V entries."""


class StoredSide(Body, frozen=True):
    """The opened head of a side checkpoint that a B names."""

    name: str
    hash: bytes
    kind: int
    area_start: int
    body: bytes
    tables: list[Table | None]


class StoredHead(Body, frozen=True):
    """An opened head, as it was read from the store or kept in the cache. Kind 0: a history, see
    `StoredHistory`. Kind 256: an index snapshot, see `StoredSnapshot`.
    """

    seq: int
    hash: bytes
    kind: int
    area_start: int
    body: bytes
    tables: list[Table | None]
    """Of the pack references that carry none, in order, read from the packs' own footers; nil where a later
    entry has retired the pack.
    """
    sides: list[StoredSide] = msgspec.field(default_factory=list)
    """What a B names, or a history's live side branches. Missing where it does not open."""
    damaged: list[DamagedPack] = msgspec.field(default_factory=list)
    """Packs whose tables are nil because their footers cannot be read."""


class StoredHistory(Body, frozen=True):
    """The body of a stored head of kind 0."""

    head: HistoryHead
    rows: list[HistoryRow]


class StoredSnapshot(Body, frozen=True):
    """The body of a stored head of kind 256. Its number, hash and area start are those of the entry that the
    snapshot ends with.
    """

    head: SnapshotHead
    rows: list[HistoryRow]
    objects: list[SnapshotObject]


TOLD: Final = "told"
"""Reason of a K that says only that the user of a side branch was told of it, by the entry's time."""
FOREIGN_KIND: Final = 0
"""Of rows: something lay under this number that is no entry, and a V stepped over it; the hash is that of the
whole object.
"""
HISTORY_KIND: Final = 0
SNAPSHOT_KIND: Final = 256
"""No entry has it: theirs are one byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of the log, as far as later decisions need it."""

    seq: int
    hash: bytes
    kind: int
    fence: int
    time_ms: int
    void: bool
    """A C that does not count, because its fence is not the one in force; or an E that was too late."""
    session: str = ""
    checkpoint: Checkpoint | None = None
    containers: tuple[str, ...] = ()
    """Names of the objects with segments that came with this entry."""

    def has(self, flag: CheckpointFlag) -> bool:
        """Return whether this is a checkpoint with that flag."""
        return self.checkpoint is not None and bool(self.checkpoint.flags & flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A side checkpoint that a B made count."""

    name: str
    hash: bytes
    row: Row | None
    """What it holds, under the B's number and hash; None if the object does not open."""


NO_VERSION: Final = Version(1, 1, 1, 1, [], [], [])
"""Without a V entry all minima are 1."""


@dataclass(slots=True, kw_only=True)
class LogState:
    """The log up to its last known entry."""

    config_hash: bytes
    rows: list[Row] = field(default_factory=list)
    fence: int = 0
    """Of the newest take-over that counts; 0 before the first."""
    index: ChunkIndex = field(default_factory=ChunkIndex)
    packs: dict[str, PackRef] = field(default_factory=dict)
    """Live packs by name, without their tables."""
    forgotten: set[int] = field(default_factory=set)
    pinned: dict[int, bool] = field(default_factory=dict)
    pin_words: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By whose word a pin stands: number and reason of its K."""
    sides: dict[int, Side] = field(default_factory=dict)
    """Live side branches by the number of their B."""
    dropped: set[str] = field(default_factory=set)
    """Names of side checkpoints that were forgotten and that no R has named yet."""
    told_ms: dict[int, int] = field(default_factory=dict)
    """When the user of a side branch was told of it, by the number of its B."""
    retired: dict[str, int] = field(default_factory=dict)
    """Names that an R of this log gave up, with its number: what may be deleted."""
    retired_at: int = 0
    """Number of the last entry that retired objects; what was planned before may lack chunks."""
    folded_to: int = 0
    """Entries up to this one are in a history; their objects are gone or may go."""
    fold_at: int = 0
    """Number of the R that says so."""
    histories: list[tuple[str, bytes]] = field(default_factory=list)
    """Every history that some R named, oldest first; none of them is ever deleted."""
    snapshot_at: int = 0
    """Entries up to this one were read from an index snapshot, not from the chain; 0 if none."""
    config_told: bytes = b""
    """What a history says of config. Told, and not required to read on: nothing in it is needed then."""
    key_ids: list[bytes] = field(default_factory=list)
    version: Version = NO_VERSION
    writers_stop: NewerServiceNeeded | None = None
    """Set where the log holds something that readers may skip and writers must not."""
    collectors_stop: str = ""
    """Why garbage collection and fold must not run on this log."""

    @property
    def seq(self) -> int:
        """Return the number of the last entry; 0 for an empty log."""
        return len(self.rows)

    @property
    def hash(self) -> bytes:
        """Return what the next entry names as its predecessor."""
        return self.rows[-1].hash if self.rows else self.config_hash

    @property
    def damaged(self) -> dict[str, DamagedPack]:
        """Return the live packs of which nothing is known but that they are damaged. While there is one, this
        state must decide about nothing that may go, and must not be written down as whole.
        """
        return self.index.damaged

    def require_whole(self) -> None:
        """Refuse to go on with an index that lacks chunks. Raises CollectRefused."""
        for one in self.damaged.values():
            raise CollectRefused(
                what="a pack is damaged: bring it back from the second store with `replica repair`, or put a"
                " whole copy in its place",
                object=one.name,
                damaged=len(self.damaged),
                cause=one.why,
            )

    def unopened_side(self) -> str:
        """Return the name of a live side checkpoint that does not open; empty if there is none."""
        return next((side.name for side in self.sides.values() if side.row is None), "")

    def side_objects(self) -> set[str]:
        """Return the names of live side checkpoints and of what they brought along."""
        found = {side.name for side in self.sides.values()}
        return found | {
            name for side in self.sides.values() if side.row is not None for name in side.row.containers
        }

    def row(self, seq: int) -> Row | None:
        """Return entry `seq`, if the log is that long."""
        return self.rows[seq - 1] if 0 < seq <= len(self.rows) else None

    def checkpoints(self) -> list[Row]:
        """Return the checkpoints that count and were not forgotten, oldest first."""
        return [row for row in self.rows if self.counts(row)]

    def counts(self, row: Row) -> bool:
        """Return whether a row is a checkpoint that can be restored."""
        return row.checkpoint is not None and not row.void and row.seq not in self.forgotten

    def newest(self, *, complete: bool) -> Row | None:
        """Return the newest checkpoint that counts; with `complete`, the newest that is."""
        for row in reversed(self.rows):
            if self.counts(row) and (not complete or row.has(CheckpointFlag.COMPLETE)):
                return row
        return None

    def newest_take_over_or_checkpoint(self) -> Row | None:
        """Return the newest E or C that counts: what "the log's newest is C*" looks at."""
        for row in reversed(self.rows):
            if not row.void and row.kind in (EntryKind.TAKE_OVER, EntryKind.CHECKPOINT):
                return row
        return None

    def apply(self, head: StoredHead) -> Row:
        """Take the next entry in, or a history into an empty state.

        Raises:
            ChainBroken: it is not the next entry of this chain.
            Malformed, NewerServiceNeeded: it cannot be understood.
        """
        if head.kind == HISTORY_KIND:
            return self._apply_history(head)
        if head.kind == SNAPSHOT_KIND:
            return self._apply_snapshot(head)
        entry = decode_entry(head.kind, head.body)
        skipped = _stepped_over(entry, self.seq)
        if entry.seq != head.seq or entry.seq != self.seq + 1 + len(skipped):
            raise ChainBroken(what="number in the entry", seq=head.seq, told=entry.seq)
        if entry.prev != self.hash:
            raise ChainBroken(what="predecessor of the entry", seq=head.seq)
        self.rows += [_foreign_row(seq, hash_, self.fence) for seq, hash_ in skipped]
        refs = _with_tables(pack_refs(entry.fields), head.tables, head.seq)
        containers = _containers(names.log_entry(entry.seq), ObjectType.LOG_ENTRY, head.area_start, entry)
        containers += [pack_container(ref, table) for ref, table in refs]
        void = self._judge(entry)
        row = Row(
            seq=entry.seq,
            hash=head.hash,
            kind=entry.kind,
            fence=entry.fence,
            time_ms=entry.time_ms,
            void=void,
            session=entry.fields.session if isinstance(entry.fields, TakeOver | Checkpoint) else "",
            checkpoint=_without_packs(entry.fields),
            containers=tuple(container.name for container in containers),
        )
        if not void:
            self._add(containers, [ref for ref, _ in refs])
            self.damaged.update({one.name: one for one in head.damaged})
        self.rows.append(row)
        if isinstance(entry.fields, SideBranch):
            self.add_side(row.seq, row.hash, entry.fields.name, entry.fields.hash, head.sides)
        return row

    def _add(self, containers: list[Container], refs: list[PackRef], *, beside: bool = False) -> None:
        for container in containers:
            self.index.add(container)
        for ref in refs if not beside else ():
            name = names.pack(ref.fence, ref.pack_id)
            self.packs[name] = msgspec.structs.replace(ref, table=None)

    def add_side(
        self,
        seq: int,
        hash_: bytes,
        name: str,
        named: bytes,
        stored: list[StoredSide],
        *,
        live: Set[str] | None = None,
    ) -> None:
        """Let a side checkpoint count; one that does not open is known by name only, and stops collecting
        while nobody forgot it. The packs of a full base lie below `b/` and belong to it alone: they are no
        packs of the main line, which may be given up or moved.

        Args:
            live: packs of the main line that are there, where the entries that gave others up are not read.
        """
        found = next((side for side in stored if (side.name, side.hash) == (name, named)), None)
        if found is None:
            self.sides[seq] = Side(name=name, hash=named, row=None)
            return
        entry = decode_entry(found.kind, found.body)
        if not isinstance(entry.fields, Checkpoint):
            raise Malformed(rule="a side checkpoint has the fields of a C", object=name)
        refs = _with_tables(entry.fields.packs, found.tables, seq)
        beside = is_full_base(entry.fields)
        if live is not None and not beside:
            refs = [(ref, table) for ref, table in refs if pack_name(ref, beside=False) in live]
        containers = _containers(name, ObjectType.SIDE_CHECKPOINT, found.area_start, entry)
        containers += [pack_container(ref, table, beside=beside) for ref, table in refs]
        self._add(containers, [ref for ref, _ in refs], beside=beside)
        row = Row(
            seq=seq,
            hash=hash_,
            kind=EntryKind.SIDE_BRANCH,
            fence=entry.fence,
            time_ms=entry.time_ms,
            void=False,
            session=entry.fields.session,
            checkpoint=_without_packs(entry.fields),
            containers=tuple(container.name for container in containers),
        )
        self.sides[seq] = Side(name=name, hash=named, row=row)

    def _judge(self, entry: LogEntry) -> bool:
        """Draw the conclusions of an entry; return whether it is void."""
        fields = entry.fields
        if isinstance(fields, TakeOver):
            if entry.fence <= self.fence:
                return True
            self.fence = entry.fence
            if fields.key_id not in self.key_ids:
                self.key_ids.append(fields.key_id)
        elif isinstance(fields, Checkpoint):
            return entry.fence != self.fence
        elif isinstance(fields, Forget):
            self._forget(fields)
        elif isinstance(fields, Keep):
            kept = self.row(fields.seq)
            if kept is not None and kept.hash == fields.hash:
                if fields.reason == TOLD:
                    self.told_ms.setdefault(fields.seq, entry.time_ms)
                else:
                    self.pinned[fields.seq] = fields.pin
                    self.pin_words[fields.seq] = (entry.seq, fields.reason)
        elif isinstance(fields, Retire):
            self._retire(fields, entry.seq)
        elif isinstance(fields, Version):
            self._judge_version(fields, entry.seq)
        elif fields is None:
            self.writers_stop = NewerServiceNeeded(what="entry kind", value=entry.kind, seq=entry.seq)
        return False

    def _forget(self, fields: Forget) -> None:
        """Take checkpoints and side branches out of what counts. A forgotten `b/` may hold chunks that others
        use, so it stays a container until an R names it.
        """
        self.forgotten.update(fields.seqs)
        for seq in fields.seqs:
            dropped = self.sides.pop(seq, None)
            if dropped is not None:
                self.dropped.add(dropped.name)
            self.told_ms.pop(seq, None)

    def _retire(self, fields: Retire, seq: int) -> None:
        self.retired_at = seq
        gone = [names.pack(fence, pack_id) for fence, pack_id in fields.packs] + fields.names
        for name in gone:
            self.retired[name] = seq
            self.packs.pop(name, None)
            self.damaged.pop(name, None)
        self.dropped.difference_update(gone)
        if fields.entries_to:
            assert fields.history is not None, "checked when it was decoded"
            if not self.folded_to <= fields.entries_to:
                raise ChainBroken(what="a fold to before an earlier one", seq=seq)
            self.folded_to, self.fold_at = fields.entries_to, seq
            if fields.history not in self.histories:
                self.histories.append(fields.history)
            gone += self._fold_rows()
        self.index.retire_all(gone)

    def _fold_rows(self) -> list[str]:
        """Bring rows to what a history says of them; return the entries that were containers."""
        gone = [name for name in self.index.containers if _is_entry_to(name, self.folded_to)]
        for at, row in enumerate(self.rows[: self.folded_to]):
            checkpoint = row.checkpoint if self.counts(row) else None
            self.rows[at] = replace(row, checkpoint=checkpoint, containers=())
        self.forgotten = {seq for seq in self.forgotten if seq > self.folded_to}
        self.pin_words = {seq: told for seq, told in self.pin_words.items() if self.pinned.get(seq, False)}
        self.retired = {name: seq for name, seq in self.retired.items() if seq > self.folded_to}
        return gone

    def _apply_history(self, head: StoredHead) -> Row:
        """Begin with what a fold left. The R that names it follows, and says the rest."""
        stored = decode(_history_decoder, head.body, what="stored history")
        if self.rows:
            raise ChainBroken(what="a history inside of the log", seq=head.seq)
        told = stored.head
        self._take_rows(stored.rows)
        if not self.rows or told.fence != self.fence or self.rows[-1].hash != head.hash:
            raise ChainBroken(what="history contradicts itself", seq=head.seq)
        self.pinned, self.told_ms = dict(told.pins), dict(told.told)
        self.pin_words = {seq: (at, words) for seq, at, words in told.pin_words}
        self.key_ids, self.histories = list(told.key_ids), list(told.earlier)
        self.config_told = told.config
        self._judge_version(told.version, head.seq)
        for ref, table in _with_tables(told.packs, head.tables, head.seq):
            self._add([pack_container(ref, table)], [ref])
        self.damaged.update({one.name: one for one in head.damaged})
        for side in told.sides:
            row = self._named_row(side.seq)
            self.add_side(side.seq, row.hash, side.name, side.hash, head.sides, live=set(self.packs))
        return self.rows[-1]

    def _take_rows(self, rows: Sequence[HistoryRow]) -> None:
        """Take in what a history or a snapshot says of entries, and judge their fences as the log does."""
        for found in rows:
            take_over = found.kind == EntryKind.TAKE_OVER
            void = found.fence <= self.fence if take_over else found.fence != self.fence
            if take_over and not void:
                self.fence = found.fence
            self.rows.append(
                Row(
                    seq=found.seq,
                    hash=found.hash,
                    kind=found.kind,
                    fence=found.fence,
                    time_ms=found.time_ms,
                    void=found.kind == FOREIGN_KIND
                    or (void and found.kind in (EntryKind.TAKE_OVER, EntryKind.CHECKPOINT)),
                    session=found.session,
                    checkpoint=found.checkpoint,
                )
            )

    def _apply_snapshot(self, head: StoredHead) -> Row:
        """Begin with what a snapshot says of the log up to its entry."""
        stored = decode(_snapshot_decoder, head.body, what="stored snapshot")
        told = stored.head
        if self.rows or (told.to, told.hash) != (head.seq, head.hash):
            raise ChainBroken(what="a snapshot inside of the log", seq=head.seq)
        self._take_rows(stored.rows)
        if not self.rows or told.fence != self.fence:
            raise ChainBroken(what="snapshot contradicts itself", seq=head.seq)
        self.pinned, self.key_ids, self.histories = dict(told.pins), list(told.key_ids), list(told.histories)
        self._judge_version(told.version, head.seq)
        self.told_ms, self.dropped = dict(told.told), set(told.dropped)
        self.pin_words = {seq: (at, words) for seq, at, words in told.pin_words}
        self.folded_to, self.fold_at, self.retired_at = told.folded_to, told.fold_at, told.retired_at
        self.snapshot_at = told.to
        for one in stored.objects:
            self.index.add(snapshot_container(one))
        self.packs = {names.pack(ref.fence, ref.pack_id): ref for ref in told.packs}
        for side in told.sides:
            row = self._named_row(side.seq)
            self.add_side(side.seq, row.hash, side.name, side.hash, head.sides, live=set(self.packs))
        return self.rows[-1]

    def _named_row(self, seq: int) -> Row:
        """Return the row that a history or a snapshot speaks of."""
        row = self.row(seq)
        if row is None:
            raise ChainBroken(what="a side branch of no entry", seq=seq)
        return row

    def _judge_version(self, fields: Version, seq: int) -> None:
        if fields.min_reader > OUR_VERSION or fields.must_features:
            raise NewerServiceNeeded(what="version entry", seq=seq, value=fields.min_reader)
        if fields.min_writer > OUR_VERSION:
            self.writers_stop = NewerServiceNeeded(what="writer", value=fields.min_writer, seq=seq)
        if fields.min_gc > OUR_VERSION:
            self.collectors_stop = f"the log asks for garbage collection {fields.min_gc}"
        self.version = fields


def _stepped_over(entry: LogEntry, known: int) -> list[tuple[int, bytes]]:
    """Return what an entry steps over: for a V, the numbers between the last good entry and its own.

    Raises:
        Malformed: it does not name exactly these.
    """
    if not isinstance(entry.fields, Version):
        return []
    found = sorted((seq, hash_) for seq, hash_ in entry.fields.void if seq > known)
    if [seq for seq, _ in found] != list(range(known + 1, entry.seq)):
        raise Malformed(rule="what a V steps over lies right before it", seq=entry.seq)
    return found


def _foreign_row(seq: int, hash_: bytes, fence: int) -> Row:
    return Row(seq=seq, hash=hash_, kind=FOREIGN_KIND, fence=fence, time_ms=0, void=True)


def _is_entry_to(name: str, to: int) -> bool:
    return name.startswith(names.LOG_PREFIX) and names.log_entry_seq(name) <= to


def snapshot_container(one: SnapshotObject) -> Container:
    """Return an object of a snapshot as a container."""
    name = one.name()
    object_type = ObjectType.PACK
    if name.startswith(names.LOG_PREFIX):
        object_type = ObjectType.LOG_ENTRY
    elif one.beside and not names.is_side_pack(name):
        object_type = ObjectType.SIDE_CHECKPOINT
    return Container(
        name=name,
        object_type=object_type,
        area_start=one.area_start,
        segments=read_table(Table(one.rows, one.chunks)),
        size=one.size,
    )


def _containers(name: str, object_type: ObjectType, area_start: int, entry: LogEntry) -> list[Container]:
    """Return the object of an entry as a container, if it has segments."""
    if not entry.segments:
        return []
    size = area_start + entry.segments[-1].offset + entry.segments[-1].sealed_bytes
    return [
        Container(
            name=name, object_type=object_type, area_start=area_start, segments=entry.segments, size=size
        )
    ]


def _with_tables(
    refs: Sequence[PackRef], tables: Sequence[Table | None], seq: int
) -> list[tuple[PackRef, Table]]:
    """Return pack references with their tables; those that a later entry retired are left out."""
    left = iter(tables)
    found: list[tuple[PackRef, Table]] = []
    for ref in refs:
        table = ref.table
        if table is None:
            try:
                table = next(left)
            except StopIteration:
                raise Malformed(rule="table of a pack reference", seq=seq) from None
        if table is not None:
            found.append((ref, table))
    return found


def _without_packs(fields: object) -> Checkpoint | None:
    """Return a checkpoint without its pack references: the index has them, and tables are large."""
    if not isinstance(fields, Checkpoint):
        return None
    return msgspec.structs.replace(fields, packs=[]) if fields.packs else fields


def pack_refs(fields: Fields | None) -> list[PackRef]:
    """Return the packs that came with an entry."""
    if isinstance(fields, Checkpoint):
        return fields.packs
    return fields.new_packs if isinstance(fields, Retire) else []


def is_full_base(fields: object) -> bool:
    """Return whether a side checkpoint needs nothing of the main line: its packs lie below `b/`, too."""
    return isinstance(fields, Checkpoint) and bool(fields.flags & CheckpointFlag.FULL_BASE)


def pack_name(ref: PackRef, *, beside: bool) -> str:
    """Return the name of a pack, of the main line or of a full base."""
    return (names.side_pack if beside else names.pack)(ref.fence, ref.pack_id)


def pack_container(ref: PackRef, table: Table, *, beside: bool = False) -> Container:
    """Return a pack as a container; its sums must give its size."""
    segments = read_table(table)
    area = segments[-1].offset + segments[-1].sealed_bytes if segments else 0
    if HEADER_BYTES + area + ref.footer_bytes + 16 != ref.size:
        raise Malformed(rule="sum of a pack reference")
    return Container(
        name=pack_name(ref, beside=beside),
        object_type=ObjectType.PACK,
        area_start=HEADER_BYTES,
        segments=segments,
        size=ref.size,
    )


_history_decoder: Final = msgspec.msgpack.Decoder(StoredHistory)
_snapshot_decoder: Final = msgspec.msgpack.Decoder(StoredSnapshot)
stored_head_decoder: Final = msgspec.msgpack.Decoder(StoredHead)

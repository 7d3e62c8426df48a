"""What the commit log says, entry by entry, as one value that grows: rows, fences, chunks, checkpoints.

Pure: it is given opened heads in order and draws the conclusions of 4.4. The same heads always give the same
state, whether they came from the store or from the local cache.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from storage.errors import ChainBroken, Malformed, NewerServiceNeeded
from storage.format import names
from storage.format.encoding import Body
from storage.format.entries import (
    Checkpoint,
    CheckpointFlag,
    Forget,
    Keep,
    LogEntry,
    PackRef,
    Retire,
    TakeOver,
    Version,
    decode_entry,
)
from storage.format.header import ObjectType
from storage.format.limits import HEADER_BYTES
from storage.format.table import Table, read_table
from storage.repository.index import ChunkIndex, Container

OUR_VERSION: Final = 1
"""As reader and writer of V entries."""


class StoredHead(Body, frozen=True):
    """An opened head, as it was read from the store or kept in the cache."""

    seq: int
    hash: bytes
    kind: int
    area_start: int
    body: bytes
    tables: list[Table]
    """Of the pack references that carry none, in order; read from the packs' own footers."""


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
    take_over: TakeOver | None = None
    checkpoint: Checkpoint | None = None
    containers: tuple[str, ...] = ()
    """Names of the objects with segments that came with this entry."""

    def has(self, flag: CheckpointFlag) -> bool:
        """Return whether this is a checkpoint with that flag."""
        return self.checkpoint is not None and bool(self.checkpoint.flags & flag)


@dataclass(slots=True, kw_only=True)
class LogState:
    """The log up to its last known entry."""

    config_hash: bytes
    rows: list[Row] = field(default_factory=list)
    fence: int = 0
    """Of the newest take-over that counts; 0 before the first."""
    index: ChunkIndex = field(default_factory=ChunkIndex)
    forgotten: set[int] = field(default_factory=set)
    pinned: dict[int, bool] = field(default_factory=dict)
    retired_at: int = 0
    """Number of the last entry that retired objects; what was planned before may lack chunks."""
    writers_stop: NewerServiceNeeded | None = None
    """Set where the log holds something that readers may skip and writers must not."""

    @property
    def seq(self) -> int:
        """Return the number of the last entry; 0 for an empty log."""
        return len(self.rows)

    @property
    def hash(self) -> bytes:
        """Return what the next entry names as its predecessor."""
        return self.rows[-1].hash if self.rows else self.config_hash

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
            if not row.void and (row.take_over is not None or row.checkpoint is not None):
                return row
        return None

    def apply(self, head: StoredHead) -> Row:
        """Take the next entry in.

        Raises:
            ChainBroken: it is not the next entry of this chain.
            Malformed, NewerServiceNeeded: it cannot be understood.
        """
        entry = decode_entry(head.kind, head.body)
        if entry.seq != head.seq or entry.seq != self.seq + 1:
            raise ChainBroken(what="number in the entry", seq=head.seq, told=entry.seq)
        if entry.prev != self.hash:
            raise ChainBroken(what="predecessor of the entry", seq=head.seq)
        containers = self._containers(head, entry)
        void = self._judge(entry)
        if not void:
            for container in containers:
                self.index.add(container)
        row = Row(
            seq=entry.seq,
            hash=head.hash,
            kind=entry.kind,
            fence=entry.fence,
            time_ms=entry.time_ms,
            void=void,
            take_over=entry.fields if isinstance(entry.fields, TakeOver) else None,
            checkpoint=_without_packs(entry.fields),
            containers=tuple(container.name for container in containers),
        )
        self.rows.append(row)
        return row

    def _judge(self, entry: LogEntry) -> bool:
        """Draw the conclusions of an entry; return whether it is void."""
        fields = entry.fields
        if isinstance(fields, TakeOver):
            if entry.fence <= self.fence:
                return True
            self.fence = entry.fence
        elif isinstance(fields, Checkpoint):
            return entry.fence != self.fence
        elif isinstance(fields, Forget):
            self.forgotten.update(fields.seqs)
        elif isinstance(fields, Keep):
            self.pinned[fields.seq] = fields.pin
        elif isinstance(fields, Retire):
            if fields.entries_to or fields.history is not None:
                raise NewerServiceNeeded(what="folded log", seq=entry.seq)
            self.retired_at = entry.seq
            for fence, pack_id in fields.packs:
                self.index.retire(names.pack(fence, pack_id))
        elif isinstance(fields, Version):
            self._judge_version(fields, entry.seq)
        elif fields is None:
            self.writers_stop = NewerServiceNeeded(what="entry kind", value=entry.kind, seq=entry.seq)
        return False

    def _judge_version(self, fields: Version, seq: int) -> None:
        if fields.min_reader > OUR_VERSION or fields.must_features or fields.void:
            raise NewerServiceNeeded(what="version entry", seq=seq, value=fields.min_reader)
        if fields.min_writer > OUR_VERSION:
            self.writers_stop = NewerServiceNeeded(what="writer", value=fields.min_writer, seq=seq)

    def _containers(self, head: StoredHead, entry: LogEntry) -> list[Container]:
        found: list[Container] = []
        if entry.segments:
            size = head.area_start + entry.segments[-1].offset + entry.segments[-1].sealed_bytes
            found.append(
                Container(
                    name=names.log_entry(entry.seq),
                    object_type=ObjectType.LOG_ENTRY,
                    area_start=head.area_start,
                    segments=entry.segments,
                    size=size,
                )
            )
        tables = iter(head.tables)
        for ref in pack_refs(entry):
            table = ref.table if ref.table is not None else next(tables, None)
            if table is None:
                raise Malformed(rule="table of a pack reference", seq=entry.seq)
            found.append(pack_container(ref, table))
        return found


def _without_packs(fields: object) -> Checkpoint | None:
    """Return a checkpoint without its pack references: the index has them, and tables are large."""
    if not isinstance(fields, Checkpoint):
        return None
    return msgspec.structs.replace(fields, packs=[]) if fields.packs else fields


def pack_refs(entry: LogEntry) -> list[PackRef]:
    """Return the packs that came with an entry."""
    if isinstance(entry.fields, Checkpoint):
        return entry.fields.packs
    return entry.fields.new_packs if isinstance(entry.fields, Retire) else []


def pack_container(ref: PackRef, table: Table) -> Container:
    """Return a pack as a container; its sums must give its size."""
    segments = read_table(table)
    area = segments[-1].offset + segments[-1].sealed_bytes if segments else 0
    if HEADER_BYTES + area + ref.footer_bytes + 16 != ref.size:
        raise Malformed(rule="sum of a pack reference")
    return Container(
        name=names.pack(ref.fence, ref.pack_id),
        object_type=ObjectType.PACK,
        area_start=HEADER_BYTES,
        segments=segments,
        size=ref.size,
    )


stored_head_decoder: Final = msgspec.msgpack.Decoder(StoredHead)

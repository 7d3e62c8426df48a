"""Index snapshot: what the log says up to one entry, in one object. A cache, never the truth.

Head body as a history's (`history.py`), with what a state knows beyond it: the hash of entry `to`, and where
the last fold and the last retiring entry stood. Meta chunks: `[1, rows]` as in a history, C fields while a
checkpoint counts and was not forgotten; then `[2, [[fence, id, rows, chunks, area start, size, beside]]]`,
every object with live segments in the order in which the log brought it in. `id` is a pack's 16 bytes, or 8
bytes of a number: that of an entry (fence 0) or of a side checkpoint; `beside` says that the object lies
below `b/`.

Source: storage.md 4.1, "Index snapshot".
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from storage.errors import Malformed, NewerServiceNeeded
from storage.format import names
from storage.format.encoding import Body, decode, encode
from storage.format.entries import HASH_BYTES, PackRef, Version, check_checkpoint, check_pack_ref
from storage.format.envelope import make_object, open_head, seal_segments
from storage.format.frame import make_frame
from storage.format.header import ObjectType, make_header
from storage.format.history import HistoryRow, HistorySide
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import FENCE_LIMIT, KIB, SEQ_LIMIT
from storage.format.pack import read_segments
from storage.format.table import PlannedSegment, Table, make_table, read_table

ROWS_VERSION: Final = 1
OBJECTS_VERSION: Final = 2
CHUNK_TARGET_BYTES: Final = 256 * KIB
PAD_TO_BYTES: Final = 4 * KIB
PACK_ID_BYTES: Final = 16
NUMBER_BYTES: Final = 8
T = TypeVar("T")


class SnapshotHead(Body, frozen=True):
    """The state of entries 1 to `to`, without rows and objects."""

    to: int
    fence: int
    version: Version
    key_ids: list[bytes]
    pins: list[tuple[int, bool]]
    sides: list[HistorySide]
    packs: list[PackRef]
    table: Table
    histories: list[tuple[str, bytes]]
    hash: bytes
    folded_to: int
    fold_at: int
    retired_at: int
    told: list[tuple[int, int]] = msgspec.field(default_factory=list)
    dropped: list[str] = msgspec.field(default_factory=list)
    """Forgotten side checkpoints that no R has named yet."""
    pin_words: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    """As a history's."""


class SnapshotObject(Body, frozen=True):
    """An object with live segments."""

    fence: int
    id: bytes
    rows: bytes
    chunks: bytes
    area_start: int
    size: int
    beside: bool

    def name(self) -> str:
        """Return the object's name.

        Raises:
            Malformed: there is no such object.
        """
        if len(self.id) == PACK_ID_BYTES:
            return (names.side_pack if self.beside else names.pack)(self.fence, self.id)
        if len(self.id) != NUMBER_BYTES:
            raise Malformed(rule="id of an object in a snapshot")
        number = int.from_bytes(self.id, "little")
        return names.side_checkpoint(self.fence, number) if self.beside else names.log_entry(number)


class _Rows(Body, frozen=True):
    version: int
    rows: list[HistoryRow]


class _Objects(Body, frozen=True):
    version: int
    objects: list[SnapshotObject]


class _Any(Body, frozen=True):
    version: int
    items: msgspec.Raw


_head_decoder: Final = msgspec.msgpack.Decoder(SnapshotHead)
_any_decoder: Final = msgspec.msgpack.Decoder(_Any)
_rows_decoder: Final = msgspec.msgpack.Decoder(_Rows)
_objects_decoder: Final = msgspec.msgpack.Decoder(_Objects)


def object_of(name: str, *, table: Table, area_start: int, size: int) -> SnapshotObject:
    """Return the record of an object with segments, by its name."""
    beside = name.startswith(names.SIDE_PREFIX)
    if name.startswith(names.LOG_PREFIX):
        fence, id_ = 0, names.log_entry_seq(name).to_bytes(NUMBER_BYTES, "little")
    elif beside and not names.is_side_pack(name):
        fence, number = names.side_parts(name)
        id_ = number.to_bytes(NUMBER_BYTES, "little")
    else:
        fence, id_ = names.side_pack_parts(name) if beside else names.pack_parts(name)
    return SnapshotObject(fence, id_, table.rows, table.chunks, area_start, size, beside)


def make_snapshot(
    keys: EpochKeys,
    head: SnapshotHead,
    rows: Sequence[HistoryRow],
    objects: Sequence[SnapshotObject],
    *,
    fresh: Callable[[int], bytes],
) -> bytes:
    """Return an index snapshot, opened again as a reader will. `head`'s table is replaced.

    Raises:
        LimitReached: it does not fit into one object.
    """
    name = names.index_snapshot(head.to)
    chunks = [encode(_Rows(ROWS_VERSION, part)) for part in _parts(rows)]
    chunks += [encode(_Objects(OBJECTS_VERSION, part)) for part in _parts(objects)]
    planned = [_segment(keys, raw) for raw in chunks]
    header = make_header(keys, ObjectType.INDEX_SNAPSHOT, name, fresh(32))
    sealed = seal_segments(keys, header, planned, [fresh(32) for _ in planned])
    body = encode(msgspec.structs.replace(head, table=make_table(sealed)))
    raw = make_object(
        keys,
        header,
        kind=0,
        body=body,
        boxes=[box for _, box in sealed],
        fresh=fresh(32),
        pad_to=PAD_TO_BYTES,
    )
    _, back_rows, back_objects = read_snapshot(keys, name, raw)
    if back_rows != list(rows) or back_objects != list(objects):
        raise Malformed(rule="a snapshot decodes otherwise than it was made", object=name)
    return raw


def _parts(items: Sequence[T]) -> Iterator[list[T]]:
    part: list[T] = []
    size = 0
    for item in items:
        length = len(encode(item))
        if part and size + length > CHUNK_TARGET_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


def _segment(keys: EpochKeys, raw: bytes) -> PlannedSegment:
    chunk = (keys.chunk_id(BoxKind.META, raw), len(raw))
    return PlannedSegment(kind=BoxKind.META, frame=make_frame(raw), raw_bytes=len(raw), chunks=(chunk,))


def read_snapshot(
    keys: EpochKeys, name: str, raw: bytes
) -> tuple[SnapshotHead, list[HistoryRow], list[SnapshotObject]]:
    """Open an index snapshot, every rule checked. Whether it is of this chain is the caller's to find out.

    Raises:
        FormatError: it is none; as good as absent.
    """
    opened = open_head(keys, ObjectType.INDEX_SNAPSHOT, name, raw)
    head = decode(_head_decoder, opened.body, what="index snapshot")
    if head.to != names.snapshot_seq(name) or not 0 < head.to < SEQ_LIMIT or len(head.hash) != HASH_BYTES:
        raise Malformed(rule="index snapshot numbers", object=name)
    if not 0 <= head.fence < FENCE_LIMIT or not 0 <= head.folded_to <= head.fold_at <= head.to:
        raise Malformed(rule="index snapshot numbers", object=name)
    if not head.fold_at <= head.retired_at <= head.to:
        raise Malformed(rule="index snapshot numbers", object=name)
    for ref in head.packs:
        check_pack_ref(ref)
    segments = read_table(head.table)
    rows: list[HistoryRow] = []
    objects: list[SnapshotObject] = []
    for chunks in read_segments(keys, opened.header, segments, raw[opened.area_start :]):
        for chunk in chunks:
            version = decode(_any_decoder, chunk, what="snapshot chunk").version
            if version == ROWS_VERSION:
                rows += decode(_rows_decoder, chunk, what="snapshot rows").rows
            elif version == OBJECTS_VERSION:
                objects += decode(_objects_decoder, chunk, what="snapshot objects").objects
            else:
                raise NewerServiceNeeded(what="snapshot chunk version", value=version)
    _check_rows(head, rows, name)
    return head, rows, objects


def _check_rows(head: SnapshotHead, rows: Sequence[HistoryRow], name: str) -> None:
    if [row.seq for row in rows] != list(range(1, head.to + 1)) or rows[-1].hash != head.hash:
        raise Malformed(rule="a snapshot has every number once", object=name)
    for row in rows:
        if len(row.hash) != HASH_BYTES or not 0 <= row.fence < FENCE_LIMIT:
            raise Malformed(rule="snapshot row", object=name)
        if row.checkpoint is not None:
            check_checkpoint(row.checkpoint, seq=row.seq, fence=row.fence)

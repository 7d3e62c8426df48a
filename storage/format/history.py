"""History: what a fold leaves of the entries that it removes.

Head body `[to, highest fence, V fields, key ids, pins, side branches, live packs with nil tables, table,
earlier histories, told, hash of config, words of pins]`; its meta chunks are `[1, [[seq, hash, kind, fence,
time_ms, session, C fields or nil]]]`, ascending. C fields are there while a checkpoint counts and was not
forgotten, with its packs emptied. Not a cache: entries are deleted because their hashes lie here.

Source: storage.md 4.1 "History body", 4.4 rule 6.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from storage.errors import Malformed, NewerServiceNeeded
from storage.format.encoding import Body, decode, encode
from storage.format.entries import (
    HASH_BYTES,
    Checkpoint,
    PackRef,
    Version,
    check_checkpoint,
    check_pack_ref,
)
from storage.format.envelope import make_object, open_head, seal_segments
from storage.format.frame import make_frame
from storage.format.header import ObjectType, make_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import FENCE_LIMIT, KIB, SEQ_LIMIT
from storage.format.pack import read_segments
from storage.format.table import PlannedSegment, Table, make_table, read_table

CHUNK_VERSION: Final = 1
CHUNK_TARGET_BYTES: Final = 256 * KIB
PAD_TO_BYTES: Final = 4 * KIB


class HistoryRow(Body, frozen=True):
    """One folded entry."""

    seq: int
    hash: bytes
    kind: int
    fence: int
    time_ms: int
    session: str
    checkpoint: Checkpoint | None


class HistorySide(Body, frozen=True):
    """A side branch that was live when the log was folded: the B's number, and what it names."""

    seq: int
    name: str
    hash: bytes


class HistoryHead(Body, frozen=True):
    """The state of entries 1 to `to`. `earlier` names the histories of earlier folds, which stay."""

    to: int
    fence: int
    version: Version
    key_ids: list[bytes]
    pins: list[tuple[int, bool]]
    sides: list[HistorySide]
    packs: list[PackRef]
    table: Table
    earlier: list[tuple[str, bytes]] = msgspec.field(default_factory=list)
    told: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """When the users of live side branches were told of them: the B's number, ms."""
    config: bytes = b""
    """BLAKE3 of config: entry 1, which named it, is gone. Empty in histories of older services."""
    pin_words: list[tuple[int, int, str]] = msgspec.field(default_factory=list)
    """By whose word pins stand: the number of what is pinned, that of its K, the K's reason."""


class _Chunk(Body, frozen=True):
    version: int
    rows: list[HistoryRow]


_head_decoder: Final = msgspec.msgpack.Decoder(HistoryHead)
_chunk_decoder: Final = msgspec.msgpack.Decoder(_Chunk)


def make_history(
    keys: EpochKeys, name: str, head: HistoryHead, rows: Sequence[HistoryRow], *, fresh: Sequence[bytes]
) -> bytes:
    """Return a history object. `fresh` has 32 random bytes for header, head and each of `chunk_count(rows)`.

    The table of `head` is replaced by the one of the chunks.
    """
    planned = [_segment(keys, raw) for raw in _chunks(rows)]
    header = make_header(keys, ObjectType.HISTORY, name, fresh[0])
    sealed = seal_segments(keys, header, planned, fresh[2:])
    body = encode(msgspec.structs.replace(head, table=make_table(sealed)))
    return make_object(
        keys,
        header,
        kind=0,
        body=body,
        boxes=[box for _, box in sealed],
        fresh=fresh[1],
        pad_to=PAD_TO_BYTES,
    )


def chunk_count(rows: Sequence[HistoryRow]) -> int:
    """Return how many chunks the rows make."""
    return sum(1 for _ in _chunks(rows))


def _segment(keys: EpochKeys, raw: bytes) -> PlannedSegment:
    chunk = (keys.chunk_id(BoxKind.META, raw), len(raw))
    return PlannedSegment(kind=BoxKind.META, frame=make_frame(raw), raw_bytes=len(raw), chunks=(chunk,))


def _chunks(rows: Sequence[HistoryRow]) -> Iterator[bytes]:
    part: list[HistoryRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(encode(row))
        if size >= CHUNK_TARGET_BYTES:
            yield encode(_Chunk(CHUNK_VERSION, part))
            part, size = [], 0
    if part:
        yield encode(_Chunk(CHUNK_VERSION, part))


def read_history(
    keys: EpochKeys, name: str, raw: bytes, *, hash_: bytes
) -> tuple[HistoryHead, list[HistoryRow]]:
    """Open a history, every rule checked: the hash that an R names, dense numbers up to `to`.

    Raises:
        Malformed, NotAuthentic: it is not the history that the R names.
    """
    opened = open_head(keys, ObjectType.HISTORY, name, raw)
    if opened.entry_hash != hash_:
        raise Malformed(rule="hash of a history", object=name)
    head = decode(_head_decoder, opened.body, what="history")
    if not 0 < head.to < SEQ_LIMIT or not 0 <= head.fence < FENCE_LIMIT:
        raise Malformed(rule="history numbers", object=name)
    for ref in head.packs:
        check_pack_ref(ref)
    segments = read_table(head.table)
    rows: list[HistoryRow] = []
    for chunks in read_segments(keys, opened.header, segments, raw[opened.area_start :]):
        for chunk in chunks:
            found = decode(_chunk_decoder, chunk, what="history chunk")
            if found.version != CHUNK_VERSION:
                raise NewerServiceNeeded(what="history chunk version", value=found.version)
            rows += found.rows
    if [row.seq for row in rows] != list(range(1, head.to + 1)):
        raise Malformed(rule="history has every number once", object=name)
    for row in rows:
        if len(row.hash) != HASH_BYTES or not 0 <= row.fence < FENCE_LIMIT:
            raise Malformed(rule="history row", object=name)
        if row.checkpoint is not None:
            check_checkpoint(row.checkpoint, seq=row.seq, fence=row.fence)
    return head, rows

"""Bodies of log entries: the common head, and the fields of each kind.

`[seq, prev, fence, time_ms, writer, table, fields]`. Kinds 1 to 127 that are unknown stop the reader ("a
newer service is needed"); 128 to 255 are skipped by readers and stop writers. All kinds of version 1 are
declared here: a reader must know what they mean.

Source: storage.md 4.1 "Log head body".
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, TypeAlias

import msgspec

from storage.errors import Malformed, NewerServiceNeeded
from storage.format.encoding import Body, decode, encode
from storage.format.limits import FENCE_LIMIT, PACK_BYTES_MAX, REPORT_PATHS_MAX, SEQ_LIMIT
from storage.format.table import Segment, Table, read_table
from storage.format.tree import Content, Entry, check_content_refs, check_root

HASH_BYTES: Final = 32


class EntryKind(IntEnum):
    """Kinds of version 1."""

    TAKE_OVER = 1
    CHECKPOINT = 2
    FORGET = 3
    RETIRE = 4
    KEEP = 5
    SIDE_BRANCH = 6
    VERSION = 7


SKIPPED_KINDS_FROM: Final = 128
"""Unknown kinds from here on are skipped by readers; writers, GC and fold always stop at them."""


class CheckpointFlag(IntFlag):
    """Flags of a C."""

    COMPLETE = 1
    FINAL = 2
    FIRST_OF_CLOSE = 4
    FROZEN = 8
    FULL_BASE = 16
    SMALLER_ACCEPTED = 32


class TakeOver(Body, frozen=True):
    """E: a host takes the workspace over with a higher fence."""

    node: str
    session: str
    registry_epoch: int
    key_id: bytes


class PackRef(Body, frozen=True):
    """A pack as an entry names it; `table` is nil where the tables of one entry pass 256 KiB."""

    fence: int
    pack_id: bytes
    size: int
    footer_bytes: int
    footer_digest: bytes
    table: Table | None


class Totals(Body, frozen=True):
    """Of the whole tree, and of what this checkpoint stored."""

    entries: int
    folders: int
    size: int
    stored: int


class NamedPath(Body, frozen=True):
    """One path of a report: grade 0 is skipped by type, 1 fuzzy, 2 stale, 3 unreadable."""

    path: bytes
    grade: int
    errno: int


class Report(Body, frozen=True):
    """What is not as it should be, with up to 1,000 paths; the rest as content of the meta class."""

    skipped: int
    fuzzy: int
    stale: int
    unreadable: int
    paths: list[NamedPath]
    rest: Content


class Checkpoint(Body, frozen=True):
    """C: one restorable point. `root` is a tree entry with an empty name: the home folder itself."""

    session: str
    flags: int
    reason: str
    parent: int
    root: Entry
    scan_ms: int
    home_id: bytes | None
    owner: tuple[int, int]
    totals: Totals
    report: Report
    excluded: list[bytes]
    accepted: list[tuple[bytes, str]]
    packs: list[PackRef]


class Forget(Body, frozen=True):
    """F: these checkpoints may go."""

    seqs: list[int]
    policy: str
    actor: str


class Retire(Body, frozen=True):
    """R: packs and, up to `entries_to`, entries that are about to be deleted."""

    packs: list[tuple[int, bytes]]
    entries_to: int
    names: list[str]
    new_packs: list[PackRef]
    history: tuple[str, bytes] | None


class Keep(Body, frozen=True):
    """K: pin or unpin a checkpoint."""

    seq: int
    hash: bytes
    pin: bool
    reason: str
    actor: str


class SideBranch(Body, frozen=True):
    """B: makes a `b/` object count."""

    name: str
    hash: bytes


class Version(Body, frozen=True):
    """V: minimum versions, features, chunker parameters, and foreign objects that were stepped over."""

    min_reader: int
    min_writer: int
    min_gc: int
    min_key_epoch: int
    must_features: list[str]
    chunker: list[int]
    void: list[tuple[int, bytes]]


Fields: TypeAlias = TakeOver | Checkpoint | Forget | Retire | Keep | SideBranch | Version

_DECODERS: Final[dict[int, "msgspec.msgpack.Decoder[Fields]"]] = {
    EntryKind.TAKE_OVER: msgspec.msgpack.Decoder(TakeOver),
    EntryKind.CHECKPOINT: msgspec.msgpack.Decoder(Checkpoint),
    EntryKind.FORGET: msgspec.msgpack.Decoder(Forget),
    EntryKind.RETIRE: msgspec.msgpack.Decoder(Retire),
    EntryKind.KEEP: msgspec.msgpack.Decoder(Keep),
    EntryKind.SIDE_BRANCH: msgspec.msgpack.Decoder(SideBranch),
    EntryKind.VERSION: msgspec.msgpack.Decoder(Version),
}


class _Head(Body, frozen=True):
    seq: int
    prev: bytes
    fence: int
    time_ms: int
    writer: str
    table: Table
    fields: msgspec.Raw


_head_decoder: Final = msgspec.msgpack.Decoder(_Head)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A checked log entry. `fields` is None for a kind that readers skip."""

    kind: int
    seq: int
    prev: bytes
    fence: int
    time_ms: int
    writer: str
    segments: tuple[Segment, ...]
    fields: Fields | None


def encode_entry(
    *, seq: int, prev: bytes, fence: int, time_ms: int, writer: str, table: Table, fields: Fields
) -> bytes:
    """Return the head body of an entry."""
    return encode(_Head(seq, prev, fence, time_ms, writer, table, msgspec.Raw(encode(fields))))


def kind_of(fields: Fields) -> EntryKind:
    """Return the entry kind that goes with fields."""
    kinds = {
        TakeOver: EntryKind.TAKE_OVER,
        Checkpoint: EntryKind.CHECKPOINT,
        Forget: EntryKind.FORGET,
        Retire: EntryKind.RETIRE,
        Keep: EntryKind.KEEP,
        SideBranch: EntryKind.SIDE_BRANCH,
        Version: EntryKind.VERSION,
    }
    return kinds[type(fields)]


def decode_entry(kind: int, body: bytes) -> LogEntry:
    """Return the entry in a head body, every rule of 4.1 checked.

    Raises:
        Malformed: any rule broken.
        NewerServiceNeeded: an unknown kind below 128.
    """
    head = decode(_head_decoder, body, what="log head")
    if not 0 < head.seq < SEQ_LIMIT or not 0 <= head.fence < FENCE_LIMIT or len(head.prev) != HASH_BYTES:
        raise Malformed(rule="log head numbers")
    segments = read_table(head.table)
    fields: Fields | None = None
    decoder = _DECODERS.get(kind)
    if decoder is not None:
        fields = decode(decoder, bytes(head.fields), what=f"fields of kind {kind}")
        _check_fields(fields, seq=head.seq, fence=head.fence)
    elif not SKIPPED_KINDS_FROM <= kind <= 255:
        raise NewerServiceNeeded(what="entry kind", value=kind, seq=head.seq)
    return LogEntry(
        kind=kind,
        seq=head.seq,
        prev=head.prev,
        fence=head.fence,
        time_ms=head.time_ms,
        writer=head.writer,
        segments=segments,
        fields=fields,
    )


def _check_fields(fields: Fields, *, seq: int, fence: int) -> None:
    if isinstance(fields, TakeOver):
        if fence == 0 or len(fields.key_id) != 8:
            raise Malformed(rule="take-over fields")
    elif isinstance(fields, Checkpoint):
        check_checkpoint(fields, seq=seq, fence=fence)
    elif isinstance(fields, Retire):
        for ref in fields.new_packs:
            check_pack_ref(ref)
        if not 0 <= fields.entries_to < seq:
            raise Malformed(rule="entries_to is below its own entry")
        if bool(fields.entries_to) != (fields.history is not None):
            raise Malformed(rule="a fold names its history")
    elif isinstance(fields, Version):
        if any(not 0 < void_seq < seq or len(hash_) != HASH_BYTES for void_seq, hash_ in fields.void):
            raise Malformed(rule="what a V steps over")
    elif isinstance(fields, Keep | SideBranch) and len(fields.hash) != HASH_BYTES:
        raise Malformed(rule="entry hash length")


def check_checkpoint(fields: Checkpoint, *, seq: int, fence: int) -> None:
    """Refuse fields of a C whose numbers cannot be."""
    if fence == 0 or not 0 <= fields.parent < seq or fields.flags < 0:
        raise Malformed(rule="checkpoint numbers")
    check_root(fields.root)
    totals, report = fields.totals, fields.report
    if min(totals.entries, totals.folders, totals.size, totals.stored) < 0:
        raise Malformed(rule="checkpoint totals")
    if min(report.skipped, report.fuzzy, report.stale, report.unreadable) < 0:
        raise Malformed(rule="checkpoint report")
    if len(report.paths) > REPORT_PATHS_MAX or min(fields.owner) < 0:
        raise Malformed(rule="checkpoint report")
    check_content_refs(report.rest)
    for ref in fields.packs:
        check_pack_ref(ref)


def check_pack_ref(ref: PackRef) -> None:
    """Refuse a pack reference whose lengths cannot be."""
    if not 0 < ref.fence < FENCE_LIMIT or len(ref.pack_id) != 16 or len(ref.footer_digest) != HASH_BYTES:
        raise Malformed(rule="pack reference")
    if not 0 < ref.footer_bytes < ref.size <= PACK_BYTES_MAX:
        raise Malformed(rule="pack reference sizes")

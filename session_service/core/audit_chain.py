"""The chain that binds audit records: what is hashed, how the next link is made, how anybody checks it.

Not a store and not a log: pure functions over records, so that a registry, a test and a stranger with a copy
of the file come to the same answer. A record's hash is BLAKE3-256 over the previous hash and the canonical
msgpack of its entry, so a record cannot be changed, moved or removed without every later hash being wrong.
The newest records can still be cut off together with the head that names them; only a head that was kept
somewhere else shows that, which is why heads are anchored in the object store.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from blake3 import blake3

from session_service.base.errors import AuditBroken, BadInput
from session_service.core.records import AuditEntry, AuditRecord

HASH_BYTES: Final = 32
FACTS_MAX: Final = 64
"""Facts of one entry; an audit record is a line for people, not a document."""
ENTRY_BYTES_MAX: Final = 64 << 10
"""Canonical bytes of one entry: what is larger belongs in a receipt, and is named here by its hash."""
ENTRY_VERSION: Final = 1

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The end of a chain: how many records there are, and the hash of the last one."""

    seq: int
    hash: bytes


EMPTY: Final = AuditHead(seq=0, hash=bytes(HASH_BYTES))
"""The head of a chain without records; the first record's `prev` is 32 zero bytes."""


def canonical(entry: AuditEntry) -> bytes:
    """Return the bytes of an entry that are hashed.

    A msgpack array: version 1, kind, actor, at_ms, session, workspace, user (nil where there is none), and
    the facts as an array of [name, value] in their order. Integers take the shortest form, floats 64 bit.

    Raises:
        BadInput: the entry cannot be written down for ever: a number out of range, a text that is no
            Unicode, a fact named twice, or too large.
    """
    names = [name for name, _ in entry.facts]
    if len(names) > FACTS_MAX or len(set(names)) != len(names):
        raise BadInput(f"an audit entry has at most {FACTS_MAX} facts, each named once", kind=entry.kind)
    for name, value in entry.facts:
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput("a fact is a finite number", kind=entry.kind, fact=name)
        if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
            raise BadInput("a fact fits in 64 bits", kind=entry.kind, fact=name)
    try:
        raw = _encoder.encode(
            (
                ENTRY_VERSION,
                entry.kind,
                entry.actor,
                entry.at_ms,
                entry.session_id,
                entry.workspace_id,
                entry.user_id,
                entry.facts,
            )
        )
    except (ValueError, OverflowError) as exc:
        raise BadInput("an audit entry holds text and 64-bit numbers only", kind=entry.kind) from exc
    if len(raw) > ENTRY_BYTES_MAX:
        raise BadInput(f"an audit entry has at most {ENTRY_BYTES_MAX} bytes", kind=entry.kind)
    return raw


def link_hash(prev: bytes, entry: AuditEntry) -> bytes:
    """Return the hash of the record that holds `entry` and follows the record whose hash is `prev`."""
    assert len(prev) == HASH_BYTES, len(prev)
    return blake3(prev + canonical(entry)).digest()


def append(head: AuditHead, entry: AuditEntry) -> AuditRecord:
    """Return the record that follows `head`; the caller must store it, and `head_of` it as the new head."""
    return AuditRecord(seq=head.seq + 1, entry=entry, prev=head.hash, hash=link_hash(head.hash, entry))


def head_of(record: AuditRecord) -> AuditHead:
    """Return the head of a chain that ends in this record."""
    return AuditHead(seq=record.seq, hash=record.hash)


def verify(
    records: Iterable[AuditRecord], *, start: AuditHead = EMPTY, end: AuditHead | None = None
) -> AuditHead:
    """Check records in order from `start`, and that they end in `end` where it is known; return the end.

    Raises:
        AuditBroken: `seq` in its facts is the first number whose record is missing, changed or out of place.
    """
    head = start
    for record in records:
        seq = head.seq + 1
        if record.seq != seq:
            raise AuditBroken(f"audit record {seq} is missing", seq=seq)
        if record.prev != head.hash or record.hash != _hash_or_none(record):
            raise AuditBroken(f"audit record {seq} was changed", seq=seq)
        head = head_of(record)
    if end is not None and head != end:
        seq = min(head.seq, end.seq) + 1 if head.seq != end.seq else head.seq
        raise AuditBroken(f"the chain ends at {head.seq}, the kept head names {end.seq}", seq=seq)
    return head


def _hash_or_none(record: AuditRecord) -> bytes | None:
    if len(record.prev) != HASH_BYTES:
        return None
    try:
        return link_hash(record.prev, record.entry)
    except BadInput:
        return None

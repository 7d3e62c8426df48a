"""Every object that is neither pack nor config: header, head length u32, head box, segment boxes to the end.

The hash of an entry is BLAKE3-256 of header, length and head box. The rows in the head bind the segments, so
the commit log is checked by reading heads only.

Source: storage.md 4.1 "Every other type".
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from storage.errors import LimitReached, Malformed
from storage.format.box import seal, unseal
from storage.format.frame import make_frame, open_frame, pad_frame
from storage.format.header import ObjectType, OpenHeader, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    ENTRY_OBJECT_BYTES_MAX,
    HEAD_LENGTH_BYTES,
    HEAD_RAW_BYTES_MAX,
    HEADER_BYTES,
    SEALED_EXTRA_BYTES_MAX,
)
from storage.format.table import PlannedSegment

HEAD_START: Final = HEADER_BYTES + HEAD_LENGTH_BYTES
"""Offset of the head box."""
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHead:
    """An opened head: its header, its plaintext, and where the segments begin."""

    header: OpenHeader
    kind: int
    body: bytes
    area_start: int
    entry_hash: bytes


def seal_segments(
    keys: EpochKeys, header: OpenHeader, planned: Sequence[PlannedSegment], fresh: Sequence[bytes]
) -> list[tuple[PlannedSegment, bytes]]:
    """Seal segments 0, 1, 2 and so on of one object; `fresh` has 32 random bytes for each."""
    return [
        (segment, seal(keys, header, segment.kind, index, segment.frame, fresh=fresh[index]))
        for index, segment in enumerate(planned)
    ]


def make_object(
    keys: EpochKeys,
    header: OpenHeader,
    *,
    kind: int,
    body: bytes,
    boxes: Sequence[bytes],
    fresh: bytes,
    compress: bool = True,
    padding: int | None = None,
    pad_to: int = 0,
) -> bytes:
    """Return a whole object.

    Args:
        kind: entry kind in heads of `c/` and `b/`, else 0.
        padding: exactly so many zero bytes, or None to pad so that the head ends at a multiple of `pad_to`.
        pad_to: bytes; 0 pads nothing.
    """
    if len(body) > HEAD_RAW_BYTES_MAX:
        raise LimitReached(limit="head bytes", value=len(body))
    frame = make_frame(body, kind=kind, compress=compress)
    if padding is None:
        padding = -(HEAD_START + BOX_OVERHEAD_BYTES + len(frame)) % pad_to if pad_to else 0
    frame = pad_frame(frame, padding)
    length_bytes = _LENGTH.pack(len(frame) + BOX_OVERHEAD_BYTES)
    head = seal(keys, header, BoxKind.HEAD, 0, frame, fresh=fresh, length_bytes=length_bytes)
    raw = b"".join((header.raw, length_bytes, head, *boxes))
    if len(raw) > ENTRY_OBJECT_BYTES_MAX:
        raise LimitReached(limit="entry bytes", value=len(raw))
    return raw


def head_end(raw: bytes, name: str) -> int:
    """Return how many of an object's first bytes its head needs, from its first 68."""
    if len(raw) < HEAD_START:
        raise Malformed(rule="head length", object=name)
    (length,) = _LENGTH.unpack_from(raw, HEADER_BYTES)
    if not BOX_OVERHEAD_BYTES <= length <= HEAD_RAW_BYTES_MAX + SEALED_EXTRA_BYTES_MAX:
        raise Malformed(rule="head length", object=name)
    return HEAD_START + int(length)


def open_head(keys: EpochKeys, object_type: ObjectType, name: str, raw: bytes) -> OpenHead:
    """Open the head of the object `name` from its first bytes (at least up to `head_end`)."""
    header = open_header(keys, raw, object_type, name)
    end = head_end(raw, name)
    if len(raw) < end:
        raise Malformed(rule="head is cut", object=name)
    box, length_bytes = raw[HEAD_START:end], raw[HEADER_BYTES:HEAD_START]
    plain = unseal(header, BoxKind.HEAD, 0, box, length_bytes=length_bytes)
    frame = open_frame(plain, raw_bytes_max=HEAD_RAW_BYTES_MAX)
    if frame.kind and object_type not in (ObjectType.LOG_ENTRY, ObjectType.SIDE_CHECKPOINT):
        raise Malformed(rule="entry kind outside of the log", object=name)
    return OpenHead(
        header=header,
        kind=frame.kind,
        body=frame.raw,
        area_start=end,
        entry_hash=blake3(raw[:end]).digest(),
    )

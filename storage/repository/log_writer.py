"""Makes the bytes of log entries and side checkpoints, for whatever place they get.

Whatever is sealed here is opened again, as a reader will, before anybody may upload it. Not here: what an
entry is to say, and whether it may be said (`ops/save.py`, `retention.py`, `collect.py`, `fold.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from storage.errors import ObjectDamaged
from storage.format import names
from storage.format.entries import (
    Checkpoint,
    Fields,
    PackRef,
    TakeOver,
    decode_entry,
    encode_entry,
    kind_of,
)
from storage.format.envelope import make_object, open_head, seal_segments
from storage.format.header import ObjectType, make_header
from storage.format.keys import EpochKeys
from storage.format.limits import KIB, TABLES_IN_ENTRY_BYTES_MAX
from storage.format.pack import read_segments
from storage.format.table import PlannedSegment, Table, make_table
from storage.repository.packer import Fresh
from storage.repository.state import LogState

WRITER: Final = "1.0"
PAD_TO_BYTES: Final = 4 * KIB
"""Heads and the segments of entries are padded to this, so that sizes tell less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWriter:
    """Seals with one key epoch. Entries without segments need no data key."""

    keys: EpochKeys
    fresh: Fresh
    clock_ms: Callable[[], int]

    def entry(
        self,
        state: LogState,
        fields: Fields,
        *,
        fence: int | None = None,
        inline: Sequence[PlannedSegment] = (),
        skipping: int = 0,
    ) -> bytes:
        """Return the entry behind `state`. Only E and C have a fence of their own; others have the log's.

        Args:
            skipping: numbers between the last entry and this one, for a V that steps over what lies there.
        """
        assert (fence is not None) == isinstance(fields, TakeOver | Checkpoint)
        return self._sealed(
            ObjectType.LOG_ENTRY,
            names.log_entry(state.seq + 1 + skipping),
            seq=state.seq + 1 + skipping,
            prev=state.hash,
            fence=state.fence if fence is None else fence,
            fields=fields,
            inline=inline,
        )

    def side(
        self,
        name: str,
        *,
        seq: int,
        prev: bytes,
        fence: int,
        fields: Checkpoint,
        inline: Sequence[PlannedSegment],
    ) -> bytes:
        """Return the side checkpoint `name`, number `seq` of its branch."""
        return self._sealed(
            ObjectType.SIDE_CHECKPOINT, name, seq=seq, prev=prev, fence=fence, fields=fields, inline=inline
        )

    def _sealed(
        self,
        object_type: ObjectType,
        name: str,
        *,
        seq: int,
        prev: bytes,
        fence: int,
        fields: Fields,
        inline: Sequence[PlannedSegment],
    ) -> bytes:
        header = make_header(self.keys, object_type, name, self.fresh(32))
        sealed = seal_segments(self.keys, header, inline, [self.fresh(32) for _ in inline])
        body = encode_entry(
            seq=seq,
            prev=prev,
            fence=fence,
            time_ms=self.clock_ms(),
            writer=WRITER,
            table=make_table(sealed) if sealed else Table(b"", b""),
            fields=fields,
        )
        raw = make_object(
            self.keys,
            header,
            kind=kind_of(fields),
            body=body,
            boxes=[box for _, box in sealed],
            fresh=self.fresh(32),
            pad_to=PAD_TO_BYTES,
        )
        self._decode_again(object_type, name, raw, body)
        return raw

    def _decode_again(self, object_type: ObjectType, name: str, raw: bytes, body: bytes) -> None:
        """Open what was just sealed, as a reader will: nothing that does not decode is uploaded."""
        head = open_head(self.keys, object_type, name, raw)
        entry = decode_entry(head.kind, head.body)
        read_segments(self.keys, head.header, entry.segments, raw[head.area_start :])
        if head.body != body:
            raise ObjectDamaged(object=name, what="decoded otherwise than it was made")


def fitting_refs(packs: Sequence[PackRef]) -> list[PackRef]:
    """Return references as an entry has them: without tables where those are too large together."""
    size = sum(len(ref.table.rows) + len(ref.table.chunks) for ref in packs if ref.table is not None)
    if size <= TABLES_IN_ENTRY_BYTES_MAX:
        return list(packs)
    return [msgspec.structs.replace(ref, table=None) for ref in packs]

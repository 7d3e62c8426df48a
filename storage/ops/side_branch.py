"""One side checkpoint on its way below `b/`: its name, what it names before itself, the look at what was
stored.

Not what it says, and not the B that makes it count (`conflict.py`, `full_base.py`).

Source: storage.md 4.4 "Side branch".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import ObjectDamaged, StoreUnavailable
from storage.format import names
from storage.format.entries import Checkpoint, EntryKind, decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.table import PlannedSegment, Table
from storage.repository.log_writer import LogWriter
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.slots import RepositoryKeys
from storage.repository.state import LogState, StoredSide

NAME_TRIES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBranch:
    """The side branch of one fence."""

    place: Prefixed
    keys: RepositoryKeys
    writer: LogWriter
    fence: int

    async def listed(self) -> list[str]:
        """Return the names of the branch's checkpoints, oldest first, whether a B names them or not."""
        found = [info.name async for info in self.place.list(f"{names.SIDE_PREFIX}{self.fence}-")]
        found = [name for name in found if not names.is_side_pack(name)]
        return sorted(found, key=names.side_parts)

    async def store(
        self,
        fields: Checkpoint,
        *,
        inline: Sequence[PlannedSegment],
        tables: Sequence[Table],
        after: bytes,
        above: int,
    ) -> StoredSide:
        """Put a side checkpoint behind the last one of the branch, and read it back.

        Args:
            after: what the first one of a branch names: the hash of the newest main entry that was read.
            above: a number that may have been given to another one, which is gone by now.
        """
        number, prev = await self._end(after)
        for seq in range(max(number, above) + 1, max(number, above) + 1 + NAME_TRIES_MAX):
            name = names.side_checkpoint(self.fence, seq)
            raw = self.writer.side(name, seq=seq, prev=prev, fence=self.fence, fields=fields, inline=inline)
            if await settle_create(self.place, name, raw):
                if await self.place.get(name) != raw:
                    raise ObjectDamaged(object=name, what="side checkpoint reads back otherwise")
                opened = open_head(self.writer.keys, ObjectType.SIDE_CHECKPOINT, name, raw)
                return StoredSide(
                    name, opened.entry_hash, opened.kind, opened.area_start, opened.body, [*tables]
                )
            prev = await self._hash_of(name)
        raise StoreUnavailable(what="every name of the side branch is taken", fence=self.fence)

    async def _end(self, after: bytes) -> tuple[int, bytes]:
        """Return the number of the branch's last checkpoint, and what the next one names before itself."""
        there = await self.listed()
        if not there:
            return 0, after
        return names.side_parts(there[-1])[1], await self._hash_of(there[-1])

    async def _hash_of(self, name: str) -> bytes:
        raw = await self.place.get(name)
        opened = open_head(self.keys.of_header(raw, name), ObjectType.SIDE_CHECKPOINT, name, raw)
        decode_entry(opened.kind, opened.body)
        return opened.entry_hash


def highest_given(state: LogState, fence: int) -> int:
    """Return a number that no side checkpoint of a fence is above that was given up: such a name is never
    used again, or a run that still deletes the old one would take the new one.

    Names that were given up are not known for ever (a fold and an index snapshot leave them out), but every B
    is, and a branch grows by one with each.
    """
    prefix = f"{names.SIDE_PREFIX}{fence}-"
    gone = [name for name in state.retired if name.startswith(prefix) and not names.is_side_pack(name)]
    placed = sum(row.kind == EntryKind.SIDE_BRANCH for row in state.rows)
    return max([placed, *(names.side_parts(name)[1] for name in gone)])

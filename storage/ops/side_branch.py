"""One side checkpoint on its way below `b/`: its name, what it names before itself, the look at what was
stored.

Not what it says, and not the B that makes it count (`conflict.py`, `full_base.py`).

Source: storage.md 4.4 "Side branch".
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.errors import (
    CommitContended,
    FormatError,
    ObjectDamaged,
    ObjectNotFound,
    RepositoryError,
    StoreUnavailable,
)
from storage.format import names
from storage.format.entries import Checkpoint, EntryKind, decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.table import PlannedSegment, Table
from storage.repository.log_writer import LogWriter
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.slots import RepositoryKeys
from storage.repository.state import LogState, StoredSide

NAME_TRIES_MAX: Final = 64
NUMBER_LIMIT: Final = 10**9
"""Numbers of a branch have nine digits."""
FIRST_MIN: Final = 1_000_000
FIRST_SPREAD: Final = 900_000_000
"""Where a branch begins of which no log tells what was given."""
GAPS_LEFT: Final = 2_000
"""No gap takes more than this part of the numbers that are left, so there are always enough of them."""
DRAWN_MAX: Final = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Which numbers of a branch may have been given to side checkpoints that are gone by now."""

    up_to: int
    drawn: int
    """0: none above `up_to` that is not listed. Else a number that decides how wide a gap is left."""
    first_min: int = 0
    """Where numbers begin that nobody counts up to."""

    def next(self, last: int) -> int:
        """Return a number for the one behind `last`, the highest that is listed."""
        above = max(last, self.up_to)
        if above < self.first_min:
            return self.first_min + self.drawn % FIRST_SPREAD
        return above + 1 + self.drawn % max(1, (NUMBER_LIMIT - above) // GAPS_LEFT)


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
        given: Given,
    ) -> StoredSide:
        """Put a side checkpoint behind the last one of the branch, and read it back.

        Args:
            after: what the first one of a branch names: the hash of the newest main entry that was read.
            given: which numbers others may have had that are gone by now.
        """
        number, prev = await self._end(after)
        first = given.next(number)
        for seq in range(first, first + NAME_TRIES_MAX):
            name = names.side_checkpoint(self.fence, seq)
            raw = self.writer.side(name, seq=seq, prev=prev, fence=self.fence, fields=fields, inline=inline)
            if await settle_create(self.place, name, raw):
                if await self.place.get(name) != raw:
                    raise ObjectDamaged(object=name, what="side checkpoint reads back otherwise")
                opened = open_head(self.writer.keys, ObjectType.SIDE_CHECKPOINT, name, raw)
                return StoredSide(
                    name, opened.entry_hash, opened.kind, opened.area_start, opened.body, [*tables]
                )
            # What had the name may have been deleted since, or be damaged.
            with contextlib.suppress(ObjectNotFound, FormatError, RepositoryError):
                prev = await self._hash_of(name)
        raise StoreUnavailable(what="every name of the side branch is taken", fence=self.fence)

    async def _end(self, after: bytes) -> tuple[int, bytes]:
        """Return the number of the branch's last checkpoint, and what the next one names before itself. One
        that was dropped may be deleted while this looks.
        """
        for _ in range(NAME_TRIES_MAX):
            there = await self.listed()
            if not there:
                return 0, after
            with contextlib.suppress(ObjectNotFound):
                return names.side_parts(there[-1])[1], await self._newest_hash(there, after)
        raise CommitContended(what="the side branch moves all the time", fence=self.fence)

    async def _newest_hash(self, there: Sequence[str], after: bytes) -> bytes:
        """Return the hash of the newest one that opens: a damaged one must not keep anybody from saving."""
        for name in reversed(there):
            with contextlib.suppress(FormatError, RepositoryError):
                return await self._hash_of(name)
        return after

    async def _hash_of(self, name: str) -> bytes:
        raw = await self.place.get(name)
        opened = open_head(self.keys.of_header(raw, name), ObjectType.SIDE_CHECKPOINT, name, raw)
        decode_entry(opened.kind, opened.body)
        return opened.entry_hash


def given_by_the_log(state: LogState, fence: int, fresh: Fresh) -> Given:
    """Return which numbers the log says were given. Such a name is never used again: a run that still deletes
    the old one would take the new one.

    Names that were given up are not known for ever (a fold and an index snapshot leave them out). Every B is,
    so a usual branch is known by their count; where more may have been given, a gap is drawn.
    """
    prefix = f"{names.SIDE_PREFIX}{fence}-"
    gone = [name for name in state.retired if name.startswith(prefix) and not names.is_side_pack(name)]
    placed = sum(row.kind == EntryKind.SIDE_BRANCH for row in state.rows)
    known = not state.folded_to and not state.snapshot_at
    up_to = max([placed, *(names.side_parts(name)[1] for name in gone)])
    return Given(up_to=up_to, drawn=0 if known else _draw(fresh))


def given_to_anybody(fresh: Fresh) -> Given:
    """Return the same where no log tells: all of the first number or of the gap is drawn."""
    return Given(up_to=0, drawn=_draw(fresh), first_min=FIRST_MIN)


def _draw(fresh: Fresh) -> int:
    return 1 + int.from_bytes(fresh(8), "little") % DRAWN_MAX

"""Stepping over what lies behind the log's last entry and is none: foreign, or damaged beyond reading.

Such an object stops everybody: nobody can place the next entry, and nobody may guess whether it would have
been one. A person who looked at it may say that it does not count. That is a V behind it, whose `void` names
the number and the hash of the whole object, and whose predecessor is the last good entry. The object stays
under its number until a fold takes it: were it deleted, a reader who comes from below would take its place
for the log's end.

Never for an object that opens, and never for one that a newer service may have made.

Source: storage.md 4.4, last paragraphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from storage.errors import (
    ChainBroken,
    CommitContended,
    FormatError,
    KeyMissing,
    NewerServiceNeeded,
    ObjectDamaged,
    ObjectNotFound,
)
from storage.format import names
from storage.format.entries import Version
from storage.repository.log import STEPPED_OVER_MAX, CommitLog
from storage.repository.log_writer import LogWriter
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.state import LogState


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignObject:
    """Something that lies under the number of a log entry and does not open."""

    seq: int
    hash: bytes
    """BLAKE3-256 of the whole object."""
    size: int
    why: str


async def find_foreign(log: CommitLog, place: Prefixed) -> tuple[ForeignObject, ...]:
    """Return what lies behind the last entry that opens, ascending; empty if the log is whole.

    Raises:
        ChainBroken: too many of them in a row.
        NewerServiceNeeded: a newer service may have made it.
    """
    found: list[ForeignObject] = []
    for seq in range(await log.listed_end(), 0, -1):
        try:
            await log.head_opens(seq)
            break
        except NewerServiceNeeded:
            raise
        except (FormatError, KeyMissing) as exc:
            raw = await _whole(place, seq)
            found.append(ForeignObject(seq=seq, hash=blake3(raw).digest(), size=len(raw), why=str(exc)))
        if len(found) > STEPPED_OVER_MAX:
            raise ChainBroken(what="too many objects that do not open", seq=seq)
    found.reverse()
    return tuple(found)


async def step_over(
    log: CommitLog, place: Prefixed, writer: LogWriter, confirmed: Sequence[tuple[int, bytes]]
) -> int:
    """Place a V behind objects that do not open, if they are exactly those that a person confirmed; return
    its number.

    Raises:
        ChainBroken: other objects lie there than were confirmed; nothing was written.
        CommitContended: somebody was faster.
    """
    found = await find_foreign(log, place)
    if not found or [(one.seq, one.hash) for one in found] != sorted(confirmed):
        raise ChainBroken(what="other objects lie there than were confirmed", found=len(found))
    state = await log.read_up_to(found[0].seq - 1)
    raw = writer.entry(state, _void(state, found), skipping=len(found))
    seq = state.seq + len(found) + 1
    if not await settle_create(place, names.log_entry(seq), raw):
        raise CommitContended(seq=seq, what="somebody was faster")
    now = await log.another().refresh()
    row = now.row(seq)
    if row is None or await _whole(place, seq) != raw:
        raise ObjectDamaged(seq=seq, what="entry reads back otherwise")
    return seq


def _void(state: LogState, found: Sequence[ForeignObject]) -> Version:
    told = state.version
    return Version(
        told.min_reader,
        told.min_writer,
        told.min_gc,
        told.min_key_epoch,
        list(told.must_features),
        list(told.chunker),
        [*told.void, *((one.seq, one.hash) for one in found)],
    )


async def _whole(place: Prefixed, seq: int) -> bytes:
    try:
        return await place.get(names.log_entry(seq))
    except ObjectNotFound as exc:
        raise ChainBroken(what="an object went while it was looked at", seq=seq) from exc

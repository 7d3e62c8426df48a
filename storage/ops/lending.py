"""Pins of restores and downloads: a checkpoint that is being read is not forgotten meanwhile.

A reader of an older checkpoint writes K(pin) first, with a reason that names him, and K(unpin) when he is
done. A K says who reads at that moment, all of them, because the newest K of a checkpoint counts:
`restore: a b`. Whoever is the last to end unpins. A pin that a person made is never touched, nor the first
checkpoint of a close that no K has named: unpinning would release it.

A reader may die, by SIGKILL, with his node, in any call. Nothing has to be cleaned up on his machine: the pin
is in the log, every worker of every node sees it, and histories and index snapshots carry by whose word it
stands. Two rules let go of him. Whoever takes the workspace over lets go of the readers that the log names
before his E, but for those of his own process: the machine that read for an earlier owner may be gone. And
upkeep lets go of readers whom nobody has named again for a week, by retention's clocks and not while they
disagree: of a workspace that nobody takes over any more. Safety needs neither: a reader whose pin was let go
too early reads on, looks at the log again where he misses something (`repository/current.py`), and is told at
worst that his checkpoint was forgotten.

A store that takes no entry (read only, full, written by a newer service) can still be restored from: then
nothing is pinned.

Source: storage.md 4.4, "never in an F"; docs/design/0012-restore.md.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from storage.errors import ClocksApart, KeysChanged, NewerServiceNeeded, StorageError, StoreFull, StoreRefused
from storage.format.entries import CheckpointFlag, EntryKind, Fields, Keep
from storage.ops.upkeep import Upkeep
from storage.repository.retention import DAY_MS
from storage.repository.state import LogState, Row

REASON: Final = "restore:"
ACTOR: Final = "restore"
READER_BYTES: Final = 8
READER_MS_MAX: Final = 7 * DAY_MS
"""Nobody restores or downloads one checkpoint for longer than this."""
END_S: Final = 10.0
"""How long who is done waits to say so."""
MakeUpkeep: TypeAlias = Callable[[], Awaitable[Upkeep]]
_NO_ENTRY: Final = (StoreRefused, StoreFull, NewerServiceNeeded)


class _NothingToSay(Exception):
    """The log says already what would be written."""


@dataclass(slots=True)
class Lending:
    """The readers of this process, and their pins."""

    fresh: Callable[[int], bytes]
    readers: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def pinned(
        self, upkeep: MakeUpkeep, state: LogState, row: Row, *, long: bool = False
    ) -> AsyncIterator[None]:
        """Keep a checkpoint from being forgotten while the block runs, unless it is safe already.

        Args:
            upkeep: asked when there is something to say, and again where the keys were changed meanwhile.
            long: it may take so long that the newest checkpoint is not the newest any more.
        """
        if _is_safe(state, row, long=long):
            yield
            return
        reader = self.fresh(READER_BYTES).hex()
        self.readers.add(reader)
        try:
            written = await _say_now(upkeep, lambda now: _with_reader(now, row, reader))
            try:
                yield
            finally:
                if written:
                    await _end(upkeep, row.seq, reader)
        finally:
            self.readers.discard(reader)

    async def let_go(self, upkeep: Upkeep, state: LogState) -> None:
        """Let go of readers that the log names before its last take-over, but for those of this process."""
        newest = max((row.seq for row in state.rows if _is_take_over(row)), default=0)
        for seq, (at, words) in sorted(state.pin_words.items()):
            gone = _readers(words) - self.readers
            if gone and at < newest and state.pinned.get(seq, False):
                await _say(upkeep, partial(_without_readers, seq=seq, gone=gone))

    async def let_go_old(self, upkeep: Upkeep, state: LogState) -> None:
        """Let go of readers of other processes whom the log has not named anew for `READER_MS_MAX`."""
        try:
            now_ms = upkeep.now_ms()
        except ClocksApart:
            return
        for seq, (at, words) in sorted(state.pin_words.items()):
            gone = _readers(words) - self.readers
            row = state.row(at)
            old = row is not None and now_ms - row.time_ms > READER_MS_MAX
            if gone and old and state.pinned.get(seq, False):
                await _say(upkeep, partial(_without_readers, seq=seq, gone=gone))


async def _end(upkeep: MakeUpkeep, seq: int, reader: str) -> None:
    """Let go, also of a call that was cancelled. What that cannot do, the next take-over does."""
    with contextlib.suppress(StorageError, TimeoutError):
        async with asyncio.timeout(END_S):
            await _say_now(upkeep, lambda now: _without_readers(now, seq, {reader}))


async def _say_now(upkeep: MakeUpkeep, fields_for: Callable[[LogState], Fields]) -> bool:
    """Place a K with the keys of now: hours may lie between the first word about a reader and the last."""
    try:
        return await _say(await upkeep(), fields_for)
    except KeysChanged:
        return await _say(await upkeep(), fields_for)


async def _say(upkeep: Upkeep, fields_for: Callable[[LogState], Fields]) -> bool:
    """Place a K; return False where there is nothing to say or the log takes no entry."""
    try:
        await upkeep.place(fields_for)
    except (_NothingToSay, *_NO_ENTRY):
        return False
    return True


def _is_safe(state: LogState, row: Row, *, long: bool) -> bool:
    """Return whether nothing may forget a checkpoint now: the newest ones, and the first of an open close."""
    newest = () if long else (state.newest(complete=True), state.newest(complete=False))
    if any(one is not None and one.seq == row.seq for one in newest):
        return True
    return row.has(CheckpointFlag.FIRST_OF_CLOSE) and row.seq not in state.pinned


def _with_reader(state: LogState, row: Row, reader: str) -> Keep:
    known: set[str] = set()
    if state.pinned.get(row.seq, False):
        known = _readers(state.pin_words.get(row.seq, (0, ""))[1])
        if not known:
            raise _NothingToSay  # a person's pin
    if row.has(CheckpointFlag.FIRST_OF_CLOSE) and row.seq not in state.pinned:
        raise _NothingToSay
    return _keep(state, row.seq, known | {reader})


def _without_readers(state: LogState, seq: int, gone: set[str]) -> Keep:
    known = _readers(state.pin_words.get(seq, (0, ""))[1])
    if not known & gone or not state.pinned.get(seq, False):
        raise _NothingToSay
    return _keep(state, seq, known - gone)


def _keep(state: LogState, seq: int, readers: set[str]) -> Keep:
    side = state.sides.get(seq)
    row = state.row(seq)
    if row is None or not (side is not None or state.counts(row)):
        raise _NothingToSay  # forgotten meanwhile
    reason = " ".join([REASON, *sorted(readers)]) if readers else f"{REASON} ended"
    return Keep(seq, row.hash, bool(readers), reason, ACTOR)


def _readers(words: str) -> set[str]:
    """Return the readers that a reason names; none for a person's."""
    first, *names = words.split(" ")
    return set(names) - {"ended"} if first == REASON else set()


def _is_take_over(row: Row) -> bool:
    return row.kind == EntryKind.TAKE_OVER and not row.void

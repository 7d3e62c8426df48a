"""Where the chunks of a checkpoint lie now, for readers that outlive a garbage collection or a fold.

A restore or a download is planned by the log of one moment. Collecting and folding move chunks and give up
the objects they lay in; they wait for no reader, because a reader holds no lock. So who misses an object
reads the log again and goes on from there (rule 3). What the newest log has nowhere else is damage, and a
checkpoint that was forgotten meanwhile is told as that.

Source: storage.md 4.4 rule 3.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from storage.errors import NoSuchCheckpoint
from storage.format.keys import BoxKind
from storage.repository.index import ChunkIndex, Place
from storage.repository.state import LogState, Row

LOOKS_MAX: Final = 1_000
"""Folds and collections that one reader survives: hourly ones, for a month."""

ReadLog = Callable[[bool], Awaitable[LogState]]
"""Reads the log to its end; if asked with True without anything that was remembered of it."""


class CurrentPlaces:
    """`Places` of some checkpoints, by the log as it was last looked at."""

    def __init__(self, state: LogState, rows: Sequence[Row], read_log: ReadLog) -> None:
        self._index = state.index
        self._seen = (state.seq, state.hash)
        self._rows = rows
        self._read_log = read_log
        self._lock = asyncio.Lock()
        self._looks = 0
        self._read_anew: tuple[int, bytes] | None = None
        """Where the log ended when it was last read from its beginning, and told nothing new."""

    @property
    def looks(self) -> int:
        """Return how often the log was looked at again."""
        return self._looks

    @property
    def index(self) -> ChunkIndex:
        """Return the index of the last look."""
        return self._index

    def place(self, kind: BoxKind, chunk_id: bytes) -> Place:
        """Return where a chunk lies by the last look. Raises ObjectMissing."""
        return self._index.place(kind, chunk_id)

    async def look_again(self, looks: int) -> bool:
        """Read the log again; return whether it said anything new since `looks` looks.

        Raises:
            NoSuchCheckpoint: what is being read was forgotten.
        """
        async with self._lock:
            if looks != self._looks:
                return True
            for cold in (False, True):
                if cold and self._read_anew == self._seen:
                    return False  # whoever leaves out what is damaged asks for each object of many
                state = await self._read_log(cold)
                self._require_rows(state)
                if (state.seq, state.hash) != self._seen and self._looks < LOOKS_MAX:
                    self._index, self._seen = state.index, (state.seq, state.hash)
                    self._looks += 1
                    return True
            self._read_anew = self._seen
            return False

    def _require_rows(self, state: LogState) -> None:
        for row in self._rows:
            side = state.sides.get(row.seq)
            now = side.row if side is not None else state.row(row.seq)
            if now is None or now.hash != row.hash or (side is None and not state.counts(now)):
                raise NoSuchCheckpoint(seq=row.seq, what="it was forgotten while it was being read")

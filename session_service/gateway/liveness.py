"""One ticker for every connection: who is silent, who is slow, who still has to be closed.

Not a timer each, and no look at everybody in turn: whoever is watched says when something about it can be due
at the earliest, and is left alone until then. Bytes that flow leave a time stamp and arm, move or cancel
nothing; an old deadline is found to be none when it comes. A connection that looks dead is judged one tick
later, because its bytes may lie unread in the socket when our own loop was late.

Source: docs/design/0022-cost-of-a-byte.md.
"""

import asyncio
from itertools import islice
from typing import Final, Protocol

import structlog

from session_service.core.wheel import SLICE_KEYS_MAX, Wheel
from session_service.gateway.stats import GatewayStats

STALL_LOGGED_S: Final = 1.0
FAILED_AGAIN_S: Final = 10.0
"""Until a connection is looked at again whose look failed."""


class Watched(Protocol):
    """What the ticker looks at."""

    def __hash__(self) -> int: ...
    def look(self, now: float, excused: float) -> float | None:
        """Do what is due (a ping) and return when to look again; None when it should be judged. Time before
        `excused` does not count. A look ends nothing, neither this one nor another.
        """
        ...

    def judge(self, now: float, excused: float) -> None:
        """Look once more, after all sockets were read, and end it if that is still right."""
        ...


class Ticker:
    """Looks at each connection when its time has come. All times are readings of the loop's clock, in
    seconds.

    Args:
        tick_s: between two turns. Nobody is looked at early, and nobody later than this.
    """

    def __init__(self, *, tick_s: float, stall_s: float, stats: GatewayStats) -> None:
        self._tick_s = tick_s
        self._stall_s = stall_s
        self._stats = stats
        self._wheel: Wheel[Watched] = Wheel(slot_ms=max(1, round(tick_s * 1000)))
        self._suspects: dict[Watched, None] = {}
        self._accused: dict[Watched, None] = {}
        self._excused = 0.0
        self._due = 0.0
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._wheel) + len(self._suspects) + len(self._accused)

    def add(self, item: Watched, at: float) -> None:
        """Look at `item` at this time; an earlier one is forgotten. The ticker starts with the first."""
        self._suspects.pop(item, None)
        self._accused.pop(item, None)
        self._wheel.set(item, int(at * 1000) + 1)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._tick_s
            self._timer = loop.call_at(self._due, self._tick, loop)

    def remove(self, item: Watched) -> None:
        """Look at it no more; repeating this is harmless."""
        self._wheel.remove(item)
        self._suspects.pop(item, None)
        self._accused.pop(item, None)

    def stop(self) -> None:
        """End the ticker; what is added later starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late_s = now - self._due
        self._stats.loop_late(max(0.0, late_s))
        if late_s > STALL_LOGGED_S:
            structlog.get_logger().warning("loop.stalled", seconds=round(late_s, 3))
        if late_s > self._stall_s:
            self._excused = now
        self._due = max(self._due + self._tick_s, now)
        self._accused, self._suspects = self._accused | self._suspects, {}
        self._turn(loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """One slice of what is due; sockets are read before the next one."""
        now = loop.time()
        more = self._judge(now) if self._accused else self._look(now)
        if more:
            self._timer = loop.call_soon(self._turn, loop)
            return
        self._due = max(self._due, now)
        self._timer = loop.call_at(self._due, self._tick, loop)

    def _judge(self, now: float) -> bool:
        for item in tuple(islice(self._accused, SLICE_KEYS_MAX)):
            if item in self._accused:
                self.add(item, now)
                try:
                    item.judge(now, self._excused)
                except Exception as error:  # noqa: BLE001 # the edge of one connection, see _failed
                    self._failed(error)
        return True

    def _look(self, now: float) -> bool:
        excused, put, due = self._excused, self._wheel.set, self._wheel.due(int(now * 1000))
        for item in due:
            at: float | None
            try:
                at = item.look(now, excused)
            except Exception as error:  # noqa: BLE001 # the edge of one connection, see _failed
                self._failed(error)
                at = now + FAILED_AGAIN_S
            if at is None:
                self._suspects[item] = None
            else:
                put(item, int(max(at, now) * 1000) + 1)
        return len(due) == SLICE_KEYS_MAX

    def _failed(self, error: Exception) -> None:
        """One connection's trouble never keeps the others from being looked at: without the ticker no silent
        client is ever found.
        """
        structlog.get_logger().error("task.failed", task="ticker", error=type(error).__name__, exc_info=error)

"""One ticker for every connection: who is silent, who is slow, who still has to be closed.

Not a timer each: 20 buckets, one of them looked at per tick, cost 10,000 links a thousandth of a core, and
nothing is armed or cancelled while bytes flow. A connection that looks dead is judged one tick later,
because its bytes may lie unread in the socket when our own loop was late.
"""

import asyncio
from typing import Final, Protocol

import structlog

from session_service.gateway.stats import GatewayStats

BUCKETS: Final = 20
STALL_LOGGED_S: Final = 1.0


class Watched(Protocol):
    """What the ticker looks at."""

    bucket: int

    def look(self, now: float, excused: float) -> bool:
        """Do what is due (a ping); return True when it should be judged. Time before `excused` does not
        count.
        """
        ...

    def judge(self, now: float, excused: float) -> None:
        """Look once more, after all sockets were read, and end it if that is still right."""
        ...


class Ticker:
    """Looks at each connection once in `look_s`. All times are readings of the loop's clock, in seconds."""

    def __init__(self, *, look_s: float, stall_s: float, stats: GatewayStats) -> None:
        self._period_s = look_s / BUCKETS
        self._stall_s = stall_s
        self._stats = stats
        self._buckets: tuple[set[Watched], ...] = tuple(set() for _ in range(BUCKETS))
        self._turn = 0
        self._next_bucket = 0
        self._suspects: list[Watched] = []
        self._excused = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Watched) -> None:
        """Look at `item` from now on; the ticker starts with the first one."""
        item.bucket = self._next_bucket
        self._next_bucket = (self._next_bucket + 1) % BUCKETS
        self._buckets[item.bucket].add(item)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._period_s
            self._timer = loop.call_at(self._due, self._tick, loop)

    def remove(self, item: Watched) -> None:
        """Look at it no more; repeating this is harmless."""
        self._buckets[item.bucket].discard(item)

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
        suspects, self._suspects = self._suspects, []
        for item in suspects:
            if item in self._buckets[item.bucket]:
                item.judge(now, self._excused)
        self._turn = (self._turn + 1) % BUCKETS
        for item in tuple(self._buckets[self._turn]):
            if item.look(now, self._excused):
                self._suspects.append(item)
        self._due = max(self._due + self._period_s, now)
        self._timer = loop.call_at(self._due, self._tick, loop)

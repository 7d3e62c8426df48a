"""Who waits for nobody stands back: while one worker closes a session, the others run at low priority.

A close must not take three times as long because somebody else's photographs are saved for the first time
(design note 0017, measured by `python -m tests.bench.fairness`). A worker lowers its priority only while it
is told so, for a few seconds each time: a save that always stood back would starve beside a busy desktop, and
what was promised to its user with it. Both halves are here: `Ahead` tells, `StandingBack` does.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from session_service.base import errors, priority, rpc
from session_service.base.aio import Tasks
from session_service.base.log import get_logger

NICE: Final = 10
"""Of ten parts of a processor that both want, nine go to the close."""
LASTS_S: Final = 3.0
"""Without being told again."""
AGAIN_S: Final = 1.0
REST_S_MIN: Final = 0.01
"""A loop's clock and ours may differ by a few milliseconds."""


class StandBack(msgspec.Struct, frozen=True, kw_only=True):
    """Stand back for so long."""

    seconds: float


class StandingBack:
    """The priority of one worker."""

    def __init__(
        self,
        *,
        clock_s: Callable[[], float],
        able: bool,
        set_nice: Callable[[int], None] = priority.set_nice,
    ) -> None:
        """Take the clock.

        Args:
            able: whether this process may raise its priority again; it never lowers it otherwise.
        """
        self._clock_s = clock_s
        self._able = able
        self._set_nice = set_nice
        self._urgent = 0
        self._until_s = 0.0
        self._nice = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def urgent(self) -> Iterator[None]:
        """While this goes on, nobody makes this worker stand back."""
        self._urgent += 1
        try:
            self._apply()
            yield
        finally:
            self._urgent -= 1
            self._apply()

    def told(self, seconds: float) -> None:
        """Stand back for that long from now."""
        seconds = min(seconds, LASTS_S)
        self._until_s = self._clock_s() + seconds
        self._apply()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._over)

    async def stand_back(self, call: rpc.Call) -> None:
        """Answer the service's call."""
        self.told(call.params(StandBack).seconds)

    def _over(self) -> None:
        """Come back; a timer that was early, or armed before the newest word, waits for the rest."""
        self._timer = None
        rest_s = self._until_s - self._clock_s()
        if rest_s > 0:
            self._timer = asyncio.get_running_loop().call_later(max(REST_S_MIN, rest_s), self._over)
        self._apply()

    def _apply(self) -> None:
        wanted = NICE if self._able and not self._urgent and self._clock_s() < self._until_s else 0
        if wanted == self._nice:
            return
        try:
            self._set_nice(wanted)
        except OSError as exc:
            # A priority is only speed: no close may fail for it. It is not lowered again.
            self._able = False
            get_logger().warning("part.priority_refused", nice=wanted, error=str(exc))
        self._nice = wanted


class Ahead:
    """Tells all workers to stand back while there are urgent calls."""

    def __init__(self, workers: Sequence[rpc.Client], tasks: Tasks) -> None:
        self._workers = workers
        self._tasks = tasks
        self._urgent = 0
        self._telling: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """An urgent call goes on within this."""
        self._urgent += 1
        if self._telling is None and len(self._workers) > 1:
            self._telling = self._tasks.spawn(self._tell_on(), name="stand-back")
        try:
            yield
        finally:
            self._urgent -= 1

    async def _tell_on(self) -> None:
        try:
            while self._urgent:
                await asyncio.gather(*(self._tell(client) for client in self._workers))
                await asyncio.sleep(AGAIN_S)
        finally:
            self._telling = None

    async def _tell(self, client: rpc.Client) -> None:
        """A worker that does not hear it is only as fast as before, and keeps no other from hearing it."""
        with contextlib.suppress(errors.SessionError, TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await client.call("stand_back", StandBack(seconds=LASTS_S), type(None))

"""An event loop whose time is virtual: waiting costs nothing, and the same schedule runs in the same order.

Not a mock of asyncio: the real loop with another clock and a selector that never waits. Nothing may use
sockets, threads or signals on it; a loop that would wait for ever says so instead.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class NothingLeftToDo(Exception):
    """Everything waits and no timer is armed: on a real loop this would hang."""


class _NoWaiting(selectors.DefaultSelector):
    """Turns waiting into a step of the clock."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingLeftToDo()
        if timeout > 0:
            self._advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`advance(seconds)` is called instead of waiting; it must move what `now` returns on by at least
    that.
    """

    def __init__(self, *, now: Callable[[], float], advance: Callable[[float], None]) -> None:
        self._virtual_now = now
        super().__init__(_NoWaiting(advance))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._virtual_now()


class Time:
    """Virtual time in milliseconds: three clocks that agree until a test lets them step apart."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.boot_ahead_ms = 0
        self.wall_ahead_ms = 1_700_000_000_000
        self.passed: Callable[[float], None] = lambda seconds: None
        """Called with the time that passed while the loop waited, that is, while it could have acted."""

    def advance(self, seconds: float) -> None:
        self.now_s = round(self.now_s + seconds, 9)
        self.passed(seconds)

    def stall(self, seconds: float) -> None:
        """The process is stopped (SIGSTOP, a page fault, a slow disk): all clocks go on, the loop does
        not.
        """
        self.now_s = round(self.now_s + seconds, 9)

    def loop(self) -> VirtualLoop:
        return VirtualLoop(now=lambda: self.now_s, advance=self.advance)

    # ports.clock.Clock
    def monotonic_ms(self) -> int:
        return int(self.now_s * 1000 + 1e-6)

    def boot_ms(self) -> int:
        return self.monotonic_ms() + self.boot_ahead_ms

    def wall_ms(self) -> int:
        return self.monotonic_ms() + self.wall_ahead_ms

    def suspend(self, milliseconds: int) -> None:
        """The machine sleeps: boot time and wall time go on, the monotonic clock does not."""
        self.boot_ahead_ms += milliseconds
        self.wall_ahead_ms += milliseconds

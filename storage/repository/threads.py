"""The bounded pool of threads in which a worker process does its work, beside an event loop that stays awake.

Hops cost 50 to 140 us, so they are made per batch of a mebibyte or more, never per chunk. A cancelled call
sets its stop flag and waits for its thread: a thread that outlives its call would write into somebody else's
plan.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from storage.errors import Cancelled

P = ParamSpec("P")
T = TypeVar("T")

CALL_THREADS: Final = 4
READ_THREADS: Final = 2
"""Native calls release the GIL: two threads gave 1.8 times one (storage.md section 0)."""
STOP_WAIT_S: Final = 30.0
"""How long a cancelled call waits for its thread.

Threads look at their flag per file and per piece of 4 MiB.
"""


class Stop:
    """A flag that threads ask; `check` raises."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Tell every thread that holds this flag to give up."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether to give up."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait; return whether to give up."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise Cancelled if the caller gave up."""
        if self._event.is_set():
            raise Cancelled()


class Threads:
    """Two small pools: one for calls of the event loop, one for readers that those calls start."""

    def __init__(self) -> None:
        self._calls = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="storage-call")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="storage-read")

    async def run(self, stop: Stop, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread.

        If this call is cancelled, set the flag and wait until the thread is done.
        """
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._calls, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([running], timeout=STOP_WAIT_S)
            if running.done() and not running.cancelled():
                running.exception()  # looked at, so that nobody warns of it; the cancellation is what counts
            raise

    async def quick(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something short in a thread."""
        return await self.run(Stop(), work, *args, **kwargs)

    def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Start a batch in the readers' pool; called by threads, never by the event loop."""
        return self._readers.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Wait for the threads and end them."""
        self._calls.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)

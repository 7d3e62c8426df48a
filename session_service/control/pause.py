"""Pauses of endless retries: doubled up to a cap, with jitter, and cut short when something changed.

Not a retry loop: each runner loops itself and decides anew from the record. Giving up is not an outcome.
"""

import asyncio

from session_service.core import limits
from session_service.ports.clock import Ids


class Pause:
    """The next pause of one runner."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._next_s = limits.RETRY_S_MIN

    def reset(self) -> None:
        """Begin again with the shortest pause: there was progress."""
        self._next_s = limits.RETRY_S_MIN

    async def wait(self, woken: asyncio.Event | None = None) -> None:
        """Wait for the next pause, or until `woken` is set (it is cleared)."""
        pause_s = self._ids.jitter(self._next_s * 0.75, self._next_s * 1.25)
        self._next_s = min(limits.RETRY_S_MAX, self._next_s * 2)
        if woken is None:
            await asyncio.sleep(pause_s)
            return
        try:
            async with asyncio.timeout(pause_s):
                await woken.wait()
        except TimeoutError:
            return
        woken.clear()

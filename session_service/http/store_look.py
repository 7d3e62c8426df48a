"""What the object store last said of itself, asked seldom and never waited for long.

Not a probe: that is the worker's. A store that is away must not make a status page hang, and does not make
us unready.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from session_service.base import errors
from session_service.http import answers, limits
from session_service.http.instants import iso
from session_service.ports.checkpoints import Checkpoints, StoreStatus, TrafficLook, WatchLook
from session_service.ports.clock import Clock


def watching_words(looks: Sequence[WatchLook]) -> str:
    """Return in one line how the workers notice changes in homes."""
    said: list[str] = []
    for look in looks:
        if look.mode == "inotify":
            words = f"inotify, {look.folders} of {look.folders_max} watches"
        else:
            words = look.mode if look.mode != "fanotify" else f"fanotify, {look.folders} folders"
        if look.homes_unwatched and look.mode != "scan only":
            words += f", {look.homes_unwatched} homes scan only"
        said.append(words)
    return "; ".join(said)


def traffic_of(looks: Sequence[TrafficLook]) -> answers.StoreTrafficOut:
    """Return what all workers asked of the store. Listings of versions are listings."""
    asked = Counter[str]()
    for look in looks:
        asked.update(look.requests)
    return answers.StoreTrafficOut(
        since=iso(min(look.since_ms for look in looks)),
        puts=asked["put"],
        gets=asked["get"],
        heads=asked["head"],
        lists=asked["list"] + asked["versions"],
        deletes=asked["delete"],
        failures=sum(look.failures for look in looks),
        sent_bytes=sum(look.sent_bytes for look in looks),
        fetched_bytes=sum(look.fetched_bytes for look in looks),
    )


class StoreLook:
    """Asks for the store's status at most every few seconds."""

    def __init__(self, *, checkpoints: Checkpoints, clock: Clock) -> None:
        self._checkpoints = checkpoints
        self._clock = clock
        self._last: StoreStatus | None = None
        self._asked_ms: int | None = None
        self._turn = asyncio.Lock()

    async def status(self) -> StoreStatus | None:
        """Return the store's status; None when nobody answered in time."""
        async with self._turn:
            now = self._clock.boot_ms()
            if self._asked_ms is None or now - self._asked_ms > limits.STATUS_FRESH_S * 1000:
                self._last = await self._ask()
                self._asked_ms = self._clock.boot_ms()
            return self._last

    async def _ask(self) -> StoreStatus | None:
        try:
            async with asyncio.timeout(limits.STATUS_S):
                return await self._checkpoints.status()
        except (errors.SessionError, TimeoutError):
            return None

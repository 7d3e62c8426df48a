"""A store behind a line of limited speed: so many bytes by second up and down, and who waits for a turn.

Around the retries, not within them: a wait for the line is no failure and uses up nobody's patience. The
limit is an average. What may go goes at once and in one piece, and what follows waits until it is paid for;
small objects (log entries, receipts, slots) never wait, but are counted, so that a fence or a commit is not
late because somebody saves photographs. What goes first does so in this process only: others have their own
share of the line. How many calls run at once is not decided here (`s3.CONNECTIONS_MAX`, `folder.THREADS`).
"""

import asyncio
import bisect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from storage.objects.store import ObjectInfo, ObjectStore
from storage.objects.versions import ObjectVersion, delete_version, versions_below

SMALL_BYTES_MAX: Final = 64 * 1024
"""What is not larger does not wait."""
BURST_S: Final = 1.0
"""A line that was idle may send so many seconds' worth at once."""

_goes_first: ContextVar[bool] = ContextVar("goes_first", default=False)


@contextmanager
def going_first(*, yes: bool = True) -> Iterator[None]:
    """Within this, and in tasks that begin there, transfers go before those that wait already."""
    before = _goes_first.set(yes or _goes_first.get())
    try:
        yield
    finally:
        _goes_first.reset(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineLimits:
    """What one process may send and fetch, bytes by second; None: as much as the line carries."""

    upload_bytes_per_s: float | None = None
    download_bytes_per_s: float | None = None


class Bucket:
    """Bytes that may go. Pure: moments come in. One transfer may overdraw it, which is then paid off."""

    def __init__(self, bytes_per_s: float, *, now_s: float) -> None:
        assert bytes_per_s > 0, "no limit is no bucket"
        self._per_s = bytes_per_s
        self._most = bytes_per_s * BURST_S
        self._level = self._most
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long until the next transfer may begin; 0: now."""
        self._fill(now_s)
        return -self._level / self._per_s if self._level <= -1.0 else 0.0

    def take(self, size: int, now_s: float) -> None:
        """Count bytes that go now; negative ones come back."""
        self._fill(now_s)
        self._level = min(self._most, self._level - size)

    def _fill(self, now_s: float) -> None:
        self._level = min(self._most, self._level + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = max(self._at_s, now_s)


class Line:
    """One direction: a bucket, and transfers that wait for their turn; those that go first, first."""

    def __init__(
        self,
        bytes_per_s: float | None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bucket = Bucket(bytes_per_s, now_s=clock_s()) if bytes_per_s is not None else None
        self._clock_s = clock_s
        self._sleep = sleep
        self._waiting: list[tuple[bool, int]] = []
        self._number = 0
        self._moved = asyncio.Event()

    def count(self, size: int) -> None:
        """Count bytes that went without a turn; negative ones come back."""
        if self._bucket is not None:
            self._bucket.take(size, self._clock_s())

    async def turn(self, size: int) -> None:
        """Wait until `size` bytes may go, and count them."""
        if self._bucket is None:
            return
        self._number += 1
        mine = (not _goes_first.get(), self._number)
        bisect.insort(self._waiting, mine)
        try:
            while True:
                if self._waiting[0] != mine:
                    await self._moved.wait()
                elif (wait_s := self._bucket.wait_s(self._clock_s())) > 0:
                    await self._sleep(wait_s)
                else:
                    self._bucket.take(size, self._clock_s())
                    return
        finally:
            self._waiting.remove(mine)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()


class LimitedStore:
    """An `ObjectStore` whose transfers wait for their turn."""

    def __init__(self, inner: ObjectStore, limits: LineLimits) -> None:
        self.inner = inner
        self._up = Line(limits.upload_bytes_per_s)
        self._down = Line(limits.download_bytes_per_s)

    async def create(self, name: str, data: bytes | bytearray) -> None:
        if len(data) > SMALL_BYTES_MAX:
            await self._up.turn(len(data))
        else:
            self._up.count(len(data))
        await self.inner.create(name, data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        if length is None or length > SMALL_BYTES_MAX:
            await self._down.turn(length or 0)
        else:
            self._down.count(length)
        found = await self.inner.get(name, start=start, length=length)
        self._down.count(len(found) - (length or 0))
        return found

    async def head(self, name: str) -> int | None:
        return await self.inner.head(name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in self.inner.list(prefix):
            yield info

    async def delete(self, name: str) -> None:
        await self.inner.delete(name)

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        return await versions_below(self.inner, prefix)

    async def delete_version(self, name: str, version: str) -> None:
        await delete_version(self.inner, ObjectVersion(name=name, version=version))

    async def close(self) -> None:
        await self.inner.close()

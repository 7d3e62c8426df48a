"""Bounded turns for work that shares one disk or one loop; refused at the limit, never queued without end."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from session_service.base import errors
from session_service.http import limits


class _Turns:
    """Turns under way, in all and by account."""

    def __init__(self) -> None:
        self._by_user: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._by_user.total()

    def _are_taken(self, user_id: str, *, all_max: int, user_max: int) -> bool:
        return len(self) >= all_max or self._by_user[user_id] >= user_max

    @contextmanager
    def _counted(self, user_id: str) -> Iterator[None]:
        self._by_user[user_id] += 1
        try:
            yield
        finally:
            self._by_user[user_id] -= 1
            if not self._by_user[user_id]:
                del self._by_user[user_id]


class UploadTurns(_Turns):
    """Counts uploads under way; there is one disk for all of them."""

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Take a turn or refuse at once: a browser can try again, a full disk cannot."""
        most, own = limits.UPLOADS_AT_ONCE_MAX, limits.UPLOADS_PER_USER_MAX
        if self._are_taken(user_id, all_max=most, user_max=own):
            raise errors.TooManyAttempts("Too many files are on their way at this moment.", retry_after_s=5)
        with self._counted(user_id):
            yield


class DownloadTurns(_Turns):
    """Counts downloads under way: a reader may take hours for a home, and a worker goes with each."""

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Take a turn or refuse at once. Raises TooManyAttempts."""
        most, own = limits.DOWNLOADS_AT_ONCE_MAX, limits.DOWNLOADS_PER_USER_MAX
        if self._are_taken(user_id, all_max=most, user_max=own):
            raise errors.TooManyAttempts("Too many downloads are under way at this moment.", retry_after_s=5)
        with self._counted(user_id):
            yield


class StreamTurns(_Turns):
    """Counts live event streams, and knows when the service stops."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = asyncio.Event()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Take a turn or refuse at once. Raises TooManyStreams."""
        if self._are_taken(user_id, all_max=limits.STREAMS_MAX, user_max=limits.STREAMS_PER_USER_MAX):
            raise errors.TooManyStreams(limit=limits.STREAMS_PER_USER_MAX)
        with self._counted(user_id):
            yield

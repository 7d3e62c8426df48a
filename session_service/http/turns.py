"""Bounded turns for work that shares one disk or one loop; refused at the limit, never queued without end."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from session_service.base import errors
from session_service.http import limits


class UploadTurns:
    """Counts uploads under way, in all and by account; there is one disk for all of them."""

    def __init__(self) -> None:
        self._by_user: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Take a turn or refuse at once: a browser can try again, a full disk cannot."""
        everybody, own = self._by_user.total(), self._by_user[user_id]
        if everybody >= limits.UPLOADS_AT_ONCE_MAX or own >= limits.UPLOADS_PER_USER_MAX:
            raise errors.TooManyAttempts("Too many files are on their way at this moment.", retry_after_s=5)
        self._by_user[user_id] += 1
        try:
            yield
        finally:
            self._by_user[user_id] -= 1
            if not self._by_user[user_id]:
                del self._by_user[user_id]


class StreamTurns:
    """Counts live event streams, in all and by account, and knows when the service stops."""

    def __init__(self) -> None:
        self._by_user: Counter[str] = Counter()
        self.stopping = asyncio.Event()

    def __len__(self) -> int:
        return self._by_user.total()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Take a turn or refuse at once. Raises TooManyStreams."""
        if len(self) >= limits.STREAMS_MAX or self._by_user[user_id] >= limits.STREAMS_PER_USER_MAX:
            raise errors.TooManyStreams(limit=limits.STREAMS_PER_USER_MAX)
        self._by_user[user_id] += 1
        try:
            yield
        finally:
            self._by_user[user_id] -= 1
            if not self._by_user[user_id]:
                del self._by_user[user_id]

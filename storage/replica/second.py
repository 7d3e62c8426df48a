"""The second store of a front door: opened when it is first needed, probed, and allowed to be away.

Nothing that the main store does waits for it, so its patience is short. A store that does not keep the needed
promises is never written to, and the reason is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from storage.errors import StoreUnsafe
from storage.objects.probe import probe_whole
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.store import ObjectStore, ProbeVerdict

RETRY: Final = RetryPolicy(give_up_after_s=10.0)
"""Whoever replicates tries again later anyway."""

Opener = Callable[[], Awaitable[ObjectStore]]


class SecondStore:
    """Opens the second store once, and keeps it."""

    def __init__(self, opener: Opener, retry: RetryPolicy = RETRY) -> None:
        self._opener = opener
        self._retry = retry
        self._bare: ObjectStore | None = None
        self._verdict: ProbeVerdict | None = None
        self._opening = asyncio.Lock()

    async def for_reading(self) -> RetryingStore:
        """Return the store; nothing is asked of it."""
        async with self._opening:
            if self._bare is None:
                self._bare = await self._opener()
            return RetryingStore(self._bare, self._retry)

    async def for_writing(self) -> RetryingStore:
        """Return the store once it has shown what the commit log relies on.

        Raises:
            StoreUnsafe: it does not keep a needed promise; `broken` names it, `words` say what was seen.
        """
        store = await self.for_reading()
        if self._verdict is None:
            await self.probe()
        verdict = self._verdict
        assert verdict is not None, "just probed"
        broken = [one for one in verdict.checks if one.needed and not one.passed]
        if broken:
            names, words = ", ".join(one.name for one in broken), "; ".join(one.words for one in broken)
            raise StoreUnsafe(broken=names, words=words)
        return store

    async def probe(self) -> ProbeVerdict:
        """Let the store show again what it does."""
        store = await self.for_reading()
        self._verdict = await probe_whole(store.inner)
        return self._verdict

    async def close(self) -> None:
        """Give back connections."""
        if self._bare is not None:
            await self._bare.close()

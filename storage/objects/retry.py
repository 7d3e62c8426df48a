"""The one place that tries again.

The adapters say whether a failure is permanent; this decides how long to go on, and nobody else loops. What
it adds to plain repetition is the memory that a write may have landed: once one try was ambiguous, only
success or "exists" settles it, so a later "unreachable" or "refused" is reported as ambiguous too. The
bytes sent are always the same, as the commit log requires.

The waiting itself (exponential, with jitter) is stamina's.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from storage.errors import AmbiguousWrite, StoreError
from storage.objects.names import check_name
from storage.objects.store import ObjectInfo, ObjectStore
from storage.objects.versions import ObjectVersion, delete_version, versions_below

T = TypeVar("T")
OnRetry = Callable[[StoreError, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patiently to repeat. Both limits None: for ever, which is what a close needs (nothing ends
    unsaved).
    """

    tries: int | None = None
    give_up_after_s: float | None = None
    wait_first_s: float = 0.1
    wait_most_s: float = 30.0
    """A store that is back is noticed at the latest after this and the jitter."""
    jitter_s: float = 1.0
    """So that a hundred nodes do not come back at once."""


FOR_EVER = RetryPolicy()
PATIENT = RetryPolicy(give_up_after_s=120.0)
"""For work that somebody waits for, and that is started again by whoever wanted it."""


class RetryingStore:
    """An `ObjectStore` that repeats what may be repeated."""

    def __init__(
        self, inner: ObjectStore, policy: RetryPolicy = PATIENT, on_retry: OnRetry | None = None
    ) -> None:
        """Wrap a store.

        Args:
            on_retry: told each failure that will be tried again, and the number of the try that failed;
                an alarm after a minute of failures is made from this.
        """
        set_on_retry_hooks(())  # stamina's own log lines are not in our list of events
        self.inner = inner
        self._policy = policy
        self._on_retry = on_retry

    def with_policy(self, policy: RetryPolicy) -> "RetryingStore":
        """The same store, with other patience."""
        return RetryingStore(self.inner, policy, self._on_retry)

    async def create(self, name: str, data: bytes | bytearray) -> None:
        check_name(name)
        doubt: AmbiguousWrite | None = None

        async def once() -> None:
            nonlocal doubt
            try:
                await self.inner.create(name, data)
            except AmbiguousWrite as exc:
                doubt = exc
                raise

        try:
            await self._repeat(once)
        except AmbiguousWrite:
            raise
        except StoreError as exc:
            if doubt is None or exc.code == "object_exists":
                raise
            raise AmbiguousWrite(name=name, reason="an earlier try may have landed", last=exc.code) from exc

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await self._repeat(lambda: self.inner.get(name, start=start, length=length))

    async def head(self, name: str) -> int | None:
        return await self._repeat(lambda: self.inner.head(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in await self._repeat(lambda: _collect(self.inner, prefix)):
            yield info

    async def delete(self, name: str) -> None:
        await self._repeat(lambda: self.inner.delete(name))

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        return await self._repeat(lambda: versions_below(self.inner, prefix))

    async def delete_version(self, name: str, version: str) -> None:
        await self._repeat(lambda: delete_version(self.inner, ObjectVersion(name=name, version=version)))

    async def close(self) -> None:
        await self.inner.close()

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try, and where that fails for now, go on as the policy says.

        Almost every call needs one try, and a folder answers in the time that stamina takes to be set up.
        """
        began_s = time.monotonic()
        try:
            return await call()
        except StoreError as exc:
            if not exc.retryable:
                raise
            return await self._go_on(call, exc, time.monotonic() - began_s)

    async def _go_on(self, call: Callable[[], Awaitable[T]], failed: StoreError, took_s: float) -> T:
        """Repeat a call; its first try took so long and failed so."""
        policy = self._policy
        number = 0
        first: StoreError | None = failed
        left_s = None if policy.give_up_after_s is None else policy.give_up_after_s - took_s
        if left_s is not None and left_s <= 0:
            raise failed

        def again(exc: Exception) -> bool:
            if not (isinstance(exc, StoreError) and exc.retryable):
                return False
            if self._on_retry is not None:
                self._on_retry(exc, number)
            return True

        async for attempt in stamina.retry_context(
            on=again,
            attempts=policy.tries,
            timeout=left_s,
            wait_initial=policy.wait_first_s,
            wait_max=policy.wait_most_s,
            wait_jitter=policy.jitter_s,
        ):
            with attempt:
                number = attempt.num
                if first is not None:
                    tried, first = first, None
                    raise tried
                return await call()
        raise AssertionError("the last failure is raised")


async def _collect(store: ObjectStore, prefix: str) -> "tuple[ObjectInfo, ...]":
    """A listing is repeated as a whole, or not at all."""
    return tuple([info async for info in store.list(prefix)])

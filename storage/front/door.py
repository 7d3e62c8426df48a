"""The front door of `storage`: open a store, and save, look at, prove and restore homes in it.

Takes and returns plain data, tells progress, can be cancelled at any await. Disk and CPU work runs in a
bounded pool of threads. It knows nothing of sessions: `session` and `node` are texts that it keeps. One
process may serve many workspaces; calls that write a workspace's log wait for each other, reading does not
wait.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

from storage.errors import StoreUnsafe
from storage.front.keys import Keys
from storage.front.opened import RETRY
from storage.front.reading import Reading
from storage.front.replication import Replication, promote
from storage.front.saving import Saving
from storage.front.tidying import Tidying
from storage.objects.limited import LineLimits
from storage.objects.open import open_store
from storage.objects.probe import probe_whole
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.store import ObjectStore, ProbeVerdict
from storage.ops.values import StoreSpec
from storage.replica.second import SecondStore
from storage.repository.slots import Reread
from storage.repository.ways import KeyWays
from storage.watch.watching import Watching


class Storage(Saving, Reading, Keys, Tidying, Replication):
    """Checkpoints of homes in one object store. Made by `open`; also an asynchronous context manager."""

    @classmethod
    async def open(
        cls,
        spec: StoreSpec,
        *,
        master_key: bytes | KeyWays,
        cache_folder: Path,
        fresh: Callable[[int], bytes] = os.urandom,
        clock_ms: Callable[[], int],
        retry: RetryPolicy = RETRY,
        reread: Reread | None = None,
        signers: Mapping[bytes, bytes] | None = None,
        second: StoreSpec | None = None,
        watching: Watching | None = None,
        limits: LineLimits | None = None,
    ) -> "Storage":
        """Open the store of a spec. What opens its keys: see `Opened`. `second` is opened when it is needed.

        Call `probe` before anything is entrusted to a store for the first time.
        """
        store = await _open_bare(spec)
        return cls(
            store,
            master_key=master_key,
            cache_folder=cache_folder,
            fresh=fresh,
            clock_ms=clock_ms,
            retry=retry,
            reread=reread,
            signers=signers,
            second=_second(second) if second is not None else None,
            watching=watching,
            limits=limits,
        )

    async def __aenter__(self) -> "Storage":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back threads and connections. Nothing is lost by not calling it."""
        await asyncio.to_thread(self._threads.close)
        await self._store.close()
        if self._second is not None:
            await self._second.close()

    async def probe(self) -> ProbeVerdict:
        """Let the store show what the commit log relies on. A store that is not usable must not be used."""
        return await probe_whole(self._bare)

    async def require_safe(self) -> None:
        """Probe the store; raise StoreUnsafe unless it keeps every needed promise."""
        verdict = await self.probe()
        if not verdict.usable:
            broken = [one.name for one in verdict.checks if one.needed and not one.passed]
            raise StoreUnsafe(broken=", ".join(broken))


async def has_repositories(spec: StoreSpec) -> bool:
    """Return whether anything of a tenant lies in a store. Needs no key."""
    store = RetryingStore(await _open_bare(spec), RETRY)
    try:
        async for _ in store.list("t/"):
            return True
        return False
    finally:
        await store.close()


def _second(spec: StoreSpec) -> SecondStore:
    return SecondStore(partial(_open_bare, spec))


async def promote_second(
    second: StoreSpec,
    main: StoreSpec | None,
    *,
    kept: bytes | None,
    clock_ms: Callable[[], int],
    actor: str,
    reason: str,
    fresh: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """Name the store of a spec the main one; return what the machine is to keep. See `front.replication`."""
    there, here = _second(second), _second(main) if main is not None else None
    try:
        return await promote(
            there, here, kept=kept, fresh=fresh, at_ms=clock_ms(), actor=actor, reason=reason
        )
    finally:
        for one in (there, here):
            if one is not None:
                await one.close()


async def _open_bare(spec: StoreSpec) -> ObjectStore:
    file = Path(spec.credentials_file) if spec.credentials_file is not None else None
    return await open_store(spec.url, credentials_file=file)

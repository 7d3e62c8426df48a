"""What every part of the front door stands on: one open store, its keys, threads and known workspaces.

It decides nothing; `saving`, `reading`, `keys` and `tidying` add what can be asked, and `door` puts them
together.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from storage.errors import KeysChanged
from storage.format.secrets import ReceiptSigner
from storage.front.watched import only_scans
from storage.ids import WorkspaceRef
from storage.objects.clock import store_time_ms
from storage.objects.counted import CountedStore, StoreTraffic
from storage.objects.limited import LimitedStore, LineLimits
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.store import ObjectStore
from storage.ops.gather import ignore_progress
from storage.ops.lending import Lending
from storage.ops.upkeep import Upkeep
from storage.ops.values import Progress
from storage.ops.workspace import Workspace, Workspaces
from storage.replica.copier import Copier
from storage.replica.marks import MainMark
from storage.replica.second import SecondStore
from storage.repository import telling
from storage.repository.slots import Keyring, Reread
from storage.repository.state import LogState
from storage.repository.threads import Threads
from storage.repository.ways import KeyWays
from storage.watch.watching import Watching

RETRY: Final = RetryPolicy(give_up_after_s=20.0)
"""A call that cannot reach the store says so after this; whoever closes a session calls again for ever."""

SPARED_MAX: Final = 1_000
"""Objects that were read from the second store, remembered until a repair."""

Tell = Callable[[Progress], None]


class Opened:
    """An open store with what belongs to it."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        master_key: bytes | KeyWays,
        cache_folder: Path,
        fresh: Callable[[int], bytes],
        clock_ms: Callable[[], int],
        retry: RetryPolicy = RETRY,
        reread: Reread | None = None,
        signers: Mapping[bytes, bytes] | None = None,
        second: SecondStore | None = None,
        watching: Watching | None = None,
        limits: LineLimits | None = None,
    ) -> None:
        """Take a store that is open already. `open` is the usual way.

        Args:
            master_key: or everything that opens the store.
            reread: reads that again where it may have changed; asked when a slot does not open.
            signers: public halves, by their ids, of signers of receipts whose master key is gone.
            second: where a copy of everything goes; it may be away.
            watching: tells what changed in homes, and stays the caller's; None: every checkpoint scans.
            limits: how fast this process may send and fetch; None: as fast as the line is.
        """
        ways = master_key if isinstance(master_key, KeyWays) else KeyWays(master=master_key)
        self._bare = store
        self._counted = CountedStore(store)
        patient = RetryingStore(self._counted, retry)
        self._store: ObjectStore = patient if limits is None else LimitedStore(patient, limits)
        self._keyring = Keyring(self._store, ways, fresh, reread=reread)
        self._former = dict(signers or {})
        self._watching = watching if watching is not None else only_scans()
        self._fresh = fresh
        self._clock_ms = clock_ms
        self._threads = Threads()
        self._second = second
        self._lending = Lending(fresh)
        self._scratch = cache_folder
        self._spared: dict[str, str] = {}
        self._copiers: dict[WorkspaceRef, Copier] = {}
        self._replicating: dict[WorkspaceRef, asyncio.Lock] = {}
        self._paired: MainMark | None = None
        self._known = Workspaces(
            self._store,
            self._keyring,
            self._threads,
            cache_folder=cache_folder,
            clock_ms=clock_ms,
            second=second.for_reading if second is not None else None,
            spared=self._note_spared,
        )

    def _note_spared(self, prefix: str, name: str, words: str) -> None:
        if len(self._spared) < SPARED_MAX:
            self._spared[prefix + name] = words

    @property
    def _signer(self) -> ReceiptSigner:
        return ReceiptSigner(self._keyring.ways.master)

    @property
    def signers(self) -> dict[bytes, bytes]:
        """Return the public halves of every known signer of receipts, by their ids."""
        ways = self._keyring.ways
        known = [ReceiptSigner(key) for key in (ways.master, *ways.previous)]
        return self._former | {one.key_id: one.public_key for one in known}

    def traffic(self) -> StoreTraffic:
        """Return what was asked of the main store since it was opened, probes left out."""
        return self._counted.traffic()

    async def _refreshed(self, workspace: Workspace) -> LogState:
        async with workspace.lock:
            return await workspace.log.refresh()

    async def _current(self, ref: WorkspaceRef) -> tuple[Workspace, LogState]:
        """Return a repository and its log, for whoever reads; anew where its keys were changed."""
        workspace = await self._known.required(ref)
        try:
            return workspace, await self._refreshed(workspace)
        except KeysChanged:
            workspace = await self._known.required(ref)
            return workspace, await self._refreshed(workspace)

    def _told(self, progress: Tell | None) -> Tell:
        """Return a progress function that threads may call."""
        if progress is None:
            return ignore_progress
        loop = asyncio.get_running_loop()

        def tell(value: Progress) -> None:
            loop.call_soon_threadsafe(progress, value)

        return tell

    def _stages(self, progress: Tell | None) -> telling.Tell:
        """Return what tells of long work over a repository."""
        if progress is None:
            return telling.tell_nobody

        def tell(stage: str, done: int, total: int | None, unit: str) -> None:
            progress(Progress(stage=stage, done=done, total=total, unit=unit))

        return tell

    async def _upkeep(self, ref: WorkspaceRef, progress: Tell | None = None) -> Upkeep:
        workspace = await self._known.required(ref)
        store_ms = await store_time_ms(self._bare)
        return Upkeep(
            workspace,
            fresh=self._fresh,
            clock_ms=self._clock_ms,
            store_ms=store_ms,
            tell=self._stages(progress),
        )

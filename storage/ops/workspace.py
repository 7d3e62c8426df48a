"""Opened repositories, one per workspace, with what a process remembers of each.

Everything remembered here is a cache of the store. The lock of a workspace is held by whoever writes its log
or reads it to its end; restores and downloads work on the state they were given.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from storage.errors import CacheLost, RepositoryMissing, StorageError, StoreUnavailable
from storage.format import names
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.ops.stat_cache import StatCache
from storage.repository.blob_file import BlobFile
from storage.repository.cache import RecordFile, empty_files
from storage.repository.log import CommitLog
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.reader import Reader, SegmentCache, Spare
from storage.repository.removal import Remover
from storage.repository.slots import Keyring, RepositoryKeys, newer_keys
from storage.repository.snapshots import write_if_due
from storage.repository.state import LogState, Row
from storage.repository.threads import Threads
from storage.repository.verify import VerifiedCheckpoint, Verifier, walk_tree

WORKSPACES_MAX: Final = 8
"""Opened repositories kept in memory; one of a home of 1 GiB in 19,000 files takes 3.8 MB, the index of its
chunks first of all, and 7 MB with what the allocator keeps in between.
"""


@dataclass(slots=True, kw_only=True)
class Workspace:
    """One opened repository."""

    ref: WorkspaceRef
    place: Prefixed
    keys: RepositoryKeys
    log: CommitLog
    reader: Reader
    verifier: Verifier
    remover: Remover
    threads: Threads
    stat_file: BlobFile
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stat: StatCache | None = None
    stat_loaded: bool = False
    proof: VerifiedCheckpoint | None = None
    spoiled: set[str] = field(default_factory=set)
    """Packs of earlier attempts that did not decode whole; see `left_packs`."""
    scanned_without: frozenset[str] = frozenset()
    """Damaged packs on which the stat cache does not rely: it comes from a scan that knew of none of them."""
    saved_whole: dict[str, int] = field(default_factory=dict)
    """Full bases of this process, with how often the log had been read well by then; see `full_base`."""

    async def remembered(self, state: LogState, *, cold: bool = True) -> StatCache | None:
        """Return the stat cache if it belongs to this log; else one made from the newest tree.

        With `cold` False nothing is made: a cache without stat facts helps nobody who compares contents.
        """
        if not self.stat_loaded:
            self.stat = await self.threads.quick(StatCache.load, self.stat_file)
            self.stat_loaded = True
            if self.stat is None:
                self.stat_file = self.stat_file.fresh()  # what nobody reads must not stand before more
        if not state.damaged.keys() <= self.scanned_without:
            return None  # what it remembers as stored may lie in a damaged pack: read it, and store it anew
        cache = self.stat
        if cache is not None:
            row = state.row(cache.seq)
            if row is not None and row.hash == cache.hash and state.counts(row):
                return cache  # while its checkpoint counts, no R gives up a chunk that it names
            self.stat = None
        newest = state.newest(complete=False)
        if not cold or newest is None or newest.checkpoint is None:
            return None
        try:
            self.stat = await StatCache.from_tree(
                seq=newest.seq,
                hash_=newest.hash,
                root=newest.checkpoint.root,
                tree=walk_tree(self.reader, state.index, newest),
                blobs=self.stat_file,
            )
            return self.stat
        except StoreUnavailable:
            raise
        except StorageError:
            # A damaged older tree must not keep anybody from saving a new one; verify will name it.
            return None

    async def remember(self, cache: StatCache, row: Row, *, without: Collection[str] = ()) -> None:
        """Bind the stat cache of a scan to the checkpoint that holds it, and keep it.

        Args:
            without: damaged packs that the scan took for not being there.
        """
        self.scanned_without = frozenset(without)
        known = cache is self.stat and (cache.seq, cache.hash) == (row.seq, row.hash)
        cache.seq, cache.hash = row.seq, row.hash
        self.stat, self.stat_loaded = cache, True
        if known:
            return  # nothing was looked at, as nothing had changed: it is in the file
        try:
            self.stat, self.stat_file = await self.threads.quick(cache.saved)
        except CacheLost:
            self.forget_stat()

    def forget_stat(self) -> None:
        """Scan without a stat cache next time: what it remembers cannot be read."""
        self.stat, self.stat_file = None, self.stat_file.fresh()

    async def write_snapshot(self, fresh: Fresh) -> bool:
        """Leave an index snapshot for the next cold start, if one is due."""
        return await write_if_due(
            self.log, place=self.place, keys=self.keys.newest, threads=self.threads, fresh=fresh
        )

    async def proof_of(self, state: LogState, row: Row) -> VerifiedCheckpoint:
        """Return the proof of a checkpoint that did not change, whose entry the refresh has just seen."""
        known = self.proof
        if known is not None and (known.seq, known.hash) == (row.seq, row.hash):
            return known
        return await self.verifier.prove(state, seq=row.seq, hash_=row.hash)


class Workspaces:
    """Opens repositories and keeps them."""

    def __init__(
        self,
        store: ObjectStore,
        keyring: Keyring,
        threads: Threads,
        *,
        cache_folder: Path,
        clock_ms: Callable[[], int],
        second: Callable[[], Awaitable[ObjectStore]] | None = None,
        spared: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._threads = threads
        self._cache_folder = cache_folder
        self._clock_ms = clock_ms
        self._second = second
        self._spared = spared
        self._known: OrderedDict[WorkspaceRef, Workspace] = OrderedDict()
        self._segments = SegmentCache()
        self._opening = asyncio.Lock()

    async def opened(self, ref: WorkspaceRef) -> Workspace | None:
        """Return a repository, or None if it cleanly does not exist."""
        async with self._opening:
            known = self._used(ref)
            if known is not None:
                return known
            keys = await self._keyring.open(ref)
            return None if keys is None else self._keep(ref, keys)

    async def required(self, ref: WorkspaceRef) -> Workspace:
        """Return a repository that must exist."""
        workspace = await self.opened(ref)
        if workspace is None:
            raise RepositoryMissing(tenant=ref.tenant, workspace=ref.workspace)
        return workspace

    async def born(self, ref: WorkspaceRef) -> Workspace:
        """Return a repository, made if it does not exist."""
        async with self._opening:
            known = self._used(ref)
            if known is not None:
                return known
            return self._keep(ref, await self._keyring.bear(ref, created_ms=self._clock_ms()))

    def _used(self, ref: WorkspaceRef) -> Workspace | None:
        known = self._known.get(ref)
        if known is not None and known.log.keys_changed:
            del self._known[ref]  # opened anew, with the slots that are there now
            return None
        if known is not None:
            self._known.move_to_end(ref)
        return known

    def drop(self, ref: WorkspaceRef) -> None:
        """Forget an opened repository; the next call opens it anew."""
        self._known.pop(ref, None)

    async def is_outdated(self, ref: WorkspaceRef) -> bool:
        """Return whether a repository has keys that were not opened here, and forget it if so."""
        known = self._known.get(ref)
        if known is None or await newer_keys(partial(self._keyring.open, ref), known.keys) is None:
            return False
        self.drop(ref)
        return True

    def refuse_writers(self, ref: WorkspaceRef) -> None:
        """Refuse whoever holds a repository and waits for his turn to write: its tombstone stands."""
        known = self._known.get(ref)
        if known is not None:
            known.log.keys_changed = True

    async def erase(self, ref: WorkspaceRef) -> None:
        """Forget an erased repository, its local files included, opened or not: they hold names of files."""
        self.refuse_writers(ref)
        known = self._known.pop(ref, None)
        if known is not None:
            async with known.lock:
                known.log.forget()
        self._segments.forget(names.repository_prefix(ref.tenant, ref.workspace))
        await self._threads.quick(empty_files, self._cache_folder / ref.tenant / ref.workspace)

    def _make_room(self) -> None:
        """Drop workspaces that nobody used for long; their files of cache make the next opening cheap.

        One that is dropped while a call still holds it does no harm: it is as if two processes were there.
        """
        idle = [
            ref for ref, known in self._known.items() if not known.lock.locked() and not known.log.unsettled
        ]
        for ref in idle[: max(0, len(self._known) - WORKSPACES_MAX)]:
            del self._known[ref]

    def _spare(self, place: Prefixed) -> Spare | None:
        second, spared = self._second, self._spared
        if second is None or spared is None:
            return None

        async def there() -> Prefixed:
            return Prefixed(await second(), place.prefix)

        return Spare(place=there, told=spared)

    def _keep(self, ref: WorkspaceRef, keys: RepositoryKeys) -> Workspace:
        place = Prefixed(self._store, names.repository_prefix(ref.tenant, ref.workspace))
        folder = self._cache_folder / ref.tenant / ref.workspace
        file = RecordFile(folder, "log.cache", keys.newest)
        reopen = partial(self._keyring.open, ref)
        log = CommitLog(place, keys, self._threads, file, snapshots=True, reopen=reopen)
        reader = Reader(place, keys, self._threads, self._segments, self._spare(place), reopen=reopen)
        workspace = Workspace(
            ref=ref,
            place=place,
            keys=keys,
            log=log,
            reader=reader,
            verifier=Verifier(ref, place, log, reader),
            remover=Remover(self._store, place.prefix),
            threads=self._threads,
            stat_file=BlobFile(folder, "stat", keys.newest),
        )
        self._known[ref] = workspace
        self._make_room()
        return workspace

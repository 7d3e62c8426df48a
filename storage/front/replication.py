"""The second store: copying to it, saying how far it is, repairing the first from it, and taking its place.

Nothing here is part of a save or a close: the main store alone decides what is saved, and whoever wants to
wait for the second copy asks for it afterwards. Restores that meet a missing or damaged object take it from
the second store by themselves (`repository/reader.py`); `spared` says which ones.

Source: docs/design/0011-second-target.md.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from storage.errors import (
    FormatError,
    KeysChanged,
    ReplicaDiverged,
    RepositoryError,
    RepositoryMissing,
    StoreError,
    StoreRefused,
    WorkspaceErased,
)
from storage.format import names
from storage.format.encoding import decode, encode
from storage.front.opened import Opened
from storage.ids import WorkspaceRef
from storage.objects.retry import RetryingStore
from storage.objects.store import ObjectStore, ProbeVerdict
from storage.replica import marks
from storage.replica.copier import Copier
from storage.replica.look import Repaired, ReplicaLook, ReplicaState
from storage.replica.repair import Repair
from storage.replica.second import SecondStore
from storage.replica.tenants import copy_tenant_slots, erase_copy, is_erased, refuse_erased_copy

COPIERS_MAX: Final = 1_000
"""Workspaces whose position is remembered; one that was dropped is compared again."""


class Replication(Opened):
    """What is asked about the second store."""

    @property
    def has_second(self) -> bool:
        """Return whether there is a second store."""
        return self._second is not None

    def spared(self) -> dict[str, str]:
        """Return what was read from the second store, with what was wrong with the first copy."""
        return dict(self._spared)

    async def probe_second(self) -> ProbeVerdict:
        """Let the second store show what the commit log relies on; one that is not usable is not used."""
        return await self._required_second().probe()

    async def require_main(self, kept: bytes | None) -> bytes | None:
        """Look whether this store may be written as the main one; return what the machine is to keep.

        Args:
            kept: what an earlier call returned, if the machine has it still.

        Raises:
            NotMain: another store was named since.
        """
        ours = marks.Marks(self._store)
        witness = _mark(kept)
        if self._second is not None:
            try:
                second = await self._second.for_writing()
                paired = await self._pair(second, witness)
                return encode(paired)
            except StoreRefused as exc:
                if exc.facts.get("reason") == marks.SAME_PLACE:
                    raise
            except StoreError as exc:
                if exc.code == "not_main":
                    raise
        newest = marks.require_main(await ours.id(), await ours.newest(), witness)
        return None if newest is None else encode(newest)

    async def replicate(
        self, ref: WorkspaceRef, *, whole: bool = False, receipts: Sequence[str] = ()
    ) -> ReplicaLook:
        """Bring the second copy of a workspace up to date.

        Args:
            whole: list both stores and compare, instead of copying what came since the last time.
            receipts: sessions whose receipts were written since.

        Returns:
            How far it is; failures of the second store are told there, not raised.
        """
        lock = self._replicating.setdefault(ref, asyncio.Lock())
        async with lock:
            try:
                return await self._replicate(ref, whole=whole, receipts=receipts)
            except ReplicaDiverged as exc:
                return self._stopped(ref, "diverged", exc)
            except StoreError as exc:
                return self._stopped(ref, "away" if exc.retryable else "refused", exc)
            except (FormatError, RepositoryError) as exc:
                return self._stopped(ref, "away" if exc.retryable else "damaged", exc)

    async def repair(self, ref: WorkspaceRef) -> Repaired:
        """Bring back into the main store what is missing or damaged there and whole in the second.

        Raises:
            StoreError: one of the stores does not answer.
        """
        second = await self._required_second().for_reading()
        workspace = await self._known.opened(ref) if await self._can_open(ref) else None
        repair = Repair(self._store, second, ref, threads=self._threads)
        if workspace is None:
            return await repair.roots()
        done = await repair.objects(workspace.keys)
        self._known.drop(ref)
        for name in done.objects:
            self._spared.pop(names.repository_prefix(ref.tenant, ref.workspace) + name, None)
        return done

    async def _can_open(self, ref: WorkspaceRef) -> bool:
        try:
            return await self._known.opened(ref) is not None
        except RepositoryError as exc:
            if isinstance(exc, WorkspaceErased):
                raise
            return False

    async def _replicate(self, ref: WorkspaceRef, *, whole: bool, receipts: Sequence[str]) -> ReplicaLook:
        second = await self._required_second().for_writing()
        if await is_erased(self._store, ref):
            gone = await erase_copy(self._store, second, ref)
            self._copiers.pop(ref, None)
            return ReplicaLook(state="erased", removed_objects=gone.slots + gone.objects)
        await refuse_erased_copy(second, ref)
        copier = self._copiers.get(ref)
        await self._require_still_main(second, compare=whole)
        if copier is None or whole:
            await copy_tenant_slots(self._store, second, ref.tenant)
        try:
            look = await self._copied(ref, second, whole=whole, receipts=receipts)
            if not (look.faults and await self._known.is_outdated(ref)):
                return look
        except KeysChanged:
            pass
        # Somebody rotated keys since it was opened here: what lies under the new ones is not damaged.
        return await self._copied(ref, second, whole=True, receipts=receipts)

    async def _copied(
        self, ref: WorkspaceRef, second: ObjectStore, *, whole: bool, receipts: Sequence[str]
    ) -> ReplicaLook:
        try:
            copier = await self._copier(ref, second)
        except RepositoryMissing:
            return ReplicaLook(state="none")
        try:
            return await (copier.compare() if whole else copier.follow(receipts=receipts))
        except (KeysChanged, RepositoryMissing):
            self._known.drop(ref)
            self._copiers.pop(ref, None)
            raise

    async def _copier(self, ref: WorkspaceRef, second: ObjectStore) -> Copier:
        workspace = await self._known.required(ref)
        known = self._copiers.get(ref)
        if known is None or known.workspace is not workspace:
            fresh = Copier(workspace, second)
            fresh.known = known.known if known is not None else None
            self._copiers[ref] = known = fresh
            while len(self._copiers) > COPIERS_MAX:
                self._copiers.pop(next(iter(self._copiers)))
        return known

    async def _require_still_main(self, second: ObjectStore, *, compare: bool) -> None:
        """Look on the second store for a mark above the one this process knows: one HEAD per copy.

        A promotion places its mark there first. It is looked for before every copy, because a promoted store
        that still took entries from its old main one would hold a log that nobody wrote.
        """
        known = self._paired
        if known is None or compare or await marks.Marks(second).has(known.number + 1):
            await self._pair(second, known)

    async def _pair(self, second: ObjectStore, witness: marks.MainMark | None) -> marks.MainMark:
        paired = await marks.pair(
            self._store, second, witness=witness, fresh=self._fresh, at_ms=self._clock_ms()
        )
        self._paired = paired
        return paired

    def _stopped(self, ref: WorkspaceRef, state: ReplicaState, exc: Exception) -> ReplicaLook:
        copier = self._copiers.get(ref)
        look = copier.behind_known() if copier is not None else ReplicaLook(state="behind")
        return look.stopped(state, str(exc))

    def _required_second(self) -> SecondStore:
        if self._second is None:
            raise StoreRefused(reason="there is no second store")
        return self._second


async def promote(
    second: SecondStore,
    main: SecondStore | None,
    *,
    kept: bytes | None,
    fresh: Callable[[int], bytes],
    at_ms: int,
    actor: str,
    reason: str,
) -> bytes:
    """Name the second store the main one; return what the machine is to keep. May be repeated.

    Args:
        main: the old main store, told as well if it answers.
    """
    old: RetryingStore | None = None
    if main is not None:
        try:
            old = await main.for_reading()
            await old.head(marks.PREFIX + marks.ID_NAME)
        except StoreError:
            old = None  # gone for good is the usual reason to be here
    mark = await marks.promote(
        await second.for_writing(),
        old,
        witness=_mark(kept),
        fresh=fresh,
        at_ms=at_ms,
        actor=actor,
        reason=reason,
    )
    return encode(mark)


def _mark(kept: bytes | None) -> marks.MainMark | None:
    return None if kept is None else decode(marks.mark_decoder, kept, what="mark of a main store")

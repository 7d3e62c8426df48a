"""Brings objects back into the main store from the second one: what is missing there, or does not open.

An object is taken only if it is, sealed as it lies, the one that the log names. What is missing is created.
What is damaged is replaced, once the whole copy was checked: packs, histories, side checkpoints and receipts.
A damaged log entry is not replaced: taking its number away, for however short a time, would let a sleeping
writer create another one there; it is told, and the way out is to make the second store the main one.

Not here: which copy a restore reads (`repository/reader.py` takes a whole one by itself).

Source: docs/design/0011-second-target.md.
"""

from collections.abc import Callable
from functools import partial

from storage.errors import FormatError, ObjectDamaged, ObjectNotFound, RepositoryError, StorageError
from storage.format import config as config_format
from storage.format import names
from storage.format.header import ObjectType
from storage.ids import WorkspaceRef
from storage.objects.store import ObjectStore
from storage.replica.copier import put_copy
from storage.replica.look import Repaired
from storage.replica.sealed import check_sealed, check_type
from storage.replica.wanted import Wanted, rank, wanted_of
from storage.repository.log import CommitLog
from storage.repository.prefixed import Prefixed
from storage.repository.removal import remove_damaged
from storage.repository.slots import RepositoryKeys
from storage.repository.threads import Threads

Check = Callable[[bytes], None]


class Repair:
    """One repair of one workspace."""

    def __init__(
        self, main: ObjectStore, second: ObjectStore, ref: WorkspaceRef, *, threads: Threads
    ) -> None:
        self._main = main
        self._tenant = names.tenant_prefix(ref.tenant)
        self._here = Prefixed(main, names.repository_prefix(ref.tenant, ref.workspace))
        self._there = Prefixed(second, self._here.prefix)
        self._tenant_here = Prefixed(main, self._tenant)
        self._tenant_there = Prefixed(second, self._tenant)
        self._threads = threads
        self._done: list[str] = []
        self._left: list[str] = []

    async def roots(self) -> Repaired:
        """Bring back what opens a repository: config and key slots. Then ask again."""
        for here, there, prefix in (
            (self._tenant_here, self._tenant_there, names.KEY_PREFIX),
            (self._here, self._there, names.KEY_PREFIX),
            (self._here, self._there, names.CONFIG),
        ):
            for name in [info.name async for info in there.list(prefix)]:
                if await here.head(name) is None:
                    raw = await there.get(name)
                    if name == names.CONFIG:
                        config_format.decode_config(raw)
                    else:
                        check_type(name, raw, ObjectType.KEY_SLOT)
                    await put_copy(here, name, raw)
                    self._done.append(name)
        return self._told()

    async def objects(self, keys: RepositoryKeys) -> Repaired:
        """Compare every object of the second store's log with the main store, and bring back what lacks.

        Entries that are missing come first, ascending, so that the main log can be read again; what the main
        log has beyond the second one's is not touched.
        """
        await self.roots()
        state = await CommitLog(self._there, keys, self._threads, None).refresh()
        listed = [info.name async for info in self._there.list()]
        wanted = wanted_of(state, listed)
        for one in (one for one in wanted if rank(one.name) != 3):
            await self._look(keys, one)
        try:
            main = await CommitLog(self._here, keys, self._threads, None).refresh()
        except (FormatError, RepositoryError) as exc:
            self._left.append(f"log: {exc}")
            return self._told()
        row = main.row(state.seq)
        if row is None or row.hash != state.hash:
            self._left.append("log: the two stores differ")
            return self._told()
        for one in (one for one in wanted if rank(one.name) == 3):
            await self._look(keys, one)
        return self._told()

    async def _look(self, keys: RepositoryKeys, wanted: Wanted) -> None:
        """Bring one object back if it is missing here or is not what the log names."""
        name = wanted.name
        raw = await self._here.find(name)
        check = partial(check_sealed, keys, wanted)
        if raw is not None and await self._is_whole(check, raw):
            return
        try:
            whole = await self._there.get(name)
            await self._threads.quick(check, whole)
            if raw is not None:
                if rank(name) in (0, 2):
                    raise ObjectDamaged(object=name, what="cannot be replaced where it lies")
                await remove_damaged(self._main, self._here.prefix, name, check=check)
            await put_copy(self._here, name, whole)
        except (ObjectNotFound, FormatError, RepositoryError) as exc:
            self._left.append(f"{name}: {exc}")
            return
        self._done.append(name)

    async def _is_whole(self, check: Check, raw: bytes) -> bool:
        try:
            await self._threads.quick(check, raw)
        except StorageError:
            return False
        return True

    def _told(self) -> Repaired:
        return Repaired(objects=tuple(self._done), left=tuple(self._left))

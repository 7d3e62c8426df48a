"""Looks through a whole repository for damage, and says what is wrong by object and rule.

structure: keys, log, every tree, every range inside an object that is there with its size. sample: also one
segment in 32 is read and opened. full: every object is read to its last byte and opened. It trusts no cache
and never stops at the first fault of an object, only where reading on would say nothing. Where something gave
objects up while it looked, what it missed may have been moved, and where somebody rotated keys it lacked one:
then it looks again.

Source: storage.md 4.2 "Self-check read".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from storage.errors import (
    FormatError,
    ObjectDamaged,
    ObjectNotFound,
    RepositoryError,
    StorageError,
    StoreError,
)
from storage.format import names
from storage.format.config import config_hash
from storage.format.entries import decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.history import read_history
from storage.format.limits import TRAILER_BYTES
from storage.format.pack import check_pack, read_segments
from storage.format.secrets import read_receipt
from storage.format.snapshot import read_snapshot
from storage.ids import WorkspaceRef
from storage.repository.guards import check_guard, missing_guards
from storage.repository.index import Container
from storage.repository.log import CommitLog
from storage.repository.prefixed import Prefixed
from storage.repository.reader import Reader
from storage.repository.slot_look import SlotLook
from storage.repository.slots import ReopenKeys, RepositoryKeys, newer_keys
from storage.repository.state import FOREIGN_KIND, LogState, Row, Side
from storage.repository.telling import Tell, tell_nobody
from storage.repository.threads import Threads
from storage.repository.verify import Verifier, rest_of_report, walk_tree

SAMPLE_EVERY: Final = 32
FAULTS_MAX: Final = 1_000
LOOKS_MAX: Final = 3
"""Whole looks at a repository that is tidied meanwhile; the last one is reported as it is."""
Level = Literal["structure", "sample", "full"]


@dataclass(slots=True, kw_only=True)
class ScrubResult:
    """What was looked at and found."""

    entries: int = 0
    checkpoints: int = 0
    objects: int = 0
    bytes_read: int = 0
    orphans: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, where: str, exc: StorageError) -> None:
        """Note a fault."""
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(f"{where}: {exc}")


class Scrub:
    """One look through one repository."""

    def __init__(
        self,
        ref: WorkspaceRef,
        place: Prefixed,
        keys: RepositoryKeys,
        threads: Threads,
        *,
        slots: SlotLook,
        signers: Mapping[bytes, bytes],
        reopen: ReopenKeys | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        """Take the parts.

        Args:
            signers: the public halves that may have signed receipts, by their ids.
            reopen: reads the slots anew: a key that came while it looked is no damage.
        """
        self._ref = ref
        self._place = place
        self._reopen = reopen
        self._keys = keys
        self._threads = threads
        self._slots = slots
        self._signers = dict(signers)
        self._tell = tell
        self.result = ScrubResult()
        self._begin()

    def _begin(self) -> None:
        """Know nothing but the keys."""
        self._log = CommitLog(self._place, self._keys, self._threads, None)
        self._reader = Reader(self._place, self._keys, self._threads)
        self._verifier = Verifier(self._ref, self._place, self._log, self._reader)

    async def run(self, level: Level) -> ScrubResult:
        """Look. A store that does not answer raises; damage is reported."""
        for left in reversed(range(LOOKS_MAX)):
            self.result = ScrubResult()
            state = await self._look(level)
            if not left or not self.result.faults:
                break
            newer = await newer_keys(self._reopen, self._keys)
            if newer is not None:
                self._keys = newer
            elif state is None or not await self._gave_up_since(state):
                break
            self._begin()
        return self.result

    async def _look(self, level: Level) -> LogState | None:
        result = self.result
        for one in await self._slots.faults(self._keys, ask_kms=level == "full"):
            result.fault(one.name, one.error)
        try:
            state = await self._log.refresh()
        except (FormatError, RepositoryError) as exc:
            result.fault("log", exc)
            return None
        result.entries = state.seq
        for row in state.rows[state.folded_to :]:
            # The chain was read from its newest end: a guard whose fold never came says nothing against it.
            if not await self._log.is_linked(row):
                result.faults.append(f"{names.log_entry(row.seq)}: its predecessor is gone")
        result.faults += [f"{pack.name}: {pack.why}" for pack in state.damaged.values()]
        await self._config(state)
        await self._containers(state, level)
        await self._trees(state)
        await self._listing(state, level)
        return state

    async def _gave_up_since(self, state: LogState) -> bool:
        """Return whether an entry gave objects up after `state` was read."""
        try:
            now = await self._log.another().refresh()
        except (FormatError, RepositoryError):
            return False
        return (now.retired_at, now.folded_to) != (state.retired_at, state.folded_to)

    def _note(self, where: str, exc: StorageError) -> None:
        """Note a fault. What says nothing about the repository is raised: a store that does not answer."""
        if isinstance(exc, StoreError) and not isinstance(exc, ObjectNotFound):
            raise exc
        self.result.fault(where, exc)

    async def _config(self, state: LogState) -> None:
        """Hold config against what it was: entry 1 names it, and where that is gone, the history."""
        try:
            found = config_hash(await self._place.get(names.CONFIG))
            if found != self._keys.config_hash or state.config_told not in (b"", found):
                raise ObjectDamaged(object=names.CONFIG, what="not the one that this log began with")
        except StorageError as exc:
            self._note(names.CONFIG, exc)

    async def _containers(self, state: LogState, level: Level) -> None:
        total = len(state.index.containers)
        for number, container in enumerate(state.index.containers.values()):
            self._tell("verify", number, total, "objects")
            self.result.objects += 1
            try:
                await self._verifier.check_container(container)
                if level == "full":
                    await self._read_whole(container)
                elif level == "sample":
                    await self._read_some(container)
            except StorageError as exc:
                self._note(container.name, exc)

    async def _read_whole(self, container: Container) -> None:
        raw = await self._place.get(container.name)
        self.result.bytes_read += len(raw)
        await self._threads.quick(self._open_whole, container, raw)

    def _open_whole(self, container: Container, raw: bytes) -> None:
        keys = self._keys.of_header(raw, container.name)
        if container.object_type is ObjectType.PACK:
            check_pack(keys, container.name, raw)
            return
        head = open_head(keys, container.object_type, container.name, raw)
        read_segments(keys, head.header, container.segments, raw[head.area_start :])

    async def _read_some(self, container: Container) -> None:
        for segment in container.segments[::SAMPLE_EVERY]:
            await self._reader.read_run(container, [segment])
            self.result.bytes_read += segment.sealed_bytes
        if container.object_type is ObjectType.PACK:
            await self._place.get(container.name, start=container.size - TRAILER_BYTES)

    async def _trees(self, state: LogState) -> None:
        """Walk every tree; folders that several checkpoints share are entered once, files checked once."""
        known: set[tuple[bytes, int]] = set()
        rows = list(state.checkpoints())
        for row in rows:
            self._tell("trees", self.result.checkpoints, len(rows), "checkpoints")
            self.result.checkpoints += 1
            await self._tree(state, row, names.log_entry(row.seq), known)
        for side in state.sides.values():
            if side.row is None:
                await self._unopened(state, side)
            else:
                await self._tree(state, side.row, side.name, known)

    async def _tree(self, state: LogState, row: Row, name: str, known: set[tuple[bytes, int]]) -> None:
        where = b""
        try:
            async for path, entry in walk_tree(self._reader, state.index, row, skip_known=known):
                where = path
                await self._verifier.check_content(state.index, entry)
        except StorageError as exc:
            self._note(f"{name} at {where!r}", exc)
        try:
            await rest_of_report(self._reader, state.index, row)
        except StorageError as exc:
            self._note(f"{name}, its report", exc)

    async def _unopened(self, state: LogState, side: Side) -> None:
        """Say why a side checkpoint that counts was left out: reading the main line goes on without it."""
        try:
            found = await self._log.read_side(side.name, set(state.retired))
            what = "missing" if found is None else "not the one that its B names"
            raise ObjectDamaged(object=side.name, what=what)
        except StorageError as exc:
            self._note(side.name, exc)

    async def _listing(self, state: LogState, level: Level) -> None:
        """Look at what lies there: packs that nobody names, entries beyond the end, slots, receipts."""
        listed: set[str] = set()
        async for info in self._place.list():
            name = info.name
            listed.add(name)
            try:
                if name.startswith(names.PACK_PREFIX):
                    names.pack_parts(name)
                    dead = name not in state.index.containers and name not in state.damaged
                    self.result.orphans += dead and name not in state.retired
                elif name.startswith(names.LOG_PREFIX):
                    await self._entry(state, name, info.size, level)
                elif name.startswith(names.HISTORY_PREFIX):
                    await self._history(state, name)
                elif name.startswith(names.INDEX_PREFIX):
                    await self._snapshot(state, name)
                elif name.startswith("r/"):
                    await self._receipt(name)
                elif name.startswith(names.SIDE_PREFIX):
                    await self._side(state, name, level)
                elif name.startswith(names.GUARD_PREFIX):
                    await self._guard(name)
                elif name.startswith(names.KEY_PREFIX):
                    self.result.objects += 1  # read and opened at the beginning
            except StorageError as exc:
                self._note(name, exc)
        for number in missing_guards(len(state.histories), listed):
            name = names.fold_guard(number)
            if await self._place.head(name) is None:
                self.result.faults.append(f"{name}: missing; the next upkeep makes it again")
        for name, _ in state.histories:
            if name not in listed and await self._place.head(name) is None:
                self._note(name, ObjectDamaged(object=name, what="missing"))

    async def _entry(self, state: LogState, name: str, size: int, level: Level) -> None:
        """Entries without segments are no containers: their bytes must end with their head."""
        self.result.objects += 1
        if names.log_entry_seq(name) <= state.folded_to:
            return  # its hash lies in a history, and the next garbage collection takes it away
        if names.log_entry_seq(name) > state.seq:
            self.result.faults.append(f"{name}: lies beyond the end of the log")
        elif name not in state.index.containers:
            row = state.row(names.log_entry_seq(name))
            if row is not None and row.kind == FOREIGN_KIND:
                return  # it was compared with its hash when the log was read
            raw = await self._place.get(name)
            head = open_head(self._keys.of_header(raw, name), ObjectType.LOG_ENTRY, name, raw)
            if row is not None and not row.void and head.area_start != size:
                self.result.faults.append(f"{name}: bytes after its head")

    async def _history(self, state: LogState, name: str) -> None:
        """Each history that an R of this log named must open, also those that a later one has replaced."""
        self.result.objects += 1
        hash_ = dict(state.histories).get(name)
        if hash_ is None:
            self.result.orphans += 1
            return
        raw = await self._place.get(name)
        read_history(self._keys.of_header(raw, name), name, raw, hash_=hash_)

    async def _snapshot(self, state: LogState, name: str) -> None:
        """A snapshot is a cache: a damaged one costs a cold start its reading. It is told all the same."""
        self.result.objects += 1
        raw = await self._place.get(name)
        head, _, _ = read_snapshot(self._keys.of_header(raw, name), name, raw)
        row = state.row(head.to)
        if row is None or row.hash != head.hash:
            self.result.faults.append(f"{name}: an index snapshot of another log")

    async def _receipt(self, name: str) -> None:
        self.result.objects += 1
        raw = await self._place.get(name)
        head = open_head(self._keys.of_header(raw, name), ObjectType.RECEIPT, name, raw)
        read_receipt(head.body, self._signers)
        if head.area_start != len(raw):
            self.result.faults.append(f"{name}: bytes after its head")

    async def _side(self, state: LogState, name: str, level: Level) -> None:
        """Look at what lies below `b/` without being a container: heads alone, and what waits for its B. That
        may be the only copy of somebody's work.
        """
        self.result.objects += 1
        given_up = name in state.retired or name in state.dropped
        unopened = any(side.name == name and side.row is None for side in state.sides.values())
        if name in state.index.containers or given_up or unopened:
            return
        if names.is_side_pack(name):
            if level == "full":
                raw = await self._place.get(name)
                check_pack(self._keys.of_header(raw, name), name, raw)
            return
        raw = await self._place.get(name)
        keys = self._keys.of_header(raw, name)
        head = open_head(keys, ObjectType.SIDE_CHECKPOINT, name, raw)
        segments = decode_entry(head.kind, head.body).segments
        read_segments(keys, head.header, segments, raw[head.area_start :])

    async def _guard(self, name: str) -> None:
        """That a guard is there is all that a writer looks at. What it holds is told all the same."""
        self.result.objects += 1
        check_guard(name, await self._place.get(name))

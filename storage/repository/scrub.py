"""Looks through a whole repository for damage, and says what is wrong by object and rule.

structure: keys, log, every tree, every range inside an object that is there with its size. sample: also one
segment in 32 is read and opened. full: every object is read to its last byte and opened. It trusts no cache
and never stops at the first fault of an object, only where reading on would say nothing. Where something gave
objects up while it looked, what it missed may have been moved: then it looks again.

Source: storage.md 4.2 "Self-check read".
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from storage.errors import FormatError, ObjectNotFound, RepositoryError, StorageError, StoreError
from storage.format import names
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.history import read_history
from storage.format.limits import HEADER_BYTES, TRAILER_BYTES
from storage.format.pack import check_pack, read_segments
from storage.format.secrets import ReceiptSigner, read_receipt
from storage.format.snapshot import read_snapshot
from storage.ids import WorkspaceRef
from storage.repository.index import Container
from storage.repository.log import CommitLog
from storage.repository.prefixed import Prefixed
from storage.repository.reader import Reader
from storage.repository.slots import RepositoryKeys
from storage.repository.state import FOREIGN_KIND, LogState
from storage.repository.threads import Threads
from storage.repository.verify import Verifier, walk_tree

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
        signer: ReceiptSigner,
    ) -> None:
        self._place = place
        self._keys = keys
        self._threads = threads
        self._signer = signer
        self._log = CommitLog(place, keys, threads, None)
        self._reader = Reader(place, keys, threads)
        self._verifier = Verifier(ref, place, self._log, self._reader)
        self.result = ScrubResult()

    async def run(self, level: Level) -> ScrubResult:
        """Look. A store that does not answer raises; damage is reported."""
        for left in reversed(range(LOOKS_MAX)):
            self.result = ScrubResult()
            state = await self._look(level)
            if not left or not self.result.faults or state is None:
                break
            if not await self._gave_up_since(state):
                break
            self._log.forget()
        return self.result

    async def _look(self, level: Level) -> LogState | None:
        result = self.result
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

    async def _containers(self, state: LogState, level: Level) -> None:
        for container in state.index.containers.values():
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
        for row in state.checkpoints():
            self.result.checkpoints += 1
            where = b""
            try:
                async for path, entry in walk_tree(self._reader, state.index, row, skip_known=known):
                    where = path
                    await self._verifier.check_content(state.index, entry)
            except StorageError as exc:
                self._note(f"{names.log_entry(row.seq)} at {where!r}", exc)

    async def _listing(self, state: LogState, level: Level) -> None:
        """Look at what lies there: packs that nobody names, entries beyond the end, slots, receipts."""
        async for info in self._place.list():
            name = info.name
            try:
                if name.startswith(names.PACK_PREFIX):
                    names.pack_parts(name)
                    dead = name not in state.index.containers
                    self.result.orphans += dead and name not in state.retired
                elif name.startswith(names.LOG_PREFIX):
                    await self._entry(state, name, info.size, level)
                elif name.startswith(names.HISTORY_PREFIX):
                    await self._history(state, name)
                elif name.startswith(names.INDEX_PREFIX):
                    await self._snapshot(state, name)
                elif name.startswith("r/"):
                    await self._receipt(name)
                elif name.startswith(names.KEY_PREFIX):
                    await self._slot(name)
            except StorageError as exc:
                self._note(name, exc)

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
        read_receipt(head.body, {self._signer.key_id: self._signer.public_key})
        if head.area_start != len(raw):
            self.result.faults.append(f"{name}: bytes after its head")

    async def _slot(self, name: str) -> None:
        """A slot was opened with the repository; here only its size and name are looked at."""
        self.result.objects += 1
        names.epoch_slot_parts(name)
        if (await self._place.head(name) or 0) < HEADER_BYTES:
            self.result.faults.append(f"{name}: cut short")

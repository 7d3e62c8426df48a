"""The verifier: the only place that can say "this checkpoint is verified", and the one that looks for damage.

*Committed* means that the create was answered. *Verified* means more: the entry was read back, all new that
it needs was fetched and compared with bytes that had been decoded, and the predecessor was still there
afterwards (rule 6: a fold frees names, so a sleeping writer's create of an old number can succeed). Nothing
may be ended or wiped on less, so the value that says so can be made here only.

Source: storage.md 4.4 rules 2, 3 and 6, 4.2 "Self-check read".
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import partial
from typing import Final

import msgspec

from storage.errors import (
    ChainBroken,
    CheckpointVoid,
    CommitContended,
    HostileTree,
    NoSuchCheckpoint,
    ObjectDamaged,
    ObjectNotFound,
)
from storage.format import tree
from storage.format.encoding import decode
from storage.format.entries import CheckpointFlag, NamedPath
from storage.format.keys import BoxKind
from storage.format.limits import DEPTH_FOLDERS_MAX, ENTRIES_MAX
from storage.format.table import checked_chunk_refs
from storage.format.tree import Entry, EntryType
from storage.ids import WorkspaceRef
from storage.repository.damage import Damage
from storage.repository.index import ChunkIndex, Container, Places
from storage.repository.log import CommitLog, Placed
from storage.repository.prefixed import Prefixed
from storage.repository.reader import WRONG_PLACE, Reader
from storage.repository.state import LogState, Row

LOOKS_MAX: Final = 16
"""Of one proof, where the log is folded and collected from one look to the next."""
_TOKEN: Final = object()
_named_paths: Final = msgspec.msgpack.Decoder(list[NamedPath])


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """Proof that a checkpoint stands in the log and that everything it refers to is there. Made here only."""

    _: KW_ONLY
    ref: WorkspaceRef
    seq: int
    hash: bytes
    fence: int
    scan_ms: int
    complete: bool
    final: bool
    frozen: bool
    tree_hash: bytes
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        assert token is _TOKEN, "only the verifier makes a VerifiedCheckpoint"


@dataclass(slots=True, kw_only=True)
class TreeTotals:
    """What a walk met, against what was announced.

    A small DAG can spell 2^40 entries, so it stops at excess.
    """

    entries_max: int
    folders_max: int
    bytes_max: int
    entries: int = 0
    folders: int = 0
    content_bytes: int = 0
    _groups: set[bytes] = field(default_factory=set)

    def count(self, entry: Entry) -> None:
        """Count one entry below the root; its content counts once per link group."""
        self.entries += 1
        if entry.type == EntryType.FOLDER:
            self.folders += 1
        elif entry.extra is None:
            if entry.type == EntryType.FILE and entry.content is not None:
                self.content_bytes += entry.size
        elif entry.type == EntryType.FILE and entry.content is not None:
            extras = tree.entry_extras(entry)
            if extras.link_group is None or extras.link_group not in self._groups:
                if extras.link_group is not None:
                    self._groups.add(extras.link_group)
                known = extras.data_bytes(entry.size)
                self.content_bytes += 0 if known is None else known
        over = self.entries > self.entries_max or self.folders > self.folders_max
        if over or self.content_bytes > self.bytes_max:
            raise HostileTree(rule="more than the checkpoint announced", entries=self.entries)


def announced(row: Row) -> TreeTotals:
    """Return a counter with the totals of a checkpoint as its limits."""
    assert row.checkpoint is not None
    totals = row.checkpoint.totals
    return TreeTotals(
        entries_max=min(totals.entries, ENTRIES_MAX),
        folders_max=max(0, totals.folders - 1),
        bytes_max=totals.size,
    )


async def walk_tree(
    reader: Reader,
    index: Places,
    row: Row,
    *,
    skip_known: set[tuple[bytes, int]] | None = None,
    lost: Callable[[bytes, Damage], None] | None = None,
) -> AsyncIterator[tuple[bytes, Entry]]:
    """Yield (path, entry) of everything below a checkpoint's root, a folder before what is in it.

    With `skip_known`, folders whose node is in the set are yielded and not entered again; then totals are not
    checked. With `lost`, it is told each folder of which not all can be read, and the walk goes on.
    """
    assert row.checkpoint is not None
    totals = announced(row)
    todo: list[tuple[bytes, Entry, int]] = [(b"", row.checkpoint.root, 0)]
    while todo:
        path, folder, depth = todo.pop()
        if folder.content is None:
            continue  # could not be listed; it says so itself
        if depth > DEPTH_FOLDERS_MAX:
            raise HostileTree(rule="depth")
        ref = tree.node_ref(folder)
        if skip_known is not None:
            if ref in skip_known:
                continue
            skip_known.add(ref)
        below: list[tuple[bytes, Entry, int]] = []
        beneath = path + b"/" if path else b""
        async for entries in reader.nodes(index, ref, lost=lost and partial(lost, path)):
            for entry in entries:
                if skip_known is None:
                    totals.count(entry)
                where = beneath + entry.name
                yield where, entry
                if entry.type == EntryType.FOLDER:
                    below.append((where, entry, depth + 1))
        todo += reversed(below)


async def rest_of_report(reader: Reader, index: Places, row: Row) -> list[NamedPath]:
    """Return the paths of a checkpoint's report that its entry has no room for."""
    assert row.checkpoint is not None
    found: list[NamedPath] = []
    async for chunk_id, _ in reader.refs(index, row.checkpoint.report.rest):
        raw = await reader.chunk(index, BoxKind.META, chunk_id)
        part: list[NamedPath] = decode(_named_paths, raw, what="rest of a report")
        found.extend(part)
    return found


class Verifier:
    """Checks one repository."""

    def __init__(self, ref: WorkspaceRef, place: Prefixed, log: CommitLog, reader: Reader) -> None:
        self._ref = ref
        self._place = place
        self._log = log
        self._reader = reader

    async def placed(self, placed: Placed) -> None:
        """Read a placed entry back, and look at its predecessor and whether a fold began that its plan
        did not know of. If anything is not as it was, the entry must be found in the chain, read from its
        newest end (rule 6; docs/design/0008-retention-and-gc.md, "The guard of a fold").

        Raises:
            CommitContended: the place belonged to a part of the log that was folded; plan again.
        """
        row = placed.row
        try:
            found: bytes | None = await self._log.entry_bytes(row.seq)
        except ObjectNotFound:
            found = None
        stands = await self._log.predecessor_stands(row)
        if found == placed.raw and stands and not await self._log.fold_began(placed.next_fold):
            return
        self._log.forget()
        state = await self._log.refresh()
        again = state.row(row.seq)
        if again is not None and again.hash == row.hash:
            if found is not None and found != placed.raw:
                raise ObjectDamaged(seq=row.seq, what="entry reads back otherwise")
            return
        if stands and found is None:
            raise ObjectDamaged(seq=row.seq, what="entry is gone after its create")
        if stands and state.folded_to < row.seq and found != placed.raw:
            raise ObjectDamaged(seq=row.seq, what="entry reads back otherwise")
        raise CommitContended(seq=row.seq, what="entry is not in the chain")

    async def new_checkpoint(self, placed: Placed) -> VerifiedCheckpoint:
        """Verify a checkpoint that was just placed; its packs were read back before it was placed."""
        await self.placed(placed)
        return self._attest(placed.row)

    async def prove(self, state: LogState, *, seq: int, hash_: bytes) -> VerifiedCheckpoint:
        """Look whether a checkpoint still stands: entry in the chain, tree whole, every object there.

        `state` must have been refreshed from the store for this call. If something is not where it says, the
        log may have been folded or collected meanwhile: then it is read again from its newest end, and once
        more for as long as it grew since.
        """
        log: CommitLog | None = self._log
        for left in reversed(range(LOOKS_MAX)):
            try:
                return await self._prove(log, state, seq, hash_)
            except (ObjectDamaged, ChainBroken):
                now = await self._log.another().refresh()
                unchanged = log is None and (now.seq, now.hash) == (state.seq, state.hash)
                if unchanged or not left:
                    raise
                log, state = None, now
        raise AssertionError("the last look returned or raised")

    async def _prove(
        self, log: CommitLog | None, state: LogState, seq: int, hash_: bytes
    ) -> VerifiedCheckpoint:
        row = state.row(seq)
        side = state.sides.get(seq)
        if side is not None and side.row is not None:
            row = side.row
        if row is None or row.checkpoint is None or row.hash != hash_ or seq in state.forgotten:
            raise NoSuchCheckpoint(seq=seq)
        if row.void:
            raise CheckpointVoid(seq=seq, fence=row.fence)
        needed: dict[str, Container] = {}
        async for _, entry in walk_tree(self._reader, state.index, row):
            await self.check_content(state.index, entry, needed)
        for container in needed.values():
            await self.check_container(container)
        if log is not None and not await log.row_stands(row):
            raise ChainBroken(what="predecessor is gone", seq=seq)
        return self._attest(row)

    async def check_content(
        self, index: ChunkIndex, entry: Entry, needed: dict[str, Container] | None = None
    ) -> None:
        """Look whether every chunk of a file lies in a live object, and sums up to its size."""
        if entry.type != EntryType.FILE or entry.content is None:
            return
        if isinstance(entry.content, bytes):
            # Almost every file: no reading, so nothing to wait for. They were checked with their entry.
            refs = checked_chunk_refs(entry.content)
        else:
            refs = [ref async for ref in self._reader.refs(index, entry.content)]
        total = 0
        for chunk_id, length in refs:
            place = index.place(BoxKind.DATA, chunk_id)
            if place.length != length:
                raise ObjectDamaged(what="chunk length", chunk=chunk_id.hex())
            if chunk_id not in place.container.segments[place.segment].refs:
                raise ObjectDamaged(what=WRONG_PLACE, object=place.container.name, chunk=chunk_id.hex())
            total += length
            if needed is not None:
                needed[place.container.name] = place.container
        extents = await self._reader.extents(index, entry)
        expected = entry.size if extents is None else sum(length for _, length in extents)
        if total != expected:
            raise ObjectDamaged(what="bytes of a file", total=total, expected=expected)

    async def check_container(self, container: Container) -> None:
        """Look whether an object is there with its size."""
        size = await self._place.head(container.name)
        if size is None:
            raise ObjectDamaged(object=container.name, what="missing")
        if size != container.size:
            raise ObjectDamaged(object=container.name, what="size", size=size, expected=container.size)

    def _attest(self, row: Row) -> VerifiedCheckpoint:
        assert row.checkpoint is not None, "only checkpoints are attested"
        assert not row.void, "a void checkpoint proves nothing"
        return VerifiedCheckpoint(
            ref=self._ref,
            seq=row.seq,
            hash=row.hash,
            fence=row.fence,
            scan_ms=row.checkpoint.scan_ms,
            complete=row.has(CheckpointFlag.COMPLETE),
            final=row.has(CheckpointFlag.FINAL),
            frozen=row.has(CheckpointFlag.FROZEN),
            tree_hash=tree.node_ref(row.checkpoint.root)[0],
            token=_TOKEN,
        )

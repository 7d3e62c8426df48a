"""One checkpoint: scan, upload packs, place the entry, verify.

Packs leave while the scan goes on: the thread that filled a pack seals it, waits for a free uploader, and
goes on. Every pack is read back before the entry that names it is placed, so a commit is visible only if all
that it refers to is durable (S3). A small checkpoint has no packs and is one PUT. Cancelling at any point
leaves at most packs that no entry names.

Source: storage.md 4.2, 4.4 rules 1, 2 and 6.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from storage.errors import (
    CommitContended,
    FenceMoved,
    RouteLost,
)
from storage.format.encoding import encode
from storage.format.entries import (
    Checkpoint,
    CheckpointFlag,
    NamedPath,
    PackRef,
    Report,
    TakeOver,
    Totals,
)
from storage.format.extras import GradeTag
from storage.format.frame import pad_frame
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import (
    BOX_OVERHEAD_BYTES,
    KIB,
    REPORT_PATHS_MAX,
    TABLES_IN_ENTRY_BYTES_MAX,
)
from storage.format.table import PlannedSegment, Table
from storage.format.tree import Content
from storage.ops.folder_record import NOWHERE, Blobs
from storage.ops.gather import Gather, open_home
from storage.ops.gathered import Finding, Gathered
from storage.ops.left_packs import NOTHING_LEFT, LeftPacks, claim
from storage.ops.route import NotifiedRoute
from storage.ops.stat_cache import StatCache
from storage.ops.uploads import UPLOADERS, PackUploads
from storage.ops.values import Progress
from storage.repository.log_writer import PAD_TO_BYTES, LogWriter
from storage.repository.packer import Fresh, NewChunks
from storage.repository.prefixed import Prefixed
from storage.repository.state import LogState
from storage.repository.threads import Stop, Threads
from storage.repository.together import first_failure
from storage.repository.tree_writer import write_content
from storage.scan.walk import facts_of as stat_facts
from storage.watch.watching import Round


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePlan:
    """What was asked of a checkpoint."""

    home: Path
    fence: int
    session: str
    reason: str
    frozen: bool
    final: bool
    first_of_close: bool
    owner: tuple[int, int] | None
    home_id: bytes | None = None
    resume: bool = False
    """Look for packs that an earlier attempt of this fence has stored. One listing, so not for every tick."""

    @property
    def exact(self) -> bool:
        """Return whether it has the last word on a home in which nothing runs."""
        return self.frozen or self.final or self.first_of_close

    def flags(self, *, complete: bool) -> CheckpointFlag:
        """Return the flags of the entry."""
        told = CheckpointFlag(0)
        for flag, holds in (
            (CheckpointFlag.COMPLETE, complete),
            (CheckpointFlag.FINAL, self.final),
            (CheckpointFlag.FIRST_OF_CLOSE, self.first_of_close),
            (CheckpointFlag.FROZEN, self.frozen),
        ):
            told |= flag if holds else CheckpointFlag(0)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A scan with everything it needs: segments for the entry, or packs that are stored and read back."""

    gathered: Gathered
    inline: tuple[PlannedSegment, ...]
    packs: tuple[PackRef, ...]
    report: Report
    owner: tuple[int, int]
    new_bytes: int
    scan_ms: int

    @property
    def complete(self) -> bool:
        """Return whether every byte of the home is in it."""
        return not (self.report.stale or self.report.unreadable)

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables that the entry does not carry itself."""
        if all(ref.table is not None for ref in _with_tables(self.packs)):
            return ()
        return tuple(ref.table for ref in self.packs if ref.table is not None)

    @property
    def stored_bytes(self) -> int:
        """Return the new sealed bytes."""
        boxes = sum(len(one.frame) + BOX_OVERHEAD_BYTES for one in self.inline)
        return boxes + sum(ref.size for ref in self.packs)


async def prepare(
    plan: SavePlan,
    *,
    state: LogState,
    keys: EpochKeys,
    place: Prefixed,
    threads: Threads,
    cache: StatCache | None,
    fresh: Fresh,
    scan_ms: int,
    progress: Callable[[Progress], None],
    look: Round | None = None,
    left: LeftPacks = NOTHING_LEFT,
    spoiled: set[str] | None = None,
    beside: bool = False,
    blobs: Blobs = NOWHERE,
) -> Prepared:
    """Scan a home and store what is new in packs, or hold it for the entry if it is little.

    Args:
        left: packs of an earlier attempt, whose chunks need no uploading.
        spoiled: gets the names of those that turn out not to be whole.
        beside: packs get names below `b/`: a full base.
        blobs: where to keep what the next scan may remember.

    Raises:
        RouteLost: `look` is about what changed, and only one at everything will do.
    """
    stop = Stop()
    uploads = PackUploads(place, keys, fresh=fresh, stop=stop, progress=progress)
    left.begin()
    chunks = NewChunks(
        keys,
        fence=plan.fence,
        fresh=fresh,
        stored=lambda kind, chunk_id: state.index.knows(kind, chunk_id) or left.takes(kind, chunk_id),
        packs=uploads,
        beside=beside,
    )

    scan = partial(_scan, plan, state, keys.chunker_seed, threads, cache, chunks, stop, progress, look, blobs)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(UPLOADERS):
                group.create_task(uploads.upload(), name=f"upload-packs-{number}")
            gathered, inline, report, owner = await threads.run(stop, scan)
            uploads.end()
        claimed = await claim(
            left,
            place=place,
            keys=keys,
            threads=threads,
            stop=stop,
            spoiled=spoiled if spoiled is not None else set(),
            progress=progress,
        )
    except BaseExceptionGroup as failed:
        raise first_failure(failed) from failed
    return Prepared(
        gathered=gathered,
        inline=tuple(padded(segment) for segment in inline),
        packs=tuple(sorted([*uploads.refs, *claimed], key=lambda ref: ref.pack_id)),
        report=report,
        owner=owner,
        new_bytes=chunks.new_raw_bytes,
        scan_ms=scan_ms,
    )


def _scan(
    plan: SavePlan,
    state: LogState,
    seed: int,
    threads: Threads,
    cache: StatCache | None,
    chunks: NewChunks,
    stop: Stop,
    progress: Callable[[Progress], None],
    look: Round | None,
    blobs: Blobs,
) -> tuple[Gathered, list[PlannedSegment], Report, tuple[int, int]]:
    """Gather a home in a thread; return what was found, segments for the entry, the report, and the owner."""
    root_fd = open_home(plan.home)
    try:
        facts = stat_facts(os.fstat(root_fd))
        owner = plan.owner if plan.owner is not None else (facts.uid, facts.gid)
        route = None
        if look is not None:
            if not look.full and (cache is None or cache.owner != owner):
                raise RouteLost(what="the home has another owner")
            route = NotifiedRoute(look, cache, stored=partial(state.index.knows, BoxKind.META))
        gather = Gather(
            taker=chunks,
            known=state.index.knows,
            seed=seed,
            owner=owner,
            cache=cache,
            threads=threads,
            turn=chunks.turn,
            stop=stop,
            progress=progress,
            exact=plan.exact,
            route=route,
            blobs=blobs,
        )
        gathered = gather.run(root_fd)
    finally:
        os.close(root_fd)
    report = make_report(gathered, chunks)
    return gathered, chunks.finish(), report, owner


def padded(segment: PlannedSegment) -> PlannedSegment:
    """Return a segment whose sealed box has a multiple of 4 KiB."""
    padding = -(len(segment.frame) + BOX_OVERHEAD_BYTES) % PAD_TO_BYTES
    return PlannedSegment(
        kind=segment.kind,
        frame=pad_frame(segment.frame, padding),
        raw_bytes=segment.raw_bytes,
        chunks=segment.chunks,
    )


def make_report(gathered: Gathered, chunks: NewChunks) -> Report:
    """Return the report of a scan; paths beyond the first 1,000 become content of the meta class."""
    named = [NamedPath(one.path, one.grade, one.error) for one in gathered.findings]
    rest: Content = None
    if len(named) > REPORT_PATHS_MAX:
        refs: list[tuple[bytes, int]] = []
        for part in _parts(gathered.findings[REPORT_PATHS_MAX:]):
            raw = encode([NamedPath(one.path, one.grade, one.error) for one in part])
            refs.append((chunks.offer(BoxKind.META, raw), len(raw)))
        rest = write_content(chunks, refs)
    return Report(
        gathered.count(0),
        gathered.count(GradeTag.FUZZY),
        gathered.count(GradeTag.STALE),
        gathered.count(GradeTag.UNREADABLE),
        named[:REPORT_PATHS_MAX],
        rest,
    )


def _parts(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Cut findings so that each part, encoded, fits a chunk."""
    parts: list[list[Finding]] = []
    size = 0
    for finding in findings:
        if not parts or size > 256 * KIB:
            parts.append([])
            size = 0
        parts[-1].append(finding)
        size += len(finding.path) + 16
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryWriter:
    """Makes the bytes of entries for whatever place in the log they get."""

    keys: EpochKeys
    fresh: Fresh
    clock_ms: Callable[[], int]

    def take_over(
        self, state: LogState, *, fence_at_least: int, node: str, session: str, registry_epoch: int
    ) -> bytes:
        """Return an E behind `state`, with a fence above every one in the log."""
        fence = max(fence_at_least, state.fence + 1)
        fields = TakeOver(node, session, registry_epoch, self.keys.key_id)
        return self._entry(state, fence, fields, ())

    def checkpoint(
        self, state: LogState, plan: SavePlan, prepared: Prepared, *, planned: LogState, retired_at: int
    ) -> bytes:
        """Return a C behind `state`.

        Raises:
            FenceMoved: the workspace was taken over.
            CommitContended: chunks that the plan relies on were retired meanwhile; scan again.
        """
        require_fence(state, plan.fence)
        if state is not planned or state.retired_at != retired_at:
            raise CommitContended(what="the plan is older than the log", seq=state.seq)
        fields = checkpoint_fields(plan, prepared, state)
        return self._entry(state, plan.fence, fields, prepared.inline)

    def _entry(
        self,
        state: LogState,
        fence: int,
        fields: TakeOver | Checkpoint,
        inline: Sequence[PlannedSegment],
    ) -> bytes:
        writer = LogWriter(keys=self.keys, fresh=self.fresh, clock_ms=self.clock_ms)
        return writer.entry(state, fields, fence=fence, inline=inline)


def checkpoint_fields(plan: SavePlan, prepared: Prepared, state: LogState) -> Checkpoint:
    """Return the fields of a C, in the main line or beside it."""
    parent = state.newest(complete=False)
    gathered = prepared.gathered
    return Checkpoint(
        plan.session,
        int(plan.flags(complete=prepared.complete)),
        plan.reason,
        parent.seq if parent is not None else 0,
        gathered.root,
        prepared.scan_ms,
        plan.home_id,
        prepared.owner,
        Totals(
            gathered.entries,
            gathered.folders,
            gathered.content_bytes,
            prepared.stored_bytes,
        ),
        prepared.report,
        [],
        [],
        _with_tables(prepared.packs),
    )


def require_fence(state: LogState, fence: int) -> None:
    """Refuse to write for a fence that is not the one in force."""
    if state.fence != fence:
        raise FenceMoved(fence=fence, log_fence=state.fence, seq=state.seq)


def _with_tables(packs: Sequence[PackRef]) -> list[PackRef]:
    """Return the references as the entry has them: without tables where those are too large together."""
    size = sum(len(ref.table.rows) + len(ref.table.chunks) for ref in packs if ref.table is not None)
    if size <= TABLES_IN_ENTRY_BYTES_MAX:
        return list(packs)
    return [
        PackRef(ref.fence, ref.pack_id, ref.size, ref.footer_bytes, ref.footer_digest, None) for ref in packs
    ]

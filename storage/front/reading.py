"""Looking at checkpoints and bringing them back: lists, folders, files, archives, restores, verification.

Nothing here is written but pins: restores of older checkpoints and large downloads keep them from being
forgotten meanwhile. Whatever is read is looked for again where a garbage collection or a fold has moved it.
Nothing is read through what a writer remembers where damage is looked for.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from storage.format.limits import MIB
from storage.front.countable import countable
from storage.front.opened import Opened, Tell
from storage.ids import WorkspaceRef
from storage.ops import archive
from storage.ops.browse import FOLDER_PAGE_ENTRIES_MAX, Browser, checkpoint_info
from storage.ops.conflict import side_infos
from storage.ops.diff import compare
from storage.ops.restore import Restore
from storage.ops.values import (
    ArchiveKind,
    CheckpointInfo,
    Diff,
    FolderPage,
    Level,
    RestoreReport,
    VerifyReport,
)
from storage.ops.workspace import Workspace
from storage.repository.current import CurrentPlaces
from storage.repository.index import ChunkIndex, Container
from storage.repository.scrub import Scrub
from storage.repository.slot_look import SlotLook
from storage.repository.state import LogState, Row
from storage.repository.strays import find_strays

PINNED_FROM_BYTES: Final = 16 * MIB
"""A smaller file is read at once; a pin would cost more than it. A download of more may take hours at its
reader's pace, in which even the newest checkpoint gets old and is forgotten by policy.
"""
T = TypeVar("T")
Rows: TypeAlias = list[T]
"""A list; `Storage` has a method of that name."""


class Reading(Opened):
    """What anybody asks who wants to see or to have files back."""

    async def list(self, ref: WorkspaceRef) -> Rows[CheckpointInfo]:
        """Return every checkpoint that counts, oldest first. Empty only if there is none."""
        if await self._known.opened(ref) is None:
            return []
        _, state = await self._current(ref)
        return [
            replace(checkpoint_info(row), pinned=state.pinned.get(row.seq, False))
            for row in state.checkpoints()
        ]

    async def conflicts(self, ref: WorkspaceRef) -> Rows[CheckpointInfo]:
        """Return the conflict checkpoints that nobody dropped yet, oldest first."""
        if await self._known.opened(ref) is None:
            return []
        _, state = await self._current(ref)
        return side_infos(state)

    async def diff(self, ref: WorkspaceRef, *, before: int, after: int) -> Diff:
        """Return what differs between two checkpoints."""
        workspace, state = await self._current(ref)
        rows = countable(state, before), countable(state, after)
        return await compare(workspace.reader, self._places(workspace, state, *rows), *rows)

    async def folder(
        self,
        ref: WorkspaceRef,
        *,
        seq: int,
        path: bytes = b"",
        after: bytes = b"",
        prefix: bytes = b"",
        limit: int = FOLDER_PAGE_ENTRIES_MAX,
    ) -> FolderPage:
        """Return the entries of a folder that follow a name and begin with a prefix, at most `limit`.

        Ask for the next page with the last name of this one as `after`. The price of a page does not grow
        with the folder.
        """
        browser, _, _ = await self._browser(ref, seq)
        where = await browser.find(path)
        return await browser.page(where, after=after, prefix=prefix, limit=limit)

    async def read(self, ref: WorkspaceRef, *, seq: int, path: bytes) -> AsyncIterator[bytes]:
        """Yield the bytes of one file of a checkpoint."""
        browser, state, row = await self._browser(ref, seq)
        entry = await browser.find(path)
        if entry.size < PINNED_FROM_BYTES:
            async for piece in browser.data(entry):
                yield piece
            return
        async with self._lending.pinned(partial(self._upkeep, ref), state, row, long=True):
            async for piece in browser.data(entry):
                yield piece

    async def archive(
        self,
        ref: WorkspaceRef,
        *,
        seq: int,
        path: bytes = b"",
        kind: ArchiveKind = "zip",
        checked: bool = False,
    ) -> AsyncIterator[bytes]:
        """Yield a zip or tar of a folder of a checkpoint, made while it is read.

        What needs a damaged object is left out and listed in the last member. Damage in the middle of a large
        file is an error in the middle of the archive, unless `checked`: then each large file is read twice,
        and left out like any other.
        """
        browser, state, row = await self._browser(ref, seq)
        entry = await browser.find(path)
        assert row.checkpoint is not None, "it is countable"
        long = row.checkpoint.totals.size >= PINNED_FROM_BYTES
        async with self._lending.pinned(partial(self._upkeep, ref), state, row, long=long):
            async for piece in archive.stream(
                browser, entry, kind=kind, scratch=self._scratch, checked=checked
            ):
                yield piece

    async def restore(
        self,
        ref: WorkspaceRef,
        *,
        seq: int,
        into: Path,
        owner: tuple[int, int] | None = None,
        becomes_home: bool = False,
        resumable: bool = False,
        must_be_whole: bool | None = None,
        path: bytes = b"",
        seed: Path | None = None,
        progress: Tell | None = None,
    ) -> RestoreReport:
        """Restore a checkpoint into a folder that does not exist or is empty.

        What needs an object that is damaged or missing is left out as a whole and named in the report, which
        is not `complete` then; everything else is given. If this raises, the folder is partial; the caller
        drops it, or calls again if it is resumable.

        Args:
            path: a file or folder of the checkpoint, which comes under its own name; else all.
            resumable: take up what an earlier call with the same arguments left in the folder. A note lies
                beside it meanwhile. Raises TargetNotEmpty where that cannot be: drop both and call again.
                An incomplete one stays as such a folder: call again once the objects are back.
            must_be_whole: raise ObjectDamaged (or what else was found) at the first damage, and leave nothing
                out. A folder that becomes a home must be whole, always.
            seed: a folder that may hold some of it, under the paths of the checkpoint: a previous home, an
                earlier restore, the home that runs. It may be anything, and may change meanwhile: what it has
                is compared with the ids of the checkpoint, and only what is the same is not fetched.
            becomes_home: the next checkpoints of this workspace will be taken of this folder, which nobody
                else has touched when this returns; it may be renamed. Then they need not read it first.
        """
        workspace, state = await self._current(ref)
        row = countable(state, seq)
        restore = Restore(
            reader=workspace.reader,
            places=self._places(workspace, state, row),
            row=row,
            threads=self._threads,
            owner=owner,
            progress=self._told(progress),
            becomes_home=becomes_home,
            resumable=resumable,
            must_be_whole=becomes_home if must_be_whole is None else must_be_whole,
            path=path,
            seed=seed,
            blobs=workspace.stat_file.fresh(),
        )
        async with self._lending.pinned(partial(self._upkeep, ref), state, row):
            report = await restore.run(into)
        if restore.cache is not None:
            async with workspace.lock:
                await workspace.remember(restore.cache, row)
        return report

    async def verify(
        self, ref: WorkspaceRef, level: Level = "structure", *, progress: Tell | None = None
    ) -> VerifyReport:
        """Look for damage. Reads the log from its beginning, without any cache."""
        workspace = await self._known.required(ref)
        scrub = Scrub(
            ref,
            workspace.place,
            workspace.keys,
            self._threads,
            slots=SlotLook(self._store, self._keyring, ref),
            signers=self.signers,
            reopen=partial(self._keyring.open, ref),
            tell=self._stages(progress),
        )
        result = await scrub.run(level)
        return VerifyReport(
            level=level,
            entries=result.entries,
            checkpoints=result.checkpoints,
            objects=result.objects,
            bytes_read=result.bytes_read,
            faults=tuple(result.faults),
            orphans=result.orphans,
        )

    async def _browser(self, ref: WorkspaceRef, seq: int) -> tuple[Browser, LogState, Row]:
        workspace, state = await self._current(ref)
        row = countable(state, seq)
        return Browser(workspace.reader, self._places(workspace, state, row), row), state, row

    def _places(self, workspace: Workspace, state: LogState, *rows: Row) -> CurrentPlaces:
        """Return where chunks lie, by the log of now and of whenever one of them is missed."""

        async def read_log(cold: bool) -> LogState:
            now, state = await self._current(workspace.ref)
            workspace.reader.know(now.keys)
            return await now.log.another().refresh() if cold else state

        async def strays(known: ChunkIndex) -> Sequence[Container]:
            return await find_strays(workspace.place, workspace.reader.keys.of_header, known)

        return CurrentPlaces(state, rows, read_log, strays=strays, threads=self._threads)

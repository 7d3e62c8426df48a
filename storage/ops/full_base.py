"""Full-base side checkpoints: where the main line cannot be used at all, a home is saved whole beside it.

A broken chain, a foreign object behind the last entry, or a log that asks for a newer writer takes no B, and
nothing that lies in the main line may be relied on. So everything is uploaded: packs below `b/`, where no
sweep goes, then the side checkpoint with flag 16 that names them. It needs config and key slots alone. It
counts once a B names it, which the next maintenance that can place one does (`Adoption`); until then nothing
may be ended because of it, so the result has no proof.

A home that did not change since the fence's newest full base is not uploaded again: whoever waits for a main
line that a person has to put right may ask as often as he likes.

Source: storage.md 4.4 "Side branch"; docs/design/0014-what-the-log-may-let-go.md.
"""

import contextlib
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

import msgspec

from storage.errors import CommitContended, FormatError, ObjectDamaged, RepositoryError
from storage.format import names
from storage.format.entries import CheckpointFlag
from storage.format.entries import SideBranch as BranchFields
from storage.ops import save
from storage.ops.browse import checkpoint_info
from storage.ops.look import look_again
from storage.ops.side_branch import SideBranch, given_to_anybody
from storage.ops.values import CheckpointResult, Progress
from storage.ops.workspace import Workspace
from storage.repository.index import Container
from storage.repository.log_writer import LogWriter
from storage.repository.packer import Fresh
from storage.repository.reader import Reader
from storage.repository.state import LogState, Row, StoredSide
from storage.repository.stepping import find_foreign
from storage.repository.threads import Threads
from storage.repository.verify import Verifier, walk_tree


def alone(side: StoredSide, config_hash: bytes) -> tuple[LogState, Row]:
    """Return a side checkpoint as if there were nothing else: what a full base must be whole without."""
    state = LogState(config_hash=config_hash)
    state.add_side(1, side.hash, side.name, side.hash, [side])
    row = state.sides[1].row
    assert row is not None, "what was read is what is taken in"
    return state, row


@dataclass(frozen=True, slots=True, kw_only=True)
class FullBaseSaving:
    """One full-base side checkpoint of one workspace, whose lock is held."""

    workspace: Workspace
    threads: Threads
    fresh: Fresh
    clock_ms: Callable[[], int]
    progress: Callable[[Progress], None]
    writer: LogWriter

    async def run(self, plan: save.SavePlan, *, after: bytes) -> CheckpointResult:
        """Save a home whole.

        Args:
            after: hash of the newest main entry that was ever read here, or that of config.
        """
        workspace, keys = self.workspace, self.workspace.keys
        branch = SideBranch(place=workspace.place, keys=keys, writer=self.writer, fence=plan.fence)
        known = await self._unchanged(branch, plan)
        if known is not None:
            return known
        nothing = LogState(config_hash=keys.config_hash)
        prepared = await save.prepare(
            plan,
            state=nothing,
            keys=keys.newest,
            place=workspace.place,
            threads=self.threads,
            cache=None,
            fresh=self.fresh,
            scan_ms=self.clock_ms(),
            progress=self.progress,
            beside=True,
        )
        fields = save.checkpoint_fields(plan, prepared, nothing)
        fields = msgspec.structs.replace(fields, flags=fields.flags | CheckpointFlag.FULL_BASE)
        stored = await branch.store(
            fields,
            inline=prepared.inline,
            tables=prepared.tables,
            after=after,
            given=given_to_anybody(self.fresh),
        )
        workspace.saved_whole[stored.name] = workspace.log.read_well
        _, row = alone(stored, keys.config_hash)
        result = _result(row, stored, prepared.scan_ms)
        return replace(
            result,
            read_files=prepared.gathered.read_files,
            new_bytes=prepared.new_bytes,
            stored_bytes=prepared.stored_bytes,
            scan_s=prepared.gathered.took_s,
            total_s=prepared.gathered.took_s,
        )

    async def _unchanged(self, branch: SideBranch, plan: save.SavePlan) -> CheckpointResult | None:
        """Return the fence's newest full base if it is whole and the home is as it says."""
        workspace = self.workspace
        dropped = await self._dropped()
        for name in reversed(await branch.listed()):
            if not self._is_promised(name, dropped):
                continue
            try:
                stored = await workspace.log.read_side(name, set())
            except (FormatError, RepositoryError):
                continue
            if stored is None:
                continue
            state, row = alone(stored, workspace.keys.config_hash)
            if not row.has(CheckpointFlag.FULL_BASE):
                continue
            if not row.has(CheckpointFlag.COMPLETE) or (plan.frozen and not row.has(CheckpointFlag.FROZEN)):
                return None
            scan_ms = self.clock_ms()
            gathered, _ = await look_again(
                plan.home,
                row,
                keys=workspace.keys.newest,
                known=state.index.knows,
                threads=self.threads,
                cache=None,
            )
            assert row.checkpoint is not None
            bad = gathered.count(2) or gathered.count(3)
            if bad or gathered.root != row.checkpoint.root or not await is_whole(workspace, state, row):
                return None
            return replace(_result(row, stored, scan_ms), unchanged=True, scan_s=gathered.took_s)
        return None

    def _is_promised(self, name: str, dropped: Set[str] | None) -> bool:
        """Return whether a full base that lies there stays there. One that counted once may have been dropped
        since, and is deleted by the next run that can. Where the log cannot tell, only what this process has
        saved is relied on, if it never saw the log usable since: nobody can drop what does not count.
        """
        if dropped is not None:
            return name not in dropped
        workspace = self.workspace
        return workspace.saved_whole.get(name) == workspace.log.read_well

    async def _dropped(self) -> Set[str] | None:
        """Return what the log says was dropped or given up, as far as it opens; None where it does not."""
        workspace = self.workspace
        log = workspace.log.another()
        try:
            foreign = await find_foreign(log, workspace.place)
            state = await (log.read_up_to(foreign[0].seq - 1) if foreign else log.refresh())
        except (FormatError, RepositoryError):
            return None
        return state.dropped | state.retired.keys()


def _result(row: Row, stored: StoredSide, scan_ms: int) -> CheckpointResult:
    """Return what is told of a full base: number 0, because the log does not hold it yet, and no proof."""
    return CheckpointResult(
        info=replace(checkpoint_info(row), seq=0, side=stored.name),
        proof=None,
        unchanged=False,
        saved_as_of_ms=scan_ms,
        read_files=0,
        new_bytes=0,
        stored_bytes=0,
        scan_s=0.0,
        total_s=0.0,
    )


async def is_whole(workspace: Workspace, state: LogState, row: Row) -> bool:
    """Return whether a full base is whole by itself: its tree reads, and every chunk lies in an object of its
    own that is there.
    """
    log = workspace.log.another()
    reader = Reader(workspace.place, workspace.keys, workspace.threads)
    verifier = Verifier(workspace.ref, workspace.place, log, reader)
    needed: dict[str, Container] = dict(state.index.containers)
    try:
        async for _, entry in walk_tree(reader, state.index, row):
            await verifier.check_content(state.index, entry, needed)
        for container in needed.values():
            await verifier.check_container(container)
    except (FormatError, RepositoryError):
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Makes full bases count that wait for it. The workspace's lock is held."""

    workspace: Workspace
    writer: LogWriter

    async def run(self) -> tuple[str, ...]:
        """Write a B for each full base that no B named yet; return their names.

        A B is planned against the log's end as it was read before the listing, so what an R gave up is never
        made to count again. One that is not whole is left alone, and nothing is deleted because of it.
        """
        waiting = await self._listed()
        if not waiting:
            return ()
        workspace = self.workspace
        state = await workspace.log.another().refresh()
        if state.writers_stop is not None:
            return ()
        named = {side.name for side in state.sides.values()} | state.dropped | state.retired.keys()
        waiting = [name for name in await self._listed() if name not in named]
        adopted: list[str] = []
        end = (state.seq, state.hash)
        with contextlib.suppress(CommitContended):  # the next run does the rest
            for name in waiting:
                stored = await self._whole(name)
                if stored is not None:
                    end = await self._place(stored, end)
                    adopted.append(name)
        return tuple(adopted)

    async def _listed(self) -> list[str]:
        known = {side.name for side in self.workspace.log.state.sides.values()}
        found = [info.name async for info in self.workspace.place.list(names.SIDE_PREFIX)]
        return [name for name in found if name not in known and not names.is_side_pack(name)]

    async def _whole(self, name: str) -> StoredSide | None:
        """Return a full base that is whole by itself. Others write their B themselves, or never."""
        workspace = self.workspace
        try:
            stored = await workspace.log.read_side(name, set())
            if stored is None:
                return None
            state, row = alone(stored, workspace.keys.config_hash)
        except (FormatError, RepositoryError):
            return None
        if not row.has(CheckpointFlag.FULL_BASE) or not await is_whole(workspace, state, row):
            return None
        return stored

    async def _place(self, stored: StoredSide, end: tuple[int, bytes]) -> tuple[int, bytes]:
        workspace = self.workspace

        def plan(now: LogState) -> bytes:
            if (now.seq, now.hash) != end:
                raise CommitContended(what="the log grew since it was read", seq=now.seq)
            return self.writer.entry(now, BranchFields(stored.name, stored.hash))

        placed = await workspace.log.append(plan, sides=[stored])
        await workspace.verifier.placed(placed)
        await workspace.log.save_cache()
        side = workspace.log.state.sides.get(placed.row.seq)
        if side is not None and side.row is None:
            raise ObjectDamaged(object=stored.name, what="does not count after its B")
        # None: its user dropped it before this process had looked whether its B stands.
        return placed.row.seq, placed.row.hash

"""Forgetting by hand and by policy, and freeing what nobody needs.

What may go is decided below (`repository.retention`, `repository.collect`); this is the way in.
"""

from collections.abc import Sequence

from storage.front.opened import Opened, Tell
from storage.ids import WorkspaceRef
from storage.ops.upkeep import UpkeepReport
from storage.repository.retention import Retention
from storage.repository.stepping import ForeignObject


class Tidying(Opened):
    """What upkeep asks."""

    async def forget(self, ref: WorkspaceRef, *, seqs: Sequence[int], actor: str, reason: str) -> None:
        """Forget checkpoints by hand; a later `collect` frees what only they needed.

        Raises:
            MustBeKept: one of them may not go; none was forgotten.
        """
        await (await self._upkeep(ref)).forget(seqs, actor=actor, reason=reason)

    async def keep(self, ref: WorkspaceRef, *, seq: int, pin: bool, actor: str, reason: str) -> None:
        """Pin a checkpoint, so that no policy forgets it, or let it go its way again."""
        await (await self._upkeep(ref)).keep(seq, pin=pin, actor=actor, reason=reason)

    async def told(self, ref: WorkspaceRef, *, seqs: Sequence[int], actor: str) -> None:
        """Note that a user was told of conflict checkpoints; 30 days later policy may forget them."""
        await (await self._upkeep(ref)).told(seqs, actor=actor)

    async def foreign(self, ref: WorkspaceRef) -> tuple[ForeignObject, ...]:
        """Return what lies behind the log's last entry, does not open, and stops everybody."""
        return await (await self._upkeep(ref)).foreign()

    async def step_over(self, ref: WorkspaceRef, *, confirmed: Sequence[tuple[int, bytes]]) -> int:
        """Let objects that do not open not count, by number and hash; return the number of the entry V.

        Raises:
            ChainBroken: other objects lie there than were confirmed.
        """
        self._known.drop(ref)  # whoever has a key by now that was missing a moment ago must not step over
        return await (await self._upkeep(ref)).step_over(confirmed)

    async def collect(
        self,
        ref: WorkspaceRef,
        *,
        policy: Retention | None,
        actor: str,
        told_ms: dict[int, int] | None = None,
        witness: tuple[int, bytes] | None = None,
        renew_index: bool = False,
        progress: Tell | None = None,
    ) -> UpkeepReport:
        """Forget by policy, free what earlier runs gave up, give up what is dead now, fold.

        Args:
            told_ms: when users were told of their conflict checkpoints, by number.
            witness: number and hash of an entry that the registry remembers; no log without it is touched.
            renew_index: give up every index snapshot first, because one contradicts the chain. Whoever began
                with it elsewhere is to be restarted.
        """
        upkeep = await self._upkeep(ref, progress)
        witnesses = () if witness is None else (witness,)
        state = await self._refreshed(await self._known.required(ref))
        await self._lending.let_go(upkeep, state)
        await self._lending.let_go_old(upkeep, state)
        return await upkeep.run(
            policy, actor=actor, told_ms=told_ms, witnesses=witnesses, renew_index=renew_index
        )

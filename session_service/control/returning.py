"""The returning user: before `ending` a closing session's desktop is given back as a new session under the
same lease and fence.

Not a resume: it takes a full login. The order is commit, then thaw: thawing first would let the close record
a checkpoint that is no longer final. A new fence would need the store, and the store being down is the usual
reason. Source: lifecycle.md section 5.6.
"""

from dataclasses import dataclass, replace

from session_service.base.errors import RegistryUnavailable
from session_service.base.ids import EffectId, SessionId
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.runners import Runners
from session_service.control.sessions import Live, Sessions
from session_service.core.changes import AddEffect, EpochIs, LeaseIs, PutLease, PutSession, SessionIs, Unit
from session_service.core.events import Effect, Event, Found
from session_service.core.lifecycle import Step, returned, step
from session_service.core.records import EffectRecord, Session, User
from session_service.ports.desktops import Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Returner:
    """Gives desktops back."""

    parts: Parts
    node: Node
    sessions: Sessions
    runners: Runners

    async def give_back(self, live: Live, *, user: User) -> Session:
        """Return the new session, held and running again once its thaw is done.

        Raises:
            TransitionRefused: not closing, or past `ending`.
            RegistryUnavailable: nothing was changed as far as is known.
        """
        try:
            await self.runners.stop(live)
            await self.sessions.refresh(live)
            found = Found.ABSENT
            if live.handle is not None:
                seen = await self.parts.desktops.observe(live.handle)
                found = Found.RUNNING if seen.presence is Presence.RUNNING else Found.PROCESSES_ENDED
            old, new = self._steps(live, found, user)
            await self._commit(live, old, new)
            after = self._join(live, old, new)
            self.sessions.tell(live)
            self.sessions.add(after)
            self.runners.thaw(after)
        finally:
            # Refused, away, or cancelled: the close goes on where its record says.
            self.runners.go_on(live)
        return new.session

    def _steps(self, live: Live, found: Found, user: User) -> tuple[Step, Step]:
        facts = self.node.facts(actor=f"user:{user.id}", found=found)
        old = step(live.record, Event.DESKTOP_REUSED, facts)
        new = returned(
            old.session,
            session_id=SessionId(self.parts.ids.ulid()),
            hold_s=self.parts.policy.hold_s,
            facts=facts,
        )
        return old, new

    async def _commit(self, live: Live, old: Step, new: Step) -> None:
        before = live.record
        lease = replace(live.lease, session_id=new.session.id, generation=live.lease.generation + 1)
        effect = EffectRecord(
            id=EffectId(self.parts.ids.ulid()),
            session_id=new.session.id,
            generation=new.session.generation,
            kind=Effect.THAW.value,
        )
        unit = Unit(
            guards=(
                SessionIs(session_id=before.id, generation=before.generation, loss_epoch=before.loss_epoch),
                LeaseIs(workspace_id=before.workspace_id, node_id=self.node.id, fence=before.fence),
                EpochIs(epoch=self.node.epoch),
            ),
            writes=(
                PutSession(session=old.session, expected=before.generation),
                PutSession(session=new.session, expected=None),
                PutLease(lease=lease, expected=live.lease.generation),
                AddEffect(effect=effect),
            ),
            audit=(old.audit, new.audit),
        )
        try:
            await self.parts.registry.commit(unit)
        except RegistryUnavailable:
            if await self.parts.registry.session(new.session.id) != new.session:
                raise
        live.lease = lease

    def _join(self, live: Live, old: Step, new: Step) -> Live:
        live.record = old.session
        return Live(
            record=new.session,
            lease=live.lease,
            workspace=live.workspace,
            workspace_name=live.workspace_name,
            user_name=live.user_name,
            handle=live.handle,
            limits_missing=live.limits_missing,
            pending=live.pending,
        )

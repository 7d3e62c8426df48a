"""Reconciling: make the world match the records, every 30 s and on demand, with no input.

Not transitions of its own: each difference becomes an event of the table, or an alarm. Records are read
before the census, so that a desktop which appears in between is never taken for absent; each event is checked
against the record again. Source: lifecycle.md 9.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

import msgspec

from session_service.base.errors import (
    Conflict,
    NotFound,
    PartUnavailable,
    ProofRequired,
    RegistryUnavailable,
    SessionError,
    StorageUnavailable,
    TransitionRefused,
)
from session_service.base.ids import SessionId, UserId, WorkspaceId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.attachments import LinkDesk
from session_service.control.closing import named_handle
from session_service.control.marks import MarkBook
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.runners import Runners
from session_service.control.sessions import Live, Sessions
from session_service.control.space import SpaceGuard
from session_service.core import limits
from session_service.core.changes import EffectDone, EpochIs, PutDesktop, PutLease, PutSession, Unit
from session_service.core.events import Effect, Event, Found
from session_service.core.lifecycle import adopted
from session_service.core.records import (
    OPEN_STATES,
    Desktop,
    Lease,
    LossCause,
    Outcome,
    Session,
    State,
)
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.desktops import Handle, ObservedDesktop, Presence

Key = tuple[str, int]
"""Workspace and fence: what a desktop and the session that it serves have in common."""


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """One look at everything at a time."""

    parts: Parts
    node: Node
    sessions: Sessions
    runners: Runners
    desk: LinkDesk
    marks: MarkBook
    alarms: Alarms
    space: SpaceGuard
    first: bool = True
    """True until the first look is done: links of the last life are gone with it."""
    surveyed_epoch: int = 0
    """The registry epoch in which every desktop of this machine was looked at: before that nothing is
    started, since a desktop that the registry forgot may run (8.5)."""
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, after each look."""

    async def run(self) -> None:
        """Look every 30 s and whenever asked; for ever."""
        pause_s = 0.0
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self.wanted.wait()
            except TimeoutError:
                pass
            self.wanted.clear()
            pause_s = limits.RECONCILE_S if await self.look() else limits.RETRY_S_MIN
            looked, self.looked = self.looked, asyncio.Event()
            looked.set()

    def look_now(self) -> None:
        """Ask for a look; it happens soon."""
        self.wanted.set()

    async def surveyed(self) -> None:
        """Return once every desktop of this machine was looked at in this epoch; a moment after the start,
        else at once.

        Raises:
            PartUnavailable: it takes longer; the host does not answer.
        """
        try:
            async with asyncio.timeout(limits.SURVEY_S_MAX):
                while self.surveyed_epoch != self.node.epoch:
                    self.look_now()
                    await self.looked.wait()
        except TimeoutError as exc:
            raise PartUnavailable("The desktops of this machine are looked at first.") from exc

    async def look(self) -> bool:
        """Look once; say whether everything could be looked at."""
        try:
            lives = await self.sessions.agree(await self._records())
        except (RegistryUnavailable, NotFound) as exc:
            if isinstance(exc, RegistryUnavailable):
                self.alarms.raise_("registry", str(exc))
            return False
        self._open()
        before = {live.record.id: live.record for live in lives}
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                census = await self.parts.desktops.census()
        except (PartUnavailable, TimeoutError) as exc:
            self.alarms.raise_("host", str(exc) or "The host does not answer in time.")
            return False
        if self.alarms.clear("host"):
            self.sessions.wake_all()
        seen: dict[Key, ObservedDesktop] = {
            (one.handle.workspace_id, one.handle.fence): one for one in census
        }
        whole = True
        for live in self.sessions.all():
            self.marks.found(live, seen.get((live.record.workspace_id, live.record.fence)))
        for live in lives:
            found = _of(live, seen.get((live.record.workspace_id, live.record.fence)))
            whole &= await self._guarded(
                live.record.id, self._one(live, before[live.record.id], found, _newer(live, census))
            )
        served = {(live.record.workspace_id, live.record.fence) for live in self.sessions.all()}
        epoch, surveyed = self.node.epoch, True
        for key in sorted(seen):
            if key not in served:
                surveyed &= await self._guarded(seen[key].handle.session_id, self._stranger(seen[key]))
        if surveyed:
            self.surveyed_epoch = epoch
        whole &= surveyed
        whole &= await self._guarded("", self._effects())
        self.first = self.first and not whole
        if whole:
            self.alarms.clear("task")
        return whole

    def _open(self) -> None:
        """Records are in memory: links may attach and runners may run, whatever the store and the host do."""
        if self.first:
            for live in self.sessions.all():
                self._old_link(live)
        self.desk.open = not self.node.draining
        self.runners.open = True
        for live in self.sessions.all():
            self.runners.arrange(live)

    async def _guarded(self, session_id: str, work: Awaitable[None]) -> bool:
        """One session's trouble never keeps the others from being looked at."""
        try:
            await work
        except (SessionError, TimeoutError) as exc:
            get_logger().warning("reconcile.failed", session_id=session_id, error=str(exc))
            return isinstance(exc, TransitionRefused | NotFound)
        except Exception as exc:  # noqa: BLE001  # the edge of one session's look: the others are looked at
            get_logger().error("task.failed", name="reconcile", session_id=session_id, error=repr(exc))
            self.alarms.raise_("task", f"reconcile: {exc!r}")
            return False
        return True

    async def _records(self) -> list[Session]:
        registry = self.parts.registry
        self.node.epoch = max(self.node.epoch, (await registry.mark()).epoch)
        found: list[Session] = []
        after: str | None = None
        while True:
            page = await registry.sessions(states=OPEN_STATES, after=after, limit=limits.SESSION_ROWS_MAX)
            found += [record for record in page if record.node_id == self.node.id]
            if len(page) < limits.SESSION_ROWS_MAX:
                return found
            after = page[-1].id

    # -- one session ----------------------------------------------------------------------------------

    async def _one(self, live: Live, before: Session, found: ObservedDesktop | None, newer: bool) -> None:
        record = live.record
        if record.generation != before.generation or record.state is State.CLOSED:
            # It moved since the census: the next look sees it, and soon where something is owed.
            if self.first or record.registry_epoch < self.node.epoch:
                self.look_now()
            return
        if live.handle is None and found is not None:
            live.handle = found.handle
        if record.registry_epoch < self.node.epoch:
            await self._settle(live, found, newer)
            return
        await self._lease(live)
        if record.state in (State.ACTIVE, State.HELD):
            await self._running(live, found)
        self.runners.arrange(live)

    async def _running(self, live: Live, found: ObservedDesktop | None) -> None:
        if found is None or found.presence is Presence.ABSENT:
            await self._absent(live)
        elif found.presence is Presence.PROCESSES_ENDED:
            await self.died(live, "")
        elif found.frozen and not self.space.keeps(live):
            self.runners.thaw(live)
        self._old_link(live)

    def _old_link(self, live: Live) -> None:
        """An active record whose link is not open: the drop was never recorded."""
        record = live.record
        self.sessions.prune(live)
        if record.state is State.ACTIVE and record.link_id is not None and record.link_id not in live.links:
            cause = LossCause.SERVER_RESTART if self.first else LossCause.UNKNOWN
            self.desk.lost(live, record.link_id, cause)

    async def died(self, live: Live, last_words: str) -> None:
        """The processes ended, seen again by identity: close with the home as it lies."""
        if live.handle is None or live.record.state is State.STARTING:
            return  # the starter hears of it by its own call
        async with asyncio.timeout(limits.CALL_S_MAX):
            seen = await self.parts.desktops.observe(live.handle)
        if seen.presence is Presence.RUNNING:
            return
        if seen.presence is Presence.ABSENT:
            await self._absent(live)
            return
        get_logger().warning("desktop.died", session_id=live.record.id)
        await self.sessions.move(
            live,
            Event.DESKTOP_DIED,
            lambda _: self.node.facts(found=Found.PROCESSES_ENDED, reason=last_words[-400:]),
        )

    async def _absent(self, live: Live) -> None:
        """Absence closes nothing, except the owner speaking about its own disk, with the store at hand."""
        final = await self._final_is_newest(live, by=live.record.id)
        if live.handle is not None:
            async with asyncio.timeout(limits.CALL_S_MAX):
                if (await self.parts.desktops.observe(live.handle)).presence is not Presence.ABSENT:
                    return
        await self.sessions.move(
            live,
            Event.DESKTOP_ABSENT,
            lambda _: self.node.facts(
                found=Found.ABSENT,
                final_is_newest=final,
                reason="the desktop and its home are not on this machine",
            ),
        )

    async def _final_is_newest(self, live: Live, *, by: str | None = None) -> bool:
        """Say whether nothing came after a final checkpoint of this fence; by whom does not matter once the
        registry was restored, since its records are not the last ones.
        """
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                head = await self.parts.checkpoints.head(live.workspace)
        except TimeoutError as exc:
            raise StorageUnavailable() from exc
        newest = head.newest if head is not None else None
        if newest is None or not newest.final or newest.fence != live.record.fence:
            return False
        return by in (None, newest.session_id)

    async def _settle(self, live: Live, found: ObservedDesktop | None, newer: bool) -> None:
        """A new epoch: every running desktop gets a full hold, whatever its record says (8.5)."""
        presence = Found(found.presence.value) if found is not None else Found.ABSENT
        final = False
        if presence is Found.ABSENT and live.record.state is not State.STARTING:
            self.alarms.raise_(
                "unsettled", "The store is asked for its newest checkpoint.", session_id=live.record.id
            )
            final = await self._final_is_newest(live)
        try:
            await self.runners.stop(live)
            await self._move_settled(live, presence, final)
            if newer and live.record.state is State.STARTING:
                await self._superseded(live)
        finally:
            self.runners.go_on(live)
        self.alarms.clear("unsettled", session_id=live.record.id)
        get_logger().warning("session.settled", session_id=live.record.id, state=live.record.state.value)

    async def _superseded(self, live: Live) -> None:
        """A start that the restored registry remembers, while a later desktop of its workspace is here: that
        one counts.
        """
        await self.sessions.move(
            live,
            Event.START_FAILED,
            lambda _: self.node.facts(
                found=Found.ABSENT, reason="the registry was restored; a later desktop is there"
            ),
        )

    async def _move_settled(self, live: Live, presence: Found, final: bool) -> None:
        link = self.sessions.attached_link(live)
        await self.sessions.move(
            live,
            Event.SETTLED,
            lambda record: self.node.facts(
                found=presence,
                attached=link is not None,
                link_id=record.link_id,
                device_id=record.device_id,
                device_label=record.device_label,
                final_is_newest=final,
                reason="the registry was restored",
            ),
        )

    async def _lease(self, live: Live) -> None:
        """A free lease under an open session is restored, with an alarm."""
        lease = live.lease
        if lease.session_id == live.record.id and lease.fence == live.record.fence:
            self.alarms.clear("lease", session_id=live.record.id)
            return
        await self.sessions.refresh(live)
        lease = live.lease
        if lease.session_id is not None or lease.fence != live.record.fence:
            return
        self.alarms.raise_("lease", "The lease was free.", session_id=live.record.id)
        after = replace(lease, session_id=live.record.id, generation=lease.generation + 1)
        await self.parts.registry.commit(Unit(writes=(PutLease(lease=after, expected=lease.generation),)))
        live.lease = after

    # -- desktops without a session -------------------------------------------------------------------

    async def _stranger(self, found: ObservedDesktop) -> None:
        """A desktop that no open record of ours names: adopted, discarded when it never was ready, else kept
        with an alarm.
        """
        handle = found.handle
        record = await self._record_of(handle)
        lease = await self.parts.registry.lease(WorkspaceId(handle.workspace_id))
        if lease is not None and lease.session_id is not None and lease.fence == handle.fence:
            return  # its session was opened since the records were read
        if await self._discarded(record, found):
            return
        if found.presence is Presence.ABSENT:
            return
        if not handle.session_id:
            await self._home_alone(found, lease)
            return
        if lease is not None and handle.fence < lease.fence:
            words = f"Workspace {handle.workspace_id}, fence {handle.fence}: {found.presence.value}."
            self.alarms.raise_("stale", words, session_id=handle.session_id)
        elif lease is None or lease.session_id is None:
            await self._adopt(found, record, lease)
        else:
            # An older session's record stands in the way until it is settled: look again soon.
            raise Conflict(workspace_id=handle.workspace_id)

    async def _record_of(self, handle: Handle) -> Session | None:
        """Return the session of a desktop; of a home alone, a start under its fence that failed."""
        if handle.session_id:
            return await self.parts.registry.session(SessionId(handle.session_id))
        closed = await self.parts.registry.sessions(
            states=frozenset({State.CLOSED}),
            workspace_id=WorkspaceId(handle.workspace_id),
            limit=limits.CLOSED_LOOKED_AT_MAX,
            newest_first=True,
        )
        failed = [one for one in closed if one.outcome is Outcome.START_FAILED and one.fence == handle.fence]
        return failed[0] if failed else None

    async def _home_alone(self, found: ObservedDesktop, lease: Lease | None) -> None:
        """A home whose desktop nobody remembers: saved and wiped by a close of its own, if its fence is the
        log's still. An older one stays where it is, and a person is told.
        """
        handle = found.handle
        workspace = await self.parts.registry.workspace(WorkspaceId(handle.workspace_id))
        if workspace is None or (lease is not None and lease.session_id is not None):
            return
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                head = await self.parts.checkpoints.head(
                    WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id)
                )
        except (StorageUnavailable, TimeoutError):
            return  # the next look asks again
        if head is None or head.fence != handle.fence or (lease is not None and lease.fence > handle.fence):
            words = f"Workspace {handle.workspace_id}, fence {handle.fence}: a home without a desktop."
            self.alarms.raise_("stale", words)
            return
        known = msgspec.structs.replace(
            found,
            user_id=workspace.user_id,
            handle=named_handle(handle, self.parts.ids.ulid()),
        )
        async with asyncio.timeout(limits.CALL_S_MAX):
            seen = await self.parts.desktops.observe(known.handle)
        if seen.presence is Presence.PROCESSES_ENDED:
            await self._adopt(known, None, lease)

    async def _discarded(self, record: Session | None, found: ObservedDesktop) -> bool:
        """What is left of a failed start is removed; the host refuses when it was ever ready, and then it is
        adopted. A home that nothing was launched in goes only while it is empty.
        """
        failed = record is not None and record.outcome is Outcome.START_FAILED
        if record is None or not failed or record.fence != found.handle.fence:
            return False
        handle = named_handle(found.handle, record.id)
        try:
            await self.parts.desktops.discard(handle)
        except ProofRequired:
            return False
        if found.handle.session_id:
            return True
        async with asyncio.timeout(limits.CALL_S_MAX):
            return (await self.parts.desktops.observe(handle)).presence is Presence.ABSENT

    async def _adopt(self, found: ObservedDesktop, record: Session | None, lease: Lease | None) -> None:
        """Nobody else holds its workspace: never ended, adopted. It runs: held, with a full hold; else its
        home is saved.
        """
        handle = found.handle
        registry = self.parts.registry
        workspace = await registry.workspace(WorkspaceId(handle.workspace_id))
        user = await registry.user(UserId(found.user_id)) if found.user_id else None
        if workspace is None or user is None or workspace.user_id != user.id:
            self.alarms.raise_(
                "orphan", "It belongs to nobody that the registry knows.", session_id=handle.session_id
            )
            return
        session_id = SessionId(handle.session_id if record is None else self.parts.ids.ulid())
        done = adopted(
            session_id=session_id,
            workspace_id=workspace.id,
            user_id=user.id,
            fence=handle.fence,
            node_id=self.node.id,
            policy_id=self.parts.policy.id,
            policy_rev=self.parts.policy.rev,
            hold_s=self.parts.policy.hold_s,
            facts=self.node.facts(reason="no record names it"),
            running=found.presence is Presence.RUNNING,
        )
        after = Lease(
            workspace_id=workspace.id,
            fence=handle.fence,
            node_id=self.node.id,
            session_id=session_id,
            generation=lease.generation + 1 if lease is not None else 1,
            newest=lease.newest if lease is not None else None,
            saved_as_of_ms=lease.saved_as_of_ms if lease is not None else None,
            saved_seq=lease.saved_seq if lease is not None else None,
        )
        unit = Unit(
            guards=(EpochIs(epoch=self.node.epoch),),
            writes=(
                PutLease(lease=after, expected=lease.generation if lease is not None else None),
                PutSession(session=done.session, expected=None),
                PutDesktop(desktop=_desktop(self.node, handle, session_id)),
            ),
            audit=(done.audit,),
        )
        await registry.commit(unit)
        live = await self.sessions.load(done.session)
        self.alarms.clear("orphan", session_id=handle.session_id)
        if found.frozen:
            self.runners.thaw(live)
        get_logger().warning("session.adopted", session_id=session_id, fence=handle.fence)

    # -- effects --------------------------------------------------------------------------------------

    async def _effects(self) -> None:
        """Rows of a last life: a thaw is done again, what belongs to a closed session is dropped."""
        for row in await self.parts.registry.effects():
            live = self.sessions.find(row.session_id)
            if live is None:
                record = await self.parts.registry.session(row.session_id)
                if record is None or record.state is State.CLOSED:
                    await self.parts.registry.commit(Unit(writes=(EffectDone(effect_id=row.id),)))
            elif row.kind == Effect.THAW.value and live.record.state in (State.ACTIVE, State.HELD):
                self.runners.thaw(live)


def _of(live: Live, found: ObservedDesktop | None) -> ObservedDesktop | None:
    """What the census says of a session's desktop. A home without one is nothing while it is being made."""
    if found is None or found.handle.session_id:
        return found
    if live.record.state is State.STARTING:
        return None
    known = live.handle.session_id if live.handle is not None else live.record.id
    return msgspec.structs.replace(found, handle=named_handle(found.handle, known))


def _newer(live: Live, census: list[ObservedDesktop]) -> bool:
    """Say whether a later desktop or home of the session's workspace is on this machine."""
    return any(
        one.handle.workspace_id == live.record.workspace_id
        and one.handle.fence > live.record.fence
        and one.presence is not Presence.ABSENT
        and one.handle.session_id
        for one in census
    )


def _desktop(node: Node, handle: Handle, session_id: SessionId) -> Desktop:
    return Desktop(
        workspace_id=WorkspaceId(handle.workspace_id),
        fence=handle.fence,
        node_id=node.id,
        session_id=session_id,
        handle=msgspec.json.encode(handle),
        home=handle.home,
    )

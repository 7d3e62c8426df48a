"""Starting: fence and E, newest checkpoint, restore, launch, ready; and again from the census after a crash
anywhere.

Not choosing what may start: `request` refuses a second desktop, an older state that nobody chose, and a full
machine. A store that does not answer is never "no checkpoint". Source: lifecycle.md section 7.
"""

import asyncio
import contextlib
from dataclasses import dataclass, replace

import msgspec

from session_service.base.errors import (
    Conflict,
    DesktopGone,
    DesktopStartFailed,
    NotAllowed,
    NotFound,
    OlderOnly,
    PartUnavailable,
    RegistryUnavailable,
    SessionError,
    StorageUnavailable,
    TransitionRefused,
)
from session_service.base.ids import EffectId, SessionId, WorkspaceId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.closing import named_handle
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.pause import Pause
from session_service.control.progress import while_moving
from session_service.control.sessions import Live, Sessions
from session_service.core import chain, limits
from session_service.core.changes import (
    AddEffect,
    EffectDone,
    EpochIs,
    LeaseIs,
    PutDesktop,
    PutLease,
    PutSession,
    SessionIs,
    Unit,
    Write,
)
from session_service.core.events import Effect, Event, Found
from session_service.core.lifecycle import Step, refenced, step
from session_service.core.records import (
    OPEN_STATES,
    Desktop,
    EffectRecord,
    Lease,
    LogPosition,
    Session,
    State,
    User,
    Workspace,
)
from session_service.ports.checkpoints import LogHead, Progress, WorkspaceName
from session_service.ports.desktops import (
    DesktopSpec,
    LaunchResult,
    ObservedDesktop,
    Presence,
    no_template,
)


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for; kept with the launch effect, so that a crash does not forget it."""

    template: str = ""
    geometry: tuple[int, int] = (1280, 800)
    keyboard_layout: str = ""
    locale: str = ""
    time_zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Starts and their runners."""

    parts: Parts
    node: Node
    sessions: Sessions
    alarms: Alarms
    slots: asyncio.Semaphore

    # -- the request ----------------------------------------------------------------------------------

    async def request(
        self, *, user: User, workspace_id: WorkspaceId, wishes: Wishes, from_seq: int | None
    ) -> Session:
        """Begin a session, or return the open one of the workspace; returns after the commit, while it is
        starting.

        Raises:
            NotFound, NotAllowed, BadInput, OlderOnly, StorageUnavailable, NoRoom, RegistryUnavailable,
            DesktopStartFailed.
        """
        for _ in range(limits.COMMIT_TRIES_MAX):
            workspace = await self.parts.registry.workspace(workspace_id)
            if workspace is None or workspace.user_id != user.id:
                raise NotFound()
            lease = await self.parts.registry.lease(workspace_id)
            if (there := await self._open_session(workspace_id, lease)) is not None:
                return there
            await self._limit(user)
            await self._template(wishes)
            self.parts.admission.room()
            await self._look_at_log(workspace, lease, from_seq)
            try:
                return await self._commit(user, workspace, lease, wishes, from_seq)
            except Conflict:
                continue
        raise Conflict(workspace_id=workspace_id)

    async def _limit(self, user: User) -> None:
        most = limits.OPEN_DESKTOPS_PER_USER_MAX
        there = await self.parts.registry.sessions(states=OPEN_STATES, user_id=user.id, limit=most)
        if len(there) >= most:
            raise NotAllowed("There are too many open desktops of this user; end one first.", limit=most)

    async def _template(self, wishes: Wishes) -> None:
        """Refuse what no desktop can be made from. Where the host is away it says so at the launch."""
        named = wishes.template or self.parts.policy.template
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                offered = await self.parts.desktops.templates()
        except (PartUnavailable, TimeoutError):
            return
        if named in offered:
            return
        refused = no_template(named, offered)
        if wishes.template:
            raise refused
        raise DesktopStartFailed(f"{refused.detail} The setting desktops.template names it.")

    async def _open_session(self, workspace_id: WorkspaceId, lease: Lease | None) -> Session | None:
        if lease is not None and lease.session_id is not None:
            session = await self.parts.registry.session(lease.session_id)
            if session is not None and session.state in OPEN_STATES:
                return session
        found = await self.parts.registry.sessions(states=OPEN_STATES, workspace_id=workspace_id, limit=1)
        return found[0] if found else None

    async def _look_at_log(self, workspace: Workspace, lease: Lease | None, from_seq: int | None) -> None:
        """Before anything is written: is what the registry knows of still there?"""
        name = WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id)
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                head = await self.parts.checkpoints.head(name)
                await self._choose(name, lease, head, from_seq)
        except TimeoutError as exc:
            raise StorageUnavailable() from exc

    async def _choose(
        self, name: WorkspaceName, lease: Lease | None, head: LogHead | None, from_seq: int | None
    ) -> LogPosition | None:
        recorded = lease.newest if lease is not None else None
        newest = head.newest if head is not None else None
        needed = from_seq is not None or not chain.agrees(recorded, newest)
        history = await self.parts.checkpoints.history(name) if needed and head is not None else []
        choice = chain.choose(recorded=recorded, newest=newest, history=history, chosen_seq=from_seq)
        return choice.start_from

    async def _commit(
        self,
        user: User,
        workspace: Workspace,
        lease: Lease | None,
        wishes: Wishes,
        from_seq: int | None,
    ) -> Session:
        policy = self.parts.policy
        fence = (lease.fence if lease is not None else 0) + 1
        new = Session(
            id=SessionId(self.parts.ids.ulid()),
            workspace_id=workspace.id,
            user_id=user.id,
            policy_id=policy.id,
            policy_rev=policy.rev,
            state=State.STARTING,
            generation=1,
            registry_epoch=self.node.epoch,
            fence=fence,
            node_id=self.node.id,
            hold_s=policy.hold_s,
            created_at_ms=self.parts.clock.wall_ms(),
            chosen_seq=from_seq,
        )
        done = step(None, Event.START, self.node.facts(new=new, actor=f"user:{user.id}"))
        after = (
            Lease(
                workspace_id=workspace.id,
                fence=fence,
                node_id=self.node.id,
                session_id=new.id,
                generation=1,
            )
            if lease is None
            else replace(
                lease,
                fence=fence,
                node_id=self.node.id,
                session_id=new.id,
                generation=lease.generation + 1,
            )
        )
        effect = EffectRecord(
            id=EffectId(self.parts.ids.ulid()),
            session_id=new.id,
            generation=1,
            kind=Effect.LAUNCH.value,
            args=msgspec.json.encode(wishes),
        )
        unit = Unit(
            guards=(EpochIs(epoch=self.node.epoch),),
            writes=(
                PutLease(lease=after, expected=lease.generation if lease is not None else None),
                PutSession(session=done.session, expected=None),
                AddEffect(effect=effect),
            ),
            audit=(done.audit,),
        )
        try:
            await self.parts.registry.commit(unit)
        except RegistryUnavailable:
            if await self.parts.registry.session(new.id) is None:
                raise
        await self.sessions.load(done.session)
        return done.session

    # -- the runner -----------------------------------------------------------------------------------

    async def run(self, live: Live) -> None:
        """Bring a starting session to ready, failed or given up by its user; every retry decides anew from
        the record.
        """
        pause = Pause(self.parts.ids)
        failures = 0
        while live.record.state is State.STARTING and self.sessions.find(live.record.id) is live:
            try:
                async with self.slots:
                    await self._attempt(live)
                pause.reset()
            except (TransitionRefused, Conflict):
                with contextlib.suppress(RegistryUnavailable, NotFound):
                    await self.sessions.refresh(live)
                await pause.wait(live.woken)
            except NotFound as exc:
                # The session is gone from the registry; or the checkpoint that it should start from is.
                if self.sessions.find(live.record.id) is live:
                    await self._fail(live, exc, pause)
            except DesktopStartFailed as exc:
                failures += 1
                if failures < 3:
                    self._trouble(live, exc)
                    await pause.wait(live.woken)
                else:
                    await self._fail(live, exc, pause)
            except (StorageUnavailable, PartUnavailable, RegistryUnavailable, TimeoutError) as exc:
                self._trouble(live, exc)
                await pause.wait(live.woken)
            except SessionError as exc:
                await self._fail(live, exc, pause)
        self.alarms.clear("start", session_id=live.record.id)

    def _trouble(self, live: Live, exc: BaseException) -> None:
        trouble = live.trouble
        trouble.error = str(exc) or "It takes longer than it should."
        trouble.attempts += 1
        if trouble.since_ms is None:
            trouble.since_ms = self.parts.clock.wall_ms()
            trouble.begun_mono_ms = self.parts.clock.monotonic_ms()
        waited_ms = self.parts.clock.monotonic_ms() - trouble.begun_mono_ms
        if waited_ms >= limits.START_ALARM_S * 1000:
            self.alarms.raise_("start", trouble.error, session_id=live.record.id)
        self.sessions.tell(live)

    async def _attempt(self, live: Live) -> None:
        found = await self._observed(live)
        if found is None or found.presence is Presence.ABSENT:
            home, start_from = await self._home(live)
        else:
            # Launched before a crash, or its processes ended: the same home, no second restore.
            home, start_from = found.handle.home, live.record.start_from
        # What memory believes is not enough to launch: the registry answers first.
        await self.sessions.refresh(live)
        if live.record.state is not State.STARTING:
            return
        result = await self._launch(live, home)
        live.handle = result.handle
        live.limits_missing = result.limits
        await self._ready(live, result, start_from)

    async def _observed(self, live: Live) -> ObservedDesktop | None:
        found = await self._here(live)
        # A home without a desktop was made before a crash, or is being made: its start goes on from E.
        return found if found is not None and found.handle.session_id else None

    async def _here(self, live: Live) -> ObservedDesktop | None:
        async with asyncio.timeout(limits.CALL_S_MAX):
            census = await self.parts.desktops.census()
        for found in census:
            named = (found.handle.workspace_id, found.handle.fence)
            if named == (live.record.workspace_id, live.record.fence):
                return found
        return None

    async def _home(self, live: Live) -> tuple[str, LogPosition | None]:
        """E first, then the newest checkpoint, then the restore: any other order can start older than what is
        there.
        """
        head = await self._own_log(live)
        start_from = await self._choose(live.workspace, live.lease, head, live.record.chosen_seq)
        owner = await self.parts.desktops.owner(
            workspace_id=live.record.workspace_id, fence=live.record.fence
        )

        def seen(progress: Progress) -> None:
            live.show(progress, at_ms=self.parts.clock.monotonic_ms())
            self.sessions.tell(live)

        report = await while_moving(
            lambda told: self.parts.checkpoints.new_home(
                live.workspace,
                fence=live.record.fence,
                seq=start_from.seq if start_from is not None else None,
                owner=owner,
                progress=told,
            ),
            seen,
        )
        live.home_bytes = report.bytes
        get_logger().info("restore.done", session_id=live.record.id, seq=report.seq, entries=report.entries)
        return report.home, start_from

    async def _own_log(self, live: Live) -> LogHead:
        """Write E under our fence; a higher one in the log raises ours above it, and the registry is told
        first.
        """
        for _ in range(limits.COMMIT_TRIES_MAX):
            async with asyncio.timeout(limits.CALL_S_MAX):
                head = await self.parts.checkpoints.take_over(
                    live.workspace,
                    fence_at_least=live.record.fence,
                    node_id=self.node.id,
                    session_id=live.record.id,
                    registry_epoch=self.node.epoch,
                )
            if head.fence == live.record.fence:
                return head
            await self._refence(live, head.fence)
        raise Conflict(workspace_id=live.record.workspace_id)

    async def _refence(self, live: Live, fence: int) -> None:
        before = live.record
        done = refenced(before, fence, at_ms=self.parts.clock.wall_ms())
        lease = replace(live.lease, fence=fence, generation=live.lease.generation + 1)
        unit = Unit(
            guards=(
                SessionIs(session_id=before.id, generation=before.generation, loss_epoch=before.loss_epoch),
                LeaseIs(workspace_id=before.workspace_id, node_id=self.node.id, fence=before.fence),
                EpochIs(epoch=self.node.epoch),
            ),
            writes=(
                PutLease(lease=lease, expected=live.lease.generation),
                PutSession(session=done.session, expected=before.generation),
            ),
            audit=(done.audit,),
        )
        await self.parts.registry.commit(unit)
        live.record, live.lease = done.session, lease
        self.sessions.tell(live)

    async def _launch(self, live: Live, home: str) -> LaunchResult:
        wishes = await self._wishes(live)
        policy = self.parts.policy
        live.progress = Progress(stage="launch", done=0, total=None, unit="")
        self.sessions.tell(live)
        spec = DesktopSpec(
            session_id=live.record.id,
            workspace_id=live.record.workspace_id,
            user_id=live.record.user_id,
            fence=live.record.fence,
            registry_epoch=self.node.epoch,
            home=home,
            template=wishes.template or policy.template,
            geometry=wishes.geometry,
            keyboard_layout=wishes.keyboard_layout,
            locale=wishes.locale,
            time_zone=wishes.time_zone,
            memory_mb_max=policy.memory_mb_max,
            cpus_max=policy.cpus_max,
            processes_max=policy.processes_max,
            network=policy.network,
        )
        live.launching = True
        try:
            async with asyncio.timeout(limits.START_S_MAX + limits.CALL_S_MAX):
                return await self.parts.desktops.launch(spec)
        finally:
            live.launching = False

    async def _wishes(self, live: Live) -> Wishes:
        for effect in await self.parts.registry.effects(live.record.id):
            if effect.kind == Effect.LAUNCH.value:
                return msgspec.json.decode(effect.args, type=Wishes)
        return Wishes()

    async def _ready(self, live: Live, result: LaunchResult, start_from: LogPosition | None) -> None:
        desktop = self._desktop(live, result)
        launches = [
            effect.id
            for effect in await self.parts.registry.effects(live.record.id)
            if effect.kind == Effect.LAUNCH.value
        ]

        def also(done: Step) -> list[Write]:
            return [
                PutDesktop(desktop=desktop),
                *(EffectDone(effect_id=effect_id) for effect_id in launches),
            ]

        live.progress = None
        live.trouble.error, live.trouble.since_ms, live.trouble.attempts = "", None, 0
        try:
            await self.sessions.move(
                live,
                Event.DESKTOP_READY,
                lambda record: self.node.facts(
                    attached=self.sessions.attached_link(live) is not None,
                    start_from=start_from or record.start_from,
                ),
                also=also,
            )
        except TransitionRefused:
            # Ended by its user meanwhile: the close needs to know what was launched.
            await self.parts.registry.commit(Unit(writes=(PutDesktop(desktop=desktop),)))
            raise

    def _desktop(self, live: Live, result: LaunchResult) -> Desktop:
        return Desktop(
            workspace_id=live.record.workspace_id,
            fence=live.record.fence,
            node_id=self.node.id,
            session_id=SessionId(result.handle.session_id),
            handle=msgspec.json.encode(result.handle),
            home=result.handle.home,
        )

    async def _fail(self, live: Live, exc: SessionError, pause: Pause) -> None:
        """Close a start that cannot succeed, on the census's word that no process is left."""
        self._trouble(live, exc)
        try:
            found = await self._here(live)
            launched = found is not None and found.handle.session_id
            presence = Found(found.presence.value) if found is not None and launched else Found.ABSENT
            await self.sessions.move(
                live,
                Event.START_FAILED,
                lambda _: self.node.facts(found=presence, reason=_reason(exc)),
            )
            get_logger().warning("desktop.failed", session_id=live.record.id, code=exc.code)
            if found is not None:
                await self.parts.desktops.discard(named_handle(found.handle, live.record.id))
        except (SessionError, TimeoutError) as again:
            if not isinstance(again, DesktopGone):
                self._trouble(live, again)
                await pause.wait(live.woken)


def _reason(exc: SessionError) -> str:
    if isinstance(exc, OlderOnly):
        return "older_only"
    return f"{exc.code}: {exc.detail}"

"""Control: owns the sessions of this node. The facade for HTTP and CLI, and the run that holds everything
together.

Not a gateway, not HTTP: callers were authenticated before. Every call here answers after the commit. Built by
`app` from ports only, so that a test runs it on a deterministic loop.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from session_service.base.aio import Tasks
from session_service.base.errors import (
    BadInput,
    Conflict,
    HoldExpired,
    NotAllowed,
    NotFound,
    PartUnavailable,
    RegistryUnavailable,
    TransitionRefused,
)
from session_service.base.ids import DeviceId, SessionId, UserId, WorkspaceId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.attachments import LinkDesk
from session_service.control.closing import Closer
from session_service.control.holds import Holds
from session_service.control.marks import MarkBook
from session_service.control.node import Node
from session_service.control.parts import NodeFacts, Parts
from session_service.control.pictures import DesktopPicture, PictureDesk
from session_service.control.reconcile import Reconciler
from session_service.control.replication import Replication
from session_service.control.returning import Returner
from session_service.control.runners import Runners
from session_service.control.saving import Saver
from session_service.control.sessions import Live, Sessions
from session_service.control.space import SpaceGuard
from session_service.control.starts import Starter, Wishes
from session_service.control.tickets import hash_of
from session_service.control.upkeep import Upkeep, UpkeepCount
from session_service.control.watch import Watch
from session_service.core import limits
from session_service.core.actor import Actor
from session_service.core.changes import AddTicket, PutWorkspace, Unit
from session_service.core.close_codes import Close
from session_service.core.events import Event
from session_service.core.explain import in_words
from session_service.core.policy import HOLD_S_MAX
from session_service.core.records import (
    OPEN_STATES,
    AuditEntry,
    LossCause,
    Session,
    State,
    Ticket,
    User,
    Workspace,
)
from session_service.core.views import Alarm, SessionView
from session_service.ports.checkpoints import CheckpointInfo
from session_service.ports.desktops import Handle
from session_service.ports.streams import Attachments, PlannedPause

Explanation = tuple[int, str, dict[str, str | int | float | bool | None]]
MODES = frozenset({"control", "view"})


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedTicket:
    """A fresh ticket: shown once, never stored as it is."""

    token: str
    expires_at_ms: int

    def __repr__(self) -> str:
        return f"IssuedTicket(expires_at_ms={self.expires_at_ms})"


class Control:
    """The sessions of one node."""

    def __init__(self, *, parts: Parts, node: NodeFacts) -> None:
        self._parts = parts
        self._log = get_logger()
        self._alarms = Alarms(clock=parts.clock, ids=parts.ids)
        self._tasks = Tasks(self._task_failed)
        self._node = Node(facts=node, parts=parts, alarms=self._alarms)
        self._sessions = Sessions(parts=parts, node=self._node)
        self._holds = Holds(parts=parts, node=self._node, sessions=self._sessions, alarms=self._alarms)
        self._saver = Saver(parts=parts, sessions=self._sessions, alarms=self._alarms, cores=node.cores)
        self._watch = Watch(parts=parts, node=self._node, sessions=self._sessions)
        self._pictures = PictureDesk(parts=parts, node=self._node, sessions=self._sessions, tasks=self._tasks)
        self._marks = MarkBook(parts=parts, node=self._node, sessions=self._sessions, tasks=self._tasks)
        self._desk = LinkDesk(
            parts=parts,
            node=self._node,
            sessions=self._sessions,
            tasks=self._tasks,
            marks=self._marks,
            look_now=self._look_now,
        )
        self._starter = Starter(
            parts=parts,
            node=self._node,
            sessions=self._sessions,
            alarms=self._alarms,
            slots=asyncio.Semaphore(limits.STARTS_AT_ONCE),
        )
        closer = Closer(
            parts=parts,
            node=self._node,
            sessions=self._sessions,
            alarms=self._alarms,
            slots=asyncio.Semaphore(limits.CLOSES_AT_ONCE),
        )
        self._runners = Runners(
            parts=parts,
            node=self._node,
            sessions=self._sessions,
            starter=self._starter,
            closer=closer,
            tasks=self._tasks,
        )
        self._returner = Returner(
            parts=parts, node=self._node, sessions=self._sessions, runners=self._runners
        )
        self._upkeep = Upkeep(parts=parts, sessions=self._sessions, alarms=self._alarms)
        self._replication = (
            Replication(parts=parts, sessions=self._sessions, alarms=self._alarms, second=parts.second)
            if parts.second is not None
            else None
        )
        self._space = SpaceGuard(parts=parts, sessions=self._sessions, alarms=self._alarms)
        self._reconciler = Reconciler(
            parts=parts,
            node=self._node,
            sessions=self._sessions,
            runners=self._runners,
            desk=self._desk,
            marks=self._marks,
            alarms=self._alarms,
            space=self._space,
        )
        self.attachments: Attachments = self._desk
        parts.desktops.on_exit(self._desktop_exited)

    # -- the run --------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Own the sessions until `stop` is set. Ends in order: intake, work, and the heartbeat last."""
        async with asyncio.TaskGroup() as outer:
            work = outer.create_task(self._work(), name="control-work")
            await stop.wait()
            self._node.draining = True
            self._desk.open = False
            self._runners.open = False
            work.cancel()

    async def _work(self) -> None:
        await self._node.open()
        async with asyncio.TaskGroup() as beat:
            ticks = beat.create_task(self._node.run(), name="node-ticks")
            try:
                await self._loops()
            finally:
                await self._tasks.close()
                ticks.cancel()

    async def _loops(self) -> None:
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._reconciler.run(), name="reconcile")
            loops.create_task(self._holds.run(), name="holds")
            loops.create_task(self._space.run(), name="space")
            if self._replication is not None:
                loops.create_task(self._replication.run(), name="replication")
            if self._parts.upkeep:
                loops.create_task(self._upkeep.run(), name="upkeep")
            loops.create_task(self._saver.judge(), name="saved-ages")
            for number in range(self._saver.loops):
                loops.create_task(self._saver.run(), name=f"saver-{number}")

    async def ready(self) -> bool:
        """Say whether sessions are known and the counter is written: users can attach. The store is not
        asked.
        """
        return self._desk.open and self._node.ticking and self._holds.turning

    def second(self) -> Replication | None:
        """Return what keeps the second store in step, if there is a second store."""
        return self._replication

    @property
    def upkeep(self) -> UpkeepCount | None:
        """What the hourly upkeep came to since the start; None where it is off."""
        return self._upkeep.count if self._parts.upkeep else None

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._log.error("task.failed", name=name, error=repr(error))
        self._alarms.raise_("task", f"{name}: {error!r}")
        self._look_now()

    def _look_now(self) -> None:
        self._reconciler.look_now()

    def _desktop_exited(self, handle: Handle, last_words: str) -> None:
        live = self._sessions.find_desktop(handle.workspace_id, handle.fence)
        if live is not None:
            self._tasks.spawn(self._died(live, last_words), name=f"exit-{live.record.id}")

    async def _died(self, live: Live, last_words: str) -> None:
        try:
            await self._reconciler.died(live, last_words)
        except (TransitionRefused, NotFound):
            return
        except Exception as exc:  # noqa: BLE001  # a task's edge: the next look finds the same death
            self._log.warning("reconcile.failed", session_id=live.record.id, error=str(exc))
            self._look_now()

    # -- users ----------------------------------------------------------------------------------------

    async def start(
        self,
        *,
        user: User,
        workspace_id: WorkspaceId,
        template: str | None = None,
        geometry: tuple[int, int] | None = None,
        keyboard_layout: str = "",
        locale: str = "",
        time_zone: str = "",
        from_seq: int | None = None,
    ) -> Session:
        """Begin a session, or return the open one of the workspace; it is starting when this returns.

        Raises:
            NotFound, OlderOnly, StorageUnavailable, NoRoom, PartUnavailable, RegistryUnavailable.
        """
        self._must_be_open()
        await self._reconciler.surveyed()
        wishes = Wishes(
            template=template or "",
            geometry=geometry or (1280, 800),
            keyboard_layout=keyboard_layout,
            locale=locale,
            time_zone=time_zone,
        )
        return await self._starter.request(
            user=user, workspace_id=workspace_id, wishes=wishes, from_seq=from_seq
        )

    async def issue_ticket(
        self,
        session_id: SessionId,
        *,
        user: User,
        device_id: str,
        device_label: str,
        mode: str = "control",
    ) -> IssuedTicket:
        """Make a one-use ticket for a link; older unused ones to control, of the same device, are void.

        Raises:
            NotFound: not this user's. HoldExpired: closing or closed.
        """
        if mode not in MODES:
            raise BadInput("mode is control or view.", field="mode")
        record = await self._record(session_id)
        if record.user_id != user.id:
            raise NotFound()
        if record.state in (State.CLOSING, State.CLOSED):
            raise HoldExpired(
                state=record.state.value,
                step=record.close_step.value if record.close_step is not None else None,
                outcome=record.outcome.value if record.outcome is not None else None,
            )
        token = base64.urlsafe_b64encode(self._parts.ids.secret()).rstrip(b"=").decode("ascii")
        now_ms = self._parts.clock.wall_ms()
        ticket = Ticket(
            hash=hash_of(token),
            session_id=record.id,
            user_id=user.id,
            device_id=DeviceId(device_id),
            device_label=device_label[: limits.LABEL_CHARACTERS_MAX],
            mode=mode,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + round(limits.TICKET_S * 1000),
        )
        await self._parts.registry.commit(Unit(writes=(AddTicket(ticket=ticket),)))
        self._log.info("ticket.issued", session_id=record.id, mode=mode)
        return IssuedTicket(token=token, expires_at_ms=ticket.expires_at_ms)

    async def reuse(self, session_id: SessionId, *, user: User) -> Session:
        """Give a closing session's desktop back to its user, before `ending`; returns the new session.

        Raises:
            NotFound, TransitionRefused, RegistryUnavailable, PartUnavailable.
        """
        self._must_be_open()
        live = await self._sessions.get(session_id)
        if live.record.user_id != user.id:
            raise NotFound()
        if live.record.state is not State.CLOSING:
            raise TransitionRefused(state=live.record.state.value, event=Event.DESKTOP_REUSED.value)
        return await self._returner.give_back(live, user=user)

    async def create_workspace(self, *, user: User, name: str) -> Workspace:
        """Make a named home for a user.

        Raises:
            BadInput: no name, or too long. Conflict: the name is taken. NotAllowed: too many.
        """
        name = name.strip()
        if not name or len(name) > limits.WORKSPACE_NAME_CHARACTERS_MAX:
            raise BadInput("A workspace has a short name.", field="name")
        if len(await self._parts.registry.workspaces(user_id=user.id)) >= limits.WORKSPACES_PER_USER_MAX:
            raise NotAllowed("There are too many workspaces of this user.")
        now_ms = self._parts.clock.wall_ms()
        workspace = Workspace(
            id=WorkspaceId(self._parts.ids.ulid()),
            user_id=user.id,
            tenant_id=user.tenant_id,
            name=name,
            created_at_ms=now_ms,
        )
        audit = AuditEntry(
            kind="workspace.created",
            actor=f"user:{user.id}",
            at_ms=now_ms,
            workspace_id=workspace.id,
            user_id=user.id,
            facts=(("name", name),),
        )
        await self._parts.registry.commit(
            Unit(writes=(PutWorkspace(workspace=workspace, expected=None),), audit=(audit,))
        )
        return workspace

    # -- users and operators --------------------------------------------------------------------------

    async def end(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session:
        """End a session on purpose: access now, the desktop after its files are saved. Closing already: as it
        is.
        """
        live = await self._open(session_id)
        if live.record.state is State.CLOSING:
            return live.record
        event = Event.OPERATOR_END if actor.kind == "operator" else Event.USER_END
        done = await self._sessions.move(
            live, event, lambda _: self._node.facts(actor=str(actor), reason=reason)
        )
        return done.session

    async def save_now(self, session_id: SessionId, *, actor: Actor) -> CheckpointInfo:
        """Take a checkpoint now and return it, verified; `complete` says whether every file is in it."""
        live = await self._open(session_id)
        result = await self._saver.save(live, "demand")
        await self._parts.registry.commit(
            Unit(audit=(self._audit(live.record, "session.saved_on_demand", actor, seq=result.info.seq),))
        )
        return result.info

    async def disconnect(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session:
        """End every link of a session and hold it; its user may come back after signing in.

        Also while the service starts or ends: a right that was withdrawn then must not come back with the
        next life.
        """
        live = await self._found(session_id)
        record = live.record
        links = sorted({*self._parts.streams.links(record.id), *live.links, *live.viewers})
        live.links.clear()
        live.viewers.clear()
        for link_id in links:
            self._parts.streams.close_link(record.id, link_id, code=Close.LOGIN, why="login")
        # A loss may be recorded in between; its key is void all the same.
        for event in (Event.CLIENT_DROPPED, Event.KEYS_REVOKED):
            try:
                done = await self._sessions.move(
                    live,
                    event,
                    lambda now: self._node.facts(
                        link_id=now.link_id,
                        cause=LossCause.UNKNOWN,
                        revoked=True,
                        actor=str(actor),
                        reason=reason,
                    ),
                )
            except TransitionRefused:
                continue
            except RegistryUnavailable:
                # The right ends now all the same: on this node's disk, and in the registry when it is back.
                await self._marks.revoke(live, actor=str(actor), reason=reason)
                return live.record
            return done.session
        return live.record

    async def close_viewers(
        self, session_id: SessionId, *, device_id: str | None = None, but_device_id: str | None = None
    ) -> int:
        """Close the links that look on from one device, or from all but one; the session goes on."""
        live = self._sessions.find(session_id)
        if live is None:
            return 0
        return self._desk.close_viewers(
            live, lambda device: device_id in (None, device) and device != but_device_id
        )

    async def extend(
        self, session_id: SessionId, *, seconds: float, actor: Actor, reason: str = ""
    ) -> Session:
        """Give a hold more time; only an operator may shorten one, and never below a minute from now."""
        if not -HOLD_S_MAX <= seconds <= HOLD_S_MAX or seconds == 0:
            raise BadInput("seconds lies within seven days and is not 0.", field="seconds")
        if seconds < 0 and actor.kind != "operator":
            raise NotAllowed("Only an operator may shorten a hold.")
        live = await self._open(session_id)
        done = await self._sessions.move(
            live,
            Event.HOLD_CHANGED,
            lambda _: self._node.facts(delta_ms=round(seconds * 1000), actor=str(actor), reason=reason),
        )
        return done.session

    async def accept_paths(
        self, session_id: SessionId, *, paths: Sequence[str], actor: Actor, reason: str
    ) -> Session:
        """Accept, by name, files that a close cannot read: they stand in the receipt and in the audit log."""
        if not paths or not reason.strip():
            raise BadInput("Name the paths and give the reason.", field="paths")
        live = await self._open(session_id)
        done = await self._sessions.move(
            live,
            Event.PATHS_ACCEPTED,
            lambda _: self._node.facts(paths=tuple(paths), actor=str(actor), reason=reason),
        )
        return done.session

    # -- looking --------------------------------------------------------------------------------------

    async def explain(self, session_id: SessionId) -> list[Explanation]:
        """Return what happened to a session, oldest first: time, words, facts."""
        if await self._parts.registry.session(session_id) is None:
            raise NotFound()
        records = await self._parts.registry.audit(
            session_id=session_id, limit=limits.EXPLANATION_RECORDS_MAX
        )
        return [(record.entry.at_ms, in_words(record.entry), dict(record.entry.facts)) for record in records]

    async def view(self, session_id: SessionId) -> SessionView:
        """Return one session as it is now, open or closed."""
        live = self._sessions.find(session_id)
        if live is not None:
            return self._watch.view(live)
        return await self._watch.closed(await self._record(session_id))

    async def picture(self, session_id: SessionId, *, user: User, device_id: str) -> DesktopPicture:
        """Return a small picture of the user's own desktop; it is no link and touches nothing.

        Raises:
            NotFound, TransitionRefused, NotAllowed, TooManyAttempts, PartUnavailable, RegistryUnavailable.
        """
        self._must_be_open()
        return await self._pictures.look(session_id, user=user, device_id=DeviceId(device_id))

    def open_views(self, *, user_id: UserId) -> list[SessionView]:
        """Return a user's open sessions as memory has them: also while the registry is away."""
        return [self._watch.view(live) for live in self._sessions.all() if live.record.user_id == user_id]

    @property
    def planned(self) -> PlannedPause | None:
        """The pause that is announced."""
        return self._desk.planned

    def announce(self, pause: PlannedPause | None) -> None:
        """Tell every page of a planned pause, or that there is none any more; nothing acts on its times."""
        self._desk.planned = pause
        self._parts.streams.announce(pause)

    async def views(self, *, user_id: UserId | None = None, open_only: bool = True) -> list[SessionView]:
        """Return sessions, newest first."""
        records = await self._parts.registry.sessions(
            states=OPEN_STATES if open_only else None,
            user_id=user_id,
            limit=limits.SESSION_ROWS_MAX,
            newest_first=True,
        )
        found: list[SessionView] = []
        for record in records:
            live = self._sessions.find(record.id)
            found.append(self._watch.view(live) if live is not None else await self._watch.closed(record))
        return found

    def subscribe(self) -> AbstractContextManager[AsyncIterator[SessionView]]:
        """Give the changes of all sessions from now on, each session's newest state once; as a block."""
        return self._watch.subscribe()

    def alarms(self) -> list[Alarm]:
        """Return what needs a person now."""
        return self._alarms.list()

    @property
    def alarm_book(self) -> Alarms:
        """Where `app` listens to alarms and raises those of its own."""
        return self._alarms

    def look_now(self) -> None:
        """Reconcile soon: a part came back, or somebody asked."""
        self._look_now()

    # -- parts of the above ---------------------------------------------------------------------------

    def _must_be_open(self) -> None:
        if not self._desk.open:
            raise PartUnavailable("The service is starting or ending.")

    async def _record(self, session_id: SessionId) -> Session:
        live = self._sessions.find(session_id)
        record = live.record if live is not None else await self._parts.registry.session(session_id)
        if record is None:
            raise NotFound()
        return record

    async def _open(self, session_id: SessionId) -> Live:
        self._must_be_open()
        return await self._found(session_id)

    async def _found(self, session_id: SessionId) -> Live:
        record = await self._record(session_id)
        if record.state is State.CLOSED:
            raise TransitionRefused(state=record.state.value)
        try:
            return await self._sessions.get(session_id)
        except NotFound as exc:
            raise Conflict(session_id=session_id) from exc

    def _audit(self, record: Session, kind: str, actor: Actor, **facts: str | int) -> AuditEntry:
        return AuditEntry(
            kind=kind,
            actor=str(actor),
            at_ms=self._parts.clock.wall_ms(),
            session_id=record.id,
            workspace_id=record.workspace_id,
            user_id=record.user_id,
            facts=tuple(facts.items()),
        )

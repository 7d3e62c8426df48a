"""A control for tests of the HTTP side: the facade's calls over a registry's records, stricter than the
real one.

Not the lifecycle: it moves states by hand, refuses what the real one refuses, and remembers who asked for
what.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from session_service.base import errors
from session_service.base.ids import DeviceId, NodeId, PolicyId, SessionId, UserId, WorkspaceId
from session_service.control.pictures import DesktopPicture
from session_service.core.actor import Actor
from session_service.core.changes import PutLease, PutSession, PutWorkspace, Unit
from session_service.core.records import (
    OPEN_STATES,
    Hold,
    Lease,
    LossCause,
    Outcome,
    Session,
    State,
    User,
    Workspace,
)
from session_service.core.views import Alarm, SessionView
from session_service.ports.checkpoints import CheckpointInfo
from session_service.ports.clock import Clock, Ids
from session_service.ports.pictures import TakenPicture
from session_service.ports.registry import Registry
from session_service.ports.streams import PlannedPause

HOLD_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """An issued ticket."""

    token: str
    expires_at_ms: int


class HttpControl:
    """Has the calls of `session_service.http.facade.ControlFacade`."""

    def __init__(self, *, registry: Registry, clock: Clock, ids: Ids) -> None:
        self._registry = registry
        self._clock = clock
        self._ids = ids
        self.is_ready = True
        self.failure: Exception | None = None
        self.acts: list[tuple[str, str, Actor | None]] = []
        self.viewers_closed: list[tuple[str, str | None, str | None]] = []
        self.open_alarms: list[Alarm] = []
        self._readers: list[asyncio.Queue[SessionView]] = []

    def second(self) -> None:
        """There is no second store."""
        return

    async def ready(self) -> bool:
        return self.is_ready

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
        self._fail()
        lease = await self._registry.lease(workspace_id)
        if lease is not None and lease.session_id is not None:
            found = await self._registry.session(lease.session_id)
            assert found is not None
            return found
        record = Session(
            id=SessionId(self._ids.ulid()),
            workspace_id=workspace_id,
            user_id=user.id,
            policy_id=PolicyId("0" * 26),
            policy_rev=1,
            state=State.ACTIVE,
            generation=1,
            registry_epoch=1,
            fence=(lease.fence if lease else 0) + 1,
            node_id=NodeId("0" * 26),
            hold_s=HOLD_S,
            created_at_ms=self._clock.wall_ms(),
            chosen_seq=from_seq,
        )
        fresh = Lease(
            workspace_id=workspace_id,
            fence=record.fence,
            node_id=record.node_id,
            session_id=record.id,
            generation=(lease.generation if lease else 0) + 1,
        )
        await self._registry.commit(
            Unit(
                writes=(
                    PutSession(session=record, expected=None),
                    PutLease(lease=fresh, expected=lease.generation if lease else None),
                )
            )
        )
        self.acts.append(("start", record.id, None))
        await self.tell(record.id)
        return record

    async def issue_ticket(
        self, session_id: SessionId, *, user: User, device_id: str, device_label: str, mode: str = "control"
    ) -> Ticket:
        self._fail()
        record = await self._record(session_id)
        assert record.user_id == user.id, "a ticket for somebody else's session"
        if record.state is State.CLOSED:
            raise errors.HoldExpired()
        await self.change(session_id, device_id=DeviceId(device_id), device_label=device_label)
        return Ticket(token="t-" + self._ids.secret().hex(), expires_at_ms=self._clock.wall_ms() + 60_000)

    async def end(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session:
        await self._act("end", session_id, actor, OPEN_STATES)
        return await self.change(session_id, state=State.CLOSING)

    async def save_now(self, session_id: SessionId, *, actor: Actor) -> CheckpointInfo:
        await self._act("save", session_id, actor, frozenset({State.ACTIVE, State.HELD}))
        return checkpoint(7, session_id=session_id, scan_ms=self._clock.wall_ms())

    async def disconnect(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session:
        await self._act("disconnect", session_id, actor, frozenset({State.STARTING, State.ACTIVE}))
        record = await self._record(session_id)
        if record.state is State.STARTING:
            return record
        hold = Hold(clock=record.node_id, base_ms=0, left_ms=round(HOLD_S * 1000))
        return await self.change(
            session_id,
            state=State.HELD,
            hold=hold,
            loss_cause=LossCause.TAB_CLOSED,
            lost_at_ms=self._clock.wall_ms(),
            loss_epoch=record.loss_epoch + 1,
        )

    async def close_viewers(
        self, session_id: SessionId, *, device_id: str | None = None, but_device_id: str | None = None
    ) -> int:
        self.viewers_closed.append((session_id, device_id, but_device_id))
        return 0

    async def picture(self, session_id: SessionId, *, user: User, device_id: str) -> DesktopPicture:
        await self._act("picture", session_id, None, frozenset({State.ACTIVE, State.HELD}))
        record = await self._record(session_id)
        assert record.user_id == user.id, "a picture of somebody else's desktop"
        if self.picture_waits is not None:
            await self.picture_waits.wait()
        return DesktopPicture(
            taken_at_ms=self._clock.wall_ms(), picture=TakenPicture(width=2, height=1, jpeg=b"JPEG")
        )

    picture_waits: asyncio.Event | None = None
    planned: PlannedPause | None = None

    def announce(self, pause: PlannedPause | None) -> None:
        self.planned = pause

    def open_views(self, *, user_id: UserId) -> Sequence[SessionView]:
        return []

    async def extend(
        self, session_id: SessionId, *, seconds: float, actor: Actor, reason: str = ""
    ) -> Session:
        await self._act("extend", session_id, actor, frozenset({State.ACTIVE, State.HELD}))
        return await self._record(session_id)

    async def reuse(self, session_id: SessionId, *, user: User) -> Session:
        await self._act("reuse", session_id, None, frozenset({State.CLOSING}))
        await self.close(session_id, Outcome.REUSED)
        record = await self._record(session_id)
        return await self.start(user=user, workspace_id=record.workspace_id)

    async def accept_paths(
        self, session_id: SessionId, *, paths: Sequence[str], actor: Actor, reason: str
    ) -> Session:
        await self._act("accept", session_id, actor, frozenset({State.CLOSING}))
        return await self.change(session_id, accepted_paths=tuple(paths))

    async def explain(
        self, session_id: SessionId
    ) -> list[tuple[int, str, dict[str, str | int | float | bool | None]]]:
        record = await self._record(session_id)
        return [(record.created_at_ms, "The desktop was started.", {"state": record.state.value})]

    async def view(self, session_id: SessionId) -> SessionView:
        record = await self._record(session_id)
        if record.state not in OPEN_STATES:
            raise errors.NotFound()
        return await self._view(record)

    async def views(self, *, user_id: UserId | None = None, open_only: bool = True) -> list[SessionView]:
        records = await self._registry.sessions(states=OPEN_STATES if open_only else None, user_id=user_id)
        return [await self._view(record) for record in records]

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[SessionView]]:
        queue: asyncio.Queue[SessionView] = asyncio.Queue()
        self._readers.append(queue)
        try:
            yield self._changes(queue)
        finally:
            self._readers.remove(queue)

    async def _changes(self, queue: asyncio.Queue[SessionView]) -> AsyncIterator[SessionView]:
        while True:
            yield await queue.get()

    def alarms(self) -> list[Alarm]:
        return list(self.open_alarms)

    async def create_workspace(self, *, user: User, name: str) -> Workspace:
        self._fail()
        workspace = Workspace(
            id=WorkspaceId(self._ids.ulid()),
            user_id=user.id,
            tenant_id=user.tenant_id,
            name=name,
            created_at_ms=self._clock.wall_ms(),
        )
        await self._registry.commit(Unit(writes=(PutWorkspace(workspace=workspace, expected=None),)))
        return workspace

    # -- what tests do with it ------------------------------------------------------------------------

    @property
    def readers(self) -> int:
        """How many live streams listen."""
        return len(self._readers)

    async def change(self, session_id: SessionId, **fields: object) -> Session:
        """Change a record and tell the readers."""
        record = await self._record(session_id)
        changed = replace(record, generation=record.generation + 1, **fields)  # type: ignore[arg-type]  # by name
        await self._registry.commit(Unit(writes=(PutSession(session=changed, expected=record.generation),)))
        await self.tell(session_id)
        return changed

    async def close(self, session_id: SessionId, outcome: Outcome) -> Session:
        """Close a session and free its lease."""
        record = await self._record(session_id)
        lease = await self._registry.lease(record.workspace_id)
        assert lease is not None
        closed = replace(
            record,
            state=State.CLOSED,
            outcome=outcome,
            generation=record.generation + 1,
            hold=None,
            closed_at_ms=self._clock.wall_ms(),
        )
        free = replace(lease, session_id=None, generation=lease.generation + 1)
        await self._registry.commit(
            Unit(
                writes=(
                    PutSession(session=closed, expected=record.generation),
                    PutLease(lease=free, expected=lease.generation),
                )
            )
        )
        await self.tell(session_id)
        return closed

    async def tell(self, session_id: SessionId) -> None:
        """Give the session's view to every live stream."""
        view = await self._view(await self._record(session_id))
        for reader in self._readers:
            reader.put_nowait(view)

    async def _view(self, record: Session) -> SessionView:
        user = await self._registry.user(record.user_id)
        workspace = await self._registry.workspace(record.workspace_id)
        assert user is not None
        assert workspace is not None
        held = record.state is State.HELD
        return SessionView(
            session=record,
            workspace_name=workspace.name,
            user_name=user.name,
            hold_remaining_s=HOLD_S if held else None,
            hold_deadline_ms=self._clock.wall_ms() + round(HOLD_S * 1000) if held else None,
            address="192.0.2.7",
        )

    async def _record(self, session_id: SessionId) -> Session:
        record = await self._registry.session(session_id)
        if record is None:
            raise errors.NotFound()
        return record

    async def _act(
        self, act: str, session_id: SessionId, actor: Actor | None, allowed: frozenset[State]
    ) -> None:
        self._fail()
        record = await self._record(session_id)
        if record.state not in allowed:
            raise errors.TransitionRefused(state=record.state.value)
        self.acts.append((act, session_id, actor))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def checkpoint(seq: int, *, session_id: str, scan_ms: int) -> CheckpointInfo:
    """A whole checkpoint."""
    return CheckpointInfo(
        seq=seq,
        hash=bytes([seq]) * 32,
        fence=1,
        session_id=session_id,
        scan_ms=scan_ms,
        reason="demand",
        complete=True,
        final=False,
        frozen=False,
        entries=3,
        bytes=11,
        new_stored_bytes=200,
    )

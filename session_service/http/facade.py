"""What HTTP asks of control, as a protocol: the facade's calls and nothing behind them.

Not control itself: tests of the HTTP side run on a twin with the same calls, and a test checks that
`Control` has them.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from session_service.base.ids import SessionId, UserId, WorkspaceId
from session_service.control.pictures import DesktopPicture
from session_service.control.replication import Replication
from session_service.core.actor import Actor
from session_service.core.records import Session, User, Workspace
from session_service.core.views import Alarm, SessionView
from session_service.ports.checkpoints import CheckpointInfo
from session_service.ports.streams import PlannedPause


class IssuedTicket(Protocol):
    """A fresh ticket: the secret and when it ends, UTC ms."""

    @property
    def token(self) -> str: ...

    @property
    def expires_at_ms(self) -> int: ...


class ControlFacade(Protocol):
    """The calls of control that routes use; all raise `SessionError` with a code."""

    async def ready(self) -> bool: ...

    def second(self) -> Replication | None: ...

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
    ) -> Session: ...

    async def issue_ticket(
        self, session_id: SessionId, *, user: User, device_id: str, device_label: str, mode: str = "control"
    ) -> IssuedTicket: ...

    async def end(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session: ...

    async def save_now(self, session_id: SessionId, *, actor: Actor) -> CheckpointInfo: ...

    async def disconnect(self, session_id: SessionId, *, actor: Actor, reason: str = "") -> Session: ...

    async def close_viewers(
        self, session_id: SessionId, *, device_id: str | None = None, but_device_id: str | None = None
    ) -> int: ...

    async def extend(
        self, session_id: SessionId, *, seconds: float, actor: Actor, reason: str = ""
    ) -> Session: ...

    async def reuse(self, session_id: SessionId, *, user: User) -> Session: ...

    async def accept_paths(
        self, session_id: SessionId, *, paths: Sequence[str], actor: Actor, reason: str
    ) -> Session: ...

    async def explain(
        self, session_id: SessionId
    ) -> Sequence[tuple[int, str, dict[str, str | int | float | bool | None]]]: ...

    async def view(self, session_id: SessionId) -> SessionView: ...

    async def picture(self, session_id: SessionId, *, user: User, device_id: str) -> DesktopPicture: ...

    def open_views(self, *, user_id: UserId) -> Sequence[SessionView]: ...

    @property
    def planned(self) -> PlannedPause | None: ...

    def announce(self, pause: PlannedPause | None) -> None: ...

    async def views(
        self, *, user_id: UserId | None = None, open_only: bool = True
    ) -> Sequence[SessionView]: ...

    def subscribe(self) -> AbstractContextManager[AsyncIterator[SessionView]]: ...

    def alarms(self) -> Sequence[Alarm]: ...

    async def create_workspace(self, *, user: User, name: str) -> Workspace: ...

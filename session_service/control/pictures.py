"""Pictures of desktops for their own users: who may have one now, how often, and how long it is kept.

Not how one is taken (`ports/pictures.py`) and not a link: no state changes, no hold is touched
(docs/design/0024-picture-of-a-desktop.md). A picture is in memory for seconds, and gone when access ends.
"""

import asyncio
import weakref
from dataclasses import dataclass

from session_service.base.aio import Tasks
from session_service.base.errors import (
    NotAllowed,
    NotFound,
    PartUnavailable,
    SessionError,
    TooManyAttempts,
    TransitionRefused,
)
from session_service.base.ids import DeviceId, SessionId, UserId
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.sessions import Live, Sessions
from session_service.control.tickets import ReturnLogin
from session_service.core import limits
from session_service.core.changes import Unit
from session_service.core.events import Effect
from session_service.core.records import AuditEntry, State, User
from session_service.ports.pictures import TakenPicture

_SEEN: frozenset[State] = frozenset({State.ACTIVE, State.HELD})


@dataclass(frozen=True, slots=True, kw_only=True)
class DesktopPicture:
    """A picture and when it was taken."""

    taken_at_ms: int
    picture: TakenPicture


_Look = asyncio.Future[DesktopPicture | SessionError]


class PictureDesk:
    """Takes and briefly keeps pictures; one for the node."""

    def __init__(self, *, parts: Parts, node: Node, sessions: Sessions, tasks: Tasks) -> None:
        self._parts = parts
        self._sessions = sessions
        self._tasks = tasks
        self._login = ReturnLogin(parts=parts, node=node)
        self._slots = asyncio.Semaphore(limits.PICTURES_AT_ONCE)
        self._turns: weakref.WeakValueDictionary[UserId, asyncio.Lock] = weakref.WeakValueDictionary()
        """A user's looks come one after the other. A slot goes to who asked first, so users take turns."""
        self._looks: dict[SessionId, _Look] = {}
        self._told: dict[SessionId, set[DeviceId]] = {}
        """Devices whose first look at a session is in the audit log."""
        sessions.listen(self._changed)

    async def look(self, session_id: SessionId, *, user: User, device_id: DeviceId) -> DesktopPicture:
        """Return a picture of the user's own desktop, a few seconds old at most.

        Raises:
            NotFound: not this user's. TransitionRefused: it is not active or held. NotAllowed: a login comes
                first. TooManyAttempts: too many are being taken. PartUnavailable: the desktop shows none.
            RegistryUnavailable: the first look of a device cannot be written down.
        """
        live = self._may_see(session_id, user)
        await self._tell(live, device_id)
        live = self._may_see(session_id, user)
        look = self._looks.get(session_id)
        if look is None:
            waiting = self._waiting()
            if user.id not in waiting and len(waiting) >= limits.PICTURE_USERS_MAX:
                raise TooManyAttempts("Too many pictures are being taken.", retry_after_s=5)
            look = self._looks[session_id] = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._take(live, look), name=f"picture-{session_id}")
        found = await asyncio.shield(look)
        if self._may_see(session_id, user) is not live:
            raise NotFound()
        if isinstance(found, SessionError):
            raise found
        return found

    def _waiting(self) -> set[UserId]:
        """Return the users who wait for a picture."""
        wanted = (self._sessions.find(each) for each, look in self._looks.items() if not look.done())
        return {live.record.user_id for live in wanted if live is not None}

    def _may_see(self, session_id: SessionId, user: User) -> Live:
        """Return the session if its picture may be shown to this user in this moment."""
        live = self._sessions.find(session_id)
        if live is None or live.record.user_id != user.id:
            raise NotFound()
        if live.record.state not in _SEEN or live.handle is None:
            raise TransitionRefused(state=live.record.state.value)
        if self._login.is_needed(live.record):
            raise NotAllowed("After so long away a login comes before the picture.")
        return live

    async def _tell(self, live: Live, device_id: DeviceId) -> None:
        """Write the first look of a device down, before it."""
        told = self._told.setdefault(live.record.id, set())
        if device_id in told:
            return
        entry = AuditEntry(
            kind="picture.looked_at",
            actor=f"user:{live.record.user_id}",
            at_ms=self._parts.clock.wall_ms(),
            session_id=live.record.id,
            workspace_id=live.record.workspace_id,
            user_id=live.record.user_id,
            facts=(("device", device_id),),
        )
        await self._parts.registry.commit(Unit(audit=(entry,)))
        told.add(device_id)

    async def _take(self, live: Live, look: _Look) -> None:
        try:
            found = await self._taken(live)
            if not look.done():
                look.set_result(found)
            await asyncio.sleep(limits.PICTURE_KEPT_S)
        finally:
            if not look.done():  # the service ends, or nobody thought of why it failed
                look.set_result(PartUnavailable("The desktop shows no picture now.", part="desktop"))
            if self._looks.get(live.record.id) is look:
                del self._looks[live.record.id]

    async def _taken(self, live: Live) -> DesktopPicture | SessionError:
        """Take one; its failure is what everybody who asks in the next seconds is told."""
        async with self._turns.setdefault(live.record.user_id, asyncio.Lock()), self._slots:
            record, handle, pictures = live.record, live.handle, self._parts.pictures
            if pictures is None or handle is None or record.state not in _SEEN:
                return PartUnavailable("The desktop shows no picture now.", part="desktop")
            at_ms = self._parts.clock.wall_ms()
            try:
                picture = await pictures.take(socket=handle.socket, uid=handle.uid)
            except SessionError as exc:
                return exc
            return DesktopPicture(taken_at_ms=at_ms, picture=picture)

    def _changed(self, live: Live, effects: tuple[Effect, ...]) -> None:
        if live.record.state in _SEEN:
            return
        self._looks.pop(live.record.id, None)
        if live.record.state is State.CLOSED:
            self._told.pop(live.record.id, None)

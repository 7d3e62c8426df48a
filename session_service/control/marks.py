"""What was promised while the registry was away: on the node's disk first, recorded when it answers again.

Two promises only. A *provisional resume*: a key came back, its link is attached, and the hold it ended must
not end the session later, whatever crashes in between. A *revocation*: keys up to a grant attach no more.
Both only ever keep a desktop or end a dead right, so that memory and a mark on the disk may decide them
(S14). Source: lifecycle.md 5.3; docs/design/0016-returning.md.
"""

import asyncio
from dataclasses import replace

from session_service.base.aio import Tasks
from session_service.base.errors import (
    Conflict,
    DesktopGone,
    NotFound,
    PartUnavailable,
    RegistryUnavailable,
    TransitionRefused,
)
from session_service.base.ids import LinkId
from session_service.base.log import get_logger
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.pause import Pause
from session_service.control.sessions import NO_MARKS, Live, Marks, Sessions
from session_service.core import limits
from session_service.core.changes import Rank
from session_service.core.close_codes import Close
from session_service.core.events import Event
from session_service.core.records import LossCause, State
from session_service.ports.desktops import ObservedDesktop

_RUNNING = (State.ACTIVE, State.HELD)


class MarkBook:
    """The marks of all sessions, and what settles them."""

    def __init__(self, *, parts: Parts, node: Node, sessions: Sessions, tasks: Tasks) -> None:
        self._parts = parts
        self._node = node
        self._sessions = sessions
        self._tasks = tasks
        self._log = get_logger()

    # -- promising ------------------------------------------------------------------------------------

    async def resume(self, live: Live, link_id: str) -> None:
        """Return once the mark is on the disk: the link may be attached then.

        Raises:
            PartUnavailable, DesktopGone: it is not; nobody may be attached.
        """
        # In memory first: from here on no expiry is decided, also while the disk writes. Written each time:
        # that memory has a mark does not say that the disk took it.
        live.marks = replace(live.marks, loss_epoch=live.record.loss_epoch, link_id=link_id)
        try:
            await self._write(live)
        finally:
            self._settle_soon(live)
        self._log.warning("link.provisional", session_id=live.record.id, link_id=link_id)

    async def revoke(self, live: Live, *, actor: str, reason: str) -> None:
        """Void every key that is out there; durable when this returns.

        Raises:
            PartUnavailable, DesktopGone: they are void in memory only.
        """
        live.marks = replace(live.marks, revoked_grant=live.record.grant, actor=actor, reason=reason)
        try:
            await self.known(live)  # else what the disk says of a resume would be written over
            await self._write(live)
        finally:
            self._settle_soon(live)

    def is_revoked(self, live: Live, grant: int) -> bool:
        """Say whether a key was withdrawn and the registry does not know it yet."""
        revoked = live.marks.revoked_grant
        return revoked is not None and grant <= revoked

    async def known(self, live: Live) -> bool:
        """Wait until the disk was asked after a start; False when the host takes too long to answer."""
        try:
            async with asyncio.timeout(limits.MARKS_S_MAX):
                while not live.marks_known:
                    await live.changed.wait()
        except TimeoutError:
            return False
        return True

    # -- settling -------------------------------------------------------------------------------------

    def found(self, live: Live, seen: ObservedDesktop | None) -> None:
        """Take what the disk says, once per life; marks of the last life are settled now."""
        if live.marks_known:
            return
        live.marks_known = True
        if seen is not None:
            revoked = [each for each in (seen.revoked_grant, live.marks.revoked_grant) if each is not None]
            live.marks = replace(
                live.marks,
                loss_epoch=seen.provisional_loss_epoch,
                revoked_grant=max(revoked, default=None),
            )
        self._sessions.tell(live)
        self._settle_soon(live)

    def ended(self, live: Live, link_id: str, cause: LossCause) -> None:
        """A link ended: why a provisional one did is recorded with its loss."""
        if live.marks.link_id == link_id:
            live.marks = replace(live.marks, cause=cause)

    def _settle_soon(self, live: Live) -> None:
        if live.marks != NO_MARKS and not live.settling:
            live.settling = True
            self._tasks.spawn(self._settle(live), name=f"settle-{live.record.id}")

    async def _settle(self, live: Live) -> None:
        """Record what was promised, however long that takes; then clear the mark."""
        pause = Pause(self._parts.ids)
        try:
            while live.marks != NO_MARKS and live.record.state is not State.CLOSED:
                try:
                    await self._settle_once(live)
                except (RegistryUnavailable, Conflict, PartUnavailable, TransitionRefused, TimeoutError):
                    await pause.wait()
                except (NotFound, DesktopGone):
                    return  # Gone from registry or machine: nothing is left that a mark could protect.
        finally:
            live.settling = False

    async def _settle_once(self, live: Live) -> None:
        await self._sessions.refresh(live)  # an answer that was lost may have been a yes
        marks = live.marks
        if live.record.state in _RUNNING:
            if marks.loss_epoch is not None:
                await self._record_resume(live, marks)
            if marks.revoked_grant is not None and live.record.grant <= marks.revoked_grant:
                await self._record_revocation(live, marks)
        elif marks.link_id in live.links:
            # It closed all the same: an expiry that was on its way when the registry went.
            del live.links[marks.link_id]
            self._parts.streams.close_link(
                live.record.id, marks.link_id, code=Close.SAVING, why="hold_expired_saving"
            )
        if live.marks == marks:
            live.marks = NO_MARKS
            await self._write(live)

    async def _record_resume(self, live: Live, marks: Marks) -> None:
        """Record the client that is attached; one that left again, or with the last life, is a new loss with
        a full hold.
        """
        record = live.record
        self._sessions.prune(live)
        attached = marks.link_id in live.links
        if attached and (record.state, record.link_id) == (State.ACTIVE, marks.link_id):
            return
        if not attached and (record.state is State.ACTIVE or record.loss_epoch != marks.loss_epoch):
            return  # Recorded by others since: a later attach, or a later loss.
        link_id = LinkId(marks.link_id or self._parts.ids.ulid())
        await self._sessions.move(
            live,
            Event.CLIENT_RESUMED,
            lambda now: self._node.facts(
                actor=f"user:{now.user_id}",
                link_id=link_id,
                device_id=now.device_id,
                device_label=now.device_label,
                reason="while the registry was away",
            ),
            rank=Rank.RESUME,
        )
        if link_id in live.links:
            return
        await self._sessions.move(
            live,
            Event.CLIENT_DROPPED,
            lambda _: self._node.facts(link_id=link_id, cause=marks.cause),
            rank=Rank.DROP,
        )

    async def _record_revocation(self, live: Live, marks: Marks) -> None:
        event = Event.KEYS_REVOKED if live.record.state is State.HELD else Event.CLIENT_DROPPED
        await self._sessions.move(
            live,
            event,
            lambda now: self._node.facts(
                link_id=now.link_id,
                cause=LossCause.UNKNOWN,
                revoked=True,
                actor=marks.actor,
                reason=marks.reason,
            ),
        )

    async def _write(self, live: Live) -> None:
        """Bring the disk to what memory says now; one at a time, so that the last write is the newest."""
        if live.handle is None:
            raise DesktopGone(session_id=live.record.id)
        async with live.marking, asyncio.timeout(limits.MARKS_S_MAX):
            await self._parts.desktops.mark(
                live.handle,
                provisional_loss_epoch=live.marks.loss_epoch,
                revoked_grant=live.marks.revoked_grant,
            )

"""What the end of a link means for its session, recorded in the background for as long as that takes.

Not the link's end itself: the gateway reports it and goes on. A registry that is away is asked again; a later
attach makes an older loss moot.
"""

from dataclasses import dataclass

from session_service.base.aio import Tasks
from session_service.base.errors import Conflict, NotFound, RegistryUnavailable, TransitionRefused
from session_service.base.ids import LinkId
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.pause import Pause
from session_service.control.sessions import Live, Sessions
from session_service.core.changes import Rank
from session_service.core.events import Event
from session_service.core.records import LossCause, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Endings:
    """Losses, and goodbyes for good."""

    parts: Parts
    node: Node
    sessions: Sessions
    tasks: Tasks

    def lost(self, live: Live, link_id: str, cause: LossCause) -> None:
        """The link that the record names is gone."""
        self.tasks.spawn(self._record_loss(live, link_id, cause), name=f"loss-{link_id}")

    def left(self, live: Live, link_id: str) -> None:
        """Its user ended the session over its link."""
        self.tasks.spawn(self._end(live), name=f"leave-{link_id}")

    async def _record_loss(self, live: Live, link_id: str, cause: LossCause) -> None:
        pause = Pause(self.parts.ids)
        while live.record.link_id == link_id and live.record.state is State.ACTIVE:
            try:
                await self.sessions.move(
                    live,
                    Event.CLIENT_DROPPED,
                    lambda _: self.node.facts(link_id=LinkId(link_id), cause=cause),
                    rank=Rank.DROP,
                )
            except (TransitionRefused, NotFound):
                return
            except (RegistryUnavailable, Conflict):
                await pause.wait()

    async def _end(self, live: Live) -> None:
        pause = Pause(self.parts.ids)
        while live.record.state is not State.CLOSED:
            try:
                await self.sessions.move(
                    live,
                    Event.USER_END,
                    lambda record: self.node.facts(actor=f"user:{record.user_id}", reason="by its page"),
                )
            except (TransitionRefused, NotFound):
                return
            except (RegistryUnavailable, Conflict):
                await pause.wait()
            else:
                return


def cause_of(text: str) -> LossCause:
    """Return the cause that a gateway reports."""
    try:
        return LossCause(text)
    except ValueError:
        return LossCause.UNKNOWN

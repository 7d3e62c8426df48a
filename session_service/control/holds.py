"""Holds: one wheel, one timer, and an expiry that is looked at again inside its transaction.

Not the deadline: that stands in the record. The wheel says whom to look at, the tick before the expiry makes
the counter durable, and the guards of the unit (session, loss epoch, written counter, lease, epoch) decide.
Source: lifecycle.md sections 4.3 and 5.1.
"""

import asyncio

from session_service.base.errors import Conflict, NotFound, RegistryUnavailable, TransitionRefused
from session_service.base.ids import SessionId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.sessions import Live, Sessions
from session_service.core import limits
from session_service.core.changes import CounterReached, Rank
from session_service.core.events import Effect, Event
from session_service.core.records import State
from session_service.core.wheel import Wheel


class Holds:
    """The deadlines of all held sessions."""

    def __init__(self, *, parts: Parts, node: Node, sessions: Sessions, alarms: Alarms) -> None:
        self._parts = parts
        self._alarms = alarms
        self._node = node
        self._sessions = sessions
        self._wheel: Wheel[SessionId] = Wheel()
        self._turned_ms = 0
        sessions.listen(self._changed)

    @property
    def turning(self) -> bool:
        """Say whether the loop made a turn lately; a stalled one makes the node not ready."""
        return self._parts.clock.monotonic_ms() - self._turned_ms <= limits.LOOP_STALL_S_MAX * 1000

    def _changed(self, live: Live, effects: tuple[Effect, ...]) -> None:
        """Keep the wheel as the records are: armed exactly while held."""
        hold = live.record.hold
        if live.record.state is State.HELD and hold is not None:
            self._wheel.set(live.record.id, hold.deadline_ms)
        else:
            self._wheel.remove(live.record.id)

    async def run(self) -> None:
        """Look at the wheel at least once a second; for ever."""
        pause_s = limits.EXPIRY_LOOK_S_MAX
        while True:
            self._turned_ms = self._parts.clock.monotonic_ms()
            await asyncio.sleep(pause_s)
            pause_s = self._pause_s() if await self.look() else limits.EXPIRY_LOOK_S_MAX

    def _pause_s(self) -> float:
        deadline_ms = self._wheel.next_deadline_ms()
        if deadline_ms is None:
            return limits.EXPIRY_LOOK_S_MAX
        left_s = (deadline_ms - self._node.reading_ms()) / 1000
        return min(limits.EXPIRY_LOOK_S_MAX, max(0.05, left_s))

    async def look(self) -> bool:
        """Expire what is due, in slices; say whether all of it could be expired. The rest is looked at
        again.
        """
        while due := self._wheel.due(self._node.reading_ms()):
            lives = [live for key in due if (live := self._sessions.find(key)) is not None]
            if not await self._node.tick():
                for live in lives:
                    self._changed(live, ())
                return False
            async with asyncio.TaskGroup() as group:
                for live in lives:
                    group.create_task(self._expire(live), name=f"expire-{live.record.id}")
            if any(live.record.id in self._wheel and self._is_due(live) for live in lives):
                return False
        return True

    def _is_due(self, live: Live) -> bool:
        hold = live.record.hold
        return hold is not None and hold.deadline_ms <= self._node.reading_ms()

    async def _expire(self, live: Live) -> None:
        before = live.record
        if before.state is not State.HELD or before.hold is None:
            return
        self._sessions.prune(live)
        guard = CounterReached(node_id=self._node.id, at_ms=before.hold.deadline_ms)
        try:
            await self._sessions.move(
                live,
                Event.HOLD_EXPIRED,
                lambda _: self._node.facts(
                    loss_epoch=before.loss_epoch,
                    attached=live.attached,
                    marked=live.marked,
                    actor="system",
                ),
                rank=Rank.EXPIRY,
                guards=(guard,),
            )
        except (TransitionRefused, Conflict, RegistryUnavailable, NotFound):
            # Somebody came back, the hold was extended, or the registry is away: the record decides when to
            # look again.
            self._changed(live, ())
        except Exception as exc:  # noqa: BLE001  # the edge of one expiry: the others end in time
            get_logger().error("task.failed", name="expire", session_id=live.record.id, error=repr(exc))
            self._alarms.raise_("task", f"expire: {exc!r}")
            self._changed(live, ())

"""What runs for a session follows from its state: a starter, a closer, or nothing; and what follows from one
change.

Not decisions: this is called after each change and after each fresh read, whoever made it, and makes memory
match the record. A runner that failed is started again by the reconciler.
"""

import asyncio

from session_service.base.aio import Tasks
from session_service.base.errors import NotFound, RegistryUnavailable, SessionError
from session_service.base.log import get_logger
from session_service.control.closing import Closer
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.pause import Pause
from session_service.control.sessions import Live, Sessions
from session_service.control.starts import Starter
from session_service.core import limits, refusals
from session_service.core.changes import EffectDone, Unit
from session_service.core.events import Effect
from session_service.core.records import State

RUNNING_STATES = frozenset({State.STARTING, State.CLOSING})
ACCESS_STATES = frozenset({State.STARTING, State.ACTIVE, State.HELD})


class Runners:
    """Starts and stops the runner of each session."""

    def __init__(
        self,
        *,
        parts: Parts,
        node: Node,
        sessions: Sessions,
        starter: Starter,
        closer: Closer,
        tasks: Tasks,
    ) -> None:
        self._parts = parts
        self._node = node
        self._sessions = sessions
        self._starter = starter
        self._closer = closer
        self._tasks = tasks
        self.open = False
        """False before the node is settled and again when it ends: no runner is started."""
        sessions.listen(self.arrange)

    def arrange(self, live: Live, effects: tuple[Effect, ...] = ()) -> None:
        """Make what runs match the record. Level, not edge: it may be called at any time."""
        state = live.record.state
        if state not in ACCESS_STATES:
            self._end_access(live)
        if state is State.CLOSED:
            self._sessions.forget(live)
        if state not in (State.STARTING, State.CLOSING):
            live.asked = False
        if Effect.THAW in effects:
            self.thaw(live)
        self._run(live, effects)

    def _run(self, live: Live, effects: tuple[Effect, ...]) -> None:
        state, runner = live.record.state, live.runner
        if live.paused:
            return
        if runner is not None and not runner.done():
            if runner is asyncio.current_task():
                return
            if live.runner_for is state:
                if effects:
                    live.woken.set()
            elif not live.launching and not runner.cancelling():
                # A launch under way is waited for: what it started must be known before it can be closed.
                runner.cancel()
            return
        if state not in RUNNING_STATES or not self.open:
            return
        if live.record.registry_epoch < self._node.epoch:
            return  # not settled: a newer desktop of this workspace may run, which the registry forgot
        work = self._starter.run(live) if state is State.STARTING else self._closer.run(live)
        live.runner_for = state
        live.runner = self._tasks.spawn(work, name=f"{state.value}-{live.record.id}")
        live.runner.add_done_callback(lambda task: self._ended(live, task))

    def _ended(self, live: Live, task: "asyncio.Task[None]") -> None:
        if live.runner is task:
            live.runner = None
        failed = not task.cancelled() and task.exception() is not None
        if not failed and self._sessions.find(live.record.id) is live:
            self._run(live, ())

    async def stop(self, live: Live) -> None:
        """Stop the session's runner and wait for its end; the caller changes the record next, then calls
        `go_on`.
        """
        live.paused = True
        runner = live.runner
        if runner is not None and not runner.done():
            runner.cancel()
            await asyncio.wait([runner])

    def go_on(self, live: Live) -> None:
        """Let what belongs to the record run again."""
        live.paused = False
        self.arrange(live)

    # -- what follows from one change -----------------------------------------------------------------

    def _end_access(self, live: Live) -> None:
        session_id = live.record.id
        open_links = sorted({*self._parts.streams.links(session_id), *live.links, *live.viewers})
        live.links.clear()
        live.viewers.clear()
        if not open_links:
            return
        refusal = refusals.by_state(live.record, saved_as_of_ms=live.lease.saved_as_of_ms)
        assert refusal is not None
        for link_id in open_links:
            self._parts.streams.close_link(session_id, link_id, code=int(refusal.code), why=refusal.why)

    def thaw(self, live: Live) -> None:
        """Let a desktop run again that a close had frozen, however often it takes; the row is removed when
        done.
        """
        self._tasks.spawn(self._thaw(live), name=f"thaw-{live.record.id}")

    async def _thaw(self, live: Live) -> None:
        pause = Pause(self._parts.ids)
        while live.record.state in (State.ACTIVE, State.HELD) and live.handle is not None:
            try:
                async with asyncio.timeout(limits.CALL_S_MAX):
                    await self._parts.desktops.thaw(live.handle)
                await self._effect_done(live)
                get_logger().info("desktop.thawed", session_id=live.record.id)
                return
            except (RegistryUnavailable, SessionError, TimeoutError) as exc:
                if isinstance(exc, NotFound):
                    return
                await pause.wait()

    async def _effect_done(self, live: Live) -> None:
        rows = await self._parts.registry.effects(live.record.id)
        done = tuple(EffectDone(effect_id=row.id) for row in rows if row.kind == Effect.THAW.value)
        if done:
            await self._parts.registry.commit(Unit(writes=done))

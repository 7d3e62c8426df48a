"""What is shown of sessions: views made when asked, and a bounded stream of changes for each watcher.

Not stored and not decided by. A watcher that is slow gets the newest state of each session once, never a
growing list.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from session_service.base.errors import TooManyAttempts
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.sessions import Live, Sessions
from session_service.control.space import STOPPED
from session_service.core import limits
from session_service.core.availability import remaining_ms
from session_service.core.events import Effect
from session_service.core.records import Session, State
from session_service.core.views import SessionView


class _Watcher:
    """One reader's notes: the sessions that changed since it last looked, each once."""

    def __init__(self) -> None:
        self.notes: dict[str, Live] = {}
        self.filled = asyncio.Event()

    def note(self, live: Live) -> None:
        self.notes[live.record.id] = live
        self.filled.set()


class Watch:
    """Views and watchers."""

    def __init__(self, *, parts: Parts, node: Node, sessions: Sessions) -> None:
        self._parts = parts
        self._node = node
        self._watchers: dict[int, _Watcher] = {}
        self._next = 0
        sessions.listen(self._changed)

    def _changed(self, live: Live, effects: tuple[Effect, ...]) -> None:
        for watcher in self._watchers.values():
            watcher.note(live)

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[SessionView]]:
        """Give the changes from now on, inside of the block.

        A block, because a generator that was never asked for its first value runs no `finally`: a page that
        left at once would be a watcher for ever.

        Raises:
            TooManyAttempts: too many watch already.
        """
        if len(self._watchers) >= limits.SUBSCRIBERS_MAX:
            raise TooManyAttempts("Too many pages watch at the same time.")
        self._next += 1
        key, watcher = self._next, _Watcher()
        self._watchers[key] = watcher
        try:
            yield self._changes(watcher)
        finally:
            del self._watchers[key]

    async def _changes(self, watcher: _Watcher) -> AsyncIterator[SessionView]:
        while True:
            await watcher.filled.wait()
            watcher.filled.clear()
            notes, watcher.notes = watcher.notes, {}
            for live in notes.values():
                yield self.view(live)

    def view(self, live: Live) -> SessionView:
        """Return one open session as it is now."""
        record, link = live.record, live.recorded_link()
        left_ms = None
        if record.hold is not None:
            left_ms = remaining_ms(deadline_ms=record.hold.deadline_ms, reading_ms=self._node.reading_ms())
        return SessionView(
            session=record,
            workspace_name=live.workspace_name,
            user_name=live.user_name,
            hold_remaining_s=left_ms / 1000 if left_ms is not None else None,
            hold_deadline_ms=self._parts.clock.wall_ms() + left_ms if left_ms is not None else None,
            counting=self._node.counting,
            saved_as_of_ms=live.lease.saved_as_of_ms,
            saved_seq=live.lease.saved_seq,
            pending_files=live.pending.files if live.pending is not None else None,
            pending_bytes=live.pending.bytes if live.pending is not None else None,
            pending_looked_at_ms=live.pending.looked_at_ms if live.pending is not None else None,
            link_since_ms=link.since_ms if link is not None else None,
            links=len(self._parts.streams.links(record.id)),
            address=link.address if link is not None else "",
            progress_stage=live.progress.stage if live.progress is not None else "",
            progress_done=live.progress.done if live.progress is not None else 0,
            progress_total=live.progress.total if live.progress is not None else None,
            progress_unit=live.progress.unit if live.progress is not None else "",
            progress_per_s=live.rate.per_s if live.progress is not None else None,
            progress_left_s=live.rate.left_s if live.progress is not None else None,
            save_interval_s=live.pace.interval_s if live.pace is not None else None,
            save_rule=live.pace.rule.value if live.pace is not None else "",
            save_promise_s=live.pace.promise_s if live.pace is not None else None,
            step_error=live.trouble.error or (STOPPED if live.crowded else ""),
            step_since_ms=live.trouble.since_ms,
            step_attempts=live.trouble.attempts,
            network=live.handle.network if live.handle is not None else "",
            limits_missing=(*live.limits_missing, *(("space",) if live.crowded else ())),
        )

    async def closed(self, record: Session) -> SessionView:
        """Return a closed session, joined with what the registry says."""
        registry = self._parts.registry
        workspace = await registry.workspace(record.workspace_id)
        user = await registry.user(record.user_id)
        lease = await registry.lease(record.workspace_id)
        saved = record.state is State.CLOSED and lease is not None
        return SessionView(
            session=record,
            workspace_name=workspace.name if workspace is not None else "",
            user_name=user.name if user is not None else "",
            saved_as_of_ms=lease.saved_as_of_ms if saved and lease is not None else None,
            saved_seq=lease.saved_seq if saved and lease is not None else None,
        )

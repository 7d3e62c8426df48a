"""The live stream of changes (server-sent events): a snapshot, then each session and alarm that changes.

Not a log: changes of one session that come faster than they are read become one, and a reader that comes
back gets a new snapshot whatever `Last-Event-ID` it names. Bounded everywhere: one entry per session
waits, a reader that takes nothing is cut off, and one that may no longer read is gone within two seconds.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from session_service.base import errors
from session_service.core.views import SessionView
from session_service.http import answers, limits, render
from session_service.http.instants import iso
from session_service.http.routes import Exchange
from session_service.http.serve import begin_stream, unbuffered


async def stream(exchange: Exchange) -> web.StreamResponse:
    """Send changes until the reader leaves, may no longer read, or the service stops."""
    services = exchange.services
    async with services.streams.turn(exchange.caller.user.id):
        response = unbuffered("text/event-stream")
        mailbox = _Mailbox()
        reader = _Reader(exchange, response, mailbox)
        try:
            with services.control.subscribe() as changes:
                # Before the head, which promises a stream: without a registry it is a problem document.
                views = await reader.seen()
                await begin_stream(exchange, response)
                async with asyncio.TaskGroup() as group:
                    collecting = group.create_task(_collect(changes, mailbox), name="events-collect")
                    try:
                        await reader.run(views)
                    finally:
                        collecting.cancel()
        except* (ConnectionError, TimeoutError):
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
    return response


class _Mailbox:
    """The newest view of each session that changed since the reader took it."""

    def __init__(self) -> None:
        self._waiting: dict[str, SessionView] = {}
        self.news = asyncio.Event()

    def put(self, view: SessionView) -> None:
        self._waiting[view.session.id] = view
        self.news.set()

    def take(self) -> list[SessionView]:
        views, self._waiting = list(self._waiting.values()), {}
        self.news.clear()
        return views


async def _collect(changes: AsyncIterator[SessionView], mailbox: _Mailbox) -> None:
    async for view in changes:
        mailbox.put(view)


class _Reader:
    """One reader of the stream and what it was told."""

    def __init__(self, exchange: Exchange, response: web.StreamResponse, mailbox: _Mailbox) -> None:
        self._exchange = exchange
        self._services = exchange.services
        self._caller = exchange.caller
        self._response = response
        self._mailbox = mailbox
        self._number = 0
        self._alarms: list[answers.AlarmOut] = []
        self._told_ms = self._looked_ms = self._services.clock.monotonic_ms()

    async def seen(self) -> Sequence[SessionView]:
        """Return the sessions that this reader may see. Raises RegistryUnavailable."""
        user_id = None if self._caller.may_operate else self._caller.user.id
        return await self._services.control.views(user_id=user_id)

    async def run(self, views: Sequence[SessionView]) -> None:
        """Send a snapshot of `views`, then changes; returns when this reader is to be left."""
        await self._snapshot(views)
        while not self._services.streams.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.STREAM_LOOK_S):
                    await self._mailbox.news.wait()
            if self._is_gone() or not await self._may_still_read():
                return
            for view in self._mailbox.take():
                if self._may_see(view):
                    await self._send("session", self._shown(view))
            await self._alarm_changes()
            if self._services.clock.monotonic_ms() - self._told_ms >= limits.STREAM_HEARTBEAT_S * 1000:
                await self._write(b": heartbeat\n")
                await self._send("beat", {"time": iso(self._services.clock.wall_ms())})

    async def _snapshot(self, views: Sequence[SessionView]) -> None:
        self._alarms = self._visible_alarms()
        await self._write(b"retry: 2000\n")
        await self._send(
            "snapshot",
            {
                "time": iso(self._services.clock.wall_ms()),
                "sessions": [self._shown(view) for view in views],
                "alarms": [alarm.model_dump() for alarm in self._alarms],
            },
        )

    def _may_see(self, view: SessionView) -> bool:
        return self._caller.may_operate or view.session.user_id == self._caller.user.id

    def _shown(self, view: SessionView) -> object:
        return render.session(view, for_operator=self._caller.may_operate).model_dump()

    def _visible_alarms(self) -> list[answers.AlarmOut]:
        if not self._caller.may_operate:
            return []
        return render.alarms(self._services.control.alarms()).items

    async def _alarm_changes(self) -> None:
        now = self._visible_alarms()
        if now != self._alarms:
            self._alarms = now
            await self._send("alarm", {"alarms": [alarm.model_dump() for alarm in now]})

    def _is_gone(self) -> bool:
        transport = self._exchange.request.transport
        return transport is None or transport.is_closing()

    async def _may_still_read(self) -> bool:
        now = self._services.clock.monotonic_ms()
        if now - self._looked_ms < limits.STREAM_LOOK_S * 1000:
            return True
        self._looked_ms = now
        try:
            return await self._services.identification.is_still(self._caller)
        except errors.RegistryUnavailable:
            return True  # nobody could sign anybody out meanwhile either

    async def _send(self, kind: str, data: object) -> None:
        self._number += 1
        text = json.dumps(data, separators=(",", ":"))
        await self._write(f"id: {self._number}\nevent: {kind}\ndata: {text}\n\n".encode())

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(limits.STREAM_WRITE_S):
            await self._response.write(data)
        self._told_ms = self._services.clock.monotonic_ms()

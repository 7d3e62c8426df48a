"""Clients for the conformance kit: the Python SDK as it is, and the same with one thing broken.

The real shell and the real core; a broken one differs in one or two methods, as a client's author would get
them wrong.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from session_service.base import errors
from session_service.client.api import Api
from session_service.client.desktop import Desktop
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.client.transport import Transport
from session_service.conformance.casework import Place
from session_service.core.continuity.client import Client

Make = Callable[..., ResumableStream]


class SdkDriver:
    """The SDK under test, in this process."""

    def __init__(
        self, stream: Make = ResumableStream, core: type[Client] | None = None, *, forgets_ticket: bool = True
    ) -> None:
        self._stream = stream
        self._core = core
        self._forgets_ticket = forgets_ticket
        self._tasks: list[asyncio.Task[None]] = []
        self.desktop: Desktop | None = None
        self.ended: list[str] = []

    async def start(self, place: Place) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(place), name="client"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, place: Place) -> None:
        async with Transport(place.url, token=place.token) as transport:
            api = Api(transport)
            tickets: list[Ticket] = []

            async def ticket() -> Ticket:
                if self._forgets_ticket or not tickets:
                    tickets.append(await api.ticket(place.session_id))
                return tickets[-1]

            stream = self._stream(place.url, ticket)
            if self._core is not None:
                old: Any = stream._client
                stream._client = self._core(aud=old.aud, path=old.path, draw=old._draw)
            try:
                async with Desktop(stream) as self.desktop:
                    async for _ in self.desktop.events():
                        pass
            except errors.SessionError as exc:
                self.ended.append(exc.code)

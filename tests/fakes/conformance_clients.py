"""Clients for the conformance kit: the Python SDK as it is, the same with one thing broken, and `connect`.

The real shell and the real core; a broken one differs in one or two methods, as a client's author would get
them wrong. The wall clock can be set for all of them at once, which is that of this process.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from session_service.base import errors
from session_service.cli.connecting import LocalPort
from session_service.client.api import Api
from session_service.client.desktop import Desktop
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.client.transport import Transport
from session_service.conformance.casework import Place
from session_service.core.continuity.client import Client
from tests.fakes.rfb_client import RfbClient

GREET_S = 120.0
"""Viewers wait for a desktop that starts slowly; only their user gives up."""
Make = Callable[..., ResumableStream]


class WallClock:
    """The wall clock of this process, set forward and back. The monotonic clock goes on as it does."""

    forward_s = 0.0

    @classmethod
    @contextmanager
    def movable(cls) -> Iterator[None]:
        """Read the wall clock through this class."""
        real, cls.forward_s = time.time, 0.0
        time.time = lambda: real() + cls.forward_s
        try:
            yield
        finally:
            time.time = real

    async def jump(self, seconds: float) -> None:
        """Set it."""
        WallClock.forward_s += seconds


class SdkDriver(WallClock):
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
        await self.over()

    async def over(self) -> None:
        """Return when it has ended."""
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


class ConnectDriver(WallClock):
    """`session-service connect` in this process, and an ordinary viewer on its local port."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self.told: list[str] = []
        self.ended: list[str] = []

    async def start(self, place: Place) -> None:
        loop = asyncio.get_running_loop()
        local = LocalPort(lambda: self._stream(place), tell=self.told.append)
        self._transport = Transport(place.url, token=place.token)
        self._tasks = [
            loop.create_task(self._run(local), name="connect"),
            loop.create_task(self._look(local), name="viewer"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stream(self, place: Place) -> ResumableStream:
        return ResumableStream(place.url, lambda: Api(self._transport).ticket(place.session_id))

    async def _run(self, local: LocalPort) -> None:
        async with self._transport:
            try:
                await local.run(0)
            except errors.SessionError as exc:
                self.ended.append(exc.code)

    async def _look(self, local: LocalPort) -> None:
        """Take pictures all the time; when the socket is closed, dial again, as people do."""
        while not self.ended:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                async with RfbClient(local.port, greet_s=GREET_S) as viewer:
                    while True:
                        await viewer.update()
            await asyncio.sleep(0.05)

"""A TCP proxy that cuts: in the middle of whatever is on its way, and in odd pieces before."""

import asyncio
import random
from types import TracebackType

from session_service.base.aio import Tasks


class CuttingProxy:
    """Forwards bytes between its port and another one until `cut()`; new ones are taken at once."""

    def __init__(self, port: int, *, seed: int = 0) -> None:
        self._target = port
        self._chance = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._pumps = Tasks(lambda name, error: self.errors.append(error))
        self.errors: list[BaseException] = []
        self.port = 0
        self.cuts = 0
        self.bytes_forwarded = 0
        self.down = False
        """While True nobody gets through."""

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await self._pumps.close()
        await self._server.wait_closed()
        assert not self.errors, self.errors

    def cut_all(self) -> None:
        """Reset every pair, each in its own way."""
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            self.cuts += 1
            for writer in self._chance.sample([near, far], 2):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            if self.down:
                near.transport.abort()
                return
            there, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        self._pairs.append((near, far))
        self._pumps.spawn(self._pump(reader, far), name="up")
        self._pumps.spawn(self._pump(there, near), name="down")

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            # Small and odd pieces, so that a cut falls inside of frames and messages.
            while data := await source.read(self._chance.randrange(1, 5000)):
                self.bytes_forwarded += len(data)
                sink.write(data)
                await sink.drain()
            sink.close()
        except (OSError, RuntimeError):
            sink.transport.abort()

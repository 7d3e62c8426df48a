"""A TCP proxy that can fall silent in the middle of a connection: the peer's end of a pulled cable.

Both sockets stay open and say nothing any more, so that neither side is told; what was sent before still
arrives.
"""

import asyncio
from types import TracebackType


class SilentProxy:
    """Forwards bytes between its port and another one until `silence()`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._silent = False
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> "SilentProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """From now on nothing is read and nothing is sent."""
        self._silent = True
        for writer in self._writers:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # typed as write-only, it is both

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        async with asyncio.TaskGroup() as group:
            for source, sink in ((reader, back), (there, writer)):
                self._pumps.add(group.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if self._silent:
                    return
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # The other side is gone; that is what the test is about.
        if not self._silent:
            sink.close()

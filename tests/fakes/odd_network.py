"""A network that answers in the service's place, or lets pages through and no websockets: as hotels do."""

import asyncio
import contextlib
from typing import Final, Literal

from session_service.base.aio import Tasks

_HEAD_BYTES_MAX: Final = 65_536
_PORTAL: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b"<h1>Welcome!</h1>\r\n"
)
_REFUSED: Final = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class OddNetwork:
    """Carries everything between its port and another one until `manner` says otherwise."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pumps = Tasks(lambda name, error: self.errors.append(error))
        self._writers: set[asyncio.StreamWriter] = set()
        self.errors: list[BaseException] = []
        self.port = 0
        self.manner: Literal["clear", "portal", "no_websockets"] = "clear"

    async def __aenter__(self) -> "OddNetwork":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        await self._pumps.close()
        await self._server.wait_closed()
        assert not self.errors, self.errors

    def cut_all(self) -> None:
        """Reset everything that is open."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self._writers.add(near)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            near.transport.abort()
            return
        is_websocket = b"upgrade: websocket" in head.lower()
        if self.manner == "portal" or (self.manner == "no_websockets" and is_websocket):
            near.write(_PORTAL if self.manner == "portal" else _REFUSED)
            with contextlib.suppress(OSError):
                await near.drain()
            near.close()
            return
        try:
            there, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        self._writers.add(far)
        far.write(head)
        self._pumps.spawn(self._pump(reader, far), name="up")
        self._pumps.spawn(self._pump(there, near), name="down")

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_HEAD_BYTES_MAX):
                sink.write(data)
                await sink.drain()
            sink.close()
        except (OSError, RuntimeError):
            sink.transport.abort()

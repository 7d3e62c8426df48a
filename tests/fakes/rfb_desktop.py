"""A desktop that is only its RFB socket: says hello, notes every whole client message, answers as it is told.

Not a screen. It is stricter than Xvnc: a client message that is cut or unknown fails the test that looks at
`errors`.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from session_service.core import rfb
from tests.fakes.until import until

SERVER_INIT = (
    (640).to_bytes(2, "big") + (480).to_bytes(2, "big") + bytes(16) + (4).to_bytes(4, "big") + b"fake"
)


class FakeDesktop:
    """Listens on a unix socket; each connection is a `Viewer`."""

    def __init__(self, path: Path, *, answer: Callable[["Viewer", bytes], None] | None = None) -> None:
        self.path = path
        self.answer = answer
        self.viewers: list[Viewer] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "FakeDesktop":
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Viewer(self), str(self.path)
        )
        os.chmod(self.path, 0o660)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for viewer in self.viewers:
            if viewer.transport is not None:
                viewer.transport.abort()

    async def viewer(self, number: int = 0) -> "Viewer":
        """Wait until that many clients were connected and have said all of the handshake."""
        await until(lambda: len(self.viewers) > number and self.viewers[number].greeted)
        return self.viewers[number]


class Viewer(asyncio.Protocol):
    """The desktop's end of one leg."""

    def __init__(self, desktop: FakeDesktop) -> None:
        self.desktop = desktop
        self.transport: asyncio.Transport | None = None
        self.greeted = False
        self.shared = b""
        self.messages: list[bytes] = []
        self.errors: list[str] = []
        self.closed = asyncio.Event()
        self.full = False
        self._stage = 0
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.desktop.viewers.append(self)
        self.transport.write(b"RFB 003.008\n")

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self._pending += data
        while self._pending:
            if self._stage == 0:
                if len(self._pending) < 12:
                    return
                self._pending = self._pending[12:]
                self.transport.write(b"\x01\x01")
            elif self._stage == 1:
                self._pending = self._pending[1:]
                self.transport.write(bytes(4))
            elif self._stage == 2:
                self.shared, self._pending = self._pending[:1], self._pending[1:]
                self.transport.write(SERVER_INIT)
                self.greeted = True
            elif not self._message():
                return
            self._stage += 1

    def _message(self) -> bool:
        length = client_message_length(self._pending)
        if length is None or len(self._pending) < length:
            return False
        message, self._pending = self._pending[:length], self._pending[length:]
        self.messages.append(message)
        if self.desktop.answer is not None:
            self.desktop.answer(self, message)
        return True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pending and self._stage > 2:
            self.errors.append(f"a cut message of {len(self._pending)} bytes")
        self.closed.set()

    async def wait_messages(self, count: int, limit_s: float = 20.0) -> list[bytes]:
        """Wait until that many messages came."""
        await until(lambda: len(self.messages) >= count, limit_s)
        return self.messages


def client_message_length(data: bytes) -> int | None:
    """The length of the message that `data` begins with, None when that is not known yet; an own, slow
    reading.
    """
    kind = data[0]
    fixed = {rfb.SET_PIXEL_FORMAT: 20, rfb.UPDATE_REQUEST: 10, rfb.KEY: 8, rfb.POINTER: 6, 150: 10, 250: 4}
    if kind in fixed:
        return fixed[kind]
    if kind == rfb.QEMU:
        return 12
    where, size, base, each = {
        rfb.SET_ENCODINGS: (2, 2, 4, 4),
        rfb.CUT_TEXT: (4, 4, 8, 1),
        rfb.FENCE: (8, 1, 9, 1),
        rfb.SET_DESKTOP_SIZE: (6, 1, 8, 16),
    }[kind]
    if len(data) < where + size:
        return None
    signed = kind == rfb.CUT_TEXT
    return base + each * abs(int.from_bytes(data[where : where + size], "big", signed=signed))

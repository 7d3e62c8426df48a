"""Asks our own public port whether users could reach us; the availability clock counts only while it answers.

Not a health page: the answer is for ourselves. A loop that stands still cannot answer its own port, so a
stall stops the clock, too.
"""

import asyncio
import contextlib
from typing import Final

EVERY_S: Final = 1.0
ANSWER_S: Final = 1.0
"""A port that takes longer is not one that users could come back to."""
FRESH_S: Final = 3.5
"""An answer older than this says nothing about now."""
_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class PortProbe:
    """Looks at one port once a second."""

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls
        self._address: tuple[str, int] | None = None
        self._answered_at: float | None = None

    def listen(self, host: str, port: int) -> None:
        """Note where the port is; a wildcard is asked through the loopback."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        self._address = (everywhere.get(host, host), port)
        self._answered_at = asyncio.get_running_loop().time()

    def accepting(self) -> bool:
        """Say whether the port answered a moment ago."""
        at = self._answered_at
        return at is not None and asyncio.get_running_loop().time() - at < FRESH_S

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    if await self._ask():
                        self._answered_at = asyncio.get_running_loop().time()
            await asyncio.sleep(EVERY_S)

    async def _ask(self) -> bool:
        assert self._address is not None
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            if self._tls:
                return True
            writer.write(_REQUEST)
            return (await reader.readline()).split(b" ")[1:2] == [b"200"]
        finally:
            writer.transport.abort()

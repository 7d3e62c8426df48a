"""One gateway process as the service sees it: what it was told, what it has done of it, which links it has.

Not the process: that is `process.py`. Orders go out in the order they were given, and whoever attaches a
client can wait until they were carried out, because a displaced link must be read no more before the newer
one is answered.
"""

import asyncio
import socket
from typing import Final

import msgspec

from session_service.gateway.messages import DesktopOf, Serve, Told
from session_service.gateway.passing import Passer
from session_service.gateway.stats import GatewayStats
from session_service.ports.streams import Attachment

SETTLE_S: Final = 1.0
"""For an order to be carried out; a gateway process that takes longer stands still, and its links do, too."""


class Outpost:
    """A gateway process that has joined."""

    def __init__(self, serve: Serve) -> None:
        self.shard = serve.shard
        self.process_id = serve.process_id
        self.links: dict[str, str] = {}
        """Session ids of the links that were attached there, by link id."""
        self.due: dict[str, Attachment] = {}
        """By link id: where a link leads whose desktop was not asked for yet. It may be asked for once."""
        self.connecting: set[str] = set()
        """Link ids whose desktop is being connected; taken out where it shall not be handed on any more."""
        self.stats = GatewayStats()
        self.passer: Passer | None = None
        self.is_gone = False
        self.orders: asyncio.Queue[Told | None] = asyncio.Queue()
        """None ends the call: another process has its place."""
        self._told = self._heard = 0
        self._changed = asyncio.Event()

    def tell(self, told: Told) -> None:
        """Give an order; it is sent in this order by the call that `serve` is."""
        self._told += 1
        self.orders.put_nowait(msgspec.structs.replace(told, number=self._told))

    def heard(self, number: int) -> None:
        """Everything up to `number` was carried out there."""
        self._heard = max(self._heard, number)
        self._changed.set()

    def forget(self, link_id: str) -> None:
        """It is closed, or shall be: no desktop is handed on for it. Unknown is done."""
        self.due.pop(link_id, None)
        self.connecting.discard(link_id)

    def hand_on(self, what: DesktopOf, connected: socket.socket) -> bool:
        """Give the process a descriptor of a desktop's socket; False: it cannot be sent."""
        return self.passer is not None and self.passer.take(what, connected.fileno())

    async def settled(self) -> None:
        """Return when every order given so far was carried out, or the process is gone or stands still."""
        wanted = self._told
        if self._heard >= wanted or self.is_gone:
            return
        try:
            async with asyncio.timeout(SETTLE_S):
                while self._heard < wanted and not self.is_gone:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def leave(self) -> None:
        """The process is gone. Repeating this is harmless."""
        self.is_gone = True
        self.orders.put_nowait(None)
        self._changed.set()
        if self.passer is not None:
            self.passer.close()
            self.passer = None

"""Where clients wait that a person starts by hand: one session for all cases, one case after the other.

Not a case and not a desk: between two cases nobody is attached, whoever asks for a ticket waits until the
next case begins because of it, and whatever an older client still says is told that the session was ended.
"""

import asyncio

from session_service.conformance.casework import Place
from session_service.conformance.desk import Desk


class Lobby:
    """One session for all cases, one after the other: a client waits here for its ticket until a case begins.

    What an older client says meanwhile is told that the session was ended.
    """

    def __init__(self, *, shard: str, session_id: str, aud: str) -> None:
        self.shard, self.session_id = shard, session_id
        self.nobody = Desk(shard=shard, session_id=session_id, aud=aud)
        self.nobody.refuses_all = True
        self._guests = 0
        self._guest = asyncio.Event()
        self._ready = asyncio.Event()
        self._now: Desk | None = None

    async def desk(self) -> Desk:
        """Return the desk of the case that runs, or that begins because of this guest."""
        self._guests += 1
        self._guest.set()
        try:
            await self._ready.wait()
        finally:
            self._guests -= 1
        assert self._now is not None
        return self._now

    async def guest(self) -> None:
        """Wait until a client asks for a ticket while no case runs; one that waits already will do."""
        while not self._guests:
            self._guest.clear()
            await self._guest.wait()

    def seat(self, desk: Desk) -> None:
        """A case begins."""
        self._now = desk
        self._ready.set()

    def close(self) -> None:
        """It is over."""
        self._now = None
        self._ready.clear()


class ByHand:
    """The driver of a client that somebody starts: it waits in the lobby, and nothing here touches it."""

    async def start(self, place: Place) -> None:
        """Do nothing: the client that waits in the lobby is the one."""

    async def stop(self) -> None:
        """Do nothing: it is told that the session was ended."""

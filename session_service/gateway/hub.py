"""What all connections of one gateway share: limits, counters, the ticker, and who is there.

Not behaviour: connections act, this remembers. There is one per gateway, made by it and passed on by hand.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from session_service.base.aio import Tasks
from session_service.gateway.address import Networks
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.liveness import Ticker
from session_service.gateway.regular_ends import RegularEnds
from session_service.gateway.rings import Rings
from session_service.gateway.socket_options import SocketOptions
from session_service.gateway.soon import Soon
from session_service.gateway.stats import GatewayStats
from session_service.ports.clock import Ids
from session_service.ports.streams import Attachments, PlannedPause

if TYPE_CHECKING:
    from session_service.gateway.passing import Owner
    from session_service.gateway.resumable_stream import ResumableStream


class Connect(Protocol):
    """Whoever connects the desktop of a session for a link."""

    async def __call__(self, session_id: str, link_id: str, /) -> socket.socket: ...


class Waiting(Protocol):
    """A socket without a first message."""

    def reset(self) -> None:
        """Drop it at once."""
        ...


class OpenLink(Protocol):
    """A link as the others see it."""

    @property
    def session_id(self) -> str: ...
    @property
    def payload_bytes(self) -> tuple[int, int]: ...
    def close_link(self, code: int, why: str, by: str) -> None: ...
    def tell_pause(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Hub:
    """Shared state of one gateway."""

    attachments: Attachments
    ids: Ids
    http: Callable[[], asyncio.Protocol]
    """Makes the protocol of every connection that is not ours: aiohttp's `AppRunner.server`."""
    origins: Callable[[], Collection[str]]
    """The public origins now, e.g. {"https://desk.example"}."""
    shard: str
    own: bytes
    """How the usual request for `shard` begins."""
    shards: frozenset[str]
    """All that are valid in a path; those of others are served here while their process is away."""
    elsewhere: "Callable[[str], Owner | None]"
    """Who takes the connections of another shard."""
    trusted: Networks
    limits: GatewayLimits
    stats: GatewayStats
    ticker: Ticker
    tasks: Tasks
    log: Any
    rings: Rings
    options: SocketOptions
    soon: Soon = field(default_factory=Soon)
    desktops: "Connect | None" = None
    """Who connects desktops for us; None: we may do it ourselves."""
    streams: "dict[str, ResumableStream]" = field(default_factory=dict)
    """The resumable stream of a session, attached or not."""
    planned: PlannedPause | None = None
    """The pause that is announced now."""
    regular: RegularEnds = field(default_factory=RegularEnds)
    relayed: int = 0
    """Connections over our own TLS whose inner bytes go to another process: two descriptors each."""
    clock: Callable[[], float] | None = None
    """The loop's, since the first link; read by `time`."""
    is_closing: bool = False
    waiting: OrderedDict[Waiting, None] = field(default_factory=OrderedDict)
    """Oldest first."""
    handshakes: OrderedDict[Waiting, None] = field(default_factory=OrderedDict)
    """Those of `waiting` whose TLS is not agreed on yet, oldest first."""
    links: dict[str, OpenLink] = field(default_factory=dict)
    """By link id, from before control is asked, so that a close that comes first finds its link."""
    sessions: dict[str, set[str]] = field(default_factory=dict)
    """Link ids by session."""
    connections: set[OpenLink] = field(default_factory=set)
    """Every upgraded socket that is not closed yet, those that only wait for their end included."""
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last of `connections` has gone while closing."""

    def time(self) -> Callable[[], float]:
        """Return the loop's clock, the same object for all links."""
        if self.clock is None:
            self.clock = asyncio.get_running_loop().time
        return self.clock

    def enter(self, link: OpenLink) -> None:
        """An upgraded socket is there."""
        self.connections.add(link)

    def leave(self, link: OpenLink) -> None:
        """It is closed; repeating this is harmless."""
        self.connections.discard(link)
        if self.is_closing and not self.connections:
            self.empty.set()

    def relay_ended(self) -> None:
        """The client of a relay is gone."""
        self.relayed -= 1

    def wait_for_first(self, newest: Waiting) -> None:
        """Note a socket without a first message; at the limit the oldest makes room."""
        if len(self.waiting) >= self.limits.waiting_sockets_max:
            self._make_room(self.waiting)
        self.waiting[newest] = None

    def begin_handshake(self, newest: Waiting) -> None:
        """Note a socket whose TLS is to be agreed on; at the limit the oldest of them makes room."""
        if len(self.handshakes) >= self.limits.handshakes_max:
            self._make_room(self.handshakes)
        self.wait_for_first(newest)
        self.handshakes[newest] = None

    def end_handshake(self, one: Waiting) -> None:
        """It is agreed on, or never will be; repeating this is harmless."""
        self.handshakes.pop(one, None)
        self.waiting.pop(one, None)

    def _make_room(self, among: OrderedDict[Waiting, None]) -> None:
        oldest, _ = among.popitem(last=False)
        self.stats.waiting_reset += 1
        oldest.reset()

    def end_stream(self, session_id: str) -> None:
        """Nobody may come back to a session's stream any more; unknown is done."""
        stream = self.streams.get(session_id)
        if stream is not None:
            stream.end()

    def add_link(self, session_id: str, link_id: str) -> None:
        """A link leads to a session from now on."""
        self.sessions.setdefault(session_id, set()).add(link_id)
        self.stats.links_opened += 1

    def remove_link(self, session_id: str, link_id: str) -> None:
        """It leads nowhere any more; repeating this is harmless."""
        self.links.pop(link_id, None)
        known = self.sessions.get(session_id)
        if known is not None:
            known.discard(link_id)
            if not known:
                del self.sessions[session_id]

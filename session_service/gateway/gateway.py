"""The gateway as the rest of the program sees it: made by hand, listening on one port, told by control whom
to close.

Not a decision about sessions: control owns those and is asked through `Attachments`. This is the place
where one gateway's parts are put together, and where they are ended in order: intake, links, legs, tasks.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from session_service.base.aio import Tasks
from session_service.core.close_codes import Close
from session_service.core.shards import FIRST
from session_service.gateway.address import Networks
from session_service.gateway.front import Front
from session_service.gateway.hub import Connect, Hub
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.liveness import Ticker
from session_service.gateway.messages import Passed
from session_service.gateway.passing import Owner
from session_service.gateway.rings import Rings, share_of_memory
from session_service.gateway.socket_options import SocketOptions
from session_service.gateway.stats import GatewayStats
from session_service.gateway.tls_door import TlsDoor
from session_service.ports.clock import Ids
from session_service.ports.streams import Attachments, PlannedPause

SHARD = FIRST
SLICE: Final = 128
"""Links that are told something in one turn of the loop: ten thousand of them must stop no stream."""
T = TypeVar("T")


async def _in_slices(all_: Iterable[T]) -> AsyncIterator[T]:
    """Yield what there is now, with a turn for everybody else behind each slice."""
    for number, one in enumerate(tuple(all_), start=1):
        yield one
        if number % SLICE == 0:
            await asyncio.sleep(0)


def _nobody(_shard: str) -> None:
    return None


class Gateway:
    """One gateway. It is a `ports.streams.Streams` for control.

    Args:
        attachments: what control answers.
        http: makes the protocol of every connection that is no websocket of ours, e.g. aiohttp's
        `AppRunner.server`. origins: the public origins now, like "https://desk.example" or
        "http://127.0.0.1:8080". ids: fresh link ids.
        trusted: networks of the proxies in front, whose X-Forwarded-For is believed; none without
        `--behind-proxy`. limits: shortened by tests only.
        shard: the part of the path that names this gateway.
        shards: all of them; this gateway serves one whose process is away.
        elsewhere: who takes the connections of another shard; None when nobody is there.
        desktops: connects desktops; None where we may do it ourselves.
    """

    def __init__(
        self,
        *,
        attachments: Attachments,
        http: Callable[[], asyncio.Protocol],
        origins: Callable[[], Collection[str]],
        ids: Ids,
        trusted: Networks = (),
        limits: GatewayLimits | None = None,
        shard: str = SHARD,
        shards: Collection[str] = (),
        elsewhere: Callable[[str], Owner | None] = _nobody,
        desktops: Connect | None = None,
    ) -> None:
        limits = limits or GatewayLimits()
        stats = GatewayStats()
        self._hub = Hub(
            attachments=attachments,
            ids=ids,
            http=http,
            origins=origins,
            shard=shard,
            own=f"GET /s/{shard}/".encode(),
            shards=frozenset((shard, *shards)),
            elsewhere=elsewhere,
            desktops=desktops,
            trusted=trusted,
            limits=limits,
            stats=stats,
            ticker=Ticker(tick_s=limits.tick_s, stall_s=limits.stall_s, stats=stats),
            tasks=Tasks(self._task_failed),
            log=structlog.get_logger().bind(),  # once, and not again for each line
            options=SocketOptions(limits),
            rings=Rings(
                bytes_max=limits.rings_bytes_max or share_of_memory(limits.rings_share),
                quiet_s=limits.ack_quiet_s,
            ),
        )
        self._servers: list[asyncio.Server | TlsDoor] = []

    def front(self) -> asyncio.Protocol:
        """Return the protocol of a new connection; for whoever listens by himself."""
        return Front(self._hub)

    async def listen(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> tuple[tuple[str, int], ...]:
        """Take connections; return the addresses that are listened on. Port 0 takes a free one."""
        listening = socket.create_server((host, port), backlog=self._hub.limits.backlog)
        await self.listen_on([listening], tls=tls)
        return (listening.getsockname()[:2],)

    async def listen_on(
        self, listening: Sequence[socket.socket], *, tls: ssl.SSLContext | None = None
    ) -> None:
        """Take connections of sockets that somebody else opened and listens on."""
        for each in listening:
            self._hub.options.prepare(each)
            if tls is not None:
                door = TlsDoor(each, tls, self._hub)
                door.open()
                self._servers.append(door)
                continue
            self._servers.append(
                await asyncio.get_running_loop().create_server(
                    self.front, sock=each, backlog=self._hub.limits.backlog
                )
            )

    def take(self, passed: Passed, connection: socket.socket) -> None:
        """Take a connection that another process accepted, with what it read of it."""
        if self._hub.is_closing:
            connection.close()
            return
        self._hub.tasks.spawn(self._take(passed, connection), name="take-connection")

    async def _take(self, passed: Passed, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Front(self._hub, passed), connection
            )
        except OSError:  # its client is gone already
            connection.close()

    def end_stream(self, session_id: str) -> None:
        """Nobody comes back to a session's stream here: it goes on elsewhere. Unknown is done."""
        self._hub.end_stream(session_id)

    def announce(self, pause: PlannedPause | None) -> None:
        """Tell every open link of a planned pause, and those to come; None takes it back."""
        if pause == self._hub.planned:
            return
        self._hub.planned = pause
        self._hub.tasks.spawn(self._tell_pause(pause), name="tell-pause")

    async def _tell_pause(self, pause: PlannedPause | None) -> None:
        async for link in _in_slices(self._hub.links.values()):
            if self._hub.planned != pause:
                return  # something newer is being told
            link.tell_pause()

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None:
        """End one link with a code: read no more at once, close frame, reset after a second. Unknown is
        done.
        """
        link = self._hub.links.get(link_id)
        if link is not None and link.session_id in {"", session_id}:
            link.close_link(code, why, by)

    def links(self, session_id: str) -> tuple[str, ...]:
        """Return the ids of the links that are open now, oldest first."""
        return tuple(sorted(self._hub.sessions.get(session_id, ())))

    def stats(self) -> GatewayStats:
        """Return the counters as they are now, the bytes of open links included."""
        hub = self._hub
        carried = [link.payload_bytes for link in hub.links.values()]
        return replace(
            hub.stats,
            links_ended=dict(hub.stats.links_ended),
            refusals=dict(hub.stats.refusals),
            first_frames=list(hub.stats.first_frames),
            back_frames=list(hub.stats.back_frames),
            replays=list(hub.stats.replays),
            loop_stalls=list(hub.stats.loop_stalls),
            resumes=dict(hub.stats.resumes),
            unacknowledged_bytes=hub.rings.bytes_held,
            streams_detached=hub.rings.detached,
            rings_dropped=hub.rings.dropped,
            bytes_down=hub.stats.bytes_down + sum(down for down, _ in carried),
            bytes_up=hub.stats.bytes_up + sum(up for _, up in carried),
            links_open=sum(len(known) for known in hub.sessions.values()),
            waiting=len(hub.waiting),
        )

    async def close(self) -> None:
        """Take nothing new, tell every link when to come back, and return when they are gone (about a
        second at most).
        """
        hub = self._hub
        hub.is_closing = True
        for server in self._servers:
            server.close()
        low_ms, high_ms = hub.limits.restart_jitter_ms
        # Who waits first: whoever says its first word between two slices is a link by then, and told as one.
        async for waiting in _in_slices(hub.waiting):
            if waiting in hub.waiting:
                waiting.reset()
        async for link in _in_slices(hub.links.values()):
            link.close_link(Close.RESTART, "server_restart", f"{low_ms} {high_ms}")
        async for stream in _in_slices(hub.streams.values()):
            stream.end()
        hub.soon.stop()
        # Whoever is being attached now is told, too; its task ends by itself once control has answered.
        await hub.tasks.wait(hub.limits.close_s)
        if hub.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * hub.limits.close_s):
                    await hub.empty.wait()
        await hub.tasks.close()
        hub.ticker.stop()

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._hub.log.error("task.failed", task=name, error=type(error).__name__, detail=str(error))

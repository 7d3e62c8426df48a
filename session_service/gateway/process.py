"""A gateway process beside the service: it owns its links wholly (sockets, legs, rings) and nothing else.

Not a part that decides: each ticket and each proof is control's to judge, over a private socket. It listens
nowhere, has no capability, reads no registry and holds no key but those of the grants it hands out. When the
service goes away its links are told when to come back, and it waits for the next service.
"""

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Never

import structlog

from session_service.base import errors
from session_service.base.aio import Tasks
from session_service.base.rpc import Client
from session_service.gateway.address import Networks
from session_service.gateway.gateway import Gateway
from session_service.gateway.legs_taken import LegsTaken
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.messages import (
    Answer,
    Attach,
    Counted,
    Heard,
    LinkNamed,
    ResumeAsk,
    Serve,
    Told,
)
from session_service.gateway.passing import Receiver
from session_service.ports.clock import Ids
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer, LinkRefusal, ResumeOffer

PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Between looks for the service; the last one repeats."""
COUNTED_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """What the one who starts a gateway process decides."""

    calls: Path
    sockets: Path
    shard: str
    shards: tuple[str, ...]
    ids: Ids
    trusted: Networks = ()
    limits: GatewayLimits = field(default_factory=GatewayLimits)


class ControlCalls:
    """Control as a gateway process sees it: `ports.streams.Attachments` over the private socket."""

    def __init__(self, client: Client, shard: str) -> None:
        self._client = client
        self._shard = shard

    async def attach(self, offer: LinkOffer) -> Attachment | LinkRefusal:
        return _either(await self._client.call("attach", Attach(shard=self._shard, offer=offer), Answer))

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        return _either(await self._client.call("resume", ResumeAsk(shard=self._shard, offer=offer), Answer))

    async def wait_starting(self, offer: LinkOffer) -> str:
        return await self._client.call("wait_starting", Attach(shard=self._shard, offer=offer), str)

    def ended(self, end: LinkEnd) -> None:
        self.report("ended", end)

    def leave(self, session_id: str, link_id: str) -> None:
        self.report("leave", LinkNamed(session_id=session_id, link_id=link_id))

    def leg_lost(self, session_id: str, link_id: str) -> None:
        self.report("leg_lost", LinkNamed(session_id=session_id, link_id=link_id))

    async def desktop(self, link: LinkNamed) -> bool:
        """Have the desktop of a link connected; its socket comes over the channel."""
        return await self._client.call("desktop", link, bool)

    def report(self, method: str, what: Any) -> None:
        """Tell the service something. When it is away it knows by that: whatever we had is lost to it."""
        self._client.tell(method, what)

    async def close(self) -> None:
        """Close the connection behind the last reports."""
        await self._client.close()


class GatewayProcess:
    """One life between two losses of the service."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._serve = Serve(shard=settings.shard, process_id=os.getpid())
        self._origins: frozenset[str] = frozenset()
        self._leaving = asyncio.Event()
        self.joined = asyncio.Event()
        """Set when the service has said who we are; for tests."""
        self._calls = ControlCalls(Client(settings.calls, part="service"), settings.shard)
        legs = LegsTaken(self._calls.desktop, limit_s=settings.limits.leg_handed_s)
        self.gateway = Gateway(
            attachments=self._calls,
            http=_no_http,
            origins=lambda: self._origins,
            ids=settings.ids,
            trusted=settings.trusted,
            limits=settings.limits,
            shard=settings.shard,
            shards=settings.shards,
            desktops=legs.connected,
        )
        self._receiver = Receiver(self.gateway.take, legs.arrived)

    async def run(self, stop: asyncio.Event) -> bool:
        """Serve until `stop` or until the service is gone; say whether it was there at all."""
        try:
            self._receiver.open(self._settings.sockets, self._serve)
        except OSError:
            await self._calls.close()
            return False
        tasks = Tasks(_report_failure)
        serving = tasks.spawn(self._listen(), name="listen-to-service")
        counting = tasks.spawn(self._count(), name="count")
        stopping = tasks.spawn(stop.wait(), name="wait-stop")
        leaving = tasks.spawn(self._leaving.wait(), name="wait-leave")
        try:
            await asyncio.wait((serving, stopping, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._receiver.close()
            await self.gateway.close()
            counting.cancel()
            await self._calls.close()
            await tasks.close()
        return self.joined.is_set()

    async def _listen(self) -> None:
        with contextlib.suppress(errors.PartUnavailable):
            await self._calls._client.call("serve", self._serve, bool, event=Told, on_event=self._told)

    def _told(self, told: Told) -> None:
        if told.kind == "welcome":
            self._origins = frozenset(told.origins)
            self.gateway.announce(told.pause)
            self.joined.set()
        elif told.kind == "close_link":
            self.gateway.close_link(told.session_id, told.link_id, code=told.code, why=told.why, by=told.by)
        elif told.kind == "end_stream":
            self.gateway.end_stream(told.session_id)
        elif told.kind == "announce":
            self.gateway.announce(told.pause)
        else:
            self._leaving.set()
        self._calls.report("heard", Heard(shard=self._settings.shard, number=told.number))

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_EVERY_S)
            self._calls.report("counted", Counted(shard=self._settings.shard, stats=self.gateway.stats()))


async def run(settings: ProcessSettings, stop: asyncio.Event) -> None:
    """Serve one service after the other until `stop`."""
    misses = 0
    while not stop.is_set():
        found = await GatewayProcess(settings).run(stop)
        misses = 0 if found else misses + 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PAUSES_S[min(misses, len(PAUSES_S) - 1)])


def _either(answer: Answer) -> Attachment | LinkRefusal:
    if answer.attachment is not None:
        return answer.attachment
    assert answer.refusal is not None, "an answer is one of the two"
    return answer.refusal


def _no_http() -> Never:
    raise AssertionError("only connections of our own paths are passed to a gateway process")


def _report_failure(name: str, error: BaseException) -> None:
    structlog.get_logger().error("task.failed", task=name, error=type(error).__name__, detail=str(error))

"""All gateways of a service together: the one inside the service process, and the processes that joined.

Not a decision about sessions: control owns those, and is asked here for each of them. To control this is
one gateway (`ports.streams.Streams`); to the gateway inside it is control (`ports.streams.Attachments`). A
gateway process that dies loses its links and nothing else: their sessions are held, cause `server_restart`.

Source: gateway.md section 8; docs/design/0015.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from session_service.base import errors, rpc
from session_service.base.aio import Tasks
from session_service.core.close_codes import Close
from session_service.core.records import LossCause
from session_service.gateway.leg import DesktopSocketRefused, open_desktop_socket
from session_service.gateway.legs_given import LegsGiven, Name
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.messages import (
    Answer,
    Attach,
    Counted,
    DesktopOf,
    Heard,
    LinkNamed,
    ResumeAsk,
    Serve,
    Told,
)
from session_service.gateway.outpost import Outpost
from session_service.gateway.passing import Owner, Passer, PassingDoor
from session_service.gateway.stats import GatewayStats, believed
from session_service.ports.streams import (
    Attachment,
    Attachments,
    LinkEnd,
    LinkOffer,
    LinkRefusal,
    PlannedPause,
    ResumeOffer,
)

PLACES_MAX: Final = 65_536
"""Sessions whose gateway is remembered; a stream that is forgotten here ends by itself after its hold."""
CALLS_AT_ONCE_MAX: Final = 16_384
"""Of one gateway process: a storm of its clients is one call each."""
CALL_BYTES_MAX: Final = 64 * 1024
"""One call: an offer is below 8 KiB, counters are below 4. A process that says more is cut off."""
SOCKETS_MAX: Final = 256
"""Of all gateway processes; each has one."""
LINK_ID_CHARACTERS_MAX: Final = 64
ARRIVED_MAX: Final = 64
"""Channels for sockets whose process has not joined; beyond it the oldest is closed."""
GOODBYE_S: Final = 1.0
"""For a gateway process that left to say goodbye to its links, until its desktops are cut off."""
LEAVE_S: Final = 4.0
"""For the gateway processes to say goodbye to their links."""


class Inside(Protocol):
    """The gateway in this process."""

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None: ...
    def links(self, session_id: str) -> tuple[str, ...]: ...
    def end_stream(self, session_id: str) -> None: ...
    def announce(self, pause: PlannedPause | None) -> None: ...
    def stats(self) -> GatewayStats: ...


class Shards:
    """Where control, the gateway of this process and the gateway processes meet."""

    def __init__(
        self,
        desk: Attachments,
        *,
        calls: Path,
        sockets: Path,
        peer_uids: frozenset[int],
        origins: Callable[[], Collection[str]],
        shards: Collection[str] | None = None,
        uid_of: Callable[[str], int] | None = None,
        gid: int | None = None,
        limits: GatewayLimits | None = None,
    ) -> None:
        self._desk = desk
        self._origins = origins
        self._shards = None if shards is None else frozenset(shards)
        """Which a gateway process may have; None: any."""
        self._uid_of = uid_of
        """The account of a shard's process; None: all of them are one."""
        self._gid = gid
        """The group of gateway processes; None: they are of our own."""
        self._limits = limits or GatewayLimits()
        self._legs = LegsGiven()
        self._inside: Inside | None = None
        self._pause: PlannedPause | None = None
        self._outposts: dict[str, Outpost] = {}
        self._arrived: OrderedDict[tuple[str, int], Passer] = OrderedDict()
        """Channels for sockets whose process has not joined yet."""
        self._owners: dict[str, Outpost] = {}
        """The gateway process of a link, from before control is asked."""
        self._places: OrderedDict[str, Outpost | None] = OrderedDict()
        """Where a session's stream is; None = inside."""
        self._ended = GatewayStats()
        """Counters of processes that are gone."""
        self._log = structlog.get_logger()
        self._tasks = Tasks(self._asked_in_vain)
        self._empty = asyncio.Event()
        self._server = rpc.Server(
            calls,
            {
                "serve": self._serve,
                "attach": self._attach,
                "resume": self._resume,
                "desktop": self._desktop,
                "wait_starting": self._wait_starting,
            },
            peer_uids=peer_uids,
            listeners={
                "heard": self._heard,
                "ended": self._link_ended,
                "leave": self._link_left,
                "leg_lost": self._leg_lost,
                "counted": self._counted,
            },
            calls_max=CALLS_AT_ONCE_MAX,
            frame_bytes_max=CALL_BYTES_MAX,
            connections_max=SOCKETS_MAX,
        )
        self._door = PassingDoor(sockets, peer_uids=peer_uids, arrived=self._sockets_arrived)

    async def open(self, inside: Inside) -> None:
        """Let gateway processes join."""
        self._inside = inside
        await self._server.start(mode=0o660, gid=self._gid)
        self._door.open(mode=0o660, gid=self._gid)

    async def close(self) -> None:
        """Tell every gateway process to say goodbye to its links, and return when they are gone."""
        self._door.close()
        for outpost in self._outposts.values():
            outpost.tell(Told(kind="leave"))
        try:
            async with asyncio.timeout(LEAVE_S):
                while self._outposts:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            self._log.warning("part.ended", name="gateway", late=sorted(self._outposts))
        await self._server.close()
        self._legs.close()
        for outpost in tuple(self._outposts.values()):
            self._gone(outpost)
        while self._arrived:
            self._arrived.popitem()[1].close()
        await self._tasks.wait(LEAVE_S)
        await self._tasks.close()

    def owner(self, shard: str) -> Owner | None:
        """Return who takes the connections of a shard; None: nobody is there, so the service does."""
        outpost = self._outposts.get(shard)
        return None if outpost is None else outpost.passer

    def joined(self) -> tuple[str, ...]:
        """Return the shards whose process is there and takes connections."""
        return tuple(sorted(shard for shard, one in self._outposts.items() if one.passer is not None))

    # -- to control this is one gateway ---------------------------------------------------------------

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None:
        """End one link with a code, wherever it is. Unknown is done."""
        outpost = self._owners.get(link_id)
        told = Told(kind="close_link", session_id=session_id, link_id=link_id, code=code, why=why, by=by)
        if outpost is not None:
            outpost.tell(told)
            outpost.forget(link_id)
            if (name := (session_id, link_id)) in self._legs:  # it looks on: nobody comes back to its stream
                self._tasks.spawn(self._cut_when_told(outpost, name), name=f"cut-{link_id}")
            return
        if self._inside is not None:
            self._inside.close_link(session_id, link_id, code=code, why=why, by=by)
            if link_id in self._inside.links(session_id):
                return
        # It may wait for its start there: such a link has asked for nothing yet.
        for other in self._outposts.values():
            other.tell(told)

    def announce(self, pause: PlannedPause | None) -> None:
        """Tell every link, here and there, of a planned pause; None takes it back."""
        self._pause = pause
        if self._inside is not None:
            self._inside.announce(pause)
        for outpost in self._outposts.values():
            outpost.tell(Told(kind="announce", pause=pause))

    def links(self, session_id: str) -> tuple[str, ...]:
        """Return the ids of the links that are open now, oldest first."""
        inside = () if self._inside is None else self._inside.links(session_id)
        outside = [
            link_id
            for outpost in self._outposts.values()
            for link_id, known in outpost.links.items()
            if known == session_id
        ]
        return tuple(sorted((*inside, *outside)))

    def stats(self) -> GatewayStats:
        """Return the counters of all gateway processes together."""
        each = [one.stats for one in self._outposts.values()]
        if self._inside is not None:
            each.append(self._inside.stats())
        return added((self._ended, *each))

    # -- to the gateway inside this is control ----------------------------------------------------------

    async def attach(self, offer: LinkOffer) -> Attachment | LinkRefusal:
        answer = await self._desk.attach(offer)
        if isinstance(answer, Attachment):
            await self._settle(None, answer)
        return answer

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        answer = await self._desk.resume(offer)
        if isinstance(answer, Attachment):
            await self._settle(None, answer)
        return answer

    async def wait_starting(self, offer: LinkOffer) -> str:
        return await self._desk.wait_starting(offer)

    def leave(self, session_id: str, link_id: str) -> None:
        self._desk.leave(session_id, link_id)

    def ended(self, end: LinkEnd) -> None:
        self._desk.ended(end)

    def leg_lost(self, session_id: str, link_id: str) -> None:
        self._desk.leg_lost(session_id, link_id)

    # -- what gateway processes call and tell -----------------------------------------------------------

    async def _serve(self, call: rpc.Call) -> bool:
        """Last as long as the process does; everything it is told goes over this call."""
        serve = call.params(Serve)
        old = self._outposts.get(serve.shard)
        unknown = self._shards is not None and serve.shard not in self._shards
        if not unknown and self._uid_of is not None:
            unknown = call.peer_uid != self._uid_of(serve.shard)
        if unknown or serve.process_id != call.peer_pid or (old and old.process_id != call.peer_pid):
            # A process has one shard, its own: who takes another one's is given its clients. One that died
            # has left by the end of its connection, and whoever follows it asks again.
            self._log.warning("part.refused", name=f"gateway-{serve.shard}", peer_uid=call.peer_uid)
            raise errors.PartUnavailable(part="service")
        if old is not None:
            self._gone(old)
        outpost = Outpost(serve)
        outpost.passer = self._arrived.pop((serve.shard, serve.process_id), None)
        outpost.tell(Told(kind="welcome", origins=tuple(sorted(self._origins())), pause=self._pause))
        self._outposts[serve.shard] = outpost
        self._log.info("gateway.joined", shard=serve.shard)
        try:
            while (told := await outpost.orders.get()) is not None:
                await call.event(told)
            return True
        finally:
            self._gone(outpost)

    def _heard(self, word: rpc.Word) -> None:
        heard = word.params(Heard)
        self._of(heard.shard, word).heard(heard.number)

    async def _attach(self, call: rpc.Call) -> Answer:
        ask = call.params(Attach)
        return await self._admit(self._of(ask.shard, call), ask.offer)

    async def _resume(self, call: rpc.Call) -> Answer:
        ask = call.params(ResumeAsk)
        return await self._admit(self._of(ask.shard, call), ask.offer)

    async def _wait_starting(self, call: rpc.Call) -> str:
        return await self._desk.wait_starting(call.params(Attach).offer)

    def _link_ended(self, word: rpc.Word) -> None:
        end = word.params(LinkEnd)
        if (outpost := self._carrier(end.session_id, end.link_id, word)) is not None:
            del self._owners[end.link_id], outpost.links[end.link_id]
            outpost.forget(end.link_id)
            self._legs.cut((end.session_id, end.link_id))
            self._desk.ended(end)

    def _link_left(self, word: rpc.Word) -> None:
        link = word.params(LinkNamed)
        if self._carrier(link.session_id, link.link_id, word) is not None:
            self._desk.leave(link.session_id, link.link_id)

    def _leg_lost(self, word: rpc.Word) -> None:
        link = word.params(LinkNamed)
        if self._carrier(link.session_id, link.link_id, word) is not None:
            self._desk.leg_lost(link.session_id, link.link_id)

    async def _desktop(self, call: rpc.Call) -> bool:
        """Connect the desktop of an attached link, and hand its socket on; once for each attachment."""
        link = call.params(LinkNamed)
        outpost = self._carrier(link.session_id, link.link_id, call)
        attachment = None if outpost is None else outpost.due.pop(link.link_id, None)
        if outpost is None or attachment is None:
            raise errors.PartUnavailable(part="desktop")
        name = (link.session_id, "" if attachment.mode == "control" else link.link_id)
        self._legs.cut(name)
        outpost.connecting.add(link.link_id)
        try:
            if len(self._legs) >= self._limits.legs_max:
                raise DesktopSocketRefused("too many desktops at once")
            connected = await open_desktop_socket(attachment.socket, attachment.uid, self._limits)
            if link.link_id not in outpost.connecting or outpost.is_gone:
                connected.close()
                raise errors.PartUnavailable(part="desktop")  # and nothing is wrong with the desktop
            self._legs.keep(name, outpost, connected)
            if not outpost.hand_on(DesktopOf(link_id=link.link_id), connected):
                self._legs.cut(name)
                raise DesktopSocketRefused("the channel is closed or full")
        except (DesktopSocketRefused, OSError, TimeoutError) as exc:
            reason = str(exc) if isinstance(exc, DesktopSocketRefused) else type(exc).__name__
            self._log.error("desktop.refused", **msgspec.structs.asdict(link), reason=reason)
            raise errors.PartUnavailable(part="desktop") from exc
        finally:
            outpost.connecting.discard(link.link_id)
        return True

    async def _cut_when_told(self, outpost: Outpost, name: Name) -> None:
        """Cut the leg of a link that was closed: behind its order, so that its client is told why."""
        await outpost.settled()
        self._legs.cut(name)

    def _counted(self, word: rpc.Word) -> None:
        counted = word.params(Counted)
        self._of(counted.shard, word).stats = believed(counted.stats)

    # -- parts of the above -----------------------------------------------------------------------------

    def _of(self, shard: str, word: rpc.Word) -> Outpost:
        """Return the process that says this; a shard that somebody else has is nobody's to it."""
        outpost = self._outposts.get(shard)
        if outpost is None or outpost.process_id != word.peer_pid:
            raise errors.PartUnavailable(part=f"gateway-{shard}")
        return outpost

    def _carrier(self, session_id: str, link_id: str, word: rpc.Word) -> Outpost | None:
        """Return the process that carries a link, when it is the one that speaks of it; what a process says
        of links that are not its own changes nothing.
        """
        outpost = self._owners.get(link_id)
        if outpost is None or outpost.process_id != word.peer_pid:
            return None
        return outpost if outpost.links.get(link_id) == session_id else None

    async def _admit(self, outpost: Outpost, offer: LinkOffer | ResumeOffer) -> Answer:
        """Ask control in a task of its own: a process that dies meanwhile must not cancel a commit, because
        then a session would have a link that does not exist.
        """
        return await asyncio.shield(
            self._tasks.spawn(self._ask(outpost, offer), name=f"ask-for-{offer.link_id}")
        )

    async def _ask(self, outpost: Outpost, offer: LinkOffer | ResumeOffer) -> Answer:
        if offer.link_id in self._owners or not 0 < len(offer.link_id) <= LINK_ID_CHARACTERS_MAX:
            # Who has a link's name would be told to close it in its carrier's place.
            raise errors.BadInput("A link has an id of its own.")
        self._owners[offer.link_id] = outpost
        answer: Attachment | LinkRefusal | None = None
        try:
            if isinstance(offer, LinkOffer):
                answer = await self._desk.attach(offer)
            else:
                answer = await self._desk.resume(offer)
        finally:
            if not isinstance(answer, Attachment):
                self._owners.pop(offer.link_id, None)
        if isinstance(answer, LinkRefusal):
            return Answer(refusal=answer)
        outpost.links[offer.link_id] = answer.session_id
        outpost.due[offer.link_id] = answer  # now, so that a newer one which comes meanwhile takes it away
        if not outpost.is_gone:
            await self._settle(outpost, answer)
        if outpost.is_gone:
            self._lost(outpost, offer.link_id)
        return Answer(attachment=msgspec.structs.replace(answer, socket="", uid=None))

    async def _settle(self, place: Outpost | None, attachment: Attachment) -> None:
        """Nothing of an older link may reach the desktop from here on: displaced links were closed there, and
        a stream that was kept elsewhere is over.
        """
        session_id = attachment.session_id
        if attachment.mode == "control":
            known = session_id in self._places
            before = self._places.pop(session_id, None)
            self._places[session_id] = place
            if len(self._places) > PLACES_MAX:
                self._places.popitem(last=False)
            if known and before is not place:
                if before is not None and not before.is_gone:
                    before.tell(Told(kind="end_stream", session_id=session_id))
                elif before is None and self._inside is not None:
                    self._inside.end_stream(session_id)
        for outpost in tuple(self._outposts.values()):
            await outpost.settled()
        if session_id in self._places and self._places[session_id] is place:
            # They have let go of it by now. Who stands still, or does as he likes, has nothing from here on.
            self._legs.cut_elsewhere((session_id, ""), place)

    def _sockets_arrived(self, serve: Serve, passer: Passer) -> None:
        outpost = self._outposts.get(serve.shard)
        if outpost is not None and outpost.process_id == serve.process_id and outpost.passer is None:
            outpost.passer = passer
            return
        # One that has its channel has lost us, and comes again: we have not seen the end of its life here.
        key = (serve.shard, serve.process_id)
        older = self._arrived.pop(key, None)
        if older is None and len(self._arrived) >= ARRIVED_MAX:
            older = self._arrived.popitem(last=False)[1]
        if older is not None:
            older.close()
        self._arrived[key] = passer

    def _gone(self, outpost: Outpost) -> None:
        """A gateway process left or died: its links are lost. Repeating this is harmless."""
        if outpost.is_gone:
            return
        outpost.leave()
        # Not at once: one that only lost us tells its links when to come back. A newer link does not wait.
        asyncio.get_running_loop().call_later(GOODBYE_S, self._legs.cut_all, outpost)
        if self._outposts.get(outpost.shard) is outpost:
            del self._outposts[outpost.shard]
        self._ended = ended(self._ended, outpost.stats)
        lost = tuple(outpost.links)
        for link_id in lost:
            self._lost(outpost, link_id)
        self._log.info("gateway.left", shard=outpost.shard, links_lost=len(lost))
        self._empty.set()

    def _lost(self, outpost: Outpost, link_id: str) -> None:
        session_id = outpost.links.pop(link_id, None)
        self._owners.pop(link_id, None)
        if session_id is None:
            return
        cause = LossCause.SERVER_RESTART
        self._ended.links_ended[cause.value] += 1
        self._desk.ended(
            LinkEnd(session_id=session_id, link_id=link_id, cause=cause.value, close_code=int(Close.ABNORMAL))
        )

    def _asked_in_vain(self, name: str, error: BaseException) -> None:
        """Whoever asked is told, and that is logged where the answer is made."""


_NOW: Final = frozenset({"links_open", "waiting", "unacknowledged_bytes", "streams_detached"})
"""What is there at the moment, and not a count of what happened."""
_LONGEST: Final = frozenset({"loop_stall_longest_s"})


def added(each: Iterable[GatewayStats]) -> GatewayStats:
    """Return counters of several gateways as those of one."""
    total = GatewayStats()
    for one in each:
        for field in fields(GatewayStats):
            before, more = getattr(total, field.name), getattr(one, field.name)
            if isinstance(before, dict):
                for key, count in more.items():
                    before[key] = before.get(key, 0) + count
            elif isinstance(before, list):
                setattr(total, field.name, [a + b for a, b in zip(before, more, strict=True)])
            elif field.name in _LONGEST:
                setattr(total, field.name, max(before, more))
            else:
                setattr(total, field.name, before + more)
    return total


def ended(before: GatewayStats, gone: GatewayStats) -> GatewayStats:
    """Keep what a gateway process had counted when it went, so that no counter ever falls."""
    total = added((before, gone))
    for name in _NOW:
        setattr(total, name, 0)
    return total

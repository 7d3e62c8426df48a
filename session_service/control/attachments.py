"""Links and sessions: a ticket becomes an attached client after the commit, and the end of the recorded link
becomes a loss.

Not sockets: a gateway offers links and reports their ends (`ports/streams.py`). A refused caller is told the
way forward. An old link's end changes nothing, and nobody is ever attached without a commit.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec

from session_service.base.aio import Tasks
from session_service.base.errors import (
    Conflict,
    NotFound,
    RegistryUnavailable,
    SessionError,
    TransitionRefused,
)
from session_service.base.ids import DeviceId, LinkId, SessionId
from session_service.base.log import get_logger
from session_service.control.endings import Endings, cause_of
from session_service.control.marks import MarkBook
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.sessions import Live, OpenLink, Sessions
from session_service.control.tickets import ReturnLogin, hash_of
from session_service.control.viewers import Viewers
from session_service.core import limits, refusals
from session_service.core.changes import Rank, Unit, UseTicket
from session_service.core.close_codes import Close, Next
from session_service.core.continuity import attempts
from session_service.core.continuity.failures import RETRY_MS as FAILED_RETRY_MS
from session_service.core.continuity.failures import Failures
from session_service.core.continuity.limits import SUBPROTOCOL
from session_service.core.continuity.messages import Resume, is_path_of_origin
from session_service.core.continuity.proof import grant_key, session_secret
from session_service.core.events import Event, Facts
from session_service.core.records import AuditEntry, LossCause, NodeState, Session, State, Ticket
from session_service.core.refusals import Refusal
from session_service.ports.streams import (
    Attachment,
    LinkEnd,
    LinkOffer,
    LinkRefusal,
    PlannedPause,
    ResumeOffer,
)


class Overtaken(Exception):
    """Between its proof and its commit an attempt lost its right to attach."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.why)
        self.refusal = refusal


class LinkDesk:
    """Implements `ports.streams.Attachments`."""

    def __init__(
        self,
        *,
        parts: Parts,
        node: Node,
        sessions: Sessions,
        tasks: Tasks,
        marks: MarkBook,
        look_now: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._marks = marks
        self._login = ReturnLogin(parts=parts, node=node)
        self._viewers = Viewers(parts=parts)
        self._failures = Failures()
        self._late = Failures()
        """Proved attempts that may not attach, by session: of one that asks without end some are audited."""
        self._look_now = look_now
        self._node = node
        self._sessions = sessions
        self._endings = Endings(parts=parts, node=node, sessions=sessions, tasks=tasks)
        self._log = get_logger().bind()  # once, and not again for each line
        self._secret = parts.resume_secret
        self._starting: dict[str, Live] = {}
        """Links that a starting session recorded and that were not answered yet."""
        self.planned: PlannedPause | None = None
        """The pause that is announced: who is told to ask again meanwhile is told until when, too."""
        self.open = False
        """False until the node is settled and again when it drains: everybody is told to ask again."""

    # -- attach ---------------------------------------------------------------------------------------

    async def attach(self, offer: LinkOffer) -> Attachment | LinkRefusal:
        """Use the ticket up and attach; the answer comes after the commit."""
        answer = await self._attach(offer)
        return self._refused(offer, answer, Next.OPEN) if isinstance(answer, Refusal) else answer

    def _refused(self, offer: LinkOffer | ResumeOffer, refusal: Refusal, step: Next) -> LinkRefusal:
        """Return the refusal as it is told; an address that only guesses is told to wait."""
        guessed = refusal is refusals.UNKNOWN_TICKET or refusal is attempts.NOT_FOUND
        if guessed and self._failures.failed(offer.address, self._parts.clock.monotonic_ms()):
            refusal = refusals.too_many(step=step, retry_ms=FAILED_RETRY_MS)
        self._log.info("link.refused", link_id=offer.link_id, code=int(refusal.code), why=refusal.why)
        planned, told = self.planned, _wire(refusal)
        if planned is None or refusal.code != Close.RETRY:
            return told
        if self._parts.clock.wall_ms() < planned.begins_at_ms:
            return told
        return msgspec.structs.replace(told, back_at_ms=planned.back_at_ms, note=planned.note)

    async def _attach(self, offer: LinkOffer) -> Attachment | Refusal:
        if not self.open:
            return refusals.RETRY_NEW_TICKET
        try:
            bound = self._bound(offer.link_id)
            if bound is not None:
                return await self._when_ready(bound, offer, None)
            ticket = await self._parts.registry.ticket(hash_of(offer.ticket))
            if ticket is None:
                return refusals.UNKNOWN_TICKET
            # First what became of the session: a start that failed has used the ticket up, and its page wants
            # to know.
            flaw = await self._refusal(ticket.session_id) or self._flaw(ticket, offer)
            return flaw if flaw is not None else await self._with_ticket(ticket, offer)
        except RegistryUnavailable:
            return refusals.RETRY_NEW_TICKET

    def _flaw(self, ticket: Ticket, offer: LinkOffer) -> Refusal | None:
        if offer.in_path and not self._parts.policy.ticket_in_path:
            return refusals.NOT_IN_PATH
        if ticket.used_at_ms is not None or self._parts.clock.wall_ms() >= ticket.expires_at_ms:
            return refusals.USED_TICKET
        return None

    async def _with_ticket(self, ticket: Ticket, offer: LinkOffer) -> Attachment | Refusal:
        try:
            live = await self._sessions.get(ticket.session_id)
        except NotFound:
            record = await self._parts.registry.session(ticket.session_id)
            if record is None or record.user_id != ticket.user_id:
                return refusals.UNKNOWN_TICKET
            # Another node's: the ticket is unused, and is good there.
            return replace(await self._elsewhere(record), next=Next.OPEN)
        if live.record.user_id != ticket.user_id:
            return refusals.UNKNOWN_TICKET
        if ticket.mode != "control":
            return await self._look_on(live, ticket, offer)
        return await self._control(live, ticket, offer)

    async def _refusal(self, session_id: SessionId) -> Refusal | None:
        live = self._sessions.find(session_id)
        record = live.record if live is not None else await self._parts.registry.session(session_id)
        if record is None:
            return refusals.UNKNOWN_TICKET
        lease = live.lease if live is not None else await self._parts.registry.lease(record.workspace_id)
        return refusals.by_state(record, saved_as_of_ms=lease.saved_as_of_ms if lease is not None else None)

    async def _control(self, live: Live, ticket: Ticket, offer: LinkOffer) -> Attachment | Refusal:
        before = live.record
        link = self._link(live, offer)
        try:
            await self._sessions.move(
                live,
                Event.CLIENT_ATTACHED,
                lambda _: self._node.facts(
                    actor=f"user:{ticket.user_id}",
                    link_id=LinkId(offer.link_id),
                    device_id=ticket.device_id,
                    device_label=ticket.device_label,
                    takeover_allowed=self._may_take_over(live, ticket),
                ),
                rank=Rank.RESUME,
                also=lambda _: [UseTicket(hash=ticket.hash, now_ms=self._parts.clock.wall_ms())],
            )
        except (TransitionRefused, NotFound):
            self._forget_link(live, link)
            refusal = await self._refusal(ticket.session_id)
            return refusal if refusal is not None else refusals.in_use(live.record)
        except Conflict as exc:
            self._forget_link(live, link)
            if exc.facts.get("what") == "UseTicket":
                return refusals.USED_TICKET
            self._look_now()
            return refusals.RETRY_NEW_TICKET
        except BaseException:
            # Unknown whether it is recorded: the link is refused, and the reconciler records its loss.
            self._forget_link(live, link)
            raise
        link.recorded = True
        self._displace(live, link)
        return await self._when_ready(live, offer, before)

    # -- resume ---------------------------------------------------------------------------------------

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        """Check the proof, record the resume and attach; the answer comes after the commit."""
        try:
            answer = await self._resume(offer)
        except RegistryUnavailable:
            answer = refusals.RETRY_RESUME
        return self._refused(offer, answer, Next.RESUME) if isinstance(answer, Refusal) else answer

    async def _resume(self, offer: ResumeOffer) -> Attachment | Refusal:
        attempt = offer.attempt
        if not attempts.is_proved(self._resume_secret(), attempt, offer.challenge):
            return attempts.NOT_FOUND
        if not self.open:
            return refusals.RETRY_RESUME
        try:
            live = await self._sessions.get(attempt.session_id)
        except NotFound:
            return await self._not_here(attempt)
        record = live.record
        refusal = live.order.admit(
            attempt, grant=record.grant, cause=record.grant_cause, by=record.device_label
        )
        if refusal is not None:
            await self._audit_refused(record, refusal)
            return refusal
        if record.state is State.STARTING or not await self._marks.known(live):
            return refusals.RETRY_RESUME
        if self._marks.is_revoked(live, attempt.grant):
            return attempts.LOGIN
        if not self._login.is_needed(live.record):
            return await self._back(live, offer, None)
        ticket = await self._login.ticket_of(live.record, attempt)
        return attempts.LOGIN if ticket is None else await self._back(live, offer, ticket)

    async def _back(self, live: Live, offer: ResumeOffer, ticket: Ticket | None) -> Attachment | Refusal:
        """Record that the client is back, unless a newer attempt or another device was quicker."""
        before = live.record
        link = self._link(live, offer)

        def facts(record: Session) -> Facts:
            refusal = self._overtaken(live, offer.attempt, record)
            if refusal is not None:
                raise Overtaken(refusal)
            return self._node.facts(
                actor=f"user:{record.user_id}",
                link_id=LinkId(offer.link_id),
                device_id=record.device_id,
                device_label=record.device_label,
            )

        used = [] if ticket is None else [UseTicket(hash=ticket.hash, now_ms=self._parts.clock.wall_ms())]
        try:
            await self._sessions.move(
                live, Event.CLIENT_RESUMED, facts, rank=Rank.RESUME, also=lambda _: used
            )
        except Overtaken as overtaken:
            self._forget_link(live, link)
            return overtaken.refusal
        except (TransitionRefused, NotFound):
            self._forget_link(live, link)
            return await self._refusal(live.record.id) or refusals.RETRY_RESUME
        except Conflict as exc:
            self._forget_link(live, link)
            if exc.facts.get("what") == "UseTicket":
                return attempts.LOGIN
            self._look_now()
            return refusals.RETRY_RESUME
        except RegistryUnavailable:
            if ticket is not None:
                self._forget_link(live, link)
                return refusals.RETRY_RESUME
            return await self._provisional(live, offer, link)
        except BaseException:
            # Unknown whether it is recorded: the link is refused, and the reconciler records its loss.
            self._forget_link(live, link)
            raise
        link.recorded = True
        self._displace(live, link)
        return await self._when_ready(live, offer, before)

    def _overtaken(self, live: Live, attempt: Resume, record: Session) -> Refusal | None:
        """Look once more in the moment that counts: a newer attempt, another device, or a sign-out."""
        if self._marks.is_revoked(live, attempt.grant):
            return attempts.LOGIN
        return live.order.still(attempt, grant=record.grant, cause=record.grant_cause, by=record.device_label)

    async def _provisional(self, live: Live, offer: ResumeOffer, link: OpenLink) -> Attachment | Refusal:
        """The registry is away and memory knows the session: attach once the node's disk has the mark."""
        refusal = self._no_promise(live, offer, link)
        if refusal is None:
            try:
                await self._marks.resume(live, link.id)
            except (SessionError, TimeoutError):
                refusal = refusals.RETRY_RESUME
            else:
                refusal = self._no_promise(live, offer, link)
        if refusal is not None:
            self._forget_link(live, link)
            return refusal
        link.recorded = link.answered = True
        link.seen_mono_ms = self._parts.clock.monotonic_ms()
        self._displace(live, link)
        return self._attachment(live, mode="control", before=live.record)

    def _no_promise(self, live: Live, offer: ResumeOffer, link: OpenLink) -> Refusal | None:
        """Say why this link may not be attached without the registry."""
        record = live.record
        if record.state not in (State.ACTIVE, State.HELD) or live.handle is None or link.id not in live.links:
            return refusals.RETRY_RESUME
        return self._overtaken(live, offer.attempt, record)

    async def _not_here(self, attempt: Resume) -> Refusal:
        """A proved attempt on a session that is closed, or another node's."""
        record = await self._parts.registry.session(SessionId(attempt.session_id))
        if record is None:
            return attempts.NOT_FOUND
        old = attempts.Order().admit(
            attempt, grant=record.grant, cause=record.grant_cause, by=record.device_label
        )
        return old or await self._refusal(record.id) or await self._elsewhere(record)

    async def _elsewhere(self, record: Session) -> Refusal:
        """An open session of another node: asked there when it stands behind this origin, else again here; or
        its node is lost, and the user is told.
        """
        node = await self._parts.registry.node(record.node_id)
        if node is None or node.id == self._node.id:
            return refusals.RETRY_RESUME
        if node.state is not NodeState.LOST:
            there = is_path_of_origin(node.address)
            return refusals.moved(node.address) if there else refusals.RETRY_RESUME
        lease = await self._parts.registry.lease(record.workspace_id)
        return refusals.node_unreachable(saved_as_of_ms=None if lease is None else lease.saved_as_of_ms)

    async def _audit_refused(self, record: Session, refusal: Refusal) -> None:
        """A proved attempt that may not attach is a late one, or a copy: somebody may want to know."""
        if self._late.failed(record.id, self._parts.clock.monotonic_ms()):
            return
        entry = AuditEntry(
            kind="link.resume_refused",
            actor=f"user:{record.user_id}",
            at_ms=self._parts.clock.wall_ms(),
            session_id=record.id,
            workspace_id=record.workspace_id,
            user_id=record.user_id,
            facts=(("why", refusal.why),),
        )
        await self._parts.registry.commit(Unit(audit=(entry,)))

    def _resume_secret(self) -> bytes:
        self._secret = self._secret or self._parts.ids.secret()
        return self._secret

    def leave(self, session_id: str, link_id: str) -> None:
        """The user ended the session over its control link."""
        live = self._sessions.find(session_id)
        if live is not None and live.record.link_id == link_id:
            self._endings.left(live, link_id)

    # -- parts of both --------------------------------------------------------------------------------

    def _link(self, live: Live, offer: LinkOffer | ResumeOffer) -> OpenLink:
        link = OpenLink(
            id=offer.link_id,
            since_ms=self._parts.clock.wall_ms(),
            address=offer.address,
            seen_mono_ms=self._parts.clock.monotonic_ms(),
        )
        live.links[link.id] = link
        return link

    def _may_take_over(self, live: Live, ticket: Ticket) -> bool:
        other = live.attached and live.record.device_id not in (None, ticket.device_id)
        return self._parts.policy.takeover == "newest" or not other

    def _forget_link(self, live: Live, link: OpenLink) -> None:
        live.links.pop(link.id, None)
        self._sessions.tell(live)

    def _displace(self, live: Live, newest: OpenLink) -> None:
        """Close every other control link in the same step: taken over, stay down."""
        if live.record.link_id not in (None, newest.id) and not live.marked:
            return  # a still newer one was recorded meanwhile
        for link in list(live.links.values()):
            if link.id != newest.id and link.recorded:
                del live.links[link.id]
                self._parts.streams.close_link(
                    live.record.id,
                    link.id,
                    code=Close.TAKEN,
                    why="taken",
                    by=live.record.device_label,
                )

    async def _look_on(self, live: Live, ticket: Ticket, offer: LinkOffer) -> Attachment | Refusal:
        refusal = await self._viewers.join(live, ticket, offer.link_id)
        if refusal is refusals.SIGNED_OUT:
            refusal = await self._refusal(live.record.id) or refusal
        return refusal or self._attachment(live, mode=ticket.mode, before=None)

    def close_viewers(self, live: Live, device_ids: Callable[[DeviceId], bool]) -> int:
        """Close the links that look on from some devices; return how many. The session is not touched."""
        return self._viewers.close(live, device_ids)

    def _bound(self, link_id: str) -> Live | None:
        """Return the session that recorded this link while it was starting."""
        live = self._starting.get(link_id)
        if live is not None and link_id not in live.links:
            del self._starting[link_id]
            return None
        return live

    def _drop_gone(self) -> None:
        """Forget links of starting sessions that left before they were answered; nobody tells of it."""
        for live in {id(live): live for live in self._starting.values()}.values():
            self._sessions.prune(live)
        gone = [link_id for link_id, live in self._starting.items() if link_id not in live.links]
        for link_id in gone:
            del self._starting[link_id]

    async def _when_ready(
        self, live: Live, offer: LinkOffer | ResumeOffer, before: Session | None
    ) -> Attachment | Refusal:
        """A starting session answers once it is ready; a link that was displaced meanwhile is told so."""
        link = live.links.get(offer.link_id)
        self._starting.pop(offer.link_id, None)
        try:
            if link is not None:
                link.asking += 1
            async with asyncio.timeout(limits.START_WAIT_S_MAX):
                while live.record.state is State.STARTING and offer.link_id in live.links:
                    await live.changed.wait()
        except TimeoutError:
            live.links.pop(offer.link_id, None)
            return refusals.STARTING
        finally:
            if link is not None:
                link.asking -= 1
                link.answered = True
                link.seen_mono_ms = self._parts.clock.monotonic_ms()
        record = live.record
        if record.state is State.ACTIVE and record.link_id == offer.link_id and live.handle is not None:
            return self._attachment(live, mode="control", before=before, key=self._key(record, offer))
        live.links.pop(offer.link_id, None)
        refusal = refusals.by_state(record, saved_as_of_ms=live.lease.saved_as_of_ms)
        if refusal is not None:
            return refusal
        if record.state is State.ACTIVE:
            return replace(refusals.in_use(record), code=Close.TAKEN, why="taken")
        return refusals.RETRY_NEW_TICKET

    def _key(self, record: Session, offer: LinkOffer | ResumeOffer) -> bytes | None:
        """The key of the current grant, for a new stream; one that is resumed has it already."""
        if not isinstance(offer, LinkOffer) or offer.subprotocol != SUBPROTOCOL:
            return None
        return grant_key(session_secret(self._resume_secret(), record.id), record.id, record.grant)

    def _attachment(
        self, live: Live, *, mode: str, before: Session | None, key: bytes | None = None
    ) -> Attachment:
        assert live.handle is not None
        lost_at_ms = None if before is None else before.lost_at_ms
        cause = None if before is None else before.loss_cause
        gap_s = (self._parts.clock.wall_ms() - lost_at_ms) / 1000 if lost_at_ms is not None else None
        return Attachment(
            session_id=live.record.id,
            generation=live.record.generation,
            mode=mode,
            socket=live.handle.socket,
            uid=live.handle.uid,
            hold_s=live.record.hold_s,
            device_label=live.record.device_label,
            gap_s=max(0.0, gap_s) if gap_s is not None else None,
            cause="none" if cause is None else cause.value,
            grant=live.record.grant if key is not None else 0,
            key=key,
            soft_s=self._parts.policy.reauthenticate_after_s,
        )

    async def wait_starting(self, offer: LinkOffer) -> str:
        """Return what a starting session is doing now, or "" when `attach` has the answer.

        The first call uses the ticket up for this link: a start may take longer than a ticket lives.
        """
        try:
            live = self._bound(offer.link_id)
            if live is None:
                live = await self._bind(offer)
        except (RegistryUnavailable, NotFound):
            return ""
        if live is None or live.record.state is not State.STARTING:
            return ""
        if (link := live.links.get(offer.link_id)) is not None:
            link.seen_mono_ms = self._parts.clock.monotonic_ms()
        progress = live.progress
        if progress is not None and progress.stage == "restore" and progress.total:
            return f"restoring {100 * progress.done // progress.total} %"
        return "starting"

    async def _bind(self, offer: LinkOffer) -> Live | None:
        if not self.open:
            return None
        ticket = await self._parts.registry.ticket(hash_of(offer.ticket))
        if ticket is None or self._flaw(ticket, offer) is not None or ticket.mode != "control":
            return None
        live = await self._sessions.get(ticket.session_id)
        if live.record.state is not State.STARTING or live.record.user_id != ticket.user_id:
            return None
        link = self._link(live, offer)
        try:
            await self._sessions.move(
                live,
                Event.CLIENT_ATTACHED,
                lambda _: self._node.facts(
                    actor=f"user:{ticket.user_id}",
                    link_id=LinkId(offer.link_id),
                    device_id=DeviceId(ticket.device_id),
                    device_label=ticket.device_label,
                ),
                rank=Rank.RESUME,
                also=lambda _: [UseTicket(hash=ticket.hash, now_ms=self._parts.clock.wall_ms())],
            )
        except (TransitionRefused, Conflict):
            self._forget_link(live, link)
            return None
        except BaseException:
            self._forget_link(live, link)
            raise
        link.recorded = True
        self._drop_gone()
        self._starting[link.id] = live
        self._displace(live, link)
        return live

    # -- ends -----------------------------------------------------------------------------------------

    def ended(self, end: LinkEnd) -> None:
        """A link ended. Never blocks; an old link's end changes nothing."""
        live = self._sessions.find(end.session_id)
        facts = msgspec.structs.asdict(end)
        self._log.info("link.ended", user_id="" if live is None else live.record.user_id, **facts)
        self._starting.pop(end.link_id, None)
        if live is not None:
            live.viewers.pop(end.link_id, None)
            self._marks.ended(live, end.link_id, cause_of(end.cause))
        if live is None or live.links.pop(end.link_id, None) is None:
            return
        self._sessions.tell(live)
        self.lost(live, end.link_id, cause_of(end.cause))

    def lost(self, live: Live, link_id: str, cause: LossCause) -> None:
        """Record a loss in the background, as long as it takes; a later attach makes it moot."""
        self._endings.lost(live, link_id, cause)

    def leg_lost(self, session_id: str, link_id: str) -> None:
        """The desktop's side of a link broke: look whether the desktop still lives, now and not in half a
        minute.
        """
        live = self._sessions.find(session_id)
        if live is not None:
            self._look_now()


def _wire(refusal: Refusal) -> LinkRefusal:
    return LinkRefusal(
        code=int(refusal.code),
        why=refusal.why,
        next=refusal.next,
        retry_ms=refusal.retry_ms,
        by=refusal.by,
        saved_as_of_ms=refusal.saved_as_of_ms,
        outcome=refusal.outcome,
        to=refusal.to,
    )

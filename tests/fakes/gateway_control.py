"""A control for gateway tests: tickets, one control link per session, newest wins; stricter than the real
one.

Not the lifecycle: it remembers what a gateway asked and reported, and fails the test when a report is
impossible (a link that ended twice, or one that was never attached).
"""

import asyncio
import secrets
from dataclasses import dataclass, field

from session_service.core.close_codes import Close, Next
from session_service.core.continuity.attempts import LOGIN, NOT_FOUND, Order, is_proved
from session_service.core.continuity.proof import grant_key, session_secret
from session_service.core.refusals import Refusal
from session_service.ports.streams import (
    Attachment,
    LinkEnd,
    LinkOffer,
    LinkRefusal,
    ResumeOffer,
    Streams,
)
from tests.fakes.until import until


@dataclass(kw_only=True)
class FakeSession:
    """A session that leads to a socket."""

    socket: str
    uid: int | None = None
    mode: str = "control"
    progress: list[str] = field(default_factory=list)
    """Words that `wait_starting` gives, one per call, before the session is ready."""
    link_id: str = ""
    grant: int = 0
    order: Order = field(default_factory=Order)


class FakeControl:
    """Implements `ports.streams.Attachments`."""

    def __init__(self) -> None:
        self.streams: Streams | None = None
        self.sessions: dict[str, FakeSession] = {}
        self.tickets: dict[str, str] = {}
        self.used: set[str] = set()
        self.offers: list[LinkOffer] = []
        self.attached: dict[str, str] = {}
        self.ends: list[LinkEnd] = []
        self.legs_lost: list[tuple[str, str]] = []
        self.secret = secrets.token_bytes(32)
        self.resumes: list[ResumeOffer] = []
        self.left: list[tuple[str, str]] = []
        self.refusal: LinkRefusal | None = None
        self.asks_login = False
        """The policy wants a login at each return."""
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def add_session(self, name: str, socket: str, **more: object) -> FakeSession:
        session = FakeSession(socket=socket, **more)  # type: ignore[arg-type]  # a test names the fields
        self.sessions[name] = session
        return session

    def ticket(self, session_id: str) -> str:
        """Issue a one-use ticket."""
        token = secrets.token_urlsafe(32)
        self.tickets[token] = session_id
        return token

    async def attach(self, offer: LinkOffer) -> Attachment | LinkRefusal:
        self.offers.append(offer)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if self.refusal is not None:
            return self.refusal
        session_id = self.tickets.pop(offer.ticket, None)
        if session_id is None:
            why, code = (
                ("proof_used", Close.PROOF_USED)
                if offer.ticket in self.used
                else ("not_found", Close.NOT_FOUND)
            )
            return LinkRefusal(code=code, why=why, next=Next.CLICK)
        self.used.add(offer.ticket)
        session = self.sessions[session_id]
        key = None
        if session.mode == "control":
            session.grant += 1
            self._displace(session_id, session, offer.link_id)
            if offer.subprotocol == "continuity.v1":
                key = grant_key(session_secret(self.secret, session_id), session_id, session.grant)
        return self._attachment(session_id, session, offer.link_id, key)

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        self.resumes.append(offer)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if self.refusal is not None:
            return self.refusal
        attempt = offer.attempt
        session = self.sessions.get(attempt.session_id)
        if session is None or not is_proved(self.secret, attempt, offer.challenge):
            return _wire(NOT_FOUND)
        if self.asks_login and attempt.ticket not in self.tickets:
            return _wire(LOGIN)
        refusal = session.order.admit(attempt, grant=session.grant, cause="open", by="Other device")
        if refusal is not None:
            return _wire(refusal)
        self._displace(attempt.session_id, session, offer.link_id)
        return self._attachment(attempt.session_id, session, offer.link_id, None)

    def _displace(self, session_id: str, session: FakeSession, link_id: str) -> None:
        older, session.link_id = session.link_id, link_id
        if older and self.streams is not None:
            self.streams.close_link(session_id, older, code=Close.TAKEN, why="taken", by="Other device")

    def _attachment(
        self, session_id: str, session: FakeSession, link_id: str, key: bytes | None
    ) -> Attachment:
        self.attached[link_id] = session_id
        return Attachment(
            session_id=session_id,
            generation=len(self.offers) + len(self.resumes),
            mode=session.mode,
            socket=session.socket,
            uid=session.uid,
            hold_s=1800.0,
            device_label="Test",
            grant=session.grant,
            key=key,
        )

    def leave(self, session_id: str, link_id: str) -> None:
        assert self.attached.get(link_id) == session_id
        self.left.append((session_id, link_id))

    async def wait_starting(self, offer: LinkOffer) -> str:
        session = self.sessions.get(self.tickets.get(offer.ticket, ""))
        return session.progress.pop(0) if session is not None and session.progress else ""

    def ended(self, end: LinkEnd) -> None:
        assert self.attached.get(end.link_id) == end.session_id, f"{end} was never attached"
        assert all(known.link_id != end.link_id for known in self.ends), f"{end} ended twice"
        self.ends.append(end)
        session = self.sessions[end.session_id]
        if session.link_id == end.link_id:
            session.link_id = ""

    def leg_lost(self, session_id: str, link_id: str) -> None:
        assert self.attached.get(link_id) == session_id
        self.legs_lost.append((session_id, link_id))

    async def end_of(self, number: int = 0, limit_s: float = 30.0) -> LinkEnd:
        """Wait until `number` + 1 links have ended; return that end."""
        await until(lambda: len(self.ends) > number, limit_s)
        return self.ends[number]


def _wire(refusal: Refusal) -> LinkRefusal:
    return LinkRefusal(code=int(refusal.code), why=refusal.why, next=str(refusal.next), by=refusal.by)


class FakeIds:
    """Ids that grow, so that a test can tell the older link."""

    def __init__(self, start: str = "") -> None:
        self._count = 0
        self._start = start
        """Tells ids of one run from those of the next."""

    def ulid(self) -> str:
        self._count += 1
        return f"{self._start}{self._count:026d}"

    def secret(self) -> bytes:
        return secrets.token_bytes(32)

    def jitter(self, low: float, high: float) -> float:
        return low

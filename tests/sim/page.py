"""A page that speaks `continuity.v1` with the real control code, on virtual time."""

from dataclasses import replace

from session_service.base.ids import DeviceId
from session_service.core.continuity.messages import Resume
from session_service.core.continuity.proof import NO_LEG, attempt_text, sign
from session_service.core.records import State
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal, ResumeOffer
from tests.sim.world import Client, Life, ready, until

AUD, CHALLENGE = "wss://desk.example:443", "A" * 22


class Page(Client):
    """A page that speaks `continuity.v1`."""

    key = b""
    grant = 0
    number = 0

    async def open_stream(self, session_id: str) -> Attachment:
        ticket = await self.ticket(session_id)
        link_id = self.life.world.ids.ulid()
        offer = LinkOffer(link_id=link_id, ticket=ticket, subprotocol="continuity.v1", address="10.0.0.9")
        self.life.streams.open[link_id] = session_id
        answer = await self.life.control.attachments.attach(offer)
        assert isinstance(answer, Attachment), answer
        assert answer.key is not None
        assert repr(answer.key) not in repr(answer)
        self.key, self.grant, self.number = answer.key, answer.grant, 0
        self.link_id, self.session_id = link_id, session_id
        return answer

    async def ticket(self, session_id: str) -> str:
        """Ask the API for a ticket, as a page that is signed in."""
        issued = await self.life.control.issue_ticket(
            session_id, user=self.user, device_id=DeviceId(self.device), device_label=self.device
        )
        return issued.token

    def offer(
        self, *, number: int | None = None, challenge: str = CHALLENGE, ticket: str = ""
    ) -> ResumeOffer:
        """A proved attempt; `challenge` is what the other end believes to have asked."""
        self.number = self.number + 1 if number is None else number
        assert self.session_id is not None
        bare = Resume(
            aud=AUD,
            session_id=self.session_id,
            grant=self.grant,
            leg=NO_LEG,
            number=self.number,
            received=0,
            have=0,
            end=0,
            mac=b"",
            ticket=ticket,
        )
        text = attempt_text(
            aud=AUD,
            session_id=bare.session_id,
            grant=bare.grant,
            leg=bare.leg,
            number=bare.number,
            received=0,
            have=0,
            end=0,
            challenge=CHALLENGE,
        )
        return ResumeOffer(
            link_id=self.life.world.ids.ulid(),
            attempt=replace(bare, mac=sign(self.key, text)),
            challenge=challenge,
            address="10.0.0.9",
        )

    async def resume(self, offer: ResumeOffer | None = None) -> Attachment | LinkRefusal:
        offer = offer or self.offer()
        self.life.streams.open[offer.link_id] = offer.attempt.session_id
        answer = await self.life.control.attachments.resume(offer)
        if isinstance(answer, Attachment):
            self.link_id = offer.link_id
        return answer


async def started(life: Life) -> tuple[Page, str]:
    await ready(life)
    page = Page(life)
    session = await page.start()
    await until(lambda: life.world.row(session.id).state is State.HELD)
    await page.open_stream(session.id)
    return page, session.id

"""Who may come back with a key, on the real control code in virtual time."""

import asyncio
from dataclasses import replace

from session_service.base.ids import DeviceId
from session_service.core.actor import Actor
from session_service.core.continuity.messages import Resume
from session_service.core.continuity.proof import NO_LEG, attempt_text, sign
from session_service.core.records import State
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal, ResumeOffer
from tests.sim.world import Client, Life, World, ready, until

AUD, CHALLENGE = "wss://desk.example:443", "A" * 22


class Page(Client):
    """A page that speaks `continuity.v1`."""

    key = b""
    grant = 0
    number = 0

    async def open_stream(self, session_id: str) -> Attachment:
        ticket = await self.life.control.issue_ticket(
            session_id, user=self.user, device_id=DeviceId(self.device), device_label=self.device
        )
        link_id = self.life.world.ids.ulid()
        offer = LinkOffer(
            link_id=link_id, ticket=ticket.token, subprotocol="continuity.v1", address="10.0.0.9"
        )
        self.life.streams.open[link_id] = session_id
        answer = await self.life.control.attachments.attach(offer)
        assert isinstance(answer, Attachment), answer
        assert answer.key is not None
        assert repr(answer.key) not in repr(answer)
        self.key, self.grant, self.number = answer.key, answer.grant, 0
        self.link_id, self.session_id = link_id, session_id
        return answer

    def offer(self, *, number: int | None = None, challenge: str = CHALLENGE) -> ResumeOffer:
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


async def _started(life: Life) -> tuple[Page, str]:
    await ready(life)
    page = Page(life)
    session = await page.start()
    await until(lambda: life.world.row(session.id).state is State.HELD)
    await page.open_stream(session.id)
    return page, session.id


def test_a_key_comes_back_within_the_hold_and_rotates_nothing() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        for _ in range(3):
            page.drop()
            await until(lambda: world.row(session_id).state is State.HELD)
            answer = await page.resume()
            assert isinstance(answer, Attachment)
            assert (answer.key, answer.gap_s is not None) == (None, True)
            assert world.row(session_id).state is State.ACTIVE
            assert world.row(session_id).grant == page.grant

    world.live(play)


def test_a_lost_answer_is_asked_for_again_and_displaces_only_itself() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, _ = await _started(life)
        first = await page.resume()
        second = await page.resume()
        assert isinstance(first, Attachment)
        assert isinstance(second, Attachment)
        assert [closed.why for closed in life.streams.closed] == ["taken", "taken"]

    world.live(play)


def test_late_recorded_and_forged_attempts_change_nothing() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        assert isinstance(await page.resume(page.offer(number=5)), Attachment)
        before = world.row(session_id)
        late = await page.resume(page.offer(number=5))
        recorded = await page.resume(page.offer(number=9, challenge="B" * 22))
        page.key = bytes(32)
        forged = await page.resume(page.offer(number=9))
        whys = [answer.why for answer in (late, recorded, forged) if isinstance(answer, LinkRefusal)]
        assert whys == ["proof_used", "not_found", "not_found"]
        assert world.row(session_id) == before

    world.live(play)


def test_of_two_attempts_at_once_the_newer_one_stays() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        offers = [page.offer(), page.offer()]
        answers = await asyncio.gather(*(page.resume(offer) for offer in offers))
        assert isinstance(answers[1], Attachment)
        displaced = offers[0].link_id in {closed.link_id for closed in life.streams.closed}
        assert displaced or isinstance(answers[0], LinkRefusal)
        assert world.row(session_id).link_id == offers[1].link_id

    world.live(play)


def test_another_device_voids_the_key_and_the_page_is_told_by_whom() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        other = Page(life, device="phone")
        await other.open_stream(session_id)
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.code, answer.by) == ("taken", 4409, "phone")
        assert isinstance(await other.resume(), Attachment)

    world.live(play)


def test_who_was_signed_out_comes_back_with_a_login_only_attached_or_not() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        operator = Actor(kind="operator", user_id=None, name="o")
        for attached in (True, False):
            if not attached:
                page.drop()
                await until(lambda: world.row(session_id).state is State.HELD)
            await life.control.disconnect(session_id, actor=operator)
            answer = await page.resume()
            assert isinstance(answer, LinkRefusal)
            assert (answer.why, answer.code) == ("login", 4401)
            await page.open_stream(session_id)
            assert isinstance(await page.resume(), Attachment)

    world.live(play)


def test_after_the_hold_a_key_is_told_what_happened() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        page.drop()
        await until(lambda: world.row(session_id).state is State.CLOSED, limit_s=4_000)
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.code, answer.next) == ("hold_expired", 4410, "start")

    world.live(play)


def test_a_page_that_says_goodbye_for_good_ends_its_session() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await _started(life)
        assert page.link_id is not None
        life.control.attachments.leave(session_id, "somebody else's")
        await asyncio.sleep(1)
        assert world.row(session_id).state is State.ACTIVE
        life.control.attachments.leave(session_id, page.link_id)
        await until(lambda: world.row(session_id).state in {State.CLOSING, State.CLOSED})

    world.live(play)

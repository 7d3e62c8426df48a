"""Who may come back with a key, on the real control code in virtual time."""

import asyncio

from session_service.core.actor import Actor
from session_service.core.continuity.failures import FAILURES_MAX
from session_service.core.records import State
from session_service.ports.streams import Attachment, LinkRefusal
from tests.sim.page import Page, started
from tests.sim.world import Life, World, ready, until


def test_a_key_comes_back_within_the_hold_and_rotates_nothing() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
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
        page, _ = await started(life)
        first = await page.resume()
        second = await page.resume()
        assert isinstance(first, Attachment)
        assert isinstance(second, Attachment)
        assert [closed.why for closed in life.streams.closed] == ["taken", "taken"]

    world.live(play)


def test_late_recorded_and_forged_attempts_change_nothing() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
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
        page, session_id = await started(life)
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
        page, session_id = await started(life)
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
        page, session_id = await started(life)
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


def test_a_page_that_asks_with_an_old_key_without_end_fills_no_log() -> None:
    """Each of its attempts was a record in a chain that nobody may shorten."""
    world = World()

    async def play(life: Life) -> None:
        page, _ = await started(life)
        assert isinstance(await page.resume(page.offer(number=5)), Attachment)
        before = len(await world.registry.audit(limit=1000))
        for _ in range(100):
            answer = await page.resume(page.offer(number=5))
            assert isinstance(answer, LinkRefusal)
            assert answer.why == "proof_used"
        assert len(await world.registry.audit(limit=1000)) - before == FAILURES_MAX

    world.live(play)


def test_who_is_signed_out_while_the_service_ends_is_signed_out_in_its_next_life() -> None:
    """The sign-in went and the key stayed: after an upgrade its page was back as if nothing had been."""
    world = World()
    kept: list[Page] = []

    async def first(life: Life) -> None:
        page, session_id = await started(life)
        page.drop()
        await until(lambda: world.row(session_id).state is State.HELD)
        life.control._node.draining = True
        life.control._desk.open = False
        await life.control.disconnect(session_id, actor=Actor(kind="user", user_id=None, name="o"))
        kept.append(page)

    async def second(life: Life) -> None:
        page = kept[0]
        page.life = life
        await ready(life)
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert answer.why == "login"

    world.live(first)
    world.live(second)


def test_after_the_hold_a_key_is_told_what_happened() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
        page.drop()
        await until(lambda: world.row(session_id).state is State.CLOSED, limit_s=4_000)
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.code, answer.next) == ("hold_expired", 4410, "start")

    world.live(play)


def test_a_page_that_says_goodbye_for_good_ends_its_session() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
        assert page.link_id is not None
        life.control.attachments.leave(session_id, "somebody else's")
        await asyncio.sleep(1)
        assert world.row(session_id).state is State.ACTIVE
        life.control.attachments.leave(session_id, page.link_id)
        await until(lambda: world.row(session_id).state in {State.CLOSING, State.CLOSED})

    world.live(play)

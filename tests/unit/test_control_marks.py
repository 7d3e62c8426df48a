"""Coming back, and being signed out, while the registry is away: the real control code, in virtual time."""

import asyncio
from dataclasses import replace

import pytest

from session_service.control.marks import MarkBook
from session_service.control.sessions import Live
from session_service.core.actor import Actor
from session_service.core.policy import Policy
from session_service.core.records import LossCause, State
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal, PlannedPause
from tests.sim.page import Page, started
from tests.sim.world import Life, World, ready, until

OPERATOR = Actor(kind="operator", user_id=None, name="ops")


def marks(world: World) -> tuple[int | None, int | None]:
    (desktop,) = world.machine.running()
    return desktop.marks


def remembered(page: Page, life: Life) -> Page:
    """The same page, in the next life of the service."""
    again = Page(life)
    again.key, again.grant, again.number, again.session_id = (
        page.key,
        page.grant,
        page.number,
        page.session_id,
    )
    return again


async def dropped(life: Life) -> tuple[Page, str]:
    page, session_id = await started(life)
    page.drop()
    await until(lambda: life.world.row(session_id).state is State.HELD, pause_s=0.01)
    return page, session_id


@pytest.mark.parametrize("was", ["held", "active"])
def test_a_key_comes_back_without_the_registry_and_is_recorded_when_it_answers(was: str) -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await (dropped(life) if was == "held" else started(life))
        world.registry.go_away()
        answer = await page.resume()
        assert isinstance(answer, Attachment), answer
        assert marks(world)[0] == world.row(session_id).loss_epoch
        await asyncio.sleep(300)  # ten holds
        assert world.row(session_id).state is (State.HELD if was == "held" else State.ACTIVE)
        world.registry.come_back()
        await until(lambda: world.row(session_id).link_id == page.link_id)
        await until(lambda: marks(world) == (None, None))
        assert world.row(session_id).state is State.ACTIVE
        page.drop()
        await until(lambda: world.row(session_id).state is State.HELD)

    world.live(play)
    assert world.machine.violations == []


def test_a_provisional_client_that_leaves_again_gets_a_full_hold() -> None:
    """Most of the hold was used up when it came back; what is recorded is a new loss."""
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await dropped(life)
        await asyncio.sleep(25)
        before = world.row(session_id)
        world.registry.go_away()
        assert isinstance(await page.resume(), Attachment)
        page.drop("silent")
        await asyncio.sleep(60)
        world.registry.come_back()
        await until(lambda: world.row(session_id).loss_epoch > before.loss_epoch)
        after = world.row(session_id)
        assert (after.state, after.loss_cause) == (State.HELD, LossCause.SILENT)
        assert after.hold is not None
        left_ms = after.hold.deadline_ms - life.control._node.reading_ms()
        assert left_ms > 27_000
        await asyncio.sleep(25)
        assert isinstance(await page.resume(), Attachment)

    world.live(play)


def test_a_crash_after_a_provisional_resume_revives_no_old_hold() -> None:
    """Without the mark the hold that ran before the outage would end the session early."""
    world = World()
    kept: dict[str, Page] = {}

    async def before(life: Life) -> None:
        page, _ = await dropped(life)
        await asyncio.sleep(25)
        world.registry.go_away()
        assert isinstance(await page.resume(), Attachment)
        kept["page"] = page
        life.kill()

    async def after(life: Life) -> None:
        session_id = kept["page"].session_id
        assert session_id is not None
        epoch = world.row(session_id).loss_epoch
        await until(lambda: world.row(session_id).loss_epoch > epoch)
        assert world.row(session_id).state is State.HELD
        await until(lambda: marks(world) == (None, None))
        await asyncio.sleep(25)
        assert isinstance(await remembered(kept["page"], life).resume(), Attachment)

    world.live(before)
    world.registry.come_back()
    world.live(after)


def test_without_the_mark_that_crash_would_end_the_session_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant that lifecycle.md's model refutes (M7), so that the test above is known to see it."""

    async def nowhere(self: MarkBook, live: Live) -> None:
        """Say yes and write nothing."""

    world = World()
    kept: dict[str, str] = {}

    async def before(life: Life) -> None:
        page, kept["id"] = await dropped(life)
        await asyncio.sleep(25)
        world.registry.go_away()
        assert isinstance(await page.resume(), Attachment)
        life.kill()

    async def after(life: Life) -> None:
        await until(lambda: world.row(kept["id"]).state is not State.HELD, limit_s=15)

    monkeypatch.setattr(MarkBook, "_write", nowhere)
    world.live(before)
    world.registry.come_back()
    world.live(after)


def test_nothing_expires_before_the_disk_was_asked_for_marks() -> None:
    """The host is away after a start, and the old hold would be over by now."""
    world = World()
    kept: dict[str, str] = {}

    async def before(life: Life) -> None:
        _, kept["id"] = await dropped(life)
        await asyncio.sleep(28)
        life.kill()

    async def after(life: Life) -> None:
        await asyncio.sleep(20)
        assert world.row(kept["id"]).state is State.HELD
        world.machine.away = False
        await until(lambda: world.row(kept["id"]).state is not State.HELD)

    world.live(before)
    world.machine.away = True
    world.live(after)


def test_without_a_mark_on_the_disk_nobody_is_attached() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, _ = await dropped(life)
        world.registry.go_away()
        world.machine.away = True
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.next) == ("retry", "resume")
        assert isinstance(await page.resume(), LinkRefusal)  # memory alone is no mark
        world.machine.away = False
        assert isinstance(await page.resume(), Attachment)

    world.live(play)


def test_of_two_provisional_links_the_newer_one_stays() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await dropped(life)
        world.registry.go_away()
        assert isinstance(await page.resume(), Attachment)
        first = page.link_id
        assert isinstance(await page.resume(), Attachment)
        assert [(closed.link_id, closed.why) for closed in life.streams.closed] == [(first, "taken")]
        world.registry.come_back()
        await until(lambda: world.row(session_id).link_id == page.link_id)

    world.live(play)


def test_an_open_without_the_registry_keeps_its_ticket() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await dropped(life)
        token = await page.ticket(session_id)
        offer = LinkOffer(link_id="x", ticket=token, subprotocol="continuity.v1", address="10.0.0.9")
        world.registry.go_away()
        answer = await life.control.attachments.attach(offer)
        assert isinstance(answer, LinkRefusal)
        assert answer.why == "retry"
        world.registry.come_back()
        life.streams.open["x"] = session_id
        assert isinstance(await life.control.attachments.attach(offer), Attachment)

    world.live(play)


@pytest.mark.parametrize("was", ["held", "active"])
def test_a_sign_out_while_the_registry_is_away_voids_the_key_for_good(was: str) -> None:
    world = World()
    kept: dict[str, Page] = {}

    async def before(life: Life) -> None:
        page, session_id = await (dropped(life) if was == "held" else started(life))
        world.registry.go_away()
        await life.control.disconnect(session_id, actor=OPERATOR, reason="signed out")
        if was == "active":
            assert [closed.why for closed in life.streams.closed] == ["login"]
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.code) == ("login", 4401)
        kept["page"] = page
        life.kill()

    async def after(life: Life) -> None:
        page = remembered(kept["page"], life)
        assert page.session_id is not None
        answer = await page.resume()
        while isinstance(answer, LinkRefusal) and answer.why == "retry":
            await asyncio.sleep(0.2)
            answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert answer.why == "login"
        await until(lambda: world.row(page.session_id).grant > page.grant)
        await until(lambda: marks(world) == (None, None))
        await page.open_stream(page.session_id)
        assert isinstance(await page.resume(), Attachment)

    world.live(before)
    world.registry.come_back()
    world.live(after)


# -- login by policy ----------------------------------------------------------------------------------


def policy(after_s: float) -> Policy:
    return Policy(hold_s=600.0, reauthenticate_after_s=after_s)


def test_within_the_window_nobody_is_asked_and_after_it_a_login_is() -> None:
    world = World(policy=policy(60.0))

    async def play(life: Life) -> None:
        page, session_id = await dropped(life)
        await asyncio.sleep(30)
        answer = await page.resume()
        assert isinstance(answer, Attachment)
        page.drop()
        await until(lambda: world.row(session_id).state is State.HELD)
        await asyncio.sleep(70)
        grant = world.row(session_id).grant
        answer = await page.resume()
        assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.code, answer.next) == ("login", 4401, "login")
        token = await page.ticket(session_id)
        assert isinstance(await page.resume(page.offer(ticket=token)), Attachment)
        assert world.row(session_id).grant == grant  # the same key goes on: byte-exact
        page.drop()
        await until(lambda: world.row(session_id).state is State.HELD)
        await asyncio.sleep(70)
        answer = await page.resume(page.offer(ticket=token))
        assert isinstance(answer, LinkRefusal)
        assert answer.why == "login"  # a ticket proves one login, once

    world.live(play)


def test_a_policy_of_zero_asks_at_each_return_and_another_users_ticket_is_no_login() -> None:
    world = World(policy=policy(0.0), users=2)

    async def play(life: Life) -> None:
        page, session_id = await started(life)
        assert isinstance(await page.resume(), LinkRefusal)
        other = Page(life, 1)
        theirs = await other.start()
        await until(lambda: world.row(theirs.id).state is State.HELD)
        foreign = await other.ticket(theirs.id)
        assert isinstance(await page.resume(page.offer(ticket=foreign)), LinkRefusal)
        own = await page.ticket(session_id)
        assert isinstance(await page.resume(page.offer(ticket=own)), Attachment)

    world.live(play)


def test_a_clock_set_back_opens_no_window() -> None:
    world = World(policy=policy(60.0))

    async def play(life: Life) -> None:
        page, session_id = await dropped(life)
        await asyncio.sleep(70)
        row = world.row(session_id)
        assert row is not None
        live = life.control._sessions.find(session_id)
        assert live is not None
        assert row.lost_at_ms is not None
        live.record = replace(live.record, lost_at_ms=row.lost_at_ms + 3_600_000)
        assert isinstance(await page.resume(), LinkRefusal)

    world.live(play)


def test_a_desktop_that_is_starting_loses_the_link_of_who_is_signed_out() -> None:
    """It becomes held, not active: nobody who was signed out sees its first picture."""
    world = World()

    async def play(life: Life) -> None:
        await ready(life)
        page = Page(life)
        session = await page.start()
        world.machine.away = True
        offer = LinkOffer(
            link_id="x", ticket=await page.ticket(session.id), subprotocol="continuity.v1", address="10.0.0.9"
        )
        life.streams.open["x"] = session.id
        assert await life.control.attachments.wait_starting(offer)
        assert world.row(session.id).link_id == "x"
        await life.control.disconnect(session.id, actor=OPERATOR, reason="signed out")
        assert [(closed.link_id, closed.why) for closed in life.streams.closed] == [("x", "login")]
        answer = await life.control.attachments.attach(offer)
        assert isinstance(answer, LinkRefusal)
        world.machine.away = False
        await until(lambda: world.row(session.id).state is State.HELD)

    world.live(play)


def test_who_asks_during_a_planned_pause_is_told_until_when() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, _ = await dropped(life)
        now_ms = world.time.wall_ms()
        pause = PlannedPause(begins_at_ms=now_ms + 5_000, back_at_ms=now_ms + 60_000, note="Disks.")
        life.control.announce(pause)
        assert life.streams.announced == [pause]
        world.registry.go_away()
        world.machine.away = True
        before = await page.resume()
        await asyncio.sleep(5)
        during = await page.resume()
        assert isinstance(before, LinkRefusal)
        assert isinstance(during, LinkRefusal)
        assert (before.back_at_ms, before.why) == (None, "retry")
        assert (during.back_at_ms, during.note, during.why) == (pause.back_at_ms, "Disks.", "retry")

    world.live(play)

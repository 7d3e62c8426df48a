"""The main story of a session on the real control code, in virtual time: a hold of half an hour takes
milliseconds.
"""

import asyncio

import pytest

from session_service.base.errors import NotAllowed
from session_service.core import limits
from session_service.core.actor import Actor
from session_service.core.policy import Policy
from session_service.core.records import LossCause, Outcome, State
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal
from tests.sim.world import Client, Life, World, ready, until


def test_start_attach_drop_hold_expire_close_and_start_again_with_every_file():
    """Everything that was written before the end is in the next desktop."""
    world = World(policy=Policy(hold_s=1_800.0))

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        session = await page.start()
        await until(lambda: world.row(session.id).state is State.HELD)
        assert world.row(session.id).loss_cause is LossCause.NEVER_ATTACHED
        answer = await page.open(session.id)
        assert isinstance(answer, Attachment)
        assert world.row(session.id).state is State.ACTIVE
        written = {world.machine.write(world.machine.desktop_of(page.workspace.id)) for _ in range(5)}
        page.drop("tab_closed")
        await until(lambda: world.row(session.id).state is State.HELD)
        before_s = world.time.now_s
        await until(lambda: world.row(session.id).hold is None, limit_s=2_000)
        assert 1_800 <= world.time.now_s - before_s <= 1_804
        await until(lambda: world.row(session.id).state is State.CLOSED)
        closed = world.row(session.id)
        assert closed.outcome is Outcome.SAVED
        assert world.machine.running() == []
        assert world.machine.homes == {}
        assert session.id in world.repository.receipts
        again = await page.start()
        assert again.id != session.id
        assert again.fence > session.fence
        await until(lambda: world.row(again.id).state is not State.STARTING)
        home = world.machine.homes[page.workspace.id, again.fence]
        assert written <= home.writes
        assert isinstance(await page.open(again.id), Attachment)

    world.live(play)
    assert world.machine.violations == []


def test_a_client_that_comes_back_within_the_hold_finds_the_same_desktop():
    """Twenty-nine minutes away, and nothing was started or ended."""
    world = World(policy=Policy(hold_s=1_800.0))

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        session = await page.start()
        await until(lambda: world.row(session.id).state is State.HELD)
        first = await page.open(session.id)
        page.drop()
        await asyncio.sleep(29 * 60)
        second = await page.open(session.id)
        assert isinstance(first, Attachment)
        assert isinstance(second, Attachment)
        assert first.socket == second.socket
        assert second.gap_s is not None
        assert second.gap_s > 29 * 60 - 2
        assert world.machine.launches == 1

    world.live(play)


def test_a_page_that_waits_while_the_desktop_starts_is_attached_when_it_is_ready():
    """The first `wait_starting` uses the ticket up for its link; the session is never held in between."""
    world = World()
    world.slow = True

    async def play(life: Life) -> None:
        await ready(life)
        await asyncio.sleep(5)
        page = Client(life)
        world.machine.away = True
        session = await page.start()
        opening = asyncio.ensure_future(page.open(session.id))
        await asyncio.sleep(2)
        assert not opening.done()
        world.machine.away = False
        assert isinstance(await opening, Attachment)
        assert world.row(session.id).state is State.ACTIVE
        assert world.row(session.id).loss_epoch == 0

    world.live(play)


def test_the_newest_device_wins_and_the_older_one_stays_down():
    """The older link is closed with `taken`, and its late end changes nothing."""
    world = World()

    async def play(life: Life) -> None:
        await ready(life)
        old, new = Client(life, device="laptop"), Client(life, device="phone")
        session = await old.start()
        await until(lambda: world.row(session.id).state is State.HELD)
        await old.open(session.id)
        assert isinstance(await new.open(session.id), Attachment)
        assert [(end.code, end.by) for end in life.streams.closed] == [(4409, "phone")]
        old.drop()
        await asyncio.sleep(5)
        assert world.row(session.id).state is State.ACTIVE
        assert world.row(session.id).loss_epoch == 1

    world.live(play)


def test_a_ticket_opens_one_link_once():
    """A used, an unknown and a late ticket get a refusal with the way forward."""
    world = World(policy=Policy(hold_s=1_800.0))

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        session = await page.start()
        await until(lambda: world.row(session.id).state is State.HELD)
        ticket = await life.control.issue_ticket(session.id, user=page.user, device_id="d", device_label="d")

        async def attach(token: str) -> Attachment | LinkRefusal:
            offer = LinkOffer(
                link_id=world.ids.ulid(), ticket=token, subprotocol="binary", address="10.0.0.9"
            )
            return await life.control.attachments.attach(offer)

        answers = await asyncio.gather(*(attach(ticket.token) for _ in range(20)))
        assert sum(isinstance(answer, Attachment) for answer in answers) == 1
        assert {answer.code for answer in answers if isinstance(answer, LinkRefusal)} == {4403}
        assert (await attach("x" * 43)).code == 4404
        late = await life.control.issue_ticket(session.id, user=page.user, device_id="e", device_label="e")
        await asyncio.sleep(61)
        assert (await attach(late.token)).code == 4403

    world.live(play)


def test_a_page_that_leaves_while_its_desktop_starts_does_not_count_as_attached():
    """Its end is never told, since no gateway attached it: the session is held when it is ready, not active
    for ever.
    """
    world = World(policy=Policy(hold_s=1_800.0))

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        world.machine.away = True
        session = await page.start()
        ticket = await life.control.issue_ticket(session.id, user=page.user, device_id="d", device_label="d")
        offer = LinkOffer(link_id="gone", ticket=ticket.token, subprotocol="binary", address="")
        assert await life.control.attachments.wait_starting(offer) == "starting"
        await asyncio.sleep(20)
        world.machine.away = False
        await until(lambda: world.row(session.id).state is not State.STARTING)
        assert world.row(session.id).state is State.HELD

    world.live(play)


def test_a_page_that_asks_on_while_its_desktop_starts_gets_it():
    """The ticket lives a minute, the start takes three: the first question used it up for this link."""
    world = World(policy=Policy(hold_s=1_800.0))

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        world.machine.away = True
        session = await page.start()
        ticket = await life.control.issue_ticket(session.id, user=page.user, device_id="d", device_label="d")
        offer = LinkOffer(link_id="patient", ticket=ticket.token, subprotocol="binary", address="")
        for _ in range(180):
            assert await life.control.attachments.wait_starting(offer) == "starting"
            await asyncio.sleep(1)
        world.machine.away = False
        for _ in range(60):
            if not await life.control.attachments.wait_starting(offer):
                break
            await asyncio.sleep(1)
        answer = await life.control.attachments.attach(offer)
        assert isinstance(answer, Attachment)
        assert world.row(session.id).link_id == "patient"

    world.live(play)


def test_a_start_that_fails_tells_its_page_so():
    """Three launches fail: the session is closed, nothing is left, and the waiting page hears the outcome."""
    world = World()
    world.machine.launch_failures = 3

    async def play(life: Life) -> None:
        await ready(life)
        page = Client(life)
        session = await page.start()
        answer = await page.open(session.id)
        assert isinstance(answer, LinkRefusal)
        assert (answer.code, answer.outcome) == (4480, "start_failed")
        assert world.row(session.id).outcome is Outcome.START_FAILED
        assert world.machine.homes == {}

    world.live(play)


def test_one_user_holds_only_so_many_desktops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds memory while it waits; who is refused may end one, and others are not touched."""
    monkeypatch.setattr(limits, "OPEN_DESKTOPS_PER_USER_MAX", 2)
    world = World(users=2)

    async def act(life: Life) -> None:
        await ready(life)
        page, other = Client(life), Client(life, 1)
        first = await page.start()
        spaces = [
            await life.control.create_workspace(user=page.user, name=name) for name in ("second", "third")
        ]
        await life.control.start(user=page.user, workspace_id=spaces[0].id)
        with pytest.raises(NotAllowed):
            await life.control.start(user=page.user, workspace_id=spaces[1].id)
        assert (await page.start()).id == first.id
        await other.start()
        await until(lambda: world.row(first.id).state is State.HELD)
        await life.control.end(first.id, actor=Actor(kind="user", user_id=page.user.id, name=""))
        await until(lambda: world.row(first.id).state is State.CLOSED)
        await life.control.start(user=page.user, workspace_id=spaces[1].id)

    world.live(act)
    assert world.machine.violations == []

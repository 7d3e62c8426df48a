"""Closing on the real control code: nothing is lost, nothing is given up, and the desktop can be given back
until it cannot.
"""

import asyncio

import msgspec
import pytest

from session_service.base.errors import (
    HoldExpired,
    NotFound,
    OlderOnly,
    SessionError,
    StorageUnavailable,
    TransitionRefused,
)
from session_service.core.actor import Actor
from session_service.core.policy import Policy
from session_service.core.records import CloseStep, HookState, Outcome, Session, State
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal
from tests.fakes.desktops import FakeDesktop, Home
from tests.sim.world import Client, Life, World, ready, until

OPERATOR = Actor(kind="operator", user_id=None, name="ops")


async def attached(life: Life) -> tuple[Client, Session]:
    """Return a page with its desktop open and one write in it."""
    await ready(life)
    page = Client(life)
    session = await page.start()
    await until(lambda: life.world.row(session.id).state is State.HELD)
    assert isinstance(await page.open(session.id), Attachment)
    write(life, page)
    return page, session


def write(life: Life, page: Client) -> int:
    desktop = life.world.machine.desktop_of(page.workspace.id)
    assert desktop is not None
    number = life.world.machine.write(desktop)
    assert number is not None
    return number


def user(page: Client) -> Actor:
    return Actor(kind="user", user_id=page.user.id, name=page.user.name)


def play(world: World, act: object) -> None:
    world.live(act)  # type: ignore[arg-type]  # a coroutine function of one life
    assert world.machine.violations == []


def test_a_store_that_is_away_for_an_hour_loses_nothing_and_the_close_finishes_by_itself() -> None:
    """Frozen, shown, alarmed; the wiped home is in the last checkpoint."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        world.repository.down = True
        last = write(life, page)
        page.drop()
        await until(lambda: world.row(session.id).state is State.CLOSING, limit_s=60)
        await asyncio.sleep(60)
        assert world.row(session.id).close_step is CloseStep.ACCESS_ENDED
        assert [one.frozen for one in world.machine.running()] == [True]
        view = await life.control.view(session.id)
        assert "down" in view.step_error
        assert view.step_attempts > 1
        assert view.pending_bytes is not None
        assert {alarm.kind for alarm in life.control.alarms()} >= {"storage", "close"}
        await asyncio.sleep(3_600)
        assert world.row(session.id).state is State.CLOSING
        world.repository.down = False
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=60)
        assert last in world.repository.newest(page.workspace.id).content
        assert life.control.alarms() == []

    play(world, act)


@pytest.mark.parametrize("store_down", [True, False])
def test_a_user_who_returns_before_ending_gets_the_same_desktop_back(store_down: bool) -> None:
    """Commit, then thaw: a new session, the same fence and processes, a full hold; the store is not
    needed.
    """
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        desktop = world.machine.desktop_of(page.workspace.id)
        world.repository.upload_s = 30.0
        world.repository.down = store_down
        page.drop()
        await until(lambda: world.row(session.id).state is State.CLOSING, limit_s=60)
        await asyncio.sleep(10)
        assert desktop.frozen
        answer = await life.control.reuse(session.id, user=page.user)
        await asyncio.sleep(1)
        assert not desktop.frozen
        assert world.row(session.id).outcome is Outcome.REUSED
        assert (answer.state, answer.fence) == (State.HELD, session.fence)
        assert isinstance(await page.open(answer.id), Attachment)
        last = write(life, page)
        world.repository.down = False
        world.repository.upload_s = 0.0
        await life.control.end(answer.id, actor=user(page))
        await until(lambda: world.row(answer.id).state is State.CLOSED, limit_s=120)
        assert world.row(answer.id).outcome is Outcome.ENDED_BY_USER
        assert last in world.repository.newest(page.workspace.id).content
        assert world.machine.launches == 1

    play(world, act)


def test_after_ending_the_desktop_is_not_given_back() -> None:
    """The point of no return: wait, then start from its files."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        world.machine.calls.clear()
        await until(lambda: "prove" in world.machine.calls or world.row(session.id).c2, pause_s=0.001)
        world.machine.away = True
        with pytest.raises(SessionError):
            await life.control.reuse(session.id, user=page.user)
        world.machine.away = False
        await until(lambda: world.row(session.id).state is State.CLOSED)
        assert world.row(session.id).outcome is Outcome.ENDED_BY_USER
        with pytest.raises(TransitionRefused):
            await life.control.end(session.id, actor=user(page))
        with pytest.raises(HoldExpired):
            await page.open(session.id)

    play(world, act)


def test_unreadable_files_keep_the_close_waiting_until_they_are_accepted_by_name() -> None:
    """The alarm names them; accepting another path changes nothing; the receipt and the audit log have the
    list.
    """
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        world.machine.homes[page.workspace.id, session.fence].unreadable.add("private/key")
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(60)
        assert world.row(session.id).close_step is CloseStep.ACCESS_ENDED
        (alarm,) = [one for one in life.control.alarms() if one.kind == "incomplete"]
        assert dict(alarm.facts)["paths"] == "private/key"
        await life.control.accept_paths(session.id, paths=["other"], actor=OPERATOR, reason="no")
        await asyncio.sleep(60)
        assert world.row(session.id).close_step is CloseStep.ACCESS_ENDED
        await life.control.accept_paths(session.id, paths=["private/key"], actor=OPERATOR, reason="asked")
        await until(lambda: world.row(session.id).state is State.CLOSED)
        receipt = msgspec.json.decode(world.repository.receipts[session.id])
        assert "private/key" in receipt["accepted_paths"]
        assert receipt["c2"]["unreadable"] == ["private/key"]
        words = [line for _, line, facts in await life.control.explain(session.id) if "paths" in facts]
        assert len(words) == 2
        assert not [one for one in life.control.alarms() if one.session_id == session.id]
        again = await page.start()
        await until(lambda: world.row(again.id).state is State.HELD)
        assert world.row(again.id).start_from == world.row(session.id).c2

    play(world, act)


def test_what_is_written_past_the_freezer_is_saved_before_the_wipe() -> None:
    """The last look finds it at `ended`; the home is saved again and only then wiped."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).c2 is not None, pause_s=0.001)
        key = (page.workspace.id, session.fence)
        world.machine.homes[key].writes.add(999)
        await until(lambda: world.row(session.id).state is State.CLOSED)
        assert 999 in world.repository.newest(page.workspace.id).content
        kinds = [words for _, words, _ in await life.control.explain(session.id)]
        assert any("saved again" in words for words in kinds)

    world.slow = True
    play(world, act)


def test_a_home_that_never_rests_is_saved_again_slowly_and_a_person_is_called() -> None:
    """A writer of its own (a backup, a scanner) keeps the close going; it ends when the writer does."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        home = world.machine.homes[page.workspace.id, session.fence]
        look = world.repository.last_look

        async def spoiled(*args: object, **more: object) -> object:
            home.writes.add(1000 + len(home.writes))
            return await look(*args, **more)  # type: ignore[arg-type]  # passed on as it came

        world.repository.last_look = spoiled  # type: ignore[method-assign]  # a writer past every freezer
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(600)
        assert world.row(session.id).state is State.CLOSING
        assert [one for one in life.control.alarms() if one.kind == "home"]
        assert world.repository.saves.count("final") < 60, "it is not saved as fast as the store takes it"
        world.repository.last_look = look  # type: ignore[method-assign]  # the writer is stopped
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=120)
        assert world.repository.newest(page.workspace.id).content == frozenset(home.writes)
        assert not [one for one in life.control.alarms() if one.session_id == session.id]

    play(world, act)


def test_a_log_that_lost_the_last_checkpoint_ends_nothing_and_the_home_is_saved_again() -> None:
    """The proof of a lost checkpoint never comes; the home is intact and frozen, and stays so meanwhile."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        last = write(life, page)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).close_step is CloseStep.ENDING, pause_s=0.001)
        desktop = world.machine.desktop_of(page.workspace.id)
        lost = world.repository.logs[page.workspace.id].pop()
        world.machine.calls.clear()
        world.repository.down = True
        await asyncio.sleep(60)
        world.repository.down = False
        assert world.row(session.id).close_step in (CloseStep.ENDING, CloseStep.EXITING)
        assert desktop.running
        assert desktop.frozen
        with pytest.raises(SessionError):
            await life.control.reuse(session.id, user=page.user)
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=120)
        assert "thaw" not in world.machine.calls
        kept = world.row(session.id).c2
        assert kept is not None
        assert kept.hash != lost.hash
        assert last in world.repository.content_of(page.workspace.id, kept.seq, kept.hash)
        assert life.control.alarms() == []

    world.slow = True
    play(world, act)


def test_after_a_crash_a_close_that_saves_again_still_thaws_nothing() -> None:
    """That `ending` was reached once is in the record: a kill that it allowed may finish late."""
    world = World()
    ids: list[str] = []

    async def lose(life: Life) -> None:
        page, session = await attached(life)
        ids.append(session.id)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).close_step is CloseStep.ENDING, pause_s=0.001)
        world.repository.logs[page.workspace.id].pop()
        await until(lambda: world.row(session.id).close_step is CloseStep.EXITING, pause_s=0.001)
        life.kill()

    async def rest(life: Life) -> None:
        await until(lambda: world.row(ids[0]).state is State.CLOSED, limit_s=120)

    world.slow = True
    play(world, lose)
    world.machine.calls.clear()
    play(world, rest)
    assert "thaw" not in world.machine.calls
    assert "ask_close" not in world.machine.calls


def test_a_start_whose_checkpoint_is_gone_fails_and_frees_its_workspace() -> None:
    """The store lost it between the look and the restore: told, not tried in a tight loop."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)

        async def gone(*args: object, **more: object) -> object:
            world.machine.calls.append("new_home")
            raise NotFound("no such checkpoint")

        new_home = world.repository.new_home
        world.repository.new_home = gone  # type: ignore[method-assign]  # the store lost it meanwhile
        again = await page.start()
        await until(lambda: world.row(again.id).state is State.CLOSED, limit_s=60)
        assert world.row(again.id).outcome is Outcome.START_FAILED
        world.repository.new_home = new_home  # type: ignore[method-assign]  # it is there again
        third = await page.start()
        await until(lambda: world.row(third.id).state is State.HELD, limit_s=60)

    play(world, act)


def test_a_session_that_the_registry_forgot_is_not_ended_by_its_old_close() -> None:
    """Its desktop is adopted instead; the runner of the forgotten record does nothing more."""
    world = World()
    world.slow = True

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).close_step is CloseStep.EXITING, pause_s=0.001)
        live = life.control._sessions.find(session.id)
        assert live is not None
        runner = live.runner
        assert runner is not None
        life.control._sessions.forget(live)
        await until(runner.done, limit_s=120)
        assert world.machine.desktop_of(page.workspace.id) is not None

    play(world, act)


def test_a_step_that_hangs_calls_a_person_although_nothing_has_failed() -> None:
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        world.repository.hang = True
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(120)
        assert [one for one in life.control.alarms() if one.kind == "close"]

    play(world, act)


def test_a_desktop_that_dies_while_held_is_closed_with_its_home_as_it_lies() -> None:
    """Never wiped on death; nobody is asked; the outcome says so."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        page.drop()
        await asyncio.sleep(1)
        last = write(life, page)
        world.machine.die(world.machine.desktop_of(page.workspace.id), "segmentation fault")
        await until(lambda: world.row(session.id).state is State.CLOSED)
        row = world.row(session.id)
        assert (row.outcome, row.hook_state) == (Outcome.SAVED_AFTER_DEATH, HookState.SKIPPED)
        assert "segmentation" in row.detail
        assert last in world.repository.newest(page.workspace.id).content
        assert "ask_close" not in world.machine.calls

    play(world, act)


def test_an_attached_user_whose_desktop_dies_is_told_to_wait_for_the_files() -> None:
    """The link is closed with `hold_expired_saving`, next: wait or sign in."""
    world = World()

    async def act(life: Life) -> None:
        page, _ = await attached(life)
        world.machine.die(world.machine.desktop_of(page.workspace.id))
        await until(lambda: life.streams.closed)
        assert life.streams.closed[0].code == 4423

    play(world, act)


def test_a_hook_is_run_once_whatever_happens() -> None:
    """Killed after its intent was recorded: the next life asks again, without the hook, and reports it as
    started.
    """
    world = World()
    asked: list[bool] = []
    ask_close = world.machine.ask_close

    async def counted(handle: object, *, hook: bool) -> object:
        asked.append(hook)
        if len(asked) == 1:
            world.crash_at = world.steps
        return await ask_close(handle, hook=hook)  # type: ignore[arg-type]  # passed on

    world.machine.ask_close = counted  # type: ignore[assignment,method-assign]  # counts

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)

    async def rest(life: Life) -> None:
        await ready(life)
        await until(lambda: all(row.state is State.CLOSED for row in world.rows()))

    world.live(act)
    world.live(rest)
    assert asked == [True, False]
    assert world.rows()[0].hook_state is HookState.STARTED
    assert world.machine.violations == []


def test_exit_handlers_may_destroy_files_and_the_first_checkpoint_keeps_them() -> None:
    """C1 stands before anybody is asked; C2 is what is wiped; both are on the receipt."""
    world = World()

    def rm_rf(desktop: FakeDesktop, home: Home) -> None:
        home.writes.clear()

    world.machine.exit_handler = rm_rf

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)
        row = world.row(session.id)
        kept = world.repository.content_of(page.workspace.id, row.c1.seq, row.c1.hash)
        left = world.repository.content_of(page.workspace.id, row.c2.seq, row.c2.hash)
        assert len(kept) == 1
        assert left == frozenset()
        receipt = msgspec.json.decode(world.repository.receipts[session.id])
        assert (receipt["c1"]["entries"], receipt["c2"]["entries"]) == (1, 0)

    play(world, act)


def test_a_process_that_cannot_be_frozen_keeps_the_close_where_it_is() -> None:
    """An alarm, no checkpoint under a running desktop, and it goes on when the freezer works again."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        world.machine.freeze_failures = 1_000
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(120)
        assert world.row(session.id).close_step is CloseStep.ACCESS_ENDED
        assert [one.kind for one in life.control.alarms()] == ["freeze"]
        world.machine.freeze_failures = 0
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=60)

    play(world, act)


def test_a_store_that_lost_the_end_of_the_log_starts_nothing_silently_older() -> None:
    """The user is told, chooses, and gets what he chose; the session knows that it was a choice."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await asyncio.sleep(20)
        write(life, page)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)
        world.repository.lose_newest(page.workspace.id)
        with pytest.raises(OlderOnly) as told:
            await page.start()
        older = told.value.facts["newest_seq"]
        assert isinstance(older, int)
        chosen = await page.start(from_seq=older)
        await until(lambda: world.row(chosen.id).state is State.HELD)
        assert world.row(chosen.id).chosen_seq == older
        assert world.row(chosen.id).start_from.seq == older

    play(world, act)


def test_a_store_that_is_away_starts_nothing_and_never_an_empty_home() -> None:
    """Refused before anything is written; nothing is left behind."""
    world = World()

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        world.repository.down = True
        with pytest.raises(StorageUnavailable):
            await page.start()
        assert world.rows() == []
        world.repository.down = False
        assert (await page.start()).state is State.STARTING

    play(world, act)


def test_a_session_that_is_ended_while_it_starts_closes_as_its_user_wanted() -> None:
    """The host is away, so nothing was launched: nothing is saved, nothing is lost, and the outcome says who
    ended it.
    """
    world = World()

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        world.machine.away = True
        session = await page.start()
        await asyncio.sleep(3)
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(10)
        assert world.row(session.id).state is State.CLOSING
        world.machine.away = False
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=120)
        assert world.row(session.id).outcome is Outcome.ENDED_BY_USER
        assert world.machine.launches == 0

    play(world, act)


def test_only_its_user_gets_a_desktop_back() -> None:
    """Another account is told that there is nothing."""
    world = World(users=2, policy=Policy(hold_s=5.0))
    world.repository.upload_s = 60.0

    async def act(life: Life) -> None:
        page, session = await attached(life)
        page.drop()
        await until(lambda: world.row(session.id).state is State.CLOSING)
        with pytest.raises(SessionError) as refused:
            await life.control.reuse(session.id, user=world.users[1])
        assert refused.value.code == "not_found"
        with pytest.raises(SessionError) as refused:
            await life.control.issue_ticket(session.id, user=world.users[1], device_id="d", device_label="d")
        assert refused.value.code == "not_found"
        answer = await page.start()
        assert answer.id == session.id, "the open session is returned, not a second desktop"

    play(world, act)


def test_a_refused_link_hears_of_the_close() -> None:
    """A ticket that was made before the hold ended comes after it."""
    world = World(policy=Policy(hold_s=5.0))
    world.repository.upload_s = 100.0

    async def act(life: Life) -> None:
        page, session = await attached(life)
        page.drop()
        await asyncio.sleep(1)
        ticket = await life.control.issue_ticket(session.id, user=page.user, device_id="d", device_label="d")
        await until(lambda: world.row(session.id).state is State.CLOSING)
        offer = LinkOffer(link_id="late", ticket=ticket.token, subprotocol="binary", address="")
        answer = await life.control.attachments.attach(offer)
        assert isinstance(answer, LinkRefusal)
        assert (answer.code, answer.next) == (4423, "login")

    play(world, act)

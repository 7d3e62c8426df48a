"""A home whose desktop nobody remembers (a crash before its launch, a lost state file): saved, then wiped."""

import asyncio

from session_service.core.records import Outcome, State
from tests.fakes.desktops import Home
from tests.sim.world import Client, Life, World, ready, until
from tests.unit.test_control_close import attached, play, user


def test_a_home_that_was_left_before_its_launch_is_saved_and_wiped() -> None:
    """Its start failed for good; the fence is the log's still."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)
        key = (page.workspace.id, session.fence)
        world.machine.homes[key] = Home(writes={901})
        await until(lambda: world.repository.newest(page.workspace.id).content == {901}, limit_s=120)
        await until(lambda: key not in world.machine.homes, limit_s=120)
        await until(lambda: all(row.state is State.CLOSED for row in world.rows()))
        assert life.control.alarms() == []

    play(world, act)


def test_an_older_home_without_a_desktop_stays_and_a_person_is_told() -> None:
    """A later desktop was started since: its files are the user's now."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await life.control.end(session.id, actor=user(page))
        await until(lambda: world.row(session.id).state is State.CLOSED)
        again = await page.start()
        await until(lambda: world.row(again.id).state is State.HELD)
        await life.control.end(again.id, actor=user(page))
        world.machine.homes[page.workspace.id, session.fence] = Home(writes={901})
        await until(lambda: world.row(again.id).state is State.CLOSED)
        await asyncio.sleep(120)
        assert world.machine.homes[page.workspace.id, session.fence].writes == {901}
        assert [alarm.kind for alarm in life.control.alarms()] == ["stale"]
        third = await page.start()
        await until(lambda: world.row(third.id).state is State.HELD)

    play(world, act)


def test_a_start_goes_on_with_the_home_that_a_crash_left() -> None:
    """No second restore, and no word of a death: nothing ran in it yet."""
    world = World()
    ids: list[str] = []

    async def crash(life: Life) -> None:
        await ready(life)
        page = Client(life)
        ids.append((await page.start()).id)
        await until(lambda: world.machine.homes, pause_s=0.001)
        life.kill()

    async def go_on(life: Life) -> None:
        await until(lambda: world.row(ids[0]).state is State.HELD)

    world.slow = True
    play(world, crash)
    assert world.machine.launches == 0
    play(world, go_on)
    assert world.row(ids[0]).start_attempts == 0
    assert len(world.repository.restored) == 1
    assert world.machine.launches == 1


def test_a_desktop_whose_state_file_is_lost_is_saved_as_it_lies() -> None:
    """Neither running nor absent: its files are there."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        key = (page.workspace.id, session.fence)
        world.machine.homes[key].writes.add(902)
        del world.machine.desktops[key]
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=200)
        assert world.row(session.id).outcome is Outcome.SAVED_AFTER_DEATH
        assert 902 in world.repository.newest(page.workspace.id).content

    play(world, act)

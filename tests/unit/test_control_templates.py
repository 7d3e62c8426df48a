"""What a desktop is made from: refused at once where it is not there. No failed start leaves a home."""

import asyncio

import pytest

from session_service.base.errors import BadInput, DesktopStartFailed
from session_service.core.policy import Policy
from session_service.core.records import Outcome, Session, State
from tests.fakes.desktops import Home
from tests.sim.world import Client, Life, World, ready, until
from tests.unit.test_control_close import play


def test_a_start_with_an_unknown_template_is_refused_before_anything_is_written() -> None:
    """The refusal names what there is."""
    world = World()

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        with pytest.raises(BadInput, match="'nosuch' here; there are: bare, openbox") as refused:
            await page.start(template="nosuch")
        assert refused.value.facts == {"field": "template", "templates": "bare, openbox"}
        assert world.rows() == []
        assert world.machine.homes == {}
        session = await page.start(template="bare")
        await until(lambda: world.row(session.id).state is State.HELD)

    play(world, act)


def test_a_template_of_the_settings_that_is_not_there_is_told_as_theirs() -> None:
    """Its user can correct nothing; another template starts all the same."""
    world = World(policy=Policy(template="gone"))

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        with pytest.raises(DesktopStartFailed, match=r"desktops\.template"):
            await page.start()
        session = await page.start(template="openbox")
        await until(lambda: world.row(session.id).state is State.HELD)

    play(world, act)


def test_an_open_desktop_is_returned_whatever_template_is_asked_for() -> None:
    world = World()

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        session = await page.start()
        assert (await page.start(template="nosuch")).id == session.id

    play(world, act)


def test_a_start_that_was_never_launched_leaves_no_home() -> None:
    """Its empty home goes at once; the next start meets nothing of it, and nobody is told of a stale one."""
    world = World()

    async def act(life: Life) -> None:
        await ready(life)
        page = Client(life)
        world.machine.launch_refused = BadInput("no such wish")
        session = await page.start()
        await until(lambda: world.row(session.id).state is State.CLOSED)
        assert world.row(session.id).outcome is Outcome.START_FAILED
        await until(lambda: world.machine.homes == {}, limit_s=1.0)
        world.machine.launch_refused = None
        again = await page.start()
        await until(lambda: world.row(again.id).state is State.HELD)
        await asyncio.sleep(120)
        assert life.control.alarms() == []
        assert len(world.rows()) == 2

    play(world, act)


async def failed_start(world: World, life: Life) -> tuple[Client, Session]:
    """Return a start that was given up at its launch, with nothing left of it."""
    await ready(life)
    page = Client(life)
    world.machine.launch_refused = BadInput("no such wish")
    session = await page.start()
    await until(lambda: world.row(session.id).state is State.CLOSED and world.machine.homes == {})
    return page, session


def test_an_empty_home_of_a_failed_start_that_came_late_is_found_and_removed() -> None:
    """The worker put it in place after the start had been given up; no session is made of it."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await failed_start(world, life)
        world.machine.homes[page.workspace.id, session.fence] = Home()
        await until(lambda: world.machine.homes == {}, limit_s=60.0)
        assert len(world.rows()) == 1

    play(world, act)


def test_a_restored_home_of_a_failed_start_is_saved_before_it_is_wiped() -> None:
    """What holds something is never taken for empty."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await failed_start(world, life)
        world.machine.homes[page.workspace.id, session.fence] = Home(writes={901})
        newest = world.repository.newest
        await until(lambda: newest(page.workspace.id) and newest(page.workspace.id).content == {901})
        await until(lambda: world.machine.homes == {}, limit_s=120)

    play(world, act)

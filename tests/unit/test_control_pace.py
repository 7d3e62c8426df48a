"""The saver follows the pace, says what it promises, and goes on from what a failed save has left."""

import asyncio

from session_service.core.pace import Rule
from tests.sim.world import Life, World, until
from tests.unit.test_control_close import attached, play, write


def test_a_slow_store_is_asked_less_often_and_the_promise_says_so() -> None:
    """A scan of two seconds is followed by a pause of forty."""
    world = World()
    world.repository.scan_s = 2.0

    async def act(life: Life) -> None:
        page, session = await attached(life)
        write(life, page)
        await asyncio.sleep(30)
        [view] = [one for one in await life.control.views() if one.session.id == session.id]
        assert view.save_rule == Rule.SCAN
        assert view.save_interval_s == 40.0
        assert view.save_promise_s is not None
        assert view.save_promise_s >= view.save_interval_s

    play(world, act)


def test_only_a_save_after_one_that_failed_looks_for_what_was_left() -> None:
    """The first of a life, and the one after the store came back; a tick asks nothing."""
    world = World()

    async def act(life: Life) -> None:
        page, _ = await attached(life)
        await asyncio.sleep(35)
        asked = list(world.repository.asked_left)
        assert asked[0]
        assert not any(asked[1:])
        world.repository.down = True
        write(life, page)
        await asyncio.sleep(15)
        world.repository.down = False
        before = len(world.repository.asked_left)
        await until(lambda: len(world.repository.asked_left) > before, limit_s=600)
        assert world.repository.asked_left[before]

    play(world, act)


def test_the_pause_after_failures_grows_and_one_success_ends_it() -> None:
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await asyncio.sleep(15)
        world.repository.down = True
        write(life, page)
        await asyncio.sleep(100)
        [view] = [one for one in await life.control.views() if one.session.id == session.id]
        assert view.save_rule == Rule.STORE
        assert (view.save_interval_s or 0) >= 40.0
        world.repository.down = False
        await asyncio.sleep(400)
        [view] = [one for one in await life.control.views() if one.session.id == session.id]
        assert view.save_rule == Rule.TARGET

    play(world, act)

"""The guard of the disk on the real control code: who fills it is stopped, kept so, and let go."""

import asyncio

from session_service.base.ids import SessionId
from session_service.core.policy import Policy
from session_service.core.records import State
from tests.sim.witness import Witness
from tests.sim.world import Client, Life, World, ready, until

LIMIT = 1_000


async def running(life: Life, number: int) -> SessionId:
    """Start a desktop whose page stays."""
    page = Client(life, number)
    session = await page.start()
    await until(lambda: (row := life.world.row(session.id)) is not None and row.state is State.HELD)
    await page.open(session.id)
    return session.id


def kinds_of(life: Life) -> list[str]:
    return [alarm.kind for alarm in life.control.alarm_book.list()]


def test_the_home_that_fills_the_disk_is_stopped_until_there_is_space() -> None:
    """The screen stays, its user is told, checkpoints go on, nobody else is touched, nothing is ended."""
    world = World(policy=Policy(hold_s=600.0), users=2)
    witness = Witness(world)

    async def act(life: Life) -> None:
        await ready(life)
        quiet, greedy = await running(life, 0), await running(life, 1)
        desktops = {one.handle.session_id: one for one in world.machine.running()}
        world.disk = (LIMIT - 1, LIMIT)
        await until(lambda: "disk_low" in kinds_of(life))
        assert not desktops[greedy].frozen
        for _ in range(20):
            world.machine.write(desktops[greedy])
        world.disk = (LIMIT // 5, LIMIT)
        await until(lambda: desktops[greedy].frozen)
        await asyncio.sleep(100)  # more than two looks of the reconciler
        assert desktops[greedy].frozen
        assert not desktops[quiet].frozen
        view = await life.control.view(greedy)
        assert "space" in view.limits_missing
        assert "nearly full" in view.step_error
        assert view.pending_files == 0, "checkpoints stopped"
        words = next(alarm.detail for alarm in life.control.alarm_book.list() if alarm.kind == "disk_low")
        assert words.index("Grew most") > 0
        world.disk = (LIMIT // 3, LIMIT)
        await asyncio.sleep(10)
        assert desktops[greedy].frozen, "thawed too early"
        world.disk = (LIMIT, LIMIT)
        await until(lambda: not desktops[greedy].frozen)
        assert "disk_low" not in kinds_of(life)
        view = await life.control.view(greedy)
        assert (view.step_error, view.limits_missing) == ("", ())

    world.live(act)
    assert witness.all_violations() == []


def test_after_a_restart_what_was_stopped_for_space_stays_so_and_is_let_go_later() -> None:
    world = World(policy=Policy(hold_s=6_000.0))
    found: list[SessionId] = []

    async def first(life: Life) -> None:
        await ready(life)
        found.append(await running(life, 0))
        (desktop,) = world.machine.running()
        await asyncio.sleep(30)
        for _ in range(20):
            world.machine.write(desktop)
        world.disk = (1, LIMIT)
        await until(lambda: desktop.frozen)
        life.kill()

    async def second(life: Life) -> None:
        await ready(life)
        (desktop,) = world.machine.running()
        await asyncio.sleep(100)
        assert desktop.frozen
        world.disk = (LIMIT, LIMIT)
        await until(lambda: not desktop.frozen)

    world.live(first)
    world.live(second)

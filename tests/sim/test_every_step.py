"""One story, one fault, at every single call that control makes: killed, store gone, answer lost, desktop
dead.
"""

import asyncio
from collections.abc import Callable

import pytest

from session_service.base.errors import SessionError
from session_service.core.policy import Policy
from session_service.core.records import State
from session_service.ports.streams import Attachment
from tests.sim.witness import Witness
from tests.sim.world import Client, Life, World, ready, until

STRIDES = {"fast": 23, "all": 3, "soak": 1}
Fault = Callable[[World], None]


async def story(life: Life) -> None:
    """Start, attach, write, drop, come back, write, drop, expire, close, and start again."""
    world = life.world
    await ready(life)
    page = Client(life)
    session = await page.start()
    await until(lambda: world.row(session.id).state is not State.STARTING)
    for _ in range(2):
        if not isinstance(await page.open(session.id), Attachment):
            return
        write(world, page)
        await asyncio.sleep(8)
        page.drop()
        await asyncio.sleep(3)
        write(world, page)
    await until(lambda: world.row(session.id).state is State.CLOSED)
    await page.start()
    await asyncio.sleep(5)


def write(world: World, page: Client) -> None:
    desktop = world.machine.desktop_of(page.workspace.id)
    if desktop is not None:
        world.machine.write(desktop)


async def brave(life: Life) -> None:
    """The story, as far as the fault lets it go."""
    try:
        async with asyncio.timeout(400):
            await story(life)
    except (SessionError, TimeoutError):
        return


async def rest(life: Life) -> None:
    await ready(life)
    await until(lambda: all(row.state is State.CLOSED for row in life.world.rows()), limit_s=1_000)


def fresh() -> tuple[World, Witness]:
    world = World(policy=Policy(hold_s=15.0, checkpoint_target_s=5.0))
    return world, Witness(world)


def steps_of_the_story() -> int:
    world, witness = fresh()
    world.live(story)
    assert not witness.all_violations()
    return world.steps


def kill(world: World) -> None:
    world.crash_at = world.steps


def store_down(world: World) -> None:
    world.repository.down = True


def lost_answer(world: World) -> None:
    world.registry.lose_answers(1)


def refused_commit(world: World) -> None:
    world.registry.refuse_commits(1)


def registry_away(world: World) -> None:
    world.registry.go_away()


def host_away(world: World) -> None:
    world.machine.away = True


def desktop_dies(world: World) -> None:
    for desktop in world.machine.running():
        world.machine.die(desktop)


def past_the_freezer(world: World) -> None:
    for desktop in world.machine.running():
        world.machine.write(desktop, past_freezer=True)


def heal(world: World) -> None:
    world.repository.down = world.machine.away = False
    world.registry.come_back()


FAULTS = [
    kill,
    store_down,
    lost_answer,
    refused_commit,
    registry_away,
    host_away,
    desktop_dies,
    past_the_freezer,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_fault_at_any_step_breaks_nothing(fault: Fault, lane: str) -> None:
    """Every invariant holds, and once the fault is over everything is closed and every byte is saved."""
    total = steps_of_the_story()
    assert total > 150
    for number in range(1, total + 1, STRIDES[lane]):
        world, witness = fresh()

        def at_step(step: int, call: str, when: str, *, world: World = world, number: int = number) -> None:
            if step == number:
                fault(world)
            if step == number + 60:
                heal(world)

        world.at_step = at_step
        world.live(brave)
        heal(world)
        world.crash_at = None
        world.live(rest)
        witness.quiet()
        assert not witness.all_violations(), (fault.__name__, number, witness.all_violations())


@pytest.mark.parametrize("second", [kill, store_down, desktop_dies], ids=lambda fault: fault.__name__)
def test_a_kill_and_then_a_second_fault_break_nothing(second: Fault, lane: str) -> None:
    """The next life meets the second fault at a call of its own; a close is carried on by a third."""
    total = steps_of_the_story()
    for number in range(1, total + 1, STRIDES[lane] * 5):
        world, witness = fresh()
        world.crash_at = number
        world.live(brave)

        def at_step(
            step: int, call: str, when: str, *, world: World = world, first: int = world.steps
        ) -> None:
            if step == first + 25:
                second(world)
            if step == first + 90:
                heal(world)

        world.at_step = at_step
        world.live(brave)
        heal(world)
        world.crash_at = None
        world.live(rest)
        witness.quiet()
        assert not witness.all_violations(), (number, witness.all_violations())

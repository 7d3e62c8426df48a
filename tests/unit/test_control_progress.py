"""How long a save may take: as long as it moves, and not much longer than it stands still."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from session_service.base import rpc
from session_service.checkpoints.workers import Workers
from session_service.control.progress import while_moving
from session_service.core import limits
from session_service.core.policy import Policy
from session_service.core.records import State
from session_service.ports.checkpoints import QUEUED, Progress, RestoreReport, WorkspaceName
from tests.fakes.until import until as until_seen
from tests.sim.world import Client, Life, World, until
from tests.unit.test_control_close import attached, play, user, write

LONG_S = limits.CLOSE_STEP_S_MAX + 3_600.0
"""More than a step of a close may take that does not save."""


def moved(stage: str = "upload") -> Progress:
    return Progress(stage=stage, done=1, total=None)


def test_a_close_that_saves_for_hours_is_not_begun_again_while_it_moves() -> None:
    """A large home over a slow line: what is cut off keeps nothing, so a limit on the whole never ends."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await asyncio.sleep(20)
        last = write(life, page)
        world.repository.upload_s, world.repository.steady = LONG_S, True
        await life.control.end(session.id, actor=user(page))
        await asyncio.sleep(LONG_S)
        world.repository.upload_s = 0.0
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=600)
        assert world.repository.saves.count("first_of_close") == 1
        assert last in world.repository.newest(page.workspace.id).content

    play(world, act)


def test_a_save_that_stands_still_is_given_up_and_begun_again() -> None:
    """The alarm comes after a minute, the next try after the limit; the close ends once the store moves."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await asyncio.sleep(20)
        write(life, page)
        world.repository.upload_s = LONG_S
        await life.control.end(session.id, actor=user(page))
        await until(lambda: "first_of_close" in world.repository.saves)
        await asyncio.sleep(2 * limits.STEP_ALARM_S + 1)
        assert "close" in {alarm.kind for alarm in life.control.alarms()}
        await asyncio.sleep(limits.PROGRESS_S_MAX + limits.RETRY_S_MAX)
        assert world.repository.saves.count("first_of_close") == 2
        world.repository.upload_s = 0.0
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=2 * limits.PROGRESS_S_MAX)

    play(world, act)


def test_waiting_for_a_worker_is_no_standing_still() -> None:
    """Those ahead in the queue have a limit each."""
    world = World()
    shown: list[str] = []

    async def queued(tell: Callable[[Progress], None]) -> str:
        tell(moved(QUEUED))
        await asyncio.sleep(LONG_S)
        tell(moved())
        await asyncio.sleep(limits.PROGRESS_S_MAX - 1)
        return "saved"

    async def hangs(tell: Callable[[Progress], None]) -> str:
        tell(moved(QUEUED))
        tell(moved())
        await asyncio.sleep(LONG_S)
        return "never"

    async def act(life: Life) -> None:
        assert await while_moving(queued, lambda seen: shown.append(seen.stage)) == "saved"
        with pytest.raises(TimeoutError):
            await while_moving(hangs)

    play(world, act)
    assert shown == ["upload"]


async def test_the_workers_say_when_a_call_waits_and_when_it_begins(tmp_path: Path) -> None:
    """One worker, two calls: the second is queued until the first is done."""
    let_go = asyncio.Event()

    async def new_home(call: rpc.Call) -> RestoreReport:
        await let_go.wait()
        return RestoreReport(home="", seq=None, entries=0, bytes=0)

    server = rpc.Server(tmp_path / "worker", {"new_home": new_home}, peer_uids=frozenset({os.geteuid()}))
    await server.start()
    workers = Workers([tmp_path / "worker"])
    told: dict[int, list[str]] = {1: [], 2: []}
    name = WorkspaceName(tenant_id="t", workspace_id="w")

    async def call(number: int) -> None:
        await workers.new_home(
            name, fence=number, seq=None, owner=None, progress=lambda seen: told[number].append(seen.stage)
        )

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(call(1))
            group.create_task(call(2))
            await until_seen(lambda: len(told[2]) == 1 and len(told[1]) == 2)
            assert told == {1: ["queued", "begun"], 2: ["queued"]}
            let_go.set()
        assert told[2] == ["queued", "begun"]
    finally:
        await workers.close()
        await server.close()


def test_a_periodic_save_that_hangs_does_not_hide_that_nothing_is_saved() -> None:
    """Its loop waits for it; the age is judged by another, for every session that waits behind it."""
    world = World(users=2)

    async def act(life: Life) -> None:
        page, session = await attached(life)
        other = Client(life, 1)
        second = await other.start()
        await asyncio.sleep(20)
        world.repository.upload_s = LONG_S
        write(life, page)
        await asyncio.sleep(limits.SAVED_AGE_ALARM_S + 60)
        late = {alarm.session_id for alarm in life.control.alarms() if alarm.kind == "saved_age"}
        assert late == {session.id, second.id}
        world.repository.upload_s = 0.0
        await asyncio.sleep(2 * limits.PROGRESS_S_MAX)
        assert "saved_age" not in {alarm.kind for alarm in life.control.alarms()}

    world.policy = Policy(hold_s=LONG_S)
    play(world, act)


def test_a_home_that_takes_long_to_scan_is_not_called_unsaved_between_two_scans() -> None:
    """The pause after a long scan is on purpose."""
    world = World(policy=Policy(hold_s=LONG_S))
    world.repository.scan_s = 60.0

    async def act(life: Life) -> None:
        await attached(life)
        for _ in range(120):
            await asyncio.sleep(30)
            assert "saved_age" not in {alarm.kind for alarm in life.control.alarms()}

    play(world, act)

"""The hourly upkeep: one workspace at a time, none that starts or closes, given up when a close begins."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

from session_service.base.errors import StorageUnavailable
from session_service.control.upkeep import EVERY_MS, FIRST_AFTER_MS, Upkeep, reason_of
from session_service.core.policy import DEFAULT
from session_service.core.records import State
from session_service.ports.upkeep import Upkept
from tests.fakes.until import until


class World:
    """What upkeep sees: a clock, workspaces, sessions, and a store that may hang or fail."""

    def __init__(self, *workspaces: str) -> None:
        self.now_ms = 0
        self.lives: list[SimpleNamespace] = []
        self.collected: list[str] = []
        self.hang: asyncio.Event | None = None
        self.fails = False
        self.known = [SimpleNamespace(id=one, tenant_id="t") for one in workspaces]
        parts = SimpleNamespace(
            clock=SimpleNamespace(monotonic_ms=lambda: self.now_ms),
            registry=self,
            checkpoints=self,
            policy=replace(DEFAULT, keep_daily=3),
        )
        self.raised: dict[str, str] = {}
        self.done = Upkept()
        self.alarms = SimpleNamespace(
            raise_=self.raised.__setitem__, clear=lambda kind: self.raised.pop(kind, None)
        )
        self.upkeep = Upkeep(
            parts=parts, sessions=SimpleNamespace(all=lambda: self.lives), alarms=self.alarms
        )

    async def workspaces(self):
        return self.known

    async def lease(self, workspace_id):
        return SimpleNamespace(newest=SimpleNamespace(seq=3, hash=b"h"))

    async def collect(self, workspace, *, actor, forget, witness):
        assert witness == (3, b"h")
        assert (forget.keep_last, forget.keep_daily) == (10, 3), "as the policy says"
        self.collected.append(workspace.workspace_id)
        if self.hang is not None:
            await self.hang.wait()
        if self.fails:
            raise StorageUnavailable("away")
        return self.done

    def session(self, workspace_id: str, state: State) -> SimpleNamespace:
        live = SimpleNamespace(record=SimpleNamespace(workspace_id=workspace_id, state=state))
        self.lives.append(live)
        return live


async def test_each_workspace_is_tidied_once_an_hour_and_not_at_the_start():
    world = World("a", "b")
    assert await world.upkeep.look() is None
    world.now_ms = FIRST_AFTER_MS
    assert [await world.upkeep.look() for _ in range(3)] == ["a", "b", None]
    world.now_ms += EVERY_MS
    assert [await world.upkeep.look() for _ in range(3)] == ["a", "b", None]


async def test_a_workspace_that_closes_or_starts_is_left_alone():
    world = World("a", "b", "c")
    world.session("a", State.CLOSING)
    world.session("b", State.STARTING)
    world.session("c", State.HELD)
    world.now_ms = FIRST_AFTER_MS
    assert [await world.upkeep.look() for _ in range(2)] == ["c", None]


async def test_a_run_is_given_up_when_a_close_begins(monkeypatch):
    monkeypatch.setattr("session_service.control.upkeep.CLOSE_LOOK_S", 0.001)
    world = World("a")
    world.hang = asyncio.Event()
    live = world.session("a", State.ACTIVE)
    world.now_ms = FIRST_AFTER_MS
    looking = asyncio.ensure_future(world.upkeep.look())
    await until(lambda: world.collected)
    live.record.state = State.CLOSING
    assert await looking == "a"


async def test_a_store_that_is_away_costs_one_turn():
    world = World("a", "b")
    world.fails = True
    world.now_ms = FIRST_AFTER_MS
    assert [await world.upkeep.look() for _ in range(3)] == ["a", "b", None]


async def test_clocks_that_are_apart_wake_somebody_until_they_agree():
    world = World("a")
    world.now_ms = FIRST_AFTER_MS
    world.done = Upkept(refused="apart", clocks_apart=True)
    await world.upkeep.look()
    assert list(world.raised) == ["clocks_apart"]
    world.now_ms += EVERY_MS
    world.done = Upkept()
    await world.upkeep.look()
    assert world.raised == {}


async def test_a_repository_that_contradicts_itself_wakes_somebody_and_a_busy_one_does_not():
    world = World("a")
    world.now_ms = FIRST_AFTER_MS
    world.done = Upkept(refused="the log grew", contended=True)
    await world.upkeep.look()
    assert world.raised == {}
    world.now_ms += EVERY_MS
    world.done = Upkept(refused="missing: p/1-aa")
    await world.upkeep.look()
    assert "p/1-aa" in world.raised["upkeep"]
    world.now_ms += EVERY_MS
    world.done = Upkept()
    await world.upkeep.look()
    assert world.raised == {}


async def test_runs_are_counted_by_outcome_and_refusals_by_reason():
    world = World("a")
    for done, fails in (
        (Upkept(deleted_bytes=7, forgotten=(1, 2)), False),
        (Upkept(refused="an index snapshot and the chain disagree about rows"), False),
        (Upkept(refused="the log grew", contended=True), False),
        (Upkept(), True),
    ):
        world.now_ms += max(EVERY_MS, FIRST_AFTER_MS)
        world.done, world.fails = done, fails
        assert await world.upkeep.look() == "a"
    count = world.upkeep.count
    assert dict(count.runs) == {"done": 1, "refused": 1, "contended": 1, "failed": 1}
    assert (dict(count.refusals), count.freed_bytes, count.forgotten) == ({"index": 1}, 7, 2)


def test_a_reason_is_one_of_few_words():
    assert reason_of(Upkept(refused="x", clocks_apart=True)) == "clocks"
    assert reason_of(Upkept(refused="missing: p/1-00")) == "missing"
    assert reason_of(Upkept(refused="nobody knows")) == "other"

"""When the second store is copied to, what is told of it, and a close that waits for it or does not."""

import asyncio
from types import SimpleNamespace

from session_service.base.errors import PartUnavailable
from session_service.control.replication import (
    EVERY_MS,
    LAG_ALARM_MS,
    RETRY_MS,
    STOPPED_RETRY_MS,
    Replication,
)
from session_service.core.records import State
from session_service.ports.replication import ReplicaLook
from tests.fakes.until import until


class World:
    """Two clocks, a registry with workspaces, and a second store that answers what it is told to."""

    def __init__(self, *workspaces: str) -> None:
        self.now_ms = 10 * EVERY_MS
        self.asked: list[tuple[str, bool, tuple[str, ...]]] = []
        self.raised: dict[str, str] = {}
        self.look = ReplicaLook(state="in_step", main_seq=1, replica_seq=1)
        self.fails = False
        self.known = [SimpleNamespace(id=one, tenant_id="t") for one in workspaces]
        parts = SimpleNamespace(
            clock=SimpleNamespace(monotonic_ms=lambda: self.now_ms, wall_ms=lambda: self.now_ms),
            registry=self,
            second_required=False,
        )
        alarms = SimpleNamespace(
            raise_=lambda kind, words: self.raised.__setitem__(kind, words),
            clear=lambda kind: self.raised.pop(kind, None),
        )
        sessions = SimpleNamespace(listen=lambda listener: setattr(self, "changed", listener))
        self.replication = Replication(parts=parts, sessions=sessions, alarms=alarms, second=self)

    async def workspaces(self):
        return self.known

    async def replicate(self, workspace, *, whole=False, receipts=()):
        if self.fails:
            raise PartUnavailable(part="worker")
        self.asked.append((workspace.workspace_id, whole, receipts))
        return self.look

    async def turn(self) -> None:
        """Do everything that is due now."""
        await self.replication._list()
        while (copy := self.replication._most_due()) is not None:
            await self.replication.copy(copy)

    def session(self, workspace_id: str, seq: int, state: State = State.ACTIVE) -> None:
        """A session's record or lease was written."""
        record = SimpleNamespace(id=f"session-{seq}", workspace_id=workspace_id, state=state)
        name = SimpleNamespace(tenant_id="t", workspace_id=workspace_id)
        lease = SimpleNamespace(newest=SimpleNamespace(seq=seq))
        self.changed(SimpleNamespace(record=record, workspace=name, lease=lease), ())


async def test_a_workspace_is_compared_at_the_start_and_once_an_hour():
    world = World("a", "b")
    await world.turn()
    assert sorted(world.asked) == [("a", True, ()), ("b", True, ())]
    world.now_ms += EVERY_MS - 1
    await world.turn()
    assert len(world.asked) == 2
    world.now_ms += 1
    await world.turn()
    assert len(world.asked) == 4


async def test_each_new_checkpoint_is_copied_alone_and_the_receipt_of_a_close_too():
    world = World("a")
    await world.turn()
    world.session("a", 5)
    world.session("a", 5)
    await world.turn()
    world.session("a", 6, State.CLOSED)
    await world.turn()
    assert world.asked[1:] == [("a", False, ()), ("a", False, ("session-6",))]


async def test_a_store_that_is_away_is_tried_again_and_becomes_an_alarm_when_it_lags_too_long():
    world = World("a")
    await world.turn()
    world.look = ReplicaLook(state="away", error="down")
    world.session("a", 7)
    await world.turn()
    assert (len(world.asked), world.raised) == (2, {})
    world.now_ms += RETRY_MS
    await world.turn()
    assert len(world.asked) == 3
    world.now_ms += LAG_ALARM_MS
    await world.turn()
    assert list(world.raised) == ["second_store"]
    assert world.replication.lag_ms() > LAG_ALARM_MS
    world.look = ReplicaLook(state="in_step", main_seq=7, replica_seq=7)
    world.now_ms += RETRY_MS
    await world.turn()
    assert (world.raised, world.replication.lag_ms()) == ({}, 0)


async def test_a_second_store_that_is_away_at_a_restart_is_an_alarm_though_nothing_new_is_saved():
    """How far it was behind before is forgotten, and it cannot be asked: that is not "in step"."""
    world = World("a")
    world.look = ReplicaLook(state="away", error="down")
    await world.turn()
    assert (world.raised, world.replication.lag_ms()) == ({}, 0)
    for _ in range(2):
        world.now_ms += LAG_ALARM_MS
        await world.turn()
    assert list(world.raised) == ["second_store"]
    assert world.replication.lag_ms() == 2 * LAG_ALARM_MS
    world.look = ReplicaLook(state="in_step", main_seq=7, replica_seq=7)
    world.now_ms += RETRY_MS
    await world.turn()
    assert (world.raised, world.replication.lag_ms()) == ({}, 0)


async def test_an_erasure_that_the_second_store_has_not_seen_is_an_alarm_until_it_has():
    world = World("a")
    await world.turn()
    world.look = ReplicaLook(state="away", error="down")
    world.replication.compare_soon("a")
    for _ in range(3):
        await world.turn()
        world.now_ms += LAG_ALARM_MS
    await world.turn()
    assert list(world.raised) == ["second_store"]
    world.look = ReplicaLook(state="erased", removed_objects=4)
    world.now_ms += RETRY_MS
    await world.turn()
    assert (world.raised, world.replication.lag_ms()) == ({}, 0)


async def test_a_worker_that_died_costs_a_pause_and_no_receipt():
    world = World("a")
    await world.turn()
    world.session("a", 8, State.CLOSED)
    world.fails = True
    await world.turn()
    world.fails = False
    world.now_ms += RETRY_MS
    await world.turn()
    assert world.asked[-1] == ("a", False, ("session-8",))


async def test_a_diverged_copy_is_an_alarm_at_once_and_is_not_asked_all_the_time():
    world = World("a")
    world.look = ReplicaLook(state="diverged", error="other bytes")
    await world.turn()
    assert "diverged" in world.raised["second_store"]
    world.now_ms += STOPPED_RETRY_MS - 1
    await world.turn()
    assert len(world.asked) == 1


async def test_one_workspace_that_takes_long_does_not_hold_up_another():
    world = World("a", "b")
    let_go = asyncio.Event()
    usual = world.replicate

    async def slow(workspace, *, whole=False, receipts=()):
        if workspace.workspace_id == "a":
            await let_go.wait()
        return await usual(workspace, whole=whole, receipts=receipts)

    world.replication.second = SimpleNamespace(replicate=slow)
    running = asyncio.ensure_future(world.replication.run())
    await until(lambda: [one for one, _, _ in world.asked] == ["b"])
    let_go.set()
    await until(lambda: len(world.asked) == 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

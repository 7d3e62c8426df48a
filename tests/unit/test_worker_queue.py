"""Who gets a worker first: a close never waits behind somebody's first checkpoint."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_service.base import priority, rpc
from session_service.checkpoints import messages
from session_service.checkpoints.standing_back import LASTS_S, NICE, StandBack, StandingBack
from session_service.checkpoints.workers import Workers
from session_service.ports.checkpoints import CheckpointInfo, CheckpointResult, SavePlan, WorkspaceName
from tests.fakes.child import child_environment
from tests.fakes.until import until

INFO = CheckpointInfo(
    seq=1, hash=b"", fence=1, session_id="s", scan_ms=0, reason="", complete=True, final=False, frozen=False,
    entries=0, bytes=0, new_stored_bytes=0,
)  # fmt: skip
DONE = CheckpointResult(info=INFO, unchanged=False, saved_as_of_ms=0, scan_s=0.0, total_s=0.0)


class Rig:
    """Two workers behind real sockets; each save lasts until it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.told: list[float] = []

    async def save(self, call: rpc.Call) -> CheckpointResult:
        home = call.params(messages.Save).plan.home
        self.begun.append(home)
        await self.gates[home].wait()
        return DONE

    async def stand_back(self, call: rpc.Call) -> None:
        self.told.append(call.params(StandBack).seconds)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[tuple[Rig, Workers]]:
    made = Rig()
    paths = [tmp_path / f"w{number}" for number in range(2)]
    uids = frozenset({os.geteuid()})
    servers = [
        rpc.Server(path, {"save": made.save, "stand_back": made.stand_back}, peer_uids=uids) for path in paths
    ]
    for server in servers:
        await server.start()
    workers = Workers(paths)
    yield made, workers
    await workers.close()
    for server in servers:
        await server.close()


def plan(rig: Rig, name: str, reason: str) -> SavePlan:
    rig.gates[name] = asyncio.Event()
    where = WorkspaceName(tenant_id="t", workspace_id=name)
    return SavePlan(workspace=where, session_id="s", fence=1, home=name, reason=reason, frozen=False)


async def test_a_close_finds_a_worker_while_long_saves_go_on(rig):
    """Two periodic saves want to begin; one waits, so that a final one begins at once."""
    made, workers = rig
    async with asyncio.TaskGroup() as group:
        for name, reason in (("long", "periodic"), ("longer", "periodic")):
            group.create_task(workers.save(plan(made, name, reason)))
        await until(lambda: made.begun)
        group.create_task(workers.save(plan(made, "close", "final")))
        await until(lambda: "close" in made.begun)
        assert len(made.begun) == 2, "the second long one waits"
        made.gates["close"].set()
        made.gates[made.begun[0]].set()
        await until(lambda: len(made.begun) == 3)
        for gate in made.gates.values():
            gate.set()


async def test_a_loss_goes_before_periodic_saves_that_waited_longer(rig):
    made, workers = rig
    async with asyncio.TaskGroup() as group:
        group.create_task(workers.save(plan(made, "first", "periodic")))
        await until(lambda: made.begun)
        group.create_task(workers.save(plan(made, "periodic", "periodic")))
        group.create_task(workers.save(plan(made, "loss", "loss")))
        await until(lambda: len(workers._homes._waiting) == 2)
        made.gates["first"].set()
        await until(lambda: len(made.begun) == 2)
        assert made.begun[1] == "loss"
        for gate in made.gates.values():
            gate.set()


async def test_who_stops_waiting_takes_no_worker_with_him(rig):
    made, workers = rig
    async with asyncio.TaskGroup() as group:
        group.create_task(workers.save(plan(made, "first", "periodic")))
        await until(lambda: made.begun)
        given_up = group.create_task(workers.save(plan(made, "given up", "periodic")))
        await until(lambda: len(workers._homes._waiting) == 1)
        given_up.cancel()
        made.gates["first"].set()
        last = group.create_task(workers.save(plan(made, "last", "periodic")))
        await until(lambda: "last" in made.begun)
        made.gates["last"].set()
        await last
    assert workers._homes._others == 0


async def test_all_workers_are_told_to_stand_back_while_a_close_goes_on_and_only_then(rig):
    made, workers = rig
    async with asyncio.TaskGroup() as group:
        group.create_task(workers.save(plan(made, "long", "periodic")))
        await until(lambda: made.begun)
        assert made.told == []
        group.create_task(workers.save(plan(made, "close", "final")))
        await until(lambda: len(made.told) == 2)
        for gate in made.gates.values():
            gate.set()
    assert workers._ahead._urgent == 0


class Priority:
    """A worker's priority with a clock of its own."""

    def __init__(self, *, able: bool = True) -> None:
        self.now_s = 100.0
        self.set: list[int] = []
        self.worker = StandingBack(clock_s=lambda: self.now_s, able=able, set_nice=self.set.append)


async def test_a_worker_stands_back_for_a_while_and_not_for_ever():
    one = Priority()
    one.worker.told(1_000_000.0)
    assert one.set == [NICE]
    one.now_s += LASTS_S
    with one.worker.urgent():
        pass
    assert one.set == [NICE, 0]


async def test_a_timer_that_is_early_by_the_clock_leaves_no_worker_behind():
    """Loops round their times, and keep the one at which a turn began."""
    one = Priority()
    one.worker.told(0.05)
    assert one.set == [NICE]
    one.now_s += 0.049
    rest = one.worker._timer
    await until(lambda: one.worker._timer is not rest)
    one.now_s += 0.002
    await until(lambda: one.set == [NICE, 0])
    assert one.worker._timer is None


def ran(script: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, whose priority may change."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=child_environment()
    )


def test_threads_that_start_meanwhile_have_the_new_priority_too():
    """Each starts the next one, and a process that is left at a low priority is found by its descendants."""
    script = (
        "import os, resource, sys, threading, time; from session_service.base import priority\n"
        "def chain():\n"
        "    time.sleep(0.0005); over.is_set() or threading.Thread(target=chain, daemon=True).start()\n"
        "priority.may_return() or sys.exit('not here')\n"
        "over = threading.Event(); sys.setswitchinterval(1e-5); [chain() for _ in range(4)]\n"
        "[(priority.set_nice(10), priority.set_nice(0)) for _ in range(150)]\n"
        "nices = set()\n"
        "for task in os.listdir('/proc/self/task'):\n"
        "    try: nices.add(os.getpriority(os.PRIO_PROCESS, int(task)))\n"
        "    except ProcessLookupError: pass\n"
        "over.set(); print(sorted(nices))"
    )
    told = ran(script)
    assert told.stdout == "[0]\n" or told.stderr == "not here\n", told


async def test_a_worker_that_closes_itself_never_stands_back():
    one = Priority()
    one.worker.told(LASTS_S)
    with one.worker.urgent():
        one.worker.told(LASTS_S)
        assert one.set == [NICE, 0]
    assert one.set == [NICE, 0, NICE]


async def test_who_could_not_raise_its_priority_again_never_lowers_it():
    one = Priority(able=False)
    one.worker.told(LASTS_S)
    assert one.set == []


async def test_a_priority_that_may_not_be_raised_again_fails_no_close():
    """A capability of a user namespace promises what the kernel then refuses."""
    tried: list[int] = []

    def set_nice(nice: int) -> None:
        tried.append(nice)
        if nice < NICE:
            raise PermissionError

    worker = StandingBack(clock_s=lambda: 100.0, able=True, set_nice=set_nice)
    worker.told(LASTS_S)
    for _ in range(2):
        with worker.urgent():
            pass
    worker.told(LASTS_S)
    assert tried == [NICE, 0], "it is not lowered once more"


def test_a_capability_of_a_user_namespace_is_no_right_to_come_back():
    """Root of a rootless container has CAP_SYS_NICE, and nothing of it here."""
    script = (
        "import ctypes, os, resource, sys; from session_service.base import priority;"
        "resource.setrlimit(resource.RLIMIT_NICE, (0, 0));"
        "made = ctypes.CDLL(None, use_errno=True).unshare(0x10000000);"
        "before = os.getpriority(os.PRIO_PROCESS, 0);"
        "print('none' if made else priority.may_return(), os.getpriority(os.PRIO_PROCESS, 0) - before)"
    )
    told = ran(script)
    # none: this machine makes no such namespaces
    assert (told.stdout in {"False 0\n", "none 0\n"}, told.returncode) == (True, 0), told


def test_a_plain_process_lowers_its_priority_only_where_it_was_allowed_to_come_back():
    """`nobody` is uid 65534 everywhere."""
    script = (
        "import os, sys, threading, time; from session_service.base import priority;"
        "os.geteuid() or os.setresuid(65534, 65534, 65534);"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start();"
        "sys.stdin.readline(); priority.may_return() or sys.exit('never lowered');"
        "nices = lambda: {os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir('/proc/self/task')};"
        "priority.set_nice(10); assert nices() == {10}, nices();"
        "priority.set_nice(0); assert nices() == {0}, nices(); print('back')"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    allowed = priority.allow_return(child.pid)
    told = child.communicate("go\n")
    assert told == (("back\n", "") if allowed else ("", "never lowered\n"))

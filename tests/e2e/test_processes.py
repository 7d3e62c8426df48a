"""Two gateway processes of the real service: who carries what, a kill, and the version that takes the place
of the running one while people dial.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from session_service.core.shards import shard_of
from tests.e2e.test_connect import PASSWORD, Seat
from tests.e2e.test_story import PROGRAM
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
WORKSPACES_MAX = 8


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with RunningService(hold_s=60, template="bare", settings={"gateway.processes": "2"}) as running:
        await running.call(
            "POST", "/api/v1/users", {"name": "ada", "role": "administrator", "password": PASSWORD}
        )
        yield running


async def session_of(service: RunningService, shard: str) -> str:
    """Start sessions in workspaces of their own until one belongs to this gateway; end the others."""
    for number in range(WORKSPACES_MAX):
        made = await service.api("POST", "/workspaces", {"name": f"{shard} {number}"})
        session_id: str = (await service.api("POST", "/sessions", {"workspace_id": made["id"]}))["id"]
        await service.until_state(session_id, "active", "held")
        if shard_of(session_id, 2) == shard:
            return session_id
        await service.api("POST", f"/sessions/{session_id}/end", {"reason": "test"})
    raise AssertionError(f"none of {WORKSPACES_MAX} sessions belongs to {shard}")


class Caller:
    """Dials the port all the time, and counts who refused."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered = self.refused = 0

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(30):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    with contextlib.suppress(ConnectionResetError):
                        self.answered += (await reader.read(12)).endswith(b"200")
                    writer.close()
            except ConnectionRefusedError:
                self.refused += 1
            await asyncio.sleep(0.01)


async def refuse_a_successor(service: RunningService) -> None:
    parent, before = service.pid_of("parent"), service.pid_of("service")
    assert parent is not None
    run = service.state_folder / "run"
    (run / "successor.json").write_text('["/bin/false"]')
    os.kill(parent, signal.SIGUSR2)
    await until((run / "successor.refused").exists, 30)
    assert service.pid_of("service") == before
    assert (await service.call("GET", "/readyz"))[0] == 200
    assert "part.refused" in service.log


async def test_a_killed_gateway_process_costs_its_own_links_a_picture_and_others_nothing(
    service: RunningService,
) -> None:
    """Its session is held; its page comes back at once, wherever there is a gateway, with the same key."""
    inside, outside = await session_of(service, "0"), await session_of(service, "1")
    near, far = Seat(service, inside), Seat(service, outside)
    async with near.stream, far.stream, asyncio.TaskGroup() as looking:
        looks = [looking.create_task(near.look()), looking.create_task(far.look())]
        await until(lambda: near.down > 1000 and far.down > 1000)
        first = service.kill("gateway-1")
        await until(lambda: far.stream.number == 2, 30)
        seen = far.down
        await until(lambda: far.down > seen, 30)
        assert near.stream.number == 1
        assert near.stream.resyncs == near.stream.replays == 0
        await until(lambda: service.pid_of("gateway-1") not in {None, first}, 30)
        told = await service.api("GET", f"/sessions/{outside}/explanation")
        assert "server_restart" in str(told), told
        states = {each["id"]: each["state"] for each in await service.sessions()}
        assert (states[inside], states[outside]) == ("active", "active")
        for look in looks:
            look.cancel()


async def test_a_restart_refuses_nobody_and_every_page_comes_back_with_its_key(
    service: RunningService,
) -> None:
    """The process stays the same; who dials meanwhile waits in the kernel's queue. A version that cannot
    start changes nothing at all.
    """
    await refuse_a_successor(service)
    sessions = [await session_of(service, "0"), await session_of(service, "1")]
    seats = [Seat(service, each) for each in sessions]
    caller, parent = Caller(service.port), service.pid_of("parent")

    async with contextlib.AsyncExitStack() as stack:
        for seat in seats:
            await stack.enter_async_context(seat.stream)
        async with asyncio.TaskGroup() as beside:
            tasks = [beside.create_task(seat.look()) for seat in seats]
            tasks.append(beside.create_task(caller.run()))
            await until(lambda: all(seat.down > 1000 for seat in seats))
            run = await asyncio.create_subprocess_exec(
                str(PROGRAM), "restart", "--state-folder", str(service.state_folder),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await run.communicate()
            assert run.returncode == 0, (said, service.log[-3000:])
            await until(lambda: all(seat.stream.number == 2 for seat in seats), 30)
            assert [seat.stream.resyncs for seat in seats] == [1, 1], "a ticket was needed"
            for task in tasks:
                task.cancel()
    assert service.pid_of("parent") == parent
    assert caller.refused == 0
    assert caller.answered > 10

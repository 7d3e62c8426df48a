"""`continuity.v1` on the real service and a real Xvnc: typing through cuts, a restart without a login, and
the local port for VNC viewers.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session_service.cli.connecting import LocalPort
from session_service.client.api import Api
from session_service.client.framebuffer import keys_of
from session_service.client.models import Ticket
from session_service.client.resumable_stream import NewStream, ResumableStream
from session_service.client.transport import Transport
from session_service.core.continuity.client import Began
from session_service.core.rfb_looking import GREETING, SHARED, first_messages, update_request
from tests.e2e.test_story import PROGRAM
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.rfb_client import RfbClient
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
PASSWORD = "long enough to be good"
HANDSHAKE = GREETING + b"\x01" + SHARED
SCREEN = (1280, 800)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with RunningService(hold_s=60, template="bare") as running:
        await running.call(
            "POST", "/api/v1/users", {"name": "ada", "role": "administrator", "password": PASSWORD}
        )
        yield running


async def _start(service: RunningService) -> str:
    session_id: str = (await service.api("POST", "/sessions", {}))["id"]
    await service.until_state(session_id, "active", "held")
    return session_id


def _home(service: RunningService) -> Path:
    (home,) = [path for path in (service.state_folder / "homes").glob("*/*") if path.is_dir()]
    return home


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


class Seat:
    """Somebody at a program's stream: asks for pictures all the time, and types."""

    def __init__(
        self,
        service: RunningService,
        session_id: str,
        proxy: CuttingProxy | None = None,
        *,
        mode: str = "control",
    ) -> None:
        dial = f"http://127.0.0.1:{proxy.port}" if proxy is not None else ""

        async def ticket() -> Ticket:
            async with Transport.over_socket(service.socket) as transport:
                return await Api(transport).ticket(session_id, mode=mode)

        self.stream = ResumableStream(service.address, ticket, dial_url=dial)
        self.down = 0

    async def look(self) -> None:
        """Greet each new stream, and keep the pictures coming."""
        while True:
            event = await self.stream.next_event()
            if isinstance(event, Began):
                await self.stream.write(HANDSHAKE + first_messages())
                await self.stream.write(update_request(*SCREEN, incremental=False))
            elif isinstance(event, bytes):
                self.down += len(event)
                with contextlib.suppress(NewStream):
                    await self.stream.write(update_request(*SCREEN, incremental=True))

    async def type(self, text: str, pause_s: float = 0.0) -> None:
        for stroke in keys_of(text):
            await self.stream.write(stroke)
            await asyncio.sleep(pause_s)


async def _type_through_cuts(service: RunningService, cuts: int, seed: int) -> None:
    """A terminal's `cat` takes the text; what it wrote is what was typed, letter by letter."""
    chance = random.Random(seed)
    session_id = await _start(service)
    typed = ""
    async with CuttingProxy(service.port, seed=seed) as proxy:
        seat = Seat(service, session_id, proxy)
        async with seat.stream as stream, asyncio.TaskGroup() as group:
            looking = group.create_task(seat.look())
            ready = _home(service) / "ready.txt"
            await until(lambda: seat.down > 10_000)
            while not ready.exists():
                await seat.type("touch ready.txt\n")
                await asyncio.sleep(0.3)
            await seat.type("stty -echo; cat > typed.txt\n")
            await asyncio.sleep(0.5)
            while proxy.cuts < cuts:
                line = "".join(chance.choice(LETTERS) for _ in range(20)) + "\n"
                typed += line
                for stroke in keys_of(line):
                    await stream.write(stroke)
                    if chance.random() < 0.2:
                        proxy.cut_all()
                        stream.hurry()
                    await asyncio.sleep(0.004 * chance.random())
            home = _home(service)
            await until(lambda: len(_read(home / "typed.txt")) >= len(typed), 60)
            assert _read(home / "typed.txt") == typed, f"seed {seed}"
            assert (stream.resyncs, stream.number) == (0, 1)
            assert stream.replays > 0
            looking.cancel()


async def test_typing_into_a_terminal_over_random_cuts_is_exact(service: RunningService) -> None:
    await _type_through_cuts(service, 200, 21)


@pytest.mark.soak
async def test_typing_into_a_terminal_over_ten_thousand_cuts_is_exact(service: RunningService) -> None:
    await _type_through_cuts(service, 10_000, 22)


async def test_after_a_restart_the_same_key_gets_the_same_desktop_without_a_login(
    service: RunningService,
) -> None:
    session_id = await _start(service)
    seat = Seat(service, session_id)
    async with seat.stream as stream, asyncio.TaskGroup() as group:
        looking = group.create_task(seat.look())
        await until(lambda: stream.number == 1)
        service.kill("service")
        await until(lambda: stream.resyncs == 1, 60)
        home = _home(service)
        async with asyncio.timeout(30):
            while not (home / "after.txt").exists():
                await seat.type("touch after.txt\n")
                await asyncio.sleep(0.3)
        assert (await service.api("GET", f"/sessions/{session_id}"))["state"] == "active"
        looking.cancel()


async def test_a_viewers_socket_stays_open_over_cuts(service: RunningService) -> None:
    session_id = await _start(service)
    told: list[str] = []
    async with CuttingProxy(service.port) as proxy, asyncio.TaskGroup() as group:
        local = LocalPort(lambda: Seat(service, session_id, proxy).stream, tell=told.append)
        serving = group.create_task(local.run(0))
        await until(lambda: local.port > 0)
        async with RfbClient(local.port) as viewer:
            await viewer.picture()
            home = _home(service)
            async with asyncio.timeout(60):
                while not (home / "one.txt").exists():
                    await viewer.type("touch one.txt\n")
                    await asyncio.sleep(0.3)
            for number in range(5):
                proxy.cut_all()
                await viewer.type(f"touch cut{number}.txt\n")
                await until(lambda number=number: (home / f"cut{number}.txt").exists(), 30)
            await viewer.picture()
        assert any("nothing was lost" in words for words in told), told
        await until(lambda: any("viewer left" in words for words in told))
        async with RfbClient(local.port) as viewer:
            await viewer.picture()
            service.kill("service")
            with pytest.raises((asyncio.IncompleteReadError, OSError, TimeoutError)):
                await viewer.picture()
        async with RfbClient(local.port) as viewer:
            await viewer.picture()
        serving.cancel()


async def test_who_looks_on_sees_everything_and_types_nothing_and_dials_again_after_a_cut(
    service: RunningService,
) -> None:
    """A link that looks on has no key: after a cut its right is asked for anew, and its stream is new."""
    session_id = await _start(service)
    told: list[str] = []
    async with CuttingProxy(service.port) as proxy, asyncio.TaskGroup() as group:
        owner = Seat(service, session_id)
        looking_on = LocalPort(lambda: Seat(service, session_id, proxy, mode="view").stream, tell=told.append)
        async with owner.stream:
            working = group.create_task(owner.look())
            serving = group.create_task(looking_on.run(0))
            await until(lambda: looking_on.port > 0 and owner.down > 10_000)
            async with RfbClient(looking_on.port) as viewer:
                before = await viewer.picture()
                await viewer.type("touch stolen.txt\n")
                proxy.cut_all()
                with pytest.raises((asyncio.IncompleteReadError, OSError, TimeoutError)):
                    while True:
                        await viewer.picture()
            await until(lambda: any("dial again" in words for words in told))
            async with RfbClient(looking_on.port) as viewer:
                home = _home(service)
                async with asyncio.timeout(60):
                    while not (home / "owned.txt").exists():
                        await owner.type("touch owned.txt\n")
                        await asyncio.sleep(0.3)
                assert before.differing(await viewer.picture()) > 0
            assert not (home / "stolen.txt").exists()
            assert owner.stream.is_attached
            assert owner.stream.number == 1, "who looks on never takes over"
            working.cancel()
            serving.cancel()


async def test_the_command_gives_a_viewer_a_port(service: RunningService) -> None:
    session_id = await _start(service)
    process = await asyncio.create_subprocess_exec(
        *(str(PROGRAM), "connect", session_id, "--port", "0", "--state-folder", str(service.state_folder)),
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stderr.readline()).decode()
        async with RfbClient(int(line.split("127.0.0.1:")[1].split(".")[0])) as viewer:
            assert (await viewer.picture()).width == SCREEN[0]
    finally:
        process.terminate()
        await process.wait()

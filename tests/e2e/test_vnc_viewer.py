"""TigerVNC's own viewer on the local port of `session-service connect`, over lines that are cut and that fall
silent.

Every part is the real one: the command as people call it, the viewer of Debian on a screen of its own, its
keys from the X server, a real desktop, and as root a network namespace whose packets are dropped, with TLS.
The truth is twice the desktop's own: the file that its terminal wrote, and its picture as its own socket
shows it.
"""

import asyncio
import os
import random
import re
import string
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from session_service.ports.desktops import Handle
from tests.e2e.test_space import handle_of
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.desktop_world import home_file, run_in_terminal, run_to_file
from tests.fakes.rfb_client import RfbClient
from tests.fakes.running_service import RunningService
from tests.fakes.silent_line import Line, known_as, silent_line
from tests.fakes.until import until
from tests.fakes.vnc_viewer import Screen, Viewer, becomes, screen

pytestmark = pytest.mark.slow
PROGRAM = Path(sys.executable).parent / "session-service"
KEYS = string.ascii_lowercase + string.digits
DIFFERENT_PIXELS = 400
"""Two cursors that blink and the pointer; a line of text is some thousands."""
WORDS = "Grüße, 5 €, 漢字 καλημέρα"
PASTE = "until xclip -o -selection clipboard | grep -q ,; do sleep 0.1; done; xclip -o -selection clipboard"
READ_KEYS = "stty -icanon; clear; touch ~/typed; cat > ~/typed"
LOST, BACK = "The link is gone", "nothing was lost"


@dataclass(slots=True, kw_only=True)
class Command:
    """A running `session-service connect`."""

    process: asyncio.subprocess.Process
    port: int = 0
    told: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        """Keep what it says."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.told.append(line.decode().rstrip())
            if found := re.search(r"127\.0\.0\.1:(\d+)", self.told[-1]):
                self.port = int(found[1])

    def count(self, words: str) -> int:
        """How often it said this."""
        return sum(words in line for line in self.told)


@dataclass(slots=True, kw_only=True)
class Desk:
    """A viewer in front of a desktop."""

    service: RunningService
    handle: Handle
    command: Command
    screen: Screen
    viewer: Viewer
    chance: random.Random
    typed: str = ""

    async def type(self, count: int) -> None:
        """Type so many keys without looking, and note them."""
        text = "".join(self.chance.choice(KEYS) for _ in range(count))
        self.typed += text
        await self.viewer.type(text)

    async def has_all(self) -> None:
        """Wait until the terminal has every key; it has no other and none twice."""
        file = home_file(self.handle, "typed")
        await until(lambda: len(file.read_text()) >= len(self.typed), 60)
        assert file.read_text() == self.typed

    async def shows_the_desktop(self) -> None:
        """Wait until the viewer's window shows what the desktop's own socket shows."""
        differing = -1
        try:
            async with asyncio.timeout(30):
                while True:
                    async with RfbClient(self.handle.socket) as looker:
                        own = await looker.picture()
                    shown = await self.viewer.picture()
                    differing = own.differing(shown)
                    if differing < DIFFERENT_PIXELS:
                        return
        except TimeoutError as exc:
            raise AssertionError(f"{differing} pixels differ") from exc

    async def desktop_size(self) -> tuple[int, int]:
        """How large the desktop itself is."""
        async with RfbClient(self.handle.socket) as looker:
            return looker.width, looker.height

    def saw_nothing(self) -> None:
        """The viewer lives, which ends when its stream breaks; and no other one was served."""
        assert self.viewer.lives, self.screen.log
        assert self.command.count("viewer") == 1, self.command.told  # the invitation


async def begin(service: RunningService) -> str:
    """Make an account and start a desktop; returns its session."""
    account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
    await service.call("POST", "/api/v1/users", account)
    session_id = str((await service.api("POST", "/sessions", {}))["id"])
    await service.until_state(session_id, "active", "held")
    return session_id


@asynccontextmanager
async def connect(
    service: RunningService, session_id: str, folder: Path, *arguments: str, line: Line | None = None
) -> AsyncIterator[Command]:
    """Run the command as somebody does from another machine."""
    user_id = (await service.api("GET", "/users"))["items"][0]["id"]
    wish = {"name": "viewer", "scopes": ["read", "sessions"], "user_id": user_id}
    token = folder / "token"
    token.write_text((await service.api("POST", "/tokens", wish))["token"])
    environment = dict(os.environ)
    if line is not None and line.certificate is not None:
        environment["SSL_CERT_FILE"] = str(line.certificate)
    process = await asyncio.create_subprocess_exec(
        *(line.inside if line is not None else []),
        *(str(PROGRAM), "connect", session_id, "--port", "0"),
        *("--url", service.address, "--token-file", str(token), *arguments),
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    command = Command(process=process)
    async with asyncio.TaskGroup() as group:
        group.create_task(command.listen())
        try:
            await until(lambda: command.port > 0 or process.returncode is not None, 60)
            assert command.port, command.told
            yield command
        finally:
            sys.stdout.write("\n".join(command.told))  # shown where a test fails
            if process.returncode is None:
                process.terminate()
            await process.wait()


@asynccontextmanager
async def desk(
    service: RunningService,
    folder: Path,
    *viewer: str,
    seed: int = 0,
    line: Line | None = None,
    terminal: str = READ_KEYS,
) -> AsyncIterator[Desk]:
    """Start a desktop whose terminal does something, e.g. keep what it reads, and sit down in front of it."""
    session_id = await begin(service)
    handle = handle_of(service, session_id)
    await run_in_terminal(handle, f"touch ~/begins; {terminal}")
    await until(home_file(handle, "begins").is_file)
    async with connect(service, session_id, folder, line=line) as command, screen() as front:
        shown = await front.view(command.port, *viewer, inside=line.inside if line is not None else None)
        await shown.click(300, 300)
        yield Desk(
            service=service,
            handle=handle,
            command=command,
            screen=front,
            viewer=shown,
            chance=random.Random(seed),
        )


async def test_keys_typed_in_the_viewer_over_cut_lines_arrive_once_and_the_picture_goes_on(
    tmp_path: Path,
) -> None:
    """Cut in the middle of whatever is on its way, while keys are typed."""
    await _cut(tmp_path, cuts=8, seed=3)


@pytest.mark.soak
async def test_keys_typed_in_the_viewer_over_hundreds_of_cuts_arrive_once(tmp_path: Path) -> None:
    await _cut(tmp_path, cuts=500, seed=4)


async def _cut(folder: Path, *, cuts: int, seed: int) -> None:
    service = RunningService(hold_s=600, template="bare")
    async with CuttingProxy(service.port, seed=seed) as proxy:
        known_as(service, f"http://127.0.0.1:{proxy.port}")
        async with service, desk(service, folder, "-RemoteResize=0", seed=seed) as seated:
            await seated.shows_the_desktop()
            while seated.command.count(BACK) < cuts:
                async with asyncio.TaskGroup() as group:
                    group.create_task(seated.type(30))
                    for _ in range(2):
                        await asyncio.sleep(seated.chance.uniform(0.02, 0.2))  # anywhere in the typing
                        proxy.cut_all()
            await seated.has_all()
            await seated.shows_the_desktop()
            seated.saw_nothing()


async def test_keys_typed_in_the_viewer_while_packets_are_dropped_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    """A silence that TCP bridges by itself, and one that the command must notice."""
    service = RunningService(hold_s=600, template="bare")
    async with silent_line(service, tmp_path) as line, service:
        async with desk(service, tmp_path, "-RemoteResize=0", seed=5, line=line) as seated:
            await seated.shows_the_desktop()
            await seated.type(20)
            for silent_s in (1.5, 0.0):
                await line.silence()
                await seated.type(20)
                if silent_s:
                    await asyncio.sleep(silent_s)  # the silence is the test
                else:
                    await until(lambda: seated.command.count(LOST) > 0, 40)
                await seated.type(20)
                await line.speak()
                await seated.type(20)
                await seated.has_all()
                await seated.shows_the_desktop()
            assert seated.command.count(BACK) > 0
            seated.saw_nothing()


async def test_the_viewer_gives_and_takes_the_clipboard_and_the_desktop_takes_its_windows_size(
    tmp_path: Path,
) -> None:
    """Letters beyond Latin-1 both ways; a window that is made smaller makes the desktop smaller."""
    service = RunningService(hold_s=600, template="bare")
    async with CuttingProxy(service.port, seed=6) as proxy:
        known_as(service, f"http://127.0.0.1:{proxy.port}")
        async with service:
            async with desk(service, tmp_path, seed=6, terminal="true") as seated:
                await seated.screen.holds(WORDS)
                proxy.cut_all()
                async with asyncio.TaskGroup() as both:
                    pasting = both.create_task(run_to_file(seated.handle, "pasted", PASTE))
                    while not pasting.done():
                        # The viewer tells of a clipboard when it gets the keyboard.
                        await seated.viewer.click(300, 300)
                        await asyncio.wait([pasting], timeout=1.0)
                assert pasting.result() == WORDS
                proxy.cut_all()
                back = WORDS[::-1]
                await run_to_file(seated.handle, "copied", f"printf %s '{back}' | xclip -selection clipboard")
                await becomes(seated.screen.clipboard, back)
                await seated.viewer.resize(900, 600)
                proxy.cut_all()
                await becomes(seated.desktop_size, (900, 600))
                await seated.viewer.find()
                await seated.shows_the_desktop()
                seated.saw_nothing()

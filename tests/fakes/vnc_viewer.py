"""TigerVNC's own viewer on a screen of its own, as somebody uses it: looked at, typed into, copied from.

Not a fake viewer: `xtigervncviewer` as Debian ships it, in a window that openbox manages, on an Xvnc that
stands for the screen in front of its user. Keys and clicks come from the X server (XTEST), as those of a
keyboard do. The viewer is started so that it ends when its stream breaks: while it lives, it saw nothing.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.gateway_world import xvnc
from tests.fakes.rfb_client import Picture, RfbClient
from tests.fakes.until import until

VIEWER = (
    "xtigervncviewer",
    *("-AlertOnFatalError=0", "-ReconnectOnError=0"),  # ends instead of asking
    *("-AutoSelect=0", "-PreferredEncoding=ZRLE", "-NoJPEG=1"),  # the very pixels
    *("-Log", "*:stderr:30"),
)
TITLE = " - TigerVNC$"
SCREEN = (1500, 1000)
_FIGURE = re.compile(r"^ *(Absolute upper-left [XY]|Width|Height): +(\d+)$", re.MULTILINE)
_PLACE = ("Absolute upper-left X", "Absolute upper-left Y", "Width", "Height")
READY_S = 30.0


class Screen:
    """The screen in front of the viewer's user; made by `screen`."""

    def __init__(self, folder: Path, socket: Path, display: str) -> None:
        self._socket = socket
        self._folder = folder
        self._environment = {**os.environ, "DISPLAY": display, "HOME": str(folder)}
        self._processes: list[asyncio.subprocess.Process] = []
        self._log = folder / "viewer.log"

    async def run(self, *command: str, stdin: bytes = b"") -> str:
        """Run a short program on this screen and return what it printed."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(READY_S):
            printed, complaints = await process.communicate(stdin)
        assert process.returncode == 0, (command, complaints.decode())
        return printed.decode()

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        """Start a program that stays until the screen is left."""
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    async def end(self) -> None:
        """End what was started, the latest first."""
        for process in reversed(self._processes):
            if process.returncode is None:
                process.terminate()
            await process.wait()

    @property
    def log(self) -> str:
        """What the programs on this screen said."""
        return self._log.read_text(errors="replace")

    async def view(self, port: int, *arguments: str, inside: list[str] | None = None) -> "Viewer":
        """Point the viewer at a local port; returns when its window is there."""
        process = await self.start(*(inside or []), *VIEWER, *arguments, f"127.0.0.1::{port}")
        viewer = Viewer(self, process)
        try:
            async with asyncio.timeout(READY_S):
                while not await viewer.find():
                    assert viewer.lives, self.log
                    await asyncio.sleep(0.05)
        except TimeoutError as exc:
            raise AssertionError(self.log) from exc
        return viewer

    async def holds(self, text: str) -> None:
        """Put a text on the clipboard of this screen, from an application of its own."""
        await self.start("sh", "-c", 'printf %s "$0" | xclip -quiet -selection clipboard', text)
        await becomes(self.clipboard, text)

    async def clipboard(self) -> str:
        """What is on the clipboard of this screen, empty where nobody has it."""
        return await self.run("sh", "-c", "xclip -o -selection clipboard || true")

    async def picture(self) -> Picture:
        """What this screen shows."""
        async with RfbClient(self._socket) as looker:
            return await looker.picture()


class Viewer:
    """One viewer's window."""

    def __init__(self, screen: Screen, process: asyncio.subprocess.Process) -> None:
        self._screen = screen
        self._process = process
        self._window = ""
        self._place = (0, 0, 0, 0)

    @property
    def lives(self) -> bool:
        """True while the viewer runs; it ends when its stream breaks."""
        return self._process.returncode is None

    async def find(self) -> bool:
        """Look for the window and for where it is."""
        found = await self._screen.run("sh", "-c", f"xdotool search --onlyvisible --name '{TITLE}' || true")
        if found.split():
            self._window = found.split()[-1]
            # Not xdotool's own figures: they count the frame of a managed window twice.
            told = dict(_FIGURE.findall(await self._screen.run("xwininfo", "-id", self._window)))
            x, y, width, height = (int(told[name]) for name in _PLACE)
            self._place = x, y, width, height
        return bool(self._window)

    async def click(self, x: int, y: int) -> None:
        """Click at a place of the window; the keyboard is its own from then on."""
        place = (str(self._place[0] + x), str(self._place[1] + y))
        await self._screen.run("xdotool", "mousemove", *place, "click", "1")

    async def type(self, text: str, *, pause_ms: int = 4) -> None:
        """Type letters and figures, as a keyboard does."""
        await self._screen.run("xdotool", "type", "--delay", str(pause_ms), text)

    async def resize(self, width: int, height: int) -> None:
        """Make the window smaller or larger."""
        await self._screen.run("xdotool", "windowsize", self._window, str(width), str(height))

    async def picture(self) -> Picture:
        """What the window shows."""
        x, y, width, height = self._place
        return (await self._screen.picture()).part(x, y, width, height)


async def becomes(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Look again and again, by programs that tell nobody of changes, until it is what is wanted."""
    seen: object = None
    try:
        async with asyncio.timeout(READY_S):
            while (seen := await look()) != wanted:  # noqa: ASYNC110 - what is looked at has no event
                await asyncio.sleep(0.05)
    except TimeoutError as exc:
        raise AssertionError(f"it is {seen!r}") from exc


@asynccontextmanager
async def screen() -> AsyncIterator[Screen]:
    """A screen with a window manager, on which keys do not repeat."""
    folder = Path(tempfile.mkdtemp(prefix="vv-", dir="/tmp"))  # short, for sockets
    try:
        async with xvnc(folder, f"{SCREEN[0]}x{SCREEN[1]}") as socket:
            made = Screen(folder, socket, ":" + (folder / "display").read_text())
            try:
                await made.run("xset", "r", "off")  # a key that is held by a slow machine is not two
                # What asks for a window while openbox starts may wait for ever, and it has a name long before
                # it is ready: this command it runs as the last of its start.
                ready = folder / "managed"
                await made.start("openbox", "--startup", f"touch {ready}")
                await until(ready.exists, READY_S)
                yield made
            finally:
                await made.end()
    finally:
        shutil.rmtree(folder)

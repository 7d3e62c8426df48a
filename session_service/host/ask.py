"""Ask the applications of a desktop to save and close, in the order in which that loses least.

Not a command to close: who keeps a window open has unsaved work and is named on the receipt, and no button is
pressed for the user. Order (desktops.md 8): the user's own hook, then every window's close button, then HUP
for what hangs on a terminal (editors write their rescue files) and TERM for the rest of the applications. The
desktop's own parts are left alone: their end would take everything along at once.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host import census, display, identity, sandbox
from session_service.host.control_groups import DesktopGroups
from session_service.host.spawn import spawn
from session_service.host.state_file import DesktopState
from session_service.host.x11 import Display
from session_service.ports.desktops import AskReport

HOOK: Final = ".config/session-service/before-close"
"""In the home: a program of the user, run before the desktop closes."""
HOOK_S: Final = 30.0
WINDOWS_S: Final = 2.5
TERMINALS_S: Final = 1.0
TERM_S: Final = 3.0
LOOK_AGAIN_S: Final = 0.05


async def ask(state: DesktopState, folder: Path, groups: DesktopGroups, *, hook: bool) -> AskReport:
    """Ask once, each part with its limit; never raises for what the desktop does or does not do."""
    outcome = await run_hook(state, groups) if hook else "none"
    refused = await _close_windows(state, folder)
    remaining = await _end_softly(state)
    return AskReport(hook=outcome, refused_windows=refused, remaining_processes=remaining)


async def run_hook(state: DesktopState, groups: DesktopGroups) -> str:
    """Run the user's hook inside the sandbox. Returns none, done, failed or timed_out."""
    hook = Path(state.handle.home) / HOOK
    if not os.path.lexists(hook):
        return "none"
    code = await run_inside(
        state, groups, ["/bin/sh", "-c", f'cd "$HOME" && exec "./{HOOK}"'], limit_s=HOOK_S
    )
    if code is None:
        return "timed_out"
    return "done" if code == 0 else "failed"


async def run_inside(
    state: DesktopState, groups: DesktopGroups, arguments: Sequence[str], *, limit_s: float
) -> int | None:
    """Run a program as the desktop's user among its applications.

    Returns its exit status, None when it went on past the limit.

    It enters as the desktop's own user, with no group and no descriptor of ours; one that goes on is frozen
    and ended with the rest.
    """
    pid = spawn(
        sandbox.in_groups(
            _way_in(state, arguments), groups.entry("app"), oom_score=sandbox.APPLICATION_OOM_SCORE
        ),
        descriptors={},
        environment={"PATH": f"{sandbox.SEARCH}:/usr/sbin:/sbin"},
    )
    descriptor = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(limit_s):
            await ended.wait()
        return identity.exit_status(pid)
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _way_in(state: DesktopState, arguments: Sequence[str]) -> list[str]:
    if not state.sandboxed:
        owner = (state.handle.uid, state.handle.uid) if os.geteuid() == 0 else None
        variables = _variables(home=state.handle.home, display_number=state.display)
        return sandbox.as_owner([sandbox.program("env"), "-i", *variables, *arguments], owner)
    namespaces = ["--user", "--mount", "--pid", "--net", "--ipc", "--uts"]
    enter = [sandbox.program("nsenter"), "--target", str(state.init_pid), *namespaces]
    if os.geteuid() == 0:
        uid = str(sandbox.INNER_UID)
        enter = [sandbox.program("setpriv"), "--clear-groups", "--", *enter, "--setuid", uid, "--setgid", uid]
    else:
        enter.append("--preserve-credentials")
    variables = _variables(home=sandbox.HOME, display_number=state.display)
    return [*enter, "--", "/usr/bin/env", "-i", *variables, *arguments]


def _variables(*, home: str, display_number: int) -> list[str]:
    values: Mapping[str, str] = {
        "PATH": sandbox.SEARCH,
        "HOME": home,
        "USER": sandbox.USER,
        "LANG": "C.UTF-8",
        "DISPLAY": f":{display_number}",
        "XAUTHORITY": f"{sandbox.ETC}/xauth",
    }
    return [f"{name}={value}" for name, value in values.items()]


async def _close_windows(state: DesktopState, folder: Path) -> tuple[str, ...]:
    """Ask every window to close; returns the titles of those that stayed, for their user only."""
    x11 = folder / "display" / "x11" if state.sandboxed else Path("/tmp/.X11-unix")
    try:
        cookie = display.cookie_of((folder / "etc" / "xauth").read_bytes())
        screen = await Display.connect(x11 / f"X{state.display}", cookie=cookie, uid=state.handle.uid)
    except (OSError, EOFError, TimeoutError, errors.PartRefused):
        return ()
    try:
        stayed = await _close(screen, terminals=False, limit_s=WINDOWS_S)
        return (*stayed, *await _close(screen, terminals=True, limit_s=TERMINALS_S))
    except (OSError, EOFError, TimeoutError, errors.PartRefused):
        return ()
    finally:
        await screen.close()


async def _close(screen: Display, *, terminals: bool, limit_s: float) -> tuple[str, ...]:
    """Ask terminals, or everything else, and wait; returns the titles of those that stayed.

    Terminals come last: the shell inside one takes along what was started from it, unsaved or not.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + limit_s
    windows = [window for window in await screen.windows() if window.terminal == terminals]
    for window in windows:
        if window.closable:
            await screen.ask_to_close(window)
    while windows and loop.time() < until:
        await asyncio.sleep(LOOK_AGAIN_S)
        windows = [window for window in await screen.windows() if window.terminal == terminals]
    return tuple(window.title for window in windows)


async def _end_softly(state: DesktopState) -> int:
    """Send HUP or TERM to each application and wait; returns how many of them are left."""
    for process in _applications(state):
        number = signal.SIGHUP if process.facts.terminal else signal.SIGTERM
        identity.send(*process.identity, number)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TERM_S):
            while _applications(state):  # noqa: ASYNC110 - processes of others tell nobody of their end
                await asyncio.sleep(LOOK_AGAIN_S)
    return len(_applications(state))


def _applications(state: DesktopState) -> list[census.Process]:
    """Return what the user started: everything that did not run when the desktop became ready."""
    own = {*state.furniture, *state.display_side}
    return [p for p in census.members(state, census.look()).values() if p.identity not in own]

"""`stop`: end the service of this machine; with --end-sessions save and end its desktops first. `restart`:
let this version of the program take the running one's place.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from session_service.app import successor
from session_service.app.parent import running_parent, start_time
from session_service.base import errors
from session_service.cli import console
from session_service.cli.console import StateFolder
from session_service.cli.sessions import end_all
from session_service.client import models
from session_service.client.api import Api

STOP_S: Final = 60.0
"""The parts end in order within this time, or are killed, which loses nothing."""
LOOK_S: Final = 0.5


class NotRunning(errors.SessionError):
    """No service runs with this state folder."""

    code, status, action = (
        "not_running",
        404,
        "Name its folder with --state-folder, or start it with ./deploy/up.",
    )


class StillSaving(errors.SessionError):
    """Some desktops are not saved yet; the service goes on until they are."""

    code, retryable, status = "still_saving", True, 503
    action = (
        "Look at `session-service sessions list`; bring the object store back if that is what is missing."
    )


class NotReplaced(errors.SessionError):
    """The running program goes on: the one that was to take its place cannot run with its settings."""

    code, status = "not_replaced", 409
    action = "Look at the running service's log for the reason; nothing has changed."


def stop(
    state_folder: StateFolder = None,
    end_sessions: Annotated[
        bool, typer.Option("--end-sessions", help="Save every desktop and end it first.")
    ] = False,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait for the saves.")] = 900.0,
) -> None:
    """Stop the service; every page is told when to come back. Desktops go on and are found again at the next
    start, unless they are ended here.

    Example: session-service stop --end-sessions
    """
    layout = console.layout_of(state_folder)
    pid = running_parent(layout)
    if pid is None:
        raise NotRunning(f"no service runs in {layout.root}")
    if end_sessions:
        _end(state_folder, wait_s)
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while running_parent(layout) == pid:
        if time.monotonic() > until:
            raise StillSaving(f"process {pid} did not end in {STOP_S:.0f} s")
        time.sleep(0.05)
    console.out.print(
        "Stopped." if end_sessions else "Stopped. Desktops that were open still run and are held."
    )


def restart(
    state_folder: StateFolder = None,
    wait_s: Annotated[float, typer.Option("--wait", help="Seconds to wait until it is ready.")] = 120.0,
) -> None:
    """Let this version take the running one's place.

    Same process, same port; nobody who dials is refused, and desktops go on.

    Desktops go on, pages are told to come back within three seconds and do so with the key they have.

    Example: session-service restart
    """
    layout = console.layout_of(state_folder)
    pid = running_parent(layout)
    if pid is None:
        raise NotRunning(f"no service runs in {layout.root}")
    note = layout.run / "parent.json"
    before = note.stat().st_ino
    successor.name(layout, successor.own_program())
    os.kill(pid, signal.SIGUSR2)
    until = time.monotonic() + wait_s
    while not _is_new(note, before):
        if successor.is_refused(layout):
            raise NotReplaced(f"{successor.own_program()[0]} did not start; process {pid} goes on")
        if time.monotonic() > until or not _lives(pid):
            raise NotRunning(f"process {pid} has not come back; its log says why")
        time.sleep(0.05)
    while not _is_ready(state_folder):
        if time.monotonic() > until or not _lives(pid):
            raise NotRunning(f"process {pid} is not ready; its log says why")
        time.sleep(0.05)
    console.out.print("Restarted. Desktops went on, and their pages come back by themselves.")


def _is_new(note: Path, before: int) -> bool:
    try:
        return note.stat().st_ino != before
    except FileNotFoundError:
        return False


def _is_ready(state_folder: console.StateFolder) -> bool:
    try:
        return console.run(lambda api: api.status(), state_folder).ready
    except (errors.SessionError, OSError):
        return False


def _lives(pid: int) -> bool:
    return start_time(pid) is not None


def _end(state_folder: console.StateFolder, wait_s: float) -> None:
    until, told = time.monotonic() + wait_s, ""

    async def look(api: Api) -> list[models.Session]:
        return await end_all(api)

    while still := console.run(look, state_folder):
        words = f"{console.many(len(still), 'desktop is', 'desktops are')} being saved"
        trouble = next((one.step_error for one in still if one.step_error), "")
        if (line := f"{words}{': ' + trouble if trouble else ''}") != told:
            print(line, file=sys.stderr)
            told = line
        if time.monotonic() > until:
            raise StillSaving(f"{words} after {wait_s:.0f} s: {trouble}")
        time.sleep(LOOK_S)

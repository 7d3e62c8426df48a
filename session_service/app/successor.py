"""The program that takes this one's place: an upgrade, or a restart, in which nobody who dials is refused.

Not a second parent: the process stays the same and executes the newer program, with the listening sockets
open, once its parts have ended in order. So systemd, a terminal and whoever waits for the process notice
nothing. The newer program is tried first, and a version that cannot start leaves the running one as it is.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from session_service.base import log
from session_service.base.layout import Layout

CHECK_S: Final = 30.0
"""For the newer program to read its settings and say that it can use them."""


def name(layout: Layout, program: Sequence[str]) -> None:
    """Note which program is to come; only who owns the run folder can."""
    (layout.run / "successor.refused").unlink(missing_ok=True)
    path = layout.run / "successor.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(list(program)))
    draft.replace(path)


def own_program() -> tuple[str, ...]:
    """Return the words that start the command this process runs, without its arguments."""
    script = Path(sys.argv[0])
    if script.is_file() and os.access(script, os.X_OK) and script.suffix != ".py":
        return (str(script.absolute()),)
    return (sys.executable, "-P", "-m", "session_service.cli.main")


def find(layout: Layout) -> tuple[str, ...]:
    """Return the whole command of the program that is to come, with the arguments of this one."""
    path = layout.run / "successor.json"
    try:
        program = tuple(str(word) for word in json.loads(path.read_text()))
    except (OSError, ValueError):
        program = own_program()
    path.unlink(missing_ok=True)
    return (*program, *sys.argv[1:])


def is_refused(layout: Layout) -> bool:
    """Say whether the program that was named could not be used, so that the older one goes on."""
    return (layout.run / "successor.refused").exists()


async def is_usable(layout: Layout, command: Sequence[str]) -> bool:
    """Say whether the program reads its settings and would start; a refusal is noted for whoever waits."""
    usable = await _answers(command)
    if not usable:
        (layout.run / "successor.refused").touch()
    return usable


async def _answers(command: Sequence[str]) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, "--check", stdin=asyncio.subprocess.DEVNULL, cwd="/"
        )
    except OSError as exc:
        log.get_logger().error("part.refused", name="successor", detail=str(exc))
        return False
    try:
        status = await asyncio.wait_for(process.wait(), CHECK_S)
    except TimeoutError:
        process.kill()
        status = await process.wait()
    if status != 0:
        log.get_logger().error("part.refused", name="successor", status=status, command=command[0])
    return status == 0

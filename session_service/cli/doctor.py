"""`doctor`: what works on this machine, what does not, and what to do."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from session_service.app import doctor as looks
from session_service.app import settings as configuration
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder


def doctor(
    context: typer.Context,
    state_folder: StateFolder = None,
    json: AsJson = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="The TOML file that `serve` was given.")
    ] = None,
) -> None:
    """Check machine, parts, store, clock, key and space. Exit status 1 when something that is needed does
    not work.

    Example: session-service doctor --json
    """
    if context.invoked_subcommand is not None:
        return
    flags = {"state_folder": state_folder} if state_folder is not None else {}
    found = asyncio.run(looks.look(configuration.load(config, flags)))
    good = all(one.ok for one in found)
    if json:
        console.print_json({"ok": good, "findings": found})
    else:
        width = max(len(one.name) for one in found)
        for one in found:
            mark = "ok  " if one.ok else "FAIL"
            console.out.print(f"{mark} {one.name.replace('_', ' '):<{width}}  {one.words}", markup=False)
            if one.action:
                console.out.print(
                    f"     {'':<{width}}  -> {one.action}",
                    markup=False,
                    style="bold" if not one.ok else "dim",
                )
    if not good:
        sys.exit(1)

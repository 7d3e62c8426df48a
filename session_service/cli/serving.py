"""`serve`: run the service in the foreground."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from session_service.app import settings as configuration
from session_service.app.parent import Parent
from session_service.app.part import use_json
from session_service.app.refused import ConfigurationRefused
from session_service.base import log

ServeConfig = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings; docs/configuration.md lists them.")
]
StateFolder = Annotated[
    Path | None,
    typer.Option("--state-folder", help="Where everything lies; default as documented.", show_default=False),
]


def add_to(application: typer.Typer) -> None:
    """Add the command."""
    application.command("serve", help=_HELP)(serve)


_HELP = """Run the service in the foreground.

Host, workers and service are processes of their own.

Example: session-service serve --port 8080 --set hold.hold_s=600
"""


def flags_of(pairs: list[str]) -> dict[str, Any]:
    """Turn NAME=VALUE pairs into settings. Raises ConfigurationRefused."""
    flags: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigurationRefused(f"--set takes NAME=VALUE, such as hold.hold_s=600, not {pair}")
        flags[name] = value
    return flags


def serve(
    config: ServeConfig = None,
    state_folder: StateFolder = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port for everything; default 8080, 0 takes a free one.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="file:///folder or s3://bucket/prefix?endpoint=URL.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, by its name.")
    ] = None,
    behind_proxy: Annotated[bool, typer.Option(help="A TLS proxy stands in front.")] = False,
    check: Annotated[bool, typer.Option(help="Read the settings, start nothing.")] = False,
) -> None:
    """Run until SIGTERM or Ctrl-C; desktops stay."""
    flags = flags_of(set_ or [])
    given = {
        "state_folder": state_folder,
        "listen.host": host,
        "listen.port": port,
        "store.url": store,
        "listen.behind_proxy": behind_proxy or None,
    }
    flags.update({name: value for name, value in given.items() if value is not None})
    settings = configuration.load(config, flags)
    log.configure(json=use_json(settings), level=settings.logs.level, part="parent")
    if check:
        return
    parent = Parent(settings)
    status = asyncio.run(parent.run())
    if parent.successor is not None:
        parent.become_successor()
    sys.exit(status)

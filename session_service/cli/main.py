"""The command `session-service`: everything a person does at a terminal, each with an example in its help
and `--json`.

It never opens the registry: it asks the running service over its unix socket, by the caller's own user. Only
`serve`, `backup`'s restore and parts of `doctor` work without a running service.
"""

import sys
from importlib import metadata
from typing import Annotated, Final

import typer

from session_service.base import errors
from session_service.cli.harmless import harmless

LISTS: Final = (
    "Check it against `sessions list --all`, `checkpoints workspaces`, `checkpoints list` or `users list`."
)
"""What to do about a name or an id that leads nowhere, at a terminal."""


def application_for(words: list[str]) -> typer.Typer:
    """Return the command line for these words.

    `serve` gets itself alone: what the other commands import would take longer than the service's start.
    """
    from session_service.cli import serving

    application = typer.Typer(
        name="session-service",
        help="Virtual desktops that survive dropped connections, dead batteries and restarted servers.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    application.callback()(_root)
    serving.add_to(application)
    if words[:1] != ["serve"]:
        _add_others(application)
    return application


def _add_others(application: typer.Typer) -> None:
    from session_service.cli import (
        backup,
        connecting,
        demo,
        doctor,
        doctor_client,
        keys,
        people,
        price,
        replica,
        sessions,
        stopping,
        upkeep,
    )

    application.command("demo")(demo.demo)
    application.command("stop")(stopping.stop)
    application.command("restart")(stopping.restart)
    application.command("connect")(connecting.connect)
    doctors = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    doctors.callback()(doctor.doctor)
    doctors.command("client")(doctor_client.client)
    application.add_typer(doctors, name="doctor")
    application.command("price")(price.price)
    application.add_typer(sessions.application, name="sessions")
    application.add_typer(upkeep.application, name="checkpoints")
    application.add_typer(replica.application, name="replica")
    application.add_typer(people.users, name="users")
    application.add_typer(people.tokens, name="tokens")
    application.add_typer(keys.application, name="keys")
    application.add_typer(keys.people, name="people")
    application.add_typer(backup.application, name="backup")
    application.add_typer(backup.audit, name="audit")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(metadata.version("session-service"))
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Take the options that stand before any command."""


def main() -> None:
    """Run the command; an expected failure is two lines that say what and what to do, and exit status 1."""
    words = sys.argv[1:]
    try:
        if "demo" in words:
            from session_service.cli.demo import with_bare_s3

            words = with_bare_s3(words)
        application_for(words)(words)
    except errors.SessionError as exc:
        action = LISTS if type(exc) is errors.NotFound else exc.action
        print(harmless(f"{exc.detail}\n{action}  [{exc.code}]"), file=sys.stderr)
        sys.exit(1)

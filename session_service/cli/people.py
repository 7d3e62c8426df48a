"""`users` and `tokens`: accounts of people and of programs."""

from pathlib import Path
from typing import Annotated

import typer

from session_service.base import errors
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.client import models
from session_service.client.api import Api

users = typer.Typer(help="Accounts of people.", no_args_is_help=True)
tokens = typer.Typer(help="Tokens for programs.", no_args_is_help=True)
Role = Annotated[str, typer.Option(help="user, operator or administrator.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the password; default: it is asked for.")
]


async def _named(api: Api, name: str) -> models.User:
    for one in await api.users():
        if one.name.casefold() == name.casefold() or one.id == name:
            return one
    raise errors.NotFound(f"there is no account {name}")


@users.command("list")
def list_users(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """List accounts.

    Example: session-service users list
    """
    found = console.run(lambda api: api.users(), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [[one.name, one.role, "disabled" if one.disabled else "", one.id] for one in found]
    console.table(("NAME", "ROLE", "", "ID"), rows, empty="No account; the setup page makes the first one.")


@users.command("create")
def create_user(
    name: str,
    role: Role = "user",
    password_file: PasswordFile = None,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Make an account with its default workspace.

    Example: session-service users create ada --role user
    """
    password = console.password_from(password_file, f"Password for {name}")
    one = console.run(lambda api: api.create_user(name=name, password=password, role=role), state_folder)
    if json:
        console.print_json(one)
    else:
        console.out.print(f"{one.name} can sign in as {one.role}.")


@users.command("change")
def change_user(
    name: str,
    role: Annotated[str | None, typer.Option(help="user, operator or administrator.")] = None,
    disable: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Whether it may sign in.")
    ] = None,
    new_password: Annotated[bool, typer.Option("--password", help="Set a new password.")] = False,
    password_file: PasswordFile = None,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Change role, password or standing. Its sign-ins end, its desktop is held.

    Example: session-service users change ada --disable
    """
    password = console.password_from(password_file, f"Password for {name}") if new_password else None

    async def change(api: Api) -> models.User:
        account = await _named(api, name)
        return await api.change_user(account.id, role=role, disabled=disable, password=password)

    one = console.run(change, state_folder)
    if json:
        console.print_json(one)
    else:
        console.out.print(f"{one.name}: {one.role}{', disabled' if one.disabled else ''}.")


@tokens.command("list")
def list_tokens(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """List tokens; their secrets are not kept.

    Example: session-service tokens list
    """
    found = console.run(lambda api: api.tokens(), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [
        [
            one.id,
            one.name,
            " ".join(one.scopes),
            console.moment(one.expires_at),
            "revoked" if one.revoked_at else "",
        ]
        for one in found
    ]
    console.table(("TOKEN", "NAME", "SCOPES", "ENDS", ""), rows, empty="No token.")


@tokens.command("create")
def create_token(
    name: str,
    user: Annotated[str, typer.Option(help="The account that it acts for; default: one's own.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="read, sessions, files, operate or admin.")] = None,
    days: Annotated[float, typer.Option(help="How long it is good.")] = 90.0,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Make a token. It is shown once.

    Example: session-service tokens create ci --user ada --scope sessions --scope read --days 7
    """

    async def create(api: Api) -> models.NewToken:
        account = (await _named(api, user)).id if user else None
        scopes = scope or ["read", "sessions"]
        return await api.create_token(name=name, scopes=scopes, expires_in_s=days * 86_400, user_id=account)

    one = console.run(create, state_folder)
    if json:
        console.print_json(one)
    else:
        console.out.print(one.token)


@tokens.command("revoke")
def revoke_token(token: str, state_folder: StateFolder = None) -> None:
    """Revoke a token; its live streams end within two seconds.

    Example: session-service tokens revoke 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    console.run(lambda api: api.revoke_token(token), state_folder)
    console.out.print("Revoked.")

"""`keys`: what opens the store, new keys, and the recovery code; `people`: erase somebody for ever.

No secret is an argument of any command. The recovery code is drawn here, shown once, typed back, and gone;
only its public half goes to the service. `keys open` and the exchange of the master key's file work on this
machine's files, as root or as the service's own user.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

import storage
from session_service.app import settings as configuration
from session_service.app.keys import key_sources
from session_service.app.parent import running_parent
from session_service.base import errors
from session_service.base.layout import Layout
from session_service.checkpoints import key_opening
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.client import models
from session_service.client.api import Api

application = typer.Typer(help="Keys of saved files, and the recovery code.", no_args_is_help=True)
people = typer.Typer(help="People, where they leave for ever.", no_args_is_help=True)
Config = Annotated[Path | None, typer.Option("--config", help="The TOML file that `serve` was given.")]
TYPINGS_MAX = 3


def _settings(config: Path | None, state_folder: Path | None) -> configuration.Settings:
    flags: dict[str, Any] = {"state_folder": state_folder} if state_folder is not None else {}
    return configuration.load(config, flags)


@application.command("show")
def show(
    workspace: Annotated[str, typer.Argument(help="Of one workspace; default: of the store.")] = "",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Show the keys in use, and how much lies under each.

    Example: session-service keys show 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    if not workspace:
        _show_store(console.run(lambda api: api.store_keys(), state_folder), json)
        return
    found = console.run(lambda api: api.keys(workspace), state_folder)
    if json:
        console.print_json(found)
        return
    console.out.print(f"Key epoch {found.key_epoch}, under master key {found.master_key_id}.")
    rows = [
        [str(one.key_epoch or "?"), one.key_id, str(one.packs), str(one.entries), _standing(one, found)]
        for one in found.epochs
    ]
    console.table(("EPOCH", "KEY", "PACKS", "ENTRIES", ""), rows, empty="Nothing was saved yet.")


def _standing(one: models.EpochOfKeys, keys: models.Keys) -> str:
    if one.key_epoch == keys.key_epoch:
        return "new objects"
    return "refused to writers" if one.key_epoch < keys.min_key_epoch else ""


def _show_store(found: models.StoreKeys, json: bool) -> None:
    if json:
        console.print_json(found)
        return
    code = (
        f"code {found.recovery_id}"
        if found.recovery_id
        else "none: make one with session-service keys recovery"
    )
    safe = "yes" if found.key_backed_up else "no: session-service backup key, or keys recovery"
    console.facts(
        (
            ("Master key", found.master_key_id),
            ("Recovery", code),
            ("KMS key", found.kms_key),
            ("Survives this machine", safe),
        )
    )
    rows = [
        [
            one.tenant_id,
            f"{one.opened} of {one.keys}",
            str(one.under_master),
            str(one.under_previous),
            str(one.under_recovery),
        ]
        for one in found.tenants
    ]
    columns = ("TENANT", "OPENS", "BY MASTER KEY", "BY THE ONE BEFORE", "BY RECOVERY CODE")
    console.table(columns, rows, empty="Nothing was saved yet.")


@application.command("check")
def check(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Check that every key opens, and outlives this machine.

    Exit status 1 if one does not.

    Example: session-service keys check
    """
    found = console.run(lambda api: api.store_keys(), state_folder)
    wrong = [f"nothing here opens the keys of tenant {tenant}" for tenant in found.refused]
    for one in found.tenants:
        if one.opened < one.keys:
            wrong.append(f"tenant {one.tenant_id}: {one.keys - one.opened} keys do not open")
        if one.under_previous:
            wrong.append(f"tenant {one.tenant_id}: still under the older master key; run keys rewrap")
        if found.recovery_id and one.under_recovery < one.opened:
            wrong.append(f"tenant {one.tenant_id}: the recovery code does not open it; run keys rewrap")
    if not found.key_backed_up:
        wrong.append("the master key exists once only: session-service backup key, or keys recovery")
    if json:
        console.print_json({"ok": not wrong, "findings": wrong, "keys": console.plain(found)})
    else:
        for words in wrong:
            console.out.print(words, markup=False)
        if not wrong:
            console.out.print(f"Every key of {console.many(len(found.tenants), 'tenant')} opens.")
    if wrong:
        raise typer.Exit(1)


@application.command("rotate")
def rotate(
    workspace: Annotated[str, typer.Argument(help="The workspace; left out with --tenants.")] = "",
    leaked: Annotated[
        bool, typer.Option("--leaked", help="Nobody may write under the old key any more.")
    ] = False,
    tenants: Annotated[
        bool,
        typer.Option("--tenants", help="Rotate the tenants' keys, which wrap those of workspaces."),
    ] = False,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Begin a new key epoch of a workspace, or make new tenant keys. Running desktops go on.

    What was written before stays readable under its older key until a repack has moved it.

    Example: session-service keys rotate 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --leaked
    """
    if bool(workspace) == tenants:
        raise errors.BadInput("name a workspace, or give --tenants", field="workspace")
    if tenants:
        _moved(_for_tenants(lambda api, tenant: api.rotate_tenant(tenant), state_folder, "Rotating"), json)
        return
    found = console.run(lambda api: api.rotate_keys(workspace, leaked=leaked), state_folder)
    if json:
        console.print_json(found)
        return
    older = [one for one in found.epochs if one.key_epoch < found.key_epoch]
    packs = console.many(sum(one.packs for one in older), "pack")
    entries = console.many(sum(one.entries for one in older), "entry", "entries")
    console.out.print(f"Key epoch {found.key_epoch}. Older keys hold {packs}, {entries}.")


@application.command("rewrap")
def rewrap(
    new: Annotated[
        bool,
        typer.Option("--new", help="Make a new master key first; the present one goes on opening."),
    ] = False,
    config: Config = None,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Move all secrets to the master key, code and KMS of now.

    Nobody has to stop working, and a run that was cut off is repeated.

    Example: session-service keys rewrap --new
    """
    if new:
        before = console.run(lambda api: api.store_keys(), state_folder)
        if any(one.under_previous for one in before.tenants):
            raise errors.Conflict("The last new master key is not in use everywhere: run keys rewrap first.")
        sources = key_sources(_settings(config, state_folder))
        old, fresh = key_opening.exchange(sources)
        if not json:
            console.out.print(f"Master key {fresh} replaces {old}, which stays at {sources.aside}.")
    _moved(_for_tenants(lambda api, tenant: api.rewrap(tenant), state_folder, "Moving"), json)
    if new and not json:
        console.out.print(
            "Copy the new key to a safe place: session-service backup key. The old one opens copies of the\n"
            "store that were made before; keep it as long as those."
        )


@application.command("recovery")
def recovery(
    yes_typed: Annotated[
        Path | None,
        typer.Option("--yes-typed", help="For scripts: write the code to this new file, do not ask."),
    ] = None,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Make a recovery code for paper.

    With the object store alone it opens every saved file.

    It is shown once. An earlier code opens nothing any more.

    Example: session-service keys recovery
    """
    if json and yes_typed is None:
        raise errors.BadInput("--json goes with --yes-typed", field="json")
    private = secrets.token_bytes(32)
    code = storage.code_of(private)
    if yes_typed is not None:
        _write_new(yes_typed, code)
        typed = console.text_of(yes_typed)
    else:
        _show_code(code)
        typed = ""
    for left in reversed(range(TYPINGS_MAX)):
        typed = typed or str(typer.prompt("Type it back"))
        try:
            if key_opening.read_code(typed) == private:
                break
        except errors.BadInput as exc:
            console.out.print(exc.detail, markup=False)
        typed = ""
        if not left:
            raise errors.BadInput("the code was not typed back; nothing was changed", field="code")
    public = storage.public_half(private)
    console.run(lambda api: api.set_recovery(public), state_folder)
    done = _for_tenants(lambda api, tenant: api.rewrap(tenant), state_folder, "Adding the code")
    if json:
        console.print_json({"recovery_id": storage.recovery_id(public), **console.plain(done)})
        return
    console.out.print(f"Recovery code {storage.recovery_id(public)} opens every tenant from now on.")
    _tell_left(done)


def _show_code(code: str) -> None:
    groups = code.split("-")
    lines = ["  ".join(groups[at : at + 7]) for at in range(0, len(groups), 7)]
    console.out.print("\nWrite this down, and keep it apart from the object store. It is not shown again.\n")
    for line in lines:
        console.out.print(f"    {line}", markup=False)
    console.out.print("")


def _write_new(path: Path, code: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise errors.BadInput(f"{path} cannot be made: {exc.strerror}", field="yes_typed") from exc
    with open(fd, "w", encoding="ascii") as sink:
        sink.write(code + "\n")
        sink.flush()
        os.fsync(sink.fileno())


@application.command("open")
def open_(
    recovery_code_file: Annotated[
        Path | None,
        typer.Option("--recovery-code-file", help="File with the code; default: it is asked."),
    ] = None,
    config: Config = None,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Open the store with the recovery code, without a master key.

    A new master key is made.

    The service must be stopped; the settings must name the object store. Afterwards start the service.

    Example: session-service keys open --recovery-code-file /media/stick/code --config service.toml
    """
    settings = _settings(config, state_folder)
    layout = Layout(settings.state_folder)
    if (pid := running_parent(layout)) is not None:
        raise console.ServiceRuns(f"Process {pid} runs the service.")
    text = console.text_of(recovery_code_file) if recovery_code_file else str(typer.prompt("Recovery code"))
    layout.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    name, done = asyncio.run(
        key_opening.open_by_code(
            key_sources(settings),
            url=settings.store.url or layout.objects.resolve().as_uri(),
            credentials=settings.store.credentials_file,
            private=key_opening.read_code(text),
            cache=layout.cache / "opening",
        )
    )
    if json:
        console.print_json({"master_key": name, **console.plain(done)})
        return
    console.out.print(
        f"Master key {name} opens {console.many(done.tenants, 'tenant')}. "
        "Start the service, then: keys check."
    )
    _tell_left(models.Rewrapped(workspaces=0, made=0, removed=0, left=list(done.left)))


def _for_tenants(
    work: Callable[[Api, str], Awaitable[models.Rewrapped]], state_folder: Path | None, words: str
) -> models.Rewrapped:
    """Do it for one tenant after the other, with a bar on a terminal."""

    async def all_of_them(api: Api) -> models.Rewrapped:
        tenants = [one.tenant_id for one in (await api.store_keys()).tenants]
        done = models.Rewrapped(workspaces=0, made=0, removed=0, left=[])
        with Progress(transient=True, disable=not console.out.is_terminal) as bar:
            task = bar.add_task(words, total=len(tenants))
            for tenant in tenants:
                one = await work(api, tenant)
                done = models.Rewrapped(
                    workspaces=done.workspaces + one.workspaces,
                    made=done.made + one.made,
                    removed=done.removed + one.removed,
                    left=[*done.left, *one.left],
                )
                bar.advance(task)
        return done

    return console.run(all_of_them, state_folder)


def _moved(done: models.Rewrapped, json: bool) -> None:
    if json:
        console.print_json(done)
    else:
        console.out.print(
            f"{console.many(done.workspaces, 'workspace')}: {console.many(done.made, 'slot')} made, "
            f"{console.many(done.removed, 'older one')} removed."
        )
        _tell_left(done)
    if done.left:
        raise typer.Exit(1)


def _tell_left(done: models.Rewrapped) -> None:
    for words in done.left:
        console.out.print(f"Left: {words}", markup=False)


@people.command("erase")
def erase(
    name: str,
    reason: Annotated[str, typer.Option(help="Kept in the tombstones and in the audit records.")],
    end_sessions: Annotated[
        bool, typer.Option("--end-sessions", help="Save and close this person's desktops first.")
    ] = False,
    confirm: Annotated[str, typer.Option("--confirm", help="The name again; default: it is asked for.")] = "",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Erase all that was saved of a person, for ever.

    Keys go first, then objects; signed receipts are left.

    Refused while a desktop of this person runs. Example: session-service people erase ada --reason "asked"
    """
    typed = confirm or str(typer.prompt(f"This cannot be undone. Type {name} again"))

    async def work(api: Api) -> models.Erasure:
        user = await _named(api, name)
        return await api.erase_person(user.id, name=typed, reason=reason, end_sessions=end_sessions)

    _show_erasure(console.run(work, state_folder), json)


@people.command("erasure")
def erasure(name: str, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Show the receipts of an erased person, by the account's id.

    Example: session-service people erasure 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """

    async def work(api: Api) -> models.Erasure:
        return await api.erasure((await _named(api, name)).id)

    _show_erasure(console.run(work, state_folder), json)


def _show_erasure(found: models.Erasure, json: bool) -> None:
    if json:
        console.print_json(found)
        return
    state = "Erased" if found.finished else "Not finished; run it again"
    console.out.print(
        f"{state}: account {found.user_id}, by {found.actor}, {console.moment(found.at)}.", markup=False
    )
    for one in found.workspaces:
        versions = "unknown to the store" if one.versions is None else str(one.versions)
        console.out.print(
            f"Workspace {one.workspace_id}: {console.many(one.slots, 'key')}, "
            f"{console.many(one.objects, 'object')}, {console.size(one.bytes)}; "
            f"older versions: {versions}; forgotten by {console.many(one.processes, 'worker')}.",
            markup=False,
        )
        for left in what_is_left(one):
            console.out.print(left, markup=False)
        console.out.print(f"Receipt: {one.receipt}", markup=False)


def what_is_left(one: models.Erased) -> list[str]:
    """Return what an erasure could not do, with what to do about it."""
    found: list[str] = []
    if one.second == "waits":
        found.append(
            "Left: the second store did not answer. It is erased there as soon as it does ('replica status' "
            "says so); run this again for a receipt that says it."
        )
    if one.locked:
        until = "a hold on them is lifted" if one.locked_until is None else console.moment(one.locked_until)
        found.append(
            f"Left: the bucket locks {one.locked} versions, {one.locked_keys} of them keys, until {until}. "
            "Nobody reads them through this service; run this again then."
        )
    if one.locked_keys:
        found.append(
            "Until then who has the bucket and the master key can read these files. To end that sooner, "
            "destroy the workspace's key in the KMS, if it has one, or have the lock of its k/ lifted."
        )
    return found


async def _named(api: Api, name: str) -> models.User:
    for one in await api.users():
        if one.name.casefold() == name.casefold() or one.id == name:
            return one
    raise errors.NotFound(f"there is no account {name}")

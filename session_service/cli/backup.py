"""`backup`: copies of the registry and of the master key, and the way back. `audit`: check the chain.

Checkpoints need no backup of their own here: they lie in the object store. The two copies, kept apart
from it, are what a burned machine
needs: the key opens the files, the registry knows the accounts.
"""

import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from session_service.app.parent import running_parent
from session_service.base import errors
from session_service.checkpoints import keyring
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.client.api import Api
from session_service.registry import backups

application = typer.Typer(
    help="Copy the registry and the master key, and bring them back.", no_args_is_help=True
)
audit = typer.Typer(help="The audit log.", no_args_is_help=True)
To = Annotated[Path, typer.Option("--to", help="A new file; an existing one is never overwritten.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="The master key's file, where store.master_key_file names one."),
]


def _new_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise errors.BadInput(f"{path} cannot be made: {exc.strerror}", field="to") from exc


@application.command("registry")
def registry(to: To, state_folder: StateFolder = None) -> None:
    """Copy the registry while the service works.

    Example: session-service backup registry --to /mnt/safe/registry-2026-11-25.sqlite
    """

    async def fetch(api: Api) -> int:
        fd, total = _new_file(to), 0
        try:
            async for piece in api.registry_backup():
                total += os.write(fd, piece)
            os.fsync(fd)
        finally:
            os.close(fd)
        return total

    total = console.run(fetch, state_folder)
    records = backups.check_backup(to)
    console.out.print(
        f"{console.size(total)} to {to}: whole, with {records:,} audit records in an unbroken chain."
    )


@application.command("key")
def key(to: To, state_folder: StateFolder = None, key_file: KeyFile = None) -> None:
    """Copy the master key to a safe place outside of this machine. Without it no saved file can be read
    again.

    Example: session-service backup key --to /media/stick/session-service-master.key
    """
    path = key_file or console.layout_of(state_folder).keys / "master.key"
    found = keyring.read(path)
    if found is None:
        raise errors.NotFound(f"there is no master key at {path} yet: it is made with the first saved file")
    fd = _new_file(to)
    with open(fd, "wb") as sink:
        sink.write(found.hex().encode() + b"\n")
        sink.flush()
        os.fsync(sink.fileno())
    if keyring.read(to) != found:
        raise errors.BadInput(f"{to} reads back differently; do not rely on it", field="to")
    keyring.note_backup(path, found, datetime.now(UTC).isoformat(timespec="seconds"))
    console.out.print(
        f"Key {keyring.name_of(found)} is copied to {to} and was read back. Keep it apart from the object\n"
        "store: together they open every file."
    )


@application.command("restore")
def restore(
    source: Annotated[Path, typer.Argument(help="A copy made by `backup registry`.")],
    state_folder: StateFolder = None,
) -> None:
    """Put a copy of the registry in place. The service must be stopped; the present file is kept beside it.

    Running desktops are not harmed: each becomes held with a full hold, and nothing is ended before it
    was looked at.

    Example: session-service backup restore /mnt/safe/registry-2026-11-25.sqlite
    """
    layout = console.layout_of(state_folder)
    if (pid := running_parent(layout)) is not None:
        raise console.ServiceRuns(f"Process {pid} runs the service.")
    if not layout.registry.is_dir():
        raise errors.BadInput(
            f"{layout.registry} is not there: name the service's own folder with --state-folder; on a new "
            "machine start the service there once and stop it, then restore."
        )
    target = layout.registry / "registry.sqlite"
    owner = layout.registry.stat()
    mark = backups.restore(
        backup=source,
        registry=target,
        system_id=secrets.token_hex(16),
        actor=f"operator:uid {os.getuid()}",
        at_ms=time.time_ns() // 1_000_000,
    )
    if os.geteuid() == 0:
        for file in layout.registry.iterdir():
            os.chown(file, owner.st_uid, owner.st_gid)
    console.out.print(f"Restored; this is registry epoch {mark.epoch}. Start the service with ./deploy/up.")


@application.command("check")
def check(source: Annotated[Path, typer.Argument(help="A copy made by `backup registry`.")]) -> None:
    """Prove that a copy of the registry is whole.

    Example: session-service backup check /mnt/safe/registry-2026-11-25.sqlite
    """
    console.out.print(f"Whole, with {backups.check_backup(source):,} audit records in an unbroken chain.")


@audit.command("verify")
def verify(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Recompute the hash chain over every audit record. Exit status 1 names the first bad one.

    Example: session-service audit verify
    """
    found = console.run(lambda api: api.verify_audit(), state_folder)
    if json:
        console.print_json(found)
    else:
        console.out.print(f"{console.many(found.records, 'record')}, unbroken.")


@audit.command("list")
def list_(
    state_folder: StateFolder = None,
    json: AsJson = False,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    session: Annotated[str, typer.Option(help="Only those of one session.")] = "",
) -> None:
    """List audit records, newest first.

    Example: session-service audit list --limit 20
    """
    found = console.run(lambda api: api.events(session_id=session or None, limit=limit), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [
        [str(one.seq), console.moment(one.at), one.kind, one.actor, one.session_id or ""] for one in found
    ]
    console.table(("NO", "AT", "WHAT", "WHO", "SESSION"), rows, empty="No record.")

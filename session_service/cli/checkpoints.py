"""`checkpoints`: list, look into, fetch from, verify. None of it needs a desktop."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from session_service.base import errors
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.client.api import Api

application = typer.Typer(help="Browse saved files and fetch them, without a desktop.", no_args_is_help=True)
WorkspaceId = Annotated[
    str, typer.Argument(metavar="WORKSPACE", help="The workspace's id, as `checkpoints workspaces` shows it.")
]
Seq = Annotated[int, typer.Argument(metavar="CHECKPOINT", help="The checkpoint's number.")]


@application.command()
def workspaces(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """List workspaces and when each was last saved.

    Example: session-service checkpoints workspaces
    """
    found = console.run(lambda api: api.workspaces(), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [[one.id, one.name, console.moment(one.saved_as_of), str(one.saved_seq or "")] for one in found]
    console.table(("WORKSPACE", "NAME", "SAVED AS OF", "CHECKPOINT"), rows, empty="No workspace.")


@application.command("list")
def list_(workspace: WorkspaceId, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """List the checkpoints of a workspace, newest first.

    Example: session-service checkpoints list 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    found = console.run(lambda api: api.checkpoints(workspace), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [
        [
            str(one.seq),
            console.moment(one.saved_as_of),
            one.reason,
            f"{one.entries:,}",
            console.size(one.bytes),
            "complete" if one.complete else f"{one.unreadable} unreadable",
        ]
        for one in found
    ]
    columns = ("CHECKPOINT", "SAVED AS OF", "WHY", "ENTRIES", "SIZE", "STATE")
    console.table(columns, rows, empty="Nothing was saved yet.")


@application.command()
def files(
    workspace: WorkspaceId,
    seq: Seq,
    path: Annotated[str, typer.Argument(help="A folder; default: the home itself.")] = "",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Show a folder as it was at a checkpoint.

    Example: session-service checkpoints files 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 Documents
    """
    found = console.run(lambda api: api.files(workspace, seq, path=path), state_folder)
    if json:
        console.print_json(found)
        return
    rows = [
        [
            one.mode,
            console.size(one.size),
            console.moment(one.modified_at),
            one.name + ("/" * (one.kind == "folder")),
        ]
        for one in found
    ]
    console.table(("MODE", "SIZE", "CHANGED", "NAME"), rows, empty="This folder is empty.")


@application.command()
def get(
    workspace: WorkspaceId,
    seq: Seq,
    path: Annotated[
        str, typer.Argument(help="A file; with --zip a folder, or nothing for the whole home.")
    ] = "",
    to: Annotated[Path | None, typer.Option("--to", help="A new file; default: standard output.")] = None,
    zip_: Annotated[bool, typer.Option("--zip", help="Fetch a folder as a zip.")] = False,
    state_folder: StateFolder = None,
) -> None:
    """Fetch one file, or a folder as a zip.

    Example: session-service checkpoints get 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 Documents --zip --to documents.zip
    """
    if to is not None and not console.may_write_here(to):
        raise errors.BadInput(f"{to} exists, or its folder cannot be written", field="to")

    async def fetch(api: Api) -> int:
        pieces = api.archive(workspace, seq, path=path) if zip_ else api.content(workspace, seq, path=path)
        total = 0
        sink = to.open("xb") if to is not None else sys.stdout.buffer
        async for piece in pieces:
            sink.write(piece)
            total += len(piece)
        sink.flush()
        if to is not None:
            sink.close()
        return total

    total = console.run(fetch, state_folder)
    if to is not None:
        console.out.print(f"{console.size(total)} to {to}")


@application.command()
def verify(
    workspace: WorkspaceId,
    level: Annotated[str, typer.Option(help="structure, sample or full (reads everything).")] = "structure",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Check a workspace's repository: chain, structure, and with `full` every byte. Exit status 1 for any
    fault.

    Example: session-service checkpoints verify 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --level full
    """
    found = console.run(lambda api: api.verify(workspace, level=level), state_folder)
    if json:
        console.print_json(found)
    elif found.faults:
        for fault in found.faults:
            console.out.print(fault, markup=False)
    else:
        console.out.print("No fault was found.")
    if found.faults:
        sys.exit(1)

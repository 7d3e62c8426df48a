"""`checkpoints`: list, look into, fetch from, restore, verify. Only a restore into a desktop needs one."""

import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from session_service.base import errors
from session_service.cli import console, moving, unpacking
from session_service.cli.console import AsJson, StateFolder
from session_service.cli.harmless import in_a_cell
from session_service.cli.incomplete import INCOMPLETE, REPAIR, Missing, Tail
from session_service.client import models
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
            state_words(one),
        ]
        for one in found
    ]
    columns = ("CHECKPOINT", "SAVED AS OF", "WHY", "ENTRIES", "SIZE", "STATE")
    console.table(columns, rows, empty="Nothing was saved yet.")


def state_words(one: models.Checkpoint) -> str:
    """Return whether it is whole, and what else there is to know of it."""
    told = ["complete" if one.complete else f"{one.unreadable} unreadable"]
    told += [f"{count} {word}" for count, word in ((one.fuzzy, "fuzzy"), (one.skipped, "skipped")) if count]
    return ", ".join([*told, *(["pinned"] if one.pinned else [])])


@application.command()
def files(
    workspace: WorkspaceId,
    seq: Seq,
    path: Annotated[str, typer.Argument(help="A folder; default: the home itself.")] = "",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Entries at most; default: all.", show_default=False)
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Only names that begin so; capitals count.", show_default=False)
    ] = "",
    state_folder: StateFolder = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document for programs, an entry a line.")
    ] = False,
) -> None:
    """Show a folder as it was at a checkpoint, by name.

    It is shown as it is read: a million entries take no memory.

    Example: session-service checkpoints files 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 Documents --prefix 2026
    """

    async def show_all(api: Api) -> None:
        seen = 0
        items = console.JsonItems() if json else None
        # One more than is shown tells whether there is more.
        most = None if limit is None else limit + 1
        async for page in api.file_pages(workspace, seq, path=path, prefix=prefix, limit=most):
            if items is None and not seen and page:
                console.out.print(_file_line("MODE", "SIZE", "CHANGED", "NAME"), style="bold")
            for one in page if limit is None else page[: limit - seen]:
                if items is not None:
                    items.item(one)
                else:
                    print(_file_cells(one))
            seen += len(page)
        if items is not None:
            items.end()
        elif not seen:
            console.out.print("No name here begins so." if prefix else "This folder is empty.")
        if limit is not None and seen > limit:
            console.aside.print(f"There is more than these {limit:,}.")

    console.run(show_all, state_folder)


def _file_cells(one: models.File) -> str:
    name = one.name + ("/" * (one.kind == "folder"))
    return _file_line(one.mode, console.size(one.size), console.moment(one.modified_at), name)


def _file_line(mode: str, size: str, changed: str, name: str) -> str:
    """Return a line of a table whose rows come one by one, so that nothing is known of the widest."""
    return f"{mode:<4}  {size:>7}  {changed:<19}  {in_a_cell(name)}"


@application.command()
def show(workspace: WorkspaceId, seq: Seq, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Show one checkpoint.

    Example: session-service checkpoints show 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12
    """
    found = console.run(lambda api: _one(api, workspace, seq), state_folder)
    if json:
        console.print_json(found)
        return
    console.facts(
        (
            ("Checkpoint", str(found.seq)),
            ("Saved as of", console.moment(found.saved_as_of)),
            ("Why", found.reason),
            ("Entries", f"{found.entries:,}"),
            ("Size", console.size(found.bytes)),
            ("State", state_words(found)),
        )
    )
    for one in found.bad_paths:
        why = f": {one.error}" if one.error else ""
        console.out.print(f"  {one.grade:<10}  {in_a_cell(one.path)}{why}", markup=False)


@application.command()
def get(
    workspace: WorkspaceId,
    seq: Seq,
    path: Annotated[
        str, typer.Argument(help="A file; with --zip or --tar a folder, or nothing for the whole home.")
    ] = "",
    to: Annotated[Path | None, typer.Option("--to", help="A new file; default: standard output.")] = None,
    zip_: Annotated[bool, typer.Option("--zip", help="Fetch a folder as a zip.")] = False,
    tar: Annotated[
        bool, typer.Option("--tar", help="Fetch a folder as a tar, links and times kept.")
    ] = False,
    state_folder: StateFolder = None,
    json: Annotated[bool, typer.Option("--json", help="Progress as JSON lines on standard error.")] = False,
) -> None:
    """Fetch one file, or a folder as a zip or a tar.

    What needs a damaged object of the store is not in an archive but in a list, its last file; then the exit
    status is 3.

    Example: session-service checkpoints get 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 Documents --zip --to documents.zip
    """
    if zip_ and tar:
        raise errors.BadInput("Choose one of --zip and --tar.", field="tar")
    draft = None if to is None else to.with_name(f"{to.name}.part")
    for place in (to, draft):
        if place is not None and (why := console.why_not_here(place)):
            raise errors.BadInput(why, field="to")

    async def fetch(api: Api) -> int:
        packed = zip_ or tar
        pieces = (
            api.archive(workspace, seq, path=path, kind="tar" if tar else "zip")
            if packed
            else api.content(workspace, seq, path=path)
        )
        whole = (await _one(api, workspace, seq)).bytes if packed and not path else None
        total = 0
        piece = await anext(pieces, None)  # what cannot be given leaves no file
        with contextlib.ExitStack() as files, moving.shown("fetch", total=whole, as_json=json) as moved:
            sink = sys.stdout.buffer if draft is None else files.enter_context(draft.open("xb"))
            while piece is not None:
                sink.write(piece)
                tail.take(piece)
                total += len(piece)
                moved(len(piece))
                piece = await anext(pieces, None)
            sink.flush()
        if to is not None and draft is not None:
            draft.rename(to)  # half a file never has the name
        return total

    tail = Tail()
    total = console.run(fetch, state_folder)
    if to is not None and not json:
        console.out.print(f"{console.size(total)} to {to}")
    if (zip_ and tail.zip_is_incomplete()) or (tar and tail.missing_of_tar() is not None):
        words = f"Incomplete: the last file in it lists what is missing. {REPAIR}"
        typer.echo(words, err=True)  # the archive itself may go to standard output
        sys.exit(INCOMPLETE)


@application.command()
def restore(
    workspace: WorkspaceId,
    seq: Seq,
    path: Annotated[str, typer.Argument(help="A file or folder; nothing for the whole home.")] = "",
    to: Annotated[Path | None, typer.Option("--to", help="A new folder of this machine.")] = None,
    session: Annotated[
        str, typer.Option("--session", help="Into the folder Restored of this running desktop.")
    ] = "",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Bring files back; nothing that is there is replaced.

    Into a new folder of this machine, or beside what is there in a running desktop.

    What needs a damaged object of the store is left out and named; then the exit status is 3.

    Example: session-service checkpoints restore 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 Documents --to ./back
    """
    if (to is None) == (not session):
        raise errors.BadInput("Say where to: --to FOLDER, or --session SESSION.", field="to")
    if to is None:
        _beside(console.run(lambda api: api.restore(session, seq=seq, path=path), state_folder), json)
        return
    if why := console.why_not_here(to):
        raise errors.BadInput(why, field="to")
    _apart(to, console.run(lambda api: _unpacked(api, workspace, seq, path, to, json), state_folder), json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What a restore into a folder of this machine made: bytes that came, and what is not as it was."""

    total: int
    missing: list[Missing]
    not_made: list[str]
    differs: list[models.Differs]


def _apart(to: Path, made: _Made, as_json: bool) -> None:
    """Tell of files that were put into a folder, and end with the status of what is incomplete."""
    if as_json:
        told = {
            "path": str(to),
            "bytes": made.total,
            "complete": not made.missing,
            "left_out": msgspec.to_builtins(made.missing),
            "not_made": made.not_made,
            "differs": msgspec.to_builtins(made.differs),
        }
        console.print_json(told)
    else:
        console.out.print(f"{console.size(made.total)} to {to}", markup=False)
        _changed(made.not_made, made.differs)
        for one in made.missing:
            _missed(one, whole=not one.path.endswith("/"))
        if made.missing:
            console.out.print(f"Incomplete. {REPAIR}", markup=False)
    if made.missing:
        sys.exit(INCOMPLETE)


def _beside(made: models.Restored, as_json: bool) -> None:
    """Tell of files that were put into a running desktop, and end with the status of what is incomplete."""
    if as_json:
        console.print_json(made)
    else:
        console.out.print(
            f"{console.many(made.entries, 'entry', 'entries')}, {console.size(made.bytes)}, in {made.path}",
            markup=False,
        )
        _changed(made.not_made, made.differs)
        for one in made.left_out:
            _missed(one, whole=one.kind != "folder")
        if not made.complete:
            console.out.print(f"Incomplete: {made.left_out_count:,} in all. {REPAIR}", markup=False)
    if not made.complete:
        sys.exit(INCOMPLETE)


def _changed(not_made: list[str], differs: list[models.Differs]) -> None:
    """Tell of what could not be made again, or not quite."""
    for name in not_made:
        console.out.print(f"not made again: {name}", markup=False)
    for odd in differs:
        console.out.print(f"differs: {odd.path} ({odd.what})", markup=False)


def _missed(one: Missing | models.LeftOut, *, whole: bool) -> None:
    """Tell of a file that is left out as a whole, or of a folder of which a part is."""
    what = "left out" if whole else "not whole"
    console.out.print(f"{what}: {one.path or '/'} (needs {one.object}: {one.reason})", markup=False)


async def _one(api: Api, workspace: str, seq: int) -> models.Checkpoint:
    for found in await api.checkpoints(workspace):
        if found.seq == seq:
            return found
    raise errors.NotFound(f"there is no checkpoint {seq}")


async def _unpacked(api: Api, workspace: str, seq: int, path: str, to: Path, as_json: bool) -> _Made:
    """Restore into a new folder, which gets its name when it is there: half a file never stands below it.

    A large file may turn out to be damaged in its middle, which ends the download. Then all is asked for once
    more, and checked before it is sent.
    """
    draft = to.with_name(f"{to.name}.part")
    if why := console.why_not_here(draft):
        raise errors.BadInput(why, field="to")
    try:
        found = await _unpacked_into(api, workspace, seq, path, draft, as_json, checked=False)
    except errors.PartUnavailable:
        if not draft.exists():
            raise
        try:
            shutil.rmtree(draft)
        except (OSError, RecursionError) as exc:  # more levels than Python has frames or descriptors for
            raise unpacking.FolderRefused(f"{draft} is half made and cannot be removed.") from exc
        found = await _unpacked_into(api, workspace, seq, path, draft, as_json, checked=True)
    draft.rename(to)
    return found


async def _unpacked_into(
    api: Api, workspace: str, seq: int, path: str, to: Path, as_json: bool, *, checked: bool
) -> _Made:
    """Make what a tar from the service holds in a new folder."""
    whole = None if path else (await _one(api, workspace, seq)).bytes
    tail = Tail()
    total = 0

    def seen(piece: bytes) -> None:
        nonlocal total
        tail.take(piece)
        total += len(piece)
        moved(len(piece))

    with moving.shown("restore", total=whole, as_json=as_json) as moved:
        pieces = api.archive(workspace, seq, path=path, kind="tar", checked=checked)
        made = await unpacking.unpacked(pieces, to, seen)
    listed = tail.missing_of_tar()
    return _Made(
        total=total,
        missing=[] if listed is None else listed[1],
        not_made=unpacking.not_made(made),
        differs=unpacking.differs(made),
    )


@application.command()
def verify(
    workspace: WorkspaceId,
    level: Annotated[str, typer.Option(help="structure, sample or full (reads everything).")] = "structure",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Check a workspace's repository, by `full` every byte of it.

    Chain and structure are checked at every level. Exit status 1 for any fault.

    Example: session-service checkpoints verify 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --level full
    """
    with moving.stages(as_json=json) as seen:
        found = console.run(lambda api: api.verify(workspace, level=level, on_progress=seen), state_folder)
    if json:
        console.print_json(found)
    elif found.faults:
        for fault in found.faults:
            console.out.print(fault, markup=False)
    else:
        console.out.print("No fault was found.")
    if found.faults:
        sys.exit(1)

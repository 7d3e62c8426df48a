"""`checkpoints forget | keep | gc | diff | keys | erase`: administrators' work on saved files.

Not the rules of what must stay: the service refuses, and says why.
"""

import sys
from typing import Annotated, Final

import typer

from session_service.base import errors
from session_service.cli import checkpoints, console, moving
from session_service.cli.checkpoints import Seq, WorkspaceId
from session_service.cli.console import AsJson, StateFolder
from session_service.cli.incomplete import INCOMPLETE
from session_service.cli.keys import what_is_left

application: Final = checkpoints.application
"""The same group of commands, with those of this module added to it."""
Reason = Annotated[str, typer.Option(help="Kept in the log and in the audit records.")]


@application.command()
def forget(
    workspace: WorkspaceId,
    seqs: Annotated[list[int], typer.Argument(metavar="CHECKPOINT...", help="The checkpoints' numbers.")],
    reason: Reason = "",
    state_folder: StateFolder = None,
) -> None:
    """Forget checkpoints; later runs of gc free their space. The newest and pinned ones stay.

    Example: session-service checkpoints forget 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 13 --reason "user asked"
    """
    console.run(lambda api: api.forget(workspace, seqs, reason=reason), state_folder)
    console.out.print(f"Forgotten: {', '.join(map(str, seqs))}.")


@application.command()
def keep(
    workspace: WorkspaceId,
    seq: Seq,
    release: Annotated[bool, typer.Option("--release", help="Let the policy decide about it again.")] = False,
    reason: Reason = "",
    state_folder: StateFolder = None,
) -> None:
    """Pin a checkpoint, so that no policy forgets it.

    Example: session-service checkpoints keep 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12
    """
    console.run(lambda api: api.keep(workspace, seq, pin=not release, reason=reason), state_folder)
    console.out.print(f"Checkpoint {seq} is {'not pinned any more' if release else 'pinned'}.")


@application.command()
def gc(
    workspace: WorkspaceId,
    forget_by_policy: Annotated[
        bool, typer.Option("--forget/--no-forget", help="Forget by the retention policy first.")
    ] = True,
    renew_index: Annotated[
        bool,
        typer.Option("--renew-index", help="First give up an index that is said to contradict the log."),
    ] = False,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Free what no kept checkpoint needs, now.

    Else it is done within the hour. What this run gives up is deleted by the next one.

    Example: session-service checkpoints gc 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    with moving.stages(as_json=json) as seen:
        done = console.run(
            lambda api: api.collect(
                workspace, forget=forget_by_policy, renew_index=renew_index, on_progress=seen
            ),
            state_folder,
        )
    if json:
        console.print_json(done)
        return
    if done.refused:
        console.out.print(f"Nothing was collected: {done.refused}", markup=False)
        return
    console.out.print(f"Forgotten: {console.many(len(done.forgotten), 'checkpoint')}.")
    console.out.print(
        f"Deleted: {console.many(done.deleted_objects, 'object')}, {console.size(done.deleted_bytes)}."
    )
    console.out.print(
        f"Given up: {console.many(done.given_up_packs, 'pack')}, {console.size(done.given_up_bytes)}."
    )
    if done.repacked_packs:
        console.out.print(
            f"Repacked: {console.many(done.repacked_packs, 'pack')} of which little was needed."
        )
    if done.folded_entries:
        console.out.print(f"Folded: {console.many(done.folded_entries, 'entry', 'entries')} of the log.")


@application.command()
def retention(workspace: WorkspaceId, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Show which checkpoints the settings `retention.*` keep.

    Example: session-service checkpoints retention 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    rule = console.run(lambda api: api.retention(workspace), state_folder)
    if json:
        console.print_json(rule)
        return
    console.out.print(f"The newest {rule.keep_last}, and all of the last {rule.keep_within_s:g} s.")
    console.out.print(
        f"The newest of each of {rule.keep_hourly} hours, {rule.keep_daily} days, {rule.keep_weekly} weeks "
        f"and {rule.keep_monthly} months that have one."
    )


@application.command(name="step-over")
def step_over(
    workspace: WorkspaceId,
    hashes: Annotated[
        list[str] | None, typer.Option("--hash", help="The hash of an object, as it is shown without this.")
    ] = None,
    reason: Reason = "",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Show what jams the end of a log, or step over it.

    It is stepped over with the hash of each that was shown.

    Example: session-service checkpoints step-over 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    found = console.run(lambda api: api.foreign_objects(workspace), state_folder).items
    if not hashes:
        if json:
            console.print_json(found)
            return
        rows = [[str(one.seq), console.size(one.size), one.hash, one.why] for one in found]
        console.table(("NUMBER", "SIZE", "HASH", "WHY"), rows, empty="The log is whole.")
        return
    if not reason:
        raise errors.BadInput("--reason is needed: it stands in the audit records", field="reason")
    if sorted(hashes) != sorted(one.hash for one in found):
        raise errors.BadInput("give --hash for each object that is shown, and for no other", field="hash")
    objects = [(one.seq, one.hash) for one in found]
    done = console.run(lambda api: api.step_over(workspace, objects, reason=reason), state_folder)
    if json:
        console.print_json(done)
        return
    console.out.print(f"Entry {done.seq} says that they do not count. The log goes on behind it.")


@application.command()
def diff(
    workspace: WorkspaceId,
    before: Annotated[int, typer.Argument(metavar="BEFORE", help="The earlier checkpoint's number.")],
    after: Annotated[int, typer.Argument(metavar="AFTER", help="The later checkpoint's number.")],
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Show which paths differ between two checkpoints.

    A folder that cannot be compared because an object is damaged is named; then the exit status is 3.

    Example: session-service checkpoints diff 01J9Z3M4N5P6Q7R8S9T0V1W2X3 12 15
    """
    found = console.run(lambda api: api.diff(workspace, after, against=before), state_folder)
    if json:
        console.print_json(found)
        if found.left_out:
            sys.exit(INCOMPLETE)
        return
    rows = [[one.what, _size(one.size_before), _size(one.size_after), one.path] for one in found.changes]
    console.table(("CHANGE", "SIZE BEFORE", "SIZE AFTER", "PATH"), rows, empty="Nothing differs.")
    if found.more:
        console.out.print("More paths differ than are shown.")
    for one in found.left_out:
        words = f"not compared to its end: {one.path or '/'} (needs {one.object}: {one.reason})"
        console.out.print(words, markup=False)
    if found.left_out:
        sys.exit(INCOMPLETE)


@application.command()
def keys(
    workspace: WorkspaceId,
    rotate: Annotated[bool, typer.Option("--rotate", help="Begin a new key epoch.")] = False,
    leaked: Annotated[
        bool, typer.Option("--leaked", help="With --rotate: nobody may write under the old key any more.")
    ] = False,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Show the keys of a workspace by name, or begin a new epoch.

    Example: session-service checkpoints keys 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --rotate
    """
    if leaked and not rotate:
        raise errors.BadInput("--leaked goes with --rotate", field="leaked")
    found = console.run(
        lambda api: api.rotate_keys(workspace, leaked=leaked) if rotate else api.keys(workspace), state_folder
    )
    if json:
        console.print_json(found)
        return
    console.out.print(f"Key epoch {found.key_epoch}, under master key {found.master_key_id}.")


@application.command()
def erase(
    workspace: WorkspaceId,
    name: Annotated[str, typer.Option(help="The workspace's name, to be sure.")],
    reason: Annotated[str, typer.Option(help="Kept in the tombstone and in the audit records.")],
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Erase what was saved of a workspace, for ever.

    Its keys go first, then its objects.

    Example: session-service checkpoints erase 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --name default --reason "asked"
    """
    done = console.run(lambda api: api.erase(workspace, name=name, reason=reason), state_folder)
    if json:
        console.print_json(done)
        return
    state = "Erased" if done.finished else "Not finished"
    console.out.print(
        f"{state}: {console.many(done.slots, 'key')}, {console.many(done.objects, 'object')}, "
        f"{console.size(done.bytes)}."
    )
    for left in what_is_left(done):
        console.out.print(left, markup=False)
    console.out.print(f"Receipt: {done.receipt}", markup=False)


def _size(value: int | None) -> str:
    return "" if value is None else console.size(value)

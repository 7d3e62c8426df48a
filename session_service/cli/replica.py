"""`replica status | sync | verify | repair | promote`: the second store, for operators and administrators.

Not copying: the service does that by itself. `promote` is for the day on which the main store is gone for
good; its page in docs/running.md is worth reading first.
"""

import sys
from typing import Annotated, Final

import typer

from session_service.cli import console
from session_service.cli.checkpoints import WorkspaceId
from session_service.cli.console import AsJson, StateFolder

application: Final = typer.Typer(
    no_args_is_help=True, help="The second store: how far it is, check, repair, promote."
)


@application.command()
def status(state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Show how far the second store is behind. Exit status 1 if it is not in step.

    Example: session-service replica status
    """
    found = console.run(lambda api: api.second_store(), state_folder)
    if json:
        console.print_json(found)
    elif not found.configured:
        console.out.print("There is no second store: set store.second_url.")
    else:
        answer = "usable" if found.usable else f"not usable: {found.error}"
        console.out.print(f"{found.url}: {answer}", markup=False)
        rows = [
            [
                one.workspace_id,
                one.state,
                str(one.behind_entries),
                console.size(one.behind_bytes),
                f"{one.behind_seconds:.0f} s",
                "; ".join(one.faults) or one.error,
            ]
            for one in found.workspaces
        ]
        console.table(
            ("WORKSPACE", "STATE", "ENTRIES", "BYTES", "BEHIND", "WHY"), rows, empty="No workspace."
        )
        for one in found.spared:
            console.out.print(f"read from the second store: {one.object}: {one.what}", markup=False)
    if found.configured and not found.in_step:
        sys.exit(1)


@application.command("sync")
def compare(state_folder: StateFolder = None) -> None:
    """Compare both stores now, and copy whatever is missing.

    Example: session-service replica sync
    """
    console.run(lambda api: api.compare_second_store(), state_folder)
    console.out.print("The comparison begins; `session-service replica status` shows how far it is.")


@application.command()
def verify(
    workspace: WorkspaceId,
    level: Annotated[str, typer.Option(help="structure, sample or full (reads every byte).")] = "structure",
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Check a workspace's second copy as if it were the only one. Exit status 1 when something is wrong.

    Example: session-service replica verify 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --level full
    """
    found = console.run(lambda api: api.verify_second_copy(workspace, level=level), state_folder)
    if json:
        console.print_json(found)
    else:
        newest = found.newest_checkpoint
        told = f"{newest}, saved as of {found.newest_saved_as_of}" if newest is not None else "none"
        console.out.print(
            f"{console.many(found.entries, 'entry', 'entries')}; newest complete checkpoint: {told}."
        )
        for fault in found.faults:
            console.out.print(fault, markup=False)
    if found.faults:
        sys.exit(1)


@application.command()
def repair(workspace: WorkspaceId, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Bring back what the main store lacks, from the second one.

    Example: session-service replica repair 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    done = console.run(lambda api: api.repair(workspace), state_folder)
    if json:
        console.print_json(done)
    else:
        console.out.print(f"Brought back: {console.many(len(done.objects), 'object')}.")
        for one in done.left:
            console.out.print(f"left: {one}", markup=False)
    if done.left:
        sys.exit(1)


@application.command()
def promote(
    url: Annotated[str, typer.Option(help="The second store's address, to be sure.")],
    reason: Annotated[str, typer.Option(help="Kept on the store and in the audit records.")],
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Make the second store the main one, for good.

    The old one is refused from then on.

    Example: session-service replica promote --url s3://copies/desks --reason "the first store burned"
    """
    done = console.run(lambda api: api.promote_second_store(url=url, reason=reason), state_folder)
    if json:
        console.print_json(done)
        return
    console.out.print(f"{done.url} is the main store now.", markup=False)
    console.out.print("Set store.url to it, store.second_url to a new place or to nothing, and start again.")

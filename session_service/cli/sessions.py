"""`sessions`: list, show, explain, start, save, disconnect, extend, end."""

from typing import Annotated

import typer

from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.client import models
from session_service.client.api import Api

application = typer.Typer(help="Look at sessions and act on them.", no_args_is_help=True)
SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="The session's id, as `sessions list` shows it.")
]
Reason = Annotated[str, typer.Option(help="Why; it stands in the audit log.")]


def _row(one: models.Session) -> list[str]:
    return [
        one.id,
        one.state if one.outcome is None else one.outcome,
        f"{one.user.name}/{one.workspace.name}",
        console.remaining(one.hold_remaining_s),
        one.loss_cause or "",
        console.moment(one.saved_as_of),
        "" if one.state == "closed" else console.size(one.pending_bytes),
    ]


@application.command("list")
def list_(
    state_folder: StateFolder = None,
    json: AsJson = False,
    all_: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
) -> None:
    """List open sessions, newest first.

    Example: session-service sessions list --all --json
    """
    found = console.run(lambda api: api.sessions(open_only=not all_), state_folder)
    if json:
        console.print_json(found)
        return
    columns = ("SESSION", "STATE", "WHO", "HOLD LEFT", "CAUSE", "SAVED AS OF", "PENDING")
    console.table(columns, [_row(one) for one in found], empty="No session is open.")


@application.command()
def show(session: SessionId, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Show one session: state, what remains, what is saved.

    Example: session-service sessions show 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    one = console.run(lambda api: api.session(session), state_folder)
    if json:
        console.print_json(one)
        return
    step = f"{one.close_step or ''} {one.step_error}".strip()
    console.facts(
        [
            ("session", one.id),
            ("who", f"{one.user.name}/{one.workspace.name}"),
            ("state", one.state if one.outcome is None else f"{one.state}, {one.outcome}"),
            ("hold left", console.remaining(one.hold_remaining_s)),
            ("lost", f"{one.loss_cause} at {console.moment(one.lost_at)}" if one.loss_cause else ""),
            ("saved as of", console.moment(one.saved_as_of)),
            ("pending", console.size(one.pending_bytes) if one.state != "closed" else ""),
            ("saved within", _promise(one)),
            ("links", str(one.links)),
            ("closing", step),
            ("progress", _progress(one)),
            ("network", one.network),
            ("not limited", ", ".join(one.limits_missing)),
            ("detail", one.detail),
        ]
    )


def _promise(one: models.Session) -> str:
    if one.save_promise_s is None or one.state not in ("active", "held"):
        return ""
    return f"{one.save_promise_s:.0f} s while something changes ({one.save_rule})"


def _progress(one: models.Session) -> str:
    """Return how far a start or a close is, how fast it moves and how long it will take."""
    told = one.progress
    if told is None:
        return ""
    in_bytes = told.unit == "bytes"

    def amount(number: float) -> str:
        return console.size(round(number)) if in_bytes else f"{number:,.0f}"

    words = f"{told.stage} {amount(told.done)}" + (f" of {amount(told.total)}" if told.total else "")
    words += "" if in_bytes else f" {told.unit}"
    words += f", {amount(told.per_s)}/s" if told.per_s else ""
    return words + (f", {told.left_s:.0f} s left" if told.left_s is not None else "")


@application.command()
def explain(session: SessionId, state_folder: StateFolder = None, json: AsJson = False) -> None:
    """Say why a session is as it is, oldest first.

    Example: session-service sessions explain 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    lines = console.run(lambda api: api.explanation(session), state_folder)
    if json:
        console.print_json(lines)
        return
    console.table(
        ("AT", "WHAT"), [[console.moment(line.at), line.words] for line in lines], empty="Nothing yet."
    )


@application.command()
def start(
    state_folder: StateFolder = None,
    json: AsJson = False,
    workspace: Annotated[str, typer.Option(help="Id of the workspace; default: one's own first one.")] = "",
    template: Annotated[
        str, typer.Option(help="What it is made from; a wrong name shows what there is.")
    ] = "",
    checkpoint: Annotated[int | None, typer.Option(help="Start from this older checkpoint.")] = None,
) -> None:
    """Start a desktop, or show the one that the workspace has.

    Example: session-service sessions start --template bare
    """
    one = console.run(
        lambda api: api.start(workspace_id=workspace or None, template=template or None, from_seq=checkpoint),
        state_folder,
    )
    _done(one, json, f"{one.id} is {one.state}.")


@application.command()
def save(
    session: SessionId, state_folder: StateFolder = None, json: AsJson = False, reason: Reason = ""
) -> None:
    """Take a checkpoint now and wait until it was read back.

    Example: session-service sessions save 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    found = console.run(lambda api: api.save(session, reason=reason), state_folder)
    if json:
        console.print_json(found)
        return
    whole = "complete" if found.complete else f"incomplete: {found.unreadable} unreadable"
    console.out.print(
        f"Saved as of {console.moment(found.saved_as_of)}, checkpoint {found.seq}, "
        f"{console.many(found.entries, 'entry', 'entries')}, {console.size(found.bytes)}, {whole}."
    )


@application.command()
def disconnect(
    session: SessionId, state_folder: StateFolder = None, json: AsJson = False, reason: Reason = ""
) -> None:
    """Cut the links of a session. The desktop is held; nothing is ended.

    Example: session-service sessions disconnect 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --reason "wrong seat"
    """
    one = console.run(lambda api: api.disconnect(session, reason=reason), state_folder)
    _done(one, json, f"{one.id} is {one.state}, {console.remaining(one.hold_remaining_s)} left.")


@application.command()
def extend(
    session: SessionId,
    seconds: Annotated[float, typer.Argument(help="Seconds to add to what remains.")],
    state_folder: StateFolder = None,
    json: AsJson = False,
    reason: Reason = "",
) -> None:
    """Give a held session more time.

    Example: session-service sessions extend 01J9Z3M4N5P6Q7R8S9T0V1W2X3 1800
    """
    one = console.run(lambda api: api.extend(session, seconds=seconds, reason=reason), state_folder)
    _done(one, json, f"{one.id}: {console.remaining(one.hold_remaining_s)} left.")


@application.command()
def end(
    session: SessionId, state_folder: StateFolder = None, json: AsJson = False, reason: Reason = ""
) -> None:
    """Save everything, check it, then end the desktop. Returns at once; `sessions show` tells how it goes.

    Example: session-service sessions end 01J9Z3M4N5P6Q7R8S9T0V1W2X3
    """
    one = console.run(lambda api: api.end(session, reason=reason), state_folder)
    _done(one, json, f"{one.id} is {one.state}; it ends when every file was read back.")


@application.command()
def accept(
    session: SessionId,
    path: Annotated[list[str], typer.Argument(help="Paths that cannot be saved, as the alarm names them.")],
    reason: Annotated[str, typer.Option(help="Why they may be lost; it stands on the receipt.")],
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Accept by name what cannot be saved, so that a close goes on.

    Example: session-service sessions accept 01J9Z3M4N5P6Q7R8S9T0V1W2X3 broken.img --reason "bad disk,
    user agrees"
    """
    one = console.run(lambda api: api.accept_paths(session, paths=path, reason=reason), state_folder)
    _done(one, json, f"{one.id}: {len(path)} accepted.")


def _done(one: models.Session, json: bool, words: str) -> None:
    if json:
        console.print_json(one)
    else:
        console.out.print(words)


async def end_all(api: Api) -> list[models.Session]:
    """End every open session; return those that are still open."""
    for one in await api.sessions(open_only=True):
        if one.state != "closing":
            await api.end(one.id, reason="the service is stopped")
    return await api.sessions(open_only=True)

"""`doctor client`: put any client of `continuity.v1` through what networks, proxies and servers do to one.

The kit is the service here: it listens, and the client under test is pointed at it. Nothing of a running
service is needed or touched. With `--run` a fresh client is started for each case; without it, whoever sits
there starts one by hand.
"""

import asyncio
import re
import shlex
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from session_service.cli import console
from session_service.conformance import report
from session_service.conformance.casework import Case, Driver, Patience
from session_service.conformance.command import CommandDriver
from session_service.conformance.lobby import ByHand, Lobby
from session_service.conformance.runner import JOBS, TOKEN, Colour, Verdict, chosen, fresh_id, run
from session_service.conformance.server import Server

RED_STATUS: Final = 1
WRONG_USE_STATUS: Final = 2
"""Also when not a single case could be tried."""
INTERRUPTED_STATUS: Final = 130
SHARD: Final = "hand"
STYLES: Final = {Colour.GREEN: "green", Colour.RED: "bold red", Colour.UNTRIED: "yellow"}
RUNNING_SHOWN: Final = 3
BY_HAND: Final = """\
Point your client at {url} and start it:
  session  {session}
  token    {token}
Each case takes one client, started once. When its line shows here, the client was told that the session was
ended: start it anew for the next case, not before. Ctrl-C stops and reports what was found until then.
"""


@dataclass(slots=True, kw_only=True)
class Trial:
    """What one run of the command tries, where it shows it, and what it found."""

    cases: list[Case]
    patience: Patience
    show: Console
    url: str = ""
    verdicts: list[Verdict] = field(default_factory=list)


Address = Annotated[
    str,
    typer.Argument(
        metavar="[URL]",
        help="The address under which the client finds the kit, which plays the service there. Port 0 takes "
        "a free one.",
    ),
]
Command = Annotated[
    str,
    typer.Option(
        "--run",
        metavar="COMMAND",
        help="Starts the client, anew for each case; {url}, {session}, {token}, {path} and {case} are filled "
        "in. Without it you start the client by hand.",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="REGEX", help="Cases whose name matches; may be repeated.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Leave out the cases that wait for limits.")]
IdleS = Annotated[float, typer.Option(help="Idle time-out of the proxy that is played, in seconds.")]
Waits = Annotated[
    float, typer.Option(help="Multiplies how long the kit waits for the client, for slow machines.")
]
Listen = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where to listen, if URL is that of a proxy in front.")
]
Certificate = Annotated[Path | None, typer.Option(help="PEM file, for an https URL without a proxy.")]
JsonFile = Annotated[
    str, typer.Option("--json", metavar="FILE", help="Write the report for programs; - is standard output.")
]
JunitFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as JUnit for a build.")]


def client(
    url: Address = "http://127.0.0.1:0",
    command: Command = "",
    only: Only = None,
    quick: Quick = False,
    idle_s: IdleS = 60.0,
    patience: Waits = 1.0,
    jobs: Annotated[int, typer.Option(min=1, help="Clients at a time, with --run.")] = JOBS,
    listen: Listen = "",
    certificate: Certificate = None,
    certificate_key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
    json: JsonFile = "",
    junit: JunitFile = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the cases and end.")] = False,
) -> None:
    """Put any client of the resumable wire through what networks do.

    Drops, half-open peers, idle proxies, portals, slow lines, clock jumps, frozen tabs, expired tokens and
    every close code: it says what the client did. Exit status 0: no case is red. 1: one is. 2: wrong use, or
    no case could be tried.

    Example: session-service doctor client --run 'my-client {url} {session} {token}'
    """
    cases = _cases(only or [], quick=quick)
    if show_list:
        width = max(len(each.name) for each in cases)
        for each in cases:
            print(f"{each.name:<{width}}  {each.promise}")
        return
    _look_at(command)
    at = _place(listen)
    tls = _tls(url, certificate, certificate_key, is_behind=at is not None)
    show = console.aside if json == "-" else console.out
    trial = Trial(cases=cases, patience=_patience(patience, idle_s), show=show)
    is_whole = True
    try:
        asyncio.run(_try(trial, Server(url, listen=at, tls=tls), command, jobs))
    except KeyboardInterrupt:
        is_whole = False
    except OSError as exc:
        raise typer.BadParameter(
            f"Nothing can listen there: {exc.strerror or exc}. The kit plays the service itself: this is "
            "not the address of one that runs.",
            param_hint="URL",
        ) from exc
    _report(trial, json, junit)
    sys.exit(_status(trial, is_whole=is_whole))


def _status(trial: Trial, *, is_whole: bool) -> int:
    count = report.counts(trial.verdicts)
    if count[Colour.RED]:
        return RED_STATUS
    if not is_whole:
        return INTERRUPTED_STATUS
    return 0 if count[Colour.GREEN] else WRONG_USE_STATUS


# -- what was asked for -------------------------------------------------------------------------------


def _cases(patterns: list[str], *, quick: bool) -> list[Case]:
    try:
        cases = chosen(patterns, with_long=not quick)
    except re.error as exc:
        raise typer.BadParameter(
            f"{exc.pattern!r} is no regular expression: {exc}.", param_hint="--only"
        ) from exc
    if not cases:
        raise typer.BadParameter("No case has such a name; --list shows them.", param_hint="--only")
    return cases


def _look_at(command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise typer.BadParameter(f"It cannot be split into words: {exc}.", param_hint="--run") from exc
    if words and shutil.which(words[0]) is None:
        raise typer.BadParameter(f"There is no program {words[0]!r}.", param_hint="--run")


def _place(listen: str) -> tuple[str, int] | None:
    if not listen:
        return None
    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise typer.BadParameter("It is HOST:PORT, as in 127.0.0.1:9180.", param_hint="--listen")
    return host, port


def _tls(url: str, certificate: Path | None, key: Path | None, *, is_behind: bool) -> ssl.SSLContext | None:
    parts = urlsplit(url)
    try:
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:  # a port that is none
        is_address = False
    if not is_address or parts.path.strip("/"):
        raise typer.BadParameter(
            "It is an address without a path, as in http://127.0.0.1:9180.", param_hint="URL"
        )
    if certificate is None or key is None:
        if certificate is not key:
            raise typer.BadParameter("A certificate and its key belong together.", param_hint="--certificate")
        if parts.scheme == "https" and not is_behind:
            raise typer.BadParameter(
                "https needs --certificate and --certificate-key, or a proxy in front and --listen.",
                param_hint="URL",
            )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise typer.BadParameter(f"It cannot be used: {exc}.", param_hint="--certificate") from exc
    return context


def _patience(factor: float, idle_s: float) -> Patience:
    """Return how long is waited for a client; what a client is made to wait stays as it is."""
    usual = Patience()
    waits = {
        one.name: getattr(usual, one.name) * factor
        for one in fields(usual)
        if one.name in {"start_s", "back_s"}
    }
    return replace(usual, idle_s=idle_s, **waits)


# -- the run ------------------------------------------------------------------------------------------


async def _try(trial: Trial, server: Server, command: str, jobs: int) -> None:
    async with server:
        trial.url = server.url

        def driver() -> Driver:
            return CommandDriver(command) if command else ByHand()

        if not command:
            server.lobby = Lobby(shard=SHARD, session_id=fresh_id(), aud=server.aud)
            words = BY_HAND.format(url=server.url, session=server.lobby.session_id, token=TOKEN)
            trial.show.print(words, markup=False)
        running: dict[str, None] = {}
        with _bar(trial, running) as tell:

            def begins(case: Case) -> None:
                running[case.name] = None
                if not command:
                    trial.show.print(f"Start the client: {case.name}", markup=False)
                tell()

            async for verdict in run(
                server, trial.cases, driver, patience=trial.patience, jobs=jobs, begins=begins
            ):
                running.pop(verdict.case, None)
                trial.verdicts.append(verdict)
                trial.show.print(report.line(verdict), markup=False, style=STYLES[verdict.colour])
                tell()


@contextmanager
def _bar(trial: Trial, running: dict[str, None]) -> Iterator[Callable[[], None]]:
    """Show how far it is, on a terminal; elsewhere the lines of the cases are enough."""
    if not trial.show.is_terminal:
        yield lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=trial.show, transient=True) as progress:
        task = progress.add_task("", total=len(trial.cases))

        def tell() -> None:
            names = list(running)
            more = f" and {len(names) - RUNNING_SHOWN} more" if len(names) > RUNNING_SHOWN else ""
            progress.update(
                task,
                completed=len(trial.verdicts),
                description=", ".join(names[:RUNNING_SHOWN]) + more,
            )

        yield tell


def _report(trial: Trial, json: str, junit: Path | None) -> None:
    order = {case.name: number for number, case in enumerate(trial.cases)}
    trial.verdicts.sort(key=lambda verdict: order[verdict.case])
    for verdict in trial.verdicts:
        if verdict.colour is Colour.RED:
            trial.show.print(f"\n{report.explained(verdict)}", markup=False)
    trial.show.print(f"\n{report.summary(trial.verdicts)}", markup=False)
    if json == "-":
        print(report.as_json(trial.verdicts, trial.url))
    elif json:
        _write(Path(json), report.as_json(trial.verdicts, trial.url) + "\n", "--json")
    if junit is not None:
        _write(junit, report.as_junit(trial.verdicts), "--junit")


def _write(file: Path, text: str, option: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise typer.BadParameter(f"{file}: {exc.strerror}.", param_hint=option) from exc

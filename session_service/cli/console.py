"""What every command shares: how it reaches the service, and how it shows what it found.

People get tables, `--json` gives one document on standard output. Nothing else is ever printed there.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from session_service.app.settings import default_state_folder
from session_service.base import errors
from session_service.base.layout import Layout
from session_service.cli.harmless import harmless, in_a_cell
from session_service.client.api import Api
from session_service.client.transport import Transport

Result = TypeVar("Result")
PIPED_COLUMNS: Final = 240
"""Width of a table that no terminal shows."""
STATE_FOLDER_VARIABLE = "SESSION_SERVICE_STATE_FOLDER"

StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state-folder",
        envvar=STATE_FOLDER_VARIABLE,
        help="State folder of the service on this machine; default as `serve`.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]


class NoService(errors.SessionError):
    """No service of this machine can be reached."""

    code, status, action = (
        "no_service",
        503,
        "Start it with ./deploy/up, or name its folder with --state-folder.",
    )


class ServiceRuns(errors.SessionError):
    """The service runs with this state folder, which this command may change only while it does not."""

    code, status, action = (
        "service_runs",
        409,
        "Stop it first with `session-service stop`; desktops go on meanwhile.",
    )


class FileUnreadable(errors.SessionError):
    """A file that an option names cannot be read."""

    code, status, action = "file_unreadable", 400, "Name a file that is there and that you may read."


class _Terminal(Console):
    """What is printed may hold names that others chose."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(harmless(one) if isinstance(one, str) else one for one in objects), **options)


out = _Terminal(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_COLUMNS,
)
aside = _Terminal(highlight=False, soft_wrap=True, stderr=True)
"""Standard error: what is said beside an answer that a program reads."""


def layout_of(state_folder: Path | None) -> Layout:
    """Return where things lie, for the folder that was named or the usual one."""
    return Layout(state_folder or default_state_folder())


@asynccontextmanager
async def service(state_folder: Path | None) -> AsyncIterator[Api]:
    """Reach the service of this machine over its unix socket, as the user who runs the command."""
    socket = layout_of(state_folder).api_socket
    if not socket.exists():
        raise NoService(f"no service runs with the state folder {socket.parents[2]}")
    async with Transport.over_socket(socket) as transport:
        yield Api(transport)


def run(work: Callable[[Api], Awaitable[Result]], state_folder: Path | None) -> Result:
    """Run one piece of work against the service and return what it found."""

    async def inside() -> Result:
        async with service(state_folder) as api:
            return await work(api)

    return asyncio.run(inside())


def plain(value: Any) -> Any:
    """Return a value as JSON's own types."""
    return msgspec.to_builtins(value)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(_json(value, indent=2))


class JsonItems:
    """Prints one JSON document that is a list, item by item as they come, each on a line of its own.

    A list that was cut off is no document, so nobody takes it for a whole one.
    """

    def __init__(self) -> None:
        self._between = "["

    def item(self, value: Any) -> None:
        """Print the next item."""
        print(f"{self._between}\n{_json(value)}", end="")
        self._between = ","

    def end(self) -> None:
        """Say that there are no more."""
        print("[]" if self._between == "[" else "\n]")


def _json(value: Any, *, indent: int | None = None) -> str:
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
    # JSON writes the others as \\u001b by itself; these are commands to some terminals, too.
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print a table, or what its emptiness means."""
    if not rows:
        out.print(empty)
        return
    first, *others = columns
    # An id that is cut cannot be given to the next command, and half a time says nothing: others are folded.
    shown = Table(Column(first, no_wrap=True), box=None, pad_edge=False, header_style="bold")
    for column in others:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(in_a_cell(cell)) for cell in row))
    out.print(shown)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line; what is empty is left out."""
    width = max((len(name) for name, value in pairs if value), default=0)
    for name, value in pairs:
        if value:
            out.print(f"{name:<{width}}  {in_a_cell(value)}", markup=False)


def many(count: int, singular: str, plural: str = "") -> str:
    """Return "1 object", "2 objects", "1,000 entries"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def size(count: int | None) -> str:
    """Return a number of bytes for people; unknown is a question mark, never 0."""
    if count is None:
        return "?"
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def moment(text: str | None) -> str:
    """Return the clock time of an ISO text, with its date when that is not today's."""
    if not text:
        return ""
    from datetime import UTC, datetime

    when = datetime.fromisoformat(text).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return when.strftime("%H:%M:%S" if when.date() == today else "%Y-%m-%d %H:%M:%S")


def remaining(seconds: float | None) -> str:
    """Return what remains of a hold as m:ss."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    return (
        f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
    )


def text_of(file: Path) -> str:
    """Return what a small file of text holds. Raises FileUnreadable."""
    try:
        return file.read_text("utf-8")
    except OSError as exc:
        raise FileUnreadable(f"{file} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise FileUnreadable(f"{file} is no text.") from exc


def password_from(file: Path | None, prompt: str) -> str:
    """Read a password from a file, or ask for it twice without showing it."""
    if file is not None:
        return text_of(file).rstrip("\n")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=True))


def why_not_here(path: Path) -> str:
    """Say why no new file or folder can be made at `path`, and what to do; empty if it can."""
    if path.exists() or path.is_symlink():
        return f"{path} exists: choose a new name"
    if not path.parent.is_dir():
        return f"the folder {path.parent} is not there: make it first"
    return "" if os.access(path.parent, os.W_OK) else f"you may not write into {path.parent}"

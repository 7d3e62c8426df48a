"""How far a long command is, in bytes or in stages: a bar on a terminal, JSON lines on standard error for
programs, else nothing.

Standard output is never touched: it may carry the very bytes that are counted.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from session_service.client import models

LINE_EVERY_S: Final = 0.25


class Moved(Protocol):
    """Called with how many more bytes have moved."""

    def __call__(self, count: int) -> None: ...


@contextmanager
def shown(words: str, *, total: int | None, as_json: bool) -> Iterator[Moved]:
    """Show bytes that move; `total` is None where nobody knows it."""
    if as_json:
        with _lines(words, total) as moved:
            yield moved
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    columns = (TextColumn(words), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _lines(words: str, total: int | None) -> Iterator[Moved]:
    done, told = 0, 0.0

    def say() -> None:
        line = {"stage": words, "done": done, "total": total, "unit": "bytes"}
        print(json.dumps(line), file=sys.stderr, flush=True)

    def moved(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= LINE_EVERY_S:
            told = time.monotonic()
            say()

    yield moved
    say()


STAGES: Final = {
    "queued": "waiting for a worker",
    "begun": "reading the log",
    "verify": "looking at objects",
    "trees": "walking checkpoints",
    "mark": "marking what is needed",
    "delete": "deleting",
    "move": "moving what is needed",
}


@contextmanager
def stages(*, as_json: bool) -> Iterator[Callable[[models.Progress], None]]:
    """Show work that goes through stages, as the service tells of it."""
    if as_json:
        yield lambda told: print(json.dumps(msgspec.to_builtins(told)), file=sys.stderr, flush=True)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda told: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("asking", total=None)

        def show(told: models.Progress) -> None:
            words = STAGES.get(told.stage, told.stage)
            bar.update(task, description=words, completed=told.done, total=told.total)

        yield show

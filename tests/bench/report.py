"""Rows of a benchmark, printed for people or as JSON for machines.

Not a timer and no judge of noise: a benchmark measures ours and a peer in one run and hands the two values
over. The goal is a ratio where there is a peer, else a value. A row that misses its goal is printed and
counted, and ends the run with status 1; numbers are goals, so no test depends on them.
"""

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement beside its peer."""

    row: str
    """What was measured, with its unit: `bulk, MB per gateway CPU second`."""
    ours: float
    peer: str = ""
    """Who was measured in the same run, with version; empty where the goal is a value of our own."""
    peer_value: float | None = None
    goal: float | None = None
    """With a peer: our value over the peer's (or the peer's over ours, where less is better). Without: our
    value.
    """
    less_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer we are; above 1 is better, whichever way the unit points."""
        if self.peer_value is None:
            return None
        over, under = (self.peer_value, self.ours) if self.less_is_better else (self.ours, self.peer_value)
        return over / under if under else math.inf

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached; None where there is none."""
        if self.goal is None:
            return None
        if self.ratio is not None:
            return self.ratio >= self.goal
        return self.ours <= self.goal if self.less_is_better else self.ours >= self.goal

    def plain(self) -> dict[str, object]:
        """Return the row as JSON has it; what is infinite or unknown is null."""
        ratio = None if self.ratio is None or math.isinf(self.ratio) else round(self.ratio, 3)
        return {
            "row": self.row,
            "ours": self.ours,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "ratio": ratio,
            "goal": self.goal,
            "met": self.met,
        }


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser that every benchmark starts from."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return made


def progress(text: str) -> None:
    """Tell what is being measured, beside the rows and not among them."""
    print(f"  {text}", file=sys.stderr, flush=True)


def report(name: str, rows: Iterable[Row], *, as_json: bool, notes: Iterable[str] = ()) -> int:
    """Print all rows and return the exit status: 1 where a goal was missed."""
    made = list(rows)
    if as_json:
        answer = {
            "benchmark": name,
            "machine": machine(),
            "rows": [row.plain() for row in made],
            "notes": list(notes),
        }
        print(json.dumps(answer, indent=2, allow_nan=False))
    else:
        print("\n".join([f"{name} on {machine()}", "", *table(made), *(f"note: {note}" for note in notes)]))
    return int(any(row.met is False for row in made))


def machine() -> str:
    """Say on what was measured; figures from two machines are not compared."""
    import os

    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def table(rows: list[Row]) -> list[str]:
    """Return the rows as lines with aligned columns."""
    head = ("row", "ours", "peer", "peer value", "ratio", "goal", "met")
    cells = [head, *(cells_of(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    numbers = {1, 3, 4, 5}
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def cells_of(row: Row) -> tuple[str, ...]:
    """Return one row as texts."""
    goal = (
        ""
        if row.goal is None
        else f"{'<=' if row.less_is_better and row.ratio is None else '>='} {figure(row.goal)}"
    )
    met = {None: "", True: "yes", False: "NO"}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return row.row, figure(row.ours), row.peer, figure(row.peer_value), ratio, goal, met


def figure(value: float | None) -> str:
    """Return a number with as many digits as mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

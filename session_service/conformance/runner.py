"""Runs cases: a desk, a fresh client and a script for each, many at once.

Not a test runner's: the pytest plugin and the command both use it, and both show the same verdicts.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from session_service.base.ids import RANDOM_BYTES, new_ulid
from session_service.conformance import cases_lines, cases_words
from session_service.conformance.casework import Case, Driver, Patience, Place, Scene, Untried
from session_service.conformance.desk import Red
from session_service.conformance.server import Server

CASES: Final[Sequence[Case]] = (*cases_lines.book.cases, *cases_words.book.cases)
CASE_S: Final = 300.0
"""No case takes so long; a client that hangs in `start` or `stop` does."""
STOP_S: Final = 20.0
JOBS: Final = 8
TOKEN: Final = "conformance"
"""No secret: the kit's own server asks for none."""


class Colour(StrEnum):
    """How a case ended."""

    GREEN = "green"
    RED = "red"
    UNTRIED = "untried"
    """The driver could not do what the case needs; neither good nor bad."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One case and how it ended."""

    case: str
    promise: str
    colour: Colour
    words: str
    """What was wrong, or why it was not tried; empty when green."""
    seconds: float


def chosen(patterns: Iterable[str] = (), *, with_long: bool = True) -> list[Case]:
    """Return the cases whose name matches one of the patterns (regular expressions); all without any."""
    wanted = [re.compile(pattern) for pattern in patterns]
    return [
        case
        for case in CASES
        if (with_long or not case.is_long) and (not wanted or any(each.search(case.name) for each in wanted))
    ]


async def run_case(server: Server, case: Case, driver: Driver, patience: Patience) -> Verdict:
    """Put one fresh client through one case."""
    session_id = new_ulid(time.time_ns() // 1_000_000, secrets.token_bytes(RANDOM_BYTES))
    desk = server.desk("c" + secrets.token_hex(6), session_id)
    place = Place(url=server.url, session_id=session_id, token=TOKEN, shard=desk.shard, case=case.name)
    begun = time.monotonic()
    colour, words = Colour.GREEN, ""
    try:
        async with asyncio.timeout(CASE_S):
            await driver.start(place)
            scene = Scene(desk=desk, driver=driver, patience=patience)
            await case.script(scene)
            scene.check()
    except Red as exc:
        colour, words = Colour.RED, str(exc)
    except Untried as exc:
        colour, words = Colour.UNTRIED, str(exc)
    except TimeoutError:
        colour, words = Colour.RED, f"not done after {CASE_S:g} s"
    finally:
        try:
            async with asyncio.timeout(STOP_S):
                await driver.stop()
        except TimeoutError:
            colour, words = Colour.RED, words or f"the client did not stop within {STOP_S:g} s"
        server.forget(desk)
    if colour is Colour.GREEN and server.errors:
        raise server.errors[0]
    return Verdict(
        case=case.name,
        promise=case.promise,
        colour=colour,
        words=words,
        seconds=round(time.monotonic() - begun, 2),
    )


async def run(
    server: Server,
    cases: Sequence[Case],
    driver: Callable[[], Driver],
    *,
    patience: Patience | None = None,
    jobs: int = JOBS,
) -> AsyncIterator[Verdict]:
    """Yield verdicts as they come, at most `jobs` clients at a time; a fresh driver for each case."""
    found: asyncio.Queue[Verdict] = asyncio.Queue()
    room = asyncio.Semaphore(jobs)

    async def one(case: Case) -> None:
        async with room:
            found.put_nowait(await run_case(server, case, driver(), patience or Patience()))

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case), name=case.name)
        for _ in cases:
            yield await found.get()

"""Runs cases: a desk, a fresh client and a script for each, many at once.

Not a test runner's: the pytest plugin and the command both use it, and both show the same verdicts.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from session_service.base.ids import RANDOM_BYTES, new_ulid
from session_service.conformance import cases_lines, cases_tickets, cases_words
from session_service.conformance.casework import (
    Case,
    ClientEnded,
    Driver,
    Patience,
    Place,
    Scene,
    Untried,
)
from session_service.conformance.desk import Desk, Red
from session_service.conformance.doors import ENDED
from session_service.conformance.rules import Rule
from session_service.conformance.server import Server

CASES: Final[Sequence[Case]] = (
    *cases_lines.book.cases,
    *cases_words.book.cases,
    *cases_tickets.book.cases,
)
CASE_S: Final = 300.0
"""No case takes so long; a client that hangs in `start` or `stop` does."""
STOP_S: Final = 20.0
GOODBYE_S: Final = 0.5
"""For a client that a person started, to hear that its case is over."""
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
    rule: Rule
    """The rule that it tries or, when red, the one that was broken."""
    seen: tuple[str, ...]
    """When red: what happened, line by line."""
    said: str
    """When red: the last words of the client's program, where its driver keeps them."""
    seconds: float


def chosen(patterns: Iterable[str] = (), *, with_long: bool = True) -> list[Case]:
    """Return the cases whose name matches one of the patterns (regular expressions); all without any."""
    wanted = [re.compile(pattern) for pattern in patterns]
    return [
        case
        for case in CASES
        if (with_long or not case.is_long) and (not wanted or any(each.search(case.name) for each in wanted))
    ]


async def run_case(
    server: Server, case: Case, driver: Driver, patience: Patience, *, limit_s: float = CASE_S
) -> Verdict:
    """Put one fresh client through one case. With a lobby, the next client that comes there."""
    lobby = server.lobby
    if lobby is not None:
        await lobby.guest()
    session_id = lobby.session_id if lobby is not None else fresh_id()
    desk = server.desk(lobby.shard if lobby is not None else "c" + secrets.token_hex(6), session_id)
    place = place_of(server, desk, case.name)
    scene = Scene(desk=desk, driver=driver, patience=patience)
    if lobby is not None:
        # Whoever waits for a ticket gets it once the script has laid out what comes first.
        asyncio.get_running_loop().call_soon(lobby.seat, desk)
    begun = time.monotonic()
    ending: Red | Untried | None = None
    try:
        async with asyncio.timeout(limit_s):
            ending = await _play(case, scene, place)
    except TimeoutError:
        ending = Red(f"not done after {limit_s:g} s")
    finally:
        try:
            async with asyncio.timeout(STOP_S):
                if scene.is_started:
                    await driver.stop()
        except TimeoutError:
            ending = ending or Red(f"the client did not stop within {STOP_S:g} s")
        await _part(server, desk)
    if server.errors:
        raise server.errors[0]
    rule = ending.rule if isinstance(ending, Red) and ending.rule is not None else case.rule
    is_red = isinstance(ending, Red)
    return Verdict(
        case=case.name,
        promise=case.promise,
        colour=Colour.GREEN if ending is None else Colour.RED if is_red else Colour.UNTRIED,
        words="" if ending is None else str(ending),
        rule=rule,
        seen=tuple(desk.seen) if is_red else (),
        said=getattr(driver, "said", "") if is_red else "",
        seconds=round(time.monotonic() - begun, 2),
    )


async def _play(case: Case, scene: Scene, place: Place) -> Red | Untried | None:
    """Let the script run from before the client starts; return how it ended, None when all was well."""
    found: list[Red | Untried] = []

    async def script() -> None:
        try:
            await case.script(scene)
            scene.check()
        except (Red, Untried) as exc:
            found.append(exc)
            starting.cancel()

    async def start() -> None:
        scene.is_started = True
        try:
            await scene.driver.start(place)
        except ClientEnded as exc:
            # Many cases end with a client that ends; one that never asked for anything was never there.
            scene.desk.note(f"client: {exc}")
            if not scene.desk.ticket_asks and not scene.desk.dials:
                scene.desk.fault(f"{exc} before it asked for a ticket or dialled")

    async with asyncio.TaskGroup() as group:
        # In this order: what the first dial meets is laid out before there can be one.
        playing = group.create_task(script(), name=case.name)
        starting = group.create_task(start(), name="start")
        await playing
        starting.cancel()
    return found[0] if found else None


async def _part(server: Server, desk: Desk) -> None:
    """The case is over: who came by hand is told so, whoever else is cut."""
    if server.lobby is not None:
        server.lobby.close()
        said = ENDED.refusal
        assert said is not None
        for link in desk.links:
            if not link.is_closed:
                link.refuse(json.dumps(dict(said)), int(said["code"]))
        await asyncio.sleep(GOODBYE_S)
    server.forget(desk)


def place_of(server: Server, desk: Desk, case: str) -> Place:
    """Return what the client of a desk is told."""
    return Place(url=server.url, session_id=desk.session_id, token=TOKEN, shard=desk.shard, case=case)


def fresh_id() -> str:
    """Return a new session's id."""
    return new_ulid(time.time_ns() // 1_000_000, secrets.token_bytes(RANDOM_BYTES))


async def run(
    server: Server,
    cases: Sequence[Case],
    driver: Callable[[], Driver],
    *,
    patience: Patience | None = None,
    jobs: int = JOBS,
    begins: Callable[[Case], None] = lambda case: None,
) -> AsyncIterator[Verdict]:
    """Yield verdicts as they come, at most `jobs` clients at a time; a fresh driver for each case.

    Args:
        begins: told of each case when its turn has come.
    """
    found: asyncio.Queue[Verdict] = asyncio.Queue()
    room = asyncio.Semaphore(1 if server.lobby is not None else jobs)

    async def one(case: Case) -> None:
        async with room:
            begins(case)
            found.put_nowait(await run_case(server, case, driver(), patience or Patience()))

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case), name=case.name)
        for _ in cases:
            yield await found.get()

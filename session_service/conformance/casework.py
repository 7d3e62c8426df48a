"""What a case is, and the few steps that most cases are made of.

Not the cases (`cases_*.py`). A step waits for what the client must do and says, in words for the author of
that client, what it did not do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from session_service.conformance.desk import Desk, Red
from session_service.conformance.rules import Rule
from session_service.core.continuity.messages import Open, Resume

ROUNDS: Final = 3
"""Updates that a viewer asks for and takes before a stream counts as alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the kit waits, in seconds. Change it for slow machines, and `idle_s` for short runs."""

    start_s: float = 30.0
    """Until the client was started, has a link and shows its first pixels."""
    back_s: float = 20.0
    """Until a client is back after a loss that it can see; its longest pause is 15 s."""
    quiet_s: float = 3.0
    """For which a client that was told to stay away must not dial."""
    silent_s: float = 25.0
    """After which a client gives up a line on which nothing comes; the protocol's own number."""
    idle_s: float = 60.0
    """The idle time-out of the proxy that is played; a third of it is the pause between two beats."""
    freeze_s: float = 12.0
    """For which a client stands still (its machine sleeps, its tab is frozen)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a client under test is told."""

    url: str
    session_id: str
    token: str
    shard: str
    case: str

    @property
    def path(self) -> str:
        """Where to dial, as a ticket says it."""
        return f"/s/{self.shard}/ws"


class Driver(Protocol):
    """Starts and stops one client under test, an ordinary viewer on top of it: it shows what comes and asks
    for the next update. `start` may return at once, when it runs, or raise ClientEnded when it has ended.
    """

    async def start(self, place: Place) -> None:
        """Make the client open the session."""

    async def stop(self) -> None:
        """End it."""


@runtime_checkable
class Freezes(Protocol):
    """A driver whose client can be made to stand still, as in a sleeping machine."""

    async def freeze(self, seconds: float) -> None:
        """Return when it runs again."""


@runtime_checkable
class Jumps(Protocol):
    """A driver that can set the client's wall clock forward."""

    async def jump(self, seconds: float) -> None:
        """Do it."""


class ClientEnded(Exception):
    """The client's program ended by itself; raised by a `start` that waits for that."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the client's program ended with the exit status {status}")


class Untried(Exception):
    """The driver cannot do what the case needs; says what."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """One case's run: its desk, the client under test and how long to wait."""

    desk: Desk
    driver: Driver
    patience: Patience
    is_started: bool = False
    """False while the client was not started, as in a case that its driver cannot try."""

    # -- steps ----------------------------------------------------------------------------------------

    async def begun(self, *, limit_s: float = 0.0) -> None:
        """The client has a stream and its viewer shows pixels."""
        desk = self.desk
        limit_s += self.patience.start_s
        await desk.until(lambda: desk.attachments > 0, limit_s, "no stream was opened")
        await self.goes_on(limit_s=limit_s)

    async def goes_on(self, *, limit_s: float = 0.0) -> None:
        """Updates flow: the viewer asks for the next ones, so it understood all of the last."""
        desk = self.desk
        player = desk.player
        assert player is not None
        wanted = player.updates + ROUNDS
        desk.ask()
        await desk.until(
            lambda: desk.player is not player or player.updates >= wanted,
            limit_s or self.patience.back_s,
            "the viewer asks for no more updates: it lost its place, or its bytes were not sent",
        )
        if desk.player is not player:
            raise Red("a new stream was opened where the old one goes on")

    async def back(self, count: int, *, limit_s: float = 0.0, replay: bool = True) -> Resume:
        """The client attached for the `count`th time, with its key."""
        desk = self.desk
        await desk.until(
            lambda: desk.attachments >= count, limit_s or self.patience.back_s, "the client did not come back"
        )
        first = desk.firsts[-1]
        if isinstance(first, Open):
            raise Red("opened anew with a ticket instead of resuming with its key")
        if replay and first.leg != desk.stream.leg:
            raise Red("gave its stream up (asked for a resync) where it can be replayed")
        return first

    async def stays_away(self, why: str) -> None:
        """No dial comes for a while."""
        before = len(self.desk.dials)
        await asyncio.sleep(self.patience.quiet_s)
        if len(self.desk.dials) != before:
            raise Red(f"dialled again by itself after {why}")
        self.check()

    async def dialled(self, count: int, *, limit_s: float = 0.0) -> float:
        """The `count`th dial came; returns when."""
        desk = self.desk
        await desk.until(
            lambda: len(desk.dials) >= count, limit_s or self.patience.back_s, f"dial {count} did not come"
        )
        return desk.dials[count - 1]

    def check(self) -> None:
        """Raise the first fault that was found until now."""
        if self.desk.faults:
            raise self.desk.faults[0]


Script = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that a client must do."""

    name: str
    promise: str
    """In one line, what a client does that is right."""
    script: Script
    rule: Rule
    is_long: bool = False
    """True when it takes more than ten seconds however quick the client is."""


class Book:
    """Collects cases: `@book.case()` above a script, whose docstring is the promise."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def case(self, rule: Rule, *, is_long: bool = False) -> Callable[[Script], Script]:
        """Take a script as a case; its name is the function's."""

        def take(script: Script) -> Script:
            called: Any = script
            self.add(called.__name__, script, rule, is_long=is_long)
            return script

        return take

    def add(self, name: str, script: Script, rule: Rule, *, promise: str = "", is_long: bool = False) -> None:
        """Take a script as a case."""
        words = promise or (script.__doc__ or "").strip().splitlines()[0]
        self.cases.append(Case(name=name, promise=words, script=script, rule=rule, is_long=is_long))

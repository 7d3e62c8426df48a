"""Every order in which several machines' calls to one object store can interleave, as far as orders differ.

Machines run the real code; each call to the store waits until it is its turn. A run is an order of turns. The
explorer replays from the start, always with another order, until none is left that could matter: two calls
matter to each other if they name the same object and one of them writes (or one lists where the other
writes). Orders that differ only in calls that do not matter to each other lead to the same end, so one of
them is run (dynamic partial-order reduction with sleep sets, Flanagan and Godefroid 2005; every machine can
always go on, which keeps it simple).

Inside of one machine calls are taken in the order in which they were made.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from storage.errors import ObjectExists, ObjectNotFound
from storage.objects.store import ObjectInfo
from storage.repository.threads import Threads
from storage.repository.turn import Turn

READS = frozenset({"get", "head"})


@dataclass(frozen=True, slots=True)
class Ask:
    """One call to the store."""

    on: str
    name: str

    def matters_to(self, other: "Ask") -> bool:
        """Return whether the order of the two can be seen."""
        mine, theirs = self.on in READS or self.on == "list", other.on in READS or other.on == "list"
        if mine and theirs:
            return False
        if self.on == "list":
            return other.name.startswith(self.name)
        if other.on == "list":
            return self.name.startswith(other.name)
        return self.name == other.name


class InlineThreads(Threads):
    """Runs work where it is asked for, so that nothing but the order of turns decides."""

    def __init__(self) -> None:
        pass

    async def run(self, stop, work, *args, **kwargs):
        result = work(*args, **kwargs)
        await asyncio.sleep(
            0
        )  # what the work told the loop happens before its end is known, as with a thread
        return result

    def read(self, work, *args, **kwargs):
        done: Future = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001  # handed on, as an executor does
            done.set_exception(exc)
        return done

    def close(self) -> None:
        pass


class NoTurn(Turn):
    """For a scan whose work is done where it is asked for: there is nobody else to have the turn."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(slots=True)
class Turns:
    """Who waits for a turn. While `free` is set, everybody but those in `held` goes on at once (a prelude, a
    check).
    """

    free: bool = True
    held: set[str] = field(default_factory=set)
    waiting: dict[str, list[tuple[Ask, asyncio.Future[None]]]] = field(default_factory=dict)

    async def turn(self, actor: str, ask: Ask) -> None:
        """Wait until this call may be made."""
        if self.free and actor not in self.held:
            return
        mine = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(actor, []).append((ask, mine))
        await mine

    async def until(self, actor: str, on: str, name: str) -> None:
        """Give a held actor turns until its next one would be this."""
        await settled()
        while self.waiting[actor][0][0] != Ask(on, name):
            self.give(actor)
            await settled()

    def give(self, actor: str) -> Ask:
        """Let the oldest call of an actor happen."""
        ask, mine = self.waiting[actor].pop(0)
        if not self.waiting[actor]:
            del self.waiting[actor]
        mine.set_result(None)
        return ask


class TurnStore:
    """An object store of one actor over objects that all share; every call happens at once in its turn."""

    def __init__(self, objects: dict[str, bytes], turns: Turns, actor: str) -> None:
        self._objects = objects
        self._turns = turns
        self._actor = actor

    async def create(self, name: str, data: bytes) -> None:
        await self._turns.turn(self._actor, Ask("create", name))
        if name in self._objects:
            raise ObjectExists(name=name)
        self._objects[name] = bytes(data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        await self._turns.turn(self._actor, Ask("get", name))
        if name not in self._objects:
            raise ObjectNotFound(name=name)
        data = self._objects[name]
        return data[start:] if length is None else data[start : start + length]

    async def head(self, name: str) -> int | None:
        await self._turns.turn(self._actor, Ask("head", name))
        return len(self._objects[name]) if name in self._objects else None

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await self._turns.turn(self._actor, Ask("list", prefix))
        for name in sorted(one for one in self._objects if one.startswith(prefix)):
            yield ObjectInfo(name=name, size=len(self._objects[name]))

    async def delete(self, name: str) -> None:
        await self._turns.turn(self._actor, Ask("delete", name))
        self._objects.pop(name, None)

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class _Node:
    """One turn of the current order, and the other actors that must be tried there."""

    enabled: dict[str, Ask]
    actor: str
    sleep: dict[str, Ask]
    todo: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


World = Callable[
    [Turns], Awaitable[tuple[dict[str, Coroutine[Any, Any, None]], Callable[[], Awaitable[None]]]]
]
"""Makes the actors of one run and what is to be checked at its end."""


class Redundant(Exception):
    """Every way on from here was run already, in another order."""


class Explorer:
    """Runs a world in every order that matters."""

    def __init__(self, world: World, *, runs_max: int, whole: bool = True) -> None:
        """Take a world.

        Args:
            whole: more orders than `runs_max` are a failure; else exploring just ends there.
        """
        self._world = world
        self._runs_max = runs_max
        self._whole = whole
        self._path: list[_Node] = []
        self.runs = 0
        self.turns_most = 0

    def explore(self) -> None:
        """Run them all.

        Raises:
            AssertionError: a check failed, or there are more runs than were allowed.
        """
        while True:
            if self.runs == self._runs_max and not self._whole:
                return
            self.runs += 1
            assert self.runs <= self._runs_max, f"more than {self._runs_max} orders: the bounds are too wide"
            try:
                asyncio.run(self._run())
            except Redundant:
                pass
            self._find_races()
            if not self._next_order():
                return

    @property
    def order(self) -> list[tuple[str, str, str]]:
        """Return the turns of the last run, for a person who looks for a cause."""
        return [
            (node.actor, node.enabled[node.actor].on, node.enabled[node.actor].name) for node in self._path
        ]

    async def _run(self) -> None:
        turns = Turns()
        actors, check = await self._world(turns)
        turns.free = False
        depth = 0
        tasks = {name: asyncio.ensure_future(actor) for name, actor in actors.items()}
        try:
            await settled()
            while turns.waiting:
                enabled = {name: asks[0][0] for name, asks in sorted(turns.waiting.items())}
                if depth == len(self._path):
                    self._path.append(self._new_node(enabled))
                node = self._path[depth]
                assert node.enabled == enabled, "a run is not repeatable"
                turns.give(node.actor)
                depth += 1
                await settled()
            assert all(task.done() for task in tasks.values()), "an actor waits for something else"
            for task in tasks.values():
                task.result()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        self.turns_most = max(self.turns_most, depth)
        turns.free = True
        await check()

    def _new_node(self, enabled: dict[str, Ask]) -> _Node:
        sleep: dict[str, Ask] = {}
        last = ""
        if self._path:
            before = self._path[-1]
            taken, last = before.enabled[before.actor], before.actor
            asleep = before.sleep | {name: before.enabled[name] for name in before.done}
            sleep = {name: ask for name, ask in asleep.items() if name != last and not ask.matters_to(taken)}
        free = [name for name in enabled if name not in sleep]
        if not free:
            raise Redundant
        actor = last if last in free else free[0]
        return _Node(enabled=enabled, actor=actor, sleep=sleep, todo={actor})

    def _find_races(self) -> None:
        """For every two turns that matter to each other and could have come in the other order, remember to
        try the later actor first.
        """
        clocks: list[set[int]] = []
        last: dict[str, int] = {}
        for at, node in enumerate(self._path):
            ask, actor = node.enabled[node.actor], node.actor
            before: set[int] = set()
            if actor in last:
                before |= clocks[last[actor]] | {last[actor]}
            others = [
                i
                for i in range(at)
                if self._path[i].actor != actor and self._path[i].enabled[self._path[i].actor].matters_to(ask)
            ]
            for i in reversed(others):
                if i not in before:
                    self._path[i].todo.add(actor)
                before |= clocks[i] | {i}
            clocks.append(before)
            last[actor] = at

    def _next_order(self) -> bool:
        while self._path:
            node = self._path[-1]
            node.done.add(node.actor)
            left = node.todo - node.done - set(node.sleep)
            if left:
                node.actor = min(left)
                return True
            self._path.pop()
        return False


async def settled() -> None:
    """Wait until nobody can go on without a turn."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # the only way to see it
    await asyncio.sleep(0)
    while ready:  # noqa: ASYNC110  # the loop itself is what is waited for
        await asyncio.sleep(0)

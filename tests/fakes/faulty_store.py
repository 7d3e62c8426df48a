"""An object store whose bad days are written down beforehand.

Wrap any store, plan faults, and read afterwards what was asked of it:

    store = FaultyStore(MemoryStore())
    store.plan(Fault.LOST_ANSWER, on="create", name=r"c/.*")      # landed, and nobody was told
    store.plan(Fault.UNAVAILABLE, on="get", times=3, after=2)     # the third to fifth get fail
    store.down = True                                             # nothing is reached until it is False again
    store.crash_at(7, landed=True)                                # the process "dies" in its seventh call
    ...
    store.calls                                                   # [Call(on="create", name="c/1", ...), ...]
    await store.let_land()                                        # writes that were late arrive now
    store.gate.set()                                              # slow calls go on

Every fault raises what a real adapter would raise, never something of its own; only a crash is a `Crashed`, a
BaseException, so that no handler of the code under test can mistake it for an answer.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeVar

from storage.errors import (
    AmbiguousWrite,
    CreateConflict,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from storage.objects.store import ObjectInfo, ObjectStore
from storage.objects.versions import ObjectVersion, delete_version, versions_below

Operation = Literal["create", "get", "head", "list", "delete"]
T = TypeVar("T")
FOR_EVER = 1_000_000_000


class Fault(Enum):
    """What goes wrong. In brackets: on which operations it makes sense."""

    UNAVAILABLE = "unavailable"
    """Not reached, 503 storms; nothing happened. (all)"""
    REFUSED = "refused"
    """Permanent: keys withdrawn, bucket gone. (all)"""
    FULL = "full"
    """No space; nothing was written. (create)"""
    CONFLICT = "conflict"
    """409; nothing was written. (create)"""
    NEVER_ARRIVED = "never arrived"
    """No answer, and it did not land. (create)"""
    LOST_ANSWER = "lost answer"
    """No answer, but it was done. (create, delete)"""
    LATE = "late"
    """No answer; it lands when `let_land` is called. (create)"""
    TRUNCATED = "truncated"
    """Half of the bytes. (get)"""
    FLIPPED = "flipped"
    """One bit is wrong in the middle. (get)"""
    STALE = "stale"
    """As if it had not been written yet: not found, or missing in the listing. (get, head, list)"""
    CUT_LISTING = "cut listing"
    """Some names, then an error. (list)"""
    SLOW = "slow"
    """Waits for `gate`, then does as asked. (all)"""


class Crashed(BaseException):
    """The process is gone: nothing of the code under test may run on as if it had an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it was made, and what came of it: "ok", a fault, or the code of an error."""

    on: Operation
    name: str
    outcome: str


@dataclass(slots=True, kw_only=True)
class _Planned:
    fault: Fault
    on: Operation | None
    name: re.Pattern[str]
    times: int
    after: int


@dataclass(slots=True)
class FaultyStore:
    """An `ObjectStore` around another one."""

    inner: ObjectStore
    down: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)
    waiting: int = 0
    """Slow calls that stand before the gate now."""
    _plans: list[_Planned] = field(default_factory=list)
    _late: list[tuple[str, bytes]] = field(default_factory=list)
    _crash_in: int | None = None
    _crash_landed: bool = False

    def plan(
        self, fault: Fault, *, on: Operation | None = None, name: str = ".*", times: int = 1, after: int = 0
    ) -> None:
        """Let `fault` happen `times` times to calls that match, after `after` matching ones went well."""
        self._plans.append(_Planned(fault=fault, on=on, name=re.compile(name), times=times, after=after))

    def crash_at(self, number: int, *, landed: bool = False) -> None:
        """Die in the call with this number, counted from 1 and from now: before it is done, or after."""
        self._crash_in = number
        self._crash_landed = landed

    def heal(self) -> None:
        """No more faults; late writes stay late."""
        self._plans.clear()
        self._crash_in = None
        self.down = False
        self.gate.set()

    async def let_land(self) -> int:
        """The late writes arrive, oldest first. Returns how many were the first of their name."""
        landed = 0
        while self._late:
            name, data = self._late.pop(0)
            try:
                await self.inner.create(name, data)
                landed += 1
            except ObjectExists:
                continue
        return landed

    async def create(self, name: str, data: bytes | bytearray) -> None:
        fault = await self._meet("create", name)
        if fault is Fault.FULL:
            raise StoreFull(name=name)
        if fault is Fault.CONFLICT:
            raise CreateConflict(name=name)
        if fault is Fault.LATE:
            self._late.append((name, bytes(data)))
        if fault in {Fault.LATE, Fault.NEVER_ARRIVED}:
            raise AmbiguousWrite(name=name)
        await self._do("create", name, self.inner.create(name, data))
        if fault is Fault.LOST_ANSWER:
            raise AmbiguousWrite(name=name)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        fault = await self._meet("get", name)
        if fault is Fault.STALE:
            raise ObjectNotFound(name=name)
        data = await self._do("get", name, self.inner.get(name, start=start, length=length))
        if fault is Fault.TRUNCATED:
            return data[: len(data) // 2]
        if fault is Fault.FLIPPED and data:
            at = len(data) // 2
            return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        return data

    async def head(self, name: str) -> int | None:
        fault = await self._meet("head", name)
        size = await self._do("head", name, self.inner.head(name))
        return None if fault is Fault.STALE else size

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        fault = await self._meet("list", prefix)
        found = await self._do("list", prefix, self._collect(prefix))
        if fault is Fault.STALE:
            found = found[:-1]
        if fault is Fault.CUT_LISTING:
            found = found[: len(found) // 2]
        for info in found:
            yield info
        if fault is Fault.CUT_LISTING:
            raise StoreUnavailable(prefix=prefix, reason="cut")

    async def delete(self, name: str) -> None:
        fault = await self._meet("delete", name)
        await self._do("delete", name, self.inner.delete(name))
        if fault is Fault.LOST_ANSWER:
            raise StoreUnavailable(name=name)

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        await self._meet("list", prefix)
        return await self._do("list", prefix, versions_below(self.inner, prefix))

    async def delete_version(self, name: str, version: str) -> None:
        await self._meet("delete", name)
        await self._do("delete", name, delete_version(self.inner, ObjectVersion(name=name, version=version)))

    async def close(self) -> None:
        await self.inner.close()

    async def _collect(self, prefix: str) -> "tuple[ObjectInfo, ...]":
        return tuple([info async for info in self.inner.list(prefix)])

    async def _meet(self, on: Operation, name: str) -> Fault | None:
        """Let the next planned fault happen to this call, as far as it happens before the call is done."""
        if self.down:
            self._note(on, name, "down")
            raise StoreUnavailable(name=name, reason="down")
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in <= 0 and not self._crash_landed:
                self._note(on, name, "crash before")
                raise Crashed
        fault = self._next(on, name)
        if fault is None:
            return None
        self._note(on, name, fault.value)
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable(name=name, reason="planned")
        if fault is Fault.REFUSED:
            raise StoreRefused(name=name, reason="planned")
        if fault is Fault.SLOW:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        return fault

    def _next(self, on: Operation, name: str) -> Fault | None:
        for planned in self._plans:
            if planned.times < 1 or planned.on not in {None, on} or not planned.name.fullmatch(name):
                continue
            if planned.after > 0:
                planned.after -= 1
                continue
            planned.times -= 1
            return planned.fault
        return None

    async def _do(self, on: Operation, name: str, call: Awaitable[T]) -> T:
        try:
            answer = await call
        except StoreError as exc:
            self._note(on, name, exc.code)
            raise
        if self._crash_in is not None and self._crash_in <= 0:
            self._note(on, name, "crash after")
            raise Crashed
        self._note(on, name, "ok")
        return answer

    def _note(self, on: Operation, name: str, outcome: str) -> None:
        self.calls.append(Call(on=on, name=name, outcome=outcome))

"""What the fault proxy is told to do wrong, and what it did: plans, chance, and a record.

Nothing here touches a socket, so a script with the same seed meets the same requests in the same way.

Source: docs/fault-proxy.md.
"""

import random
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import parse_qs, urlsplit

SEEN_MAX: Final = 100_000
"""Requests that are remembered; the oldest are forgotten first."""
PLANS_MAX: Final = 1_000
DELAY_MS_MAX: Final = 600_000
FOR_EVER: Final = 1_000_000_000
OPERATIONS: Final = frozenset({"put", "get", "head", "list", "delete", "other"})


class BadPlan(Exception):
    """A plan that cannot be carried out; the words say why."""


class HttpFault(Enum):
    """What goes wrong with one request."""

    STATUS = "status"
    """Answered by the proxy with `status`; the server never hears of it."""
    FOREIGN_404 = "foreign 404"
    """A page of a web server that knows nothing of S3."""
    CUT_REQUEST = "cut request"
    """The connection breaks before the server got it."""
    CUT_BODY = "cut body"
    """The server gets the head and `part` of the body, then the connection breaks."""
    LOST_ANSWER = "lost answer"
    """The server did it; the connection breaks before a byte of the answer."""
    TIMEOUT = "timeout"
    """The server did it; nothing is ever answered, and the connection stays open until healed."""
    TRUNCATED = "truncated"
    """`part` of the answer's body, then the connection breaks."""
    FLIPPED = "flipped"
    """One bit of the answer's body is wrong; which one is chosen by the seed."""
    SWALLOWED = "swallowed"
    """A write is answered as done, and the server never hears of it."""
    STALE = "stale"
    """A read is answered as it was before: the answer to the same request earlier, or "no such key"."""
    DELAY = "delay"
    """Waits `delay_ms` before it is passed on."""
    SLOW = "slow"
    """Waits until healed before it is passed on."""
    REPEATED = "repeated"
    """The answer to the request before, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One fault, and the requests that it happens to."""

    fault: HttpFault
    method: str | None = None
    """GET, PUT ...; None: any."""
    operation: str | None = None
    """put, get, head, list, delete or other; None: any. A listing is a GET of its own kind."""
    path: str = ".*"
    """Regular expression, looked for in the path with its query."""
    times: int = 1
    """How often it happens; 0 and below: for ever."""
    after: int = 0
    """Matching requests that go well before."""
    probability: float = 1.0
    """Chance of each matching request."""
    status: int = 503
    part: float = 0.5
    delay_ms: int = 0

    @classmethod
    def from_json(cls, item: object) -> "Plan":
        """Return a plan from what came over HTTP or from the command line.

        Raises:
            BadPlan: an unknown field, fault or value.
        """
        if not isinstance(item, Mapping):
            raise BadPlan("a plan is an object with a fault")
        unknown = sorted(set(item) - set(cls.__dataclass_fields__))
        if unknown:
            raise BadPlan(f"unknown fields: {', '.join(map(str, unknown))}")
        if any(not isinstance(item.get(name, 0), int) for name in ("times", "after", "status", "delay_ms")):
            raise BadPlan("times, after, status and delay_ms are whole numbers")
        try:
            plan = cls(**{**item, "fault": HttpFault(item.get("fault"))})
            plan.check()
        except (TypeError, ValueError, re.error) as exc:
            raise BadPlan(str(exc)) from exc
        return plan

    def check(self) -> None:
        """Raise ValueError or TypeError where a value cannot be meant."""
        re.compile(self.path)
        if self.operation is not None and self.operation not in OPERATIONS:
            raise ValueError(f"operation: one of {', '.join(sorted(OPERATIONS))}")
        if not 0 <= self.probability <= 1 or not 0 <= self.part <= 1:
            raise ValueError("probability and part lie between 0 and 1")
        if not 200 <= self.status <= 599 or not 0 <= self.delay_ms <= DELAY_MS_MAX:
            raise ValueError(f"status is 200 to 599, delay_ms 0 to {DELAY_MS_MAX}")


@dataclass(slots=True)
class _Running:
    plan: Plan
    left: int
    before: int


class Script:
    """The plans that are left, in order: the first that matches a request happens to it."""

    def __init__(self, seed: int = 0) -> None:
        self.seen: deque[tuple[str, str, str]] = deque(maxlen=SEEN_MAX)
        """Method, path, and the fault it met or "passed"."""
        self.chance = random.Random(seed)
        self._running: list[_Running] = []

    def add(self, plan: Plan) -> None:
        """Let a fault happen from now on."""
        if len(self._running) >= PLANS_MAX:
            raise BadPlan(f"more than {PLANS_MAX} plans")
        self._running.append(_Running(plan, plan.times if plan.times > 0 else FOR_EVER, plan.after))

    def clear(self) -> None:
        """Let nothing more go wrong."""
        self._running.clear()

    def meet(self, method: str, path: str) -> Plan | None:
        """Return what happens to a request, and write it down."""
        plan = self._next(method, path)
        self.seen.append((method, path, plan.fault.value if plan is not None else "passed"))
        return plan

    def _next(self, method: str, path: str) -> Plan | None:
        kind = operation(method, path)
        for one in self._running:
            plan = one.plan
            if plan.method not in {None, method} or plan.operation not in {None, kind}:
                continue
            if not re.search(plan.path, path):
                continue
            if one.before > 0:
                one.before -= 1
                continue
            if plan.probability < 1 and self.chance.random() >= plan.probability:
                continue
            one.left -= 1
            if one.left < 1:
                self._running.remove(one)
            return plan
        return None


def operation(method: str, path: str) -> str:
    """Return what an S3 request does: put, get, head, list, delete or other."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "GET" and query.keys() & {"list-type", "prefix", "versions"}:
        return "list"
    if query.keys() & {"uploads", "uploadId", "delete", "versioning", "location"}:
        return "other"
    return {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "delete"}.get(method, "other")

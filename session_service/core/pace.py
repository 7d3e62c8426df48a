"""How long until the next periodic checkpoint: the policy's goal, stretched by what saving costs, shortened
by what is at risk.

Pure: what was measured comes in, an interval and the rule that decided come out. Not the order in which
sessions are served (`checkpoints/workers.py`), and not the checkpoints of a loss, a demand or a close, which
never wait for it. Each rule says how long the pause should be at least; the longest wins, then what is at
risk may shorten it, as far as the machine bears it; the policy's bounds have the last word. So the promise
that a user is shown is always one that was worked out, never a hope.

Source: docs/design/0017-saving-by-rule.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from session_service.core import limits
from session_service.core.policy import Policy

TIME_FACTOR: Final = 4.0
"""A save that took so long is followed by a pause of this many times that: at most a fifth of a session's
time goes into saving it, whatever its home is like.
"""
WORKERS_SHARE: Final = 0.5
"""Of the workers' time for periodic saves; the rest is for closes, starts and people who ask."""
RISK_BYTES: Final = 64 * 1024 * 1024
"""More new bytes than this should not wait for the next save, if saving them is cheap."""
BACK_OFF: Final = 2.0
"""With each failure in a row the pause grows by this."""
FAILURES_MAX: Final = 16
"""More make no difference: the ceiling is reached long before."""
SMOOTHING: Final = 0.3
"""Weight of the newest value in averages: three or four saves forget what was before."""


class Rule(StrEnum):
    """Which rule an interval follows."""

    TARGET = "target"
    SCAN = "scan"
    DURATION = "duration"
    CROWD = "crowd"
    BANDWIDTH = "bandwidth"
    STORE = "store"
    RISK = "risk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the saves of one session cost lately; smoothed, but for `scan_s` and `total_s` of the last."""

    scan_s: float = 0.0
    total_s: float = 0.0
    mean_s: float = 0.0
    """Of a save, those without a change included."""
    stored_bytes: float = 0.0
    """Of a save, sealed."""
    bytes_per_s: float = 0.0
    """New sealed bytes by time between saves: how fast the home changes."""
    failures: int = 0
    """In a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who else is saved on this node."""

    sessions: int = 1
    mean_s: float = 0.0
    """Of a save, over all of them."""
    workers: int = 1
    upload_bytes_per_s: float | None = None
    """The node's limit; None: there is none."""
    change_bytes_per_s: float = 0.0
    """New sealed bytes of all sessions together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The interval in force, and why."""

    interval_s: float
    rule: Rule
    promise_s: float
    """While something changes, saved-as-of is at most this old: the pause, and two saves beside it. A save's
    time counts twice: what changes right after a scan began is in the next one only.
    """


def after_save(
    cost: Cost, *, scan_s: float, total_s: float, stored_bytes: int, since_last_s: float | None
) -> Cost:
    """Return the cost with one more save that went well.

    Args:
        stored_bytes: new sealed bytes; 0 if nothing had changed.
        since_last_s: between the beginnings of the last two saves; None for the first.
    """
    first = cost.mean_s == 0.0
    rate = cost.bytes_per_s
    if since_last_s is not None and since_last_s > 0:
        rate = _smoothed(rate, stored_bytes / since_last_s)
    return Cost(
        scan_s=scan_s,
        total_s=total_s,
        mean_s=total_s if first else _smoothed(cost.mean_s, total_s),
        stored_bytes=float(stored_bytes) if first else _smoothed(cost.stored_bytes, stored_bytes),
        bytes_per_s=rate,
    )


def after_failure(cost: Cost) -> Cost:
    """Return the cost with one more save that the store did not take."""
    return Cost(
        scan_s=cost.scan_s,
        total_s=cost.total_s,
        mean_s=cost.mean_s,
        stored_bytes=cost.stored_bytes,
        bytes_per_s=cost.bytes_per_s,
        failures=min(cost.failures + 1, FAILURES_MAX),
    )


def _smoothed(old: float, new: float) -> float:
    return old + SMOOTHING * (new - old)


def crowd_of(costs: Sequence[Cost], *, workers: int, upload_bytes_per_s: float | None = None) -> Crowd:
    """Return what a node's sessions are together."""
    saved = [cost.mean_s for cost in costs if cost.mean_s > 0.0]
    return Crowd(
        sessions=max(1, len(costs)),
        mean_s=sum(saved) / len(saved) if saved else 0.0,
        workers=max(1, workers),
        upload_bytes_per_s=upload_bytes_per_s,
        change_bytes_per_s=sum(cost.bytes_per_s for cost in costs),
    )


def pace(policy: Policy, cost: Cost, crowd: Crowd) -> Pace:
    """Return how long to wait after a save of a session.

    The interval lies between the policy's `checkpoint_floor_s` and `checkpoint_ceiling_s`; a goal outside of
    these is the goal all the same.
    """
    target_s = policy.checkpoint_target_s
    wanted = [
        (target_s, Rule.TARGET),
        (limits.SAVE_SCAN_FACTOR * cost.scan_s, Rule.SCAN),
        (TIME_FACTOR * cost.total_s, Rule.DURATION),
        (crowd.sessions * crowd.mean_s / (crowd.workers * WORKERS_SHARE), Rule.CROWD),
        (_bandwidth_s(cost, crowd), Rule.BANDWIDTH),
        (target_s * (BACK_OFF**cost.failures) if cost.failures else 0.0, Rule.STORE),
    ]
    interval_s, rule = max(wanted, key=lambda one: one[0])
    if rule is Rule.TARGET:
        bearable_s = max(seconds for seconds, why in wanted if why is not Rule.TARGET)
        risk_s = RISK_BYTES / cost.bytes_per_s if cost.bytes_per_s > 0 else target_s
        shorter_s = max(bearable_s, risk_s)
        if shorter_s < interval_s:
            interval_s, rule = shorter_s, Rule.RISK
    low_s = min(policy.checkpoint_floor_s, target_s)
    high_s = max(policy.checkpoint_ceiling_s, target_s)
    interval_s = min(max(interval_s, low_s), high_s)
    return Pace(interval_s=interval_s, rule=rule, promise_s=interval_s + 2 * cost.total_s)


def _bandwidth_s(cost: Cost, crowd: Crowd) -> float:
    """Return the pause after which this session's share of the line has carried what a save needs.

    Shares are as large as what a session changes: who writes much gets more of the line, who writes little
    never waits for it.
    """
    if crowd.upload_bytes_per_s is None or cost.stored_bytes <= 0:
        return 0.0
    if crowd.change_bytes_per_s <= crowd.upload_bytes_per_s:
        return 0.0
    part = cost.bytes_per_s / crowd.change_bytes_per_s if crowd.change_bytes_per_s > 0 else 1.0
    mine = max(part, 1.0 / crowd.sessions) * crowd.upload_bytes_per_s
    return cost.stored_bytes / mine

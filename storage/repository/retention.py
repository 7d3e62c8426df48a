"""Which checkpoints may be forgotten: pure arithmetic over the rows of a log.

A policy keeps the newest checkpoints, all of the last while, and the newest of each hour, day, week and
month that has one, counted back from the newest. Whatever no rule keeps is forgotten, except what must
never be: see `_held`. Times are those of the scans, in UTC; a row from the future of `now` counts as now.
Forgetting deletes nothing: that takes an R of a later garbage collection.

Source: storage.md 4.4, table "never in an F", rule 9.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from storage.errors import ClocksApart
from storage.format.entries import CheckpointFlag
from storage.repository.state import LogState, Row

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
CLOCKS_APART_MS_MAX: Final = DAY_MS
"""Host and store clocks further apart than this: nothing is forgotten and nothing unpinned."""
SMALLER_KEPT_MS: Final = 30 * DAY_MS
"""A C1 whose C2 was smaller and accepted stays this long after the next verified close."""
SIDE_KEPT_MS: Final = 30 * DAY_MS
"""A conflict checkpoint stays at least this long after its user was told of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many checkpoints to keep. All zero would keep only what must never be forgotten."""

    keep_last: int = 10
    hourly: int = 24
    daily: int = 14
    weekly: int = 8
    monthly: int = 12
    within_ms: int = HOUR_MS
    """Everything younger than this is kept."""

    def words(self) -> str:
        """Return the policy as it is written into an F."""
        within = self.within_ms // 60_000
        return (
            f"last={self.keep_last} hourly={self.hourly} daily={self.daily} weekly={self.weekly} "
            f"monthly={self.monthly} within={within}min"
        )


def now_of(host_ms: int, store_ms: int | None) -> int:
    """Return retention's "now": the earlier of the host's clock and the store's.

    Raises:
        ClocksApart: they are more than a day apart.
    """
    if store_ms is None:
        return host_ms
    if abs(host_ms - store_ms) > CLOCKS_APART_MS_MAX:
        raise ClocksApart(host_ms=host_ms, store_ms=store_ms)
    return min(host_ms, store_ms)


def to_forget(state: LogState, policy: Retention, now_ms: int) -> list[int]:
    """Return the numbers of the checkpoints that policy and rules let go, ascending."""
    rows = state.checkpoints()
    kept = _held(state, rows, now_ms) | _wanted(rows, policy, now_ms)
    return [row.seq for row in rows if row.seq not in kept]


def sides_to_forget(state: LogState, told_ms: dict[int, int], dropped: set[int], now_ms: int) -> list[int]:
    """Return the B numbers of side branches that may go: those their user dropped, and those he was told of
    at least 30 days ago. A pinned one stays.
    """
    return [
        seq
        for seq in sorted(state.sides)
        if not state.pinned.get(seq, False)
        and (seq in dropped or (seq in told_ms and now_ms - told_ms[seq] >= SIDE_KEPT_MS))
    ]


def may_forget(state: LogState, seq: int, now_ms: int) -> str:
    """Return why a checkpoint must stay, or an empty text if a person may forget it by hand."""
    row = state.row(seq)
    if row is not None and seq in state.sides:
        return "it is pinned" if state.pinned.get(seq, False) else ""
    if row is None or not state.counts(row):
        return "there is no such checkpoint"
    rows = state.checkpoints()
    if seq in {one.seq for one in _newest_ones(rows)}:
        return "it is the newest of its kind"
    if state.pinned.get(seq, False):
        return "it is pinned"
    return "it is the first checkpoint of a close" if seq in _held_firsts(state, rows, now_ms) else ""


def _wanted(rows: list[Row], policy: Retention, now_ms: int) -> set[int]:
    kept = {row.seq for row in rows[len(rows) - policy.keep_last :]} if policy.keep_last > 0 else set()
    kept |= {row.seq for row in rows if now_ms - _taken_ms(row, now_ms) < policy.within_ms}
    for count, period in (
        (policy.hourly, _hour),
        (policy.daily, _day),
        (policy.weekly, _week),
        (policy.monthly, _month),
    ):
        kept |= _newest_of_each(rows, count, period, now_ms)
    return kept


def _newest_of_each(
    rows: list[Row], count: int, period: Callable[[datetime], object], now_ms: int
) -> set[int]:
    """Return the newest complete checkpoint of each of the last `count` periods that have one."""
    found: dict[object, int] = {}
    for row in reversed(rows):
        if len(found) >= count:
            break
        if row.has(CheckpointFlag.COMPLETE):
            found.setdefault(period(_instant(_taken_ms(row, now_ms))), row.seq)
    return set(found.values())


def _held(state: LogState, rows: list[Row], now_ms: int) -> set[int]:
    """Return what no policy may let go: the newest, pins, and the first checkpoints of closes."""
    held = {row.seq for row in _newest_ones(rows)}
    held |= {row.seq for row in rows if state.pinned.get(row.seq, False)}
    return held | _held_firsts(state, rows, now_ms)


def _newest_ones(rows: list[Row]) -> list[Row]:
    """Return the newest checkpoint, the newest complete one and the newest final one."""
    found = rows[-1:]
    for flag in (CheckpointFlag.COMPLETE, CheckpointFlag.FINAL):
        found = found + [row for row in rows if row.has(flag)][-1:]
    both = [row for row in rows if row.has(CheckpointFlag.COMPLETE) and row.has(CheckpointFlag.FINAL)]
    return found + both[-1:]


def closed_firsts(state: LogState) -> list[Row]:
    """Return the C1 whose close has a C2 and which no K has named yet: a K(pin = false) may release them."""
    rows = state.checkpoints()
    return [
        row
        for at, row in enumerate(rows)
        if row.has(CheckpointFlag.FIRST_OF_CLOSE)
        and row.seq not in state.pinned
        and any(later.has(CheckpointFlag.FINAL) and later.session == row.session for later in rows[at + 1 :])
    ]


def _held_firsts(state: LogState, rows: list[Row], now_ms: int) -> set[int]:
    """Return the C1 that stay: until a K releases them, and then while their C2 was smaller and young."""
    held: set[int] = set()
    for at, row in enumerate(rows):
        if not row.has(CheckpointFlag.FIRST_OF_CLOSE):
            continue
        if state.pinned.get(row.seq, True):
            held.add(row.seq)  # no K(pin = false) has named it
            continue
        finals = [later for later in rows[at + 1 :] if later.has(CheckpointFlag.FINAL)]
        second = next((one for one in finals if one.session == row.session), None)
        if second is None or not second.has(CheckpointFlag.SMALLER_ACCEPTED):
            continue
        others = [one for one in finals if one.session != row.session]
        if not others or now_ms - _taken_ms(others[0], now_ms) < SMALLER_KEPT_MS:
            held.add(row.seq)
    return held


def _taken_ms(row: Row, now_ms: int) -> int:
    assert row.checkpoint is not None, "only checkpoints have a scan"
    return min(max(row.checkpoint.scan_ms, 0), now_ms)


def _instant(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _hour(at: datetime) -> object:
    return (at.date(), at.hour)


def _day(at: datetime) -> object:
    return at.date()


def _week(at: datetime) -> object:
    return at.isocalendar()[:2]


def _month(at: datetime) -> object:
    return (at.year, at.month)

"""Which checkpoints a policy keeps: arithmetic over rows, without a store."""

import pytest

from storage.errors import ClocksApart
from storage.format.entries import Checkpoint, CheckpointFlag, EntryKind, Report, Totals
from storage.format.tree import Entry
from storage.repository.retention import (
    DAY_MS,
    HOUR_MS,
    Retention,
    closed_firsts,
    may_forget,
    now_of,
    to_forget,
)
from storage.repository.state import LogState, Row


def only(**rule: int) -> Retention:
    """Return a policy with one rule."""
    none = {"keep_last": 0, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0, "within_ms": 0}
    return Retention(**(none | rule))


NONE = only()
COMPLETE, FINAL, FIRST = CheckpointFlag.COMPLETE, CheckpointFlag.FINAL, CheckpointFlag.FIRST_OF_CLOSE
NOW = 1_700_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2
"""Noon in UTC."""


def log_of(*scans: tuple[int, CheckpointFlag] | tuple[int, CheckpointFlag, str]) -> LogState:
    """Return a log with a take-over and one checkpoint per (scan, flags, session)."""
    state = LogState(config_hash=bytes(32), fence=1)
    row = {"hash": bytes(32), "fence": 1, "time_ms": 0, "void": False}
    state.rows.append(Row(seq=1, kind=EntryKind.TAKE_OVER, **row))
    root = Entry(b"", 2, 0o700, None, None, 0, 0, 0, (bytes(16), 0), None)
    for at, (scan_ms, flags, *session) in enumerate(scans):
        name = session[0] if session else "s"
        fields = Checkpoint(
            name, int(flags), "r", 0, root, scan_ms, None, (0, 0), Totals(0, 1, 0, 0),
            Report(0, 0, 0, 0, [], None), [], [], [],
        )  # fmt: skip
        state.rows.append(Row(seq=at + 2, kind=EntryKind.CHECKPOINT, session=name, checkpoint=fields, **row))
    return state


def kept(state: LogState, policy: Retention) -> list[int]:
    """Return the positions, from 0, of the checkpoints that stay."""
    gone = set(to_forget(state, policy, NOW))
    return [row.seq - 2 for row in state.checkpoints() if row.seq not in gone]


def test_the_newest_of_each_kind_stays_under_every_policy():
    state = log_of((1, COMPLETE | FINAL), (2, COMPLETE), (3, CheckpointFlag(0)))
    assert kept(state, NONE) == [0, 1, 2]
    state = log_of((1, COMPLETE | FINAL), (2, COMPLETE), (3, COMPLETE))
    assert kept(state, NONE) == [0, 2]
    state = log_of((1, COMPLETE | FINAL), (2, FINAL), (3, COMPLETE), (4, COMPLETE))
    assert kept(state, NONE) == [0, 1, 3], "the last close was accepted without some files"


def test_the_last_ones_and_those_of_a_while_stay():
    scans = [(NOW - minutes * 60_000, COMPLETE) for minutes in (300, 200, 100, 50, 10)]
    assert kept(log_of(*scans), only(keep_last=3)) == [2, 3, 4]
    assert kept(log_of(*scans), only(within_ms=HOUR_MS)) == [3, 4]


def test_of_each_hour_and_day_the_newest_stays():
    scans = [
        (NOW - hours * HOUR_MS + minutes * 60_000, COMPLETE) for hours in (5, 4, 3) for minutes in (5, 40)
    ]
    assert kept(log_of(*scans), only(hourly=2)) == [3, 5]
    days = [(NOW - days * DAY_MS + minutes * 60_000, COMPLETE) for days in (40, 9, 2) for minutes in (5, 40)]
    assert kept(log_of(*days), only(daily=2)) == [3, 5]
    assert kept(log_of(*days), only(weekly=9)) == [1, 3, 5]


def test_incomplete_ones_never_stand_for_an_hour():
    state = log_of(
        (NOW - 2 * HOUR_MS, COMPLETE), (NOW - 2 * HOUR_MS + 60_000, CheckpointFlag(0)), (NOW, COMPLETE)
    )
    assert kept(state, only(hourly=2)) == [0, 2]


def test_a_pin_holds_and_an_unpinned_one_goes():
    state = log_of((1, COMPLETE), (2, COMPLETE), (3, COMPLETE))
    state.pinned[2] = True
    assert kept(state, NONE) == [0, 2]
    assert may_forget(state, 2, NOW) == "it is pinned"
    state.pinned[2] = False
    assert kept(state, NONE) == [2]
    assert may_forget(state, 2, NOW) == ""


def test_the_first_of_a_close_stays_until_a_k_names_it():
    state = log_of((1, COMPLETE | FIRST), (2, COMPLETE | FINAL), (3, COMPLETE))
    assert kept(state, NONE) == [0, 1, 2]
    assert [row.seq for row in closed_firsts(state)] == [2]
    state.pinned[2] = False
    assert closed_firsts(state) == []
    assert kept(state, NONE) == [1, 2]


def test_a_first_with_a_smaller_second_stays_thirty_days_after_the_next_close():
    smaller = COMPLETE | FINAL | CheckpointFlag.SMALLER_ACCEPTED
    old, young = NOW - 31 * DAY_MS, NOW - 29 * DAY_MS
    for next_close, stays in ((old, False), (young, True)):
        state = log_of((1, COMPLETE | FIRST, "a"), (2, smaller, "a"), (next_close, COMPLETE | FINAL, "b"))
        state.pinned[2] = False
        assert (0 in kept(state, NONE)) == stays
    state = log_of((1, COMPLETE | FIRST, "a"), (2, smaller, "a"))
    state.pinned[2] = False
    assert 0 in kept(state, NONE), "there was no close after it"


def test_scans_from_the_future_count_as_now():
    state = log_of((NOW + 900 * DAY_MS, COMPLETE), (NOW - HOUR_MS, COMPLETE))
    assert kept(state, NONE) == [1]


def test_now_is_the_earlier_clock_and_nothing_happens_where_they_disagree():
    assert now_of(5_000, 4_000) == 4_000
    assert now_of(4_000, 5_000) == 4_000
    assert now_of(4_000, None) == 4_000
    with pytest.raises(ClocksApart):
        now_of(3 * DAY_MS, DAY_MS)

"""How long until the next save: each rule by itself, and who wins."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.core import pace as paces
from session_service.core.pace import Cost, Crowd, Rule, after_failure, after_save, crowd_of, pace
from session_service.core.policy import DEFAULT

ALONE = Crowd()
CHEAP = Cost(scan_s=0.01, total_s=0.05, mean_s=0.05)


def test_a_cheap_save_is_repeated_at_the_goal_of_the_policy():
    found = pace(DEFAULT, CHEAP, ALONE)
    assert (found.interval_s, found.rule) == (10.0, Rule.TARGET)


def test_a_long_scan_is_not_begun_again_at_once():
    found = pace(DEFAULT, replace(CHEAP, scan_s=2.0, total_s=2.1), ALONE)
    assert (found.interval_s, found.rule) == (40.0, Rule.SCAN)


def test_a_long_upload_takes_at_most_a_fifth_of_the_time():
    found = pace(DEFAULT, replace(CHEAP, total_s=30.0), ALONE)
    assert (found.interval_s, found.rule) == (120.0, Rule.DURATION)


def test_many_sessions_share_half_of_the_workers():
    """A hundred of them with saves of 0.4 s on two workers: one worker's whole time is 40 s."""
    found = pace(DEFAULT, CHEAP, Crowd(sessions=100, mean_s=0.4, workers=2))
    assert (found.interval_s, found.rule) == (40.0, Rule.CROWD)


def test_a_full_line_is_shared_by_what_each_changes():
    """Two MB/s are wanted and one is there: who changes three quarters of it gets three quarters."""
    crowd = Crowd(sessions=2, upload_bytes_per_s=1e6, change_bytes_per_s=2e6)
    found = pace(DEFAULT, replace(CHEAP, stored_bytes=30e6, bytes_per_s=1.5e6), crowd)
    assert (found.interval_s, found.rule) == (40.0, Rule.BANDWIDTH)


def test_each_failure_of_the_store_doubles_the_pause_up_to_the_ceiling():
    cost, seen = CHEAP, []
    for _ in range(7):
        cost = after_failure(cost)
        seen.append(pace(DEFAULT, cost, ALONE).interval_s)
    assert seen == [20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_one_success_ends_the_pause_of_failures():
    cost = after_failure(after_failure(CHEAP))
    cost = after_save(cost, scan_s=0.01, total_s=0.05, stored_bytes=0, since_last_s=10.0)
    assert pace(DEFAULT, cost, ALONE).interval_s == 10.0


def test_much_at_risk_is_saved_sooner_where_that_is_cheap():
    """16 MiB/s: after four seconds 64 MiB would be lost; the floor of the policy is five."""
    found = pace(DEFAULT, replace(CHEAP, bytes_per_s=16 * 1024 * 1024), ALONE)
    assert (found.interval_s, found.rule) == (5.0, Rule.RISK)


def test_risk_never_overrules_what_the_machine_bears():
    found = pace(DEFAULT, Cost(scan_s=0.4, total_s=0.5, mean_s=0.5, bytes_per_s=1e9), ALONE)
    assert (found.interval_s, found.rule) == (8.0, Rule.RISK)


def test_the_promise_counts_the_time_of_two_saves():
    assert pace(DEFAULT, replace(CHEAP, total_s=1.0), ALONE).promise_s == 12.0


def test_a_goal_outside_of_the_bounds_is_the_goal_all_the_same():
    hourly = replace(DEFAULT, checkpoint_target_s=3_600.0)
    assert pace(hourly, CHEAP, ALONE).interval_s == 3_600.0
    each_second = replace(DEFAULT, checkpoint_target_s=1.0)
    assert pace(each_second, CHEAP, ALONE).interval_s == 1.0


def test_averages_forget_in_a_few_saves():
    cost = Cost()
    for _ in range(20):
        cost = after_save(cost, scan_s=0.1, total_s=1.0, stored_bytes=1_000, since_last_s=10.0)
    assert cost.bytes_per_s == pytest.approx(100, rel=0.01)
    for _ in range(10):
        cost = after_save(cost, scan_s=0.1, total_s=0.1, stored_bytes=0, since_last_s=10.0)
    assert cost.bytes_per_s < 5
    assert cost.mean_s < 0.13


def test_a_crowd_is_what_its_sessions_are():
    found = crowd_of([CHEAP, replace(CHEAP, mean_s=0.15), Cost()], workers=3)
    assert (found.sessions, found.workers) == (3, 3)
    assert found.mean_s == pytest.approx(0.1)


numbers = st.floats(min_value=0, max_value=1e9)


@given(
    cost=st.builds(
        Cost,
        scan_s=numbers,
        total_s=numbers,
        mean_s=numbers,
        stored_bytes=numbers,
        bytes_per_s=numbers,
        failures=st.integers(0, paces.FAILURES_MAX),
    ),
    sessions=st.integers(1, 10_000),
    mean_s=numbers,
    line=st.none() | st.floats(min_value=1, max_value=1e10),
    change=numbers,
)
def test_whatever_was_measured_the_interval_lies_within_its_bounds(cost, sessions, mean_s, line, change):
    crowd = Crowd(sessions=sessions, mean_s=mean_s, upload_bytes_per_s=line, change_bytes_per_s=change)
    found = pace(DEFAULT, cost, crowd)
    assert DEFAULT.checkpoint_floor_s <= found.interval_s <= DEFAULT.checkpoint_ceiling_s
    assert found.promise_s >= found.interval_s

"""The availability clock and the wheel of deadlines: never early, and late by known amounts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.core.availability import SLICE_MS_MAX, TICK_MS, Availability, remaining_ms
from session_service.core.wheel import SLICE_KEYS_MAX, SLOT_MS, Wheel


def clock(**more: int) -> Availability:
    values = {"count_ms": 10_000, "beat": 5, "boot_ms": 100_000, "mono_ms": 50_000} | more
    return Availability(**values)  # type: ignore[arg-type]  # all of them are numbers


@pytest.mark.parametrize(
    ("boot", "mono", "counted"),
    [
        (2_000, 2_000, 2_000),
        (5_000, 5_000, 5_000),
        (5_001, 5_001, 0),
        (3_600_000, 2_000, 0),
        (3_000, 1_000, 1_000),
        (0, 0, 0),
    ],
    ids=["a tick", "a slice", "too late", "a suspend", "a short suspend", "at once"],
)
def test_a_gap_counts_in_full_or_not_at_all(boot: int, mono: int, counted: int) -> None:
    """Lateness is judged by the clock that runs through a suspend, the amount is the smaller of both."""
    after = clock().next_tick(boot_ms=100_000 + boot, mono_ms=50_000 + mono)
    assert after.count_ms == 10_000 + counted
    assert after.beat == 6


def test_a_late_tick_counts_nothing_four_hundred_times() -> None:
    """SIGSTOP 6 s, CONT 10 ms: a cap of one slice would count half an hour that nobody could use."""
    now = clock()
    for round_ in range(1, 401):
        moment = {"boot_ms": 100_000 + round_ * 6_010, "mono_ms": 50_000 + round_ * 6_010}
        now = now.next_tick(**moment)
    assert now.count_ms == 10_000


def test_a_gap_in_which_users_were_refused_counts_nothing_and_the_next_one_counts_again() -> None:
    """Draining, a failed probe, a loop that lagged."""
    refused = clock().refused_users()
    after = refused.next_tick(boot_ms=102_000, mono_ms=52_000)
    assert after.count_ms == 10_000
    assert after.next_tick(boot_ms=104_000, mono_ms=54_000).count_ms == 12_000


def test_a_thousand_holds_that_begin_one_millisecond_before_a_tick_last_in_full() -> None:
    """The last written value as a base would end each of them up to a tick early."""
    now, boot, mono = clock(), 100_000, 50_000
    for _ in range(1_000):
        drop = {"boot_ms": boot + TICK_MS - 1, "mono_ms": mono + TICK_MS - 1}
        base = now.base_ms(**drop)
        boot, mono = boot + TICK_MS, mono + TICK_MS
        now = now.next_tick(boot_ms=boot, mono_ms=mono)
        assert base >= now.count_ms - 1
        elapsed = mono - drop["mono_ms"]
        assert now.count_ms - base <= elapsed


@given(
    st.lists(st.tuples(st.integers(0, 9_000), st.integers(0, 9_000), st.booleans()), max_size=60),
    st.integers(0, 59),
)
def test_what_is_consumed_never_exceeds_the_time_that_passed(
    gaps: list[tuple[int, int, bool]], dropped_at: int
) -> None:
    """Any gaps, suspends and refusals: counter minus base is at most the monotonic time since the loss."""
    now, boot, mono = clock(), 100_000, 50_000
    base = lost_at = None
    for number, (gap, asleep, refused) in enumerate(gaps):
        boot, mono = boot + gap + asleep, mono + gap
        if number == dropped_at:
            base, lost_at = now.base_ms(boot_ms=boot, mono_ms=mono), mono
        if refused:
            now = now.refused_users()
        if number % 2:
            now = now.next_tick(boot_ms=boot, mono_ms=mono)
        if base is not None and lost_at is not None:
            assert now.count_ms - base <= mono - lost_at


def test_a_base_covers_a_tick_that_is_on_its_way() -> None:
    """A tick was built and its answer is awaited: the base is not below what it may have written."""
    before = clock()
    sent = before.next_tick(boot_ms=104_900, mono_ms=54_900)
    assert before.base_ms(boot_ms=105_500, mono_ms=55_500) >= sent.count_ms
    assert before.base_ms(boot_ms=900_000, mono_ms=800_000) == 10_000 + SLICE_MS_MAX + 1


def test_what_remains_is_never_negative() -> None:
    """Display never counts below zero."""
    assert remaining_ms(deadline_ms=5, reading_ms=9) == 0
    assert remaining_ms(deadline_ms=9, reading_ms=5) == 4


def test_the_wheel_gives_each_key_once_and_never_early() -> None:
    """Deadlines are rounded up to a slot."""
    wheel: Wheel[str] = Wheel()
    wheel.set("a", 1_500)
    wheel.set("b", 1_000)
    assert wheel.next_deadline_ms() == 1_000
    assert wheel.due(1_499) == ("b",)
    assert wheel.due(1_999) == ()
    assert wheel.due(2_000) == ("a",)
    assert wheel.next_deadline_ms() is None
    assert len(wheel) == 0


def test_a_moved_deadline_replaces_the_older_one() -> None:
    """Extended, resumed and dropped again: one entry per key."""
    wheel: Wheel[str] = Wheel()
    wheel.set("a", 1_000)
    wheel.set("a", 9_000)
    assert wheel.due(5_000) == ()
    assert "a" in wheel
    wheel.remove("a")
    wheel.remove("a")
    assert wheel.due(50_000) == ()


def test_due_keys_come_in_slices() -> None:
    """Five thousand holds at once do not hold the loop up."""
    wheel: Wheel[int] = Wheel()
    for key in range(1_000):
        wheel.set(key, 1)
    taken: list[int] = []
    while due := wheel.due(SLOT_MS):
        assert len(due) <= SLICE_KEYS_MAX
        taken += due
    assert taken == list(range(1_000))


def test_the_wheel_agrees_with_a_sorted_list() -> None:
    """Random sets, removals and looks, from one seed."""
    dice, wheel, plain = random.Random(3), Wheel[int](), {}
    reading = 0
    for _ in range(5_000):
        act, key = dice.random(), dice.randrange(200)
        if act < 0.6:
            deadline = reading + dice.randrange(100_000)
            wheel.set(key, deadline)
            plain[key] = -(-deadline // SLOT_MS) * SLOT_MS
        elif act < 0.8:
            wheel.remove(key)
            plain.pop(key, None)
        else:
            reading += dice.randrange(20_000)
            due: set[int] = set()
            while slice_ := wheel.due(reading):
                due |= set(slice_)
            assert due == {key for key, at in plain.items() if at <= reading}
            plain = {key: at for key, at in plain.items() if key not in due}
        assert wheel.next_deadline_ms() == min(plain.values(), default=None)

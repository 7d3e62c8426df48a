"""Pauses after failed attempts, in time that the test moves."""

from session_service.http import limits
from session_service.http.throttle import Throttle


def test_the_pause_doubles_up_to_an_hour() -> None:
    """And each one must be sat out."""
    throttle, now, pauses = Throttle(tries=2), 0, []
    for _ in range(12):
        verdict = throttle.begin("ada", now_ms=now)
        assert verdict.allowed
        if verdict.tries_left == 0:
            pauses.append(verdict.pause_s)
            assert not throttle.begin("ada", now_ms=now + round(verdict.pause_s * 1000) - 1).allowed
            now += round(verdict.pause_s * 1000)
    assert pauses[:4] == [60, 120, 240, 480]
    assert pauses[-1] == limits.PAUSE_S_MAX


def test_attempts_at_the_same_moment_gain_nothing() -> None:
    """Each counts from its beginning, not from its answer."""
    throttle = Throttle(tries=5)
    assert sum(throttle.begin("ada", now_ms=0).allowed for _ in range(100)) == 5


def test_a_right_attempt_gives_its_own_try_back_only() -> None:
    """An attacker with an account of their own must not reset the address they attack from."""
    throttle = Throttle(tries=3)
    throttle.begin("address", now_ms=0)
    throttle.begin("address", now_ms=0)
    throttle.begin("address", now_ms=0)
    throttle.give_back("address")
    assert throttle.begin("address", now_ms=0).tries_left == 0
    assert not throttle.begin("address", now_ms=0).allowed


def test_failures_are_forgotten_after_a_quiet_hour() -> None:
    """Counted from the end of the pause."""
    throttle = Throttle(tries=1)
    throttle.begin("ada", now_ms=0)
    quiet_ms = round((limits.PAUSE_S_FIRST + limits.FAILURES_FORGOTTEN_S) * 1000)
    assert throttle.begin("ada", now_ms=quiet_ms).pause_s == 120
    throttle.begin("bob", now_ms=0)
    assert throttle.begin("bob", now_ms=quiet_ms + 1).pause_s == 60


def test_many_names_take_bounded_memory(monkeypatch) -> None:
    """The one that failed longest ago is forgotten first."""
    monkeypatch.setattr(limits, "THROTTLE_KEYS_MAX", 3)
    throttle = Throttle(tries=2)
    for name in ("a", "b", "c", "a", "d"):
        throttle.begin(name, now_ms=0)
    assert not throttle.begin("a", now_ms=0).allowed
    assert throttle.begin("b", now_ms=0).tries_left == 1

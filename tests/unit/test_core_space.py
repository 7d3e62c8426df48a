"""The decision about a disk that fills up: who is named, who is stopped, and who goes on."""

import pytest

from session_service.base.ids import SessionId
from session_service.core.space import Growth, decide, keeps_frozen

A, B, C = SessionId("a"), SessionId("b"), SessionId("c")
HOMES = (
    Growth(session_id=A, grown_bytes=5),
    Growth(session_id=B, grown_bytes=900),
    Growth(session_id=C, grown_bytes=0),
)


def test_with_enough_space_nothing_is_said_or_done() -> None:
    found = decide(free_mb=1024, limit_mb=1024, homes=HOMES, frozen=())
    assert (found.low, found.named, found.freeze, found.thaw) == (False, (), None, ())


def test_below_the_limit_those_who_grew_are_named_most_first_and_nobody_is_stopped() -> None:
    found = decide(free_mb=1023, limit_mb=1024, homes=HOMES, frozen=())
    assert found.low
    assert [home.session_id for home in found.named] == [B, A]
    assert found.freeze is None


def test_below_a_quarter_the_fastest_is_stopped_then_the_next() -> None:
    assert decide(free_mb=255, limit_mb=1024, homes=HOMES, frozen=()).freeze == B
    assert decide(free_mb=255, limit_mb=1024, homes=HOMES, frozen={B}).freeze == A


def test_who_did_not_grow_is_never_stopped() -> None:
    assert decide(free_mb=0, limit_mb=1024, homes=HOMES, frozen={A, B}).freeze is None


@pytest.mark.parametrize("free_mb", [255, 256, 400, 511])
def test_between_a_quarter_and_half_of_the_limit_who_is_stopped_stays_so(free_mb: int) -> None:
    assert decide(free_mb=free_mb, limit_mb=1024, homes=HOMES, frozen={B}).thaw == ()
    assert keeps_frozen(free_mb=free_mb, limit_mb=1024)


def test_from_half_of_the_limit_everybody_goes_on() -> None:
    found = decide(free_mb=512, limit_mb=1024, homes=HOMES, frozen={B, A})
    assert (found.low, found.thaw, found.freeze) == (True, (A, B), None)
    assert not keeps_frozen(free_mb=512, limit_mb=1024)


def test_a_limit_of_nothing_switches_the_guard_off() -> None:
    found = decide(free_mb=0, limit_mb=0, homes=HOMES, frozen=())
    assert (found.low, found.freeze, found.thaw) == (False, None, ())

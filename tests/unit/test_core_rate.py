"""How fast something moves and how long it will take."""

from session_service.core.rate import SAMPLES_MAX, Rate, told


def moved(rate: Rate, at_s: float, done: int, *, stage: str = "upload", total: int | None = 1_000) -> Rate:
    return told(rate, stage=stage, unit="bytes", done=done, total=total, at_ms=round(at_s * 1000))


def test_speed_and_seconds_left_are_those_of_the_last_seconds():
    rate = moved(moved(Rate(), 0, 0), 2, 200)
    assert (rate.per_s, rate.left_s) == (100.0, 8.0)
    rate = moved(rate, 12, 300)
    assert rate.per_s == 10.0, "what was fast is long ago"


def test_a_first_word_promises_nothing():
    rate = moved(Rate(), 0, 500)
    assert (rate.per_s, rate.left_s) == (None, None)


def test_without_a_total_nobody_knows_the_end():
    rate = moved(moved(Rate(), 0, 0, total=None), 1, 100, total=None)
    assert (rate.per_s, rate.left_s) == (100.0, None)


def test_another_stage_begins_anew():
    rate = moved(moved(moved(Rate(), 0, 0), 1, 100), 2, 5, stage="scan")
    assert (rate.stage, rate.per_s) == ("scan", None)


def test_a_repeated_attempt_begins_anew():
    """Less done than before: the call was begun again."""
    assert moved(moved(moved(Rate(), 0, 0), 1, 900), 2, 10).per_s is None


def test_what_stands_still_has_no_end():
    rate = moved(moved(Rate(), 0, 100), 5, 100)
    assert (rate.per_s, rate.left_s) == (0.0, None)


def test_only_so_much_is_remembered():
    rate = Rate()
    for number in range(1_000):
        rate = moved(rate, number / 1_000, number)
    assert len(rate.samples) <= SAMPLES_MAX

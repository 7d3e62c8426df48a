"""Rows of a benchmark: better is above one, whichever way the unit points."""

import json

import pytest

from tests.bench.report import Row, report


def test_more_is_better_by_default() -> None:
    """Twice the peer's throughput is a ratio of two."""
    row = Row(row="bulk, MB/s", ours=200, peer="other", peer_value=100, goal=1.6)
    assert row.ratio == 2
    assert row.met


def test_less_can_be_better() -> None:
    """Half the peer's time is a ratio of two as well."""
    row = Row(row="attach, ms", ours=50, peer="other", peer_value=100, goal=2.1, less_is_better=True)
    assert row.ratio == 2
    assert row.met is False


def test_a_goal_without_a_peer_is_a_value() -> None:
    """Ready within a fifth of a second."""
    assert Row(row="ready, s", ours=0.15, goal=0.2, less_is_better=True).met
    assert not Row(row="ready, s", ours=0.25, goal=0.2, less_is_better=True).met
    assert Row(row="facts only", ours=1).met is None


def test_a_missed_goal_ends_the_run_with_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts and people both see it."""
    rows = [Row(row="ready, s", ours=0.25, goal=0.2, less_is_better=True)]
    assert report("desktop", rows, as_json=False) == 1
    assert "NO" in capsys.readouterr().out


def test_json_has_the_promised_fields_and_nothing_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    """An infinite ratio is null."""
    assert report("relay", [Row(row="r", ours=1, peer="p", peer_value=0)], as_json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["rows"][0]) == ["row", "ours", "peer", "peer_value", "ratio", "goal", "met"]
    assert answer["rows"][0]["ratio"] is None

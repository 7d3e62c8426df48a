"""Random schedules of users, faults and kills against the real control code: no invariant is ever broken, and
all comes to rest.
"""

import pytest

from tests.sim.schedule import ALL_FAULTS, LOSES_NEWEST, Schedule

COUNTS = {"fast": 4, "all": 60, "soak": 3_000}


FOUND = (29, 43, 391, 1059, 1117, 1153)
"""Seeds that once found a bug: a hook's intent twice, a start from an unsettled backup, a frozen desktop that
nobody thawed, a desktop that a restored record called failed, a closed start that was revived."""


def broken(seed: int, faults: frozenset[str] = ALL_FAULTS) -> list[str]:
    return [f"seed {seed}: {words}" for words in Schedule(seed, faults=faults).run().witness.all_violations()]


def test_no_schedule_breaks_an_invariant(lane: str) -> None:
    """S1, S2, S4 to S8, S10, S12, S14 and liveness, under every fault that the world knows."""
    seen: dict[str, int] = {}
    for seed in range(COUNTS[lane]):
        played = Schedule(seed).run()
        assert not played.witness.all_violations(), (seed, played.witness.all_violations())
        for what, count in played.witness.seen.items():
            seen[what] = seen.get(what, 0) + count
    if lane == "fast":
        return
    expected = {
        "attached",
        "resumed",
        "closing: hold",
        "closing: user",
        "closed: saved",
        "closed: ended_by_user",
        "closed: saved_after_death",
        "closed: start_failed",
        "closed: reused",
        "lost: server_restart",
        "restored",
    }
    assert expected <= set(seen), f"a run that never sees {expected - set(seen)} proves little"


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_found_a_bug_finds_none(seed: int) -> None:
    """Schedules shift with the code, so each of these bugs has a test of its own, too."""
    assert not broken(seed)


@pytest.mark.parametrize(
    "faults", [(), ("kill",), ("store", "kill"), ("registry", "lost_answer", "kill"), ("restore",)]
)
def test_fewer_faults_break_nothing_either(faults: tuple[str, ...], lane: str) -> None:
    """Some bugs hide behind other faults."""
    for seed in range(10_000, 10_000 + COUNTS[lane] // 4):
        assert not broken(seed, frozenset(faults))


def test_a_store_that_loses_its_newest_checkpoint_ends_nothing_unsaved(lane: str) -> None:
    """Lost once the record names it, before anything ended and before the wipe, with crashes between."""
    seen: dict[str, int] = {}
    for seed in range(20_000, 20_000 + max(8, COUNTS[lane] // 4)):
        played = Schedule(seed, faults=frozenset({LOSES_NEWEST, "kill", "store"})).run()
        assert not played.witness.all_violations(), (seed, played.witness.all_violations())
        for what, count in played.witness.seen.items():
            seen[what] = seen.get(what, 0) + count
    assert {"lost at ending", "lost at ended"} <= set(seen), "a run in which nothing is lost proves nothing"


def test_the_same_seed_gives_the_same_trace() -> None:
    """S29: every call and every commit, in the same order at the same time."""
    first, second = Schedule(7).run(), Schedule(7).run()
    assert first.world.trace == second.world.trace
    assert len(first.world.trace) > 1_000
    assert Schedule(8).run().world.trace != first.world.trace

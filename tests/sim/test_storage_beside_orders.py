"""What is saved beside the log, and what a dead upkeep left, under every order of calls that matters.

A full base is saved where the log cannot be used, and counts once somebody writes its B. Here that meets
whatever else there is: garbage collection, a fold, a take-over, another one that writes the B, a user who
drops it, a machine that slept with the B in its hand over all of that. Conflict checkpoints meet folds and
owners. And a guard whose fold never came, because its upkeep was killed, stands before everybody else.
"""

import contextlib
import sys
from collections.abc import Callable

import pytest

from storage.errors import StorageError
from storage.format import names
from storage.format.entries import SideBranch
from storage.ops.full_base import Adoption, FullBaseSaving
from tests.fakes.storage_rig import REF
from tests.sim import storage_orders
from tests.sim.interleave import Explorer
from tests.sim.storage_orders import PREFIX, Actors, Bench, begun, world
from tests.sim.test_storage_interleavings import (
    Acts,
    a_b_is_placed_whatever_was_retired,
)

RUNS_MAX = 3
"""Orders of one world in the default lane; those of more have all of them run in the soak lane."""
BROKEN_RUNS_MAX = 300
SOAK_RUNS_MAX = 200_000
JAM_AT = 3
"""An E and a C come before what jams the log."""


async def machines(bench: Bench, *called: str) -> list:
    """Start processes that have read the log."""
    found = [bench.machine(name) for name in called]
    for one in found:
        with contextlib.suppress(StorageError):
            await one.head(REF)
    return found


async def jammed_and_saved_whole(bench: Bench, home: str = "C") -> None:
    """Something foreign lay at the log's end, and a home was saved whole beside it."""
    jam = f"{PREFIX}{names.log_entry(bench.next_seq())}"
    bench.objects[jam] = b"nobody knows what this is" * 9
    [saver] = await machines(bench, "saver")
    await bench.save_beside(saver, home, 1)
    assert bench.wholes
    del bench.objects[jam]


# --- a full base that waits for its B ----------------------------------------------------------------------


async def an_adoption_while_others_collect(bench: Bench) -> Actors:
    await jammed_and_saved_whole(bench)
    one, two = await machines(bench, "one", "two")
    return {"a": bench.adopt(one), "g": bench.collect(two, runs=2)}


async def two_that_adopt(bench: Bench) -> Actors:
    await jammed_and_saved_whole(bench)
    one, two = await machines(bench, "one", "two")
    return {"a": bench.adopt(one), "b": bench.adopt(two)}


async def an_adoption_while_the_workspace_is_taken_over(bench: Bench) -> Actors:
    await jammed_and_saved_whole(bench)
    one, new = await machines(bench, "one", "new")
    return {"a": bench.adopt(one), "n": bench.take_and_save(new, "A")}


async def an_adoption_that_slept_while_another_one_was_dropped_and_folded(bench: Bench) -> Actors:
    """One sleeps with the B in its hand; another adopts; the user drops it; it is given up, and all is folded
    and deleted.
    """
    await jammed_and_saved_whole(bench)
    one, busy = await machines(bench, "one", "busy")
    asleep = await bench.asleep("one", bench.adopt(one), bench.next_seq())
    await bench.adopt(busy)
    await bench.drop(busy)
    bench.fold_from(2)
    await bench.collect(busy, runs=1)
    return {"one": asleep, "busy": bench.collect(busy, runs=2)}


async def a_full_base_that_is_dropped_while_it_is_saved_again(bench: Bench) -> Actors:
    """Its user dropped it, and it is given up; the log is jammed again, and the same home is saved again."""
    await jammed_and_saved_whole(bench)
    stale, busy = await machines(bench, "stale", "busy")
    await bench.adopt(busy)
    await bench.drop(busy)
    await bench.collect(busy, runs=1)
    jam = f"{PREFIX}{names.log_entry(bench.next_seq())}"
    bench.objects[jam] = b"nobody knows what this is" * 9

    async def repair() -> None:
        await bench.step_over(busy)
        await bench.collect(busy, runs=1)

    return {"s": bench.save_beside(stale, "C", 1), "g": repair()}


async def a_full_base_while_the_log_is_put_right_and_taken_over(bench: Bench) -> Actors:
    """The stale desktop saves whole; a person steps over; somebody else takes over."""
    jam = f"{PREFIX}{names.log_entry(bench.next_seq())}"
    bench.objects[jam] = b"nobody knows what this is" * 9
    stale, operator = await machines(bench, "stale", "operator")

    async def repair() -> None:
        await bench.step_over(operator)
        await bench.take_and_save(operator, "A")

    return {"s": bench.save_beside(stale, "C", 1), "o": repair()}


# --- conflict checkpoints, folds and owners ----------------------------------------------------------------


async def a_conflict_checkpoint_while_the_log_is_folded(bench: Bench) -> Actors:
    """It relies on chunks inside of entries that are folded and go."""
    stale, cleaner = await machines(bench, "stale", "cleaner")
    return {"s": bench.save_beside(stale, "A", 1), "g": bench.collect(cleaner, runs=2)}


async def a_conflict_checkpoint_that_sleeps_over_a_fold(bench: Bench) -> Actors:
    """Its B is about to be placed under a number that a fold frees."""
    stale, busy = await machines(bench, "stale", "busy")
    asleep = await bench.asleep("stale", bench.save_beside(stale, "C", 1), bench.next_seq())
    await bench.save(busy, "B", 1)
    bench.fold_from(2)
    await bench.collect(busy, runs=1)
    return {"stale": asleep, "busy": bench.collect(busy, runs=1)}


async def a_conflict_checkpoint_while_the_new_owner_saves(bench: Bench) -> Actors:
    stale, new = await machines(bench, "stale", "new")
    return {"s": bench.save_beside(stale, "C", 1), "n": bench.take_and_save(new, "A")}


async def a_conflict_checkpoint_while_another_one_goes(bench: Bench) -> Actors:
    """One of the same branch was dropped; its object is given up and deleted while the next one is stored."""
    stale, busy = await machines(bench, "stale", "busy")
    await bench.save_beside(stale, "C", 1)
    await bench.drop(busy)
    return {"s": bench.save_beside(stale, "B", 1), "g": bench.collect(busy, runs=2)}


# --- a guard whose fold never came -------------------------------------------------------------------------


async def stray_guard(bench: Bench) -> None:
    """An upkeep is killed when its guard, its packs and its history stand, and its R does not."""
    bench.fold_from(2)
    [dead] = await machines(bench, "dead")
    await bench.killed("dead", bench.collect(dead, runs=1), bench.next_seq())
    bench.fold_from(10**9)
    assert f"{PREFIX}{names.fold_guard(1)}" in bench.objects


async def a_stray_guard_and_two_writers(bench: Bench) -> Actors:
    await stray_guard(bench)
    one, two = await machines(bench, "one", "two")
    return {"w": bench.save(one, "B", 1), "v": bench.save(two, "C", 1)}


async def a_stray_guard_and_a_collector(bench: Bench) -> Actors:
    """The dead one's packs and history are orphans, and are given up."""
    await stray_guard(bench)
    writer, cleaner = await machines(bench, "writer", "cleaner")
    return {"w": bench.save(writer, "C", 1), "g": bench.collect(cleaner, runs=2)}


async def a_stray_guard_and_the_next_fold(bench: Bench) -> Actors:
    """The fold that takes the guard's number comes while somebody saves."""
    await stray_guard(bench)
    bench.fold_from(2)
    writer, cleaner = await machines(bench, "writer", "cleaner")
    return {"w": bench.save(writer, "C", 1, tries=1), "g": bench.collect(cleaner, runs=2)}


async def a_stray_guard_and_a_take_over(bench: Bench) -> Actors:
    await stray_guard(bench)
    old, new = await machines(bench, "old", "new")
    return {"w": bench.save(old, "C", 1), "n": bench.take_and_save(new, "A")}


async def a_stray_guard_and_a_sleeper_over_the_next_fold(bench: Bench) -> Actors:
    """The sleeper knew the guard; its number is freed by the fold that uses it."""
    await stray_guard(bench)
    sleeper, busy = await machines(bench, "sleeper", "busy")
    asleep = await bench.asleep("sleeper", bench.save(sleeper, "C", 1, tries=1), bench.next_seq())
    await bench.save(busy, "B", 1)
    bench.fold_from(2)
    await bench.collect(busy, runs=1)
    return {"sleeper": asleep, "busy": bench.collect(busy, runs=1)}


async def a_stray_guard_and_a_conflict_checkpoint(bench: Bench) -> Actors:
    await stray_guard(bench)
    bench.fold_from(2)
    stale, cleaner = await machines(bench, "stale", "cleaner")
    return {"s": bench.save_beside(stale, "C", 1), "g": bench.collect(cleaner, runs=2)}


# --- more than two that collect ----------------------------------------------------------------------------


async def three_that_collect_and_fold(bench: Bench) -> Actors:
    found = await machines(bench, "one", "two", "three")
    return {name: bench.collect(one, runs=1) for name, one in zip("ghi", found, strict=True)}


WORLDS: dict[str, tuple[Acts, bool, str, str, bool]] = {
    # name: acts, contents in packs, saved before, of them forgotten, folds at once
    "adopt, collect": (an_adoption_while_others_collect, True, "AB", "A", False),
    "adopt, fold": (an_adoption_while_others_collect, False, "AB", "", True),
    "adopt twice": (two_that_adopt, True, "B", "", False),
    "adopt, take over": (an_adoption_while_the_workspace_is_taken_over, True, "B", "", False),
    "adopt asleep": (an_adoption_that_slept_while_another_one_was_dropped_and_folded, True, "B", "", False),
    "whole dropped": (a_full_base_that_is_dropped_while_it_is_saved_again, True, "B", "", False),
    "whole repaired": (a_full_base_while_the_log_is_put_right_and_taken_over, True, "B", "", False),
    "beside, fold": (a_conflict_checkpoint_while_the_log_is_folded, False, "AB", "", True),
    "beside, fold dead": (a_conflict_checkpoint_while_the_log_is_folded, False, "AB", "A", True),
    "beside asleep": (a_conflict_checkpoint_that_sleeps_over_a_fold, False, "A", "", False),
    "beside, owner": (a_conflict_checkpoint_while_the_new_owner_saves, True, "B", "", False),
    "beside, another goes": (a_conflict_checkpoint_while_another_one_goes, True, "A", "", False),
    "guard, writers": (a_stray_guard_and_two_writers, False, "A", "", False),
    "guard, collector": (a_stray_guard_and_a_collector, False, "AB", "", False),
    "guard, fold": (a_stray_guard_and_the_next_fold, False, "AB", "", False),
    "guard, take over": (a_stray_guard_and_a_take_over, False, "B", "", False),
    "guard, asleep": (a_stray_guard_and_a_sleeper_over_the_next_fold, False, "A", "", False),
    "guard, beside": (a_stray_guard_and_a_conflict_checkpoint, False, "A", "", False),
    "three collect": (three_that_collect_and_fold, True, "AB", "A", False),
    "three fold": (three_that_collect_and_fold, False, "CA", "C", True),
}


@pytest.fixture
def explorer(monkeypatch, tmp_path) -> Callable[..., Explorer]:
    """Return a maker of explorers by the name of their world."""

    def make(name: str, *, runs_max: int = RUNS_MAX, whole: bool = False) -> Explorer:
        acts, in_packs, saved, forgotten, folds = WORLDS[name]
        storage_orders.prepare(monkeypatch, tmp_path, in_packs=in_packs)
        start = begun(tmp_path, saved, forgotten)

        async def begin(bench: Bench) -> Actors:
            bench.fold_from(2 if folds else 10**9)
            return await acts(bench)

        return Explorer(world(tmp_path, start, begin), runs_max=runs_max, whole=whole)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_loses_what_was_told_to_be_saved_beside_or_despite_a_dead_upkeep(explorer, name):
    storage_orders.explore(explorer(name), runs_min=1)


@pytest.mark.soak
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_at_all_loses_it(explorer, name):
    found = explorer(name, runs_max=SOAK_RUNS_MAX, whole=True)
    storage_orders.explore(found, runs_min=1)
    sys.stdout.write(f"{name}: {found.runs} orders, {found.turns_most} turns at most\n")


# --- the same worlds with one rule broken ------------------------------------------------------------------


def a_b_of_a_full_base_is_placed_wherever_the_log_ends(monkeypatch) -> None:
    async def place(self, stored, end):
        workspace = self.workspace
        fields = SideBranch(stored.name, stored.hash)
        placed = await workspace.log.append(lambda now: self.writer.entry(now, fields), sides=[stored])
        await workspace.verifier.placed(placed)
        return placed.row.seq, placed.row.hash

    monkeypatch.setattr(Adoption, "_place", place)


def a_full_base_that_lies_there_is_relied_on(monkeypatch) -> None:
    """Whatever its user said of it."""
    monkeypatch.setattr(FullBaseSaving, "_is_promised", lambda self, name, dropped: True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("adopt twice", a_b_of_a_full_base_is_placed_wherever_the_log_ends),
        pytest.param("whole dropped", a_full_base_that_lies_there_is_relied_on, marks=pytest.mark.soak),
        pytest.param("beside, fold dead", a_b_is_placed_whatever_was_retired, marks=pytest.mark.soak),
    ],
)
def test_a_broken_rule_of_what_is_beside_is_found_out(explorer, monkeypatch, name, broken):
    found = explorer(name, runs_max=BROKEN_RUNS_MAX, whole=True)
    broken(monkeypatch)
    with pytest.raises((AssertionError, StorageError)) as loss:
        found.explore()
    assert "too wide" not in str(loss.value), "nothing was found in all these orders"

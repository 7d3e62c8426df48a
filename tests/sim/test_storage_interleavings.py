"""The real commit, collection, fold and side-branch code under every order of calls that matters.

Each world is small (two or three machines, one or two acts each) and is run in every order in which its calls
can interleave (`interleave.py`). Then each rule of the protocol is broken in the code itself, and the same
worlds must find a loss: an explorer that finds nothing proves nothing by itself. The rules and the losses are
those of the models in storage.md 4.4.
"""

import contextlib
from collections.abc import Awaitable, Callable

import pytest

from storage.errors import ObjectDamaged, StorageError
from storage.format import names
from storage.format.entries import SideBranch
from storage.ops import conflict, left_packs, save
from storage.repository.collect import Collector, Retired
from storage.repository.log import CommitLog
from storage.repository.removal import Remover
from storage.repository.verify import Verifier
from tests.fakes.storage_rig import REF
from tests.sim import storage_orders
from tests.sim.interleave import Ask, Explorer, TurnStore
from tests.sim.storage_orders import Actors, Bench, begun, world

SLEEPS_AT = 3
"""Number that sleepers are about to take: an E and a C come before."""
RUNS_MAX = 600
"""Orders of one world in the default lane; those of `WIDE` have more, all of which the soak lane runs."""
WIDE = frozenset({"two asleep"})
SOAK_RUNS_MAX = 100_000


async def a_save_of_dead_content_while_it_is_collected(bench: Bench) -> Actors:
    """A's pack is dead; somebody is about to rely on it again."""
    writer, cleaner = bench.machine("writer"), bench.machine("cleaner")
    await writer.head(REF)
    await cleaner.head(REF)
    return {"w": bench.save(writer, "A", 1), "g": bench.collect(cleaner, runs=2)}


async def a_take_over_while_the_old_owner_saves_and_orphans_are_swept(bench: Bench) -> Actors:
    """The old owner uploads; the new one takes over and saves; the sweep spares no fence."""
    old, new, cleaner = (bench.machine(name) for name in ("old", "new", "cleaner"))
    for machine in (old, new, cleaner):
        await machine.head(REF)

    async def take_over_and_save() -> None:
        fence = await bench.take(new, "new")
        await bench.save(new, "A", fence)

    return {"old": bench.save(old, "C", 1), "new": take_over_and_save()}


async def an_upload_while_orphans_are_swept(bench: Bench) -> Actors:
    """C is new: its pack lies there before its entry does."""
    writer, cleaner = bench.machine("writer"), bench.machine("cleaner")
    await writer.head(REF)
    await cleaner.head(REF)
    return {"w": bench.save(writer, "C", 1), "g": bench.collect(cleaner, runs=2)}


async def a_sleeping_writer_over_a_fold(bench: Bench) -> Actors:
    """The sleeper is about to place its entry; another process of its fence saves on, so that the
    number will be freed, and folds; then everything is swept while it wakes.
    """
    sleeper, busy = bench.machine("sleeper"), bench.machine("busy")
    await sleeper.head(REF)
    await busy.head(REF)
    asleep = await bench.asleep("sleeper", bench.save(sleeper, "C", 1, tries=1), SLEEPS_AT)
    await bench.save(busy, "B", 1)
    await bench.collect(busy, runs=1)
    return {"sleeper": asleep, "busy": bench.collect(busy, runs=1)}


async def two_sleeping_writers_over_a_fold(bench: Bench) -> Actors:
    """As above, and a second one sleeps before the next number: the first one's remnant precedes it."""
    one, two, busy = bench.machine("one"), bench.machine("two"), bench.machine("busy")
    for machine in (one, two, busy):
        await machine.head(REF)
    first = await bench.asleep("one", bench.save(one, "C", 1, tries=1), SLEEPS_AT)
    await bench.save(busy, "B", 1)
    second = await bench.asleep("two", bench.save(two, "C", 1, tries=1), SLEEPS_AT + 1)
    await bench.save(busy, "A", 1)
    await bench.collect(busy, runs=1)
    return {"one": first, "two": second, "busy": bench.collect(busy, runs=1)}


async def a_fold_under_a_saving_writer(bench: Bench) -> Actors:
    """Nobody sleeps: one saves, the other folds and sweeps."""
    writer, cleaner = bench.machine("writer"), bench.machine("cleaner")
    await writer.head(REF)
    await cleaner.head(REF)
    return {"w": bench.save(writer, "C", 1, tries=1), "g": bench.collect(cleaner, runs=1)}


async def a_take_over_over_a_fold(bench: Bench) -> Actors:
    """An E is about to be placed while the log is folded and its old entries go."""
    new, busy = bench.machine("new"), bench.machine("busy")
    await new.head(REF)
    await busy.head(REF)

    async def take_over() -> None:
        with contextlib.suppress(*storage_orders.LOST):
            await bench.take(new, "new")

    asleep = await bench.asleep("new", take_over(), SLEEPS_AT)
    await bench.save(busy, "B", 1)
    await bench.collect(busy, runs=1)
    return {"new": asleep, "busy": bench.collect(busy, runs=1)}


async def a_conflict_checkpoint_of_dead_content_while_it_is_collected(bench: Bench) -> Actors:
    """A stale desktop holds A, whose pack is dead."""
    stale, cleaner = bench.machine("stale"), bench.machine("cleaner")
    await stale.head(REF)
    await cleaner.head(REF)
    return {"s": bench.save_beside(stale, "A", 1), "g": bench.collect(cleaner, runs=2)}


async def a_save_that_goes_on_from_a_dead_one_while_orphans_are_swept(bench: Bench) -> Actors:
    """Somebody died behind C's pack, before its entry; the next attempt wants to build on that pack."""
    dead, writer, cleaner = (bench.machine(name) for name in ("dead", "writer", "cleaner"))
    for machine in (dead, writer, cleaner):
        await machine.head(REF)
    await bench.killed("dead", bench.save(dead, "C", 1, tries=1), SLEEPS_AT)
    return {"w": bench.save(writer, "C", 1, resume=True), "g": bench.collect(cleaner, runs=2)}


async def a_save_that_goes_on_from_one_that_only_sleeps(bench: Bench) -> Actors:
    """The first one was given up too early: both place an entry that names the same pack, or try to."""
    slow, writer, cleaner = (bench.machine(name) for name in ("slow", "writer", "cleaner"))
    for machine in (slow, writer, cleaner):
        await machine.head(REF)
    asleep = await bench.asleep("slow", bench.save(slow, "C", 1, tries=1), SLEEPS_AT)
    return {
        "slow": asleep,
        "w": bench.save(writer, "C", 1, tries=1, resume=True),
        "g": bench.collect(cleaner, runs=1),
    }


async def two_collectors_and_a_writer(bench: Bench) -> Actors:
    """Nobody promised that only one collects."""
    writer, one, two = (bench.machine(name) for name in ("writer", "one", "two"))
    for machine in (writer, one, two):
        await machine.head(REF)
    return {"g": bench.collect(one, runs=1), "h": bench.collect(two, runs=1)}


Acts = Callable[[Bench], Awaitable[Actors]]
WORLDS: dict[str, tuple[Acts, bool, str, str, bool]] = {
    # name: acts, contents in packs, saved before, of them forgotten, folds at once
    "collect": (a_save_of_dead_content_while_it_is_collected, True, "AB", "A", False),
    "take over": (a_take_over_while_the_old_owner_saves_and_orphans_are_swept, True, "B", "", False),
    "orphans": (an_upload_while_orphans_are_swept, True, "B", "", False),
    "fold": (a_fold_under_a_saving_writer, False, "AB", "", True),
    "fold dead": (a_fold_under_a_saving_writer, False, "CA", "C", True),
    "asleep": (a_sleeping_writer_over_a_fold, False, "A", "", True),
    "two asleep": (two_sleeping_writers_over_a_fold, False, "A", "", True),
    "take over asleep": (a_take_over_over_a_fold, False, "A", "", True),
    "beside": (a_conflict_checkpoint_of_dead_content_while_it_is_collected, True, "AB", "A", False),
    "resumed": (a_save_that_goes_on_from_a_dead_one_while_orphans_are_swept, True, "B", "", False),
    "resumed early": (a_save_that_goes_on_from_one_that_only_sleeps, True, "B", "", False),
    "collectors": (two_collectors_and_a_writer, True, "AB", "A", False),
}


@pytest.fixture
def explorer(monkeypatch, tmp_path) -> Callable[[str], Explorer]:
    """Return a maker of explorers by the name of their world."""

    def make(name: str, *, soak: bool = False) -> Explorer:
        acts, in_packs, saved, forgotten, folds = WORLDS[name]
        storage_orders.prepare(monkeypatch, tmp_path, in_packs=in_packs)
        start = begun(tmp_path, saved, forgotten)
        if folds:
            monkeypatch.setattr("storage.repository.fold.ENTRIES_MIN", 2)
        made = world(tmp_path, start, acts)
        if soak:
            return Explorer(made, runs_max=SOAK_RUNS_MAX)
        return Explorer(made, runs_max=RUNS_MAX, whole=name not in WIDE)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_of_calls_loses_what_was_told_to_be_saved(explorer, name):
    storage_orders.explore(explorer(name), runs_min=10)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(WIDE))
def test_no_order_of_a_wide_world_loses_anything(explorer, name):
    explorer(name, soak=True).explore()


# --- the same worlds with one rule broken ------------------------------------------------------------------


def plans_are_never_looked_at_again(monkeypatch) -> None:
    def checkpoint(self, state, plan, prepared, *, planned, retired_at):
        save.require_fence(state, plan.fence)
        return self._entry(state, plan.fence, save.checkpoint_fields(plan, prepared, state), prepared.inline)

    monkeypatch.setattr(save.EntryWriter, "checkpoint", checkpoint)


def an_r_is_placed_wherever_the_log_ends(monkeypatch) -> None:
    def planned(self, now, listing, fields):
        return self._writer.entry(now, fields)

    monkeypatch.setattr(Collector, "_planned", planned)


def dead_packs_are_deleted_before_their_r(monkeypatch) -> None:
    whole = Collector.retire

    async def retire(self, state, listing, marks, **moved):
        live = marks.containers(state.index)
        for name in [one for one in state.packs if one not in live]:
            await self._remover._store.delete(self._remover._prefix + name)
        return await whole(self, state, listing, marks, **moved)

    monkeypatch.setattr(Collector, "retire", retire)


def orphans_are_deleted_without_an_entry(monkeypatch) -> None:
    async def retire(self, state, listing, marks, **moved):
        for name in [one for one in listing.sizes if self._is_orphan(state, one)]:
            await self._remover._store.delete(self._remover._prefix + name)
        return Retired()

    monkeypatch.setattr(Collector, "retire", retire)


def nobody_looks_at_fences(monkeypatch) -> None:
    monkeypatch.setattr(save, "require_fence", lambda state, fence: None)


def the_store_overwrites(monkeypatch) -> None:
    async def blind(self, name, data):
        await self._turns.turn(self._actor, Ask("create", name))
        self._objects[name] = bytes(data)

    monkeypatch.setattr(TurnStore, "create", blind)


def an_entry_is_believed_once_it_reads_back(monkeypatch) -> None:
    async def placed(self, placed):
        if await self._log.entry_bytes(placed.row.seq) != placed.raw:
            raise ObjectDamaged(seq=placed.row.seq)

    monkeypatch.setattr(Verifier, "placed", placed)


def entries_are_deleted_from_the_newest_down(monkeypatch) -> None:
    """Without the guard, which would notice the fold itself."""

    async def no_guard(self, number):
        return False

    monkeypatch.setattr(CommitLog, "fold_began", no_guard)

    async def remove_folded(self, state, seqs):
        for seq in sorted(seqs, reverse=True):
            await self._store.delete(self._prefix + names.log_entry(seq))

    monkeypatch.setattr(Remover, "remove_folded", remove_folded)


def only_predecessors_are_looked_at(monkeypatch) -> None:
    async def no_guard(self, number):
        return False

    monkeypatch.setattr(CommitLog, "fold_began", no_guard)


def what_was_given_up_is_taken(monkeypatch) -> None:
    """A pack that still lies there is built on, whatever an entry says of it."""

    async def given_up(fence, state, log):
        return {}

    monkeypatch.setattr(left_packs, "_given_up", given_up)


def a_b_is_placed_whatever_was_retired(monkeypatch) -> None:
    def branch(self, now, stored, *, planned, retired_at):
        return self._writer.entry(now, SideBranch(stored.side.name, stored.side.hash))

    monkeypatch.setattr(conflict.ConflictSaving, "_branch", branch)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("collect", plans_are_never_looked_at_again),
        ("collect", an_r_is_placed_wherever_the_log_ends),
        ("collect", dead_packs_are_deleted_before_their_r),
        ("orphans", orphans_are_deleted_without_an_entry),
        ("orphans", an_r_is_placed_wherever_the_log_ends),
        ("resumed", plans_are_never_looked_at_again),
        ("resumed", an_r_is_placed_wherever_the_log_ends),
        ("resumed", orphans_are_deleted_without_an_entry),
        ("resumed", what_was_given_up_is_taken),
        ("take over", nobody_looks_at_fences),
        ("take over", the_store_overwrites),
        ("asleep", an_entry_is_believed_once_it_reads_back),
        ("asleep", entries_are_deleted_from_the_newest_down),
        ("two asleep", only_predecessors_are_looked_at),
        ("fold dead", plans_are_never_looked_at_again),
        ("fold dead", an_r_is_placed_wherever_the_log_ends),
        ("beside", a_b_is_placed_whatever_was_retired),
    ],
)
def test_a_broken_rule_is_found_out(explorer, monkeypatch, name, broken):
    found = explorer(name)
    broken(monkeypatch)
    with pytest.raises((AssertionError, StorageError)) as loss:
        found.explore()
    assert "too wide" not in str(loss.value), "nothing was found in all these orders"

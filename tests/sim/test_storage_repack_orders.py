"""Repacking under every order of calls that matters: the real code, small worlds, and each rule broken once.

A sparse pack holds the files A and B; a kept checkpoint needs A only. One run moves A into a new pack and
retires the old one, the next run deletes it. Meanwhile somebody saves what lies in the old pack and nowhere
else (B), or what is being moved (A), or sleeps with a plan that was made before.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import pytest

from storage.errors import StorageError
from storage.repository import moving, repack
from storage.repository.collect import Collector
from storage.repository.moving import Moved, Mover
from storage.repository.verify import Verifier
from tests.fakes.storage_rig import REF
from tests.sim import storage_orders
from tests.sim.interleave import Explorer
from tests.sim.storage_orders import Actors, Bench, begun, world
from tests.sim.test_storage_interleavings import (
    Acts,
    a_b_is_placed_whatever_was_retired,
    an_r_is_placed_wherever_the_log_ends,
    plans_are_never_looked_at_again,
)

SLEEPS_AT = 5
"""Number that sleepers are about to take: E, two C and F come before."""
RUNS_MAX = 1_000
SOAK_RUNS_MAX = 200_000


async def a_save_of_what_is_not_moved(bench: Bench) -> Actors:
    """B lies in the sparse pack, and no kept checkpoint reaches it; somebody is about to."""
    writer, cleaner = bench.machine("writer"), bench.machine("cleaner")
    await writer.head(REF)
    await cleaner.head(REF)
    return {"w": bench.save(writer, "B", 1), "g": bench.collect(cleaner, runs=2)}


async def a_save_of_what_is_being_moved(bench: Bench) -> Actors:
    """A goes from one pack to another while somebody relies on it, with something new beside it."""
    writer, cleaner = bench.machine("writer"), bench.machine("cleaner")
    await writer.head(REF)
    await cleaner.head(REF)
    return {"w": bench.save(writer, "E", 1), "g": bench.collect(cleaner, runs=2)}


async def a_sleeper_over_a_repack(bench: Bench) -> Actors:
    """Its entry is about to be placed, and relies on B in the sparse pack, which goes meanwhile."""
    sleeper, busy = bench.machine("sleeper"), bench.machine("busy")
    await sleeper.head(REF)
    await busy.head(REF)
    asleep = await bench.asleep("sleeper", bench.save(sleeper, "F", 1, tries=2), SLEEPS_AT)
    return {"sleeper": asleep, "busy": bench.collect(busy, runs=2)}


async def a_sleeper_over_a_repack_and_a_fold(bench: Bench) -> Actors:
    """The repack is done and its number is freed by a fold, so the sleeper's create may succeed."""
    bench.fold_from(10**9)
    sleeper, busy = bench.machine("sleeper"), bench.machine("busy")
    await sleeper.head(REF)
    await busy.head(REF)
    asleep = await bench.asleep("sleeper", bench.save(sleeper, "F", 1, tries=1), SLEEPS_AT)
    await bench.collect(busy, runs=1)
    bench.fold_from(2)
    await bench.collect(busy, runs=1)
    return {"sleeper": asleep, "busy": bench.collect(busy, runs=1)}


async def a_take_over_over_a_repack(bench: Bench) -> Actors:
    """The old owner saves B while the workspace is taken over; a third one repacks, and spares no fence."""
    old, new, busy = bench.machine("old"), bench.machine("new"), bench.machine("busy")
    for machine in (old, new, busy):
        await machine.head(REF)

    async def take_over() -> None:
        with contextlib.suppress(*storage_orders.LOST):
            await bench.take(new, "new")

    asleep = await bench.asleep("new", take_over(), SLEEPS_AT)
    saving = await bench.asleep("old", bench.save(old, "B", 1, tries=1), SLEEPS_AT)
    await bench.collect(busy, runs=1)
    return {"new": asleep, "old": saving, "busy": bench.collect(busy, runs=1)}


async def two_that_repack(bench: Bench) -> Actors:
    """Nobody promised that only one does; both move the same chunks."""
    one, two = bench.machine("one"), bench.machine("two")
    await one.head(REF)
    await two.head(REF)
    return {"g": bench.collect(one, runs=2), "h": bench.collect(two, runs=1)}


async def a_conflict_checkpoint_over_a_repack(bench: Bench) -> Actors:
    """A stale desktop holds B."""
    stale, cleaner = bench.machine("stale"), bench.machine("cleaner")
    await stale.head(REF)
    await cleaner.head(REF)
    return {"s": bench.save_beside(stale, "B", 1), "g": bench.collect(cleaner, runs=2)}


WORLDS: dict[str, Acts] = {
    "not moved": a_save_of_what_is_not_moved,
    "moved": a_save_of_what_is_being_moved,
    "asleep": a_sleeper_over_a_repack,
    "asleep over a fold": a_sleeper_over_a_repack_and_a_fold,
    "take over": a_take_over_over_a_repack,
    "two": two_that_repack,
    "beside": a_conflict_checkpoint_over_a_repack,
}
WIDE: Final = frozenset({"take over", "beside"})
"""Worlds of some 600 orders, which the soak lane runs; the default lane runs the first ones."""
WIDE_RUNS_MAX = 60


@pytest.fixture
def explorer(monkeypatch, tmp_path) -> Callable[..., Explorer]:
    """Return a maker of explorers by the name of their world."""

    def make(name: str, *, soak: bool = False) -> Explorer:
        storage_orders.prepare(monkeypatch, tmp_path, in_packs=True)
        monkeypatch.setattr(repack, "DEAD_BYTES_MIN", 1)
        start = begun(tmp_path, "DA", "D")
        made = world(tmp_path, start, WORLDS[name])
        if soak:
            return Explorer(made, runs_max=SOAK_RUNS_MAX)
        if name in WIDE:
            return Explorer(made, runs_max=WIDE_RUNS_MAX, whole=False)
        return Explorer(made, runs_max=RUNS_MAX)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_of_a_repack_loses_what_was_told_to_be_saved(explorer, name):
    storage_orders.explore(explorer(name), runs_min=5)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(WIDE))
def test_no_order_of_a_wide_world_of_repacking_loses_anything(explorer, name):
    explorer(name, soak=True).explore()


# --- the same worlds with one rule broken ------------------------------------------------------------------


def old_packs_are_deleted_with_their_r(monkeypatch) -> None:
    whole = Collector.retire

    async def retire(self, state, listing, marks, *, emptied=(), moved=Moved()):  # noqa: B008  # frozen
        for one in emptied:
            await self._remover._store.delete(self._remover._prefix + one.name)
        return await whole(self, state, listing, marks, emptied=emptied, moved=moved)

    monkeypatch.setattr(Collector, "retire", retire)


def packs_are_retired_before_their_chunks_are_uploaded(monkeypatch) -> None:
    """The R speaks of packs that are on their way."""
    whole = Mover.move
    late = []

    async def move(self, state, leaving, marks):
        async def created(place, name, data):
            late.append((place, name, bytes(data)))
            return True

        class Blind:
            def __init__(self, place):
                self._place = place

            async def get(self, name):
                return late[-1][2]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moving, "settle_create", created)
            patch.setattr(self, "_place", Blind(self._place))
            return await whole(self, state, leaving, marks)

    placed = Collector.place

    async def place(self, listing, fields, refs=()):
        try:
            return await placed(self, listing, fields, refs)
        finally:
            late.clear()  # ... and the machine dies before they are there

    monkeypatch.setattr(Mover, "move", move)
    monkeypatch.setattr(Collector, "place", place)


def only_data_is_moved(monkeypatch) -> None:
    whole = moving._Moving.take

    def take(self, kind, chunk_id, content):
        if kind == 3:
            return
        whole(self, kind, chunk_id, content)

    monkeypatch.setattr(moving._Moving, "take", take)


def a_repack_forgets_to_name_its_new_packs(monkeypatch) -> None:
    whole = Collector.retire

    async def retire(self, state, listing, marks, *, emptied=(), moved=Moved()):  # noqa: B008  # frozen
        return await whole(self, state, listing, marks, emptied=emptied)

    monkeypatch.setattr(Collector, "retire", retire)


def an_entry_is_believed_once_it_reads_back(monkeypatch) -> None:
    async def placed(self, placed):
        assert await self._log.entry_bytes(placed.row.seq) == placed.raw

    monkeypatch.setattr(Verifier, "placed", placed)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("not moved", plans_are_never_looked_at_again),
        ("not moved", an_r_is_placed_wherever_the_log_ends),
        ("not moved", old_packs_are_deleted_with_their_r),
        ("moved", packs_are_retired_before_their_chunks_are_uploaded),
        ("moved", a_repack_forgets_to_name_its_new_packs),
        ("asleep", plans_are_never_looked_at_again),
        ("asleep over a fold", an_entry_is_believed_once_it_reads_back),
        ("take over", plans_are_never_looked_at_again),
        ("beside", a_b_is_placed_whatever_was_retired),
    ],
)
def test_a_broken_rule_of_repacking_is_found_out(explorer, monkeypatch, name, broken):
    found = explorer(name)
    broken(monkeypatch)
    with pytest.raises((AssertionError, StorageError)) as loss:
        found.explore()
    assert "too wide" not in str(loss.value), "nothing was found in all these orders"

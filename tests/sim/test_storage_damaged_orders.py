"""A pack that cannot be read comes and goes, under every order of calls that matters: nothing told is lost.

A history alone names the pack, so its footer tells what is in it. While the pack is away, two write, somebody
folds, collects or repacks, each with what it read of the log before or after. An index that lacks chunks must
never decide what may go, and a save must not rely on what it only believes to be there.
"""

import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from storage.errors import StorageError
from storage.format.keys import BoxKind
from storage.repository import repack
from storage.repository.footers import Footers
from tests.fakes.storage_rig import PREFIX, REF
from tests.sim import storage_orders
from tests.sim.interleave import Explorer, TurnStore
from tests.sim.storage_orders import Actors, Bench, begun, content, world
from tests.sim.test_storage_interleavings import Acts

RUNS_MAX = 5
"""Orders of one world in the default lane."""
BROKEN_RUNS_MAX = 400
SOAK_RUNS_MAX = 20_000


async def folded(bench: Bench) -> str:
    """Fold the log, so that a history alone names the packs; return the one with the contents of A.

    A kept checkpoint needs these, and no name that lies in the pack: whoever does not know the pack meets
    nothing that is missing, and takes it for an orphan.
    """
    bench.fold_from(2)
    tidy = bench.machine("tidy")
    await tidy.head(REF)
    await bench.collect(tidy, runs=2)
    bench.fold_from(10**9)
    for name in [name for name in bench.objects if name.startswith(f"{PREFIX}x/")]:
        del bench.objects[name]  # a snapshot has the tables, too
    workspace = await tidy._known.required(REF)
    chunk_id = workspace.keys.newest.chunk_id(BoxKind.DATA, content("A"))
    return PREFIX + (await workspace.log.refresh()).index.place(BoxKind.DATA, chunk_id).container.name


async def weather(bench: Bench, pack: str) -> None:
    """Take the pack away, and bring it back."""
    store = TurnStore(bench.objects, bench.turns, "weather")
    whole = bench.objects[pack]
    await store.delete(pack)
    await store.create(pack, whole)


async def unless_damaged(act: Coroutine[Any, Any, None]) -> None:
    """Whoever is told of the damage has promised nothing."""
    with contextlib.suppress(StorageError):
        await act


async def acts_of(bench: Bench, *, writers: str, runs: int) -> Actors:
    """Return the weather, machines that save, and one that tidies; none of them has read the log yet."""
    pack = await folded(bench)
    acts: Actors = {"weather": weather(bench, pack)}
    for home in writers:
        acts[f"w{home}"] = unless_damaged(bench.save(bench.machine(f"writer of {home}"), home, 1))
    if runs:
        acts["g"] = unless_damaged(bench.collect(bench.machine("cleaner"), runs=runs))
    return acts


async def two_writers(bench: Bench) -> Actors:
    return await acts_of(bench, writers="AC", runs=0)


async def a_collector(bench: Bench) -> Actors:
    return await acts_of(bench, writers="", runs=2)


async def a_writer_and_a_collector(bench: Bench) -> Actors:
    return await acts_of(bench, writers="C", runs=2)


async def a_writer_and_a_fold(bench: Bench) -> Actors:
    made = await acts_of(bench, writers="A", runs=2)
    bench.fold_from(2)
    return made


async def all_of_them(bench: Bench) -> Actors:
    made = await acts_of(bench, writers="AC", runs=2)
    bench.fold_from(2)
    return made


WORLDS: dict[str, tuple[Acts, str, str, bool]] = {
    # name: acts, saved before, of them forgotten, repacks
    "writers": (two_writers, "AD", "", False),
    "collect alone": (a_collector, "AD", "A", False),
    "repack alone": (a_collector, "DA", "D", True),
    "collect": (a_writer_and_a_collector, "AD", "A", False),
    "fold": (a_writer_and_a_fold, "AD", "A", False),
    "repack": (a_writer_and_a_collector, "DA", "D", True),
    "all": (all_of_them, "DA", "D", True),
}


@pytest.fixture
def explorer(monkeypatch, tmp_path) -> Callable[..., Explorer]:
    def make(name: str, *, runs_max: int = RUNS_MAX, whole: bool = False) -> Explorer:
        acts, saved, forgotten, repacks = WORLDS[name]
        storage_orders.prepare(monkeypatch, tmp_path, in_packs=True)
        if repacks:
            monkeypatch.setattr(repack, "DEAD_BYTES_MIN", 1)
        start = begun(tmp_path, saved, forgotten)
        return Explorer(world(tmp_path, start, acts), runs_max=runs_max, whole=whole)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_loses_anything_while_a_pack_comes_and_goes(explorer, name):
    storage_orders.explore(explorer(name), runs_min=1)


@pytest.mark.soak
@pytest.mark.parametrize("name", WORLDS)
def test_no_order_of_many_loses_anything_while_a_pack_comes_and_goes(explorer, name):
    found = explorer(name, runs_max=SOAK_RUNS_MAX)
    storage_orders.explore(found, runs_min=1)
    sys.stdout.write(f"{name}: {found.runs} orders, {found.turns_most} turns at most\n")


# --- the same worlds with the rule broken ------------------------------------------------------------------


def damage_is_not_kept_in_mind(monkeypatch) -> None:
    """A pack whose footer cannot be read is one of which nobody ever spoke."""
    whole = Footers.live

    async def live(self, refs, retired):
        tables, _ = await whole(self, refs, retired)
        return tables, []

    monkeypatch.setattr(Footers, "live", live)


@pytest.mark.slow
def test_a_collector_that_goes_on_without_the_pack_is_found_out(explorer, monkeypatch):
    found = explorer("collect alone", runs_max=BROKEN_RUNS_MAX, whole=True)
    damage_is_not_kept_in_mind(monkeypatch)
    with pytest.raises((AssertionError, StorageError)) as loss:
        found.explore()
    assert "too wide" not in str(loss.value), "nothing was found in all these orders"

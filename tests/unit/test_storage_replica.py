"""A second store that follows the first: order, divergence, erasure, repair and promotion, all in memory."""

import asyncio
import os

import pytest

import storage
from storage.format import recovery
from storage.objects.memory import MemoryStore
from storage.repository.removal import remove_damaged
from tests.fakes.faulty_store import Crashed, Fault, FaultyStore
from tests.fakes.home import picture
from tests.fakes.replica_pair import Pair, grow, home, pair, save, small_folds, tidy
from tests.fakes.storage_rig import KEEP_ONE, MASTER_KEY, PREFIX, REF, Node, objects, take, write

__all__ = ["home", "pair", "small_folds"]


async def test_the_second_store_ends_with_the_very_same_objects(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 3)
        look = await opened.replicate(REF)
        assert (look.state, look.behind_entries, look.replica_seq) == ("in_step", 0, look.main_seq)
        assert pair.differences() == set()


async def test_after_a_checkpoint_only_that_one_is_copied_and_nothing_is_listed(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 2)
        await opened.replicate(REF)
        write(home, b="two")
        await save(opened, home)
        pair.there.calls.clear()
        pair.node.store.calls.clear()
        look = await opened.replicate(REF)
        assert (look.state, look.copied_objects) == ("in_step", 1)
        assert pair.differences() == set()
        calls = pair.there.calls + pair.node.store.calls
        assert [call for call in calls if call.on == "list" and "/c/" not in call.name] == []


async def test_packs_stand_before_the_entries_that_name_them(pair, home):
    write(home, big=bytes(range(256)) * 20_000 + b"".join(n.to_bytes(4, "big") for n in range(400_000)))
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
    made = [call.name.removeprefix(PREFIX)[:2] for call in pair.there.calls if call.on == "create"]
    made = [part for part in made if part in ("p/", "c/")]
    assert "p/" in made
    assert made == sorted(made, reverse=True)


async def test_a_receipt_is_copied_when_it_is_named(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
        await opened.put_receipt(REF, session="cc" * 8, body=b"closed")
        await opened.replicate(REF, receipts=["cc" * 8])
        assert pair.differences() == set()


async def test_a_second_store_that_is_away_is_told_and_delays_no_checkpoint(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
        pair.there.down = True
        write(home, b="two")
        info = await save(opened, home)
        look = await opened.replicate(REF)
        assert (look.state, look.behind_entries) == ("away", 1)
        assert look.oldest_ms is not None
        assert look.behind_bytes > 0
        pair.there.down = False
        look = await opened.replicate(REF)
        assert (look.state, look.replica_seq) == ("in_step", info.seq)


async def test_other_bytes_under_a_number_stop_the_copy_and_stay(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 2)
        await opened.replicate(REF)
    name = objects(pair.second, "c/")[-1]
    async with pair.from_second() as other:
        await other.take_over(REF, fence_at_least=9, node="x", session="x", registry_epoch=1)
    theirs = dict(pair.second.objects)
    async with pair.open() as opened:
        ahead = await opened.replicate(REF)
        assert (ahead.state, "longer" in ahead.error) == ("diverged", True)
        write(home, c="three")
        await save(opened, home)
        look = await opened.replicate(REF)
        assert (look.state, "other bytes" in look.error) == ("diverged", True)
    assert pair.second.objects == theirs
    assert name in objects(pair.first, "c/")


async def test_removals_follow_only_once_their_entry_stands_on_both(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 8)
        await opened.replicate(REF)
        for _ in range(3):
            await opened.collect(REF, policy=KEEP_ONE, actor="test")
        assert len(objects(pair.first)) < len(objects(pair.second))
        look = await opened.replicate(REF, whole=True)
        assert look.removed_objects > 0
        assert pair.differences() == set()
    async with pair.from_second() as other:
        assert (await other.verify(REF, "full")).faults == ()


async def test_what_the_main_store_lost_by_accident_stays_on_the_second(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 6)
        for _ in range(3):
            await opened.collect(REF, policy=None, actor="test")
        await opened.replicate(REF, whole=True)
        lost = objects(pair.first, "p/") + objects(pair.first, "l/")
        for name in lost:
            del pair.first.objects[PREFIX + name]
        await opened.replicate(REF, whole=True)
        assert set(lost) <= set(objects(pair.second))


async def test_a_restore_takes_a_lost_or_broken_object_from_the_second_store(pair, home, tmp_path):
    write(home, big=b"".join(n.to_bytes(4, "big") for n in range(800_000)))
    async with pair.open() as opened:
        await take(opened)
        info = await save(opened, home)
        await opened.replicate(REF)
        pack = objects(pair.first, "p/")[0]
        raw = bytearray(pair.first.objects[PREFIX + pack])
        raw[len(raw) // 2] ^= 1
        pair.first.objects[PREFIX + pack] = bytes(raw)
    async with pair.open(cache="fresh") as opened:
        await opened.restore(REF, seq=info.seq, into=tmp_path / "restored")
        assert picture(tmp_path / "restored") == picture(home)
        assert list(opened.spared()) == [PREFIX + pack]
        done = await opened.repair(REF)
        assert (done.objects, done.left, opened.spared()) == ((pack,), (), {})
        assert pair.differences() == set()


async def test_a_repair_brings_back_lost_entries_and_keys(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 3)
        await opened.replicate(REF)
    for name in ("config", "c/0000000000000002", *objects(pair.first, "k/")):
        del pair.first.objects[PREFIX + name]
    async with pair.open(cache="fresh") as opened:
        while (await opened.repair(REF)).objects:
            pass
        assert pair.differences() == set()
        assert (await opened.verify(REF, "full")).faults == ()


async def test_a_lost_slot_takes_its_copy_along_only_where_a_service_opens_the_other(pair, home):
    """The tenant's slot under the master key is lost by accident on the main store; the one under the code is
    left. Following that loss would leave no slot that a service without that paper opens.
    """
    ways = storage.KeyWays(master=MASTER_KEY, recovery_public=recovery.public_half(bytes(range(60, 92))))
    async with pair.open() as opened:
        opened._keyring.ways = ways
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF, whole=True)
        tenant = f"t/{REF.tenant}/k/"
        slots = sorted(name for name in pair.first.objects if name.startswith(tenant))
        assert [name.rpartition("-")[2][0] for name in slots] == ["m", "r"]
        del pair.first.objects[slots[0]]
        await opened.replicate(REF, whole=True)
        assert slots[0] in pair.second.objects
        await opened.repair(REF)
    assert pair.differences() == set()


async def test_a_folded_log_whose_slots_are_lost_gets_no_other_keys(pair, home):
    """A fold takes entry 1 away. What is left was sealed with keys that a repair brings back; new ones under
    the same name would keep it from doing so, and "never saved" would start an empty desktop.
    """
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 8)
        await tidy(opened)
        await opened.replicate(REF, whole=True)
    assert PREFIX + "c/0000000000000001" not in pair.first.objects
    slots = objects(pair.first, "k/")
    for name in slots:
        del pair.first.objects[PREFIX + name]
    async with pair.open(cache="fresh") as opened:
        with pytest.raises(storage.KeyMissing):
            await opened.list(REF)
        with pytest.raises(storage.KeyMissing):
            await take(opened, fence=2)
        assert objects(pair.first, "k/") == []
        while (await opened.repair(REF)).objects:
            pass
        assert pair.differences() == set()
        assert (await opened.verify(REF, "full")).faults == ()


async def test_an_object_that_cannot_be_read_is_not_taken_for_a_damaged_one(pair, home):
    """A repair has found a damaged copy; when it looks once more before it deletes, the store is away."""
    store, name = pair.node.store, "r/session"
    await store.create(PREFIX + name, b"whole")
    store.plan(Fault.UNAVAILABLE, on="get", name=PREFIX + name)
    with pytest.raises(storage.StoreUnavailable):
        await remove_damaged(store, PREFIX, name, check=lambda raw: None)
    assert pair.first.objects[PREFIX + name] == b"whole"


async def test_a_broken_entry_is_told_and_not_replaced(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 3)
        await opened.replicate(REF)
    name = PREFIX + "c/0000000000000003"
    broken = pair.first.objects[name][:-1]
    pair.first.objects[name] = broken
    async with pair.open(cache="fresh") as opened:
        done = await opened.repair(REF)
    assert done.objects == ()
    assert "c/0000000000000003" in done.left[0]
    assert pair.first.objects[name] == broken


async def test_an_erased_workspace_is_erased_there_too_tombstone_first(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 2)
        await opened.replicate(REF)
        pair.there.calls.clear()
        await opened.erase(REF, actor="a", reason="r")
        look = await opened.replicate(REF)
        assert look.state == "erased"
        assert objects(pair.second) == []
        changes = [call.name for call in pair.there.calls if call.on in ("create", "delete")]
        assert changes[0].endswith(f"e/{REF.workspace}")
        assert "/k/" in changes[1]
    async with pair.from_second() as other:
        with pytest.raises(storage.WorkspaceErased):
            await other.head(REF)


async def test_a_main_store_from_before_an_erasure_does_not_bring_it_back(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
        old = dict(pair.first.objects)
        await opened.erase(REF, actor="a", reason="r")
        await opened.replicate(REF)
    pair.first.objects.clear()
    pair.first.objects.update(old)
    async with pair.open(cache="fresh") as opened:
        assert (await opened.replicate(REF)).state == "diverged"
    assert objects(pair.second) == []


async def test_a_rotated_key_is_copied_before_what_it_sealed(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
        await opened.rotate_keys(REF)
        write(home, b="two")
        await save(opened, home)
        assert (await opened.replicate(REF)).state == "in_step"
        assert pair.differences() == set()


async def test_a_second_store_without_create_only_is_refused_with_the_reason(pair, home):
    class Overwriting(MemoryStore):
        async def create(self, name, data):
            self.bucket.objects[name] = bytes(data)

    pair.there = FaultyStore(Overwriting(pair.second))
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        look = await opened.replicate(REF)
        assert (look.state, "create_only" in look.error) == ("refused", True)
        assert objects(pair.second) == []


async def test_the_same_place_twice_is_no_second_copy(pair, home):
    pair.there = FaultyStore(MemoryStore(pair.first))
    async with pair.open() as opened:
        with pytest.raises(storage.StoreRefused):
            await opened.require_main(None)


async def test_tidying_the_main_store_while_it_is_copied_leaves_both_alike(pair, home):
    """Saves, folds and deletes of one process, copies and comparisons of another, all at the same time."""

    async def work(opened: storage.Storage) -> None:
        for number in range(10):
            await grow(opened, home, 2)
            write(home, more=f"{number}")
            await opened.collect(REF, policy=KEEP_ONE, actor="test")

    async def copy(other: storage.Storage, busy: asyncio.Task[None]) -> list[str]:
        states = []
        while not busy.done():
            states.append((await other.replicate(REF, whole=len(states) % 3 == 0)).state)
        return states

    async with pair.open() as opened:
        await take(opened)
        second = Pair(pair.folder)
        second.first, second.second = pair.first, pair.second
        second.node = Node(pair.first, pair.folder / "cache of another")
        second.there = FaultyStore(MemoryStore(pair.second))
        async with second.open(cache="cache of another") as other, asyncio.TaskGroup() as group:
            busy = group.create_task(work(opened))
            states = await copy(other, busy)
        assert set(states) <= {"in_step", "behind", "none"}, states
        await tidy(opened)
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
    assert pair.differences() == set()
    async with pair.from_second() as alone:
        assert (await alone.verify(REF, "full")).faults == ()


@pytest.mark.parametrize("landed", [False, True])
async def test_a_crash_at_any_call_ends_with_identical_objects(pair, home, landed, monkeypatch):
    """The process dies at each call of the second store in turn; the next one goes on. The probe's own calls
    are left out.
    """

    async def proved(store: MemoryStore) -> storage.ProbeVerdict:
        return storage.ProbeVerdict(usable=True, checks=(), took_ms=0)

    monkeypatch.setattr("storage.replica.second.probe_whole", proved)
    write(home, big=b"".join(n.to_bytes(4, "big") for n in range(400_000)))
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 7)
        await opened.replicate(REF)
        await grow(opened, home, 1)
        for _ in range(3):
            write(home, more="x")
            await save(opened, home)
            await opened.collect(REF, policy=KEEP_ONE, actor="test")
        await tidy(opened)
    begin = dict(pair.second.objects)
    at, crashed = 0, True
    while crashed:
        at += 1
        pair.second.objects.clear()
        pair.second.objects.update(begin)
        pair.there = FaultyStore(MemoryStore(pair.second))
        pair.there.crash_at(at, landed=landed)
        try:
            async with pair.open() as opened:
                await opened.replicate(REF, whole=True)
            crashed = False
        except (Crashed, BaseExceptionGroup):
            pass
        pair.there.heal()
        async with pair.open() as opened:
            look = await opened.replicate(REF, whole=True)
            assert look.state == "in_step", (at, look)
            assert pair.differences() == set(), at
    assert at > 20


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.NEVER_ARRIVED, Fault.UNAVAILABLE, Fault.CONFLICT])
async def test_a_bad_answer_to_any_create_is_settled_or_tried_again(pair, home, fault):
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 3)
        pair.there.plan(fault, on="create", name=r"t/.*", times=3)
        for _ in range(3):
            look = await opened.replicate(REF)
        assert look.state == "in_step"
        assert pair.differences() == set()


async def test_what_was_stepped_over_and_a_full_base_are_copied_and_taken_over(home, tmp_path):
    """A foreign object under a number, the V behind it, packs below `b/`, a K: whatever lies in a log."""
    pair = Pair(tmp_path)
    opened = pair.open()
    await take(opened)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    await opened.replicate(REF)
    pair.first.objects[f"{PREFIX}c/{3:016d}"] = b"nobody knows what this is" * 9
    write(home, a="what nobody else has", big=os.urandom(1_500_000))
    saved = await opened.checkpoint(
        REF, home=home, fence=1, session="s", reason="conflict", frozen=True, conflict=True
    )
    found = await opened.foreign(REF)
    await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])
    [side] = await opened.conflicts(REF)
    await opened.told(REF, seqs=[side.seq], actor="user")
    look = await opened.replicate(REF)
    assert (look.state, look.faults) == ("in_step", ())
    assert pair.differences() == set()
    cold = pair.open(cache="cold")
    look = await cold.replicate(REF)
    assert (look.state, look.copied_objects) == ("in_step", 0), "a comparison finds it all there"
    taken = pair.from_second()
    assert [one.side for one in await taken.conflicts(REF)] == [saved.info.side]
    await taken.restore(REF, seq=side.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)
    assert (await taken.verify(REF, "full")).faults == ()


async def test_a_copy_that_ends_with_what_was_stepped_over_goes_on(home, tmp_path):
    pair = Pair(tmp_path)
    opened = pair.open()
    await take(opened)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    pair.first.objects[f"{PREFIX}c/{3:016d}"] = b"nobody knows what this is" * 9
    found = await opened.foreign(REF)
    await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])
    pair.there.plan(Fault.REFUSED, on="create", name=r".*c/0+4$", times=9)
    assert (await opened.replicate(REF)).state != "in_step"
    assert f"{PREFIX}c/{3:016d}" in pair.second.objects
    pair.there.heal()
    look = await pair.open(cache="cold").replicate(REF)
    assert (look.state, pair.differences()) == ("in_step", set())


async def test_a_dropped_full_base_leaves_the_second_store_with_its_packs(home, tmp_path):
    pair = Pair(tmp_path)
    opened = pair.open()
    await take(opened)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    pair.first.objects[f"{PREFIX}c/{3:016d}"] = b"nobody knows what this is" * 9
    write(home, big=os.urandom(1_500_000))
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="conflict", conflict=True)
    found = await opened.foreign(REF)
    await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])
    await opened.replicate(REF)
    assert objects(pair.second, "b/")
    [side] = await opened.conflicts(REF)
    await opened.forget(REF, seqs=[side.seq], actor="user", reason="dropped")
    for _ in range(3):
        write(home, a=os.urandom(8).hex())
        await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
        await tidy(opened)
    for cache in ("one", "two"):
        await pair.open(cache=cache).replicate(REF)
    assert (objects(pair.first, "b/"), objects(pair.second, "b/")) == ([], [])
    assert pair.differences() == set()

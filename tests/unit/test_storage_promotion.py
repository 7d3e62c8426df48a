"""A second store that becomes the main one, and how the old one is kept from going on as it."""

import itertools

import pytest

import storage
from storage.objects.memory import MemoryStore
from storage.replica import marks
from storage.replica.second import SecondStore
from tests.fakes.home import picture
from tests.fakes.replica_pair import Pair, grow, home, pair, small_folds
from tests.fakes.storage_rig import IMPATIENT, REF, take

__all__ = ["home", "pair", "small_folds"]


async def test_a_promoted_store_keeps_the_old_one_from_being_the_main_one(pair, home, tmp_path):
    async with pair.open() as opened:
        kept = await opened.require_main(None)
        await take(opened)
        await grow(opened, home, 2)
        await opened.replicate(REF)
    newer = storage_mark(await promote(pair, kept))
    assert newer.number == 2
    # The machine that knows of it, one that sees the new store, and one that sees the old one only.
    for witness in (newer_bytes(newer), kept, None):
        async with pair.open() as opened:
            with pytest.raises(storage.NotMain):
                await opened.require_main(witness)
            assert (await opened.replicate(REF)).state == "refused"
    pair.node.store.inner = MemoryStore(pair.first)
    async with pair.node.open() as alone:
        with pytest.raises(storage.NotMain):
            await alone.require_main(None)
    async with pair.from_second() as main:
        assert await main.require_main(newer_bytes(newer)) == newer_bytes(newer)
        await take(main, fence=2)
        newest = (await main.list(REF))[-1]
        await main.restore(REF, seq=newest.seq, into=tmp_path / "restored")
    assert picture(tmp_path / "restored") == picture(home)


async def test_a_process_that_copied_before_a_promotion_copies_nothing_after_it(pair, home):
    """The mark is looked for at each copy, with one HEAD, and not only when a process starts."""
    async with pair.open() as opened:
        kept = await opened.require_main(None)
        await take(opened)
        await grow(opened, home, 1)
        assert (await opened.replicate(REF)).state == "in_step"
        await grow(opened, home, 1)
        pair.there.calls.clear()
        assert (await opened.replicate(REF)).state == "in_step"
        asked = [call.on for call in pair.there.calls if call.name.startswith(marks.PREFIX)]
        assert asked == ["head"]
        await promote(pair, kept, reachable=False)
        before = dict(pair.second.objects)
        await grow(opened, home, 1)
        assert (await opened.replicate(REF)).state == "refused"
        assert pair.second.objects == before


async def test_a_promotion_leaves_no_number_out_on_the_store_it_names(pair, home):
    """Whoever copies looks for the next number only."""
    async with pair.open() as opened:
        kept = storage_mark(await opened.require_main(None))
    again = marks.new_mark(2, kept.main, at_ms=5, actor="test", reason="the old main store named itself")
    newer = storage_mark(await promote(pair, newer_bytes(again), reachable=False))
    assert newer.number == 3
    names = [name for name in pair.second.objects if name.startswith("stores/main-")]
    assert sorted(names) == [f"stores/main-{number:08d}" for number in (1, 2, 3)]


async def test_an_old_main_store_that_was_away_is_caught_by_any_witness(pair, home):
    async with pair.open() as opened:
        kept = await opened.require_main(None)
    newer = await promote(pair, kept, reachable=False)
    pair.node.store.inner = MemoryStore(pair.first)
    async with pair.node.open() as alone:
        with pytest.raises(storage.NotMain):
            await alone.require_main(newer)
    async with pair.open() as opened:
        with pytest.raises(storage.NotMain):
            await opened.require_main(kept)


async def test_a_promotion_may_be_repeated(pair, home):
    async with pair.open() as opened:
        kept = await opened.require_main(None)
    first = await promote(pair, kept)
    assert await promote(pair, first) == first


async def promote(pair: Pair, kept: bytes | None, *, reachable: bool = True) -> bytes:
    from storage.front.replication import promote as name_it

    async def second() -> MemoryStore:
        return MemoryStore(pair.second)

    async def main() -> MemoryStore:
        if not reachable:
            raise storage.StoreUnavailable(reason="burned")
        return MemoryStore(pair.first)

    clock = itertools.count(1_800_000_000_000)
    return await name_it(
        SecondStore(second, IMPATIENT),
        SecondStore(main, IMPATIENT),
        kept=kept,
        fresh=pair.node.fresh,
        at_ms=next(clock),
        actor="test",
        reason="burned",
    )


def storage_mark(raw: bytes) -> marks.MainMark:
    return marks.mark_decoder.decode(raw)


def newer_bytes(mark: marks.MainMark) -> bytes:
    from storage.format.encoding import encode

    return encode(mark)

"""Keys and erasures over two stores: what the second one still needs stays there, and nothing is promised of
a store that did not answer.
"""

import pytest

import storage
from storage.format.secrets import read_receipt
from storage.front.replication import promote
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.replica_pair import Pair, grow, home, pair, save, small_folds, tidy
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

__all__ = ["home", "pair", "small_folds"]
OTHER = storage.WorkspaceRef(tenant=REF.tenant, workspace="cc" * 8)
KEYS = f"t/{REF.tenant}/k/"
STONE = f"t/{REF.tenant}/e/{REF.workspace}"


def tenant_slots(bucket) -> set[str]:
    return {name for name in bucket.objects if name.startswith(KEYS)}


async def saved_in(opened: storage.Storage, ref: storage.WorkspaceRef, home) -> None:
    head = await opened.take_over(ref, fence_at_least=1, node="n", session="s", registry_epoch=1)
    await opened.checkpoint(ref, home=home, fence=head.fence, session="s", reason="test")


async def test_a_tenant_key_stays_on_the_second_store_while_a_workspace_there_needs_it(pair, home):
    """One workspace was copied after the rotation, the other one was not yet."""
    async with pair.open() as opened:
        for ref in (REF, OTHER):
            await saved_in(opened, ref, home)
            await opened.replicate(ref)
        before = tenant_slots(pair.second)
        await opened.rotate_tenant(REF.tenant)
        await opened.replicate(REF, whole=True)
        assert before < tenant_slots(pair.second), "the older key opens the other workspace there"
        async with pair.from_second() as other:
            assert len(await other.list(OTHER)) == 1
        for ref in (OTHER, REF):
            await opened.replicate(ref, whole=True)
        assert tenant_slots(pair.second) == tenant_slots(pair.first)
        assert pair.differences() == set()


async def test_a_tenant_key_stays_on_the_second_store_while_a_tombstone_there_needs_it(pair, home):
    """The main store lost the key by accident; who erased what stays readable after a promotion."""
    async with pair.open() as opened:
        for ref in (REF, OTHER):
            await saved_in(opened, ref, home)
        before = tenant_slots(pair.first)
        await opened.erase(REF, actor="root", reason="asked")
        await opened.rotate_tenant(REF.tenant)
        for ref in (REF, OTHER):
            await opened.replicate(ref, whole=True)
        for name in before:
            del pair.first.objects[name]
        await opened.replicate(OTHER, whole=True)
        assert before <= tenant_slots(pair.second)
    async with pair.from_second() as other:
        assert (await other.tombstone(REF)).reason == "asked"
        assert len(await other.list(OTHER)) == 1


async def test_where_there_is_no_second_store_the_receipt_says_nothing_of_one(pair, home):
    opened = Node(pair.first, pair.folder / "alone").open()
    await take(opened)
    report = await opened.erase(REF, actor="root", reason="asked")
    assert (report.second, report.locked, report.finished) == ("", (), True)


@pytest.mark.parametrize("dies_after", [0, 3, 6])
async def test_an_erasure_with_the_second_store_away_is_told_as_unfinished_and_finished_later(
    pair, home, dies_after
):
    """It is away at once, or in the middle of it."""
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 2)
        await opened.replicate(REF)
        pair.there.plan(Fault.UNAVAILABLE, times=10_000, after=dies_after)
        report = await opened.erase(REF, actor="root", reason="asked")
        assert (report.second, report.finished) == ("waits", False)
        assert b"waits" in read_receipt(report.receipt, opened.signers)
        assert objects(pair.first) == []
        assert objects(pair.second) != []
        assert (await opened.replicate(REF)).state == "away"
    pair.there.heal()
    async with pair.open() as opened:  # also after a restart
        assert (await opened.replicate(REF)).state == "erased"
        assert objects(pair.second) == []
        assert STONE in pair.second.objects
        again = await opened.erase(REF, actor="somebody", reason="else")
        assert (again.second, again.finished, again.actor, again.slots) == ("erased", True, "root", 1)
        assert b"erased" in read_receipt(again.receipt, opened.signers)


async def test_an_erasure_reaches_the_second_store_before_its_receipt_is_signed(pair, home):
    async with pair.open() as opened:
        await take(opened)
        await save(opened, home)
        await opened.replicate(REF)
        report = await opened.erase(REF, actor="root", reason="asked")
        assert (report.second, report.finished) == ("erased", True)
        assert objects(pair.second) == []


async def half_repaired(pair: Pair, home, number: int) -> dict[bytes, tuple]:
    """Copy a home, lose much of the main store, and die in call `number` of its repair; return the home."""
    async with pair.open() as opened:
        await take(opened)
        await grow(opened, home, 4)
        await tidy(opened)
        write(home, large=bytes(range(256)) * 8_000)
        await grow(opened, home, 3)
        await opened.replicate(REF, whole=True)
    for at, name in enumerate(sorted(pair.first.objects)):
        if name.startswith(PREFIX) and at % 3 and "/g/" not in name:
            del pair.first.objects[name]
    async with pair.open(cache="repairing") as opened:
        pair.node.store.crash_at(number, landed=bool(number % 2))
        try:
            await opened.repair(REF)
        except Crashed:
            pass
        finally:
            pair.node.store.heal()
    return picture(home)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [3, 14, 33, *(pytest.param(one, marks=pytest.mark.soak) for one in range(4, 80, 3))]
)
async def test_a_second_store_is_promoted_in_the_middle_of_a_repair(pair, home, tmp_path, number):
    """The repair writes to the main store alone, so what takes its place is whole; the old one, half
    repaired, becomes its second store and is brought into step.
    """
    held = await half_repaired(pair, home, number)
    async with pair.open(cache="promoting") as opened:
        kept = await promote(
            opened._second, None, kept=None, fresh=pair.node.fresh, at_ms=1, actor="root", reason="lost"
        )
    pair.first, pair.second = pair.second, pair.first
    pair.there.inner.bucket = pair.second
    async with pair.open(cache="new main") as opened:
        await opened.require_main(kept)
        assert (await opened.verify(REF, "full")).faults == ()
        newest = (await opened.list(REF))[-1]
        await opened.restore(REF, seq=newest.seq, into=tmp_path / "back")
        assert picture(tmp_path / "back") == held
        write(home, b="after the promotion")
        await take(opened, node="new")
        await opened.checkpoint(REF, home=home, fence=2, session="s", reason="test")
        look = await opened.replicate(REF, whole=True)
        assert (look.state, look.faults) == ("in_step", ())
        assert pair.differences() == set()

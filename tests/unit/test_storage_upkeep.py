"""Forgetting, pinning, garbage collection, folds and conflict checkpoints through the front door."""

import asyncio
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import storage
from storage.format.secrets import ReceiptSigner, read_receipt
from storage.objects.memory import MemoryBucket
from storage.repository import collect, fold
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import KEEP_ONE, MASTER_KEY, PREFIX, REF, Node, objects, take, write
from tests.fakes.until import until


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def no_fold(monkeypatch):
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str) -> Node:
    return Node(bucket, tmp_path / name)


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointInfo:
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)
    return saved.info


async def tidy(opened: storage.Storage, policy: storage.Retention | None = KEEP_ONE) -> storage.UpkeepReport:
    report = await opened.collect(REF, policy=policy, actor="test")
    assert report.refused == ""
    return report


def big(home: Path) -> None:
    (home / "big").write_bytes(os.urandom(1_500_000))


async def restored(opened: storage.Storage, seq: int, target: Path) -> dict:
    await opened.restore(REF, seq=seq, into=target)
    return picture(target)


async def test_a_dead_pack_is_named_in_one_run_and_deleted_in_the_next(bucket, home, tmp_path, no_fold):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    await save(opened, home)
    big(home)
    await save(opened, home)
    [first] = objects(bucket, "p/")
    big(home)
    newest = await save(opened, home)
    report = await tidy(opened)
    assert (report.forgotten, report.retired_packs, report.deleted_objects) == ((2, 3), 1, 0)
    assert first in objects(bucket, "p/"), "it was named a moment ago"
    report = await tidy(opened)
    assert (report.retired_packs, report.deleted_objects) == (0, 1)
    assert first not in objects(bucket, "p/")
    assert (await opened.verify(REF, "full")).faults == ()
    cold = node_of(bucket, tmp_path, "cold").open()
    assert [info.seq for info in await cold.list(REF)] == [newest.seq]
    assert await restored(cold, newest.seq, tmp_path / "back") == picture(home)


async def test_a_pack_that_a_kept_checkpoint_reaches_stays(bucket, home, tmp_path, no_fold):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    big(home)
    await save(opened, home)
    write(home, a="two")
    newest = await save(opened, home)
    for _ in range(3):
        report = await tidy(opened)
        assert (report.retired_packs, report.deleted_objects) == (0, 0)
    assert await restored(opened, newest.seq, tmp_path / "back") == picture(home)


async def test_a_fold_leaves_a_history_and_every_byte(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    infos = []
    for number in range(6):
        write(home, a=f"text {number}", **{f"new__{number}": os.urandom(5_000)})
        infos.append(await save(opened, home))
    everything = storage.Retention(keep_last=100)
    report = await tidy(opened, everything)
    assert report.folded_entries == 7
    assert len(objects(bucket, "c/")) == 8, "entries go in the next run"
    report = await tidy(opened, everything)
    assert report.deleted_objects == 7
    assert objects(bucket, "c/") == ["c/0000000000000008"]
    cold = node_of(bucket, tmp_path, "cold").open()
    warm_list, cold_list = await opened.list(REF), await cold.list(REF)
    assert warm_list == cold_list == infos
    assert await restored(cold, infos[-1].seq, tmp_path / "back") == picture(home)
    assert (tmp_path / "back" / "a").read_text() == "text 5"
    await cold.restore(REF, seq=infos[0].seq, into=tmp_path / "first")
    assert (tmp_path / "first" / "a").read_text() == "text 0"
    assert (await cold.verify(REF, "full")).faults == ()
    for info in infos:
        await opened.prove(REF, seq=info.seq, hash=info.hash)
        await cold.prove(REF, seq=info.seq, hash=info.hash)


async def test_saving_goes_on_over_folds_and_warm_equals_cold(bucket, home, tmp_path):
    warm = node_of(bucket, tmp_path, "warm").open()
    fence = await take(warm)
    for number in range(30):
        write(home, a=f"text {number}")
        if number % 4 == 0:
            big(home)
        await save(warm, home, fence)
        if number % 3 == 0:
            await tidy(warm)
    await tidy(warm)
    await tidy(warm)
    cold = node_of(bucket, tmp_path, "cold").open()
    assert await warm.list(REF) == await cold.list(REF)
    assert await warm.head(REF) == await cold.head(REF)
    assert len(objects(bucket, "c/")) < 12
    assert len(objects(bucket, "p/")) <= 4
    report = await cold.verify(REF, "full")
    assert (report.faults, report.orphans) == ((), 0)
    newest = (await cold.list(REF))[-1]
    assert await restored(cold, newest.seq, tmp_path / "back") == picture(home)
    again = node_of(bucket, tmp_path, "warm").open()
    assert await again.list(REF) == await cold.list(REF), "from the cache of the first process"


async def test_a_process_that_slept_over_a_fold_reads_anew_and_saves(bucket, home, tmp_path):
    sleepy, busy = node_of(bucket, tmp_path, "sleepy").open(), node_of(bucket, tmp_path, "busy").open()
    fence = await take(sleepy)
    for number in range(6):
        write(home, a=f"text {number}")
        await save(busy, home, fence)
    for _ in range(3):
        await tidy(busy)
    write(home, a="after")
    info = await save(sleepy, home, fence)
    assert info in await busy.list(REF)
    assert (await busy.verify(REF, "full")).faults == ()


async def test_a_create_into_a_number_that_a_fold_freed_does_not_count(bucket, home, tmp_path):
    """The sleeper has planned for number 3; a fold takes 1 to 7 and deletes them; then its PUT goes."""
    sleeper, busy = node_of(bucket, tmp_path, "sleeper"), node_of(bucket, tmp_path, "busy").open()
    opened = sleeper.open()
    fence = await take(opened)
    write(home, a="first")
    await save(opened, home, fence)
    sleeper.store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    write(home, a="sleeping")
    saving = asyncio.ensure_future(save(opened, home, fence))
    await until(lambda: sleeper.store.waiting)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(6):
        write(other, a=f"text {number}")
        await save(busy, other, fence)
    for _ in range(2):
        await tidy(busy)
    assert objects(bucket, "c/") == ["c/0000000000000010"]
    sleeper.store.gate.set()
    with pytest.raises(storage.CommitContended):
        await saving
    assert "c/0000000000000003" in objects(bucket, "c/"), "a remnant, which readers ignore"
    reader = node_of(bucket, tmp_path, "reader").open()
    assert [info.session for info in await reader.list(REF)] == ["s"]
    write(home, a="awake")
    info = await save(opened, home, fence)
    assert info.seq == 11
    await tidy(busy)
    assert "c/0000000000000003" not in objects(bucket, "c/")


async def test_a_remnant_does_not_make_another_sleepers_entry_count(bucket, home, tmp_path):
    """Two writers sleep before numbers 3 and 4; both are folded and freed. The first one's late entry 3 would
    be a predecessor for the second one's entry 4, if only predecessors were looked at.
    """
    first, second = node_of(bucket, tmp_path, "first"), node_of(bucket, tmp_path, "second")
    busy = node_of(bucket, tmp_path, "busy").open()
    homes = {}
    for name in ("first", "second", "busy"):
        homes[name] = tmp_path / f"home of {name}"
        homes[name].mkdir()
        write(homes[name], a=name)
    fence = await take(busy)
    await save(busy, home, fence)
    first.store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    one = asyncio.ensure_future(save(first.open(), homes["first"], fence))
    await until(lambda: first.store.waiting)
    await save(busy, homes["busy"], fence)
    second.store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    two = asyncio.ensure_future(save(second.open(), homes["second"], fence))
    await until(lambda: second.store.waiting)
    for number in range(4):
        write(homes["busy"], a=f"text {number}")
        await save(busy, homes["busy"], fence)
    for _ in range(2):
        await tidy(busy)
    first.store.gate.set()
    with pytest.raises(storage.CommitContended):
        await one
    assert "c/0000000000000003" in objects(bucket, "c/")
    second.store.gate.set()
    with pytest.raises(storage.CommitContended):
        await two
    assert "c/0000000000000004" in objects(bucket, "c/")


async def test_a_guard_without_its_fold_costs_reading_only(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    fence = await take(opened)
    for number in range(5):
        write(home, a=f"text {number}")
        await save(opened, home, fence)
    node.store.plan(Fault.UNAVAILABLE, on="create", name=".*/l/.*", times=99)
    with pytest.raises(storage.StoreUnavailable):
        await tidy(opened)
    node.store.heal()
    assert objects(bucket, "g/") == ["g/00000001"]
    write(home, a="after")
    info = await save(opened, home, fence)
    assert (await opened.prove(REF, seq=info.seq, hash=info.hash)).seq == info.seq
    assert (await opened.verify(REF, "full")).faults == ()
    report = await tidy(opened)
    assert report.folded_entries > 5
    assert objects(bucket, "g/") == ["g/00000001"]


async def test_orphans_of_an_older_fence_go_and_those_of_the_owner_stay(bucket, home, tmp_path, no_fold):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    fence = await take(opened)
    big(home)
    node.store.plan(Fault.UNAVAILABLE, on="create", name=".*/c/.*", times=99)
    with pytest.raises(storage.StoreUnavailable):
        await save(opened, home, fence)
    node.store.heal()
    orphans = objects(bucket, "p/")
    assert orphans
    await tidy(opened)
    await tidy(opened)
    assert objects(bucket, "p/") == orphans
    await take(opened, node="next")
    report = await tidy(opened)
    assert report.orphans == len(orphans)
    await tidy(opened)
    assert objects(bucket, "p/") == []


async def test_the_newest_the_pinned_and_the_first_of_a_close_cannot_be_forgotten(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    pinned = await save(opened, home)
    write(home, a="two")
    first = await save(opened, home, first_of_close=True)
    write(home, a="three")
    newest = await save(opened, home)
    await opened.keep(REF, seq=pinned.seq, pin=True, actor="a", reason="r")
    for info in (pinned, first, newest):
        with pytest.raises(storage.MustBeKept):
            await opened.forget(REF, seqs=[info.seq], actor="a", reason="r")
    assert [(info.seq, info.pinned) for info in await opened.list(REF)] == [
        (pinned.seq, True),
        (first.seq, False),
        (newest.seq, False),
    ]
    report = await tidy(opened)
    assert report.forgotten == ()
    await opened.keep(REF, seq=pinned.seq, pin=False, actor="a", reason="r")
    await opened.forget(REF, seqs=[pinned.seq], actor="a", reason="r")
    assert [info.seq for info in await opened.list(REF)] == [first.seq, newest.seq]


async def test_a_finished_close_lets_its_first_checkpoint_go(bucket, home, tmp_path, no_fold):
    opened = node_of(bucket, tmp_path, "node").open()
    fence = await take(opened)
    first = await save(opened, home, fence, first_of_close=True)
    write(home, a="two")
    last = await save(opened, home, fence, final=True)
    report = await tidy(opened)
    assert (report.released, report.forgotten) == ((first.seq,), (first.seq,))
    assert [info.seq for info in await opened.list(REF)] == [last.seq]


async def test_what_a_stale_desktop_holds_is_saved_beside_the_main_line(bucket, home, tmp_path):
    stale, owner = node_of(bucket, tmp_path, "stale").open(), node_of(bucket, tmp_path, "owner").open()
    old = await take(stale)
    await save(stale, home, old)
    new = await take(owner, node="owner")
    write(home, a="main line")
    main = await save(owner, home, new)
    lost = tmp_path / "lost"
    lost.mkdir()
    write(lost, a="unsaved elsewhere")
    big(lost)
    with pytest.raises(storage.FenceMoved):
        await save(stale, lost, old)
    result = await stale.checkpoint(
        REF, home=lost, fence=old, session="s", reason="conflict", frozen=True, conflict=True
    )
    assert (result.info.side, result.info.fence) == ("b/1-1", old)
    assert (await owner.list(REF))[-1] == main, "the main line is as it was"
    assert (await owner.head(REF)).newest == main
    assert [info.side for info in await owner.conflicts(REF)] == ["b/1-1"]
    for _ in range(3):
        await tidy(owner)
        write(home, a=os.urandom(8).hex())
        await save(owner, home, new)
    cold = node_of(bucket, tmp_path, "cold").open()
    [listed] = await cold.conflicts(REF)
    assert listed == result.info
    assert await restored(cold, listed.seq, tmp_path / "back") == picture(lost)
    proof = await cold.prove(REF, seq=listed.seq, hash=listed.hash)
    assert proof.fence == old
    assert (await cold.verify(REF, "full")).faults == ()


async def test_a_side_branch_goes_when_its_user_dropped_it(bucket, home, tmp_path):
    stale, owner = node_of(bucket, tmp_path, "stale").open(), node_of(bucket, tmp_path, "owner").open()
    old = await take(stale)
    new = await take(owner, node="owner")
    await save(owner, home, new)
    lost = tmp_path / "lost"
    lost.mkdir()
    write(lost, a="unsaved elsewhere")
    for _ in range(2):
        await stale.checkpoint(REF, home=lost, fence=old, session="s", reason="conflict", conflict=True)
        write(lost, b="more")
    first, second = await owner.conflicts(REF)
    assert (first.side, second.side) == ("b/1-1", "b/1-2")
    await owner.forget(REF, seqs=[first.seq], actor="user", reason="dropped")
    for _ in range(3):
        await tidy(owner)
    assert objects(bucket, "b/") == ["b/1-2"]
    assert await restored(owner, second.seq, tmp_path / "back") != {}
    assert (await owner.verify(REF, "full")).faults == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda objects: objects.pop(f"{PREFIX}c/0000000000000002"),
        lambda objects: objects.update({f"{PREFIX}z/newer": b"?"}),
        lambda objects: objects.update({f"{PREFIX}p/strange": b"?"}),
        lambda objects: [objects.pop(name) for name in list(objects) if "/p/" in name],
    ],
    ids=["a gap", "an unknown kind of object", "an unknown name", "a missing pack"],
)
async def test_what_contradicts_the_log_stops_collecting(bucket, home, tmp_path, spoil):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    big(home)
    await save(opened, home)
    write(home, a="two")
    await save(opened, home)
    spoil(bucket.objects)
    before = dict(bucket.objects)
    cold = node_of(bucket, tmp_path, "cold").open()
    try:
        report = await cold.collect(REF, policy=None, actor="test")
        assert report.refused
    except storage.ChainBroken:
        pass
    assert bucket.objects == before


async def test_a_cut_listing_is_never_taken_for_the_whole(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    big(home)
    await save(opened, home)
    before = dict(bucket.objects)
    node.store.plan(Fault.CUT_LISTING, on="list", name=PREFIX, times=9)
    with pytest.raises(storage.StoreUnavailable):
        await opened.collect(REF, policy=None, actor="test")
    assert bucket.objects == before


async def test_a_log_that_the_registry_does_not_know_is_not_touched(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    info = await save(opened, home)
    report = await opened.collect(REF, policy=None, actor="t", witness=(info.seq, bytes(32)))
    assert "remembered" in report.refused
    report = await opened.collect(REF, policy=None, actor="t", witness=(info.seq, info.hash))
    assert report.refused == ""


async def test_a_new_key_epoch_is_for_new_objects_and_old_ones_stay_readable(bucket, home, tmp_path):
    opened, other = node_of(bucket, tmp_path, "node").open(), node_of(bucket, tmp_path, "other").open()
    fence = await take(opened)
    first = await save(opened, home, fence)
    assert len(await other.list(REF)) == 1
    assert await opened.rotate_keys(REF) == 2
    assert await opened.key_epoch(REF) == 2
    write(home, a="two")
    second = await save(opened, home, fence)
    headers = {bucket.objects[f"{PREFIX}c/{seq:016d}"][8:16] for seq in (first.seq, second.seq)}
    assert len(headers) == 2
    assert await other.list(REF) == [first, second], "opened anew"
    assert (await other.verify(REF, "full")).faults == ()
    cold = node_of(bucket, tmp_path, "cold").open()
    assert await restored(cold, second.seq, tmp_path / "back") == picture(home)


async def test_after_a_leak_nobody_writes_under_the_old_key(bucket, home, tmp_path):
    opened, other = node_of(bucket, tmp_path, "node").open(), node_of(bucket, tmp_path, "other").open()
    fence = await take(opened)
    await save(opened, home, fence)
    write(home, a="two")
    await save(other, home, fence)
    assert await opened.rotate_keys(REF, leaked=True) == 2
    write(home, a="three")
    with pytest.raises(storage.KeysChanged):
        await save(other, home, fence)
    info = await save(other, home, fence)
    old, new = (bucket.objects[f"{PREFIX}c/{seq:016d}"][8:16] for seq in (1, info.seq))
    assert old != new
    for _ in range(3):
        await tidy(opened)
    cold = node_of(bucket, tmp_path, "cold").open()
    assert (await cold.list(REF))[-1] == info
    assert (await cold.verify(REF, "full")).faults == ()


async def test_an_erased_workspace_leaves_its_tombstone_and_a_signed_receipt(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened, warm = node.open(), node_of(bucket, tmp_path, "warm").open()
    fence = await take(opened)
    await save(opened, home, fence)
    assert len(await warm.list(REF)) == 1
    report = await opened.erase(REF, actor="root", reason="asked by the user")
    with pytest.raises(storage.RepositoryMissing):
        await save(warm, home, fence)
    with pytest.raises(storage.WorkspaceErased):
        await save(warm, home, fence)
    assert objects(bucket) == []
    assert report.slots == 1
    assert report.objects >= 3
    signer = ReceiptSigner(MASTER_KEY)
    assert b"asked by the user" in read_receipt(report.receipt, {signer.key_id: signer.public_key})
    left = b"".join(path.read_bytes() for path in (tmp_path / "node").rglob("*.cache"))
    assert b"letter" not in left
    for call in (
        opened.head(REF),
        node.open().head(REF),
        node_of(bucket, tmp_path, "other").open().head(REF),
    ):
        with pytest.raises(storage.WorkspaceErased):
            await call
    with pytest.raises(storage.WorkspaceErased):
        await take(opened)


@pytest.mark.parametrize("landed", [False, True])
async def test_an_erasure_that_was_cut_off_is_finished_by_the_next(bucket, home, tmp_path, landed):
    """Die in each call; afterwards the workspace is whole or erased, and a repeat erases it."""
    whole = node_of(bucket, tmp_path, "whole").open()
    fence = await take(whole)
    await save(whole, home, fence)
    for number in range(1, 60):
        other = MemoryBucket(dict(bucket.objects))
        node = node_of(other, tmp_path, f"node {landed} {number}")
        node.store.crash_at(number, landed=landed)
        finished = True
        try:
            await node.open().erase(REF, actor="root", reason="first")
        except Crashed:
            finished = False
        report = (
            await node_of(other, tmp_path, f"next {landed} {number}")
            .open()
            .erase(REF, actor="next", reason="again")
        )
        assert objects(other) == []
        assert report.actor in ("root", "next")
        if finished:
            return
    raise AssertionError("it never ended by itself")


async def test_two_checkpoints_are_compared_by_path(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    one = await save(opened, home)
    write(home, a="two", docs__new="n", more__x="y")
    (home / "docs" / "letter").unlink()
    two = await save(opened, home)
    found = await opened.diff(REF, before=one.seq, after=two.seq)
    assert [(change.path, change.what) for change in found.changes] == [
        (b"a", "changed"),
        (b"docs/letter", "removed"),
        (b"docs/new", "added"),
        (b"more", "added"),
        (b"more/x", "added"),
    ]
    assert (await opened.diff(REF, before=one.seq, after=one.seq)).changes == ()


async def a_side_branch(bucket, tmp_path, home) -> tuple[storage.Storage, storage.CheckpointInfo]:
    stale, owner = node_of(bucket, tmp_path, "stale").open(), node_of(bucket, tmp_path, "owner").open()
    old = await take(stale)
    new = await take(owner, node="owner")
    await save(owner, home, new)
    saved = await stale.checkpoint(REF, home=home, fence=old, session="s", reason="conflict", conflict=True)
    return owner, saved.info


async def test_a_side_branch_goes_thirty_days_after_its_user_was_told_and_not_before(bucket, home, tmp_path):
    """The log itself notes when he was told; folds and index snapshots carry it on."""
    owner, side = await a_side_branch(bucket, tmp_path, home)
    late = node_of(bucket, tmp_path, "late")
    day_ms = 86_400_000
    late.clock = itertools.count(1_700_000_000_000 + 400 * day_ms)
    for _ in range(2):
        await tidy(late.open())
    assert [info.seq for info in await owner.conflicts(REF)] == [side.seq], "nobody was told"
    await owner.told(REF, seqs=[side.seq], actor="user")
    before = len(objects(bucket, "c/"))
    await owner.told(REF, seqs=[side.seq], actor="user")
    assert len(objects(bucket, "c/")) == before, "once is enough"
    early = node_of(bucket, tmp_path, "early")
    early.clock = itertools.count(1_700_000_000_000 + 29 * day_ms)
    for number in range(3):
        write(home, a=f"text {number}")
        await save(owner, home, 2)
        await tidy(early.open())
    assert [info.seq for info in await owner.conflicts(REF)] == [side.seq]
    await tidy(late.open())
    assert await owner.conflicts(REF) == []
    for _ in range(3):
        await tidy(late.open())
    assert objects(bucket, "b/") == []


async def test_clocks_more_than_a_day_apart_forget_and_unpin_nothing(bucket, home, tmp_path, no_fold):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    first = await save(opened, home)
    write(home, a="two")
    second = await save(opened, home)
    write(home, a="three")
    await save(opened, home)
    await opened.keep(REF, seq=first.seq, pin=True, actor="a", reason="r")

    async def yesterday() -> int:
        return 1_700_000_000_000 - 2 * 86_400_000

    opened._bare = SimpleNamespace(time_ms=yesterday)
    report = await opened.collect(REF, policy=KEEP_ONE, actor="t")
    assert (report.clocks_apart, report.forgotten) == (True, ())
    with pytest.raises(storage.ClocksApart):
        await opened.keep(REF, seq=first.seq, pin=False, actor="a", reason="r")
    with pytest.raises(storage.ClocksApart):
        await opened.forget(REF, seqs=[second.seq], actor="a", reason="r")

    async def nearly() -> int:
        return 1_700_000_000_000 - 3_600_000

    opened._bare = SimpleNamespace(time_ms=nearly)
    report = await opened.collect(REF, policy=KEEP_ONE, actor="t")
    assert (report.clocks_apart, report.forgotten) == (False, (second.seq,))

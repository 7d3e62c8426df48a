"""Full-base side checkpoints: where the main line cannot be used, a home is saved whole beside it."""

import os
from pathlib import Path

import pytest

import storage
from storage.format.entries import Version
from storage.objects.memory import MemoryBucket
from storage.ops import save as save_module
from storage.repository import collect, fold, repack, snapshots
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.format_second_reader import SecondReader
from tests.fakes.home import picture
from tests.fakes.storage_rig import KEEP_ONE, MASTER_KEY, PREFIX, REF, Node, objects, take, write

FULL_BASE_TRIES_MAX = 80


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir", big=os.urandom(1_500_000))
    return folder


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)


async def beside(opened: storage.Storage, home: Path, fence: int = 1) -> storage.CheckpointResult:
    return await opened.checkpoint(
        REF, home=home, fence=fence, session="s", reason="conflict", frozen=True, conflict=True
    )


def jam(bucket: MemoryBucket, seq: int) -> str:
    """Put something foreign under the log's next number."""
    name = f"{PREFIX}c/{seq:016d}"
    bucket.objects[name] = b"nobody knows what this is" * 9
    return name


async def restored(opened: storage.Storage, seq: int, target: Path) -> dict[bytes, tuple]:
    await opened.restore(REF, seq=seq, into=target)
    return picture(target)


async def tidy(opened: storage.Storage) -> storage.UpkeepReport:
    report = await opened.collect(REF, policy=KEEP_ONE, actor="test")
    assert report.refused == ""
    return report


def break_the_chain(bucket: MemoryBucket) -> None:
    del bucket.objects[f"{PREFIX}c/{1:016d}"]


def spoil_the_newest(bucket: MemoryBucket) -> None:
    bucket.objects[f"{PREFIX}c/{2:016d}"] = bytes(5_000)


def put_a_foreign_object(bucket: MemoryBucket) -> None:
    jam(bucket, 3)


async def ask_for_a_newer_writer(opened: storage.Storage) -> None:
    upkeep = await opened._upkeep(REF)
    await upkeep.place(lambda state: Version(1, 2, 1, 1, [], [], []))


async def saved_whole(opened: storage.Storage, bucket: MemoryBucket, home: Path) -> None:
    before = set(bucket.objects)
    write(home, a="two")
    with pytest.raises(storage.StorageError):
        await save(opened, home, final=True)
    done = await beside(opened, home)
    assert (done.info.seq, done.proof) == (0, None), "no log holds it, so nothing may be ended because of it"
    made = {name.removeprefix(PREFIX) for name in set(bucket.objects) - before}
    beside_main = {name for name in made if name.startswith("b/")}
    assert {name[:2] for name in made - beside_main} <= {"p/"}, "what the refused save had stored"
    assert done.info.side in beside_main
    assert len(beside_main) >= 2, "packs of its own"


@pytest.mark.parametrize(
    ("spoil", "cold"),
    [
        (break_the_chain, True),
        (spoil_the_newest, True),
        (spoil_the_newest, False),
        (put_a_foreign_object, True),
        (put_a_foreign_object, False),
    ],
)
async def test_a_home_is_saved_whole_where_the_main_line_cannot_be_used(bucket, home, tmp_path, spoil, cold):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    await save(opened, home)
    spoil(bucket)
    if cold:
        opened = Node(bucket, tmp_path / "cold").open()
    await saved_whole(opened, bucket, home)


async def test_a_home_is_saved_whole_where_the_log_asks_for_a_newer_writer(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    await save(opened, home)
    await ask_for_a_newer_writer(opened)
    await saved_whole(opened, bucket, home)


async def test_a_store_that_does_not_answer_is_no_reason_to_save_beside(bucket, home, tmp_path):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    await take(opened)
    node.store.down = True
    with pytest.raises(storage.StoreUnavailable):
        await beside(opened, home)
    node.store.heal()
    assert objects(bucket, "b/") == []


async def stepped_over(opened: storage.Storage) -> None:
    found = await opened.foreign(REF)
    await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])


async def jammed_and_saved(bucket, home, tmp_path) -> tuple[storage.Storage, storage.CheckpointInfo]:
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    await save(opened, home)
    jam(bucket, 3)
    write(home, a="what nobody else has")
    done = await beside(opened, home)
    return opened, done.info


async def test_it_counts_once_the_main_line_is_right_again_and_outlives_folds(bucket, home, tmp_path):
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    await stepped_over(opened)
    held = picture(home)
    [info] = await opened.conflicts(REF)
    assert (info.side, info.fence, info.bytes) == (told.side, told.fence, told.bytes)
    for number in range(6):
        write(home, a=f"later {number}", big=os.urandom(1_500_000))
        await save(opened, home)
        await tidy(opened)
    cold = Node(bucket, tmp_path / "cold").open()
    assert await restored(cold, info.seq, tmp_path / "back") == held
    assert [one.name for one in (await cold.folder(REF, seq=info.seq, path=b"docs")).entries] == [b"letter"]
    assert (await cold.prove(REF, seq=info.seq, hash=info.hash)).fence == 1
    assert (await cold.verify(REF, "full")).faults == ()
    reader = SecondReader(bucket.objects, REF.tenant, REF.workspace, MASTER_KEY)
    _, fields = reader.sides[info.seq]
    found = dict(reader.tree(fields[4]))
    assert reader.data(found[b"a"]) == b"what nobody else has"
    assert reader.data(found[b"big"])


async def test_it_goes_whole_when_its_user_dropped_it(bucket, home, tmp_path):
    opened, _ = await jammed_and_saved(bucket, home, tmp_path)
    await stepped_over(opened)
    [info] = await opened.conflicts(REF)
    await opened.forget(REF, seqs=[info.seq], actor="user", reason="dropped")
    write(home, big=os.urandom(1_500_000))
    await save(opened, home)
    for _ in range(3):
        await tidy(opened)
    assert objects(bucket, "b/") == []
    assert await opened.conflicts(REF) == [], "what was dropped does not come back"
    assert (await opened.verify(REF, "full")).faults == ()


async def test_what_others_came_to_need_of_a_dropped_one_stays(bucket, home, tmp_path):
    """A checkpoint of the main line found the chunks below `b/` and did not upload them again."""
    opened, _ = await jammed_and_saved(bucket, home, tmp_path)
    write(home, new=os.urandom(1_400_000))
    done = await beside(opened, home)
    await stepped_over(opened)
    await save(opened, home)
    for info in await opened.conflicts(REF):
        await opened.forget(REF, seqs=[info.seq], actor="user", reason="dropped")
    assert done.info.side
    for number in range(5):
        write(home, a=f"small {number}")
        await save(opened, home)
        await tidy(opened)
    newest = (await opened.list(REF))[-1]
    cold = Node(bucket, tmp_path / "cold").open()
    assert await restored(cold, newest.seq, tmp_path / "back") == picture(home)
    assert (await cold.verify(REF, "full")).faults == ()


async def test_an_unchanged_home_is_not_uploaded_again(bucket, home, tmp_path):
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    before = set(bucket.objects)
    again = await beside(opened, home)
    assert (again.info.side, again.unchanged) == (told.side, True)
    assert set(bucket.objects) == before
    write(home, a="and more")
    more = await beside(opened, home)
    assert more.info.side != told.side
    assert not more.unchanged


async def test_one_that_its_user_dropped_is_not_relied_on_again(bucket, home, tmp_path):
    """It lies there until the next run deletes it."""
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    await stepped_over(opened)
    [info] = await opened.conflicts(REF)
    await opened.forget(REF, seqs=[info.seq], actor="user", reason="dropped")
    await tidy(opened)
    assert told.side in objects(bucket, "b/"), "given up, and not deleted yet"
    jam(bucket, len(objects(bucket, "c/")) + 1)
    again = await beside(opened, home)
    assert again.info.side != told.side
    await stepped_over(opened)
    for _ in range(2):
        await tidy(opened)
    [info] = await opened.conflicts(REF)
    assert info.side == again.info.side
    assert await restored(opened, info.seq, tmp_path / "back") == picture(home)


@pytest.mark.parametrize("same_process", [True, False])
async def test_where_the_chain_is_broken_only_what_this_process_saved_is_relied_on(
    bucket, home, tmp_path, same_process
):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    await save(opened, home)
    break_the_chain(bucket)
    told = (await beside(Node(bucket, tmp_path / "cold").open(), home)).info
    asked = Node(bucket, tmp_path / "asked").open()
    if same_process:
        told = (await beside(asked, home)).info
    again = await beside(asked, home)
    assert (again.info.side == told.side) is same_process
    assert again.unchanged is same_process


async def test_a_damaged_one_keeps_nobody_from_saving_beside(bucket, home, tmp_path):
    stale, owner = Node(bucket, tmp_path / "stale").open(), Node(bucket, tmp_path / "owner").open()
    await take(stale)
    await save(owner, home, await take(owner, node="owner"))
    bucket.objects[f"{PREFIX}b/1-1"] = b"not what it was" * 99
    write(home, a="what nobody else has")
    done = await beside(stale, home)
    assert done.info.side == "b/1-2"
    assert await restored(owner, done.info.seq, tmp_path / "back") == picture(home)


async def test_a_number_is_not_given_again_over_a_fold(bucket, home, tmp_path):
    """A fold forgets which names were given up; a run that began before it may still delete one of them."""
    stale, owner = Node(bucket, tmp_path / "stale").open(), Node(bucket, tmp_path / "owner").open()
    await take(stale)
    new = await take(owner, node="owner")
    await save(owner, home, new)
    dying = Node(bucket, tmp_path / "dying")
    opened = dying.open()
    await opened.head(REF)
    dying.store.plan(Fault.REFUSED, on="create", name=r".*/c/.*")
    with pytest.raises(storage.StorageError):
        await beside(opened, home)
    gone = (await beside(stale, home)).info
    assert (objects(bucket, "b/"), gone.side) == (["b/1-1", "b/1-2"], "b/1-2")
    await owner.forget(REF, seqs=[gone.seq], actor="user", reason="dropped")
    for _ in range(3):
        await tidy(owner)
    assert objects(bucket, "l/"), "folded"
    assert objects(bucket, "b/") == ["b/1-1"]
    write(home, a="what nobody else has")
    assert (await beside(stale, home)).info.side != gone.side


async def test_one_that_lost_a_pack_is_made_again_and_never_counts(bucket, home, tmp_path):
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    packs = [name for name in objects(bucket, "b/") if name != told.side]
    del bucket.objects[PREFIX + packs[0]]
    again = await beside(opened, home)
    assert again.info.side != told.side
    await stepped_over(opened)
    assert [info.side for info in await opened.conflicts(REF)] == [again.info.side]


async def test_an_index_snapshot_carries_it(bucket, home, tmp_path, monkeypatch):
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    await stepped_over(opened)
    monkeypatch.setattr(snapshots, "ENTRIES", 1)
    write(home, a="more")
    await save(opened, home)
    assert objects(bucket, "x/")
    cold = Node(bucket, tmp_path / "cold").open()
    [info] = await cold.conflicts(REF)
    assert info.side == told.side
    await tidy(cold)
    assert (await restored(cold, info.seq, tmp_path / "back")) != {}


@pytest.mark.parametrize("landed", [False, True])
async def test_dying_in_any_call_of_it_loses_nothing_that_was_told(bucket, home, tmp_path, landed):
    """Another attempt follows each death; packs that it left stay, and nothing deletes them."""
    opened, _ = await jammed_and_saved(bucket, home, tmp_path)
    await opened.close()
    for number in range(1, FULL_BASE_TRIES_MAX):
        node = Node(bucket, tmp_path / f"node {number}")
        fresh = node.open()
        write(home, a=f"attempt {number}")
        node.store.crash_at(number, landed=landed)
        try:
            done = await beside(fresh, home)
        except Crashed:
            node.store.heal()
            continue
        node.store.heal()
        break
    else:
        raise AssertionError("more calls than expected")
    assert number > 8
    last = Node(bucket, tmp_path / "last").open()
    await stepped_over(last)
    info = next(one for one in await last.conflicts(REF) if one.side == done.info.side)
    assert await restored(last, info.seq, tmp_path / "back") == picture(home)
    await tidy(last)
    assert (await last.verify(REF, "full")).faults == ()


@pytest.mark.parametrize("landed", [False, True])
async def test_dying_in_any_call_of_the_adoption_makes_it_count_once(bucket, home, tmp_path, landed):
    opened, told = await jammed_and_saved(bucket, home, tmp_path)
    await opened.close()
    stone = MemoryBucket()
    for number in range(1, FULL_BASE_TRIES_MAX):
        stone.objects = dict(bucket.objects)
        node = Node(stone, tmp_path / f"node {number}")
        fresh = node.open()
        found = await fresh.foreign(REF)
        node.store.crash_at(number, landed=landed)
        died = False
        try:
            await fresh.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])
        except Crashed:
            died = True
        node.store.heal()
        after = Node(stone, tmp_path / f"after {number}").open()
        if await after.foreign(REF):
            await stepped_over(after)
        await tidy(after)
        assert [info.side for info in await after.conflicts(REF)] == [told.side], number
        assert (await after.verify(REF, "full")).faults == ()
        if not died:
            break
    assert number > 8


async def test_a_number_that_was_given_up_is_never_used_again(bucket, home, tmp_path):
    """A run that still deletes the old one would take the new one."""
    stale, owner = Node(bucket, tmp_path / "stale").open(), Node(bucket, tmp_path / "owner").open()
    await take(stale)
    new = await take(owner, node="owner")
    await save(owner, home, new)
    first = await beside(stale, home)
    [info] = await owner.conflicts(REF)
    await owner.forget(REF, seqs=[info.seq], actor="user", reason="dropped")
    await tidy(owner)
    await tidy(owner)
    assert objects(bucket, "b/") == []
    second = await beside(stale, home)
    assert first.info.side == "b/1-1"
    assert second.info.side != first.info.side


@pytest.mark.parametrize("nil_tables", [False, True])
@pytest.mark.parametrize(("index_each", "fold_each"), [(1, 10**9), (10**9, 5), (4, 5)])
async def test_a_conflict_whose_packs_were_moved_outlives_folds_and_index_snapshots(
    bucket, home, tmp_path, monkeypatch, nil_tables, index_each, fold_each
):
    """Its own entry names the old packs for ever; a history and a snapshot must not bring these back."""
    monkeypatch.setattr(repack, "SMALL_PACKS_MIN", 2)
    monkeypatch.setattr(fold, "ENTRIES_MIN", fold_each)
    monkeypatch.setattr(snapshots, "ENTRIES", index_each)
    if nil_tables:
        monkeypatch.setattr(save_module, "TABLES_IN_ENTRY_BYTES_MAX", 0)
    stale, owner = Node(bucket, tmp_path / "stale").open(), Node(bucket, tmp_path / "owner").open()
    await take(stale)
    new = await take(owner, node="owner")
    await stale.checkpoint(REF, home=home, fence=1, session="s", reason="conflict", conflict=True)
    held = picture(home)
    moved = 0
    for number in range(8):
        write(home, **{f"big{number}": os.urandom(1_200_000)})
        await save(owner, home, new)
        moved += (await tidy(Node(bucket, tmp_path / f"cold {number}").open())).repacked_packs
    assert moved
    last = Node(bucket, tmp_path / "last").open()
    [info] = await last.conflicts(REF)
    assert await restored(last, info.seq, tmp_path / "back") == held
    assert (await last.verify(REF, "full")).faults == ()

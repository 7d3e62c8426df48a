"""Readers over a log that is folded and collected while they read, and the pins that keep what they read."""

import io
import itertools
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import storage
from storage.errors import ObjectDamaged
from storage.objects.memory import MemoryBucket
from storage.ops import restore_plan
from storage.repository import collect, fold, snapshots
from storage.repository.reader import Reader
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.meddled_store import Meddled
from tests.fakes.storage_rig import KEEP_ONE, PREFIX, REF, Node, objects, take, write

EVERYTHING = storage.Retention(keep_last=1_000)


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointInfo:
    return (await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t", **more)).info


async def filled(opened: storage.Storage, home: Path) -> list[storage.CheckpointInfo]:
    """Save a home again and again, so that its chunks lie in many entries."""
    await take(opened)
    infos = []
    for number in range(6):
        write(home, a=f"text {number}", **{f"folder{number % 2}__new{number}": bytes([number]) * 30_000})
        infos.append(await save(opened, home))
    return infos


async def tidied(opened: storage.Storage, policy: storage.Retention = EVERYTHING) -> None:
    """One run gives up and folds, the next one deletes."""
    for _ in range(2):
        assert (await opened.collect(REF, policy=policy, actor="t")).refused == ""


def reader_of(bucket: MemoryBucket, tmp_path: Path, name: str) -> tuple[Node, Meddled]:
    node = Node(bucket, tmp_path / name)
    node.store = Meddled(bucket)
    return node, node.store


async def gathered(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_restore_goes_on_where_a_fold_has_moved_everything(bucket, home, tmp_path):
    """Another machine folds and deletes before any one read of the restore: once before each of them."""
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    wanted = picture(home)
    at, done = 1, False
    while not done:
        copy = MemoryBucket()
        copy.objects.update(bucket.objects)
        busy = Node(copy, tmp_path / f"busy{at}").open()
        node, store = reader_of(copy, tmp_path, f"reader{at}")
        opened = node.open()
        await opened.list(REF)
        store.reads, store.at, store.meddle = 0, at, lambda busy=busy: tidied(busy)
        target = tmp_path / f"back{at}"
        report = await opened.restore(REF, seq=infos[-1].seq, into=target)
        assert report.whole
        assert picture(target) == wanted
        done = store.meddle is not None
        assert done or not [name for name in objects(copy, "c/") if name <= "c/0000000000000007"]
        at += 1
    assert at > 8, "it was folded in the middle of the plan, and in the middle of the files"


async def test_what_is_moved_while_damage_is_looked_for_is_not_left_out(bucket, home, tmp_path, monkeypatch):
    """Of a load that came cut each segment is fetched alone: by then it may lie elsewhere."""
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    busy, opened = (Node(bucket, tmp_path / name).open() for name in ("busy", "reader"))
    await opened.list(REF)
    fetch, cut = Reader.fetch, []

    async def cut_once(self, wanted):
        if not cut:
            cut.append(True)
            await tidied(busy)
            raise ObjectDamaged(what="cut on its way")
        return await fetch(self, wanted)

    monkeypatch.setattr(Reader, "fetch", cut_once)
    report = await opened.restore(REF, seq=infos[-1].seq, into=tmp_path / "back")
    assert cut
    assert report.complete
    assert picture(tmp_path / "back") == picture(home)


async def test_the_process_that_folds_may_restore_meanwhile(bucket, home, tmp_path, monkeypatch):
    """Its own log changes beneath the restore, between plan and files."""
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    plan = restore_plan.Planner.run

    async def planned(self, met_one):
        made = await plan(self, met_one)
        await tidied(opened)
        return made

    monkeypatch.setattr("storage.ops.restore_plan.Planner.run", planned)
    await opened.restore(REF, seq=infos[-1].seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)


@pytest.mark.parametrize("kind", ["zip", "tar"])
async def test_a_download_goes_on_over_a_fold_in_its_middle(bucket, home, tmp_path, kind):
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    busy, slow = Node(bucket, tmp_path / "busy").open(), Node(bucket, tmp_path / "slow").open()
    pieces = slow.archive(REF, seq=infos[-1].seq, kind=kind)
    body = await anext(pieces)
    await tidied(busy)
    body += await gathered(pieces)
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(body)) as found:
            files = {name: found.read(name) for name in found.namelist() if not name.endswith("/")}
    else:
        with tarfile.open(fileobj=io.BytesIO(body)) as found:
            files = {one.name: found.extractfile(one).read() for one in found.getmembers() if one.isfile()}
    on_disk = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert files == on_disk


async def test_looks_and_differences_are_found_after_a_fold(bucket, home, tmp_path):
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    node, store = reader_of(bucket, tmp_path, "reader")
    opened = node.open()
    busy = Node(bucket, tmp_path / "busy").open()
    await opened.list(REF)
    store.reads, store.at, store.meddle = 0, 3, lambda: tidied(busy)
    names = [entry.name for entry in (await opened.folder(REF, seq=infos[2].seq)).entries]
    assert names == [b"a", b"folder0", b"folder1"]
    assert await gathered(opened.read(REF, seq=infos[0].seq, path=b"a")) == b"text 0"
    found = await opened.diff(REF, before=infos[4].seq, after=infos[5].seq)
    assert {change.path for change in found.changes} >= {b"a", b"folder1/new5"}
    assert store.meddle is None


async def test_verify_looks_again_where_the_log_was_folded_meanwhile(bucket, home, tmp_path):
    await filled(Node(bucket, tmp_path / "writer").open(), home)
    busy = Node(bucket, tmp_path / "busy").open()
    node, store = reader_of(bucket, tmp_path, "reader")
    opened = node.open()
    await opened.list(REF)
    store.reads, store.at, store.meddle = 0, 14, lambda: tidied(busy)
    assert (await opened.verify(REF, "full")).faults == ()
    assert store.meddle is None


async def test_what_the_newest_log_cannot_find_is_damage(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    await tidied(opened)
    [pack] = objects(bucket, "p/")
    del bucket.objects[PREFIX + pack]
    reader = Node(bucket, tmp_path / "reader").open()
    with pytest.raises(storage.StorageError) as told:
        await reader.restore(REF, seq=infos[-1].seq, into=tmp_path / "back", must_be_whole=True)
    assert told.value.code == "object_damaged"
    report = await reader.restore(REF, seq=infos[-1].seq, into=tmp_path / "what is left")
    assert {(one.object, one.reason) for one in report.left_out} == {(pack, "missing")}


@pytest.mark.parametrize("at", range(1, 7))
async def test_what_was_forgotten_while_it_was_read_is_told_as_that(bucket, home, tmp_path, at):
    """Looking into a checkpoint pins nothing. It is forgotten before any one read of the look."""
    writer = Node(bucket, tmp_path / "writer").open()
    infos = await filled(writer, home)
    node, store = reader_of(bucket, tmp_path, "reader")
    opened = node.open()
    await opened.list(REF)

    async def forgotten() -> None:
        await writer.forget(REF, seqs=[infos[0].seq], actor="t", reason="t")
        await tidied(writer)

    store.reads, store.at, store.meddle = 0, at, forgotten
    try:
        found = await gathered(opened.read(REF, seq=infos[0].seq, path=b"folder0/new0"))
    except storage.NoSuchCheckpoint:
        assert store.meddle is None
    else:
        assert found == bytes(30_000)
        assert at > 3, "everything was read before it was forgotten"


async def test_an_older_checkpoint_is_not_forgotten_while_it_is_restored(bucket, home, tmp_path):
    """Another machine forgets by a hard policy and collects, in the middle; afterwards it may."""
    writer = Node(bucket, tmp_path / "writer").open()
    infos = await filled(writer, home)
    node, store = reader_of(bucket, tmp_path, "reader")
    opened = node.open()
    await opened.list(REF)
    seen = []

    async def meddle() -> None:
        await tidied(writer, KEEP_ONE)
        seen.extend(info.seq for info in await writer.list(REF) if info.pinned)

    store.reads, store.at, store.meddle = 0, 12, meddle
    await opened.restore(REF, seq=infos[0].seq, into=tmp_path / "back")
    assert (tmp_path / "back" / "a").read_text() == "text 0"
    assert seen == [infos[0].seq]
    assert [info.pinned for info in await writer.list(REF)] == [False, False]
    await tidied(writer, KEEP_ONE)
    assert [info.seq for info in await writer.list(REF)] == [infos[-1].seq]


async def test_the_newest_checkpoint_needs_no_pin(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    before = objects(bucket, "c/")
    await opened.restore(REF, seq=infos[-1].seq, into=tmp_path / "back")
    assert objects(bucket, "c/") == before


async def test_of_two_readers_the_last_one_unpins(bucket, home, tmp_path):
    one, two = Node(bucket, tmp_path / "one").open(), Node(bucket, tmp_path / "two").open()
    infos = await filled(one, home)
    seq = infos[0].seq
    pieces = [opened.archive(REF, seq=seq) for opened in (one, two)]
    for stream in pieces:
        await anext(stream)
    await pieces[0].aclose()
    await tidied(one, KEEP_ONE)
    assert [info.seq for info in await one.list(REF) if info.pinned] == [seq]
    assert await gathered(pieces[1])
    assert not [info for info in await one.list(REF) if info.pinned]


async def test_a_pin_of_a_person_outlives_every_restore(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    await opened.keep(REF, seq=infos[0].seq, pin=True, actor="user:a", reason="restore the thesis")
    await opened.restore(REF, seq=infos[0].seq, into=tmp_path / "back")
    assert [info.seq for info in await opened.list(REF) if info.pinned] == [infos[0].seq]


async def test_the_first_checkpoint_of_a_close_is_not_released_by_a_restore(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    write(home, a="one")
    first = await save(opened, home, first_of_close=True)
    write(home, a="two")
    await save(opened, home)
    await opened.restore(REF, seq=first.seq, into=tmp_path / "back")
    with pytest.raises(storage.MustBeKept):
        await opened.forget(REF, seqs=[first.seq], actor="t", reason="t")


async def died_while_reading(bucket: MemoryBucket, tmp_path: Path, seq: int, number: int = 1) -> None:
    """Begin a download on a machine that dies."""
    node = Node(bucket, tmp_path / f"dead{number}")
    pieces = node.open().archive(REF, seq=seq)
    await anext(pieces)
    node.store.crash_at(1)
    with pytest.raises(Crashed):
        await pieces.aclose()


async def test_the_pin_of_a_reader_that_died_goes_with_the_next_take_over(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    seq = infos[0].seq
    await died_while_reading(bucket, tmp_path, seq)
    await tidied(opened, KEEP_ONE)
    assert [info.seq for info in await opened.list(REF) if info.pinned] == [seq]
    await take(opened, node="next")
    assert not [info for info in await opened.list(REF) if info.pinned]
    await tidied(opened, KEEP_ONE)
    assert seq not in [info.seq for info in await opened.list(REF)]


async def test_a_fold_does_not_make_a_dead_readers_pin_a_persons(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    await died_while_reading(bucket, tmp_path, infos[0].seq)
    for _ in range(6):
        write(home, a="more")
        await save(opened, home)
    for _ in range(3):
        await tidied(opened)
    assert (await opened.list(REF))[0].pinned
    cold = Node(bucket, tmp_path / "cold").open()
    await take(cold, node="cold")
    assert not [info for info in await cold.list(REF) if info.pinned]


WEEK = 7 * 24 * 3_600_000


def pinned(infos: list[storage.CheckpointInfo]) -> list[int]:
    return [info.seq for info in infos if info.pinned]


async def test_a_dead_readers_pin_is_known_to_who_starts_with_an_index_snapshot(
    bucket, home, tmp_path, monkeypatch
):
    infos = await filled(Node(bucket, tmp_path / "node").open(), home)
    await died_while_reading(bucket, tmp_path, infos[0].seq)
    monkeypatch.setattr(snapshots, "ENTRIES", 1)
    write(home, a="more")
    await save(Node(bucket, tmp_path / "saver").open(), home)
    assert objects(bucket, "x/")
    cold = Node(bucket, tmp_path / "cold").open()
    await cold.list(REF)
    assert (await cold._known.required(REF)).log.state.snapshot_at
    await take(cold, node="cold")
    assert pinned(await cold.list(REF)) == []


@pytest.mark.parametrize("folded", [False, True])
async def test_the_pin_of_a_reader_that_died_goes_after_a_week_where_nobody_takes_over(
    bucket, home, tmp_path, folded
):
    """The workspace of somebody who left: only upkeep looks at it any more."""
    node = Node(bucket, tmp_path / "node")
    infos = await filled(node.open(), home)
    await died_while_reading(bucket, tmp_path, infos[0].seq)
    opened = node.open()
    if folded:
        await tidied(opened)
    node.clock = itertools.count(next(node.clock) + WEEK - 60_000)
    await tidied(opened, KEEP_ONE)
    assert pinned(await opened.list(REF)) == [infos[0].seq]
    node.clock = itertools.count(next(node.clock) + 120_000)
    await tidied(opened, KEEP_ONE)
    assert [info.seq for info in await opened.list(REF)] == [infos[-1].seq]


async def test_a_living_readers_pin_stays_however_long_he_reads(bucket, home, tmp_path):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    infos = await filled(opened, home)
    pieces = opened.archive(REF, seq=infos[0].seq)
    await anext(pieces)
    node.clock = itertools.count(next(node.clock) + 2 * WEEK)
    await tidied(opened, KEEP_ONE)
    assert pinned(await opened.list(REF)) == [infos[0].seq]
    await gathered(pieces)


async def test_clocks_that_disagree_let_no_reader_go(bucket, home, tmp_path, monkeypatch):
    node = Node(bucket, tmp_path / "node")
    infos = await filled(node.open(), home)
    await died_while_reading(bucket, tmp_path, infos[0].seq)
    then = next(node.clock)

    async def right(store: object) -> int:
        return then

    monkeypatch.setattr("storage.front.opened.store_time_ms", right)
    node.clock = itertools.count(then + 2 * WEEK)
    opened = node.open()
    assert (await opened.collect(REF, policy=KEEP_ONE, actor="t")).clocks_apart
    assert pinned(await opened.list(REF)) == [infos[0].seq]


async def test_an_upkeep_that_dies_anywhere_makes_no_dead_readers_pin_a_persons(bucket, home, tmp_path):
    """It folds, and is killed in one call of that after the other; the next owner lets go all the same."""
    infos = await filled(Node(bucket, tmp_path / "node").open(), home)
    await died_while_reading(bucket, tmp_path, infos[0].seq)
    died, number = True, 0
    while died:
        number += 17
        copy = MemoryBucket()
        copy.objects.update(bucket.objects)
        node = Node(copy, tmp_path / f"dying {number}")
        opened = node.open()
        await opened.list(REF)
        node.store.crash_at(number, landed=bool(number % 2))
        died = False
        try:
            await tidied(opened, KEEP_ONE)
        except Crashed:
            died = True
        node.store.heal()
        after = Node(copy, tmp_path / f"after {number}").open()
        assert pinned(await after.list(REF)) == [infos[0].seq]
        await take(after, node="after")
        await tidied(after, KEEP_ONE)
        assert [info.seq for info in await after.list(REF)] == [infos[-1].seq], number
    assert number > 20


async def test_a_user_who_is_told_of_a_conflict_does_not_hide_its_reader(bucket, home, tmp_path):
    stale, owner = Node(bucket, tmp_path / "stale").open(), Node(bucket, tmp_path / "owner").open()
    await filled(stale, home)
    await take(owner, node="owner")
    info = await save(stale, home, conflict=True)
    pieces = owner.archive(REF, seq=info.seq)
    await anext(pieces)
    await owner.told(REF, seqs=[info.seq], actor="user")
    await gathered(pieces)
    assert pinned(await owner.conflicts(REF)) == []


async def test_a_large_download_of_the_newest_outlives_its_being_the_newest(
    bucket, home, tmp_path, monkeypatch
):
    monkeypatch.setattr("storage.front.reading.PINNED_FROM_BYTES", 1_000)
    opened, other = Node(bucket, tmp_path / "node").open(), Node(bucket, tmp_path / "other").open()
    infos = await filled(opened, home)
    pieces = opened.archive(REF, seq=infos[-1].seq)
    await anext(pieces)
    write(home, a="more")
    await save(other, home)
    await tidied(other, KEEP_ONE)
    assert pinned(await other.list(REF)) == [infos[-1].seq]
    await gathered(pieces)
    assert pinned(await other.list(REF)) == []


async def test_a_take_over_does_not_end_what_its_own_process_is_reading(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    pieces = opened.archive(REF, seq=infos[0].seq)
    await anext(pieces)
    await take(opened, node="next")
    assert [info.seq for info in await opened.list(REF) if info.pinned] == [infos[0].seq]
    await gathered(pieces)
    assert not [info for info in await opened.list(REF) if info.pinned]


async def test_a_take_over_elsewhere_costs_a_reader_at_worst_his_checkpoint_and_he_is_told(
    bucket, home, tmp_path
):
    """Another worker cannot know that he lives, and lets him go. If it is then forgotten, before any one of
    his reads, he has every byte or an error that says so: never a part that looks whole.
    """
    source = Node(bucket, tmp_path / "writer").open()
    infos = await filled(source, home)
    told, at, done = 0, 6, False
    while not done:
        copy = MemoryBucket()
        copy.objects.update(bucket.objects)
        other = Node(copy, tmp_path / f"other{at}").open()
        node, store = reader_of(copy, tmp_path, f"reader{at}")
        opened = node.open()
        await opened.list(REF)

        async def meddle(other: storage.Storage = other) -> None:
            await take(other, node="other")
            await tidied(other, KEEP_ONE)
            await tidied(other, KEEP_ONE)

        store.reads, store.at, store.meddle = 0, at, meddle
        target = tmp_path / f"back{at}"
        try:
            await opened.restore(REF, seq=infos[0].seq, into=target)
        except storage.NoSuchCheckpoint:
            told += 1
        else:
            assert (target / "a").read_text() == "text 0"
            assert (target / "folder0" / "new0").read_bytes() == bytes(30_000)
        done = store.meddle is not None
        at += 3
    assert told


async def test_what_an_owner_restores_after_his_take_over_stays_until_another_one(bucket, home, tmp_path):
    """A start takes over first: no pin of its own restore stands before its E."""
    opened = Node(bucket, tmp_path / "node").open()
    infos = await filled(opened, home)
    owner = Node(bucket, tmp_path / "owner").open()
    await take(owner, node="owner")
    pieces = owner.archive(REF, seq=infos[0].seq)
    await anext(pieces)
    for _ in range(2):
        await tidied(opened, KEEP_ONE)
    assert [info.seq for info in await opened.list(REF) if info.pinned] == [infos[0].seq]
    await gathered(pieces)


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.FULL])
async def test_a_store_that_takes_no_entry_can_be_restored_from(bucket, home, tmp_path, fault):
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    node = Node(bucket, tmp_path / "reader")
    node.store.plan(fault, on="create", times=1_000)
    await node.open().restore(REF, seq=infos[0].seq, into=tmp_path / "back")
    assert (tmp_path / "back" / "a").read_text() == "text 0"


async def test_a_pin_that_cannot_be_let_go_does_not_spoil_a_restore(bucket, home, tmp_path, monkeypatch):
    infos = await filled(Node(bucket, tmp_path / "writer").open(), home)
    node = Node(bucket, tmp_path / "reader")
    node.store.plan(Fault.UNAVAILABLE, on="create", times=1_000, after=1)
    await node.open().restore(REF, seq=infos[0].seq, into=tmp_path / "back")
    assert (tmp_path / "back" / "a").read_text() == "text 0"

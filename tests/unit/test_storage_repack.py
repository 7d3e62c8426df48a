"""Repacking through the front door: sparse and small packs, and everything that a leaked key opens."""

import os
from pathlib import Path

import pytest

import storage
from storage.format.entries import PackRef
from storage.format.header import ObjectType
from storage.format.keys import BoxKind
from storage.format.table import Segment, pack_chunk_refs
from storage.objects.memory import MemoryBucket
from storage.repository import fold, repack
from storage.repository.index import Container
from storage.repository.state import LogState
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import KEEP_ONE, PREFIX, REF, Node, objects, take, write


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)
    monkeypatch.setattr(repack, "DEAD_BYTES_MIN", 1)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str = "node") -> Node:
    return Node(bucket, tmp_path / name)


async def save(opened: storage.Storage, home: Path, fence: int = 1) -> storage.CheckpointInfo:
    return (await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")).info


async def tidy(opened: storage.Storage, policy: storage.Retention = KEEP_ONE) -> storage.UpkeepReport:
    report = await opened.collect(REF, policy=policy, actor="test")
    assert report.refused == ""
    return report


async def a_sparse_pack(opened: storage.Storage, home: Path) -> str:
    """Save a pack of 3 MB, of which a tenth is still needed afterwards; return its name."""
    for number in range(10):
        (home / f"part {number}").write_bytes(os.urandom(300_000))
    await save(opened, home)
    for number in range(9):
        (home / f"part {number}").unlink()
    await save(opened, home)
    return (await packs(opened))[0]


async def packs(opened: storage.Storage) -> list[str]:
    workspace = await opened._known.required(REF)
    return list((await workspace.log.refresh()).packs)


async def assert_whole(bucket: MemoryBucket, tmp_path: Path, home: Path, name: str = "cold") -> None:
    cold = node_of(bucket, tmp_path, name).open()
    report = await cold.verify(REF, "full")
    assert report.faults == ()
    newest = (await cold.list(REF))[-1]
    await cold.restore(REF, seq=newest.seq, into=tmp_path / f"back {name}")
    assert picture(tmp_path / f"back {name}") == picture(home)


async def test_a_sparse_pack_becomes_a_full_one_and_goes_in_the_next_run(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    sparse = await a_sparse_pack(opened, home)
    before = sum(len(raw) for name, raw in bucket.objects.items() if "/p/" in name)
    report = await tidy(opened)
    assert (report.repacked_packs, report.retired_packs, report.deleted_objects) == (1, 1, 0)
    assert 300_000 <= report.moved_bytes < 400_000
    assert sparse in objects(bucket, "p/"), "it was named a moment ago"
    await assert_whole(bucket, tmp_path, home, "between")
    report = await tidy(opened)
    assert report.deleted_objects == 1
    assert sparse not in objects(bucket, "p/")
    assert sum(len(raw) for name, raw in bucket.objects.items() if "/p/" in name) < before / 5
    await assert_whole(bucket, tmp_path, home)
    assert (await tidy(opened)).repacked_packs == 0, "nothing is moved twice"


async def test_small_packs_become_one_when_there_are_enough(bucket, home, tmp_path, monkeypatch):
    monkeypatch.setattr(repack, "SMALL_PACKS_MIN", 4)
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    everything = storage.Retention(keep_last=100)
    for number in range(4):
        assert (await tidy(opened, everything)).repacked_packs == 0
        (home / f"big {number}").write_bytes(os.urandom(1_200_000))
        await save(opened, home)
    assert len(await packs(opened)) == 4
    assert (await tidy(opened, everything)).repacked_packs == 4
    assert len(await packs(opened)) == 1
    await tidy(opened, everything)
    assert len(objects(bucket, "p/")) == 1
    await assert_whole(bucket, tmp_path, home)
    first = (await opened.list(REF))[0]
    await opened.restore(REF, seq=first.seq, into=tmp_path / "first")
    assert (tmp_path / "first" / "big 0").read_bytes() == (home / "big 0").read_bytes()


def a_pack(name: str, size: int) -> Container:
    segment = Segment(
        index=0,
        kind=BoxKind.DATA,
        offset=0,
        sealed_bytes=size,
        raw_bytes=size,
        digest=bytes(16),
        refs=pack_chunk_refs([(name.encode().ljust(16), size)]),
    )
    return Container(name=name, object_type=ObjectType.PACK, area_start=64, segments=(segment,), size=size)


def a_log(*packs: Container) -> LogState:
    state = LogState(config_hash=bytes(32))
    for one in packs:
        state.index.add(one)
        state.packs[one.name] = PackRef(1, bytes(16), one.size, 1, bytes(32), None)
    return state


def test_one_run_moves_no_more_than_its_limit_and_always_something():
    """The emptiest first; the first one is taken however large it is."""
    state = a_log(a_pack("p/half", 10_000), a_pack("p/tenth", 10_000), a_pack("p/full", 10_000))
    live = {"p/half": 5_000, "p/tenth": 1_000, "p/full": 9_000}

    def chosen(bytes_max: int) -> list[str]:
        return [one.name for one in repack.choose(state, live, bytes_max=bytes_max).packs]

    assert chosen(1) == ["p/tenth"]
    assert chosen(19_999) == ["p/tenth"]
    assert chosen(20_000) == ["p/tenth", "p/half"]
    assert chosen(10**9) == ["p/tenth", "p/half"], "a pack of which nearly all is needed stays"


def test_a_dead_pack_is_not_moved_and_little_waste_is_left_alone(monkeypatch):
    state = a_log(a_pack("p/dead", 10_000), a_pack("p/half", 10_000))
    assert [one.name for one in repack.choose(state, {"p/half": 5_000}).packs] == ["p/half"]
    monkeypatch.setattr(repack, "DEAD_BYTES_MIN", 5_001)
    assert repack.choose(state, {"p/half": 5_000}).packs == ()


def test_what_a_leaked_key_opens_is_moved_before_anything_else():
    state = a_log(a_pack("p/full", 10_000), a_pack("p/half", 10_000))
    choice = repack.choose(state, {"p/full": 10_000, "p/half": 1}, leaked=["p/full"], bytes_max=1)
    assert [one.name for one in choice.packs] == ["p/full"]


async def test_after_a_leak_everything_with_contents_is_under_the_new_key(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    (home / "big").write_bytes(os.urandom(2_000_000))
    await save(opened, home)
    write(home, a="inline, in an entry")
    await save(opened, home)
    await tidy(opened)
    old = bucket.objects[f"{PREFIX}c/{1:016d}"][8:16]
    await opened.rotate_keys(REF, leaked=True)
    write(home, b="after")
    newest = await save(opened, home)
    for _ in range(5):
        await tidy(opened)
    named = {
        name: bucket.objects[PREFIX + name][8:16] for name in objects(bucket) if name[:2] in ("p/", "c/")
    }
    assert named
    assert old not in named.values()
    await assert_whole(bucket, tmp_path, home)
    assert (await opened.list(REF))[-1] == newest
    report = await tidy(opened)
    assert (report.repacked_packs, report.folded_entries) == (0, 0), "and then it rests"


async def test_a_rotation_without_a_leak_moves_nothing(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    (home / "big").write_bytes(os.urandom(2_000_000))
    await save(opened, home)
    await opened.rotate_keys(REF)
    for _ in range(3):
        assert (await tidy(opened)).moved_bytes == 0


async def test_what_reads_back_otherwise_is_not_relied_on(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path)
    opened = node.open()
    await take(opened)
    sparse = await a_sparse_pack(opened, home)
    known = set(await packs(opened))
    node.store.plan(Fault.FLIPPED, on="get", name=r".*/p/1-(?!" + sparse[4:] + r")[0-9a-f]{32}", times=1)
    with pytest.raises(storage.StorageError):
        await opened.collect(REF, policy=KEEP_ONE, actor="test")
    assert set(await packs(opened)) == known, "no entry speaks of the new pack"
    await tidy(opened)
    await tidy(opened)
    await assert_whole(bucket, tmp_path, home)


@pytest.mark.parametrize("landed", [False, True])
async def test_a_repack_may_die_in_every_call(bucket, home, tmp_path, landed):
    begun = node_of(bucket, tmp_path, "begun").open()
    await take(begun)
    await a_sparse_pack(begun, home)
    await begun.close()
    for number in range(1, 200):
        other = MemoryBucket(dict(bucket.objects))
        node = node_of(other, tmp_path, f"node {landed} {number}")
        node.store.crash_at(number, landed=landed)
        finished = False
        opened = node.open()
        try:
            for _ in range(2):
                await opened.collect(REF, policy=KEEP_ONE, actor="test")
            finished = True
        except Crashed:
            pass
        next_one = node_of(other, tmp_path, f"next {landed} {number}").open()
        for _ in range(2):
            await tidy(next_one)
        assert (await next_one.verify(REF, "full")).faults == ()
        newest = (await next_one.list(REF))[-1]
        wanted = next(iter((home).glob("part 9")))
        await next_one.restore(REF, seq=newest.seq, into=tmp_path / f"back {landed} {number}")
        assert (tmp_path / f"back {landed} {number}" / "part 9").read_bytes() == wanted.read_bytes()
        await next_one.close()
        await opened.close()
        if finished:
            return
    raise AssertionError("it never ended by itself")

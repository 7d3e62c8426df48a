"""Index snapshots: a cold start becomes short, equals a warm one, and a bad snapshot is as good as none."""

import hashlib
import os
from pathlib import Path

import pytest

import storage
from storage.format import names
from storage.objects.memory import MemoryBucket
from storage.repository import fold, repack, snapshots
from storage.repository.log import CommitLog
from storage.repository.state import LogState
from tests.fakes.faulty_store import Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import KEEP_ONE, PREFIX, REF, Node, objects, take, write

KEEP_ALL = storage.Retention(keep_last=10_000)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(snapshots, "ENTRIES", 8)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)
    monkeypatch.setattr(repack, "DEAD_BYTES_MIN", 1)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str = "node") -> Node:
    return Node(bucket, tmp_path / name)


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointInfo:
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)
    return saved.info


async def log_of(opened: storage.Storage) -> CommitLog:
    workspace = await opened._known.required(REF)
    await workspace.log.refresh()
    return workspace.log


async def states(opened: storage.Storage) -> tuple[LogState, LogState]:
    """Return what this process knows, and what the chain alone says."""
    log = await log_of(opened)
    return log.state, await log.another().refresh()


async def assert_alike(bucket: MemoryBucket, tmp_path: Path, warm: storage.Storage, name: str) -> LogState:
    """Cold by snapshot, warm, and by the chain: all the same."""
    cold = node_of(bucket, tmp_path, name).open()
    by_snapshot, by_chain = await states(cold)
    by_heart, _ = await states(warm)
    assert snapshots.differing(by_snapshot, by_chain) == ""
    assert snapshots.differing(by_heart, by_chain) == ""
    assert await cold.list(REF) == await warm.list(REF)
    assert await cold.conflicts(REF) == await warm.conflicts(REF)
    assert await cold.head(REF) == await warm.head(REF)
    return by_snapshot


async def a_log(opened: storage.Storage, home: Path, entries: int) -> None:
    for number in range(entries):
        write(home, a=f"text {number}")
        await save(opened, home)


async def test_a_cold_start_equals_a_warm_one_and_one_by_the_chain_alone(bucket, home, tmp_path):
    """Entries of every kind, packs and inline data, forgotten ones, a side branch, folds and repacks."""
    node = node_of(bucket, tmp_path)
    opened = node.open()
    fence = await take(opened)
    rounds = 0
    for number in range(26):
        write(home, a=f"text {number}")
        if number % 5 == 0:
            (home / f"big {number}").write_bytes(os.urandom(1_200_000))
        info = await save(opened, home, fence)
        if number == 9:
            await opened.keep(REF, seq=info.seq, pin=True, actor="a", reason="r")
            await opened.checkpoint(
                REF, home=home, fence=fence, session="s", reason="conflict", conflict=True
            )
        if number == 14:
            fence = await take(opened, node="another")
        if number % 6 == 0:
            report = await opened.collect(REF, policy=KEEP_ONE, actor="t")
            assert report.refused == ""
        if number == 20:
            await opened.collect(REF, policy=KEEP_ONE, actor="t")
        rounds += bool((await assert_alike(bucket, tmp_path, opened, f"cold {number}")).snapshot_at)
    assert rounds > 10, "most of these cold starts began with a snapshot"
    again = node.open()
    by_cache, by_chain = await states(again)
    assert snapshots.differing(by_cache, by_chain) == ""


async def test_a_cold_start_over_a_fold_needs_neither_history_nor_footers(
    bucket, home, tmp_path, monkeypatch
):
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    await a_log(opened, home, 6)
    await opened.collect(REF, policy=KEEP_ALL, actor="t")
    await opened.collect(REF, policy=KEEP_ALL, actor="t")
    assert objects(bucket, "x/") != []
    node = node_of(bucket, tmp_path, "cold")
    assert await node.open().list(REF) == await opened.list(REF)
    assert not [call for call in node.store.calls if "/l/" in call.name or "/p/" in call.name]
    await assert_alike(bucket, tmp_path, opened, "alike")


async def requests_of_a_cold_start(bucket: MemoryBucket, tmp_path: Path, name: str) -> int:
    node = node_of(bucket, tmp_path, name)
    assert len(await node.open().list(REF)) > 0
    return sum(call.on in ("get", "head", "list") for call in node.store.calls)


@pytest.mark.parametrize(
    "entries", [200, pytest.param(1_000, marks=[pytest.mark.soak])], ids=["short", "long"]
)
async def test_a_long_log_is_read_with_few_requests(bucket, home, tmp_path, monkeypatch, entries):
    monkeypatch.setattr(snapshots, "ENTRIES", 64)
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    info = await save(opened, home)
    for number in range(entries - 12):
        await opened.keep(REF, seq=info.seq, pin=bool(number % 2), actor="a", reason="r")
    await a_log(opened, home, 10)
    with_snapshot = await requests_of_a_cold_start(bucket, tmp_path, "with")
    taken = {name: bucket.objects.pop(PREFIX + name) for name in objects(bucket, "x/")}
    without = await requests_of_a_cold_start(bucket, tmp_path, "without")
    assert taken
    assert without > entries
    assert with_snapshot < 64 + 15, (with_snapshot, without)


async def test_a_large_first_checkpoint_leaves_a_snapshot(bucket, home, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "ROWS_BYTES", 20 * 1_000)
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    for number in range(1_100):
        (home / f"file {number}").write_text(f"content {number}")
    await save(opened, home)
    assert objects(bucket, "x/") == [f"x/{2:016d}"]
    await assert_alike(bucket, tmp_path, opened, "cold")
    write(home, a="two")
    await save(opened, home)
    assert objects(bucket, "x/") == [f"x/{2:016d}"], "a small one does not"


async def a_log_with_one_snapshot(
    bucket: MemoryBucket, home: Path, tmp_path: Path
) -> tuple[storage.Storage, str]:
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    await a_log(opened, home, 9)
    [name] = objects(bucket, "x/")
    return opened, PREFIX + name


async def test_no_flipped_or_missing_byte_of_a_snapshot_is_believed(bucket, home, tmp_path):
    """One byte of every class: each of the header, of the head, of each segment, of the lengths; and cuts."""
    opened, name = await a_log_with_one_snapshot(bucket, home, tmp_path)
    whole = bucket.objects[name]
    listed = await opened.list(REF)
    places = [*range(68), *range(68, len(whole), 97), len(whole) - 1]
    for at in places:
        bucket.objects[name] = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        state, by_chain = await states(node_of(bucket, tmp_path, f"flip {at}").open())
        assert state.snapshot_at == 0, at
        assert snapshots.differing(state, by_chain) == ""
    for length in (0, 1, 63, 64, 67, 68, 69, len(whole) // 2, len(whole) - 1):
        bucket.objects[name] = whole[:length]
        cold = node_of(bucket, tmp_path, f"cut {length}").open()
        assert (await states(cold))[0].snapshot_at == 0
        assert await cold.list(REF) == listed
    bucket.objects[name] = whole + b"x"
    assert (await states(node_of(bucket, tmp_path, "longer").open()))[0].snapshot_at == 0
    bucket.objects[name] = whole
    assert (await states(node_of(bucket, tmp_path, "whole").open()))[0].snapshot_at > 0


async def test_a_snapshot_of_another_number_workspace_or_key_is_not_believed(bucket, home, tmp_path):
    opened, name = await a_log_with_one_snapshot(bucket, home, tmp_path)
    whole = bucket.objects.pop(name)
    for seq in (5, 10):
        bucket.objects[PREFIX + names.index_snapshot(seq)] = whole
        assert (await states(node_of(bucket, tmp_path, f"moved {seq}").open()))[0].snapshot_at == 0
        del bucket.objects[PREFIX + names.index_snapshot(seq)]
    other = MemoryBucket()
    foreign = node_of(other, tmp_path, "foreign").open()
    await take(foreign)
    await a_log(foreign, home, 9)
    bucket.objects[name] = other.objects[name]
    cold = node_of(bucket, tmp_path, "cold").open()
    assert (await states(cold))[0].snapshot_at == 0
    assert await cold.list(REF) == await opened.list(REF)


async def test_a_snapshot_of_a_forked_log_is_not_believed(bucket, home, tmp_path):
    """The same keys, the same number, another entry under it: the store was rolled back and went on."""
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    await a_log(opened, home, 5)
    rolled_back = dict(bucket.objects)
    await a_log(opened, home, 6)
    [name] = objects(bucket, "x/")
    old = bucket.objects[PREFIX + name]
    bucket.objects.clear()
    bucket.objects.update(rolled_back)
    again = node_of(bucket, tmp_path, "again").open()
    for number in range(6):
        write(home, a=f"other {number}")
        await save(again, home)
    bucket.objects[PREFIX + name] = old
    cold = node_of(bucket, tmp_path, "cold").open()
    state, by_chain = await states(cold)
    assert state.snapshot_at == 0
    assert snapshots.differing(state, by_chain) == ""


async def test_outdated_snapshots_are_named_by_an_r_and_go_with_the_next_run(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    await a_log(opened, home, 26)
    before = objects(bucket, "x/")
    assert len(before) == 3
    await opened.collect(REF, policy=KEEP_ALL, actor="t")
    assert set(before) <= set(objects(bucket, "x/")), "named a moment ago"
    await opened.collect(REF, policy=KEEP_ALL, actor="t")
    left = objects(bucket, "x/")
    assert left[0] == before[-1]
    await assert_alike(bucket, tmp_path, opened, "cold")


async def test_collecting_refuses_where_a_snapshot_contradicts_the_chain(bucket, home, tmp_path, monkeypatch):
    """Made with the right keys and the right hash, and wrong: only a bug or a thief of keys can do that."""
    whole = snapshots.snapshot_of

    def wrong(state):
        head, rows, found = whole(state)
        return head, rows, found[1:]

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "snapshot_of", wrong)
        opened, _ = await a_log_with_one_snapshot(bucket, home, tmp_path)
    report = await node_of(bucket, tmp_path, "cold").open().collect(REF, policy=None, actor="t")
    assert "disagree about objects" in report.refused
    before = hashlib.sha256(repr(sorted(bucket.objects)).encode()).digest()
    await opened.collect(REF, policy=None, actor="t")
    assert hashlib.sha256(repr(sorted(bucket.objects)).encode()).digest() == before


async def test_whoever_deletes_never_stands_on_a_snapshot(bucket, home, tmp_path):
    await a_log_with_one_snapshot(bucket, home, tmp_path)
    cold = node_of(bucket, tmp_path, "cold").open()
    state = (await log_of(cold)).state
    assert state.snapshot_at
    workspace = await cold._known.required(REF)
    for name in objects(bucket):
        with pytest.raises(storage.CollectRefused):
            await workspace.remover.remove(state, name)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.FULL, Fault.LOST_ANSWER, Fault.REFUSED])
async def test_a_snapshot_that_cannot_be_written_hinders_no_checkpoint(bucket, home, tmp_path, fault):
    node = node_of(bucket, tmp_path)
    opened = node.open()
    await take(opened)
    node.store.plan(fault, on="create", name=".*/x/.*", times=99)
    await a_log(opened, home, 20)
    assert len(await opened.list(REF)) == 20
    await assert_alike(bucket, tmp_path, opened, "cold")


async def test_a_process_that_began_with_a_snapshot_saves_and_restores_as_any_other(bucket, home, tmp_path):
    await a_log_with_one_snapshot(bucket, home, tmp_path)
    node = node_of(bucket, tmp_path, "cold")
    cold = node.open()
    write(home, a="on top of it")
    info = await save(cold, home)
    assert (await log_of(cold)).state.snapshot_at
    await cold.restore(REF, seq=info.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)
    assert (await cold.prove(REF, seq=info.seq, hash=info.hash)).seq == info.seq
    again = node.open()
    assert await again.list(REF) == await cold.list(REF), "from the cache that began with a snapshot"
    assert (await again.verify(REF, "full")).faults == ()


async def test_an_index_that_contradicts_the_chain_is_renewed_by_a_persons_word(
    bucket, home, tmp_path, monkeypatch
):
    """The R that names it ends the belief in it at once; whoever was misled and starts anew reads the
    chain.
    """
    whole = snapshots.snapshot_of

    def wrong(state):
        head, rows, found = whole(state)
        return head, rows, found[1:]

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "snapshot_of", wrong)
        await a_log_with_one_snapshot(bucket, home, tmp_path)
    [bad] = objects(bucket, "x/")
    cold = node_of(bucket, tmp_path, "cold").open()
    for _ in range(2):
        report = await cold.collect(REF, policy=None, actor="t")
        assert "renew the index" in report.refused, "it goes on refusing until somebody looked"
    report = await cold.collect(REF, policy=None, actor="t", renew_index=True)
    assert report.refused == ""
    assert bad not in objects(bucket, "x/")
    await assert_alike(bucket, tmp_path, cold, "another")
    for number in range(12):
        write(home, a=f"later {number}")
        await save(cold, home)
    assert objects(bucket, "x/"), "the next one that is due is right"
    assert (await cold.collect(REF, policy=None, actor="t")).refused == ""
    await assert_alike(bucket, tmp_path, cold, "at last")


async def test_a_snapshot_that_was_given_up_is_not_believed_though_it_lies_there(
    bucket, home, tmp_path, monkeypatch
):
    opened, _ = await a_log_with_one_snapshot(bucket, home, tmp_path)
    upkeep = await opened._upkeep(REF)
    await upkeep._renew_index()
    assert objects(bucket, "x/"), "the next run deletes it"
    state, by_chain = await states(node_of(bucket, tmp_path, "cold").open())
    assert state.snapshot_at == 0
    assert snapshots.differing(state, by_chain) == ""

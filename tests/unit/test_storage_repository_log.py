"""The commit log under races, lost answers and crashes: nothing committed is lost, nothing counts twice."""

import asyncio
import os
from pathlib import Path

import pytest

import storage
from storage.errors import ObjectExists
from storage.format.envelope import head_end
from storage.objects.memory import MemoryBucket
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, seeded, take, write
from tests.fakes.until import until


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """The order of sendings matters here, not the time between them."""
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str, **more) -> Node:
    return Node(bucket, tmp_path / name, **more)


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)


async def test_a_stale_owner_writes_nothing_once_a_higher_fence_stands(bucket, home, tmp_path):
    old, new = node_of(bucket, tmp_path, "old").open(), node_of(bucket, tmp_path, "new").open()
    await take(old)
    saved = await save(old, home)
    assert await take(new, node="new") == 2
    before = objects(bucket)
    with pytest.raises(storage.FenceMoved) as refused:
        await save(old, home, final=True)
    assert refused.value.facts["log_fence"] == 2
    assert objects(bucket) == before
    assert (await new.head(REF)).newest == saved.info


async def test_a_take_over_between_plan_and_put_wins(bucket, home, tmp_path):
    """The old owner has read the log and scanned; its PUT is held back while the new owner's E lands."""
    slow = node_of(bucket, tmp_path, "slow")
    old, new = slow.open(), node_of(bucket, tmp_path, "new").open()
    await take(old)
    slow.store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    saving = asyncio.ensure_future(save(old, home))
    await until(lambda: slow.store.waiting)
    assert await take(new, node="new") == 2
    slow.store.gate.set()
    with pytest.raises(storage.FenceMoved):
        await saving
    assert await new.list(REF) == []


async def test_a_checkpoint_with_a_fence_below_an_earlier_take_over_is_void(bucket, home, tmp_path):
    """It cannot be made through the front door, so the log is put together by hand from two lives."""
    writer = node_of(bucket, tmp_path, "writer").open()
    await take(writer)
    head = await writer.head(REF)
    workspace = await writer._known.required(REF)
    workspace.log.state.fence = 7
    saved = await save(writer, home, fence=7)
    reader = node_of(bucket, tmp_path, "reader").open()
    assert await reader.list(REF) == [], "its fence is not the one of any take-over"
    with pytest.raises(storage.CheckpointVoid):
        await reader.prove(REF, seq=saved.info.seq, hash=saved.info.hash)
    assert (await reader.head(REF)).fence == head.fence


async def test_fences_only_grow_and_the_asked_one_is_the_least(bucket, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    assert await take(opened, fence=5) == 5
    assert await take(opened, fence=3, node="other") == 6
    assert await take(opened, fence=50) == 50


async def test_a_session_that_takes_over_again_keeps_its_fence_until_somebody_else_has(bucket, tmp_path):
    """A start that is tried again, by another worker too, leaves neither fences nor homes behind."""
    first, second = node_of(bucket, tmp_path, "first").open(), node_of(bucket, tmp_path, "second").open()
    assert await take(first, fence=5) == 5
    before = objects(bucket)
    assert await take(first, fence=5) == 5
    assert await take(second, fence=5) == 5
    assert objects(bucket) == before
    assert await take(second, fence=6, node="other") == 6
    assert await take(first, fence=5) == 7, "somebody else's stands in between"


async def test_a_take_over_without_its_predecessor_is_placed_again(bucket, tmp_path):
    """A fold frees names, so an entry that stands alone proves nothing."""
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened, node="earlier")
    assert await take(opened) == 2
    del bucket.objects[f"t/{REF.tenant}/w/{REF.workspace}/c/{1:016d}"]
    assert await take(opened) == 3


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Fault.LOST_ANSWER, 1),
        (Fault.NEVER_ARRIVED, 1),
        (Fault.NEVER_ARRIVED, 3),
        (Fault.CONFLICT, 1),
        (Fault.UNAVAILABLE, 1),
    ],
)
async def test_an_entry_without_an_answer_is_sent_again_with_the_same_bytes(
    bucket, home, tmp_path, fault, times
):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    node.store.plan(fault, on="create", name=".*/c/.*", times=times)
    saved = await save(opened, home)
    assert objects(bucket, "c/") == ["c/0000000000000001", "c/0000000000000002"]
    reader = node_of(bucket, tmp_path, "reader").open()
    assert await reader.list(REF) == [saved.info]


async def test_a_first_copy_that_lands_late_is_our_own(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    node.store.plan(Fault.LATE, on="create", name=".*/c/.*", times=1)
    saved = await save(opened, home)
    assert await node.store.let_land() == 0, "the second copy is there already"
    assert (await opened.verify(REF, "full")).sound
    assert await opened.list(REF) == [saved.info]


async def test_a_number_without_an_answer_takes_no_other_bytes_from_this_process(bucket, home, tmp_path):
    """Every sending goes unanswered; the next checkpoint first sends the old bytes again, then its own."""
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    node.store.plan(Fault.LATE, on="create", name=".*/c/.*", times=99)
    with pytest.raises(storage.CommitUncertain):
        await save(opened, home)
    node.store.heal()
    write(home, a="two")
    saved = await save(opened, home)
    await node.store.let_land()
    listed = await node_of(bucket, tmp_path, "reader").open().list(REF)
    assert [info.seq for info in listed] == [2, 3]
    assert listed[1] == saved.info
    with_old = [piece async for piece in opened.read(REF, seq=2, path=b"a")]
    assert with_old == [b"one"]


async def test_a_place_taken_by_another_entry_means_plan_again(bucket, home, tmp_path):
    """The same owner writes from two processes; the loser reads the winner and takes the next number."""
    slow = node_of(bucket, tmp_path, "one")
    one, two = slow.open(), node_of(bucket, tmp_path, "two").open()
    await take(one)
    slow.store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    saving = asyncio.ensure_future(save(one, home))
    await until(lambda: slow.store.waiting)
    other = await save(two, home)
    slow.store.gate.set()
    saved = await saving
    assert (other.info.seq, saved.info.seq) == (2, 3)
    assert saved.info.parent == 2
    assert (await one.verify(REF, "full")).sound


async def test_two_writers_that_race_for_one_name_never_share_a_key_and_nonce(bucket, tmp_path):
    """Two cloned machines draw the same random bytes for the same entry; what they would send is compared."""
    first = node_of(bucket, tmp_path, "first").open()
    await take(first)
    sent: list[tuple[str, bytes]] = []
    clones, homes = [], []
    for number in range(2):
        homes.append(tmp_path / f"home {number}")
        homes[number].mkdir()
        write(homes[number], a=f"content {number}")
        clones.append(node_of(bucket, tmp_path, f"clone {number}", fresh=seeded("clone")))
    opened = [clone.open() for clone in clones]
    for clone, one in zip(clones, opened, strict=True):
        one._store.inner = Spying(clone.store, sent)
    clones[0].store.plan(Fault.SLOW, on="create", name=".*/c/.*")
    slow = asyncio.ensure_future(save(opened[0], homes[0]))
    await until(lambda: clones[0].store.waiting)
    await save(opened[1], homes[1])
    clones[0].store.gate.set()
    await slow
    nonces: dict[bytes, list[bytes]] = {}
    for name, raw in sent:
        nonces.setdefault(raw[:64], []).append(raw[68 : 68 + 12])
        assert head_end(raw, name) <= len(raw)
    assert [len(found) for found in nonces.values()] == [2, 1], "one object key twice, then that of entry 3"
    for found in nonces.values():
        assert len(set(found)) == len(found)


class Spying:
    """Notes what is created."""

    def __init__(self, inner, sent):
        self._inner, self._sent = inner, sent

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def create(self, name: str, data: bytes) -> None:
        self._sent.append((name, data))
        await self._inner.create(name, data)

    def list(self, prefix: str):
        return self._inner.list(prefix)


async def test_a_pack_name_taken_by_a_clone_is_drawn_again(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    (home / "big").write_bytes(os.urandom(2_000_000))
    real, taken = node.store.create, []

    class Cloned(Spying):
        async def create(self, name: str, data: bytes) -> None:
            if "/p/" in name and not taken:
                taken.append(name)
                bucket.objects[name] = b"of another machine"
                raise ObjectExists(name=name)
            await real(name, data)

    opened._store.inner = Cloned(node.store, [])
    saved = await save(opened, home)
    assert bucket.objects[taken[0]] == b"of another machine"
    await opened.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_call_loses_nothing_and_the_next_try_succeeds(bucket, home, tmp_path, landed):
    """Die in the n-th call to the store, for every n; a new process takes over, sees all, and saves."""
    (home / "big").write_bytes(os.urandom(1_300_000))
    wanted = picture(home)
    for number in range(1, 200):
        bucket = MemoryBucket()
        committed = await life_that_ends(bucket, tmp_path / f"{landed} {number}", home, number, landed)
        node = node_of(bucket, tmp_path, f"{landed} {number}")
        opened = node.open()
        fence = await take(opened, node="next")
        listed = await opened.list(REF)
        for info in committed:
            assert info in listed, f"crash in call {number}: a verified checkpoint is gone"
        saved = await save(opened, home, fence)
        report = await opened.verify(REF, "full")
        assert report.sound, (number, report.faults)
        if number % 7 == 0:
            target = tmp_path / f"back {landed} {number}"
            await opened.restore(REF, seq=saved.info.seq, into=target)
            assert picture(target) == wanted
        if node_finished(committed):
            return
    raise AssertionError("the life never ended by itself")


def node_finished(committed: list[storage.CheckpointInfo]) -> bool:
    return len(committed) == 2


async def life_that_ends(
    bucket: MemoryBucket, folder: Path, home: Path, number: int, landed: bool
) -> list[storage.CheckpointInfo]:
    """One process: take over, save twice; it dies in its n-th call. Return what it knows to be verified."""
    node = Node(bucket, folder)
    node.store.crash_at(number, landed=landed)
    opened = node.open()
    committed: list[storage.CheckpointInfo] = []
    try:
        fence = await take(opened)
        committed.append((await save(opened, home, fence)).info)
        committed.append((await save(opened, home, fence, final=True)).info)
    except (Crashed, BaseExceptionGroup):
        pass
    return committed


async def test_a_gap_in_the_log_is_an_error_and_never_an_end(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    for text in ("1", "2", "3"):
        write(home, a=text)
        await save(opened, home)
    del bucket.objects[f"{PREFIX}c/0000000000000003"]
    with pytest.raises(storage.ChainBroken):
        await node_of(bucket, tmp_path, "reader").open().head(REF)


async def test_a_store_that_was_rolled_back_is_read_again_from_its_beginning(bucket, home, tmp_path):
    """A process that remembers entries which the store lost must not leave a gap behind them."""
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    kept = dict(bucket.objects)
    await save(opened, home)
    bucket.objects.clear()
    bucket.objects.update(kept)
    saved = await save(opened, home)
    assert saved.info.seq == 2
    assert not saved.unchanged
    assert (await node_of(bucket, tmp_path, "reader").open().list(REF)) == [saved.info]


async def test_a_predecessor_that_vanishes_before_the_second_look_is_noticed(bucket, home, tmp_path):
    """Rule 6: read back, then one look at the entry before."""
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    node.store.plan(Fault.STALE, on="head", name=".*/c/0000000000000001")
    saved = await save(opened, home)
    assert saved.info.seq == 2, "the chain was read again from the store, and the entry is in it"
    write(home, a="two")
    real = node.store.head

    class Forgetful(Spying):
        async def head(self, name: str):
            if name.endswith("c/0000000000000002"):
                bucket.objects.pop(name, None)
            return await real(name)

    opened._store.inner = Forgetful(node.store, [])
    with pytest.raises(storage.RepositoryError):
        await save(opened, home)


async def test_a_listing_that_fails_is_never_an_empty_store(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await take(opened)
    await save(opened, home)
    node = node_of(bucket, tmp_path, "reader")
    for fault in (Fault.UNAVAILABLE, Fault.CUT_LISTING):
        node.store.plan(fault, on="list", name=".*/c/.*", times=2)
        with pytest.raises(storage.StoreUnavailable):
            await node.open().head(REF)


async def test_a_full_store_refuses_the_checkpoint_and_the_old_one_stays(bucket, home, tmp_path):
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await take(opened)
    first = await save(opened, home)
    write(home, a="two")
    node.store.plan(Fault.FULL, on="create", times=99)
    with pytest.raises(storage.StoreUnavailable):
        await save(opened, home)
    node.store.heal()
    assert (await opened.list(REF)) == [first.info]
    assert (await save(opened, home)).info.seq == 3

"""Packs that an attempt has stored and no entry names: the next attempt of the same fence builds on them."""

import os
from pathlib import Path

import pytest

from storage import Storage
from storage.errors import CommitContended, StoreUnavailable
from storage.format.limits import MIB
from storage.objects.memory import MemoryBucket
from storage.ops import left_packs, uploads
from storage.ops.upkeep import Upkeep, UpkeepReport
from tests.fakes.faulty_store import Fault
from tests.fakes.storage_rig import REF, Node, objects, take

PACKS = 6


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    """Return a bucket; packs are small, so that a home of some megabytes has several."""
    monkeypatch.setattr(uploads, "PACK_BYTES", MIB)
    return MemoryBucket()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with content of its own."""
    folder = tmp_path / "home"
    folder.mkdir()
    for number in range(PACKS):
        (folder / f"file{number}").write_bytes(os.urandom(MIB))
    return folder


async def cut_off(node: Node, home: Path, fence: int, *, after: int = 4) -> None:
    """Begin a checkpoint whose packs are refused after some were stored."""
    node.store.plan(Fault.UNAVAILABLE, on="create", name=".*/p/.*", times=1_000, after=after)
    async with node.open() as opened:
        with pytest.raises(StoreUnavailable):
            await save(opened, home, fence)


async def save(opened: Storage, home: Path, fence: int, *, resume: bool = True):
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", resume=resume)


def created(bucket: MemoryBucket, before: list[str]) -> list[str]:
    return [name for name in objects(bucket, "p/") if name not in before]


async def begun(bucket: MemoryBucket, tmp_path: Path, home: Path) -> tuple[int, list[str]]:
    """Return the fence of an attempt that was cut off, and the packs that it left."""
    node = Node(bucket, tmp_path / "first")
    async with node.open() as opened:
        fence = await take(opened)
    await cut_off(Node(bucket, tmp_path / "first"), home, fence)
    left = objects(bucket, "p/")
    assert len(left) >= 4, "something was stored before it was cut off"
    return fence, left


async def test_what_a_cut_off_attempt_has_stored_is_not_uploaded_again(bucket, tmp_path, home):
    """By another machine, which knows nothing but the store."""
    fence, left = await begun(bucket, tmp_path, home)
    async with Node(bucket, tmp_path / "second").open() as opened:
        saved = await save(opened, home, fence)
        fresh_bytes = sum(len(bucket.objects[name_of(bucket, one)]) for one in created(bucket, left))
        assert fresh_bytes < (PACKS - len(left) + 2) * MIB
        assert saved.info.new_stored_bytes > PACKS * MIB, "the entry names all of it"
        assert (await opened.verify(REF, "full")).faults == ()
        await opened.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    for number in range(PACKS):
        name = f"file{number}"
        assert (tmp_path / "back" / name).read_bytes() == (home / name).read_bytes()


def name_of(bucket: MemoryBucket, relative: str) -> str:
    return next(name for name in bucket.objects if name.endswith(relative))


async def test_without_the_question_nothing_is_listed(bucket, tmp_path, home):
    """A tick of a session costs one PUT and no listing."""
    fence, left = await begun(bucket, tmp_path, home)
    node = Node(bucket, tmp_path / "second")
    async with node.open() as opened:
        await save(opened, home, fence, resume=False)
    assert len(created(bucket, left)) >= PACKS


async def test_another_fence_takes_nothing_over(bucket, tmp_path, home):
    """Whoever has another fence may be sure that nobody else builds on its packs."""
    _, left = await begun(bucket, tmp_path, home)
    async with Node(bucket, tmp_path / "second").open() as opened:
        fence = await take(opened, fence=2, node="other")
        await save(opened, home, fence)
    assert len(created(bucket, left)) >= PACKS


async def test_a_pack_that_an_entry_gave_up_is_not_taken(bucket, tmp_path, home):
    """It may be deleted at any moment, though it still lies there."""
    fence, left = await begun(bucket, tmp_path, home)
    async with Node(bucket, tmp_path / "second").open() as opened:
        workspace = await opened._known.required(REF)
        upkeep = Upkeep(workspace, fresh=os.urandom, clock_ms=lambda: 0, spare_fence=False)
        await upkeep._collect(UpkeepReport(), ())
        assert set(left) <= set(objects(bucket, "p/")), "given up, and deleted by the next run only"
        state = await workspace.log.refresh()
        assert set(left) <= set(state.retired)
        await save(opened, home, fence)
        assert len(created(bucket, left)) >= PACKS


async def test_a_pack_that_does_not_decode_is_left_alone_the_next_time(bucket, tmp_path, home):
    """Its footer is whole, its content is not: the plan is thrown away, once."""
    fence, left = await begun(bucket, tmp_path, home)
    name = name_of(bucket, left[0])
    raw = bytearray(bucket.objects[name])
    raw[1_000] ^= 1
    bucket.objects[name] = bytes(raw)
    async with Node(bucket, tmp_path / "second").open() as opened:
        with pytest.raises(CommitContended):
            await save(opened, home, fence)
        saved = await save(opened, home, fence)
        assert left[0] not in (await opened._known.required(REF)).log.state.packs
        assert (await opened.verify(REF, "full")).faults == ()
    assert saved.info.complete


async def test_what_is_no_pack_of_ours_is_passed_over(bucket, tmp_path, home):
    """Cut short, of another repository, not a pack at all: nothing of that stops a save."""
    fence, left = await begun(bucket, tmp_path, home)
    for number, one in enumerate(left[:2]):
        name = name_of(bucket, one)
        bucket.objects[name] = bucket.objects[name][: 70 if number else -20]
    async with Node(bucket, tmp_path / "second").open() as opened:
        saved = await save(opened, home, fence)
        assert (await opened.verify(REF, "full")).faults == ()
    assert saved.info.complete


async def test_nothing_is_taken_where_a_fold_may_have_forgotten_what_was_given_up(
    bucket, tmp_path, home, monkeypatch
):
    """An R that a fold took in is not remembered, and somebody may still be deleting by it."""
    fence, _ = await begun(bucket, tmp_path, home)
    async with Node(bucket, tmp_path / "second").open() as opened:
        workspace = await opened._known.required(REF)
        state = await workspace.log.refresh()
        state.folded_to = state.seq
        found = await left_packs.find_left(
            fence,
            state=state,
            log=workspace.log,
            place=workspace.place,
            keys=workspace.keys.newest,
            spoiled=set(),
        )
    assert found.names == frozenset()


async def test_behind_an_index_snapshot_the_chain_itself_is_asked(bucket, tmp_path, home):
    """A snapshot does not say what was given up; the entries do."""
    fence, left = await begun(bucket, tmp_path, home)
    async with Node(bucket, tmp_path / "second").open() as opened:
        workspace = await opened._known.required(REF)
        state = await workspace.log.refresh()
        state.snapshot_at = state.seq
        found = await left_packs.find_left(
            fence,
            state=state,
            log=workspace.log,
            place=workspace.place,
            keys=workspace.keys.newest,
            spoiled=set(),
        )
    assert found.names == frozenset(left)

"""One pack that a history alone names, and whose footer cannot be read, stops only who needs something of it.

Reading goes on; saving stores anew what may lie there; forgetting, collecting, folding and index snapshots
wait, because an index that lacks chunks must never decide what may go; when the pack is back, all goes on.
"""

import functools
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from storage.repository.packer import NewChunks
from tests.fakes.golden_repository import part
from tests.fakes.home import picture
from tests.fakes.replica_pair import Pair, pair
from tests.fakes.storage_rig import KEEP_ONE, PREFIX, REF, Node, objects, take, write

__all__ = ["pair"]


@pytest.fixture(autouse=True)
def small_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small checkpoints go into packs, three entries are folded, and no file is too new to be known again."""
    monkeypatch.setattr("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=1_000))
    monkeypatch.setattr("storage.repository.fold.ENTRIES_MIN", 3)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr("storage.ops.stat_cache.RACY_NS", -3_600_000_000_000)


def damage(bucket: MemoryBucket, name: str) -> bytes:
    """Change a byte of a pack's footer; return the whole pack."""
    raw = bucket.objects[PREFIX + name]
    bucket.objects[PREFIX + name] = raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]
    return raw


def lose(bucket: MemoryBucket, name: str) -> bytes:
    return bucket.objects.pop(PREFIX + name)


HARMS = pytest.mark.parametrize("harm", [damage, lose], ids=["damaged", "missing"])


class Folded:
    """A log of which a history tells: an older file in one pack, a newer one in another."""

    def __init__(self, bucket: MemoryBucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.home = folder / "home"
        self.old = self.new = ""
        self.seqs: list[int] = []

    async def make(self, opened: storage.Storage) -> None:
        self.home.mkdir()
        await take(opened)
        write(self.home, old=part(1, 3_000))
        await self.save(opened)
        [self.old] = objects(self.bucket, "p/")
        write(self.home, new=part(2, 3_000))
        (self.home / "old").rename(self.folder / "old")
        await self.save(opened)
        [self.new] = set(objects(self.bucket, "p/")) - {self.old}
        (self.folder / "old").rename(self.home / "old")
        await self.save(opened)
        report = None
        while report is None or not report.folded_entries:
            report = await opened.collect(REF, policy=None, actor="t")
            assert report.refused == ""
        await opened.collect(REF, policy=None, actor="t")
        assert {self.old, self.new} < set(objects(self.bucket, "p/")), "a history names them now"
        for name in objects(self.bucket, "x/"):
            lose(self.bucket, name)  # a snapshot has the tables, too: a cold start needs no footer then

    async def save(self, opened: storage.Storage) -> storage.CheckpointResult:
        saved = await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        self.seqs.append(saved.info.seq)
        return saved

    def cold(self, name: str) -> storage.Storage:
        return Node(self.bucket, self.folder / name).open()


@pytest.fixture
async def folded(tmp_path: Path) -> Folded:
    bucket = MemoryBucket()
    made = Folded(bucket, tmp_path)
    async with Node(bucket, tmp_path / "cache").open() as opened:
        await made.make(opened)
    return made


@HARMS
async def test_what_needs_nothing_of_it_is_read_and_what_does_is_told_which_pack(folded, harm):
    harm(folded.bucket, folded.old)
    opened = folded.cold("other")
    assert [one.seq for one in await opened.list(REF)] == folded.seqs
    await opened.restore(REF, seq=folded.seqs[1], into=folded.folder / "back")
    assert [path.name for path in (folded.folder / "back").iterdir()] == ["new"]
    for seq in (folded.seqs[0], folded.seqs[2]):
        with pytest.raises(storage.ObjectDamaged) as told:
            await opened.restore(REF, seq=seq, into=folded.folder / f"home {seq}", becomes_home=True)
        assert told.value.facts["object"] == folded.old
        report = await opened.restore(REF, seq=seq, into=folded.folder / f"back {seq}")
        assert {one.object for one in report.left_out} == {folded.old}
        assert not (folded.folder / f"back {seq}" / "old").exists()
    faults = (await opened.verify(REF, "structure")).faults
    assert any(fault.startswith(f"{folded.old}: ") for fault in faults)
    assert not any(fault.startswith(folded.new) for fault in faults)


@HARMS
async def test_the_next_save_stores_anew_what_may_lie_there_whatever_the_stat_cache_says(folded, harm):
    """The cache of what was stored outlives the one of the log: everything in it may be lost."""
    harm(folded.bucket, folded.old)
    [log_cache] = (folded.folder / "cache").rglob("log.cache")
    log_cache.unlink()
    opened = folded.cold("cache")
    saved = await folded.save(opened)
    assert not saved.unchanged
    assert saved.stored_bytes > 3_000
    assert saved.info.seq > folded.seqs[2]
    again = await folded.save(opened)
    assert (again.unchanged, again.read_files) == (True, 0), "once is enough"
    write(folded.home, word="more work")
    last = await folded.save(opened)
    assert (last.read_files, last.info.complete) == (1, True)
    cold = folded.cold("other")
    assert (await cold.prove(REF, seq=last.info.seq, hash=last.info.hash)).seq == last.info.seq
    await cold.restore(REF, seq=last.info.seq, into=folded.folder / "back")
    assert picture(folded.folder / "back") == picture(folded.home)


@HARMS
async def test_nothing_is_decided_by_an_index_that_lacks_chunks(folded, harm, monkeypatch):
    harm(folded.bucket, folded.old)
    monkeypatch.setattr("storage.repository.snapshots.ENTRIES", 1)
    opened = folded.cold("other")
    await take(opened, fence=1, node="other")
    before = dict(folded.bucket.objects)
    for renew in (False, True):
        report = await opened.collect(REF, policy=KEEP_ONE, actor="t", renew_index=renew)
        assert folded.old in report.refused
        assert "replica repair" in report.refused
        assert (report.forgotten, report.deleted_objects) == ((), 0)
    assert folded.bucket.objects == before, "nothing was written and nothing deleted"
    await opened.checkpoint(REF, home=folded.home, fence=2, session="s", reason="t")
    assert objects(folded.bucket, "x/") == []


@HARMS
async def test_when_the_pack_is_back_the_same_process_goes_on(folded, harm):
    whole = harm(folded.bucket, folded.old)
    opened = folded.cold("other")
    saved = await folded.save(opened)
    folded.bucket.objects[PREFIX + folded.old] = whole
    await opened.restore(REF, seq=folded.seqs[0], into=folded.folder / "back")
    assert (folded.folder / "back" / "old").read_bytes() == part(1, 3_000)
    for _ in range(4):
        assert (await opened.collect(REF, policy=KEEP_ONE, actor="t")).refused == ""
    assert (await opened.verify(REF, "full")).faults == ()
    await folded.cold("third").restore(REF, seq=saved.info.seq, into=folded.folder / "newest")
    assert picture(folded.folder / "newest") == picture(folded.home)


@HARMS
async def test_a_pack_that_was_given_up_meanwhile_is_no_damage(folded, harm):
    """A warm process meets a pack that is gone before it meets the entry that gave it up."""
    opened = folded.cold("other")
    await opened.list(REF)
    tidying = folded.cold("third")
    (folded.home / "old").unlink()
    await folded.save(tidying)
    for _ in range(6):
        assert (await tidying.collect(REF, policy=KEEP_ONE, actor="t")).refused == ""
    assert folded.old not in objects(folded.bucket, "p/")
    assert (await opened.verify(REF, "full")).faults == ()
    assert (await opened.collect(REF, policy=KEEP_ONE, actor="t")).refused == ""


@HARMS
async def test_a_second_store_loses_nothing_by_it_and_a_repair_brings_it_back(pair: Pair, tmp_path, harm):
    made = Folded(pair.first, tmp_path / "made")
    made.folder.mkdir()
    async with pair.open() as opened:
        await made.make(opened)
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
    whole = harm(pair.first, made.old)
    async with pair.open(cache="new") as opened:
        await made.save(opened)
        for wholly in (False, True):
            look = await opened.replicate(REF, whole=wholly)
            assert look.state == "damaged"
            assert any(made.old in fault for fault in look.faults)
        assert pair.second.objects[PREFIX + made.old] == whole
        done = await opened.repair(REF)
        assert (done.objects, done.left) == ((made.old,), ())
        assert pair.first.objects[PREFIX + made.old] == whole
        assert (await opened.collect(REF, policy=None, actor="t")).refused == ""
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
        assert (await opened.verify(REF, "full")).faults == ()

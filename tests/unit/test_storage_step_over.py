"""An object behind the log's end that does not open stops everybody, until a person steps over it."""

import os
from pathlib import Path

import pytest
from blake3 import blake3

import storage
from storage.errors import Malformed
from storage.format.entries import Version
from storage.objects.memory import MemoryBucket
from storage.repository import fold, snapshots
from storage.repository.log_writer import LogWriter
from tests.fakes.home import picture
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

KEEP_ALL = storage.Retention(keep_last=10_000)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str = "node") -> Node:
    return Node(bucket, tmp_path / name)


def entry(seq: int) -> str:
    return f"{PREFIX}c/{seq:016d}"


async def save(opened: storage.Storage, home: Path, fence: int = 1) -> storage.CheckpointInfo:
    return (await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")).info


async def begun(
    bucket: MemoryBucket, tmp_path: Path, home: Path
) -> tuple[storage.Storage, storage.CheckpointInfo]:
    """Return an open storage and its only checkpoint, number 2."""
    opened = node_of(bucket, tmp_path).open()
    await take(opened)
    return opened, await save(opened, home)


GARBAGE = os.urandom(5_000)
JAMS = {
    "garbage": lambda objects: GARBAGE,
    "empty": lambda objects: b"",
    "another number": lambda objects: objects[entry(2)],
    "a flipped bit": lambda objects: objects[entry(2)][:200] + b"?" + objects[entry(2)][201:],
    "an unknown key": lambda objects: objects[entry(2)][:8] + bytes(8) + objects[entry(2)][16:],
}


@pytest.mark.parametrize("jam", JAMS)
async def test_it_stops_everybody_until_it_is_stepped_over(bucket, home, tmp_path, jam):
    opened, first = await begun(bucket, tmp_path, home)
    bucket.objects[entry(3)] = JAMS[jam](bucket.objects)
    write(home, a="two")
    cold = node_of(bucket, tmp_path, "cold").open()
    for call in (opened.list(REF), cold.list(REF), save(opened, home), save(cold, home)):
        with pytest.raises(storage.StorageError):
            await call
    [foreign] = await opened.foreign(REF)
    assert (foreign.seq, foreign.size) == (3, len(bucket.objects[entry(3)]))
    assert foreign.hash == blake3(bucket.objects[entry(3)]).digest()
    assert await opened.step_over(REF, confirmed=[(3, foreign.hash)]) == 4
    assert await opened.foreign(REF) == ()
    info = await save(opened, home)
    assert info.seq == 5
    for reader in (opened, cold, node_of(bucket, tmp_path, "third").open()):
        assert await reader.list(REF) == [first, info]
    assert (await cold.prove(REF, seq=5, hash=info.hash)).seq == 5
    await cold.restore(REF, seq=5, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)


async def test_several_in_a_row_are_stepped_over_at_once_and_again_later(bucket, home, tmp_path):
    opened, first = await begun(bucket, tmp_path, home)
    bucket.objects[entry(3)], bucket.objects[entry(4)] = GARBAGE, b"more"
    found = await opened.foreign(REF)
    assert [one.seq for one in found] == [3, 4]
    assert await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found]) == 5
    bucket.objects[entry(6)] = b"once more"
    [third] = await opened.foreign(REF)
    assert await opened.step_over(REF, confirmed=[(6, third.hash)]) == 7
    cold = node_of(bucket, tmp_path, "cold").open()
    assert await cold.list(REF) == [first]
    workspace = await cold._known.required(REF)
    assert [seq for seq, _ in workspace.log.state.version.void] == [3, 4, 6]


async def test_only_what_was_confirmed_is_stepped_over(bucket, home, tmp_path):
    opened, _ = await begun(bucket, tmp_path, home)
    before = dict(bucket.objects)
    with pytest.raises(storage.ChainBroken):
        await opened.step_over(REF, confirmed=[(2, blake3(bucket.objects[entry(2)]).digest())])
    assert bucket.objects == before, "a good entry is never stepped over"
    bucket.objects[entry(3)] = GARBAGE
    before = dict(bucket.objects)
    for confirmed in ([], [(3, bytes(32))], [(4, blake3(GARBAGE).digest())]):
        with pytest.raises(storage.ChainBroken):
            await opened.step_over(REF, confirmed=confirmed)
    assert bucket.objects == before


async def test_another_object_under_the_same_number_stops_everybody_again(bucket, home, tmp_path):
    """What a V names is that object, with its bytes; and it stays there."""
    opened, _ = await begun(bucket, tmp_path, home)
    bucket.objects[entry(3)] = GARBAGE
    await opened.step_over(REF, confirmed=[(3, blake3(GARBAGE).digest())])
    for number, other in enumerate((GARBAGE + b"x", None)):
        bucket.objects.pop(entry(3))
        if other is not None:
            bucket.objects[entry(3)] = other
        with pytest.raises(storage.ChainBroken):
            await node_of(bucket, tmp_path, f"cold {number}").open().list(REF)


async def test_what_a_newer_service_may_have_made_is_not_stepped_over(bucket, home, tmp_path):
    opened, _ = await begun(bucket, tmp_path, home)
    raw = bytearray(bucket.objects[entry(2)])
    raw[4] = 2
    bucket.objects[entry(3)] = bytes(raw)
    with pytest.raises(storage.NewerServiceNeeded):
        await opened.foreign(REF)
    with pytest.raises(storage.NewerServiceNeeded):
        await opened.step_over(REF, confirmed=[(3, blake3(bytes(raw)).digest())])


async def test_damage_in_the_middle_of_the_log_is_not_stepped_over(bucket, home, tmp_path):
    opened, _ = await begun(bucket, tmp_path, home)
    write(home, a="two")
    await save(opened, home)
    bucket.objects[entry(2)] = GARBAGE
    cold = node_of(bucket, tmp_path, "cold").open()
    assert await cold.foreign(REF) == (), "a good entry lies behind it"
    with pytest.raises(storage.StorageError):
        await cold.step_over(REF, confirmed=[(2, blake3(GARBAGE).digest())])


async def test_a_v_that_names_other_numbers_than_those_before_it_is_refused(bucket, home, tmp_path):
    opened, _ = await begun(bucket, tmp_path, home)
    workspace = await opened._known.required(REF)
    state = await workspace.log.refresh()
    writer = LogWriter(keys=workspace.keys.newest, fresh=os.urandom, clock_ms=lambda: 0)
    bucket.objects[entry(3)] = GARBAGE
    hash_ = blake3(GARBAGE).digest()
    for void in ([], [(4, hash_)], [(3, bytes(32))], [(3, hash_), (3, hash_)]):
        fields = Version(1, 1, 1, 1, [], [], void)
        bucket.objects[entry(4)] = b"".join([_entry(writer, state, fields) or b"?"])
        with pytest.raises(storage.StorageError):
            await node_of(bucket, tmp_path, f"cold {void}"[:40].replace("/", "")).open().list(REF)


def _entry(writer: LogWriter, state, fields: Version) -> bytes | None:
    try:
        return writer.entry(state, fields, skipping=1)
    except Malformed:
        return None


async def test_folds_snapshots_and_collecting_go_over_it(bucket, home, tmp_path, monkeypatch):
    opened, first = await begun(bucket, tmp_path, home)
    bucket.objects[entry(3)] = GARBAGE
    await opened.step_over(REF, confirmed=[(3, blake3(GARBAGE).digest())])
    write(home, a="two")
    info = await save(opened, home)
    monkeypatch.setattr(snapshots, "ENTRIES", 1)
    write(home, a="three")
    last = await save(opened, home)
    assert objects(bucket, "x/")
    assert await node_of(bucket, tmp_path, "by snapshot").open().list(REF) == [first, info, last]
    report = await opened.collect(REF, policy=KEEP_ALL, actor="t")
    assert report.refused == ""
    assert (await opened.verify(REF, "full")).faults == ()
    monkeypatch.setattr(fold, "ENTRIES_MIN", 3)
    report = await opened.collect(REF, policy=KEEP_ALL, actor="t")
    assert (report.refused, report.folded_entries > 0) == ("", True)
    report = await opened.collect(REF, policy=KEEP_ALL, actor="t")
    assert report.refused == ""
    assert entry(3).removeprefix(PREFIX) not in objects(bucket, "c/"), "it went with the fold"
    cold = node_of(bucket, tmp_path, "cold").open()
    assert await cold.list(REF) == [first, info, last] == await opened.list(REF)
    assert (await cold.verify(REF, "full")).faults == ()
    for name in objects(bucket, "x/"):
        del bucket.objects[PREFIX + name]
    assert await node_of(bucket, tmp_path, "by history").open().list(REF) == [first, info, last]


async def test_two_operators_step_over_it_once(bucket, home, tmp_path):
    opened, _ = await begun(bucket, tmp_path, home)
    other = node_of(bucket, tmp_path, "other").open()
    bucket.objects[entry(3)] = GARBAGE
    confirmed = [(3, blake3(GARBAGE).digest())]
    assert await opened.step_over(REF, confirmed=confirmed) == 4
    with pytest.raises(storage.ChainBroken):
        await other.step_over(REF, confirmed=confirmed)
    assert len(objects(bucket, "c/")) == 4

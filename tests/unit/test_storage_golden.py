"""A repository of format version 1 with every kind of entry, folded and repacked: read for ever, by the
product and by the second reader.
"""

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from tests.fakes import golden_repository
from tests.fakes.format_second_reader import SecondReader
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, Node, objects, write

SHA256 = "2321a6f1d7c415c48a8d85db7196bb37f33c6b0cac92d93369a491fecf937687"


@pytest.fixture
def golden() -> tuple[MemoryBucket, dict[int, dict[str, bytes]]]:
    found, homes = golden_repository.read(golden_repository.FOLDED)
    return MemoryBucket(found), homes


def test_the_golden_file_is_the_one_that_was_made():
    """Golden bytes never change; a new format gets a file of its own."""
    assert hashlib.sha256(golden_repository.FOLDED.read_bytes()).hexdigest() == SHA256


def test_there_is_one_of_each_object_in_it(golden):
    bucket, _ = golden
    kinds = {name[0] for name in objects(bucket)}
    assert kinds == {"b", "c", "g", "k", "l", "p", "x"}
    assert len(objects(bucket, "k/")) == 2, "two key epochs"


async def test_the_product_reads_it_to_the_last_byte_and_goes_on(golden, tmp_path: Path):
    bucket, homes = golden
    opened = Node(bucket, tmp_path / "node").open()
    listed = [*await opened.list(REF), *await opened.conflicts(REF)]
    assert {info.seq for info in listed} == set(homes)
    for info in listed:
        target = tmp_path / f"back {info.seq}"
        await opened.restore(REF, seq=info.seq, into=target)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == homes[info.seq]
    assert (await opened.verify(REF, "full")).faults == ()
    report = await opened.collect(REF, policy=storage.Retention(), actor="t")
    assert report.refused == ""
    home = tmp_path / "home"
    shutil.copytree(tmp_path / f"back {max(homes)}", home)
    write(home, more="work")
    saved = await opened.checkpoint(REF, home=home, fence=2, session="s", reason="test")
    assert saved.info.seq > max(homes)


@pytest.mark.parametrize("snapshots", [True, False])
def test_the_second_reader_reads_it_to_the_last_byte(golden, snapshots: bool):
    """Index snapshots are a cache: it never looks at them."""
    bucket, homes = golden
    if not snapshots:
        for name in objects(bucket, "x/"):
            del bucket.objects[PREFIX + name]
    reader = SecondReader(bucket.objects, REF.tenant, REF.workspace, MASTER_KEY)
    found = {seq: fields for seq, _, fields in reader.checkpoints}
    found |= {seq: fields for seq, (_, fields) in reader.sides.items()}
    assert set(found) == set(homes)
    for seq, fields in found.items():
        files = {path.decode(): reader.data(entry) for path, entry in reader.tree(fields[4]) if entry[1] == 1}
        assert files == homes[seq], seq
    assert reader.fence == 2


async def test_what_is_made_today_is_read_by_both(tmp_path: Path):
    """The same acts with the code of today; the bytes may differ, what they say may not."""
    with ExitStack() as small:
        raw = await golden_repository.make(tmp_path, small)
    path = tmp_path / "today"
    path.write_bytes(raw)
    found, homes = golden_repository.read(path)
    reader = SecondReader(found, REF.tenant, REF.workspace, MASTER_KEY)
    opened = Node(MemoryBucket(found), tmp_path / "cold").open()
    assert [seq for seq, _, _ in reader.checkpoints] == [info.seq for info in await opened.list(REF)]
    assert list(reader.sides) == [info.seq for info in await opened.conflicts(REF)]
    assert {*reader.sides, *(seq for seq, _, _ in reader.checkpoints)} == set(homes)
    assert reader.pins == {2: False}

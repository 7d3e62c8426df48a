"""The second golden repository of format version 1: a receipt, a tombstone, a full base, two slots per
key. Read for ever, by the product and by the second reader, by the master key and by the recovery code.
"""

import hashlib
import shutil
from pathlib import Path

import pytest

import storage
from storage.format import recovery
from storage.objects.memory import MemoryBucket
from tests.fakes import whole_repository
from tests.fakes.format_second_reader import SecondReader
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, objects, write
from tests.fakes.whole_repository import ERASED, KINDS, RECEIPT, RECOVERY_PRIVATE, Whole, open_whole

SHA256 = "6a7ea737ba1ceead30d622ddd11769e97cd085a73f3f5059d470da2e91093f70"
CODE = recovery.code_of(RECOVERY_PRIVATE)


@pytest.fixture
def golden() -> Whole:
    return whole_repository.unpack(whole_repository.WHOLE)


def test_the_golden_file_is_the_one_that_was_made():
    """Golden bytes never change; a new format gets a file of its own."""
    assert hashlib.sha256(whole_repository.WHOLE.read_bytes()).hexdigest() == SHA256


def test_there_is_one_of_each_object_in_it(golden):
    bucket = MemoryBucket(golden.objects)
    assert {name.partition("/")[0] for name in objects(bucket)} == KINDS
    tenant = {name.split("/")[2] for name in golden.objects}
    assert tenant == {"e", "k", "w"}
    assert len(objects(bucket, "l/")) == 2, "two folds"


async def test_the_product_reads_it_to_the_last_byte_and_goes_on(golden, tmp_path: Path):
    bucket = MemoryBucket(dict(golden.objects))
    opened = open_whole(bucket, tmp_path / "node")
    listed = [*await opened.list(REF), *await opened.conflicts(REF)]
    assert {info.seq for info in listed} == set(golden.homes)
    for info in listed:
        target = tmp_path / f"back {info.seq}"
        await opened.restore(REF, seq=info.seq, into=target)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == golden.homes[info.seq]
    assert await opened.receipt(REF, "s") == RECEIPT
    stone = await opened.tombstone(ERASED)
    assert (stone.actor, stone.reason, len(stone.slots)) == ("whole", "asked for", 1)
    with pytest.raises(storage.WorkspaceErased):
        await opened.list(ERASED)
    assert (await opened.verify(REF, "full")).faults == ()
    for _ in range(3):
        report = await opened.collect(REF, policy=storage.Retention(), actor="t")
        assert report.refused == ""
    home = tmp_path / "home"
    shutil.copytree(tmp_path / f"back {max(golden.homes)}", home)
    write(home, more="work")
    saved = await opened.checkpoint(REF, home=home, fence=2, session="s", reason="test")
    assert saved.info.seq > max(golden.homes)
    assert (await opened.verify(REF, "full")).faults == ()


async def test_the_product_reads_it_by_the_recovery_code_alone(golden, tmp_path: Path):
    ways = storage.KeyWays(master=bytes(32), recovery_private=recovery.private_of(CODE))
    opened = open_whole(MemoryBucket(golden.objects), tmp_path / "node", ways=ways)
    newest = max(info.seq for info in await opened.list(REF))
    await opened.restore(REF, seq=newest, into=tmp_path / "back")
    found = {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()}
    assert found == golden.homes[newest]


@pytest.mark.parametrize("by_code", [False, True])
def test_the_second_reader_reads_it_to_the_last_byte(golden, by_code: bool):
    way = {"recovery_code": CODE} if by_code else {"master_key": MASTER_KEY}
    reader = SecondReader(golden.objects, REF.tenant, REF.workspace, **way)
    found = {seq: fields for seq, _, fields in reader.checkpoints}
    found |= {seq: fields for seq, (_, fields) in reader.sides.items()}
    assert set(found) == set(golden.homes)
    for seq, fields in found.items():
        files = {path.decode(): reader.data(entry) for path, entry in reader.tree(fields[4]) if entry[1] == 1}
        assert files == golden.homes[seq], seq
    assert reader.receipt("s", MASTER_KEY) == RECEIPT
    stone = reader.tombstone(ERASED.workspace)
    assert stone is not None
    assert (stone[1], stone[3], len(stone[4])) == ("whole", "asked for", 1)
    assert reader.tombstone(REF.workspace) is None
    assert not [name for name in golden.objects if ERASED.workspace in name and "/w/" in name]


async def test_what_is_made_today_is_read_by_both(tmp_path: Path):
    """The same acts with the code of today; the bytes may differ, what they say may not."""
    today = await whole_repository.make(tmp_path)
    reader = SecondReader(today.objects, REF.tenant, REF.workspace, MASTER_KEY)
    opened = open_whole(MemoryBucket(dict(today.objects)), tmp_path / "cold")
    assert [seq for seq, _, _ in reader.checkpoints] == [info.seq for info in await opened.list(REF)]
    assert list(reader.sides) == [info.seq for info in await opened.conflicts(REF)]
    assert reader.receipt("s", MASTER_KEY) == RECEIPT
    assert PREFIX + "config" in today.objects

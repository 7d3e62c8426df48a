"""Damage in the store: every changed bit, cut and missing object is found, and nothing wrong is given out."""

import itertools
import os
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from tests.fakes.storage_rig import REF, Node, take, write


@pytest.fixture
async def small(tmp_path: Path):
    """A small repository with everything in it: keys, entries, inline segments, a pack, a receipt."""
    bucket = MemoryBucket()
    home = tmp_path / "home"
    home.mkdir()
    write(home, a="one", docs__letter="Dear Sir")
    opened = Node(bucket, tmp_path / "cache").open()
    await take(opened)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    (home / "big").write_bytes(os.urandom(1_100_000))
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test", final=True)
    await opened.put_receipt(REF, "s", b"receipt")
    assert (await opened.verify(REF, "full")).sound
    return bucket, tmp_path


async def faults_of(bucket: MemoryBucket, folder: Path, level: str = "full") -> tuple[str, ...]:
    """Look with a new process; what cannot even be opened is a fault too."""
    opened = Node(bucket, folder / "another cache").open()
    try:
        return (await opened.verify(REF, level)).faults
    except storage.StorageError as exc:
        return (str(exc),)


def changed(raw: bytes, at: int) -> bytes:
    copy = bytearray(raw)
    copy[at] ^= 0x20
    return bytes(copy)


async def test_every_changed_bit_is_found(small):
    """Each byte near the borders of each object's parts, and a spread of those between."""
    bucket, folder = small
    for name, raw in list(bucket.objects.items()):
        edges = {*range(70), *range(len(raw) - 20, len(raw))}
        for at in sorted({*edges, *range(0, len(raw), max(1, len(raw) // 25))} & {*range(len(raw))}):
            bucket.objects[name] = changed(raw, at)
            assert await faults_of(bucket, folder), f"byte {at} of {len(raw)} in {name}"
        bucket.objects[name] = raw
    assert not await faults_of(bucket, folder)


async def test_every_cut_and_every_appended_byte_is_found(small):
    bucket, folder = small
    for name, raw in list(bucket.objects.items()):
        cuts = {0, 1, 63, 64, 67, 68, 100, len(raw) // 2, len(raw) - 17, len(raw) - 16, len(raw) - 1}
        for length in sorted(cut for cut in cuts if 0 <= cut < len(raw)):
            bucket.objects[name] = raw[:length]
            assert await faults_of(bucket, folder), f"{name} cut to {length}"
        bucket.objects[name] = raw + b"\0"
        assert await faults_of(bucket, folder), f"a byte behind {name}"
        bucket.objects[name] = raw


@pytest.mark.parametrize("level", ["structure", "sample", "full"])
async def test_every_missing_object_is_found_at_every_level(small, level):
    """But for the last entry of the log, which only a witness outside of the store can miss, and receipts."""
    bucket, folder = small
    last = max(name for name in bucket.objects if "/c/" in name)
    for name, raw in list(bucket.objects.items()):
        if name == last or "/r/" in name:
            continue
        del bucket.objects[name]
        assert await faults_of(bucket, folder, level), name
        bucket.objects[name] = raw


async def test_two_objects_that_changed_places_are_found(small):
    bucket, folder = small
    names = sorted(bucket.objects)
    for one, other in itertools.pairwise(names):
        objects = bucket.objects
        objects[one], objects[other] = objects[other], objects[one]
        assert await faults_of(bucket, folder), (one, other)
        objects[one], objects[other] = objects[other], objects[one]


async def test_a_damaged_chunk_is_never_given_out(small):
    """A restore leaves the file out; one that must be whole, and a download, stop with a declared error."""
    bucket, folder = small
    name = next(name for name in bucket.objects if "/p/" in name)
    raw = bucket.objects[name]
    bucket.objects[name] = changed(raw, 500_000)
    opened = Node(bucket, folder / "third cache").open()
    with pytest.raises(storage.FormatError):
        await opened.restore(REF, seq=3, into=folder / "whole", must_be_whole=True)
    report = await opened.restore(REF, seq=3, into=folder / "back")
    assert [one.path for one in report.left_out] == [b"big"]
    assert not (folder / "back" / "big").exists()
    with pytest.raises(storage.FormatError):
        [piece async for piece in opened.read(REF, seq=3, path=b"big")]
    assert [piece async for piece in opened.read(REF, seq=3, path=b"a")] == [b"one"]
    del bucket.objects[name]
    with pytest.raises(storage.ObjectDamaged):
        await opened.prove(REF, seq=3, hash=(await opened.list(REF))[1].hash)


async def test_a_damaged_older_tree_does_not_keep_anybody_from_saving(small):
    """The cold start cannot use it, so it reads everything and writes what it needs."""
    bucket, folder = small
    name = next(name for name in bucket.objects if name.endswith("c/0000000000000002"))
    raw = bucket.objects[name]
    bucket.objects[name] = changed(raw, len(raw) - 100)
    opened = Node(bucket, folder / "third cache").open()
    write(folder / "home", b="new")
    saved = await opened.checkpoint(REF, home=folder / "home", fence=1, session="s", reason="test")
    assert saved.info.complete
    assert saved.read_files == 4

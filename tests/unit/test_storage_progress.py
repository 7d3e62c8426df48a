"""A save says that it moves, also while nothing new is found or stored: silence is taken for a hang."""

import os
from pathlib import Path

import storage
from storage.objects.memory import MemoryBucket
from storage.ops import gather, restore
from tests.fakes.storage_rig import REF, Node, take


async def told(opened: storage.Storage, home: Path) -> list[storage.Progress]:
    """Save and return what was told meanwhile."""
    seen: list[storage.Progress] = []
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test", progress=seen.append)
    return seen


async def test_every_pack_on_its_way_is_told(tmp_path: Path) -> None:
    """Sent, and read back in pieces."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "noise").write_bytes(os.urandom(20_000_000))
    opened = Node(MemoryBucket(), tmp_path / "cache").open()
    await take(opened)
    moved = [one.done for one in await told(opened, home) if one.unit == "bytes"]
    assert len(moved) >= 4
    assert moved == sorted(moved)
    assert moved[-1] >= 2 * 20_000_000


async def test_a_large_file_that_is_read_again_is_told_though_nothing_is_new(
    tmp_path: Path, monkeypatch
) -> None:
    """After a crash nothing is remembered of the home, and nothing of it has to be sent."""
    monkeypatch.setattr(gather, "PROGRESS_EVERY_PIECES", 1)
    home, bucket = tmp_path / "home", MemoryBucket()
    home.mkdir()
    (home / "noise").write_bytes(os.urandom(20_000_000))
    opened = Node(bucket, tmp_path / "cache").open()
    await take(opened)
    await told(opened, home)
    again = await told(Node(bucket, tmp_path / "cold").open(), home)
    assert [one.unit for one in again if one.unit == "bytes"] == []
    assert sum(one.stage == "scan" for one in again) >= 4


async def test_a_restore_of_little_that_comes_slowly_is_told_long_before_it_is_much(
    tmp_path: Path, monkeypatch
) -> None:
    """Tiny files on a slow disk, or a store at the end of a thin line: whoever waits gives up a restore that
    says nothing for minutes.
    """
    monkeypatch.setattr(restore, "PROGRESS_EVERY_S", 0.0)
    home = tmp_path / "home"
    home.mkdir()
    for number in range(4):
        (home / f"noise{number}").write_bytes(os.urandom(300_000))
    opened = Node(MemoryBucket(), tmp_path / "cache").open()
    await take(opened)
    await told(opened, home)
    seen: list[storage.Progress] = []
    await opened.restore(REF, seq=2, into=tmp_path / "back", progress=seen.append)
    done = {one.done for one in seen if one.stage == "restore"}
    assert len(done) > 2
    assert max(done) < restore.PROGRESS_EVERY_BYTES


async def test_upkeep_and_checks_of_a_whole_repository_tell_their_stages(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    opened = Node(MemoryBucket(), tmp_path / "cache").open()
    await take(opened)
    for text in (b"one", b"two"):
        (home / "letter").write_bytes(text)
        await told(opened, home)
    seen: list[storage.Progress] = []
    await opened.verify(REF, "full", progress=seen.append)
    assert {(one.stage, one.unit) for one in seen} == {("verify", "objects"), ("trees", "checkpoints")}
    seen.clear()
    await opened.collect(REF, policy=None, actor="test", progress=seen.append)
    assert {one.stage for one in seen} == {"mark"}
    assert all(one.total == 2 for one in seen)

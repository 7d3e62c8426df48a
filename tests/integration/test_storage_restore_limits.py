"""What stops a restore in its middle: a full disk, few descriptors, a plain user, too much of anything.

Each time a declared error that says what to do, and a folder that can be dropped or taken up.
"""

import errno
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

import storage
from storage.objects.memory import MemoryBucket
from storage.ops import lanes
from tests.fakes.home import make_odd_home, picture
from tests.fakes.small_disk import on_small_disk
from tests.fakes.storage_rig import REF, Node, take
from tests.fakes.unprivileged import as_plain_user

ACTS = "tests.integration.small_disk_restore_acts"


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


async def saved(opened: storage.Storage, home: Path) -> int:
    fence = await take(opened)
    done = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    return done.info.seq


def test_a_full_disk_is_told_before_and_in_the_middle_and_the_next_restore_goes_well(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    told, partial, whole, others = on_small_disk(disk, ACTS, "restore_onto_a_full_disk", options="size=5m")
    assert told == [["bytes", 0], [errno.ENOSPC, "target_full"]]
    assert (partial, whole, others) == (True, True, "kept")


def test_a_disk_that_a_download_fills_is_told_with_its_folder(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    told = on_small_disk(disk, ACTS, "unpack_onto_a_full_disk", options="size=5m")
    assert told == [f"There is no room left for {disk / 'back'}.", "kept"]


async def test_few_descriptors_are_told_as_such_and_the_restore_is_taken_up(bucket, tmp_path, monkeypatch):
    home = tmp_path / "home"
    for number in range(90):
        (home / f"folder{number}" / "deep").mkdir(parents=True)
        (home / f"folder{number}" / "deep" / "file").write_bytes(os.urandom(2_000))
    opened = Node(bucket, tmp_path / "node").open()
    seq = await saved(opened, home)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, before[1]))
    try:
        with pytest.raises(storage.StorageError) as told:
            await opened.restore(REF, seq=seq, into=tmp_path / "back", resumable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (told.value.code, told.value.retryable) == ("descriptors_exhausted", True)
    held = len(os.listdir("/proc/self/fd"))
    report = await opened.restore(REF, seq=seq, into=tmp_path / "back", resumable=True)
    assert report.resumed
    assert picture(tmp_path / "back") == picture(home)
    assert len(os.listdir("/proc/self/fd")) <= held


async def test_many_large_files_are_written_with_few_of_them_open(bucket, tmp_path, monkeypatch):
    """Each lies in several segments, and they are met piece by piece: the others wait closed."""
    monkeypatch.setattr(lanes, "WRITERS_OPEN_MAX", 2)
    home = tmp_path / "home"
    home.mkdir()
    shared = [os.urandom(600_000) for _ in range(8)]
    opened = Node(bucket, tmp_path / "node").open()
    (home / "parts").write_bytes(b"".join(shared))
    await saved(opened, home)
    for number in range(8):
        own = os.urandom(400_000)
        (home / f"file{number}").write_bytes(shared[number] + own + shared[(number * 3) % 8])
    seq = await saved(opened, home)
    await opened.restore(REF, seq=seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)


async def test_a_part_of_a_home_comes_under_its_own_name(bucket, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    make_odd_home(home)
    opened = Node(bucket, tmp_path / "node").open()
    seq = await saved(opened, home)
    await opened.restore(REF, seq=seq, into=tmp_path / "folder", path=b"other")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["other"]
    assert (tmp_path / "folder" / "other" / "hard2").read_bytes() == b"h" * 70_000
    await opened.restore(REF, seq=seq, into=tmp_path / "file", path=b"sparse")
    assert (tmp_path / "file" / "sparse").stat().st_size == (home / "sparse").stat().st_size
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o700
    with pytest.raises(storage.PathMissing):
        await opened.restore(REF, seq=seq, into=tmp_path / "none", path=b"not/there")


def test_a_plain_user_restores_for_himself_and_is_told_what_he_may_not(tmp_path):
    """setuid bits and other owners stay away; everything else comes back."""

    def restore() -> list[Any]:
        import asyncio

        async def work() -> list[Any]:
            home = tmp_path / "home"
            home.mkdir()
            (home / "program").write_bytes(b"x")
            (home / "program").chmod(0o6755)
            (home / "locked").mkdir()
            (home / "locked" / "file").write_bytes(b"y")
            (home / "locked").chmod(0o500)
            opened = Node(MemoryBucket(), tmp_path / "node").open()
            seq = await saved(opened, home)
            report = await opened.restore(REF, seq=seq, into=tmp_path / "back")
            again = await opened.restore(REF, seq=seq, into=tmp_path / "for root", owner=(0, 0))
            return [report.whole, [one.path.decode() for one in report.differences], again.whole]

        try:
            return asyncio.run(work())
        except storage.StorageError as exc:
            return [exc.code, str(exc.facts.get("errno"))]

    assert as_plain_user(tmp_path, restore) == ["target_failed", str(errno.EPERM)]
    back = tmp_path / "back"
    assert stat.S_IMODE((back / "program").stat().st_mode) == 0o755
    assert stat.S_IMODE((back / "locked").stat().st_mode) == 0o500


async def test_a_file_of_more_holes_than_an_entry_holds_comes_back(bucket, tmp_path):
    """Its extents have a content of their own, and the totals of a checkpoint do not know its bytes."""
    home = tmp_path / "home"
    home.mkdir()
    with open(home / "image", "wb") as file:
        for number in range(1_100):
            file.seek(number * 8_192)
            file.write(b"%04d" % number * 1_024)
        file.truncate(1_100 * 8_192)
    opened = Node(bucket, tmp_path / "node").open()
    seq = await saved(opened, home)
    for number, path in enumerate((b"", b"image")):
        into = tmp_path / f"back{number}"
        await opened.restore(REF, seq=seq, into=into, path=path)
        assert (into / "image").read_bytes() == (home / "image").read_bytes()
        assert (into / "image").stat().st_blocks == (home / "image").stat().st_blocks

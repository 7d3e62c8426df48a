"""The first checkpoint of a restored home: it need not read what the restore wrote, and misses no change."""

import mmap
import os
import time
from pathlib import Path

import pytest

import storage
from storage.scan import settled
from storage.scan.settled import keeps_fine_times
from tests.fakes.home import make_odd_home
from tests.fakes.storage_rig import MASTER_KEY, REF, take

FILES = 40


async def opened_at(tmp_path: Path, cache: str = "cache") -> storage.Storage:
    return await storage.Storage.open(
        storage.StoreSpec(url=f"file://{tmp_path}/objects?create=true"),
        master_key=MASTER_KEY,
        cache_folder=tmp_path / cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )


async def save(opened: storage.Storage, home: Path, fence: int, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)


async def restored(opened: storage.Storage, tmp_path: Path) -> tuple[Path, int]:
    """Save a home, and give it back as the home of another desktop: restore, then rename."""
    first = tmp_path / "first"
    (first / "folder").mkdir(parents=True)
    for number in range(FILES):
        (first / "folder" / f"file{number}").write_bytes(os.urandom(2_000))
    (first / "large").write_bytes(os.urandom(3_000_000))
    (first / "empty").touch()
    fence = await take(opened)
    saved = await save(opened, first, fence)
    draft = tmp_path / "draft"
    await opened.restore(REF, seq=saved.info.seq, into=draft, becomes_home=True)
    return draft.rename(tmp_path / "home"), fence


async def test_nothing_is_read_again_and_nothing_is_new(tmp_path):
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
        after = await save(opened, home, fence)
        assert after.unchanged
        fine = keeps_fine_times(home.stat().st_dev)
        assert after.read_files == (0 if fine else FILES + 2)
        assert await opened.pending(REF, home=home) == storage.Pending(files=0, bytes=0)


async def test_a_later_process_on_the_same_machine_need_not_read_either(tmp_path):
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
    async with await opened_at(tmp_path) as again:
        after = await save(again, home, fence)
    assert after.unchanged
    assert after.read_files == (0 if keeps_fine_times(home.stat().st_dev) else FILES + 2)


async def test_a_change_in_the_moment_of_the_return_is_seen_though_its_mtime_is_put_back(tmp_path):
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
        changed = home / "folder" / "file7"
        before = changed.stat()
        changed.write_bytes(bytes(before.st_size))
        os.utime(changed, ns=(before.st_mtime_ns, before.st_mtime_ns))
        after = await save(opened, home, fence)
        assert not after.unchanged
        found = [piece async for piece in opened.read(REF, seq=after.info.seq, path=b"folder/file7")]
        assert b"".join(found) == bytes(before.st_size)


async def test_a_store_through_a_memory_map_is_in_the_checkpoints_of_a_close(tmp_path):
    """The first store through a new map moves the times, or the file system proves nothing at a close."""
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
        with open(home / "large", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[1_000_000:1_000_005] = b"words"
            after = await save(opened, home, fence, frozen=True, final=True)
        found = [piece async for piece in opened.read(REF, seq=after.info.seq, path=b"large")]
        assert b"".join(found)[1_000_000:1_000_005] == b"words"


async def test_a_restore_beside_a_living_home_does_not_cost_it_what_is_known_of_it(tmp_path):
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
        await save(opened, home, fence)
        newest = (await opened.head(REF)).newest
        await opened.restore(REF, seq=newest.seq, into=tmp_path / "beside")
        after = await save(opened, home, fence)
        assert after.read_files == (0 if keeps_fine_times(home.stat().st_dev) else FILES + 2)


async def test_where_times_are_coarse_everything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(settled, "FINE_TIMES", frozenset())
    async with await opened_at(tmp_path) as opened:
        home, fence = await restored(opened, tmp_path)
        after = await save(opened, home, fence)
    assert after.unchanged
    assert after.read_files == FILES + 2


async def test_what_came_back_otherwise_is_read(tmp_path):
    """Odd entries: set-user-id is left off, hard links moved their ctime, so these are read as they are."""
    first = tmp_path / "first"
    first.mkdir()
    make_odd_home(first)
    async with await opened_at(tmp_path) as opened:
        fence = await take(opened)
        saved = await save(opened, first, fence)
        home = tmp_path / "home"
        report = await opened.restore(REF, seq=saved.info.seq, into=home, becomes_home=True)
        after = await save(opened, home, fence)
        async with await opened_at(tmp_path, "other cache") as other:
            fresh = await save(other, home, fence)
        assert report.differences
        assert after.read_files >= 2
        assert fresh.unchanged, "a scan that knows nothing finds what the scan that believed has saved"


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "xfs"])
def test_local_file_systems_keep_fine_times(kind, tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 1 254:3 / / rw,relatime shared:1 - {kind} /dev/x rw\n")
    assert keeps_fine_times(os.makedev(254, 3), mounts=mounts)
    assert not keeps_fine_times(os.makedev(254, 4), mounts=mounts)
    mounts.write_text("30 1 254:3 / / rw,relatime shared:1 - nfs4 server:/x rw\n")
    assert not keeps_fine_times(os.makedev(254, 3), mounts=mounts)
    assert not keeps_fine_times(os.makedev(254, 3), mounts=tmp_path / "missing")

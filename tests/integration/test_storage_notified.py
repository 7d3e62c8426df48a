"""Checkpoints of what the real kernel tells to have changed: what they cost, and what they must not miss."""

import mmap
import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage import StorageError
from storage.front.watched import open_watching
from storage.objects.memory import MemoryBucket
from storage.ops import unsettled
from storage.ops.stat_cache import StatCache
from storage.watch import watching as watching_module
from storage.watch.dirt import Why
from storage.watch.fanotify import open_group
from tests.fakes.faulty_store import Fault
from tests.fakes.storage_rig import REF, Node, take, write


class Rig:
    def __init__(self, base: Path, mode: str) -> None:
        self.base = base
        self.home = base / "home"
        self.bucket = MemoryBucket()
        group = open_group(base) if mode == "fanotify" else None
        self.watching = open_watching(base, group=group, share=0.1)
        self.node = Node(self.bucket, base / "cache")
        self.opened = self.node.open(watching=self.watching)
        self.readers = 0

    async def save(self, **asked):
        return await self.opened.checkpoint(
            REF, home=self.home, fence=1, session="s", **{"reason": "test", **asked}
        )

    async def agrees(self, told) -> bool:
        """Does somebody who reads all of the home come to the same tree?"""
        self.readers += 1
        other = Node(self.bucket, self.base / f"other {self.readers}").open()
        seen = await other.checkpoint(
            REF, home=self.home, fence=1, session="s", reason="test", first_of_close=True
        )
        await other.close()
        return (seen.info.tree_hash, seen.info.entries, seen.info.folders, seen.info.bytes) == (
            told.info.tree_hash, told.info.entries, told.info.folders, told.info.bytes
        )  # fmt: skip

    def scans(self, why: Why) -> int:
        return self.watching.tally().scans.get(why.value, 0)


def modes() -> tuple[str, ...]:
    group = open_group("/tmp")
    if group is None:
        return ("inotify",)
    os.close(group)
    return ("inotify", "fanotify")


@pytest.fixture(params=modes())
async def rig(request, tmp_path, monkeypatch) -> AsyncIterator[Rig]:
    """A home of a few folders that is saved once, under watch. Young files are no reason to look again."""
    monkeypatch.setattr(unsettled, "AGAIN_NS", -(10**18))
    made = Rig(tmp_path, request.param)
    write(made.home, a__one="1", a__b__two="2", c__three="3", top="0")
    await take(made.opened)
    await made.save()
    yield made
    await made.opened.close()
    made.watching.close()


async def test_only_the_changed_file_is_read(rig):
    write(rig.home, a__b__two="changed")
    told = await rig.save()
    assert told.read_files == 1
    assert rig.scans(Why.NOTIFIED) == 1
    assert await rig.agrees(told)


async def test_no_change_writes_nothing_and_reads_nothing(rig):
    told = await rig.save()
    assert told.unchanged
    assert told.read_files == 0


async def test_a_store_through_another_name_is_in_the_next_checkpoint(rig):
    """The event is of the folder of that name; the other folder holds the same inode."""
    os.link(rig.home / "a" / "one", rig.home / "c" / "also")
    assert await rig.agrees(await rig.save())
    (rig.home / "c" / "also").write_bytes(b"through the second name")
    told = await rig.save()
    assert rig.scans(Why.NOTIFIED) >= 2
    assert await rig.agrees(told)


async def test_a_fifo_with_two_names_is_saved_as_it_is_under_both(rig):
    """A change of its mode is told of the folder of the name that was used."""
    os.mkfifo(rig.home / "a" / "fifo")
    os.link(rig.home / "a" / "fifo", rig.home / "c" / "also")
    assert await rig.agrees(await rig.save())
    (rig.home / "c" / "also").chmod(0o600)
    assert await rig.agrees(await rig.save())


@pytest.mark.parametrize("kind", ["file", "symlink"])
async def test_something_with_a_name_outside_of_the_home_is_looked_at_always(rig, kind, monkeypatch):
    """Full scans that find it unchanged do not forget that it has another name."""
    outside = rig.base / "outside"
    outside.symlink_to("x") if kind == "symlink" else outside.write_bytes(b"1")
    os.link(outside, rig.home / "c" / "linked", follow_symlinks=False)
    await rig.save()
    with monkeypatch.context() as due:
        due.setattr(watching_module, "FULL_SCAN_EVERY_S", 0.0)
        await rig.save()
        await rig.save()
    os.utime(outside, ns=(5, 5), follow_symlinks=False)
    assert await rig.agrees(await rig.save())


async def test_a_folder_that_moves_and_comes_back_changed_is_in_the_next_checkpoint(rig):
    (rig.home / "a").rename(rig.home / "moved")
    (rig.home / "moved" / "b" / "two").write_bytes(b"x")
    told = await rig.save()
    assert rig.scans(Why.FOLDER_MOVED) == 1
    assert await rig.agrees(told)
    (rig.home / "moved" / "b" / "two").write_bytes(b"y")
    told = await rig.save()
    assert rig.scans(Why.NOTIFIED) == 1
    assert await rig.agrees(told)


async def test_new_folders_are_saved_to_their_ground_and_watched(rig):
    write(rig.home, new__deep__er__file="x")
    assert await rig.agrees(await rig.save())
    write(rig.home, new__deep__er__file="y", new__deep__other="z")
    told = await rig.save()
    assert rig.scans(Why.NOTIFIED) == 2
    assert await rig.agrees(told)


async def test_a_folder_in_place_of_another_one_is_saved_anew(rig):
    shutil.rmtree(rig.home / "a")
    write(rig.home, a__b__two="another")
    assert await rig.agrees(await rig.save())


async def test_a_folder_in_place_of_a_file_and_the_other_way_round_are_saved(rig):
    (rig.home / "top").unlink()
    write(rig.home, top__file="x")
    shutil.rmtree(rig.home / "c")
    write(rig.home, c="now a file")
    assert await rig.agrees(await rig.save())


async def test_the_checkpoints_of_a_close_look_at_everything(rig):
    for asked in ({"first_of_close": True}, {"frozen": True}, {"final": True}):
        await rig.save(**asked)
    assert rig.scans(Why.EXACT) == 3


async def test_a_checkpoint_that_failed_loses_no_change(rig):
    write(rig.home, a__one="not to be lost")
    rig.node.store.plan(Fault.UNAVAILABLE, on="create", times=2)
    with pytest.raises(StorageError):
        await rig.save()
    assert await rig.agrees(await rig.save())


async def test_a_change_during_a_scan_is_in_the_next_checkpoint(rig):
    """While files come and go under it."""
    ended = threading.Event()

    def busy() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            write(rig.home, a__one=str(number), **{f"c__file{number % 7}": str(number)})
            (rig.home / "c" / f"file{(number + 3) % 7}").unlink(missing_ok=True)

    writer = threading.Thread(target=busy)
    writer.start()
    for _ in range(5):
        await rig.save()
    ended.set()
    writer.join()
    assert await rig.agrees(await rig.save())


async def test_a_folder_of_many_entries_is_saved_by_what_changed(rig):
    (rig.home / "many").mkdir()
    for number in range(3000):
        os.mknod(rig.home / "many" / f"{number:05}")
    await rig.save()
    write(rig.home, many__01500="x")
    told = await rig.save()
    assert rig.scans(Why.NOTIFIED) == 2
    assert await rig.agrees(told)


async def test_a_map_that_is_stored_into_is_found_by_the_full_scan_and_then_always(rig, monkeypatch):
    """No event tells of it while it is mapped."""
    path = rig.home / "c" / "three"
    path.write_bytes(bytes(8192))
    os.utime(path, ns=(1, 1))
    await rig.save()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        mapped[0:5] = b"first"
        mapped.flush()
        if path.stat().st_mtime_ns == 1:
            return  # a file system in memory: no time moves, and no scan can know before a close
        assert (await rig.save()).unchanged, "nothing has told of it"
        monkeypatch.setattr(watching_module, "FULL_SCAN_EVERY_S", 0.0)
        assert not (await rig.save()).unchanged
        monkeypatch.undo()
        assert rig.watching.tally().silent == 1
        assert rig.watching._homes[str(rig.home)].silent == {b"c"}


async def test_a_restart_goes_on_from_what_the_last_checkpoint_of_changes_has_left(rig, tmp_path):
    """The cache file holds the first look and what later ones changed; nothing is read again."""
    write(rig.home, a__b__two="later", new__file="x")
    await rig.save()
    shutil.rmtree(rig.home / "c")
    last = await rig.save()
    again = rig.node.open(watching=None)
    told = await again.checkpoint(REF, home=rig.home, fence=1, session="s", reason="test")
    await again.close()
    assert told.unchanged
    assert told.info.tree_hash == last.info.tree_hash
    assert told.read_files <= 5, "young files only"


async def test_a_cache_file_with_a_gap_stops_before_it(rig):
    """A state whose predecessor was lost is not mixed with an older one."""
    await rig.opened._known.required(REF)
    folder = rig.base / "cache" / REF.tenant / REF.workspace
    whole = (folder / "stat.cache").read_bytes()
    write(rig.home, a__one="lost from the file")
    await rig.save()
    middle = (folder / "stat.cache").stat().st_size
    write(rig.home, a__one="behind the gap")
    await rig.save()
    (folder / "stat.cache").write_bytes(whole + (folder / "stat.cache").read_bytes()[middle:])
    again = rig.node.open(watching=None)
    workspace = await again._known.required(REF)
    found = StatCache.load(workspace.stat_file)
    first = (await rig.opened.list(REF))[0]
    await again.close()
    assert found is not None
    assert (found.seq, found.hash) == (first.seq, first.hash)


async def test_a_home_is_scanned_whole_when_what_is_remembered_was_spoilt_on_the_disk(rig):
    """By another process, a bad disk, or whoever empties caches: nothing of it is believed or lost."""
    folder = rig.base / "cache" / REF.tenant / REF.workspace
    spoilt = bytearray((folder / "stat.cache").read_bytes())
    spoilt[40:] = bytes(len(spoilt) - 40)
    (folder / "stat.cache").write_bytes(spoilt)
    write(rig.home, a__one="changed since")
    told = await rig.save()
    assert await rig.agrees(told)
    write(rig.home, a__one="changed again")
    assert await rig.agrees(await rig.save())
    (folder / "stat.cache").write_bytes(b"")
    assert (await rig.opened.pending(REF, home=rig.home)).files > 0
    assert (await rig.save()).unchanged

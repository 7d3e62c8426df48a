"""A restore that was cut off anywhere and is taken up: what was whole stays, and the result is the same."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import storage
from storage.errors import RestoreRunning, TargetFailed
from storage.objects.memory import MemoryBucket
from storage.ops import draft
from storage.scan.settled import keeps_fine_times
from tests.fakes.faulty_store import Crashed
from tests.fakes.home import make_odd_home, picture
from tests.fakes.storage_rig import MASTER_KEY, REF, Node, take
from tests.fakes.until import until

FILES = 60
CLOSED_MODE = 0o700
"""Of the folder until all is made."""
CHILD = """
import asyncio, pathlib, sys, time
import storage

async def main(url, cache, seq, into):
    opened = await storage.Storage.open(storage.StoreSpec(url=url), master_key=bytes(range(32)),
        cache_folder=pathlib.Path(cache), clock_ms=lambda: time.time_ns() // 1_000_000)
    ref = storage.WorkspaceRef(tenant="aa" * 8, workspace="bb" * 8)
    await opened.restore(ref, seq=int(seq), into=pathlib.Path(into), becomes_home=True, resumable=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    for number in range(FILES):
        path = folder / f"folder{number % 7}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(100 + number * 1_400))
    (folder / "large").write_bytes(os.urandom(6_000_000))
    make_odd_home(folder)
    return folder


async def saved(bucket: MemoryBucket, tmp_path: Path, home: Path) -> int:
    opened = Node(bucket, tmp_path / "writer").open()
    fence = await take(opened)
    done = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    return done.info.seq


async def restored(opened: storage.Storage, seq: int, into: Path, **more) -> storage.RestoreReport:
    return await opened.restore(REF, seq=seq, into=into, resumable=True, **more)


async def cut_off(bucket: MemoryBucket, tmp_path: Path, seq: int, into: Path, at: int, **more) -> bool:
    """Restore on a machine that loses its store in call number `at`; return whether it came to that."""
    node = Node(bucket, tmp_path / f"cut{at}")
    opened = node.open()
    await opened.list(REF)
    node.store.crash_at(at)
    try:
        await restored(opened, seq, into, **more)
    except Crashed:
        return True
    except BaseExceptionGroup as failed:
        assert failed.split(Crashed)[1] is None
        return True
    return False


async def test_it_may_be_cut_off_at_every_call_of_the_store(bucket, home, tmp_path):
    """Twice in a row, and the third one finishes; nothing whole is written a second time."""
    seq = await saved(bucket, tmp_path, home)
    plain = tmp_path / "plain"
    await Node(bucket, tmp_path / "plain node").open().restore(REF, seq=seq, into=plain)
    wanted, at, resumed = picture(plain), 4, 0
    while True:
        into = tmp_path / f"back{at}"
        if not await cut_off(bucket, tmp_path, seq, into, at):
            break
        assert draft.note_beside(into).exists()
        if not await cut_off(bucket, tmp_path, seq, into, at + 1):
            assert picture(into) == wanted
            break
        before = {path: path.stat().st_ino for path in into.glob("folder*/file*")} if into.exists() else {}
        report = await restored(Node(bucket, tmp_path / "again").open(), seq, into)
        resumed += report.resumed
        assert picture(into) == wanted
        assert before == {path: path.stat().st_ino for path in before}
        assert not draft.note_beside(into).exists()
        at += 2
    assert resumed >= 1, "which calls come after the first file depends on how two lanes take turns"


async def test_a_file_that_was_not_whole_is_written_anew(bucket, home, tmp_path):
    seq = await saved(bucket, tmp_path, home)
    opened = Node(bucket, tmp_path / "node").open()
    into = tmp_path / "back"
    await restored(opened, seq, into)
    into.chmod(0o700)
    wanted = picture(into)
    part = into / "folder1" / "file8"
    kept = (into / "folder1" / "file1").stat()
    os.truncate(part, 50)
    note = draft.note_beside(into)
    note.write_bytes(note_of(seq, await hash_of(opened, seq)))
    report = await restored(opened, seq, into)
    assert report.resumed
    again = picture(into)
    again.pop(b""), wanted.pop(b"")
    assert again == wanted
    now = (into / "folder1" / "file1").stat()
    assert (now.st_ino, now.st_ctime_ns) == (kept.st_ino, kept.st_ctime_ns)


async def hash_of(opened: storage.Storage, seq: int) -> bytes:
    return next(info.hash for info in await opened.list(REF) if info.seq == seq)


def note_of(seq: int, hash_: bytes, *, boot_id: bytes | None = None) -> bytes:
    """As an interrupted restore for its own user leaves it."""
    boot = draft.BOOT_ID.read_bytes() if boot_id is None else boot_id
    return draft.encode([1, boot, seq, hash_, None, False])


@pytest.mark.parametrize("what", ["boot", "checkpoint", "open folder", "no note", "owner"])
async def test_what_is_not_surely_our_own_is_not_taken_up(bucket, home, tmp_path, what):
    seq = await saved(bucket, tmp_path, home)
    opened = Node(bucket, tmp_path / "node").open()
    into = tmp_path / "back"
    into.mkdir(mode=0o755 if what == "open folder" else 0o700)
    (into / "file").write_text("somebody's")
    hash_ = await hash_of(opened, seq)
    note = note_of(seq, hash_, boot_id=b"another" if what == "boot" else None)
    if what == "checkpoint":
        note = note_of(seq + 1, hash_)
    if what != "no note":
        draft.note_beside(into).write_bytes(note)
    more = {"owner": (4711, 4711)} if what == "owner" else {}
    with pytest.raises(storage.TargetNotEmpty):
        await restored(opened, seq, into, **more)
    assert (into / "file").read_text() == "somebody's"


async def test_a_draft_that_cannot_be_taken_up_is_told_as_that(bucket, home, tmp_path):
    """A link planted in the place of a folder is not entered, and what it leads to stays."""
    seq = await saved(bucket, tmp_path, home)
    opened = Node(bucket, tmp_path / "node").open()
    into, outside = tmp_path / "back", tmp_path / "outside"
    into.mkdir(mode=0o700)
    outside.mkdir()
    (into / "folder1").symlink_to(outside)
    (into / "large").symlink_to(outside / "made")
    draft.note_beside(into).write_bytes(note_of(seq, await hash_of(opened, seq)))
    try:
        report = await restored(opened, seq, into)
        assert {one.path for one in report.differences} >= {b"folder1", b"large"}
    except storage.TargetNotEmpty:
        pass
    assert list(outside.iterdir()) == []


async def test_two_do_not_write_into_one_draft(bucket, home, tmp_path):
    seq = await saved(bucket, tmp_path, home)
    opened = Node(bucket, tmp_path / "node").open()
    into = tmp_path / "back"
    with draft.resumable_draft(into, (seq,)):
        assert draft.is_being_filled(into)
        with pytest.raises(RestoreRunning) as told:
            await restored(opened, seq, into)
        assert told.value.retryable
    assert not draft.is_being_filled(into)


def started(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command)


async def opened_at(tmp_path: Path, cache: str) -> storage.Storage:
    return await storage.Storage.open(
        storage.StoreSpec(url=f"file://{tmp_path}/objects?create=true"),
        master_key=MASTER_KEY,
        cache_folder=tmp_path / cache,
        clock_ms=lambda: 1_700_000_000_000,
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
async def test_a_process_that_was_killed_in_the_middle_is_continued(home, tmp_path, share):
    """A real SIGKILL; the next process finishes, and its first checkpoint need not read what either wrote."""
    async with await opened_at(tmp_path, "cache") as opened:
        fence = await take(opened)
        done = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
        seq, into = done.info.seq, tmp_path / "back"
        url = f"file://{tmp_path}/objects"
        command = [sys.executable, "-P", "-c", CHILD, url, str(tmp_path / "child"), str(seq), str(into)]
        child = started(command)

        def far_enough() -> bool:
            made = sum(1 for _ in into.rglob("file*")) if into.exists() else -1
            return child.poll() is not None or made >= share * FILES

        await until(far_enough)
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed = draft.note_beside(into).exists()
        if not killed:
            assert stat.S_ISDIR(into.stat().st_mode)
            return  # it was faster than the signal
        if into.exists() and stat.S_IMODE(into.stat().st_mode) != CLOSED_MODE:
            # It had given the folder its own mode already: others may have entered, so it is begun anew.
            with pytest.raises(storage.TargetNotEmpty):
                await restored(opened, seq, into, becomes_home=True)
            return
        await restored(opened, seq, into, becomes_home=True)
        await opened.restore(REF, seq=seq, into=tmp_path / "plain")
        assert picture(into) == picture(tmp_path / "plain")
        after = await opened.checkpoint(REF, home=into, fence=fence, session="s", reason="t")
        if keeps_fine_times(into.stat().st_dev):
            assert after.read_files < 20, "only odd entries are read"


def test_who_comes_when_a_restore_has_just_ended_does_not_take_it_up(tmp_path, monkeypatch):
    """He opened the note a moment before it went, and gets the lock a moment later: the folder is whole by
    then, and somebody may live in it already.
    """
    into = tmp_path / "into"
    told = (1, b"hash")
    real = draft._locked

    def late(note: int) -> bool:
        monkeypatch.setattr(draft, "_locked", real)
        with draft.resumable_draft(into, told) as other:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=other.fd))
            real(note)  # refused; the lock is the other's
        return real(note)

    os.close(os.open(draft.note_beside(into), os.O_CREAT | os.O_RDWR, 0o600))
    monkeypatch.setattr(draft, "_locked", late)
    with pytest.raises(RestoreRunning), draft.resumable_draft(into, told):
        raise AssertionError("it was taken up")


async def test_the_bytes_of_a_home_are_on_the_disk_before_its_draft_is_given_away(
    bucket, home, tmp_path, monkeypatch
):
    """After a crash of the machine the home that stands is saved as it is found: files that had a size and no
    content yet would be saved as empty. Where that fails there is no home, and the note stays.
    """
    seq = await saved(bucket, tmp_path, home)
    into = tmp_path / "into"
    synced: list[bool] = []

    class BrokenDisk:
        def syncfs(self, fd: int) -> int:
            synced.append(draft.note_beside(into).exists() and picture(into) != {})
            return -1

    monkeypatch.setattr(draft, "_libc", BrokenDisk())
    opened = Node(bucket, tmp_path / "node").open()
    with pytest.raises(TargetFailed):
        await restored(opened, seq, into, becomes_home=True)
    assert synced == [True]
    assert draft.note_beside(into).exists()

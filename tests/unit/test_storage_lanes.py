"""How the two lanes of a restore share its work: from both ends, in turn, in pieces that a store prefers."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import storage
from storage.objects.folder import FolderStore
from storage.objects.memory import MemoryBucket
from storage.objects.pieces import NEAR_PIECE_BYTES
from storage.ops import lanes
from storage.scan.lane import Lane
from tests.fakes.home import picture
from tests.fakes.storage_rig import REF, Node, take

SMALL_FILES = 400
SMALL_BYTES = 3_000
LARGE_BYTES = 9_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Many small files, none of which is of the first tier but the newest, and one that is large."""
    made = tmp_path / "home"
    for number in range(SMALL_FILES):
        folder = made / f"folder{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(os.urandom(SMALL_BYTES))
    (made / "large").write_bytes(os.urandom(LARGE_BYTES))
    return made


async def saved(opened: storage.Storage, home: Path) -> int:
    fence = await take(opened)
    return (await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")).info.seq


async def test_one_lane_begins_with_the_small_files_and_the_other_with_the_large(tmp_path, home, monkeypatch):
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    seq = await saved(opened, home)
    sizes: dict[int, list[float]] = {}
    write = lanes.Lanes._write

    def note(self: lanes.Lanes, load: Any, number: int) -> None:
        lengths = [piece.length for _, served in load.wanted.values() for piece in served]
        sizes.setdefault(number, []).append(sum(lengths) / len(lengths))
        write(self, load, number)

    monkeypatch.setattr(lanes.Lanes, "_write", note)
    monkeypatch.setattr("storage.ops.restore_plan.RECENT_FILES", 0)  # so that there is one tier
    await opened.restore(REF, seq=seq, into=tmp_path / "back")
    assert sizes[0][0] < lanes.SMALL_BYTES <= sizes[1][0]
    assert picture(tmp_path / "back") == picture(home)


async def test_small_files_are_made_by_one_lane_at_a_time(tmp_path, home, monkeypatch):
    """Python's work, for which two threads fight; whoever opens a segment meanwhile does so beside it."""
    (home / "large").unlink()  # it is written beside
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    seq = await saved(opened, home)
    monkeypatch.setattr(lanes, "SLOW_FILE_S", 60.0)
    monkeypatch.setattr("storage.repository.turn.WAIT_S", 60.0)
    monkeypatch.setattr(lanes, "LOAD_BYTES", 1)
    one = threading.Lock()
    met: list[bool] = []
    file = Lane.file

    def alone(self: Lane, *more: Any) -> None:
        met.append(free := one.acquire(blocking=False))
        file(self, *more)
        if free:
            one.release()

    monkeypatch.setattr(Lane, "file", alone)
    await opened.restore(REF, seq=seq, into=tmp_path / "back")
    assert len(met) >= SMALL_FILES
    assert all(met)


async def test_of_a_folder_no_more_is_asked_for_at_once_than_it_is_well_read_in(tmp_path, home, monkeypatch):
    """A larger answer is memory that the kernel clears for every request."""
    store = await storage.Storage.open(
        storage.StoreSpec(url=f"file://{tmp_path / 'store'}?create=true"),
        master_key=bytes(32),
        cache_folder=tmp_path / "cache",
        clock_ms=lambda: 1_700_000_000_000,
    )
    asked: list[int] = []
    get = FolderStore.get

    async def note(self: FolderStore, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        asked.append(length or 0)
        return await get(self, name, start=start, length=length)

    async with store:
        seq = await saved(store, home)
        monkeypatch.setattr(FolderStore, "get", note)
        await store.restore(REF, seq=seq, into=tmp_path / "back")
    assert NEAR_PIECE_BYTES // 2 < max(asked) <= NEAR_PIECE_BYTES
    assert picture(tmp_path / "back") == picture(home)


async def test_a_restore_tells_how_far_it_is_every_few_mebibytes_and_at_its_end(tmp_path, home):
    """A word for each segment or file would wake the event loop thousands of times."""
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    seq = await saved(opened, home)
    told: list[storage.Progress] = []
    await opened.restore(REF, seq=seq, into=tmp_path / "back", progress=told.append)
    done = [one.done for one in told if one.stage == "restore"]
    assert done[-1] == SMALL_FILES * SMALL_BYTES + LARGE_BYTES == told[-1].total
    assert 2 <= len(set(done)) <= 8

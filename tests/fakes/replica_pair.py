"""Two stores in memory, and a process that replicates the first to the second."""

from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.replica.second import SecondStore
from storage.repository import collect, fold
from tests.fakes.faulty_store import FaultyStore
from tests.fakes.storage_rig import IMPATIENT, KEEP_ONE, MASTER_KEY, REF, Node, write


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir")
    return folder


class Pair:
    """Two stores, and a process that writes to the first and replicates to the second."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second = MemoryBucket(), MemoryBucket()
        self.folder = folder
        self.there = FaultyStore(MemoryStore(self.second))
        self.node = Node(self.first, folder / "cache")

    def open(self, *, cache: str = "cache") -> storage.Storage:
        """Start a process; what the last one closed is opened again."""
        self.node.store.inner = MemoryStore(self.first)
        self.there.inner = type(self.there.inner)(self.there.inner.bucket)

        async def opener() -> FaultyStore:
            return self.there

        return storage.Storage(
            self.node.store,
            master_key=MASTER_KEY,
            cache_folder=self.folder / cache,
            fresh=self.node.fresh,
            clock_ms=lambda: next(self.node.clock),
            retry=IMPATIENT,
            second=SecondStore(opener, IMPATIENT),
        )

    def from_second(self, cache: str = "other") -> storage.Storage:
        """Open the second store as if it were the only one."""
        return Node(self.second, self.folder / cache).open()

    def differences(self) -> set[str]:
        """Return the names below `t/` that differ; the index is a cache, and is not copied."""
        left, right = self.first.objects, self.second.objects
        names = {name for name in left.keys() | right.keys() if name.startswith("t/") and "/x/" not in name}
        return {name for name in names if left.get(name) != right.get(name)}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


async def save(opened: storage.Storage, home: Path, **more) -> storage.CheckpointInfo:
    saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test", **more)
    return saved.info


def quiet(report: storage.UpkeepReport) -> bool:
    return not (report.deleted_objects or report.retired_packs or report.orphans or report.folded_entries)


async def tidy(opened: storage.Storage) -> None:
    """Collect until nothing is left to be deleted: remnants of a fold are not copied."""
    await opened.collect(REF, policy=KEEP_ONE, actor="test")
    report = None
    while report is None or not quiet(report):
        report = await opened.collect(REF, policy=None, actor="test")


async def grow(opened: storage.Storage, home: Path, count: int) -> None:
    for number in range(count):
        write(home, **{f"file{number}": f"{number}" * 1000})
        await save(opened, home)

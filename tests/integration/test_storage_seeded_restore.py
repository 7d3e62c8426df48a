"""A restore beside a folder that may hold some of it: what is the same is not fetched, and no more."""

import os
import random
import shutil
import socket
import threading
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from tests.fakes.home import make_odd_home, picture
from tests.fakes.storage_rig import REF, Node, take

LARGE = "Videos/film"
SPARSE = "machine/disk"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Forty small files, a large one, and one with holes; readable for whoever runs this."""
    folder, some = tmp_path / "home", random.Random(5)
    for number in range(40):
        path = folder / f"folder{number % 5}/below/file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(some.randbytes(100 + number * 1_700))
    for name in (LARGE, SPARSE):
        (folder / name).parent.mkdir()
    (folder / LARGE).write_bytes(some.randbytes(5_000_000))
    with (folder / SPARSE).open("wb") as disk:
        for offset in (0, 8 << 20, 32 << 20):
            disk.seek(offset)
            disk.write(some.randbytes(700_000))
        disk.truncate(64 << 20)
    return folder


class Saved:
    """A home that was saved, and a machine that has nothing of it yet."""

    def __init__(self, tmp_path: Path, home: Path) -> None:
        self._bucket, self._tmp_path, self._home = MemoryBucket(), tmp_path, home
        self._times = 0
        self.seq = 0

    async def save(self) -> None:
        opened = Node(self._bucket, self._tmp_path / "writer").open()
        fence = await take(opened)
        done = await opened.checkpoint(REF, home=self._home, fence=fence, session="s", reason="t")
        self.seq = done.info.seq

    async def back(self, seed: Path | None, **more) -> tuple[storage.RestoreReport, Path]:
        self._times += 1
        opened = Node(self._bucket, self._tmp_path / f"node{self._times}").open()
        into = self._tmp_path / f"back{self._times}"
        return await opened.restore(REF, seq=self.seq, into=into, seed=seed, **more), into


@pytest.fixture
async def saved(tmp_path: Path, home: Path) -> Saved:
    made = Saved(tmp_path, home)
    await made.save()
    return made


def data_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) - (64 << 20) + 2_100_000


async def test_a_home_that_is_still_here_is_not_fetched(saved, home, tmp_path):
    told: list[storage.Progress] = []
    report, into = await saved.back(home, progress=told.append, becomes_home=True)
    assert picture(into) == picture(home)
    assert (report.fetched_bytes, report.seeded_bytes) == (0, report.bytes)
    assert report.bytes >= data_bytes(home)
    assert (into / SPARSE).stat().st_blocks * 512 < 4_000_000
    stages = [one for one in told if one.stage in ("usable", "seeded")]
    assert [one.stage for one in stages] == ["usable", "seeded"]
    assert stages[-1].done == report.seeded_bytes


async def test_without_a_seed_everything_is_fetched(saved, home, tmp_path):
    """No folder, a file, and a link in its place are no seed, and no error."""
    (tmp_path / "link").symlink_to(home)
    (tmp_path / "file").write_text("x")
    for seed in (None, tmp_path / "nowhere", tmp_path / "file", tmp_path / "link"):
        report, into = await saved.back(seed)
        assert picture(into) == picture(home)
        assert report.seeded_bytes == 0
        assert report.fetched_bytes >= data_bytes(home)


def flip(path: Path, at: int) -> None:
    """Change one byte and put the time back: size, name and time prove nothing."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


async def test_what_differs_is_fetched_and_no_more(saved, home, tmp_path):
    wanted, seed = picture(home), tmp_path / "seed"
    shutil.copytree(home, seed, symlinks=True)
    flip(seed / LARGE, 2_500_000)
    flip(seed / SPARSE, (8 << 20) + 17)
    flip(seed / "folder1/below/file21", 5)
    os.truncate(seed / "folder2/below/file22", 9_000)
    (seed / "folder3/below/file23").unlink()
    with (seed / "folder4/below/file24").open("ab") as longer:
        longer.write(b"grown since")
    report, into = await saved.back(seed)
    assert picture(into) == wanted
    assert 4_000_000 < report.seeded_bytes < data_bytes(home) - 100_000
    assert 0 < report.fetched_bytes < 4_000_000


async def test_a_seed_is_never_left_through_a_link(saved, home, tmp_path):
    """Links of files and folders that lead to the very bytes which are wanted are not used."""
    seed, outside = tmp_path / "seed", tmp_path / "outside"
    shutil.copytree(home, outside, symlinks=True)
    seed.mkdir()
    (seed / "folder0").symlink_to(outside / "folder0")
    (seed / "folder1/below").mkdir(parents=True)
    for path in (outside / "folder1/below").iterdir():
        (seed / "folder1/below" / path.name).symlink_to(path)
    (seed / "Videos").mkdir()
    (seed / "machine").symlink_to("../outside/machine")
    report, into = await saved.back(seed)
    assert picture(into) == picture(home)
    assert report.seeded_bytes == 0


async def test_what_is_no_file_in_a_seed_does_not_hold_a_restore_up(saved, home, tmp_path):
    seed = tmp_path / "seed"
    (seed / "folder0/below").mkdir(parents=True)
    os.mkfifo(seed / "folder0/below/file0")
    (seed / "folder0/below/file5").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(seed / "folder0/below/file10"))
        (seed / "folder1").write_text("a file in the place of a folder")
        (seed / LARGE).mkdir(parents=True)
        report, into = await saved.back(seed)
    assert picture(into) == picture(home)
    assert report.seeded_bytes == 0


async def test_a_seed_that_changes_meanwhile_gives_no_wrong_byte(saved, home, tmp_path):
    """Somebody flips, cuts and replaces its files for as long as the restore runs."""
    wanted, seed, ended = picture(home), tmp_path / "seed", threading.Event()
    shutil.copytree(home, seed, symlinks=True)
    files = [path for path in seed.rglob("*") if path.is_file()]

    def meddle() -> None:
        some = random.Random(11)
        while not ended.is_set():
            path = some.choice(files)
            with path.open("r+b") as file:
                file.seek(some.randrange(1_000))
                file.write(some.randbytes(50))
                if some.random() < 0.2:
                    file.truncate(some.randrange(1_000))
            other = path.with_name("other")
            other.write_bytes(b"replaced")
            if some.random() < 0.2:
                other.rename(path)

    meddling = threading.Thread(target=meddle)
    meddling.start()
    try:
        for _ in range(4):
            _, into = await saved.back(seed)
            assert picture(into) == wanted
    finally:
        ended.set()
        meddling.join()


async def test_a_part_is_looked_for_where_it_lies_in_the_home(saved, home, tmp_path):
    report, into = await saved.back(home, path=b"folder1/below")
    assert report.fetched_bytes == 0
    assert sorted(path.name for path in (into / "below").iterdir()) == sorted(
        os.listdir(home / "folder1/below")
    )
    report, into = await saved.back(home, path=LARGE.encode())
    assert (into / "film").read_bytes() == (home / LARGE).read_bytes()
    assert (report.fetched_bytes, report.seeded_bytes) == (0, 5_000_000)


async def test_every_odd_entry_comes_back_beside_a_seed(tmp_path, home):
    make_odd_home(home)
    saved = Saved(tmp_path, home)
    await saved.save()
    _, plain = await saved.back(None)
    report, into = await saved.back(home)
    assert picture(into) == picture(plain)
    assert report.seeded_bytes > 0


async def test_few_descriptors_are_open_of_a_seed(tmp_path):
    home = tmp_path / "home"
    for number in range(300):
        (home / f"folder{number}/below").mkdir(parents=True)
        (home / f"folder{number}/below/file").write_bytes(b"%d" % number)
    saved = Saved(tmp_path, home)
    await saved.save()
    before, most = len(os.listdir("/proc/self/fd")), 0

    def count(_: storage.Progress) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    report, into = await saved.back(home, progress=count)
    assert picture(into) == picture(home)
    assert report.fetched_bytes == 0
    assert most - before < 6 * 64 + 40
    assert len(os.listdir("/proc/self/fd")) <= before + 8

"""A zip or a tar of a damaged repository: whole files only, and a list of the others as its last member."""

import functools
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

import storage
from session_service.cli import incomplete
from storage.objects.memory import MemoryBucket
from storage.ops import archive, missing_list
from storage.repository.packer import NewChunks
from tests.fakes.golden_repository import part
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

LARGE = 3_000_000
KINDS = pytest.mark.parametrize("kind", ["zip", "tar"])


@pytest.fixture(autouse=True)
def all_in_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=1_000))


class Saved:
    """`large` and `docs/kept` lie in one pack, all names and `docs/letter` in a later one."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.folder, self.home = MemoryBucket(), folder, folder / "home"
        self.seq = 0
        self.pack = ""

    async def make(self, **more: bytes) -> None:
        self.home.mkdir()
        write(self.home, large=part(1, LARGE), docs__lost=part(2, 2_000), **more)
        opened = self.open()
        await take(opened)
        await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        [self.pack] = objects(self.bucket, "p/")
        write(self.home, docs__letter=part(3, 2_000), other__file=part(4, 2_000))
        done = await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        self.seq = done.info.seq

    def open(self) -> storage.Storage:
        return Node(self.bucket, self.folder / "node").open()

    def flip(self, at: int) -> None:
        raw = self.bucket.objects[PREFIX + self.pack]
        self.bucket.objects[PREFIX + self.pack] = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]

    async def archive(self, kind: str, **more) -> bytes:
        return b"".join([piece async for piece in self.open().archive(REF, seq=self.seq, kind=kind, **more)])


@pytest.fixture
async def saved(tmp_path: Path) -> Saved:
    made = Saved(tmp_path)
    await made.make()
    return made


def files_in(raw: bytes, kind: str) -> dict[str, bytes]:
    """Return every file of an archive, read by somebody else's code."""
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(raw)) as found:
            assert found.testzip() is None
            return {name: found.read(name) for name in found.namelist() if not name.endswith("/")}
    with tarfile.open(fileobj=io.BytesIO(raw)) as found:
        return {one.name: found.extractfile(one).read() for one in found.getmembers() if one.isfile()}


def told(raw: bytes) -> incomplete.Tail:
    tail = incomplete.Tail()
    for at in range(0, len(raw), 100_000):
        tail.take(raw[at : at + 100_000])
    return tail


@KINDS
async def test_what_is_damaged_is_listed_last_and_all_else_is_whole(saved, kind):
    del saved.bucket.objects[PREFIX + saved.pack]
    raw = await saved.archive(kind)
    found = files_in(raw, kind)
    text = found.pop("INCOMPLETE.txt").decode()
    assert found == {name: (saved.home / name).read_bytes() for name in ("docs/letter", "other/file")}
    listed = {line.split("\t")[0]: line.split("\t")[1:] for line in text.splitlines() if "\t" in line}
    assert listed == {name: [saved.pack, "missing"] for name in ("large", "docs/lost")}
    if kind == "zip":
        assert told(raw).zip_is_incomplete()
    else:
        name, missing = told(raw).missing_of_tar()
        assert name == "INCOMPLETE.txt"
        assert {one.path: [one.object, one.reason] for one in missing} == listed


@KINDS
async def test_a_whole_archive_says_nothing(saved, kind):
    raw = await saved.archive(kind)
    assert set(files_in(raw, kind)) == {"docs/letter", "docs/lost", "large", "other/file"}
    assert told(raw).missing_of_tar() is None
    assert not told(raw).zip_is_incomplete()


@KINDS
async def test_damage_in_the_middle_of_a_large_file_ends_the_archive_or_is_found_before(
    saved, kind, monkeypatch
):
    """Never the rest as zeros. Who asks again for a checked one gets everything else."""
    monkeypatch.setattr(archive, "READ_FIRST_BYTES", 600_000)
    saved.flip(LARGE // 2)
    with pytest.raises(storage.FormatError):
        await saved.archive(kind)
    found = files_in(await saved.archive(kind, checked=True), kind)
    assert set(found) == {"docs/letter", "docs/lost", "other/file", "INCOMPLETE.txt"}


async def test_a_folder_whose_names_are_lost_is_listed_with_a_slash(saved):
    """The tree of the older checkpoint lies whole in the pack that is gone."""
    del saved.bucket.objects[PREFIX + saved.pack]
    saved.seq -= 1
    raw = await saved.archive("tar")
    assert set(files_in(raw, "tar")) == {"INCOMPLETE.txt"}
    [missing] = told(raw).missing_of_tar()[1]
    assert missing.path == "/"


async def test_the_list_takes_the_place_of_no_file_of_its_user(tmp_path):
    made = Saved(tmp_path)
    await made.make(**{"INCOMPLETE.txt": b"what I have to finish"})
    made.flip(LARGE // 2)
    raw = await made.archive("tar")
    found = files_in(raw, "tar")
    assert found["INCOMPLETE.txt"] == b"what I have to finish"
    assert b"large\t" in found["INCOMPLETE 2.txt"]
    assert told(raw).missing_of_tar()[0] == "INCOMPLETE 2.txt"


async def test_no_content_passes_for_the_list(tmp_path):
    """A user's last file is a copy of the end of an incomplete tar: it is not at the end of this one."""
    one = Saved(tmp_path / "one")
    one.folder.mkdir()
    await one.make()
    del one.bucket.objects[PREFIX + one.pack]
    forged = await one.archive("tar")
    two = Saved(tmp_path / "two")
    two.folder.mkdir()
    await two.make(zzz=forged)
    assert told(await two.archive("tar")).missing_of_tar() is None


def test_both_ends_know_the_same_mark_and_a_list_fits_into_what_is_kept():
    assert incomplete.MARK == missing_list.MARK
    assert missing_list.BYTES_MAX + 10_000 <= incomplete.TAIL_BYTES


def test_a_list_is_bounded_and_says_how_many_more():
    listed = missing_list.MissingList()
    for number in range(10_000):
        listed.add(b"%0200d" % number, storage.Damage(object="p/x", reason="missing"))
    text = listed.text()
    assert len(text) < missing_list.BYTES_MAX + 1_000
    assert text.decode().splitlines()[-1].endswith(" more")

"""A chunk that lies in two objects is given while one of them is whole, whichever the index names first."""

import contextlib
import functools
import io
import os
import tarfile
import traceback
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import storage
from storage.errors import ObjectDamaged, ObjectMissing
from storage.format.keys import BoxKind
from storage.format.limits import HEADER_BYTES, TRAILER_BYTES
from storage.format.table import Segment
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.objects.store import ObjectInfo
from storage.repository import collect, fold
from storage.repository.footers import unnamed_footer
from storage.repository.index import ChunkIndex, Container
from storage.repository.packer import NewChunks
from storage.repository.prefixed import Prefixed
from tests.fakes.faulty_store import FOR_EVER, Crashed, Fault
from tests.fakes.golden_repository import part
from tests.fakes.home import picture
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

EVERYTHING = storage.Retention(keep_last=1_000)
Harm = Callable[[bytes], bytes | None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)


def flipped(raw: bytes) -> bytes:
    """Change a byte in every few hundred, so that no segment opens; the footer does."""
    found = bytearray(raw)
    footer = int.from_bytes(raw[-16:-12], "little")
    for at in range(HEADER_BYTES + 20, len(raw) - TRAILER_BYTES - footer, 200):
        found[at] ^= 1
    return bytes(found)


HARMS: dict[str, Harm] = {
    "missing": lambda raw: None,
    "cut": lambda raw: raw[: len(raw) // 5],
    "flipped": flipped,
    "of another key": lambda raw: raw[:8] + b"nobody's" + raw[16:],
}
harms = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())


class Twice:
    """A home whose chunks lie in two packs, because two writers stored them at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bucket = MemoryBucket()
        self.home = folder / "home"
        self.first: list[str] = []
        self.then_ns = 0
        self.seqs: list[int] = []

    async def make(self) -> None:
        self.home.mkdir()
        write(self.home, **{f"small{n}": part(n, 3_000) for n in range(30)}, large=part(99, 900_000))
        write(self.home, deep__er__file="deep", deep__b=part(50, 40_000))
        writer = self.open("writer")
        await take(writer)
        await self.save(writer)
        self.first = objects(self.bucket, "p/")
        self.then_ns = (self.home / "small0").stat().st_mtime_ns
        write(self.home, small0="other now")
        await self.save_anew("other")
        assert len(objects(self.bucket, "p/")) > len(self.first)

    def open(self, name: str) -> storage.Storage:
        return Node(self.bucket, self.folder / name).open()

    async def save(self, opened: storage.Storage) -> None:
        done = await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        self.seqs.append(done.info.seq)

    async def save_anew(self, name: str) -> None:
        """Save as a writer does who does not know yet what another one stores at this moment."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ChunkIndex, "knows", lambda index, kind, chunk_id: False)
            await self.save(self.open(name))

    def harm(self, harm: Harm) -> None:
        for name in self.first:
            raw = harm(self.bucket.objects.pop(PREFIX + name))
            if raw is not None:
                self.bucket.objects[PREFIX + name] = raw


@pytest.fixture
async def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Twice:
    packs = functools.partial(NewChunks, inline_bytes_max=1_000)
    monkeypatch.setattr("storage.ops.save.NewChunks", packs)
    made = Twice(tmp_path)
    await made.make()
    return made


async def gathered(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@harms
async def test_a_restore_gives_what_lies_whole_in_another_object(twice, harm):
    """To who knew the packs before they were damaged, and to who has to read the log anew."""
    warm = twice.open("reader")
    await warm.list(REF)
    twice.harm(harm)
    for name, opened in (("warm", warm), ("cold", twice.open("cold"))):
        report = await opened.restore(REF, seq=twice.seqs[1], into=twice.folder / name)
        assert report.complete, report.left_out
        assert picture(twice.folder / name) == picture(twice.home)


@harms
async def test_a_home_of_a_session_is_made_of_whole_copies(twice, harm):
    warm = twice.open("reader")
    await warm.list(REF)
    twice.harm(harm)
    into = twice.folder / "new home"
    await warm.restore(REF, seq=twice.seqs[1], into=into, becomes_home=True, resumable=True)
    assert picture(into) == picture(twice.home)


@harms
async def test_files_folders_differences_and_archives_are_given_from_whole_copies(twice, harm):
    warm = twice.open("reader")
    await warm.list(REF)
    twice.harm(harm)
    seq = twice.seqs[1]
    on_disk = {
        str(path.relative_to(twice.home)): path.read_bytes()
        for path in twice.home.rglob("*")
        if path.is_file()
    }
    for opened in (warm, twice.open("cold")):
        names = {one.name for one in (await opened.folder(REF, seq=seq)).entries}
        assert names == {path.name.encode() for path in twice.home.iterdir()}
        assert await gathered(opened.read(REF, seq=seq, path=b"large")) == part(99, 900_000)
        body = await gathered(opened.archive(REF, seq=seq, kind="zip"))
        with zipfile.ZipFile(io.BytesIO(body)) as found:
            assert {name: found.read(name) for name in found.namelist() if name[-1] != "/"} == on_disk
        body = await gathered(opened.archive(REF, seq=seq, kind="tar", checked=True))
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            members = [one for one in tar.getmembers() if one.isfile()]
            assert {one.name: tar.extractfile(one).read() for one in members} == on_disk


async def test_an_older_tree_is_compared_by_its_other_copy(twice):
    """The nodes of the first checkpoint lie in the first pack, and were stored anew by a third save."""
    write(twice.home, small0=part(0, 3_000))
    os.utime(twice.home / "small0", ns=(twice.then_ns, twice.then_ns))  # all as it was at first
    await twice.save_anew("third")
    warm = twice.open("reader")
    true = await warm.diff(REF, before=twice.seqs[0], after=twice.seqs[1])
    twice.harm(flipped)
    found = await twice.open("cold").diff(REF, before=twice.seqs[0], after=twice.seqs[1])
    assert b"small0" in {one.path for one in found.changes}
    assert found == true


async def test_what_lies_whole_nowhere_is_left_out_under_the_name_of_its_first_place(twice):
    warm = twice.open("reader")
    await warm.list(REF)
    twice.harm(flipped)
    [second] = set(objects(twice.bucket, "p/")) - set(twice.first)
    raw = bytearray(twice.bucket.objects[PREFIX + second])
    raw[len(raw) // 2] ^= 1  # one segment of the other copy
    twice.bucket.objects[PREFIX + second] = bytes(raw)
    report = await warm.restore(REF, seq=twice.seqs[1], into=twice.folder / "back")
    assert {one.object for one in report.left_out} == set(twice.first)
    assert 0 < report.left_out_count < 33
    there, was = picture(twice.folder / "back"), picture(twice.home)
    assert was.keys() - there.keys() == {one.path for one in report.left_out}


async def test_a_failure_that_every_chunk_of_an_object_is_told_keeps_nobody_who_was_told_it(twice):
    """A pack has thousands of chunks: kept are neither the frames of those who asked for them, nor the error
    of the client library that told of the first one, with the answer of the store in its hands.
    """
    reader = twice.open("reader")
    await reader.list(REF)
    workspace = await reader._known.required(REF)
    state = await workspace.log.refresh()
    places = reader._places(workspace, state, state.row(twice.seqs[1]))
    unreadable = {}
    for container in state.index.containers.values():
        for segment in container.segments:
            try:
                raise ObjectMissing(object=container.name, what="missing") from OSError("an answer")
            except ObjectMissing as exc:
                unreadable[container.name, segment.index] = exc
    assert not await places.look_elsewhere(BoxKind.DATA, (), unreadable)
    container = state.index.containers[twice.first[0]]
    ids = [one for segment in container.segments for one, _ in segment.chunks if segment.kind is BoxKind.DATA]
    assert len(ids) > 5
    depths = set()
    for chunk_id in ids:
        with pytest.raises(ObjectMissing) as told:
            places.place(BoxKind.DATA, chunk_id)
        assert told.value.facts["what"] == "missing"
        assert told.value.__cause__ is None
        depths.add(len(list(traceback.walk_tb(told.value.__traceback__))))
    assert len(depths) == 1


async def test_the_copies_are_gone_through_once_and_not_for_each_damaged_segment(twice, monkeypatch):
    """Ten thousand damaged segments and as many copies of them must not cost a hundred million looks."""
    reader = twice.open("reader")
    await reader.list(REF)
    workspace = await reader._known.required(REF)
    state = await workspace.log.refresh()
    places = reader._places(workspace, state, state.row(twice.seqs[1]))
    container = state.index.containers[twice.first[0]]
    data = [segment.index for segment in container.segments if segment.kind is BoxKind.DATA]
    assert len(data) > 1
    whole, looks = Segment.chunks.fget, list[int]()
    monkeypatch.setattr(Segment, "chunks", property(lambda self: looks.append(self.index) or whole(self)))
    costs = []
    for number in data:
        before = len(looks)
        why = ObjectDamaged(object=container.name, what="flipped")
        await places.look_elsewhere(BoxKind.DATA, (), {(container.name, number): why})
        costs.append(len(looks) - before)
    assert set(costs[1:]) == {1}, "its own chunks are asked for, and nothing else is gone through"
    ids = {one for number in data for one, _ in whole(container.segments[number])}
    found = 0
    for chunk_id in ids:
        with contextlib.suppress(ObjectDamaged):  # of one file there is no other copy
            assert places.place(BoxKind.DATA, chunk_id).container is not container
            found += 1
    assert found == len(ids) - 1


async def test_each_damaged_segment_alone_costs_nothing(twice):
    """Of a load of segments one is taken from elsewhere; the files in it are written by both."""
    warm = twice.open("reader")
    state = await (await warm._known.required(REF)).log.refresh()
    whole = dict(twice.bucket.objects)
    damaged = 0
    for name in twice.first:
        container = state.index.containers[name]
        for segment in container.segments:
            flip(twice.bucket, container, segment.index)
            into = twice.folder / f"back {name[-4:]} {segment.index}"
            report = await warm.restore(REF, seq=twice.seqs[1], into=into)
            assert report.complete
            assert picture(into) == picture(twice.home)
            twice.bucket.objects.update(whole)
            damaged += segment.kind is BoxKind.DATA
    assert damaged > 1


def flip(bucket: MemoryBucket, container: Container, number: int) -> None:
    segment = container.segments[number]
    raw = bytearray(bucket.objects[PREFIX + container.name])
    raw[container.area_start + segment.offset + segment.sealed_bytes // 2] ^= 1
    bucket.objects[PREFIX + container.name] = bytes(raw)


async def folded(tmp_path: Path, bucket: MemoryBucket) -> tuple[Path, int]:
    """Save often into entries, then fold once: the entries lie there until the next run sweeps them."""
    home = tmp_path / "home"
    home.mkdir()
    opened = Node(bucket, tmp_path / "writer").open()
    await take(opened)
    for number in range(6):
        write(home, a=f"text {number}", **{f"folder{number % 2}__new{number}": part(number, 30_000)})
        done = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="t")
    assert (await opened.collect(REF, policy=EVERYTHING, actor="t")).refused == ""
    assert objects(bucket, "p/")
    assert objects(bucket, "c/")[0] == "c/0000000000000001"
    return home, done.info.seq


@harms
async def test_what_a_fold_has_moved_into_a_damaged_pack_is_read_where_it_lay_before(tmp_path, harm):
    bucket = MemoryBucket()
    home, seq = await folded(tmp_path, bucket)
    warm = Node(bucket, tmp_path / "warm").open()
    await warm.list(REF)
    for name in objects(bucket, "p/"):
        raw = harm(bucket.objects.pop(PREFIX + name))
        if raw is not None:
            bucket.objects[PREFIX + name] = raw
    for name, opened in (("warm", warm), ("cold", Node(bucket, tmp_path / "cold").open())):
        into = tmp_path / f"back {name}"
        report = await opened.restore(REF, seq=seq, into=into, must_be_whole=True)
        assert report.complete
        assert picture(into) == picture(home)
        assert await gathered(opened.read(REF, seq=seq, path=b"folder1/new5")) == part(5, 30_000)


async def test_what_a_killed_save_has_left_serves_as_well(twice):
    """Its pack is named by nobody; the entry that would have named it was never written."""
    node = Node(twice.bucket, twice.folder / "killed")
    before = set(twice.bucket.objects)
    number = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkIndex, "knows", lambda index, kind, chunk_id: False)
        while not set(twice.bucket.objects) - before:
            number += 1
            node.store.heal()
            node.store.crash_at(number, landed=True)
            with pytest.raises(Crashed):
                await node.open().checkpoint(REF, home=twice.home, fence=1, session="s", reason="t")
    [orphan] = set(twice.bucket.objects) - before
    assert orphan.startswith(PREFIX + "p/")
    warm = twice.open("reader")
    await warm.list(REF)
    for name in before & {PREFIX + one for one in objects(twice.bucket, "p/")}:
        twice.bucket.objects[name] = flipped(twice.bucket.objects[name])
    into = twice.folder / "back"
    await warm.restore(REF, seq=twice.seqs[1], into=into, must_be_whole=True)
    assert picture(into) == picture(twice.home)


async def test_an_object_that_the_store_fails_to_give_stops_nobody_who_can_do_without(tmp_path):
    """Entries that a fold took in lie there still; a disk of the store is bad, and one of them is on it. What
    else is wrong is mended from the others.
    """
    bucket = MemoryBucket()
    home, seq = await folded(tmp_path, bucket)
    node = Node(bucket, tmp_path / "reader")
    opened = node.open()
    await opened.list(REF)
    for name in objects(bucket, "p/"):
        bucket.objects[PREFIX + name] = flipped(bucket.objects[PREFIX + name])
    node.store.plan(Fault.UNAVAILABLE, on="get", name=r".*c/0000000000000001", times=FOR_EVER)  # the E
    report = await opened.restore(REF, seq=seq, into=tmp_path / "back", must_be_whole=True)
    assert report.complete
    assert picture(tmp_path / "back") == picture(home)

    other = Node(bucket, tmp_path / "other")
    away = other.open()
    await away.list(REF)
    other.store.plan(Fault.UNAVAILABLE, on="get", name=r".*/c/000000000000000[1-7]", times=FOR_EVER)
    with pytest.raises(storage.StoreUnavailable):
        await away.restore(REF, seq=seq, into=tmp_path / "late")


async def test_a_listing_that_lies_about_a_length_makes_no_copy_and_no_trouble(twice):
    reader = twice.open("reader")
    keys = (await reader._known.required(REF)).keys
    place, name = Prefixed(MemoryStore(twice.bucket), PREFIX), twice.first[0]
    true = len(twice.bucket.objects[PREFIX + name])
    assert await unnamed_footer(place, ObjectInfo(name=name, size=true), keys.of_header) is not None
    for size in (*range(HEADER_BYTES + 2 * TRAILER_BYTES), true - 1, true + 1, 2 * true, 1 << 62):
        assert await unnamed_footer(place, ObjectInfo(name=name, size=size), keys.of_header) is None, size

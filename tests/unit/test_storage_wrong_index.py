"""An index that names another chunk's place, by a fault of memory or of ours, is told: no file gets bytes
that it does not name, though every seal and every hash of what was read is right.
"""

import functools
import io
import zipfile
from pathlib import Path

import pytest

import storage
from storage.format.keys import BoxKind
from storage.objects.memory import MemoryBucket
from storage.repository.index import ChunkIndex, Place
from storage.repository.packer import NewChunks
from tests.fakes.golden_repository import part
from tests.fakes.home import picture
from tests.fakes.storage_rig import REF, Node, take, write

SIZE = 5_000
LARGE = 600_000


class Swapped:
    """A home of files of one size, and a way to let the index take chunks for each other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        self.folder = folder
        self.bucket = MemoryBucket()
        self.opened = Node(self.bucket, folder / "node").open()
        self.seq = 0
        self.monkeypatch = monkeypatch

    async def make(self) -> None:
        write(self.home, **{f"file{n}": part(n, SIZE) for n in range(10)}, other__file=part(50, SIZE))
        write(self.home, large=part(60, LARGE), large2=part(61, LARGE))
        await take(self.opened)
        done = await self.opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        self.seq = done.info.seq

    async def swap(self, kind: BoxKind = BoxKind.DATA) -> int:
        """Let every chunk's place be that of another one of its length; return how many there are."""
        state = await (await self.opened._known.required(REF)).log.refresh()
        alike: dict[tuple[object, ...], list[bytes]] = {}
        for container in state.index.containers.values():
            for segment in container.segments:
                for chunk_id, length in segment.chunks if segment.kind is kind else ():
                    if kind is BoxKind.META:  # nodes of several saves may be equally long by chance
                        alike.setdefault((container.name, segment.index, length), []).append(chunk_id)
                    elif length == SIZE:  # so may cuts of large files
                        alike.setdefault((length,), []).append(chunk_id)
        other = {
            mine: ids[(at + 1) % len(ids)]
            for ids in alike.values()
            for at, mine in enumerate(ids)
            if len(ids) > 1
        }
        real = ChunkIndex.place

        def place(index: ChunkIndex, wanted: BoxKind, chunk_id: bytes) -> Place:
            return real(index, wanted, other.get(chunk_id, chunk_id) if wanted is kind else chunk_id)

        self.monkeypatch.setattr(ChunkIndex, "place", place)
        return len(other)

    def require_truth(self, into: Path) -> None:
        was = picture(self.home)
        for path in into.rglob("*"):
            if path.is_file():
                name = bytes(path.relative_to(into))
                assert picture(into)[name] == was[name]


@pytest.fixture(params=["inline", "packs"])
async def swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Swapped:
    if request.param == "packs":
        packs = functools.partial(NewChunks, inline_bytes_max=1_000)
        monkeypatch.setattr("storage.ops.save.NewChunks", packs)
    made = Swapped(tmp_path, monkeypatch)
    await made.make()
    return made


async def test_a_restore_leaves_out_what_the_index_takes_for_something_else(swapped):
    assert await swapped.swap() == 11
    into = swapped.folder / "back"
    report = await swapped.opened.restore(REF, seq=swapped.seq, into=into)
    swapped.require_truth(into)
    assert {one.path for one in report.left_out} == {b"other/file", *(b"file%d" % n for n in range(10))}
    assert all("place of a chunk" in one.reason and one.object for one in report.left_out)
    assert picture(into)[b"large"] == picture(swapped.home)[b"large"]


async def test_a_home_of_a_session_is_not_made_by_a_wrong_index(swapped):
    await swapped.swap()
    with pytest.raises(storage.StorageError, match="place of a chunk"):
        await swapped.opened.restore(REF, seq=swapped.seq, into=swapped.folder / "new", becomes_home=True)


async def test_what_a_seed_has_is_compared_with_the_checkpoint_and_not_with_the_index(swapped):
    await swapped.swap()
    seed = swapped.folder / "seed"
    write(seed, file0=part(0, SIZE), file1=part(2, SIZE))  # one as it was, and one that is another's
    into = swapped.folder / "back"
    report = await swapped.opened.restore(REF, seq=swapped.seq, into=into, seed=seed)
    swapped.require_truth(into)
    assert (into / "file0").exists()
    assert b"file1" in {one.path for one in report.left_out}


async def test_a_file_and_an_archive_give_nothing_that_is_anothers(swapped):
    """Where both chunks lie in one segment, what is asked for is found there all the same."""
    await swapped.swap()
    given = 0
    for path in (path for path in swapped.home.rglob("*") if path.is_file()):
        name = bytes(path.relative_to(swapped.home))
        try:
            found = [piece async for piece in swapped.opened.read(REF, seq=swapped.seq, path=name)]
        except storage.StorageError as exc:
            assert "place of a chunk" in str(exc)
        else:
            assert b"".join(found) == path.read_bytes()
            given += 1
    assert given >= 2
    pieces = [piece async for piece in swapped.opened.archive(REF, seq=swapped.seq)]
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        names = {one for one in archive.namelist() if one[-1] != "/"} - {"INCOMPLETE.txt"}
        assert len(names) == given
        assert all(archive.read(name) == (swapped.home / name).read_bytes() for name in names)


async def test_a_chunk_that_is_not_in_the_segment_of_its_place_is_not_given(swapped, monkeypatch):
    """The index takes every chunk for one of the largest file's, in a segment of another one."""
    state = await (await swapped.opened._known.required(REF)).log.refresh()
    segments = [
        (container, segment)
        for container in state.index.containers.values()
        for segment in container.segments
        if segment.kind is BoxKind.DATA
    ]
    container, last = segments[-1]
    there = {chunk_id for chunk_id, _ in last.chunks}

    def place(index: ChunkIndex, kind: BoxKind, chunk_id: bytes) -> Place:
        found = real(index, kind, chunk_id)
        wrong = kind is BoxKind.DATA and chunk_id not in there
        return Place(container, last.index, 0, found.length) if wrong else found

    real = ChunkIndex.place
    monkeypatch.setattr(ChunkIndex, "place", place)
    with pytest.raises(storage.StorageError, match="place of a chunk"):
        [piece async for piece in swapped.opened.read(REF, seq=swapped.seq, path=b"file3")]
    report = await swapped.opened.restore(REF, seq=swapped.seq, into=swapped.folder / "back")
    swapped.require_truth(swapped.folder / "back")
    assert b"file3" in {one.path for one in report.left_out}


async def test_verify_and_a_proof_tell_of_a_wrong_index(swapped, monkeypatch):
    """Whose places are in other segments than their chunks."""
    real = ChunkIndex.place

    def place(index: ChunkIndex, kind: BoxKind, chunk_id: bytes) -> Place:
        found = real(index, kind, chunk_id)
        if kind is BoxKind.META:
            return found
        others = [one.index for one in found.container.segments if chunk_id not in one.refs]
        return found._replace(segment=others[0])

    monkeypatch.setattr(ChunkIndex, "place", place)
    faults = (await swapped.opened.verify(REF)).faults
    assert any("place of a chunk" in fault for fault in faults)
    [info] = await swapped.opened.list(REF)
    with pytest.raises(storage.StorageError, match="place of a chunk"):
        await swapped.opened.prove(REF, seq=info.seq, hash=info.hash)


async def test_names_are_not_taken_from_another_folder(swapped):
    """Two nodes of trees of one length: the folder of one is never listed as the other's."""
    for name in ("one", "two"):
        write(swapped.home, **{f"{name}__{name}": "text"})
    done = await swapped.opened.checkpoint(REF, home=swapped.home, fence=1, session="s", reason="t")
    assert await swapped.swap(BoxKind.META) >= 2
    for name in (b"one", b"two"):
        page = await swapped.opened.folder(REF, seq=done.info.seq, path=name)
        assert [one.name for one in page.entries] == [name], "both lie in one segment"
    into = swapped.folder / "back"
    await swapped.opened.restore(REF, seq=done.info.seq, into=into)
    assert picture(into) == picture(swapped.home)

"""A restore from a damaged repository: what can be given is given; what cannot is named, and never halved."""

import functools
import os
from pathlib import Path

import pytest

import storage
from storage.errors import ObjectDamaged
from storage.format.keys import BoxKind
from storage.objects.memory import MemoryBucket
from storage.ops import draft
from storage.repository.index import ChunkIndex, Container
from storage.repository.log import CommitLog
from storage.repository.packer import NewChunks
from storage.repository.reader import Reader
from storage.repository.verify import walk_tree
from tests.fakes.faulty_store import FOR_EVER, Fault
from tests.fakes.golden_repository import part
from tests.fakes.home import picture
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write

LARGE = 3_000_000
SMALL = 40


@pytest.fixture(autouse=True)
def all_in_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=1_000))


class Saved:
    """A home, its checkpoint, and which objects have what of it."""

    def __init__(self, bucket: MemoryBucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.home = folder / "home"
        self.seq = 0
        self.index = ChunkIndex()

    async def make(self) -> None:
        self.home.mkdir()
        write(self.home, **{f"small{n}": part(n, 2_000) for n in range(SMALL)})
        write(self.home, deep__er__file="deep", large=part(100, LARGE), empty="")
        write(self.home, **{f"z{n}": part(200 + n, 400_000) for n in range(4)})
        os.link(self.home / "large", self.home / "deep" / "other name")
        (self.home / "deep" / "link").symlink_to("file")
        opened = self.open("writer")
        fence = await take(opened)
        for _ in range(2):  # then the names lie in another pack than the contents
            done = await opened.checkpoint(REF, home=self.home, fence=fence, session="s", reason="t")
            for path in [self.home, *self.home.rglob("*")]:
                os.utime(path, (1_000, 1_000), follow_symlinks=False)
        self.seq = done.info.seq
        workspace = await opened._known.required(REF)
        self.index = (await workspace.log.refresh()).index

    def open(self, name: str) -> storage.Storage:
        return Node(self.bucket, self.folder / name).open()

    def segments(self, kind: BoxKind) -> list[tuple[Container, int]]:
        """Return (container, number) of every segment of a kind."""
        return [
            (container, segment.index)
            for container in self.index.containers.values()
            for segment in container.segments
            if segment.kind is kind
        ]

    def chunks(self, kind: BoxKind) -> list[bytes]:
        """Return the ids of all chunks of a kind."""
        found = [
            chunk_id
            for container, number in self.segments(kind)
            for chunk_id, _ in container.segments[number].chunks
        ]
        return list(dict.fromkeys(found))

    def flip(self, container: Container, number: int) -> None:
        """Change one byte of a segment."""
        segment = container.segments[number]
        raw = bytearray(self.bucket.objects[PREFIX + container.name])
        raw[container.area_start + segment.offset + segment.sealed_bytes // 2] ^= 1
        self.bucket.objects[PREFIX + container.name] = bytes(raw)


@pytest.fixture
async def saved(tmp_path: Path) -> Saved:
    made = Saved(MemoryBucket(), tmp_path)
    await made.make()
    return made


@pytest.fixture
async def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Lists of chunks that are no part of an entry, and folders of several nodes."""
    monkeypatch.setattr("storage.repository.tree_writer.REFS_IN_ENTRY", 1)
    monkeypatch.setattr("storage.format.tree.CUT_ITEMS_MAX", 16)
    made = Saved(MemoryBucket(), tmp_path)
    await made.make()
    return made


def require_truth(saved: Saved, into: Path, report: storage.RestoreReport) -> None:
    """What is there is exactly as it was; what is not there is named; nothing else is named."""
    there, was = picture(into), picture(saved.home)
    files = {path: facts for path, facts in there.items() if not (into / os.fsdecode(path)).is_dir()}
    named = {one.path for one in report.left_out if one.kind == "file"}
    folders = [one.path for one in report.left_out if one.kind == "folder"]
    assert not report.complete
    assert report.left_out_count == len(report.left_out) > 0
    assert all(one.object and one.reason for one in report.left_out)
    for path in files:
        assert (into / os.fsdecode(path)).lstat().st_size == (saved.home / os.fsdecode(path)).lstat().st_size
        if not (into / os.fsdecode(path)).is_symlink():
            assert (into / os.fsdecode(path)).read_bytes() == (saved.home / os.fsdecode(path)).read_bytes()
    missing = {
        path
        for path in was.keys() - there.keys()
        if not any(path.startswith(folder + b"/") or not folder for folder in folders)
    }
    assert missing == named - {path for path in named if path not in was}
    assert named.isdisjoint(there)


async def test_every_damaged_segment_costs_the_files_that_need_it_and_nothing_else(saved):
    whole = dict(saved.bucket.objects)
    lost_of = {}
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
        into = saved.folder / f"back {number} of {container.name[2:6]}"
        report = await saved.open(f"node {into.name}").restore(REF, seq=saved.seq, into=into)
        require_truth(saved, into, report)
        assert {one.object for one in report.left_out} == {container.name}
        lost_of[container.name, number] = {one.path for one in report.left_out}
        saved.bucket.objects.update(whole)
    assert any({b"large", b"deep/other name"} <= lost for lost in lost_of.values())
    assert any(b"large" not in lost for lost in lost_of.values())
    assert set().union(*lost_of.values()) >= {b"small0", b"deep/er/file", b"large"}


@pytest.mark.parametrize(
    "share", [0.0, 0.3, 0.7, None], ids=lambda share: f"cut at {share}" if share else "gone"
)
async def test_of_a_pack_that_is_cut_what_lies_before_the_cut_is_given(saved, share):
    sizes = {name: len(saved.bucket.objects[PREFIX + name]) for name in objects(saved.bucket, "p/")}
    pack = max(sizes, key=lambda name: sizes[name])
    warm = saved.open("writer")  # it knows what is in the pack
    raw = saved.bucket.objects.pop(PREFIX + pack)
    if share is not None:
        saved.bucket.objects[PREFIX + pack] = raw[: int(len(raw) * share)]
    into = saved.folder / "back"
    report = await warm.restore(REF, seq=saved.seq, into=into)
    require_truth(saved, into, report)
    assert b"large" in {one.path for one in report.left_out}
    assert {one.object for one in report.left_out} == {pack}


def losable(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list: chunks whose ids are put into it lie in an object that was cut."""
    gone: list[bytes] = []
    real = Reader.chunk

    async def chunk(self, index, kind, chunk_id):
        if chunk_id in gone:
            raise ObjectDamaged(object="p/lost", what="cut short")
        return await real(self, index, kind, chunk_id)

    monkeypatch.setattr(Reader, "chunk", chunk)
    return gone


async def test_a_comparison_tells_only_what_is_true_and_names_the_folders_it_could_not_finish(
    spread, monkeypatch
):
    """What is lost on one side is not taken for removed, nor what is lost on the other for added."""
    saved = spread
    write(saved.home, small7="changed", deep__new="added", small77="added")
    (saved.home / "z1").unlink()
    opened = saved.open("writer")
    later = (await opened.checkpoint(REF, home=saved.home, fence=1, session="s", reason="t")).info.seq
    true = set((await opened.diff(REF, before=saved.seq, after=later)).changes)
    assert {one.path for one in true} >= {b"small7", b"deep/new", b"small77", b"z1"}
    workspace = await opened._known.required(REF)
    saved.index = (await workspace.log.refresh()).index
    gone = losable(monkeypatch)
    unfinished = 0
    for chunk_id in saved.chunks(BoxKind.META):
        gone[:] = [chunk_id]
        found = await opened.diff(REF, before=saved.seq, after=later)
        assert set(found.changes) <= true
        assert set(found.changes) == true or found.left_out
        assert all((one.object, one.kind) == ("p/lost", "folder") for one in found.left_out)
        unfinished += bool(found.left_out)
    assert unfinished > 3


async def test_every_lost_piece_of_a_tree_costs_what_it_holds_and_nothing_else(spread, monkeypatch):
    """Nodes of folders, of which a large folder has several, and lists of chunks, one after the other."""
    saved = spread
    gone = losable(monkeypatch)
    kinds = []
    for number, chunk_id in enumerate(saved.chunks(BoxKind.META)):
        gone[:] = [chunk_id]
        into = saved.folder / f"back {number}"
        report = await saved.open("reader").restore(REF, seq=saved.seq, into=into)
        if report.complete:
            assert picture(into) == picture(saved.home), "a piece of the older tree"
        else:
            require_truth(saved, into, report)
        kinds.append(tuple(sorted((one.path, one.kind) for one in report.left_out)))
    kinds = [kind for kind in kinds if kind]
    assert ((b"", "folder"),) in kinds, "of the top folder some names are known, or none"
    assert ((b"deep/er", "folder"),) in kinds
    assert ((b"deep/other name", "file"), (b"large", "file")) in kinds, "one list, two names"
    assert sum(kind == ((b"", "folder"),) for kind in kinds) > 2, "the top folder has several nodes"


async def test_a_part_of_a_home_is_given_in_the_same_way(saved):
    [pack] = {container.name for container, _ in saved.segments(BoxKind.DATA)}
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
    opened = saved.open("reader")
    report = await opened.restore(REF, seq=saved.seq, path=b"deep", into=saved.folder / "back")
    named = {(one.path, one.kind, one.object) for one in report.left_out}
    assert named == {(b"deep/er/file", "file", pack), (b"deep/other name", "file", pack)}
    assert (saved.folder / "back" / "deep" / "link").is_symlink()
    report = await opened.restore(REF, seq=saved.seq, path=b"large", into=saved.folder / "one")
    assert [one.path for one in report.left_out] == [b"large"]
    assert list((saved.folder / "one").iterdir()) == []


async def test_what_a_seed_has_is_given_whatever_is_damaged_and_only_that(saved):
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
    seed = saved.folder / "seed"
    seed.mkdir()
    (seed / "z0").write_bytes((saved.home / "z0").read_bytes())
    (seed / "large").write_bytes((saved.home / "large").read_bytes()[: LARGE // 2])
    into = saved.folder / "back"
    report = await saved.open("reader").restore(REF, seq=saved.seq, into=into, seed=seed)
    require_truth(saved, into, report)
    assert (into / "z0").exists()
    assert not (into / "large").exists(), "half of it is no file"
    assert not (into / "deep" / "other name").exists()


async def test_an_incomplete_restore_that_is_taken_up_is_completed_when_the_objects_are_back(saved):
    whole = dict(saved.bucket.objects)
    [(container, number), *_, last] = saved.segments(BoxKind.DATA)
    saved.flip(container, number)
    saved.flip(*last)
    opened, into = saved.open("reader"), saved.folder / "back"
    first = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    require_truth(saved, into, first)
    assert draft.note_beside(into).exists(), "it is no finished folder"
    saved.bucket.objects.update(whole)
    saved.flip(*last)
    second = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    require_truth(saved, into, second)
    assert second.resumed
    assert second.left_out_count < first.left_out_count
    saved.bucket.objects.update(whole)
    third = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    assert third.resumed
    assert third.complete
    assert picture(into) == picture(saved.home)
    assert not draft.note_beside(into).exists()


async def test_half_a_file_of_a_restore_that_was_cut_off_does_not_stay(saved, monkeypatch):
    """It was written as far as it came; when the restore is taken up its object is damaged."""
    opened, into = saved.open("reader"), saved.folder / "back"
    await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    into.chmod(0o700)
    hash_ = (await opened.list(REF))[-1].hash
    about = [1, draft.BOOT_ID.read_bytes(), saved.seq, hash_, None, False]
    draft.note_beside(into).write_bytes(draft.encode(about))
    os.truncate(into / "large", LARGE // 2)  # of both of its names
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
    report = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    require_truth(saved, into, report)
    assert {one.path for one in report.left_out} == {b"large", b"deep/other name"}, "the others are whole"


async def test_whole_files_stay_that_are_only_in_the_folder_that_is_taken_up(spread, monkeypatch):
    """All was made but the root's rights; then the lists of what is in some files are lost."""
    saved, into = spread, spread.folder / "back"
    opened = saved.open("reader")
    await opened.restore(REF, seq=saved.seq, into=into)
    into.chmod(0o700)
    hash_ = (await opened.list(REF))[-1].hash
    about = [1, draft.BOOT_ID.read_bytes(), saved.seq, hash_, None, False]
    draft.note_beside(into).write_bytes(draft.encode(about))
    workspace = await opened._known.required(REF)
    row = (await workspace.log.refresh()).row(saved.seq)
    tree = [entry async for _, entry in walk_tree(workspace.reader, saved.index, row)]
    lists = [entry.content[0] for entry in tree if entry.name[:1] == b"z"]
    assert len(lists) == 4
    losable(monkeypatch).extend(lists)
    report = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    assert report.resumed
    assert report.complete
    assert picture(into) == picture(saved.home)


async def taken_up_when_all_was_made(saved: Saved) -> Path:
    """All was made but the root's rights when a restore was cut off."""
    into = saved.folder / "back"
    opened = saved.open("reader")
    await opened.restore(REF, seq=saved.seq, into=into)
    into.chmod(0o700)
    hash_ = (await opened.list(REF))[-1].hash
    about = [1, draft.BOOT_ID.read_bytes(), saved.seq, hash_, None, False]
    draft.note_beside(into).write_bytes(draft.encode(about))
    return into


async def test_a_whole_file_stays_under_all_of_its_names_when_its_lists_are_lost(spread, monkeypatch):
    saved, into = spread, await taken_up_when_all_was_made(spread)
    opened = saved.open("reader")
    workspace = await opened._known.required(REF)
    row = (await workspace.log.refresh()).row(saved.seq)
    tree = [entry async for _, entry in walk_tree(workspace.reader, saved.index, row)]
    losable(monkeypatch).extend(entry.content[0] for entry in tree if entry.name == b"large")
    inode = (into / "large").stat().st_ino
    report = await opened.restore(REF, seq=saved.seq, into=into, resumable=True)
    assert report.resumed
    assert report.complete
    assert picture(into) == picture(saved.home)
    assert (into / "large").stat().st_ino == inode


@pytest.mark.parametrize("linked", [True, False])
async def test_a_whole_file_stays_under_all_of_its_names_when_its_objects_are_lost(saved, linked):
    """Also one of which the other name was not made yet."""
    into = await taken_up_when_all_was_made(saved)
    if not linked:
        (into / "deep" / "other name").unlink()
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
    report = await saved.open("reader").restore(REF, seq=saved.seq, into=into, resumable=True)
    assert report.resumed
    assert report.complete
    assert picture(into) == picture(saved.home)


async def test_a_home_of_a_session_is_whole_or_is_not_made(saved):
    saved.flip(*saved.segments(BoxKind.DATA)[0])
    opened = saved.open("reader")
    with pytest.raises(storage.StorageError) as told:
        await opened.restore(
            REF, seq=saved.seq, into=saved.folder / "new home", becomes_home=True, resumable=True
        )
    assert told.value.code == "not_authentic"
    with pytest.raises(AssertionError):
        await opened.restore(
            REF, seq=saved.seq, into=saved.folder / "half", becomes_home=True, must_be_whole=False
        )


async def test_usable_is_not_told_of_a_first_tier_that_lacks_something(saved):
    told: list[str] = []
    opened = saved.open("reader")
    await opened.restore(
        REF, seq=saved.seq, into=saved.folder / "1", progress=lambda one: told.append(one.stage)
    )
    assert "usable" in told
    told.clear()
    for container, number in saved.segments(BoxKind.DATA):
        saved.flip(container, number)
    await opened.restore(
        REF, seq=saved.seq, into=saved.folder / "2", progress=lambda one: told.append(one.stage)
    )
    assert "usable" not in told


async def test_a_store_that_does_not_answer_is_no_damage(saved):
    """Trying again helps: nothing is left out because of it."""
    node = Node(saved.bucket, saved.folder / "reader")
    opened = node.open()
    await opened.list(REF)
    node.store.plan(Fault.UNAVAILABLE, on="get", name=".*/p/.*", times=FOR_EVER)
    with pytest.raises(storage.StoreUnavailable):
        await opened.restore(REF, seq=saved.seq, into=saved.folder / "back")


async def test_the_log_is_read_from_its_beginning_once_for_any_number_of_lost_objects(saved, monkeypatch):
    for container, _ in saved.segments(BoxKind.DATA):
        saved.bucket.objects.pop(PREFIX + container.name, None)
    monkeypatch.setattr("storage.ops.lanes.LOAD_BYTES", 1)
    anew: list[bool] = []
    real = CommitLog.another
    monkeypatch.setattr(CommitLog, "another", lambda self: anew.append(True) or real(self))
    opened = saved.open("writer")
    report = await opened.restore(REF, seq=saved.seq, path=b"large", into=saved.folder / "back")
    assert [one.path for one in report.left_out] == [b"large"]
    assert len(anew) == 1

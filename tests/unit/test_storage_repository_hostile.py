"""Trees that open and are hostile all the same: a host was taken, and it holds the keys.

Restore stops, declared.
"""

import dataclasses
import time
from pathlib import Path

import pytest

import storage
from storage.errors import HostileTree
from storage.format.encoding import encode
from storage.format.extras import EXTENT_PAIR, LINK_GROUP_BYTES, Extras
from storage.format.keys import BoxKind
from storage.format.limits import DEPTH_FOLDERS_MAX
from storage.format.table import pack_chunk_refs
from storage.format.tree import Child, Entry, EntryType, encode_node
from storage.objects.memory import MemoryBucket
from storage.ops import gather, restore_plan
from storage.ops.entry_maker import with_extras
from storage.repository.packer import ChunkTaker
from tests.fakes.storage_rig import REF, Node, take, write


@pytest.fixture
async def forge(tmp_path: Path, monkeypatch):
    """Return a function that commits a tree of one's own making and gives (storage, its checkpoint)."""
    home = tmp_path / "home"
    home.mkdir()
    write(home, a="one")
    opened = Node(MemoryBucket(), tmp_path / "cache").open()
    fence = await take(opened)

    async def commit(plant, **totals: int) -> storage.CheckpointInfo:
        real = gather.Gather.run

        def run(self: gather.Gather, root_fd: int) -> gather.Gathered:
            honest = real(self, root_fd)
            return dataclasses.replace(honest, root=root_of(plant(self._taker)), **totals)

        monkeypatch.setattr(gather.Gather, "run", run)
        saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="r", final=True)
        monkeypatch.setattr(gather.Gather, "run", real)
        return saved.info

    yield opened, commit
    await opened.close()


def entry(name: bytes, kind: EntryType, content, size: int = 0, mode: int = 0o700) -> Entry:
    return Entry(name, int(kind), mode, None, None, 0, 0, size, content, None)


def root_of(ref: tuple[bytes, int]) -> Entry:
    return entry(b"", EntryType.FOLDER, ref)


def folder(taker: ChunkTaker, *entries: Entry) -> tuple[bytes, int]:
    return taker.offer(BoxKind.META, encode_node(0, entries)), 0


def bomb(taker: ChunkTaker) -> tuple[bytes, int]:
    """Twelve levels of ten names for one folder each: a million million entries in twelve nodes."""
    ref = folder(taker, entry(b"leaf", EntryType.FILE, None))
    for _ in range(12):
        ref = folder(taker, *(entry(b"%d" % at, EntryType.FOLDER, ref) for at in range(10)))
    return ref


async def refused(opened: storage.Storage, info: storage.CheckpointInfo, into: Path) -> storage.StorageError:
    with pytest.raises(storage.StorageError) as stopped:
        await opened.restore(REF, seq=info.seq, into=into)
    return stopped.value


async def test_a_small_graph_that_spells_a_million_million_entries_is_stopped(forge, tmp_path):
    opened, commit = forge
    info = await commit(bomb)
    began = time.process_time()
    error = await refused(opened, info, tmp_path / "back")
    assert isinstance(error, HostileTree)
    assert not any((tmp_path / "back").iterdir()), "the plan comes before the first folder"
    with pytest.raises(HostileTree):
        await opened.prove(REF, seq=info.seq, hash=info.hash)
    assert time.process_time() - began < 20, "it stopped at the first excess, not at the end"


@pytest.mark.parametrize("kind", ["zip", "tar"])
async def test_an_archive_of_it_is_stopped_too(forge, kind):
    """It is sent while it is read, so that without a count it would be sent for ever."""
    opened, commit = forge
    info = await commit(bomb)
    with pytest.raises(HostileTree):
        async for _ in opened.archive(REF, seq=info.seq, kind=kind):
            pass


async def test_a_scrub_enters_a_shared_folder_once(forge):
    opened, commit = forge
    await commit(bomb)
    report = await opened.verify(REF, "structure")
    assert report.checkpoints == 1


async def test_more_bytes_than_announced_are_stopped(forge, tmp_path):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        chunk = b"x" * 60_000
        ref = pack_chunk_refs([(taker.offer(BoxKind.DATA, chunk), len(chunk))] * 60)
        return folder(taker, entry(b"big", EntryType.FILE, ref, 60 * 60_000))

    info = await commit(plant, content_bytes=1_000)
    assert isinstance(await refused(opened, info, tmp_path / "back"), HostileTree)


@pytest.mark.parametrize("name", [b"..", b".", b"a/../../b", b"/etc", b"a\0b", b""])
async def test_a_name_that_is_a_path_is_refused(forge, tmp_path, name):
    opened, commit = forge
    info = await commit(lambda taker: folder(taker, entry(name, EntryType.FILE, None)))
    error = await refused(opened, info, tmp_path / "back")
    assert error.facts["rule"] in {"entry name", "names ascend"}


async def test_a_node_of_another_level_than_its_parent_says_is_refused(forge, tmp_path):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        leaf = folder(taker, entry(b"a", EntryType.FILE, None))
        return taker.offer(BoxKind.META, encode_node(2, [Child(b"a", leaf[0], 1)])), 2

    info = await commit(plant)
    assert (await refused(opened, info, tmp_path / "back")).code == "malformed"


async def test_a_user_file_is_never_read_as_a_folder(forge, tmp_path):
    """A file with the bytes of a node is stored as data; a folder that points to its id finds nothing."""
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        node = encode_node(0, [entry(b"planted", EntryType.FILE, None)])
        return taker.offer(BoxKind.DATA, node), 0

    info = await commit(plant)
    report = await opened.restore(REF, seq=info.seq, into=tmp_path / "back")
    assert [(one.path, one.kind) for one in report.left_out] == [(b"", "folder")]
    assert list((tmp_path / "back").iterdir()) == []


async def test_a_link_is_written_and_never_followed(forge, tmp_path):
    """A link to the outside and a folder of the same name cannot both be there; names ascend strictly."""
    opened, commit = forge
    outside = tmp_path / "outside"
    outside.mkdir()

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        inner = folder(taker, entry(b"planted", EntryType.FILE, None))
        return folder(
            taker,
            entry(b"door", EntryType.SYMLINK, bytes(outside)),
            entry(b"door", EntryType.FOLDER, inner),
        )

    info = await commit(plant, entries=3, folders=2)
    assert (await refused(opened, info, tmp_path / "back")).code == "malformed"
    assert list(outside.iterdir()) == []


async def test_an_unknown_type_is_reported_and_the_rest_is_made(forge, tmp_path):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        odd = Entry(b"odd", 99, 0o644, None, None, 0, 0, 0, None, None)
        return folder(taker, entry(b"file", EntryType.FILE, None), odd)

    info = await commit(plant, entries=2)
    report = await opened.restore(REF, seq=info.seq, into=tmp_path / "back")
    assert [(bad.path, bad.grade) for bad in report.not_made] == [(b"odd", "unknown type")]
    assert (tmp_path / "back" / "file").exists()
    [file, odd] = (await opened.folder(REF, seq=info.seq)).entries
    assert (file.kind, odd.kind) == ("file", "unknown")


async def refused_whole_and_in_part(
    opened: storage.Storage, info: storage.CheckpointInfo, tmp_path: Path, part: bytes
) -> list[str]:
    """Return by which rules, and see that nothing was made either time."""
    rules: list[str] = []
    for name, path in (("whole", b""), ("part", part)):
        with pytest.raises(storage.StorageError) as stopped:
            await opened.restore(REF, seq=info.seq, into=tmp_path / name, path=path)
        assert stopped.value.code in ("hostile_tree", "malformed")
        assert not any((tmp_path / name).iterdir())
        rules.append(str(stopped.value.facts["rule"]))
    return rules


async def test_a_part_of_a_home_is_counted_like_the_whole(forge, tmp_path):
    """The folder that is asked for is a bomb of entries, or the file one of bytes."""
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        return folder(taker, entry(b"bomb", EntryType.FOLDER, bomb(taker)))

    began = time.process_time()
    info = await commit(plant)
    rules = await refused_whole_and_in_part(opened, info, tmp_path, b"bomb")
    assert rules == ["more than the checkpoint announced"] * 2
    assert time.process_time() - began < 20


async def test_one_file_is_counted_though_it_is_all_that_is_asked_for(forge, tmp_path):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        chunk = b"x" * 60_000
        ref = pack_chunk_refs([(taker.offer(BoxKind.DATA, chunk), len(chunk))] * 60)
        return folder(taker, entry(b"big", EntryType.FILE, ref, 60 * 60_000))

    info = await commit(plant, content_bytes=1_000)
    rules = await refused_whole_and_in_part(opened, info, tmp_path, b"big")
    assert rules == ["more than the checkpoint announced"] * 2


async def test_a_small_list_that_spells_a_thousand_million_chunks_is_stopped(forge, tmp_path, monkeypatch):
    """Each level of it names the one below 64 times; all sums are right, and so is what was announced."""
    monkeypatch.setattr(restore_plan, "PARTS_SPARE", 10_000)
    monkeypatch.setattr(restore_plan, "PART_BYTES_MIN", 1_000_000)
    opened, commit = forge
    levels = 5

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        packed = pack_chunk_refs([(taker.offer(BoxKind.DATA, b"x"), 1)] * 64)
        ref, size = taker.offer(BoxKind.META, encode([1, 0, packed])), 64
        for level in range(1, levels):
            ref, size = taker.offer(BoxKind.META, encode([1, level, [[ref, size]] * 64])), size * 64
        return folder(taker, entry(b"dust", EntryType.FILE, (ref, levels - 1), size))

    began = time.process_time()
    info = await commit(plant, content_bytes=64**levels, entries=2)
    rules = await refused_whole_and_in_part(opened, info, tmp_path, b"dust")
    assert rules == ["chunks and extents are too small"] * 2
    assert time.process_time() - began < 20, "it stopped at the limit and not at the end"


async def test_a_list_that_goes_on_behind_its_file_is_left_at_once(forge, tmp_path):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        chunk = b"y" * 5_000
        packed = pack_chunk_refs([(taker.offer(BoxKind.DATA, chunk), len(chunk))] * 64)
        ref, size = taker.offer(BoxKind.META, encode([1, 0, packed])), 64 * 5_000
        for level in range(1, 6):
            ref, size = taker.offer(BoxKind.META, encode([1, level, [[ref, size]] * 64])), size * 64
        return folder(taker, entry(b"long", EntryType.FILE, (ref, 5), 7_000))

    info = await commit(plant, content_bytes=10_000_000)
    assert await refused_whole_and_in_part(opened, info, tmp_path, b"long") == ["bytes of the file"] * 2


async def test_names_of_one_file_with_contents_of_their_own_are_counted_one_by_one(forge, tmp_path):
    """The announced total counts the group once; what differs within it would be written beside it."""
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        inner: list[Entry] = []
        for number in range(30):
            chunk = b"%02d" % number * 10_000
            ref = pack_chunk_refs([(taker.offer(BoxKind.DATA, chunk), len(chunk))])
            made = entry(b"name%02d" % number, EntryType.FILE, ref, len(chunk))
            inner.append(with_extras(made, Extras(link_group=b"g" * LINK_GROUP_BYTES)))
        return folder(taker, entry(b"group", EntryType.FOLDER, folder(taker, *inner)))

    info = await commit(plant, content_bytes=25_000, entries=32, folders=2)
    rules = await refused_whole_and_in_part(opened, info, tmp_path, b"group")
    assert rules == ["more bytes than announced"] * 2


@pytest.mark.parametrize("extents", [((0, 5), (3, 5)), ((5, 5), (0, 5)), ((0, 0),), ((95, 10),)])
async def test_extents_that_overlap_or_leave_their_file_are_refused(forge, tmp_path, extents):
    opened, commit = forge

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        size = sum(length for _, length in extents)
        packed = b"".join(EXTENT_PAIR.pack(*pair) for pair in extents)
        refs = [(taker.offer(BoxKind.DATA, b"z" * size), size)] if size else []
        content = pack_chunk_refs(refs) or None
        extra = pack_chunk_refs([(taker.offer(BoxKind.META, packed), len(packed))])
        made = entry(b"holes", EntryType.FILE, content, 100)
        return folder(taker, with_extras(made, Extras(extents_content=extra)))

    info = await commit(plant, content_bytes=10_000)
    await refused_whole_and_in_part(opened, info, tmp_path, b"holes")


async def test_a_home_that_is_too_deep_is_refused_before_anything_is_made(forge, tmp_path):
    opened, commit = forge
    depth = DEPTH_FOLDERS_MAX + 2

    def plant(taker: ChunkTaker) -> tuple[bytes, int]:
        ref = folder(taker, entry(b"leaf", EntryType.FILE, None))
        for _ in range(depth):
            ref = folder(taker, entry(b"d", EntryType.FOLDER, ref))
        return ref

    info = await commit(plant, entries=depth + 1, folders=depth + 1)
    await refused_whole_and_in_part(opened, info, tmp_path, b"d")

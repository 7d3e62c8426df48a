"""Trees that open and are hostile all the same: a host was taken, and it holds the keys.

Restore stops, declared.
"""

import dataclasses
import time
from pathlib import Path

import pytest

import storage
from storage.errors import HostileTree
from storage.format.keys import BoxKind
from storage.format.table import pack_chunk_refs
from storage.format.tree import Child, Entry, EntryType, encode_node
from storage.objects.memory import MemoryBucket
from storage.ops import gather
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
    assert not (tmp_path / "back").exists(), "the plan comes before the first folder"
    with pytest.raises(HostileTree):
        await opened.prove(REF, seq=info.seq, hash=info.hash)
    assert time.process_time() - began < 20, "it stopped at the first excess, not at the end"


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
    assert (await refused(opened, info, tmp_path / "back")).code == "object_damaged"


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
    [file, odd] = await opened.folder(REF, seq=info.seq)
    assert (file.kind, odd.kind) == ("file", "unknown")

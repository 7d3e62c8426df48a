"""A stat cache that another version of the service has left: a save reads the home, and goes on then."""

from pathlib import Path

import pytest

from storage.objects.memory import MemoryBucket
from storage.ops.stat_cache import Remembered, StatCache
from tests.fakes.storage_rig import REF, Node, take, write

UNKNOWN = b"\xc1 what a later version writes"


class Kept:
    """A home that is saved once, and its node's folder, in which the next process finds what was left."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        write(self.home, file=b"content", folder__other=b"content")
        self.node = Node(MemoryBucket(), folder / "node")
        self.fence = 0

    async def save(self) -> int:
        """Save in a process of its own; return how many files were read."""
        opened = self.node.open()
        self.fence = self.fence or await take(opened)
        done = await opened.checkpoint(REF, home=self.home, fence=self.fence, session="s", reason="t")
        return done.read_files

    async def leave(self, value: bytes | None) -> None:
        """Put a cache in place of the one that is there: of a state, or of a folder, that nobody knows."""
        workspace = await self.node.open()._known.required(REF)
        row = (await workspace.log.refresh()).newest(complete=True)
        assert row is not None
        assert row.checkpoint is not None
        file = workspace.stat_file.fresh()
        if value is None:
            assert file.commit(UNKNOWN)
            return
        root = Remembered(None, row.checkpoint.root)
        cache = StatCache(seq=row.seq, hash_=row.hash, device=-1, root=root, blobs=file)
        cache.put_packed(b"", value)
        cache.saved()


@pytest.fixture
async def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr("storage.ops.stat_cache.RACY_NS", -3_600_000_000_000)
    made = Kept(tmp_path)
    assert await made.save() == 2
    assert await made.save() == 0
    return made


async def test_a_state_that_cannot_be_read_is_replaced_by_the_first_save(kept):
    """It must not stand before every later one, and keep each process after an upgrade from reading them."""
    await kept.leave(None)
    assert await kept.save() == 2
    assert await kept.save() == 0


async def test_a_folder_that_cannot_be_read_costs_reading_and_no_save(kept):
    await kept.leave(UNKNOWN)
    assert await kept.save() == 2
    assert await kept.save() == 0


async def test_a_file_that_outgrew_what_is_kept_is_still_read(kept, monkeypatch):
    """What a process reads at once is a state, not the file."""
    monkeypatch.setattr("storage.repository.blob_file.FILE_BYTES_MAX", 1_000)
    (file,) = kept.node.folder.rglob("stat.cache")
    for number in range(5):
        write(kept.home, **{f"file{number}": b"content"})
        await kept.save()
    assert file.stat().st_size > 1_000
    assert await kept.save() == 0


async def test_what_is_held_where_no_cache_can_be_written_does_not_grow_with_every_save(kept):
    """A full disk, say: what nobody names any more is let go of."""
    (file,) = kept.node.folder.rglob("stat.cache")
    kept.node.folder = kept.home.parent / "no folder"
    kept.node.folder.mkdir()
    (kept.node.folder / file.relative_to(kept.home.parent / "node").parts[0]).write_bytes(b"taken")
    opened, held = kept.node.open(), []
    for number in range(40):
        write(kept.home, file=b"content %d" % number)
        await opened.checkpoint(REF, home=kept.home, fence=kept.fence, session="s", reason="t")
        held.append((await opened._known.required(REF)).stat_file.held_bytes)
    assert not list(kept.node.folder.rglob("*.cache"))
    assert 0 < held[-1] <= 4 * held[0]

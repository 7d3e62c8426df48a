"""The store loses the newest checkpoint of an open log: that is said, and the home is saved and proved."""

from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from tests.fakes.storage_rig import PREFIX, REF, Node, objects, take, write


async def final(opened: storage.Storage, home: Path) -> storage.CheckpointResult:
    return await opened.checkpoint(
        REF, home=home, fence=1, session="s", reason="final", frozen=True, final=True
    )


async def test_a_checkpoint_that_the_store_lost_is_not_proved_and_saved_again(tmp_path: Path) -> None:
    """As a close does it: its proof is refused, the same home is saved, and that one is proved."""
    bucket, home = MemoryBucket(), tmp_path / "home"
    home.mkdir()
    write(home, a="one", b="two")
    opened = Node(bucket, tmp_path / "cache").open()
    await take(opened)
    lost = await final(opened, home)
    del bucket.objects[PREFIX + objects(bucket, "c/")[-1]]
    with pytest.raises(storage.NoSuchCheckpoint):
        await opened.prove(REF, seq=lost.info.seq, hash=lost.info.hash)
    again = await final(opened, home)
    await opened.prove(REF, seq=again.info.seq, hash=again.info.hash)
    look = await opened.same_as(REF, seq=again.info.seq, hash=again.info.hash, home=home)
    assert look.same
    assert (await Node(bucket, tmp_path / "cold").open().verify(REF, "full")).sound

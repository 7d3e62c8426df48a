"""Makes and reads the golden repositories of format version 1: whole buckets in one file, read for ever.

A golden file is made once, by the release that first wrote such a repository, and never again: a later
release that cannot read it has broken the format. `make` is kept to show what is in it.
"""

import functools
import hashlib
import itertools
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import msgspec
import zstandard
from blake3 import blake3

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.repository.packer import NewChunks
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, seeded, write

FOLDED = Path(__file__).parent.parent / "vectors" / "repository-v1-folded.zst"
KEEP = storage.Retention(keep_last=3, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)


def part(number: int, size: int) -> bytes:
    """Return bytes that every machine makes alike."""
    return hashlib.shake_256(str(number).encode()).digest(size)


def read(path: Path) -> tuple[dict[str, bytes], dict[int, dict[str, bytes]]]:
    """Return the objects of a golden bucket, and what its checkpoints hold by number."""
    raw = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    objects, homes = msgspec.msgpack.decode(raw, type=tuple[dict[str, bytes], dict[int, dict[str, bytes]]])
    return objects, homes


async def make(folder: Path, small: ExitStack) -> bytes:
    """Return the file of a repository with every kind of entry and object: taken over twice, a checkpoint
    forgotten and one pinned, a side branch, a rotation after a leak, an object that was stepped over, a
    repack, two folds, and an index snapshot.
    """
    small.enter_context(mock.patch("storage.repository.fold.ENTRIES_MIN", 10**9))
    small.enter_context(mock.patch("storage.repository.snapshots.ENTRIES", 10**9))
    small.enter_context(mock.patch("storage.repository.repack.DEAD_BYTES_MIN", 1))
    small.enter_context(
        mock.patch("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=3_000))
    )
    bucket, clock = MemoryBucket(), itertools.count(1_700_000_000_000)

    def opened(name: str) -> storage.Storage:
        return storage.Storage(
            MemoryStore(bucket),
            master_key=MASTER_KEY,
            cache_folder=folder / name,
            fresh=seeded(f"golden {name}"),
            clock_ms=lambda: next(clock),
        )

    home = folder / "home"
    home.mkdir()
    homes: dict[int, dict[str, bytes]] = {}

    async def save(node: storage.Storage, fence: int, **more: bool) -> storage.CheckpointInfo:
        saved = await node.checkpoint(REF, home=home, fence=fence, session="s", reason="golden", **more)
        homes[saved.info.seq] = {path.name: path.read_bytes() for path in home.iterdir()}
        return saved.info

    async def tidy(node: storage.Storage) -> storage.UpkeepReport:
        return await node.collect(REF, policy=KEEP, actor="golden")

    one, two = opened("one"), opened("two")
    await one.take_over(REF, fence_at_least=1, node="one", session="a", registry_epoch=1)
    write(home, **{f"f{number}": part(number, 900) for number in range(6)})
    pinned = await save(one, 1)
    await one.keep(REF, seq=pinned.seq, pin=True, actor="golden", reason="golden")
    await two.take_over(REF, fence_at_least=1, node="two", session="b", registry_epoch=1)
    write(home, late="only the stale desktop has it")
    await save(one, 1, conflict=True)
    (home / "late").unlink()
    bucket.objects[f"{PREFIX}c/{6:016d}"] = b"rubbish"
    rubbish = blake3(b"rubbish").digest()
    await two.step_over(REF, confirmed=[(6, rubbish)])
    for number in range(5):
        write(home, **{f"f{number}": part(number + 100, 700), "note": f"note {number}"})
        await save(two, 2)
    await two.keep(REF, seq=pinned.seq, pin=False, actor="golden", reason="golden")
    await tidy(two)
    await tidy(two)
    with mock.patch("storage.repository.fold.ENTRIES_MIN", 5):
        await tidy(two)
    await tidy(two)
    await two.rotate_keys(REF, leaked=True)
    write(home, note="under the new key")
    await save(two, 2)
    for _ in range(4):
        await tidy(two)
    small.enter_context(mock.patch("storage.repository.snapshots.ENTRIES", 1))
    write(home, note="the last one")
    await save(two, 2, final=True)
    left = {info.seq for info in (*await two.list(REF), *await two.conflicts(REF))}
    kept = {seq: body for seq, body in homes.items() if seq in left}
    raw = msgspec.msgpack.encode((dict(sorted(bucket.objects.items())), kept))
    return zstandard.ZstdCompressor(level=19).compress(raw)

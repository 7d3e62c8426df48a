"""One small repository with an object of every kind: what tests of damage break, and a golden file keeps.

Two key epochs, two tenant keys, slots for a master key and a recovery code; two folds, of which the newest is
not swept yet; checkpoints pinned and forgotten; a conflict checkpoint and a full base; a receipt; an index
snapshot; packs that are given up and still lie there; an orphan; a workspace beside it that was erased.
Everything in it is made by the front door.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec
import zstandard

import storage
from storage.format import recovery
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.objects.store import ObjectStore
from storage.repository.packer import NewChunks
from tests.fakes.faulty_store import FOR_EVER, Fault, FaultyStore
from tests.fakes.golden_repository import part
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, seeded, write

WHOLE = Path(__file__).parent.parent / "vectors" / "repository-v1-whole.zst"
RECOVERY_PRIVATE = bytes(range(60, 92))
WAYS = storage.KeyWays(master=MASTER_KEY, recovery_public=recovery.public_half(RECOVERY_PRIVATE))
ERASED = storage.WorkspaceRef(tenant=REF.tenant, workspace="ee" * 8)
KEEP = storage.Retention(keep_last=2, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)
RECEIPT = b'{"session": "s"}'
KINDS = {"config", "b", "c", "g", "k", "l", "p", "r", "x"}
"""First part of every name that a repository of this version can hold."""

Homes = dict[int, dict[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The objects, and what each checkpoint holds, by its number."""

    objects: dict[str, bytes]
    homes: Homes


def open_whole(
    bucket: MemoryBucket,
    cache: Path,
    *,
    seed: str = "",
    store: ObjectStore | None = None,
    ways: storage.KeyWays = WAYS,
) -> storage.Storage:
    """Open the bucket as a machine that knows nothing of it; with a seed, one whose randomness repeats."""
    clock = itertools.count(1_700_000_500_000)
    return storage.Storage(
        store if store is not None else MemoryStore(bucket),
        master_key=ways,
        cache_folder=cache,
        fresh=seeded(seed) if seed else os.urandom,
        clock_ms=lambda: next(clock),
    )


PADDED = ("ops.receipts", "ops.save", "repository.log_writer", "format.history", "format.snapshot")
PAD_TO_BYTES = 4096


@contextmanager
def _by_hand(pad_to: int) -> Iterator[None]:
    """Fold, repack and write snapshots where `make` says so, and put small checkpoints into packs."""
    with ExitStack() as small:
        for name, value in (
            ("storage.repository.fold.ENTRIES_MIN", 10**9),
            ("storage.repository.snapshots.ENTRIES", 10**9),
            ("storage.repository.repack.DEAD_BYTES_MIN", 1),
            ("storage.repository.settle.PAUSES_S", (0.0, 0.0)),
            ("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=1_000)),
        ):
            small.enter_context(mock.patch(name, value))
        for module in PADDED:
            small.enter_context(mock.patch(f"storage.{module}.PAD_TO_BYTES", pad_to))
        yield


async def make(folder: Path, *, pad_to: int = PAD_TO_BYTES) -> Whole:
    """Make it. With less padding than is usual it has fewer bits to try, and the same fields."""
    bucket = MemoryBucket()
    home = folder / "home"
    home.mkdir()
    homes: Homes = {}
    one = open_whole(bucket, folder / "one", seed="whole one")
    two = open_whole(bucket, folder / "two", seed="whole two")

    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in home.iterdir()}

    async def save(node: storage.Storage, fence: int, **more: bool) -> storage.CheckpointInfo:
        saved = await node.checkpoint(REF, home=home, fence=fence, session="s", reason="whole", **more)
        homes[saved.info.seq] = held()
        return saved.info

    async def tidy() -> None:
        report = await two.collect(REF, policy=KEEP, actor="whole")
        assert report.refused == "", report.refused

    async def fold() -> None:
        with mock.patch("storage.repository.fold.ENTRIES_MIN", 3):
            await tidy()

    with _by_hand(pad_to):
        await _erased_beside(one, folder)
        await one.take_over(REF, fence_at_least=1, node="one", session="a", registry_epoch=1)
        write(home, **{f"f{number}": part(number, 500) for number in range(4)})
        pinned = await save(one, 1)
        await one.keep(REF, seq=pinned.seq, pin=True, actor="whole", reason="whole")
        await two.take_over(REF, fence_at_least=1, node="two", session="b", registry_epoch=1)
        write(home, late="only the stale desktop has it")
        await save(one, 1, conflict=True)
        (home / "late").unlink()
        await _full_base(one, bucket, home)
        foreign = await two.foreign(REF)
        await two.step_over(REF, confirmed=[(found.seq, found.hash) for found in foreign])
        whole_side = (await two.conflicts(REF))[-1]
        homes[whole_side.seq] = held()
        await two.put_receipt(REF, "s", RECEIPT)
        await two.rotate_keys(REF)
        for number in range(3):
            write(home, **{f"f{number}": part(number + 100, 400), "note": f"note {number}"})
            await save(two, 2)
        await fold()
        await tidy()
        await two.rotate_tenant(REF.tenant)
        write(home, note="after the first fold", f1=part(300, 1_200))
        await save(two, 2)
        await fold()
        write(home, note="the newest", f2=part(301, 1_200))
        with mock.patch("storage.repository.snapshots.ENTRIES", 1):
            await save(two, 2, final=True)
        before = dict(bucket.objects)
        await tidy()
        _as_if_killed(bucket, before)
        await _orphan(bucket, folder, home)
    left = {info.seq for info in (*await two.list(REF), *await two.conflicts(REF))}
    kept = {seq: files for seq, files in homes.items() if seq in left}
    return Whole(objects=dict(sorted(bucket.objects.items())), homes=kept)


async def _erased_beside(node: storage.Storage, folder: Path) -> None:
    other = folder / "other home"
    other.mkdir()
    write(other, secret="nobody may read this any more")
    head = await node.take_over(ERASED, fence_at_least=1, node="one", session="e", registry_epoch=1)
    await node.checkpoint(ERASED, home=other, fence=head.fence, session="e", reason="whole")
    await node.erase(ERASED, actor="whole", reason="asked for")


async def _full_base(node: storage.Storage, bucket: MemoryBucket, home: Path) -> None:
    """Save whole beside a main line behind which something lies that does not open."""
    last = max(name for name in bucket.objects if name.startswith(f"{PREFIX}c/"))
    bucket.objects[f"{PREFIX}c/{int(last[-16:]) + 1:016d}"] = b"rubbish"
    await node.checkpoint(REF, home=home, fence=1, session="s", reason="whole", conflict=True, frozen=True)


def _as_if_killed(bucket: MemoryBucket, before: dict[str, bytes]) -> None:
    """Put the newest of the folded entries back: a sweep goes upwards, and this one died before its end."""
    swept = sorted(name for name in before if name not in bucket.objects and "/c/" in name)
    for name in swept[-2:]:
        bucket.objects[name] = before[name]


async def _orphan(bucket: MemoryBucket, folder: Path, home: Path) -> None:
    """Save, and die between pack and entry."""
    store = FaultyStore(MemoryStore(bucket))
    store.plan(Fault.REFUSED, on="create", name=r".*/c/.*", times=FOR_EVER)
    dying = open_whole(bucket, folder / "dying", seed="whole dying", store=store)
    write(home, never=part(400, 1_100))
    with contextlib.suppress(storage.StoreRefused):
        await dying.checkpoint(REF, home=home, fence=2, session="s", reason="whole")


def pack(whole: Whole) -> bytes:
    """Return the golden file of it."""
    raw = msgspec.msgpack.encode((whole.objects, whole.homes))
    return zstandard.ZstdCompressor(level=19).compress(raw)


def unpack(path: Path) -> Whole:
    """Return what a golden file holds."""
    raw = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    objects, homes = msgspec.msgpack.decode(raw, type=tuple[dict[str, bytes], Homes])
    return Whole(objects=objects, homes=homes)

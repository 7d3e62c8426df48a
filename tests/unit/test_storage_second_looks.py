"""Looks that nothing else would miss: what was sealed is opened again, what was stored is read back, and what
a newer service wrote stops whoever must not decide about it.

Each test here fails if one such look is taken out of the code; the rest of the suite would not notice.
"""

import errno
import io
import os
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import storage
from storage.errors import CollectRefused, Malformed, NotAuthentic, ObjectDamaged, WrongKey
from storage.format import entries
from storage.format.box import seal
from storage.format.entries import Forget, TakeOver, Version
from storage.format.envelope import open_head
from storage.format.extras import read_extras
from storage.format.frame import make_frame
from storage.format.header import MAGIC, ObjectType, make_header, open_header
from storage.format.keys import BoxKind, EpochKeys
from storage.format.pack import PackWriter
from storage.format.table import PlannedSegment, make_table, open_segment, read_table
from storage.format.tree import Entry, EntryType
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.objects.store import ObjectInfo
from storage.ops import gather
from storage.ops.entry_maker import EntryMaker
from storage.ops.folder_record import NOWHERE, Remembered, facts_of
from storage.ops.stat_cache import RACY_NS, StatCache
from storage.repository import collect, fold, log_writer
from storage.repository.log_writer import LogWriter
from storage.repository.packer import seal_pack
from storage.repository.removal import remove_erased, remove_erased_slots
from storage.repository.state import LogState, StoredHead
from storage.repository.verify import rest_of_report, walk_tree
from storage.scan.entry import Attributes, Grade, Kind, StatFacts
from storage.watch.watching import Round
from tests.fakes.faulty_store import Fault
from tests.fakes.storage_rig import KEEP_ONE, PREFIX, REF, Node, objects, take, write

KEYS = EpochKeys.from_secrets(bytes(16), bytes(32), bytes(32))


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture(autouse=True)
def small_folds(monkeypatch):
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="Dear Sir")
    return folder


async def save(opened: storage.Storage, home: Path, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test", **more)


async def saved_until_folded(opened: storage.Storage, home: Path, bucket: MemoryBucket) -> None:
    """Save and collect until the log's beginning is in a history."""
    for number in range(8):
        write(home, a=f"number {number}")
        await save(opened, home)
        assert (await opened.collect(REF, policy=None, actor="test")).refused == ""
    assert len(objects(bucket, "l/")) >= 1


async def saved_often(opened: storage.Storage, home: Path) -> storage.CheckpointInfo:
    await take(opened)
    for number in range(6):
        write(home, a=f"number {number}")
        last = await save(opened, home)
    return last.info


def test_an_entry_that_was_sealed_otherwise_than_it_was_meant_is_never_handed_over(monkeypatch):
    real = log_writer.make_object

    def bent(*args: object, **more: object) -> bytes:
        raw = bytearray(real(*args, **more))
        raw[-1] ^= 1
        return bytes(raw)

    monkeypatch.setattr(log_writer, "make_object", bent)
    writer = LogWriter(keys=KEYS, fresh=os.urandom, clock_ms=lambda: 0)
    with pytest.raises(NotAuthentic):
        writer.entry(LogState(config_hash=bytes(32)), Forget([1], "", "test"))


def test_a_moved_chunk_that_was_sealed_otherwise_is_never_handed_over(monkeypatch):
    """A fold and a repack make packs of what they have read; a bit that is lost on the way is met here."""
    real = PackWriter.seal

    def bent(self, slot, segment, *, fresh):
        wrong = bytearray(segment.frame)
        wrong[-1] ^= 1
        real(self, slot, PlannedSegment(
            kind=segment.kind, frame=bytes(wrong), raw_bytes=segment.raw_bytes, chunks=segment.chunks
        ), fresh=fresh)  # fmt: skip

    monkeypatch.setattr(PackWriter, "seal", bent)
    raw = os.urandom(5_000)
    segment = PlannedSegment(
        kind=BoxKind.DATA,
        frame=make_frame(raw, compress=False),
        raw_bytes=len(raw),
        chunks=((KEYS.chunk_id(BoxKind.DATA, raw), len(raw)),),
    )
    with pytest.raises(storage.StorageError):
        seal_pack(KEYS, [segment], fence=1, fresh=os.urandom)


@pytest.mark.parametrize(("at", "which"), [(32, "meta"), (47, "meta"), (48, "data"), (63, "data")])
def test_a_header_that_commits_to_another_key_is_refused_before_anything_is_opened(at: int, which: str):
    """Who holds two keys could else make one box that opens under both: two readers would see two homes."""
    raw = bytearray(make_header(KEYS, ObjectType.PACK, "p/1", bytes(32)).raw)
    raw[at] ^= 1
    with pytest.raises(WrongKey) as told:
        open_header(KEYS, bytes(raw), ObjectType.PACK, "p/1")
    assert told.value.facts["commitment"] == which


def test_a_flag_that_a_reader_must_know_stops_it_and_one_that_it_may_ignore_does_not():
    """As a newer service would write them: sealed and committed to as they are."""
    for flags, refused in ((bytes((1, 0)), True), (bytes((0, 0xFF)), False)):
        start = MAGIC + bytes((1, ObjectType.PACK)) + flags + KEYS.key_id + bytes(16)
        raw = start + KEYS.object_keys(start, "p/1").commitments
        if not refused:
            assert open_header(KEYS, raw, ObjectType.PACK, "p/1").raw == raw
            continue
        with pytest.raises(storage.NewerServiceNeeded):
            open_header(KEYS, raw, ObjectType.PACK, "p/1")


@pytest.mark.parametrize("spoilt", ["chunk id", "digest"])
def test_a_segment_that_opens_and_is_not_what_its_table_says_is_refused(spoilt: str):
    """A wrong table never gives the bytes of another chunk, nor one of two sealings of a place the other."""
    raw = b"the bytes of one chunk"
    told = (KEYS.chunk_id(BoxKind.DATA, b"another chunk" if spoilt == "chunk id" else raw), len(raw))
    planned = PlannedSegment(kind=BoxKind.DATA, frame=make_frame(raw), raw_bytes=len(raw), chunks=(told,))
    header = make_header(KEYS, ObjectType.PACK, "p/1", bytes(32))
    boxes = [seal(KEYS, header, BoxKind.DATA, 0, planned.frame, fresh=bytes([n]) * 32) for n in range(2)]
    [segment] = read_table(make_table([(planned, boxes[0])]))
    if spoilt == "digest":
        assert bytes(open_segment(KEYS, header, segment, boxes[0])) == raw
    with pytest.raises((Malformed, NotAuthentic)) as refused:
        open_segment(KEYS, header, segment, boxes[spoilt == "digest"])
    assert spoilt in str(refused.value)


async def test_nothing_of_a_workspace_goes_without_its_tombstone(bucket, home, tmp_path):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    await take(opened)
    await save(opened, home)
    before = dict(bucket.objects)
    for remove in (remove_erased, remove_erased_slots):
        with pytest.raises(CollectRefused):
            await remove(node.store, tenant=REF.tenant, workspace=REF.workspace)
    assert bucket.objects == before


async def test_an_entry_that_reads_back_otherwise_proves_nothing(bucket, home, tmp_path):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    await take(opened)
    # Two looks find that the number is free, the third reads back; whoever looks again sees what is there.
    node.store.plan(Fault.FLIPPED, on="get", name=r".*/c/0000000000000002", times=3)
    with pytest.raises(ObjectDamaged):
        await save(opened, home)


async def test_a_side_checkpoint_that_reads_back_otherwise_counts_for_nobody(bucket, home, tmp_path):
    stale, owner = Node(bucket, tmp_path / "stale"), Node(bucket, tmp_path / "owner").open()
    opened = stale.open()
    await take(opened)
    await take(owner, node="owner")
    stale.store.plan(Fault.FLIPPED, on="get", name=r".*/b/1-1", times=1)
    with pytest.raises(ObjectDamaged):
        await save(opened, home, conflict=True)
    assert await owner.conflicts(REF) == []


async def test_a_history_that_reads_back_otherwise_takes_no_entry_in(bucket, home, tmp_path):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    last = await saved_often(opened, home)
    node.store.plan(Fault.FLIPPED, on="get", name=r".*/l/.*", times=1)
    with pytest.raises(ObjectDamaged):
        await opened.collect(REF, policy=None, actor="test")
    assert len(objects(bucket, "c/")) == last.seq
    assert (await Node(bucket, tmp_path / "cold").open().verify(REF, "full")).faults == ()


async def test_a_log_that_asks_for_another_collector_is_not_collected_and_is_saved_to(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    await saved_often(opened, home)
    upkeep = await opened._upkeep(REF)
    await upkeep.place(lambda state: Version(1, 1, 2, 1, [], [], []))
    before = dict(bucket.objects)
    for _ in range(2):
        report = await opened.collect(REF, policy=None, actor="test")
        assert "garbage collection 2" in report.refused
    assert bucket.objects == before
    write(home, a="more")
    assert (await save(opened, home)).proof is not None


async def test_a_kind_of_entry_that_readers_may_skip_stops_writers_and_collectors(
    bucket, home, tmp_path, monkeypatch
):
    """A newer service wrote it: whoever does not know what it says decides nothing behind it."""
    opened = Node(bucket, tmp_path / "node").open()
    last = await saved_often(opened, home)
    upkeep = await opened._upkeep(REF)
    with monkeypatch.context() as newer:
        newer.setattr(log_writer, "kind_of", lambda fields: 200)
        await upkeep.place(lambda state: Forget([last.seq], "", "newer"))
    assert entries.kind_of(Forget([], "", "")) == 3
    before = dict(bucket.objects)
    cold = Node(bucket, tmp_path / "cold").open()
    assert (await cold.list(REF))[-1].seq == last.seq
    await cold.restore(REF, seq=last.seq, into=tmp_path / "back")
    write(home, a="more")
    with pytest.raises(storage.NewerServiceNeeded):
        await save(cold, home)
    with pytest.raises(storage.NewerServiceNeeded):
        await cold.collect(REF, policy=None, actor="test")
    assert bucket.objects == before


async def test_a_report_of_more_paths_than_an_entry_has_outlives_a_fold(bucket, home, tmp_path, monkeypatch):
    """What is over lies beside, as content of the meta class; nothing but the report reaches it."""
    monkeypatch.chdir(home)  # the name of a socket is short
    for number in range(1_010):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"s{number:04d}")
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    info = (await save(opened, home)).info
    assert (info.skipped, len(info.bad_paths), info.complete) == (1_010, 1_000, True)
    for made in home.glob("s*"):
        made.unlink()  # later reports need none of it
    await saved_until_folded(opened, home, bucket)
    cold = Node(bucket, tmp_path / "cold").open()
    assert (await cold.verify(REF, "full")).faults == ()
    workspace = await cold._known.required(REF)
    state = await workspace.log.refresh()
    row = state.row(info.seq)
    assert row is not None
    rest = await rest_of_report(workspace.reader, state.index, row)
    assert [one.path for one in rest] == [f"s{number:04d}".encode() for number in range(1_000, 1_010)]


async def test_a_large_file_is_pinned_while_it_is_read(bucket, home, tmp_path, monkeypatch):
    monkeypatch.setattr("storage.front.reading.PINNED_FROM_BYTES", 1_000)
    opened, other = Node(bucket, tmp_path / "node").open(), Node(bucket, tmp_path / "other").open()
    await take(opened)
    write(home, large=os.urandom(3_000_000))
    first = (await save(opened, home)).info
    pieces = opened.read(REF, seq=first.seq, path=b"large")
    read = [await anext(pieces)]
    write(home, large=b"small")
    for number in range(2):
        write(home, a=f"{number}")
        await save(other, home)
        await other.collect(REF, policy=KEEP_ONE, actor="test")
    assert [one.seq for one in await other.list(REF) if one.pinned] == [first.seq]
    read += [piece async for piece in pieces]
    assert len(b"".join(read)) == 3_000_000
    assert not [one for one in await other.list(REF) if one.pinned]


def test_attributes_that_do_not_fit_are_named_and_the_rest_is_kept():
    maker = EntryMaker(taker=None, owner=(0, 0))  # type: ignore[arg-type]  # nothing here has chunks
    facts = StatFacts.unpacked(StatFacts(*([0] * len(StatFacts._fields))).packed())
    told = Attributes(xattrs=((b"user.a", b"x" * 60_000), (b"user.b", b"y" * 60_000), (b"user.c", b"z")))
    extras = read_extras(maker.make(b"f", Kind.FILE, facts, None, attributes=told).extra, size=0)
    assert [name for name, _ in extras.xattrs] == [b"user.a", b"user.c"]
    assert extras.xattr_errors == ((b"user.b", errno.E2BIG),)


async def test_a_tree_that_cannot_be_read_stops_collecting(bucket, home, tmp_path, monkeypatch):
    """What it reaches is not known then, and all of that would be given up."""
    monkeypatch.setattr(fold, "ENTRIES_MIN", 10**9)
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    (home / "large").write_bytes(os.urandom(1_500_000))
    first = (await save(opened, home)).info
    write(home, a="two")
    await save(opened, home)
    name = f"{PREFIX}c/{first.seq + 1:016d}"  # its node of the home lies in itself
    raw = bucket.objects[name]
    bucket.objects[name] = raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:]
    before = dict(bucket.objects)
    cold = Node(bucket, tmp_path / "cold").open()
    report = await cold.collect(REF, policy=None, actor="test")
    assert "a tree cannot be read" in report.refused
    assert bucket.objects == before


async def test_a_folder_with_a_file_that_changed_while_it_was_read_is_looked_at_next_time(
    bucket, home, tmp_path, monkeypatch
):
    """Whatever the kernel tells: it may have told of that change already."""
    real, left = gather.read_stable, []

    def unsteady(folder_fd, name, expected, **more):
        outcome = real(folder_fd, name, expected, **more)
        return outcome._replace(grade=Grade.FUZZY) if name == b"letter" else outcome

    monkeypatch.setattr(gather, "read_stable", unsteady)
    monkeypatch.setattr(Round, "keep", lambda self, told: left.append(told))
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    info = (await save(opened, home)).info
    assert (info.fuzzy, info.complete) == (1, True)
    assert b"docs" in left[0].again


def test_a_file_whose_change_is_as_young_as_its_reading_is_read_again_whatever_its_mtime_says():
    """Its owner may have set that back; the next store within the clock's tick would move nothing."""
    read_ns, size = 10**18, 5
    for changed_ns, settled in ((read_ns - 3 * 10**9, True), (read_ns - 10**9, False)):
        found = StatFacts(size, 10**9, changed_ns, 7, 1, 0o644, 1, 1, 1)
        entry = Entry(b"f", EntryType.FILE, 0o644, None, None, 1, 0, size, None, None)
        known = Remembered(facts_of(found), entry, read_ns)
        cache = StatCache(seq=1, hash_=b"", device=1, root=known, blobs=NOWHERE)
        assert cache.unchanged(known, found, settled_ns=RACY_NS) is settled


class Hiding(MemoryStore):
    """Neither lists packs nor knows of one when asked, and gives them all the same."""

    async def head(self, name: str) -> int | None:
        return None if "/p/" in name else await super().head(name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in super().list(prefix):
            if "/p/" not in info.name:
                yield info


class Shortening(MemoryStore):
    """Tells of packs that they are a byte shorter than they are."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in super().list(prefix):
            yield ObjectInfo(name=info.name, size=info.size - ("/p/" in info.name))


class Repeating(MemoryStore):
    """Lists its first page again and again, as some servers do with a token that they do not know."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for _ in range(2):
            async for info in super().list(prefix):
                yield info


@pytest.mark.parametrize(
    ("kind", "words"), [(Hiding, "missing"), (Shortening, "size"), (Repeating, "repeats itself")]
)
async def test_a_store_that_tells_otherwise_than_the_log_stops_collecting(
    bucket, home, tmp_path, kind: type[MemoryStore], words: str
):
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    await take(opened)
    (home / "large").write_bytes(os.urandom(1_500_000))
    await save(opened, home)
    write(home, a="two")
    await save(opened, home)
    node.store.inner = kind(bucket)
    before = dict(bucket.objects)
    assert words in (await opened.collect(REF, policy=KEEP_ONE, actor="test")).refused
    assert {name for name in before if "/p/" in name} <= bucket.objects.keys()


async def test_a_pack_of_another_size_is_told_without_reading_it_and_proves_nothing(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    (home / "large").write_bytes(os.urandom(1_500_000))
    info = (await save(opened, home)).info
    [name] = objects(bucket, "p/")
    bucket.objects[PREFIX + name] += b"x"
    [fault] = (await opened.verify(REF, "structure")).faults
    assert name in fault
    with pytest.raises(ObjectDamaged):
        await opened.prove(REF, seq=info.seq, hash=info.hash)


async def test_a_file_whose_chunks_are_not_as_long_as_it_is_told(bucket, home, tmp_path):
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    info = (await save(opened, home)).info
    workspace = await opened._known.required(REF)
    state = await workspace.log.refresh()
    row = state.row(info.seq)
    assert row is not None
    seen = [one async for _, one in walk_tree(workspace.reader, state.index, row) if one.name == b"letter"]
    await workspace.verifier.check_content(state.index, seen[0])
    longer = msgspec.structs.replace(seen[0], size=seen[0].size + 1)
    with pytest.raises(ObjectDamaged):
        await workspace.verifier.check_content(state.index, longer)


async def test_a_tar_has_times_before_1970_to_their_nanosecond(bucket, home, tmp_path):
    for name, at_ns in (("a", -1_500_000_001), ("b", -1), ("c", -3_000_000_000), ("d", 1_500_000_001)):
        write(home, **{name: name})
        os.utime(home / name, ns=(at_ns, at_ns))
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    info = (await save(opened, home)).info
    raw = b"".join([piece async for piece in opened.archive(REF, seq=info.seq, kind="tar")])
    with tarfile.open(fileobj=io.BytesIO(raw)) as found:
        told = {one.name: one.pax_headers.get("mtime", one.mtime) for one in found if one.name in "abcd"}
    assert told == {"a": "-1.500000001", "b": "-0.000000001", "c": "-3", "d": "1.500000001"}


def test_two_objects_of_one_name_have_keys_of_their_own():
    """Two writers who race for a number: nothing but fresh bytes tells them apart."""
    made = [make_header(KEYS, ObjectType.LOG_ENTRY, "c/0000000000000007", bytes([n]) * 32) for n in range(2)]
    assert made[0].raw[16:32] != made[1].raw[16:32]
    assert made[0].keys.meta != made[1].keys.meta
    assert made[0].keys.data != made[1].keys.data


async def test_a_file_with_more_holes_than_an_entry_has_room_for_outlives_a_fold(bucket, home, tmp_path):
    """Its map lies in chunks of its own, which nothing but the entry's extras reach."""
    with (home / "holes").open("wb") as made:
        for number in range(1_100):
            made.seek(number * 16_384)
            made.write(b"%d" % number)
    held = (home / "holes").read_bytes()
    opened = Node(bucket, tmp_path / "node").open()
    await take(opened)
    info = (await save(opened, home)).info
    (home / "holes").unlink()
    await saved_until_folded(opened, home, bucket)
    cold = Node(bucket, tmp_path / "cold").open()
    assert (await cold.verify(REF, "full")).faults == ()
    await cold.restore(REF, seq=info.seq, into=tmp_path / "back")
    assert (tmp_path / "back" / "holes").read_bytes() == held


def test_a_take_over_whose_fence_is_not_above_all_before_it_is_void():
    """Whoever made it planned against an older log; it must not give an outdated owner his fence back."""
    writer = LogWriter(keys=KEYS, fresh=os.urandom, clock_ms=lambda: 0)
    state = LogState(config_hash=bytes(32))
    for fence, void in ((5, False), (3, True), (5, True), (6, False)):
        raw = writer.entry(state, TakeOver("node", "session", 1, KEYS.key_id), fence=fence)
        name = f"c/{state.seq + 1:016d}"
        opened = open_head(KEYS, ObjectType.LOG_ENTRY, name, raw)
        row = state.apply(
            StoredHead(state.seq + 1, opened.entry_hash, opened.kind, opened.area_start, opened.body, [])
        )
        assert row.void is void
        assert state.fence == max(5, fence)


async def test_that_nothing_changed_proves_nothing_where_an_object_is_gone(bucket, home, tmp_path):
    """By a process that has not seen it stored: what a desktop is ended for is looked at."""
    node = Node(bucket, tmp_path / "node")
    opened = node.open()
    await take(opened)
    (home / "large").write_bytes(os.urandom(1_500_000))
    first = await save(opened, home)
    again = node.open()
    assert (await save(again, home)).proof == first.proof
    [name] = objects(bucket, "p/")
    del bucket.objects[PREFIX + name]
    with pytest.raises(ObjectDamaged):
        await save(node.open(), home)

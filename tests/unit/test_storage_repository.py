"""Checkpoints through the front door, in memory: what is saved, proved, found again and refused."""

import asyncio
import io
import mmap
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket
from storage.ops import gather
from storage.repository.verify import VerifiedCheckpoint
from storage.scan.entry import Grade, ReadOutcome
from storage.scan.settled import settled_after_ns
from tests.fakes.faulty_store import Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import REF, Node, objects, take, write
from tests.fakes.until import until


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def node(bucket: MemoryBucket, tmp_path: Path) -> Node:
    return Node(bucket, tmp_path / "cache")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", b="two", docs__letter="Dear Sir", docs__empty="")
    return folder


async def save(opened: storage.Storage, home: Path, fence: int = 1, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)


async def test_nothing_is_said_of_a_workspace_that_was_never_taken(node):
    opened = node.open()
    assert await opened.head(REF) is None
    assert await opened.list(REF) == []
    assert await opened.receipt(REF, "s") is None
    with pytest.raises(storage.RepositoryMissing):
        await opened.prove(REF, seq=1, hash=bytes(32))


async def test_a_home_comes_back_as_it_was(node, home, tmp_path):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    report = await opened.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)
    assert report.whole
    assert (saved.info.entries, saved.info.bytes) == (5, len("onetwoDear Sir"))


async def test_a_small_checkpoint_is_one_object_and_one_put(node, bucket, home):
    opened = node.open()
    await take(opened)
    node.store.calls.clear()
    await save(opened, home)
    creates = [call.name for call in node.store.calls if call.on == "create"]
    assert len(creates) == 1, creates
    assert objects(bucket, "p/") == []
    assert len(bucket.objects[creates[0]]) % 4096 == 0, "sizes tell little"


async def test_nothing_new_is_written_while_nothing_changes(node, bucket, home):
    opened = node.open()
    await take(opened)
    first = await save(opened, home)
    before = dict(bucket.objects)
    again = await save(opened, home)
    assert again.unchanged
    assert again.info == first.info
    assert again.saved_as_of_ms > first.saved_as_of_ms
    assert bucket.objects == before
    final = await save(opened, home, final=True)
    assert not final.unchanged, "the last one of a session is always written"
    assert (await opened.head(REF)).newest_is_final


async def test_unchanged_files_are_not_read_again(node, home, monkeypatch):
    """ctime cannot be set back, so the racy window is moved away instead of waiting until it is over."""
    monkeypatch.setattr("storage.ops.stat_cache.RACY_NS", -3_600_000_000_000)
    opened = node.open()
    await take(opened)
    assert (await save(opened, home)).read_files == 4
    write(home, a="three")
    assert (await save(opened, home)).read_files == 1
    third = await save(node.open(), home)
    assert (third.read_files, third.unchanged) == (0, True), "the cache of the last process is good"


async def test_a_racy_file_is_read_again_although_its_facts_are_the_same(node, home):
    """Written within two seconds of the scan: the next write may leave the same times behind."""
    opened = node.open()
    await take(opened)
    await save(opened, home)
    again = await save(opened, home)
    assert again.read_files == 4
    assert again.unchanged


async def test_a_store_through_a_memory_map_that_moves_no_time_is_in_the_last_checkpoint(
    node, home, monkeypatch
):
    """A page that is dirty already takes stores without any new time until it was written back."""
    monkeypatch.setattr("storage.ops.stat_cache.RACY_NS", -3_600_000_000_000)
    opened = node.open()
    await take(opened)
    path = home / "mapped"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1
        await save(opened, home)
        before = os.stat(path)
        mapped[1] = 2
        assert os.stat(path) == before, "the kernel tells nobody of this store"
        periodic = await save(opened, home)
        assert periodic.unchanged, "a periodic checkpoint may believe the times"
        final = await save(opened, home, frozen=True, final=True)
        pieces = [piece async for piece in opened.read(REF, seq=final.info.seq, path=b"mapped")]
        assert b"".join(pieces)[:2] == b"\1\2"
        info = final.info
        assert (await opened.same_as(REF, seq=info.seq, hash=info.hash, home=home)).same
        mapped[2] = 3
        look = await opened.same_as(REF, seq=info.seq, hash=info.hash, home=home)
        assert (look.same, look.paths) == (False, (b"mapped",)), "the last look does not believe them either"


def test_times_prove_something_only_long_after_a_reading_and_not_in_memory(tmp_path):
    (tmp_path / "dirty_expire_centisecs").write_text("3000\n")
    (tmp_path / "dirty_writeback_centisecs").write_text("500\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n25 24 0:30 / /dev/shm rw shared:3 - tmpfs tmpfs rw\n"
    )

    def after_ns(major: int, minor: int) -> int | None:
        return settled_after_ns(os.makedev(major, minor), vm=tmp_path, mounts=mounts)

    assert after_ns(8, 1) == 140_000_000_000
    assert after_ns(0, 30) is None, "a file system in memory moves no time for stores through a map"
    (tmp_path / "dirty_writeback_centisecs").write_text("0\n")
    assert after_ns(8, 1) is None, "nothing is written back by itself"


async def test_a_changed_file_with_its_old_mtime_is_saved(node, home, tmp_path):
    opened = node.open()
    await take(opened)
    before = os.stat(home / "a")
    await save(opened, home)
    (home / "a").write_bytes(b"ENO")
    os.utime(home / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = await save(opened, home)
    assert not changed.unchanged
    pieces = [piece async for piece in opened.read(REF, seq=changed.info.seq, path=b"a")]
    assert b"".join(pieces) == b"ENO"


async def test_a_cold_start_makes_the_same_tree_as_a_warm_one(node, bucket, home, tmp_path):
    opened = node.open()
    await take(opened)
    await save(opened, home)
    write(home, new="file", docs__letter="Dear Madam")
    os.link(home / "b", home / "docs" / "b2")
    os.truncate(home / "a", 5_000_000)
    warm = await save(opened, home)
    cold = (
        await Node(bucket, tmp_path / "other cache")
        .open()
        .checkpoint(REF, home=home, fence=1, session="s", reason="test", final=True)
    )
    assert cold.info.tree_hash == warm.info.tree_hash
    assert cold.new_bytes == 0, "everything was known from the store alone"
    assert cold.proof.tree_hash == warm.proof.tree_hash


async def test_a_damaged_cache_is_as_good_as_none(node, home):
    opened = node.open()
    await take(opened)
    first = await save(opened, home)
    for file in node.folder.rglob("*.cache"):
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    again = await save(node.open(), home)
    assert again.unchanged
    assert again.info == first.info


async def test_this_machine_burned_and_store_and_key_give_the_files_back(node, bucket, home, tmp_path):
    """Nothing but the bucket and the master key: no registry, no cache, no names."""
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    wanted = picture(home)
    elsewhere = Node(bucket, tmp_path / "new machine").open()
    [ref] = await elsewhere.workspaces()
    newest = (await elsewhere.head(ref)).newest
    assert newest == saved.info
    await elsewhere.restore(ref, seq=newest.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == wanted


async def test_another_master_key_opens_nothing_and_makes_nothing(node, bucket, home):
    opened = node.open()
    await take(opened)
    await save(opened, home)
    before = dict(bucket.objects)
    stranger = node.open(master_key=bytes(32))
    for call in (
        stranger.head(REF),
        stranger.take_over(REF, fence_at_least=9, node="n", session="s", registry_epoch=1),
        stranger.list(REF),
    ):
        with pytest.raises(storage.KeyMissing):
            await call
    assert bucket.objects == before
    assert not (await stranger.key_check()).fits
    assert (await opened.key_check()).fits


async def test_a_missing_log_is_never_taken_for_an_empty_one(node, bucket, home):
    opened = node.open()
    await take(opened)
    for part in ("config", "k/"):
        kept = dict(bucket.objects)
        for name in objects(bucket, part):
            del bucket.objects[f"t/{REF.tenant}/w/{REF.workspace}/{name}"]
        with pytest.raises(storage.RepositoryError):
            await node.open().head(REF)
        bucket.objects.clear()
        bucket.objects.update(kept)
    node.store.down = True
    with pytest.raises(storage.StoreUnavailable):
        await node.open().head(REF)


async def test_an_erased_workspace_is_not_an_empty_one(node, bucket, home):
    opened = node.open()
    await take(opened)
    bucket.objects[f"t/{REF.tenant}/e/{REF.workspace}"] = b"tombstone"
    with pytest.raises(storage.WorkspaceErased):
        await node.open().head(REF)


async def test_an_older_content_of_one_file_is_enough_to_make_a_checkpoint_incomplete(
    node, home, monkeypatch
):
    """Nothing may be ended because of it: what the file holds now is nowhere."""
    opened = node.open()
    await take(opened)
    await save(opened, home)
    write(home, b="changed")
    real = gather.read_stable

    def locked(folder_fd, name, expected, **more):
        if name == b"b":
            return ReadOutcome(facts=expected, extents=None, grade=Grade.UNREADABLE, error=13)
        return real(folder_fd, name, expected, **more)

    monkeypatch.setattr(gather, "read_stable", locked)
    saved = await save(opened, home, final=True)
    assert (saved.info.stale, saved.info.unreadable) == (1, 0)
    assert not saved.info.complete
    assert not saved.proof.complete


async def test_a_file_that_cannot_be_read_makes_the_checkpoint_incomplete(node, home, monkeypatch):
    """Without an older content it is unreadable; with one, that is kept and called stale."""
    opened = node.open()
    await take(opened)
    await save(opened, home)
    write(home, b="changed", new="secret")
    real = gather.read_stable

    def locked(folder_fd, name, expected, **more):
        if name in (b"b", b"new"):
            return ReadOutcome(facts=expected, extents=None, grade=Grade.UNREADABLE, error=13)
        return real(folder_fd, name, expected, **more)

    monkeypatch.setattr(gather, "read_stable", locked)
    saved = await save(opened, home, final=True)
    assert not saved.info.complete
    assert not saved.proof.complete
    assert (saved.info.stale, saved.info.unreadable) == (1, 1)
    grades = {bad.path: bad.grade for bad in saved.info.bad_paths}
    assert grades == {b"b": "stale", b"new": "unreadable"}
    assert [piece async for piece in opened.read(REF, seq=saved.info.seq, path=b"b")] == [b"two"]
    head = await opened.head(REF)
    assert head.newest.seq < saved.info.seq, "the newest complete one is the older one"
    ask = {"seq": saved.info.seq, "hash": saved.info.hash, "home": home}
    assert not (await opened.same_as(REF, **ask)).same
    assert (await opened.same_as(REF, accepted=True, **ask)).same, "exactly what was accepted by name"
    write(home, a="else")
    assert not (await opened.same_as(REF, accepted=True, **ask)).same


async def test_what_changed_while_it_was_read_is_named_and_read_again(node, home, monkeypatch):
    opened = node.open()
    await take(opened)
    real = gather.read_stable

    def moving(folder_fd, name, expected, **more):
        outcome = real(folder_fd, name, expected, **more)
        return ReadOutcome(facts=outcome.facts, extents=outcome.extents, grade=Grade.FUZZY)

    monkeypatch.setattr(gather, "read_stable", moving)
    fuzzy = await save(opened, home)
    assert fuzzy.info.complete
    assert fuzzy.info.fuzzy == 4
    monkeypatch.setattr(gather, "read_stable", real)
    still = await save(opened, home)
    assert (still.read_files, still.info.fuzzy, still.unchanged) == (4, 0, False)


async def test_the_last_look_sees_every_change(node, home, tmp_path):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home, final=True, frozen=True)
    ask = {"seq": saved.info.seq, "hash": saved.info.hash, "home": home}
    same = await opened.same_as(REF, **ask)
    assert same
    assert same.proof == saved.proof
    before = os.stat(home / "docs/letter")
    (home / "docs/letter").write_bytes(b"dear Sir")
    os.utime(home / "docs/letter", ns=(before.st_atime_ns, before.st_mtime_ns))
    look = await opened.same_as(REF, **ask)
    assert not look
    assert look.paths == (b"docs/letter",)
    (home / "docs/letter").write_bytes(b"Dear Sir")
    os.utime(home / "docs/letter", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await opened.same_as(REF, **ask), "content counts, not that it was touched"
    os.chmod(home / "a", 0o600 if os.stat(home / "a").st_mode & 0o777 != 0o600 else 0o640)
    assert (await opened.same_as(REF, **ask)).paths == (b"a",)


async def test_the_last_look_needs_the_log_as_well(node, bucket, home):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    del bucket.objects[f"t/{REF.tenant}/w/{REF.workspace}/c/{saved.info.seq:016d}"]
    with pytest.raises(storage.NoSuchCheckpoint):
        await opened.same_as(REF, seq=saved.info.seq, hash=saved.info.hash, home=home)
    with pytest.raises(storage.NoSuchCheckpoint):
        await opened.prove(REF, seq=saved.info.seq, hash=saved.info.hash)


async def test_a_checkpoint_is_proved_by_number_and_hash(node, home):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    assert await opened.prove(REF, seq=saved.info.seq, hash=saved.info.hash) == saved.proof
    with pytest.raises(storage.NoSuchCheckpoint):
        await opened.prove(REF, seq=saved.info.seq, hash=bytes(32))


def test_a_proof_is_made_by_the_verifier_only():
    with pytest.raises(AssertionError):
        VerifiedCheckpoint(
            ref=REF,
            seq=1,
            hash=bytes(32),
            fence=1,
            scan_ms=0,
            complete=True,
            final=True,
            frozen=True,
            tree_hash=bytes(16),
            token=object(),
        )


async def test_pending_counts_files_and_bytes_since_the_newest_checkpoint(node, home):
    opened = node.open()
    await take(opened)
    assert await opened.pending(REF, home=home) == storage.Pending(files=4, bytes=14)
    await save(opened, home)
    assert await opened.pending(REF, home=home) == storage.Pending(files=0, bytes=0)
    write(home, a="longer", docs__new="12345")
    (home / "b").unlink()
    assert await opened.pending(REF, home=home) == storage.Pending(files=3, bytes=11)


async def test_pending_is_known_without_a_cache(node, bucket, home, tmp_path):
    opened = node.open()
    await take(opened)
    await save(opened, home)
    write(home, a="longer")
    cold = Node(bucket, tmp_path / "other").open()
    assert await cold.pending(REF, home=home) == storage.Pending(files=1, bytes=6)


async def test_a_restore_goes_into_a_folder_of_its_own(node, home, tmp_path):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    for target in (home, home / "a"):
        with pytest.raises(storage.TargetNotEmpty):
            await opened.restore(REF, seq=saved.info.seq, into=target)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(storage.TargetNotEmpty):
        await opened.restore(REF, seq=saved.info.seq, into=tmp_path / "link")
    with pytest.raises(storage.NoSuchCheckpoint):
        await opened.restore(REF, seq=99, into=tmp_path / "back")


@pytest.mark.parametrize("resumable", [False, True])
async def test_a_restore_below_a_folder_that_is_missing_says_which_to_make(node, home, tmp_path, resumable):
    opened = node.open()
    await take(opened)
    saved = await save(opened, home)
    for around in (tmp_path / "missing", home / "a"):
        with pytest.raises(storage.RestoreError, match="make it first") as caught:
            await opened.restore(REF, seq=saved.info.seq, into=around / "back", resumable=resumable)
        assert caught.value.code == "target_failed"
    assert not (tmp_path / "missing").exists()


async def test_folders_and_files_of_a_checkpoint_can_be_looked_at(node, home):
    opened = node.open()
    await take(opened)
    (home / "link").symlink_to("docs/letter")
    saved = await save(opened, home)
    seq = saved.info.seq
    names = {entry.name: entry.kind for entry in (await opened.folder(REF, seq=seq)).entries}
    assert names == {b"a": "file", b"b": "file", b"docs": "folder", b"link": "link"}
    [empty, letter] = (await opened.folder(REF, seq=seq, path=b"docs")).entries
    assert (empty.size, letter.size, letter.name) == (0, 8, b"letter")
    for path in (b"docs/none", b"a/b", b"link/x"):
        with pytest.raises(storage.PathMissing):
            await opened.folder(REF, seq=seq, path=path)
    with pytest.raises(storage.PathMissing):
        [piece async for piece in opened.read(REF, seq=seq, path=b"docs")]


async def test_archives_hold_names_bytes_and_links(node, home):
    opened = node.open()
    await take(opened)
    (home / "link").symlink_to("docs/letter")
    (home / os.fsdecode(b"odd\xff")).write_bytes(b"odd")
    with open(home / "sparse", "wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"middle")
    seq = (await save(opened, home)).info.seq
    raw = b"".join([piece async for piece in opened.archive(REF, seq=seq, kind="tar")])
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        members = {os.fsencode(member.name): member for member in archive}
        assert set(members) == {
            b"a", b"b", b"docs", b"docs/empty", b"docs/letter", b"link", b"odd\xff", b"sparse",
        }  # fmt: skip
        assert archive.extractfile(members[b"docs/letter"]).read() == b"Dear Sir"
        assert archive.extractfile(members[b"sparse"]).read() == (home / "sparse").read_bytes()
        assert members[b"link"].linkname == "docs/letter"
    raw = b"".join([piece async for piece in opened.archive(REF, seq=seq, path=b"docs", kind="zip")])
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        assert archive.read("docs/letter") == b"Dear Sir"


async def test_a_receipt_is_kept_once_and_can_be_checked(node, bucket, home):
    opened = node.open()
    await take(opened)
    first = await opened.put_receipt(REF, "s1", b"closed")
    assert await opened.put_receipt(REF, "s1", b"closed") == first, "a repeat is harmless"
    assert await node.open().receipt(REF, "s1") == b"closed"
    with pytest.raises(storage.ObjectDamaged):
        await opened.put_receipt(REF, "s1", b"closed otherwise")
    with pytest.raises(storage.FormatError):
        await opened.put_receipt(REF, "../config", b"x")


async def test_a_cancelled_checkpoint_leaves_no_thread_and_no_commit(node, bucket, home):
    opened = node.open()
    await take(opened)
    (home / "big").write_bytes(os.urandom(3_000_000))
    node.store.plan(Fault.SLOW, on="create", name=".*/p/.*", times=9)
    task = asyncio.ensure_future(save(opened, home))
    await until(lambda: node.store.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    node.store.heal()
    assert objects(bucket, "c/") == ["c/0000000000000001"]
    saved = await save(opened, home)
    assert saved.info.seq == 2


async def test_a_large_home_goes_into_packs_and_comes_back(node, bucket, home, tmp_path):
    opened = node.open()
    await take(opened)
    (home / "noise").write_bytes(os.urandom(20_000_000))
    (home / "text").write_bytes(b"".join(b"line %d\n" % number for number in range(400_000)))
    saved = await save(opened, home)
    assert len(objects(bucket, "p/")) >= 2
    assert saved.stored_bytes < 24_000_000
    await node.open().restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)
    report = await opened.verify(REF, "full")
    assert report.sound, report.faults
    assert report.orphans == 0


async def test_a_folder_of_many_names_is_split_and_one_more_name_costs_little(node, home):
    opened = node.open()
    await take(opened)
    (home / "many").mkdir()
    for number in range(1_200):
        (home / "many" / f"{number:05d}").write_bytes(b"")
    first = await save(opened, home)
    (home / "many" / "00600x").write_bytes(b"")
    second = await save(opened, home)
    assert second.new_bytes < first.new_bytes
    first_page = await opened.folder(REF, seq=second.info.seq, path=b"many")
    names = [entry.name for entry in first_page.entries]
    assert first_page.more
    rest = await opened.folder(REF, seq=second.info.seq, path=b"many", after=names[-1])
    names += [entry.name for entry in rest.entries]
    assert not rest.more
    assert names == sorted(names)
    assert len(names) == 1_201


async def test_one_key_epoch_is_made_however_many_nodes_are_there_at_the_birth(bucket, home, tmp_path):
    nodes = [Node(bucket, tmp_path / f"cache {number}") for number in range(5)]
    opened = [one.open() for one in nodes]
    fences = await asyncio.gather(*(take(one, node=f"n{at}") for at, one in enumerate(opened)))
    assert sorted(fences) == [1, 2, 3, 4, 5]
    assert len(objects(bucket, "k/")) == 1
    last = opened[fences.index(5)]
    saved = await last.checkpoint(REF, home=home, fence=5, session="s", reason="test")
    for one in nodes:
        assert [info.hash for info in await one.open().list(REF)] == [saved.info.hash]


async def test_a_repository_copied_to_another_workspace_does_not_open(node, bucket, home):
    opened = node.open()
    await take(opened)
    other = storage.WorkspaceRef(tenant=REF.tenant, workspace="cc" * 8)
    for name, raw in list(bucket.objects.items()):
        bucket.objects[name.replace(f"/w/{REF.workspace}/", f"/w/{other.workspace}/")] = raw
    with pytest.raises(storage.FormatError):
        await node.open().head(other)


async def test_few_workspaces_stay_in_memory_and_all_can_be_used(bucket, node, home):
    opened = node.open()
    refs = [storage.WorkspaceRef(tenant=REF.tenant, workspace=f"{number:016x}") for number in range(12)]
    for ref in refs:
        await opened.take_over(ref, fence_at_least=1, node="n", session="s", registry_epoch=1)
        await opened.checkpoint(ref, home=home, fence=1, session="s", reason="test")
    assert len(opened._known._known) == 8
    for ref in refs:
        again = await opened.checkpoint(ref, home=home, fence=1, session="s", reason="test")
        assert again.unchanged
    assert sorted(await opened.workspaces()) == refs

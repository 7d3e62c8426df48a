"""Ways in, re-wraps and rotations: nobody is ever without his key, and what is replaced opens nothing."""

import asyncio
from pathlib import Path

import pytest

import storage
from storage import KeyWays
from storage.format import names, recovery
from storage.format.keys import key_id
from storage.objects.memory import MemoryBucket
from storage.repository.prefixed import Prefixed
from storage.repository.removal import LockedVersion, lock_ends_ms
from storage.repository.slots import Keyring
from storage.repository.ways import ByKey
from tests.fakes.faulty_store import Crashed, Fault
from tests.fakes.home import picture
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, Node, objects, take, write
from tests.fakes.until import until

NEW_KEY = bytes(range(100, 132))
CODE = bytes(range(60, 92))
TENANT = f"t/{REF.tenant}/"
MOVING = KeyWays(master=NEW_KEY, previous=(MASTER_KEY,))


class PaperKms:
    """A KMS that wraps by a key of its own per name, and forgets one when told to."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.asked: list[str] = []

    async def wrap(self, key_name: str, secret: bytes) -> bytes:
        self.asked.append(f"wrap {key_name}")
        return b"wrapped:" + self._turned(key_name, secret)

    async def unwrap(self, key_name: str, wrapped: bytes) -> bytes:
        self.asked.append(f"unwrap {key_name}")
        if key_name in self.gone or not wrapped.startswith(b"wrapped:"):
            raise storage.KeyServiceFailed(kms_key=key_name)
        return self._turned(key_name, wrapped.removeprefix(b"wrapped:"))

    @staticmethod
    def _turned(key_name: str, secret: bytes) -> bytes:
        pad = (key_name.encode() * 32)[: len(secret)]
        return bytes(one ^ other for one, other in zip(secret, pad, strict=True))


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    write(folder, a="one", docs__letter="dear")
    return folder


def node_of(bucket: MemoryBucket, tmp_path: Path, name: str) -> Node:
    return Node(bucket, tmp_path / name)


def tenant_slots(bucket: MemoryBucket) -> list[str]:
    """Return the slot ids of the tenant's keys."""
    return sorted(name.rpartition("-")[2] for name in bucket.objects if name.startswith(f"{TENANT}k/"))


def m_slot(secret: bytes) -> str:
    return "m" + key_id(secret).hex()


async def saved(opened: storage.Storage, home: Path) -> storage.CheckpointInfo:
    fence = await take(opened)
    result = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    return result.info


async def restores(opened: storage.Storage, home: Path, into: Path) -> bool:
    """Say whether the newest checkpoint comes back as the home is."""
    newest = (await opened.list(REF))[-1]
    await opened.restore(REF, seq=newest.seq, into=into)
    return picture(into) == picture(home)


async def test_a_new_master_key_takes_over_while_writers_go_on(bucket, home, tmp_path):
    """Two processes: the one that was not told yet reads its ways in again when a slot does not open."""
    live = node_of(bucket, tmp_path, "live").open()
    await saved(live, home)
    fence = (await live.head(REF)).fence
    moving = node_of(bucket, tmp_path, "moving").open(master_key=MOVING)
    done = await moving.rewrap()
    assert (done.tenants, done.made, done.removed, done.left) == (1, 1, 1, ())
    assert tenant_slots(bucket) == [m_slot(NEW_KEY)]
    write(home, a="two")
    await live.checkpoint(REF, home=home, fence=fence, session="s", reason="goes on")
    told = KeyWays(master=MASTER_KEY)

    async def reread() -> KeyWays:
        return KeyWays(master=NEW_KEY)

    late = node_of(bucket, tmp_path, "late").open(master_key=told, reread=reread)
    assert await restores(late, home, tmp_path / "back")
    assert late.master_key_id == key_id(NEW_KEY).hex()
    with pytest.raises(storage.KeyMissing):
        await node_of(bucket, tmp_path, "old").open().list(REF)
    assert (await moving.rewrap()).made == 0, "a repeat has nothing to do"


@pytest.mark.parametrize("landed", [False, True])
async def test_a_rewrap_that_dies_anywhere_is_finished_by_the_next(bucket, home, tmp_path, landed):
    await saved(node_of(bucket, tmp_path, "first").open(), home)
    public = recovery.public_half(CODE)
    ways = KeyWays(master=NEW_KEY, previous=(MASTER_KEY,), recovery_public=public)
    for number in range(1, 80):
        copy = MemoryBucket(dict(bucket.objects))
        node = node_of(copy, tmp_path, f"node {landed} {number}")
        node.store.crash_at(number, landed=landed)
        finished = True
        try:
            await node.open(master_key=ways).rewrap()
        except Crashed:
            finished = False
        opens = [
            key
            for key in (MASTER_KEY, NEW_KEY)
            if (f"{TENANT}k/" in "".join(copy.objects)) and m_slot(key) in tenant_slots(copy)
        ]
        assert opens, "one of the two always opens it"
        await node_of(copy, tmp_path, f"next {landed} {number}").open(master_key=ways).rewrap()
        assert tenant_slots(copy) == sorted([m_slot(NEW_KEY), "r" + recovery.wrapper_id(public).hex()])
        if finished:
            return
    raise AssertionError("it never ended by itself")


async def test_the_recovery_code_alone_opens_everything(bucket, home, tmp_path):
    public = recovery.public_half(CODE)
    ways = KeyWays(master=MASTER_KEY, recovery_public=public)
    await saved(node_of(bucket, tmp_path, "node").open(master_key=ways), home)
    assert len(tenant_slots(bucket)) == 2, "a tenant that is born has a slot for the code"
    typed = storage.private_of(storage.code_of(CODE).lower().replace("-", " "))
    burned = node_of(bucket, tmp_path, "burned")
    opened = burned.open(master_key=KeyWays(master=NEW_KEY, recovery_private=typed))
    assert await restores(opened, home, tmp_path / "back")
    done = await opened.rewrap()
    assert done.left == ()
    assert await restores(
        node_of(bucket, tmp_path, "after").open(master_key=NEW_KEY), home, tmp_path / "again"
    )


async def test_a_new_code_replaces_the_one_that_was_lost(bucket, home, tmp_path):
    await saved(node_of(bucket, tmp_path, "node").open(), home)
    for private in (CODE, bytes(32)):
        public = recovery.public_half(private)
        ways = KeyWays(master=MASTER_KEY, recovery_public=public)
        await node_of(bucket, tmp_path, "node").open(master_key=ways).rewrap()
        slot = "r" + recovery.wrapper_id(public).hex()
        assert tenant_slots(bucket) == sorted([m_slot(MASTER_KEY), slot])
    with pytest.raises(storage.KeyMissing):
        await (
            node_of(bucket, tmp_path, "finder")
            .open(master_key=KeyWays(master=NEW_KEY, recovery_private=CODE))
            .list(REF)
        )


def test_a_code_is_easy_to_type_and_mistakes_are_found():
    code = storage.code_of(CODE)
    assert len(code.split("-")) == 14
    assert storage.private_of(code.replace("0", "O").replace("1", "I").lower()) == CODE
    wrong = 0
    for at, letter in enumerate(code):
        if letter == "-":
            continue
        other = code[:at] + ("7" if letter != "7" else "8") + code[at + 1 :]
        with pytest.raises(storage.FormatError):
            storage.private_of(other)
        wrong += 1
    assert wrong == 56
    for bad in ("", code[:-1], code + "2", code.replace(code[0], "!", 1)):
        with pytest.raises(storage.FormatError):
            storage.private_of(bad)


async def test_a_tenant_key_is_replaced_and_the_old_one_opens_nothing(bucket, home, tmp_path):
    live = node_of(bucket, tmp_path, "live").open()
    await saved(live, home)
    await live.rotate_keys(REF)
    [old] = await Keyring(live._store, KeyWays(master=MASTER_KEY), lambda n: bytes(n)).tenant_keys(REF.tenant)
    before = objects(bucket, "k/")
    done = await node_of(bucket, tmp_path, "other").open().rotate_tenant(REF.tenant)
    assert (done.workspaces, done.left) == (1, ())
    after = objects(bucket, "k/")
    assert len(before) == len(after) == 2
    assert not set(before) & set(after)
    assert old.hex() not in "".join(bucket.objects)
    fence = (await live.head(REF)).fence
    write(home, a="two")
    await live.checkpoint(REF, home=home, fence=fence, session="s", reason="goes on")
    assert await live.rotate_keys(REF) == 3
    assert await restores(node_of(bucket, tmp_path, "cold").open(), home, tmp_path / "back")


@pytest.mark.parametrize("landed", [False, True])
async def test_a_rotation_of_a_tenant_that_dies_anywhere_locks_nobody_out(bucket, home, tmp_path, landed):
    await saved(node_of(bucket, tmp_path, "first").open(), home)
    for number in range(1, 120):
        copy = MemoryBucket(dict(bucket.objects))
        node = node_of(copy, tmp_path, f"node {landed} {number}")
        node.store.crash_at(number, landed=landed)
        finished = True
        try:
            await node.open().rotate_tenant(REF.tenant)
        except Crashed:
            finished = False
        other = node_of(copy, tmp_path, f"other {landed} {number}").open()
        assert len(await other.list(REF)) == 1, number
        done = await other.rotate_tenant(REF.tenant)
        assert done.left == ()
        assert len(tenant_slots(copy)) == 1
        assert len(objects(copy, "k/")) == 1
        if finished:
            return
    raise AssertionError("it never ended by itself")


async def test_a_workspace_that_is_born_during_a_rotation_has_both_keys(bucket, home, tmp_path):
    """The birth is stopped behind its first slot; a rotation runs to its end; then the birth goes on."""
    await saved(node_of(bucket, tmp_path, "first").open(), home)
    ref = storage.WorkspaceRef(tenant=REF.tenant, workspace="cc" * 8)
    for number in range(1, 30):
        copy = MemoryBucket(dict(bucket.objects))
        late = node_of(copy, tmp_path, f"late {number}")
        late.store.crash_at(number, landed=True)
        try:
            await late.open().take_over(ref, fence_at_least=1, node="n", session="s", registry_epoch=1)
        except Crashed:
            pass
        else:
            return
        await node_of(copy, tmp_path, f"turn {number}").open().rotate_tenant(REF.tenant)
        born = await (
            node_of(copy, tmp_path, f"next {number}")
            .open()
            .take_over(ref, fence_at_least=1, node="n", session="s2", registry_epoch=1)
        )
        assert born.seq >= 1, number
    raise AssertionError("the birth never ended by itself")


async def test_a_tombstone_keeps_its_key_and_stays_readable(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await saved(opened, home)
    await opened.erase(REF, actor="root", reason="asked")
    done = await opened.rotate_tenant(REF.tenant)
    assert "tombstone" in "".join(done.left)
    stone = await node_of(bucket, tmp_path, "cold").open().tombstone(REF)
    assert stone is not None
    assert (stone.actor, stone.reason) == ("root", "asked")


async def test_a_kms_opens_tenants_and_is_asked_only_when_needed(bucket, home, tmp_path):
    kms = PaperKms()
    ways = KeyWays(master=MASTER_KEY, kms=kms, kms_key="desks")
    await saved(node_of(bucket, tmp_path, "node").open(master_key=ways), home)
    asked = len(kms.asked)
    await node_of(bucket, tmp_path, "cold").open(master_key=ways).list(REF)
    assert len(kms.asked) == asked, "the master key opened it"
    other = KeyWays(master=NEW_KEY, kms=kms, kms_key="desks")
    opened = node_of(bucket, tmp_path, "moved").open(master_key=other)
    assert await restores(opened, home, tmp_path / "back")
    await opened.rewrap()
    assert m_slot(NEW_KEY) in tenant_slots(bucket)
    kms.gone.add("desks")
    with pytest.raises(storage.KeyServiceFailed):
        await (
            node_of(bucket, tmp_path, "alone")
            .open(master_key=KeyWays(master=CODE, kms=kms, kms_key="desks"))
            .list(REF)
        )


async def test_the_kms_key_of_a_workspace_erases_every_copy_of_it(bucket, home, tmp_path):
    """A copy of the whole bucket from before, and the master key, open nothing once that key is gone."""
    kms = PaperKms()
    ways = KeyWays(master=MASTER_KEY, kms=kms, kms_workspace_key="desk/{workspace}")
    plain = node_of(bucket, tmp_path, "plain").open()
    await saved(plain, home)
    done = await node_of(bucket, tmp_path, "moving").open(master_key=ways).rewrap()
    assert done.left == ()
    assert [name[:4] for name in objects(bucket, "k/")] == ["k/1-k"[:4]]
    assert objects(bucket, "k/")[0].startswith("k/1-k")
    opened = node_of(bucket, tmp_path, "node").open(master_key=ways)
    assert await opened.rotate_keys(REF) == 2
    assert await restores(opened, home, tmp_path / "back")
    copy = MemoryBucket(dict(bucket.objects))
    kms.gone.add(f"desk/{REF.workspace}")
    with pytest.raises(storage.KeyServiceFailed):
        await node_of(copy, tmp_path, "thief").open(master_key=ways).list(REF)
    with pytest.raises(storage.KeyMissing):
        await node_of(copy, tmp_path, "thief").open().list(REF)


async def test_packs_and_entries_are_counted_by_their_key(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await saved(opened, home)
    await opened.rotate_keys(REF, leaked=True)
    write(home, a="two")
    fence = (await opened.head(REF)).fence
    last = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    uses = await opened.key_use(REF)
    assert [use.key_epoch for use in uses] == [1, 2]
    assert await opened.min_key_epoch(REF) == 2
    older = storage.older_than(uses, 2)
    assert names.log_entry(1) in older
    assert names.log_entry(last.info.seq) not in older
    assert set(older) | {*uses[1].packs, *uses[1].entries} == {
        name for name in objects(bucket) if name[:2] in ("c/", "p/")
    }


async def test_a_slot_that_reads_back_damaged_replaces_nothing(bucket, home, tmp_path):
    await saved(node_of(bucket, tmp_path, "first").open(), home)
    node = node_of(bucket, tmp_path, "node")
    node.store.plan(Fault.FLIPPED, on="get", name=f".*-{m_slot(NEW_KEY)}", times=9)
    done = await node.open(master_key=MOVING).rewrap()
    assert done.left
    assert m_slot(MASTER_KEY) in tenant_slots(bucket)
    assert len(await node_of(bucket, tmp_path, "cold").open().list(REF)) == 1


async def test_what_came_back_of_an_erased_workspace_is_swept(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await saved(opened, home)
    copy = dict(bucket.objects)
    await opened.destroy_keys(REF, actor="root", reason="asked")
    assert objects(bucket, "k/") == []
    assert objects(bucket) != []
    await opened.erase(REF, actor="root", reason="asked", processes=2)
    bucket.objects.update({name: raw for name, raw in copy.items() if name.startswith(PREFIX)})
    other = node_of(bucket, tmp_path, "other").open()
    with pytest.raises(storage.WorkspaceErased):
        await other.list(REF)
    assert await other.sweep_erased() == [REF]
    assert objects(bucket) == []
    assert await other.sweep_erased() == []


async def test_a_receipt_of_an_older_master_key_is_still_believed(bucket, home, tmp_path):
    opened = node_of(bucket, tmp_path, "node").open()
    await saved(opened, home)
    await opened.put_receipt(REF, session="01", body=b"closed")
    signers = opened.signers
    moved = node_of(bucket, tmp_path, "moved").open(master_key=MOVING)
    await moved.rewrap()
    assert await moved.receipt(REF, session="01") == b"closed"
    later = node_of(bucket, tmp_path, "later")
    assert await later.open(master_key=NEW_KEY, signers=signers).receipt(REF, session="01") == b"closed"
    with pytest.raises(storage.FormatError):
        await later.open(master_key=NEW_KEY).receipt(REF, session="01")


async def test_a_writer_that_waits_for_its_turn_writes_nothing_after_the_keys_are_gone(
    bucket, home, tmp_path
):
    """Its save stands before a slow store while the keys are destroyed; the next one writes nothing."""
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await saved(opened, home)
    fence = (await opened.head(REF)).fence
    write(home, a="two")
    node.store.plan(Fault.SLOW, on="create", name=f"{PREFIX}c/.*")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(_refused(opened, home, fence))
        await until(lambda: node.store.waiting)
        write(home, a="three")
        second = group.create_task(_refused(opened, home, fence))
        erased = group.create_task(opened.erase(REF, actor="root", reason="asked"))
        await until(lambda: f"{TENANT}e/{REF.workspace}" in bucket.objects and not objects(bucket, "k/"))
        node.store.gate.set()
    assert erased.result().slots == 1
    assert second.result() != "saved"
    assert first.result() in (
        "saved",
        "chain_broken",
        "keys_changed",
        "repository_missing",
        "workspace_erased",
    )
    await opened.sweep_erased()
    assert objects(bucket) == []
    assert await _refused(opened, home, fence) == "workspace_erased"


async def _refused(opened: storage.Storage, home: Path, fence: int) -> str:
    try:
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    except storage.StorageError as exc:
        return exc.code
    return "saved"


async def with_second_slot(bucket: MemoryBucket, tmp_path: Path, home: Path) -> str:
    """Save a home, wrap the tenant's key for a new master key too, and return the name of its first slot."""
    node = node_of(bucket, tmp_path, "node")
    opened = node.open()
    await saved(opened, home)
    (slot,) = [name for name in bucket.objects if name.startswith(f"{TENANT}k/")]
    keyring = opened._keyring
    (secret,) = (await keyring.tenant(REF.tenant)).opened.values()
    await keyring.wrap_tenant_key(Prefixed(node.store, TENANT), secret, ByKey(NEW_KEY))
    return slot


def damage(bucket: MemoryBucket, name: str) -> None:
    raw = bytearray(bucket.objects[name])
    raw[-20] ^= 1
    bucket.objects[name] = bytes(raw)


@pytest.mark.parametrize("which", ["older", "newer"])
async def test_one_damaged_slot_of_a_tenants_key_closes_nothing_and_is_told(bucket, home, tmp_path, which):
    older = await with_second_slot(bucket, tmp_path, home)
    newer = next(name for name in bucket.objects if name.startswith(f"{TENANT}k/") and name != older)
    damaged = older if which == "older" else newer
    damage(bucket, damaged)
    opened = node_of(bucket, tmp_path, "other").open(master_key=MOVING)
    (info,) = await opened.list(REF)
    await opened.restore(REF, seq=info.seq, into=tmp_path / "back")
    assert picture(tmp_path / "back") == picture(home)
    faults = (await opened.verify(REF)).faults
    assert any(damaged.rpartition("/")[2] in fault for fault in faults), faults


async def test_a_rewrap_removes_no_whole_slot_for_a_damaged_one(bucket, home, tmp_path):
    older = await with_second_slot(bucket, tmp_path, home)
    newer = next(name for name in bucket.objects if name.startswith(f"{TENANT}k/") and name != older)
    damage(bucket, newer)
    opened = node_of(bucket, tmp_path, "other").open(master_key=MOVING)
    done = await opened.rewrap(REF.tenant)
    assert older in bucket.objects, done
    assert done.left, done


async def test_a_tenants_key_whose_every_slot_is_damaged_is_told_and_not_passed_over(bucket, home, tmp_path):
    older = await with_second_slot(bucket, tmp_path, home)
    for name in [name for name in bucket.objects if name.startswith(f"{TENANT}k/")]:
        damage(bucket, name)
    assert older in bucket.objects
    with pytest.raises(storage.FormatError):
        await node_of(bucket, tmp_path, "other").open(master_key=MOVING).list(REF)


@pytest.mark.parametrize(
    ("times", "ends"), [((), None), ((5, 9, 7), 9), ((5, None), None)], ids=["none", "latest", "a hold"]
)
def test_locks_end_with_the_last_of_them_and_a_hold_has_no_date(times, ends):
    locked = [LockedVersion(name=str(number), until_ms=at) for number, at in enumerate(times)]
    assert lock_ends_ms(locked) == ends

"""Keys are rotated and wrapped anew while somebody reads, saves, looks for damage or copies: never damage."""

import functools
import io
import os
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.replica.second import SecondStore
from storage.repository import collect, fold
from storage.repository.slots import Keyring
from tests.fakes.home import picture
from tests.fakes.meddled_store import Meddled
from tests.fakes.storage_rig import IMPATIENT, MASTER_KEY, PREFIX, REF, Node, objects, take, write

EVERYTHING = storage.Retention(keep_last=1_000)
NEW_MASTER = bytes(range(100, 132))
STEP = 3
"""Every so many reads something happens; the soak lane tries each."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "ENABLED", True)
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


class World:
    """A home saved in many entries, a reader whose reads are counted, and somebody else who meddles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.begin = MemoryBucket()
        self.bucket = MemoryBucket()
        self.seq = 0
        self.node = Node(self.bucket, folder)
        self.store = Meddled(self.bucket)

    async def make(self) -> None:
        self.home.mkdir()
        opened = Node(self.begin, self.folder / "writer").open()
        await take(opened)
        for number in range(6):
            new = {f"folder{number % 2}__new{number}": bytes([number]) * 30_000}
            write(self.home, a=f"text {number}", **new)
            done = await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        self.seq = done.info.seq

    def anew(self, name: str) -> storage.Storage:
        """Begin again with the home as it was saved; return a process that reads it."""
        self.bucket = MemoryBucket()
        self.bucket.objects.update(self.begin.objects)
        self.node = Node(self.bucket, self.folder / name)
        self.node.store = self.store = Meddled(self.bucket)
        return self.node.open()

    def busy(self, master_key: bytes | storage.KeyWays = MASTER_KEY) -> storage.Storage:
        return Node(self.bucket, self.folder / "busy" / os.urandom(8).hex()).open(master_key=master_key)

    async def tidied(self, opened: storage.Storage) -> None:
        """One run gives up and folds, the next one deletes: everything lies in packs under the newest key."""
        for _ in range(2):
            assert (await opened.collect(REF, policy=EVERYTHING, actor="t")).refused == ""


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.make()
    return made


async def rotated(world: World) -> None:
    opened = world.busy()
    await opened.rotate_keys(REF)
    await world.tidied(opened)


async def rotated_after_a_leak(world: World) -> None:
    opened = world.busy()
    await opened.rotate_keys(REF, leaked=True)
    for _ in range(2):
        await world.tidied(opened)


async def wrapped_for_a_new_tenant_key(world: World) -> None:
    opened = world.busy()
    await opened.rotate_tenant(REF.tenant)
    await opened.rotate_keys(REF)
    await world.tidied(opened)


async def taken_over(world: World) -> None:
    opened = world.busy()
    await opened.rotate_keys(REF)
    await take(opened, fence=7, node="busy")
    await world.tidied(opened)


MEDDLING = [rotated, rotated_after_a_leak, wrapped_for_a_new_tenant_key, taken_over]
meddling = pytest.mark.parametrize("meddle", MEDDLING, ids=lambda one: one.__name__)


async def gathered(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def restored(world: World, opened: storage.Storage) -> None:
    into = world.folder / os.urandom(8).hex()
    report = await opened.restore(REF, seq=world.seq, into=into)
    assert report.complete, report.left_out
    assert picture(into) == picture(world.home)


async def archived(world: World, opened: storage.Storage) -> None:
    body = await gathered(opened.archive(REF, seq=world.seq, kind="zip"))
    with zipfile.ZipFile(io.BytesIO(body)) as found:
        assert {one for one in found.namelist() if one[-1] != "/"} == {
            str(path.relative_to(world.home)) for path in world.home.rglob("*") if path.is_file()
        }


async def browsed(world: World, opened: storage.Storage) -> None:
    page = await opened.folder(REF, seq=world.seq)
    assert [one.name for one in page.entries] == [b"a", b"folder0", b"folder1"]
    assert await gathered(opened.read(REF, seq=world.seq, path=b"folder1/new5")) == bytes([5]) * 30_000
    found = await opened.diff(REF, before=world.seq - 1, after=world.seq)
    assert not found.left_out
    assert b"folder1/new5" in {one.path for one in found.changes}


async def verified(world: World, opened: storage.Storage) -> None:
    assert (await opened.verify(REF, "full")).faults == ()


ACTS = [restored, archived, browsed, verified]
acts = pytest.mark.parametrize("act", ACTS, ids=lambda one: one.__name__)
Act = Callable[[World, storage.Storage], Awaitable[None]]


def moments(step: int) -> Iterator[int]:
    at = 1
    while True:
        yield at
        at += step


@acts
@meddling
async def test_whoever_reads_goes_on_when_keys_change_before_any_of_his_reads(world, act, meddle):
    for at in moments(STEP):
        opened = world.anew(f"reader {at}")
        await opened.list(REF)
        world.store.plan_meddling(at, functools.partial(meddle, world))
        await act(world, opened)
        if world.store.meddle is not None:
            break
    assert at > 2 * STEP


@pytest.mark.soak
@acts
@meddling
async def test_the_same_before_each_of_his_reads_also_of_a_process_that_just_began(world, act, meddle):
    for warm in (True, False):
        for at in moments(1):
            opened = world.anew(f"reader {warm} {at}")
            if warm:
                await opened.list(REF)
            world.store.plan_meddling(at, functools.partial(meddle, world))
            await act(world, opened)
            if world.store.meddle is not None:
                break
        assert at > 5


@acts
async def test_keys_that_change_between_their_opening_and_the_first_look_at_the_log_are_no_damage(world, act):
    for at in moments(1):
        opened = world.anew(f"reader {at}")
        world.store.plan_meddling(at, functools.partial(rotated, world))
        await act(world, opened)
        if at == 8:
            break


async def test_a_new_master_key_in_the_middle_of_a_restore_changes_nothing(world):
    """Slots are wrapped anew and the old ones go; who has the secrets in memory asks for them no more."""

    async def rewrapped() -> None:
        ways = storage.KeyWays(master=NEW_MASTER, previous=(MASTER_KEY,))
        opened = world.busy(ways)
        assert not (await opened.rewrap()).left
        await opened.rotate_keys(REF)
        await world.tidied(opened)

    for at in moments(STEP):
        world.anew(f"reader {at}")

        async def reread() -> storage.KeyWays:
            return storage.KeyWays(master=NEW_MASTER, previous=(MASTER_KEY,))

        opened = world.node.open(reread=reread)
        await opened.list(REF)
        world.store.plan_meddling(at, rewrapped)
        await restored(world, opened)
        if world.store.meddle is not None:
            break
    assert at > 2 * STEP


@pytest.mark.parametrize("step", [2 * STEP + 1, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_save_is_told_to_come_again_at_most(world, step):
    """Its keys are older than what it meets; the next try has the new ones, and nothing is called damaged."""
    again = 0
    for at in moments(step):
        opened = world.anew(f"saver {at}")
        await opened.list(REF)
        world.store.plan_meddling(at, functools.partial(rotated, world))
        write(world.home, a=f"at {at}")
        for _ in range(3):
            try:
                saved = await opened.checkpoint(REF, home=world.home, fence=1, session="s", reason="t")
                break
            except storage.StorageError as exc:
                assert exc.retryable, exc
                again += 1
        into = world.folder / f"back {at}"
        await world.busy().restore(REF, seq=saved.info.seq, into=into)
        assert picture(into) == picture(world.home)
        assert (await opened.verify(REF)).faults == ()
        if world.store.meddle is not None:
            break
    assert again


async def test_a_copy_to_the_second_store_is_never_called_damaged(world):
    for at in moments(STEP):
        world.anew(f"copier {at}")
        second = MemoryBucket()
        opened = with_second(world, second)
        assert (await opened.replicate(REF)).state == "in_step"
        write(world.home, a=f"at {at}")
        await world.busy().checkpoint(REF, home=world.home, fence=1, session="s", reason="t")
        world.store.plan_meddling(at, functools.partial(rotated, world))
        looks = [await opened.replicate(REF, whole=bool(at % 2)) for _ in range(3)]
        assert {look.state for look in looks} <= {"in_step", "behind", "away"}
        assert [fault for look in looks for fault in look.faults] == []
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
        there = {name.removeprefix(PREFIX) for name in second.objects if name.startswith(PREFIX)}
        assert {name for name in objects(world.bucket) if name[:2] != "x/"} <= there
        if world.store.meddle is not None:
            break
    assert at > 2 * STEP


async def test_a_receipt_under_newer_keys_is_copied_though_nothing_else_says_that_they_changed(world):
    """No entry of the log lies under them yet."""
    world.anew("copier")
    second = MemoryBucket()
    opened = with_second(world, second)
    assert (await opened.replicate(REF)).state == "in_step"
    busy = world.busy()
    await busy.rotate_keys(REF)
    await busy.put_receipt(REF, "session-1", b"body")
    look = await opened.replicate(REF, receipts=["session-1"])
    assert (look.state, look.faults) == ("in_step", ())
    assert PREFIX + "r/session-1" in second.objects


def with_second(world: World, second: MemoryBucket) -> storage.Storage:
    async def there() -> MemoryStore:
        return MemoryStore(second)

    return storage.Storage(
        world.store,
        master_key=MASTER_KEY,
        cache_folder=world.node.folder,
        fresh=os.urandom,
        clock_ms=lambda: next(world.node.clock),
        retry=IMPATIENT,
        second=SecondStore(there),
    )


async def test_the_pin_of_a_long_restore_is_let_go_under_the_new_keys(world):
    """They changed, and the log grew under them, while an older checkpoint was restored."""
    opened = world.anew("reader")
    await opened.list(REF)
    pieces = opened.archive(REF, seq=world.seq - 2)
    await anext(pieces)
    await rotated(world)
    await gathered(pieces)
    assert not [info.seq for info in await world.busy().list(REF) if info.pinned]


async def test_a_header_with_a_key_that_nobody_has_is_damage_and_is_looked_up_once(world, monkeypatch):
    await world.tidied(world.anew("reader"))
    [pack] = objects(world.bucket, "p/")
    looks: list[object] = []
    real = Keyring.open
    monkeypatch.setattr(Keyring, "open", lambda self, ref: looks.append(ref) or real(self, ref))
    opened = world.node.open()
    await opened.list(REF)
    looks.clear()
    raw = world.bucket.objects[PREFIX + pack]
    world.bucket.objects[PREFIX + pack] = raw[:8] + b"nobody's" + raw[16:]
    report = await opened.restore(REF, seq=world.seq, into=world.folder / "back")
    assert {one.object for one in report.left_out} == {pack}
    assert len(looks) == 1


async def test_of_a_header_with_a_wrong_key_the_second_store_has_the_right_one(world):
    await world.tidied(world.anew("copier"))
    [pack] = objects(world.bucket, "p/")
    second = MemoryBucket()
    assert (await with_second(world, second).replicate(REF)).state == "in_step"
    opened = with_second(world, second)
    await opened.list(REF)
    raw = world.bucket.objects[PREFIX + pack]
    world.bucket.objects[PREFIX + pack] = raw[:8] + b"nobody's" + raw[16:]
    await restored(world, opened)

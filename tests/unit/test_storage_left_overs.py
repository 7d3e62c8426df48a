"""What killed work leaves behind is no damage, and keeps nobody from anything.

Each left-over lies in a repository that has everything else. Then all is done that is ever done: verify,
prove, take over, save, tidy until nothing is left to do, look at the keys, restore; nothing may call it
damage or refuse because of it, and upkeep must not refuse for ever.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import storage
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.objects.probe import probe
from tests.fakes import whole_repository
from tests.fakes.faulty_store import FOR_EVER, Crashed, Fault, FaultyStore
from tests.fakes.storage_rig import PREFIX, REF, objects, write
from tests.fakes.whole_repository import Whole, open_whole

Leave = Callable[[MemoryBucket, Path], Awaitable[None]]
KEEP = storage.Retention(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return asyncio.run(whole_repository.make(tmp_path_factory.mktemp("whole")))


@pytest.fixture(autouse=True)
def small_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr("storage.repository.fold.ENTRIES_MIN", 4)


def dying(bucket: MemoryBucket, folder: Path, name: str) -> storage.Storage:
    """Return a process that dies when it would create an object whose name is like that."""
    store = FaultyStore(MemoryStore(bucket))

    async def create(wanted: str, data: bytes | bytearray) -> None:
        if wanted.removeprefix(PREFIX).startswith(name):
            raise Crashed
        await store.inner.create(wanted, data)

    return open_whole(bucket, folder / f"dying {name[:1]}", store=_Dying(store, create))


class _Dying:
    """A store whose creates are another's."""

    def __init__(self, inner: FaultyStore, create: Callable[[str, bytes | bytearray], Awaitable[None]]):
        self._inner = inner
        self.create = create

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


async def in_a_fold(bucket: MemoryBucket, folder: Path) -> None:
    """Guard and history are there, their R is not."""
    with pytest.raises(Crashed):
        await _busy(bucket, folder, "c/", then=lambda opened: _collect(opened))
    assert "g/00000003" in objects(bucket, "g/")
    assert len(objects(bucket, "l/")) == 3


async def in_a_fold_before_its_history(bucket: MemoryBucket, folder: Path) -> None:
    with pytest.raises(Crashed):
        await _busy(bucket, folder, "l/", then=lambda opened: _collect(opened))
    assert "g/00000003" in objects(bucket, "g/")


async def in_a_conflict(bucket: MemoryBucket, folder: Path) -> None:
    """The side checkpoint is there, its B is not."""
    before = objects(bucket, "b/")
    with pytest.raises(Crashed):
        await _save(dying(bucket, folder, "c/"), folder, fence=1, conflict=True)
    assert len(objects(bucket, "b/")) == len(before) + 1


async def in_a_full_base(bucket: MemoryBucket, folder: Path) -> None:
    """Its packs are there, what names them is not; the main line has been put right since."""
    jammed = f"{PREFIX}c/{int(max(objects(bucket, 'c/'))[2:]) + 1:016d}"
    bucket.objects[jammed] = b"rubbish"
    before = objects(bucket, "b/")
    with pytest.raises(Crashed):
        await _save(_dying_at_heads(bucket, folder), folder, fence=2, conflict=True, much=True)
    made = set(objects(bucket, "b/")) - set(before)
    assert made
    assert all(len(name) > 30 for name in made), "packs alone"
    opened = open_whole(bucket, folder / "steps over")
    found = await opened.foreign(REF)
    await opened.step_over(REF, confirmed=[(one.seq, one.hash) for one in found])
    await opened.close()


async def in_a_full_base_that_waits_for_its_b(bucket: MemoryBucket, folder: Path) -> None:
    jammed = f"{PREFIX}c/{int(max(objects(bucket, 'c/'))[2:]) + 1:016d}"
    bucket.objects[jammed] = b"rubbish"
    await _save(open_whole(bucket, folder / "beside"), folder, fence=2, conflict=True)
    del bucket.objects[jammed]


async def in_a_first_checkpoint(bucket: MemoryBucket, folder: Path) -> None:
    before = objects(bucket, "p/")
    with pytest.raises(Crashed):
        await _save(dying(bucket, folder, "c/"), folder, fence=2, much=True)
    assert len(objects(bucket, "p/")) > len(before)


async def in_a_rotation_of_keys(bucket: MemoryBucket, folder: Path) -> None:
    """The new epoch has its slot, and nothing lies under it."""
    opened = open_whole(bucket, folder / "turns")
    await opened.rotate_keys(REF)
    await opened.close()
    assert "k/3-" in " ".join(objects(bucket, "k/"))


async def in_a_rotation_of_a_tenants_key(bucket: MemoryBucket, folder: Path) -> None:
    """Two tenant keys, and this workspace has slots under both or the older one."""
    opened = dying(bucket, folder, "k/2")
    with pytest.raises(Crashed):
        await opened.rotate_tenant(REF.tenant)
    assert len(objects(bucket, "k/")) == 3


async def in_the_birth_of_another_workspace(bucket: MemoryBucket, folder: Path) -> None:
    other = storage.WorkspaceRef(tenant=REF.tenant, workspace="cc" * 8)
    store = FaultyStore(MemoryStore(bucket))
    store.plan(Fault.REFUSED, on="create", name=".*/k/.*", times=FOR_EVER)
    opened = open_whole(bucket, folder / "bears", store=store)
    with pytest.raises(storage.StoreRefused):
        await opened.take_over(other, fence_at_least=1, node="n", session="n", registry_epoch=1)
    assert f"t/{REF.tenant}/w/{other.workspace}/config" in bucket.objects


async def in_an_index_snapshot(bucket: MemoryBucket, folder: Path) -> None:
    """Half of a snapshot: a store that keeps the beginning of a create that was cut off."""
    head = int(max(objects(bucket, "c/"))[2:])
    name = f"{PREFIX}x/{head:016d}"
    whole = next(raw for known, raw in bucket.objects.items() if known.startswith(f"{PREFIX}x/"))
    assert name not in bucket.objects
    bucket.objects[name] = whole[: len(whole) // 2]
    opened = open_whole(bucket, folder / "looks")
    faults = (await opened.verify(REF, "full")).faults
    assert name.removeprefix(PREFIX) in str(faults), "told, as a cache that does not open"
    await _renewed(opened)


async def _renewed(opened: storage.Storage) -> None:
    """What the operator does about it; two runs, because what one gives up the next one deletes."""
    for renew in (True, False):
        report = await opened.collect(REF, policy=None, actor="t", renew_index=renew)
        assert report.refused == ""
    await opened.close()


class _Undeleting(MemoryStore):
    """A process that dies before it cleans up."""

    async def delete(self, name: str) -> None:
        raise Crashed


async def in_a_probe(bucket: MemoryBucket, folder: Path) -> None:
    """A doctor that was killed leaves what it tried; it lies beside every tenant, and nobody looks there."""
    with contextlib.suppress(Crashed):
        await probe(_Undeleting(bucket))
    assert [name for name in bucket.objects if name.startswith("probe/")]


async def _busy(
    bucket: MemoryBucket, folder: Path, name: str, *, then: Callable[[storage.Storage], Awaitable[object]]
) -> None:
    """Fill the log until a fold is due, then die in it."""
    opened = open_whole(bucket, folder / "busy")
    for number in range(5):
        await _save(opened, folder, fence=2, word=f"busy {number}", close=False)
    await opened.close()
    await then(dying(bucket, folder, name))


async def _collect(opened: storage.Storage) -> None:
    for _ in range(4):
        await opened.collect(REF, policy=None, actor="t")
    raise AssertionError("no fold was due")


def _dying_at_heads(bucket: MemoryBucket, folder: Path) -> storage.Storage:
    store = FaultyStore(MemoryStore(bucket))

    async def create(wanted: str, data: bytes | bytearray) -> None:
        if wanted.removeprefix(PREFIX).startswith("b/") and len(wanted) - len(PREFIX) < 30:
            raise Crashed
        await store.inner.create(wanted, data)

    return open_whole(bucket, folder / "dying at heads", store=_Dying(store, create))


async def _save(
    opened: storage.Storage,
    folder: Path,
    *,
    fence: int,
    conflict: bool = False,
    much: bool = False,
    word: str = "left over",
    close: bool = True,
) -> None:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    write(home, word=word)
    if much:
        write(home, much=bytes(range(256)) * 8_000 + word.encode(), noise=_noise(1_300_000))
    await opened.checkpoint(
        REF, home=home, fence=fence, session="s", reason="t", conflict=conflict, frozen=conflict
    )
    if close:
        await opened.close()


def _noise(size: int) -> bytes:
    return whole_repository.part(500, size)


LEFT: tuple[Leave, ...] = (
    in_a_fold,
    in_a_fold_before_its_history,
    in_a_conflict,
    in_a_full_base,
    in_a_full_base_that_waits_for_its_b,
    in_a_first_checkpoint,
    in_a_rotation_of_keys,
    in_a_rotation_of_a_tenants_key,
    in_the_birth_of_another_workspace,
    in_an_index_snapshot,
    in_a_probe,
)


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
async def test_what_killed_work_left_is_no_damage_and_hinders_nobody(leave, whole, tmp_path):
    bucket = MemoryBucket(dict(whole.objects))
    await leave(bucket, tmp_path)
    opened = open_whole(bucket, tmp_path / "after")
    for level in ("structure", "full"):
        assert (await opened.verify(REF, level)).faults == ()
    newest = (await opened.list(REF))[-1]
    assert (await opened.prove(REF, seq=newest.seq, hash=newest.hash)).seq == newest.seq
    report = await opened.key_check()
    assert REF in report.workspaces
    assert report.refused == ()
    head = await opened.take_over(REF, fence_at_least=3, node="n", session="n", registry_epoch=1)
    home = tmp_path / "new home"
    home.mkdir()
    write(home, new="work")
    saved = await opened.checkpoint(REF, home=home, fence=head.fence, session="n", reason="t", final=True)
    assert saved.info.complete
    for _ in range(6):
        tidied = await opened.collect(REF, policy=KEEP, actor="t")
        assert tidied.refused == ""
    assert (await opened.verify(REF, "full")).faults == ()
    cold = open_whole(bucket, tmp_path / "cold")
    await cold.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    assert (tmp_path / "back" / "new").read_text() == "work"
    assert (await cold.verify(REF, "full")).orphans == 0, "nothing stays for ever"


async def test_a_probe_that_died_at_any_call_hinders_neither_the_next_one_nor_anybody(whole):
    bucket = MemoryBucket(dict(whole.objects))
    at, died = 0, True
    while died:
        at += 1
        store = FaultyStore(MemoryStore(bucket))
        store.crash_at(at, landed=bool(at % 2))
        try:
            await probe(store)
            died = False
        except (Crashed, BaseExceptionGroup):
            pass
        assert (await probe(MemoryStore(bucket))).usable, at
        rest = {name: raw for name, raw in bucket.objects.items() if not name.startswith("probe/")}
        assert rest == whole.objects, at
    assert at > 10


async def test_a_second_store_whose_replication_died_is_a_whole_beginning_or_says_that_it_is_none(
    whole, tmp_path, monkeypatch
):
    """Opened as if it were the only one: what it lists it gives, to the last byte, or says what is missing: a
    pack that the main store has given up since. The copy itself begins with an index snapshot, as a process
    does that has lost its cache.
    """

    async def proved(store: object) -> storage.ProbeVerdict:
        return storage.ProbeVerdict(usable=True, checks=(), took_ms=0)

    monkeypatch.setattr("storage.replica.second.probe_whole", proved)
    main = open_whole(MemoryBucket(dict(whole.objects)), tmp_path / "main")
    given_up = set((await (await main._known.required(REF)).log.read_chain()).retired)
    at, seen = 1, set()
    while True:
        at += 5
        second = MemoryBucket()
        there = FaultyStore(MemoryStore(second))
        there.crash_at(at)

        async def opener(there: FaultyStore = there) -> FaultyStore:
            return there

        copying = storage.Storage(
            MemoryStore(MemoryBucket(dict(whole.objects))),
            master_key=whole_repository.WAYS,
            cache_folder=tmp_path / f"main {at}",
            fresh=os.urandom,
            clock_ms=lambda: 1_700_000_600_000,
            second=storage.SecondStore(opener, storage.RetryPolicy(tries=1)),
        )
        with contextlib.suppress(Crashed, BaseExceptionGroup):
            assert (await copying.replicate(REF, whole=True)).state == "in_step"
            break
        alone = open_whole(second, tmp_path / f"alone {at}")
        try:
            listed = await alone.list(REF)
            faults = (await alone.verify(REF, "full")).faults
        except storage.StorageError:
            continue  # no key or no log of it is there yet, and it says so
        packs = {name for name in (fault.split(": ")[0] for fault in faults) if name.startswith("p/")}
        assert packs <= given_up, "what the main store has not given up stands before what names it"
        for info in listed:
            into = tmp_path / f"back {at} {info.seq}"
            report = await alone.restore(REF, seq=info.seq, into=into)
            there = {path.name: path.read_bytes() for path in into.iterdir()}
            assert there.items() <= whole.homes[info.seq].items()
            assert report.complete == (there == whole.homes[info.seq])
        seen.add(len(listed))
    assert len(seen) > 1, "some died early, some late"

"""Two machines that begin as one copied state, random numbers included: no key and nonce for two plaintexts.

A virtual machine that is copied or put back draws the same "random" bytes again, has the same caches, and
saves something else. Every call of the cipher is recorded, whatever part made it: heads, segments, footers,
slots, receipts, tombstones, histories, snapshots. One key and nonce for two plaintexts would give both away.
"""

import asyncio
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import storage
from storage.format import box, recovery
from storage.format.keys import EpochKeys
from storage.objects.memory import MemoryBucket, MemoryStore
from tests.fakes.faulty_store import Fault
from tests.fakes.storage_rig import MASTER_KEY, REF, Node, seeded, take, write

OTHER = storage.WorkspaceRef(tenant="cc" * 8, workspace="dd" * 8)
WAYS = storage.KeyWays(master=MASTER_KEY, recovery_public=recovery.public_half(bytes(range(60, 92))))
KEEP = storage.Retention(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)
Scene = Callable[[storage.Storage, Path, str], Awaitable[object]]


class Recorded:
    """What was sealed under each key and nonce."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self.sealed: defaultdict[tuple[bytes, bytes], set[tuple[bytes, bytes]]] = defaultdict(set)

    def note(self, key: bytes, nonce: bytes, plain: bytes, place: bytes) -> None:
        with self._lock:
            self.calls += 1
            self.sealed[key, nonce].add((plain, place))

    @property
    def given_away(self) -> int:
        return sum(len(found) > 1 for found in self.sealed.values())

    @property
    def shared_keys(self) -> int:
        """How many keys sealed more than one plaintext: without any, nothing was put to the test."""
        plains: defaultdict[bytes, set[bytes]] = defaultdict(set)
        for (key, _), found in self.sealed.items():
            plains[key] |= {plain for plain, _ in found}
        return sum(len(found) > 1 for found in plains.values())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()

    class Spied:
        def __init__(self, key: bytes) -> None:
            self._key = key
            self._cipher = AESGCM(key)
            self.decrypt = self._cipher.decrypt

        def encrypt_into(self, nonce: bytes, plain: bytes, place: bytes, room: memoryview) -> int:
            found.note(bytes(self._key), bytes(nonce), bytes(plain), bytes(place))
            return self._cipher.encrypt_into(nonce, plain, place, room)

    monkeypatch.setattr(box, "AESGCM", Spied)
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr("storage.repository.fold.ENTRIES_MIN", 4)
    monkeypatch.setattr("storage.repository.snapshots.ENTRIES", 2)
    return found


async def saves(opened: storage.Storage, home: Path, name: str) -> None:
    for number in range(2):
        write(home, own=f"{name} {number}")
        await opened.checkpoint(REF, home=home, fence=1, session="s", reason=name)


async def saves_much(opened: storage.Storage, home: Path, name: str) -> None:
    """Packs, with names that both draw alike, and segments in several threads."""
    write(home, much=name.encode() + os.urandom(1_300_000), own=name)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason=name)


async def saves_beside(opened: storage.Storage, home: Path, name: str) -> None:
    await opened.take_over(REF, fence_at_least=2, node=name, session=name, registry_epoch=1)
    write(home, own=name)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason=name, conflict=True)


async def takes_over(opened: storage.Storage, home: Path, name: str) -> None:
    await opened.take_over(REF, fence_at_least=2, node=name, session=name, registry_epoch=1)


async def tidies(opened: storage.Storage, home: Path, name: str) -> None:
    """Folds, gives up, writes index snapshots; what it says differs by who does it."""
    write(home, own=name)
    saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason=name)
    await opened.keep(REF, seq=saved.info.seq, pin=True, actor=name, reason=name)
    for _ in range(3):
        await opened.collect(REF, policy=KEEP, actor=name)


async def writes_receipts(opened: storage.Storage, home: Path, name: str) -> None:
    await opened.put_receipt(REF, "s", name.encode())


async def bears(opened: storage.Storage, home: Path, name: str) -> None:
    """Tenant key, slots, config and first entry of a workspace that is nobody's yet."""
    await opened.take_over(OTHER, fence_at_least=1, node=name, session=name, registry_epoch=1)
    await opened.checkpoint(OTHER, home=home, fence=1, session=name, reason=name)


async def turns_keys(opened: storage.Storage, home: Path, name: str) -> None:
    await opened.rotate_keys(REF, leaked=True)
    await opened.rotate_tenant(REF.tenant)
    write(home, own=name)
    await opened.checkpoint(REF, home=home, fence=1, session="s", reason=name)


async def erases(opened: storage.Storage, home: Path, name: str) -> None:
    await opened.erase(REF, actor=name, reason=name)


SCENES: tuple[Scene, ...] = (
    saves,
    saves_much,
    saves_beside,
    takes_over,
    tidies,
    writes_receipts,
    bears,
    turns_keys,
    erases,
)


class Copies:
    """One machine, and copies of it as it was at one moment."""

    def __init__(self, folder: Path, *, seed: str = "copied") -> None:
        self._folder = folder
        self._seed = seed
        self.bucket = MemoryBucket()

    async def begin(self) -> None:
        home = self._folder / "home"
        home.mkdir()
        write(home, a="one", b="two", c__d="three")
        node = Node(self.bucket, self._folder / "cache", fresh=seeded("before"))
        opened = node.open(master_key=WAYS)
        await take(opened)
        for number in range(3):
            write(home, a=f"one {number}")
            await opened.checkpoint(REF, home=home, fence=1, session="s", reason="before")
        await opened.close()

    def copy(self, name: str, bucket: MemoryBucket) -> tuple[Node, Path]:
        """Return a copy of the machine, and its home."""
        shutil.copytree(self._folder / "cache", self._folder / f"cache {name}")
        shutil.copytree(self._folder / "home", self._folder / f"home {name}")
        return Node(
            bucket, self._folder / f"cache {name}", fresh=seeded(self._seed)
        ), self._folder / f"home {name}"


async def act(scene: Scene, node: Node, home: Path, name: str) -> None:
    """Play one copy's part. That the other was faster is no failure here."""
    opened = node.open(master_key=WAYS)
    try:
        await scene(opened, home, name)
    except storage.StorageError:
        return
    finally:
        await opened.close()


@pytest.fixture
async def copies(tmp_path: Path, recorded: Recorded) -> Copies:
    made = Copies(tmp_path)
    await made.begin()
    return made


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_copies_that_race_for_one_name_share_no_key_and_nonce(scene, copies, recorded):
    machines = [(name, *copies.copy(name, copies.bucket)) for name in ("one", "two")]
    await asyncio.gather(*(act(scene, node, home, name) for name, node, home in machines))
    assert recorded.given_away == 0


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_copies_that_never_meet_share_no_key_and_nonce(scene, copies, recorded):
    """The store was copied, too: every number and name is the same, and nobody is ever refused."""
    for name in ("one", "two"):
        node, home = copies.copy(name, MemoryBucket(dict(copies.bucket.objects)))
        await act(scene, node, home, name)
    assert recorded.given_away == 0
    assert recorded.shared_keys > 0, "the two sealed something under the same key"


async def test_a_machine_that_is_put_back_between_a_plan_and_its_answer_shares_none(copies, recorded):
    """The create of its entry was lost, landed late, or was refused; the copy plans something else."""
    for fault in (Fault.LOST_ANSWER, Fault.NEVER_ARRIVED, Fault.LATE, Fault.REFUSED, Fault.CONFLICT):
        bucket = MemoryBucket(dict(copies.bucket.objects))
        first, home = copies.copy(f"first {fault.name}", bucket)
        first.store.plan(fault, on="create", name=".*/c/.*", times=9)
        await act(saves, first, home, f"first {fault.name}")
        again, home = copies.copy(f"again {fault.name}", bucket)
        await act(saves, again, home, f"again {fault.name}")
        first.store.inner = MemoryStore(bucket)
        await first.store.let_land()
    assert recorded.given_away == 0
    assert recorded.shared_keys > 0


async def test_random_bytes_that_never_change_give_nothing_away(tmp_path, recorded):
    """Nothing is left of the 128 random bits of a header: then it hangs on the hedge alone."""
    bucket, home = MemoryBucket(), tmp_path / "home"
    home.mkdir()
    for number in range(3):
        node = Node(bucket, tmp_path / "cache", fresh=bytes)
        opened = node.open(master_key=WAYS)
        await take(opened, fence=number + 1, node=f"node {number}")
        for content in range(3):
            write(home, own=f"{number} {content}")
            await opened.checkpoint(REF, home=home, fence=number + 1, session="s", reason="still")
        await opened.put_receipt(REF, f"s{number}", f"{number}".encode())
        await opened.close()
    assert recorded.given_away == 0
    assert recorded.calls > 30
    reader = Node(bucket, tmp_path / "cold").open(master_key=WAYS)
    assert (await reader.verify(REF, "full")).faults == ()


async def test_without_the_hedge_these_tests_find_what_is_given_away(copies, recorded, monkeypatch):
    """Nonces and salts of random bytes alone, as an earlier draft had them."""

    def plain(self: EpochKeys, fresh: bytes, *parts: bytes, length: int) -> bytes:
        return fresh[:length]

    monkeypatch.setattr(EpochKeys, "hedged", plain)
    for name in ("one", "two"):
        node, home = copies.copy(name, MemoryBucket(dict(copies.bucket.objects)))
        await act(saves, node, home, name)
    assert recorded.given_away > 0


def test_the_service_draws_from_the_kernel():
    """What production gives as `fresh` (storage.Storage.open)."""
    assert storage.Storage.open.__kwdefaults__["fresh"] is os.urandom


def test_what_is_spied_on_is_the_only_cipher():
    """Every box goes through `seal_into`; nothing else of `storage` seals."""
    root = Path(storage.__file__).parent
    users = {path.name for path in root.rglob("*.py") if "AESGCM(" in path.read_text()}
    assert users == {"box.py"}

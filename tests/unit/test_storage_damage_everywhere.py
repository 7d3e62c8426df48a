"""Every bit and every cut of a repository with an object of every kind: told, or proven to matter to nobody.

"Told" means that opening it, `verify` at its full level, or whoever reads that object says so by a declared
error. Objects that nobody needs any more (given up, orphaned, folded) are not told: for those it is shown
that whatever lies there changes nothing. Flips in several objects are tried at once where `verify` names
each of them; one that is not named is tried again alone.
"""

import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import storage
from storage.format import names
from storage.objects.memory import MemoryBucket
from storage.repository.state import LogState
from storage.repository.threads import Stop, Threads
from tests.fakes import whole_repository
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF
from tests.fakes.whole_repository import ERASED, RECOVERY_PRIVATE, Whole, open_whole

TENANT = f"t/{REF.tenant}/"
TOMBSTONE = f"{TENANT}e/{ERASED.workspace}"
SPREAD_BITS = 4_001
"""In the default lane one bit in so many is tried; a prime, so that every bit of a byte has its turn."""
THIN_BYTES = 64
"""Heads end at multiples of this where every bit is tried: as many fields as usual, and less padding."""
Harm = Callable[[bytes, int], bytes]


def flipped(raw: bytes, bit: int) -> bytes:
    copy = bytearray(raw)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


def cut(raw: bytes, length: int) -> bytes:
    return raw[:length]


@dataclass(slots=True)
class Counted:
    """What was tried, by what came of it."""

    named: int = 0
    alone: int = 0
    restores: int = 0


class Damage:
    """One whole repository, harmed and looked at again and again."""

    def __init__(self, whole: Whole, folder: Path) -> None:
        self.whole = whole
        self.bucket = MemoryBucket(dict(whole.objects))
        self.counted = Counted()
        self._folder = folder
        self._numbers = itertools.count()
        self.state = LogState(config_hash=b"")

    async def begin(self) -> None:
        """Look at it whole first."""
        opened = self.cold()
        assert (await opened.verify(REF, "full")).faults == ()
        workspace = await opened._known.required(REF)
        self.state = await workspace.log.another().refresh()
        await opened.close()

    def cold(self, *, ways: storage.KeyWays = whole_repository.WAYS) -> storage.Storage:
        return open_whole(self.bucket, self._folder / f"cache {next(self._numbers)}", ways=ways)

    def dead(self) -> set[str]:
        """Return what nobody needs: entries below a fold, packs that were given up, orphans."""
        state, found = self.state, set()
        for name in self.whole.objects:
            short = name.removeprefix(PREFIX)
            folded = short.startswith("c/") and names.log_entry_seq(short) <= state.folded_to
            if folded or (short.startswith("p/") and short not in state.index.containers):
                found.add(name)
        return found

    def recovery_slots(self) -> list[str]:
        return [name for name in self.whole.objects if name.startswith(f"{TENANT}k/") and "-r" in name]

    def told_of(self) -> list[str]:
        """Return what `verify` or opening must tell of."""
        others = {TOMBSTONE, *self.recovery_slots(), *self.dead()}
        return [name for name in self.whole.objects if name not in others]

    def is_alone(self, name: str) -> bool:
        """Return whether damage to an object hides what else there is: without it nothing is read."""
        short = name.removeprefix(PREFIX)
        if short.startswith(("b/", "g/", "p/", "r/", "x/")):
            return False
        return not short.startswith("l/") or short == self.state.histories[-1][0]

    async def faults(self) -> tuple[str, ...]:
        opened = self.cold()
        try:
            return (await opened.verify(REF, "full")).faults
        except storage.StorageError as exc:
            return (f"opening: {exc}",)
        finally:
            await opened.close()

    async def try_all(self, harm: Harm, at: dict[str, int]) -> None:
        """Harm each of these objects at its place; each must be told."""
        if not at:
            return
        for name, place in at.items():
            self.bucket.objects[name] = harm(self.whole.objects[name], place)
        faults = await self.faults()
        unnamed = [
            name for name in at if not any(fault.startswith(name.removeprefix(PREFIX)) for fault in faults)
        ]
        self.counted.named += len(at) - len(unnamed)
        self.heal(at)
        for name in unnamed:
            assert len(at) > 1 or faults, f"{harm.__name__} at {at[name]} of {name} is not told"
            if len(at) > 1:
                await self.try_all(harm, {name: at[name]})
            else:
                self.counted.alone += 1

    def heal(self, harmed: object = None) -> None:
        self.bucket.objects.update(self.whole.objects)

    async def restore_all(self, target: Path, *, whole: bool = False) -> None:
        """Each checkpoint comes back as it was saved, less what is named, or a declared error comes."""
        opened = self.cold()
        target.mkdir(exist_ok=True)
        try:
            for seq, files in self.whole.homes.items():
                self.counted.restores += 1
                into = target / f"{next(self._numbers)}"
                try:
                    report = await opened.restore(REF, seq=seq, into=into)
                except storage.StorageError:
                    assert not whole, seq
                    continue
                there = {path.name: path.read_bytes() for path in into.iterdir()}
                named = {one.path.decode() for one in report.left_out}
                assert report.complete or not whole, seq
                assert there.items() <= files.items(), seq
                assert there.keys() == files.keys() - named or "" in named, seq
        finally:
            await opened.close()


@pytest.fixture(autouse=True)
def no_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are not what is damaged here, and hops are most of the time."""

    async def run(self: Threads, stop: Stop, work: Callable[..., object], *args: object, **more: object):
        return work(*args, **more)

    monkeypatch.setattr(Threads, "run", run)


def made(tmp_path_factory: pytest.TempPathFactory, pad_to: int) -> Whole:
    return asyncio.run(whole_repository.make(tmp_path_factory.mktemp("whole"), pad_to=pad_to))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return made(tmp_path_factory, whole_repository.PAD_TO_BYTES)


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return made(tmp_path_factory, THIN_BYTES)


async def damage_to(whole: Whole, folder: Path) -> Damage:
    damage = Damage(whole, folder)
    await damage.begin()
    return damage


@pytest.fixture
async def damage(usual: Whole, tmp_path: Path) -> Damage:
    return await damage_to(usual, tmp_path)


@pytest.fixture
async def thin_damage(thin: Whole, tmp_path: Path) -> Damage:
    return await damage_to(thin, tmp_path)


def rounds(damage: Damage, places: dict[str, list[int]]) -> Iterator[dict[str, int]]:
    """Yield what to harm at once: one place of each object that `verify` names by itself, others alone."""
    together = {name: at for name, at in places.items() if not damage.is_alone(name)}
    for number in range(max(map(len, together.values()), default=0)):
        yield {name: at[number] for name, at in together.items() if number < len(at)}
    for name in places.keys() - together.keys():
        for place in places[name]:
            yield {name: place}


async def test_a_spread_of_changed_bits_is_told_and_never_given_out(damage: Damage, tmp_path: Path):
    chance = random.Random(1)
    places = {}
    for name in damage.told_of():
        bits = 8 * len(damage.whole.objects[name])
        spread = {*range(chance.randrange(8), bits, SPREAD_BITS), *(chance.randrange(bits) for _ in range(4))}
        places[name] = sorted(spread)
    for number, at in enumerate(rounds(damage, places)):
        await damage.try_all(flipped, at)
        if number % 16 == 0:
            damage.bucket.objects.update(
                {name: flipped(damage.whole.objects[name], bit) for name, bit in at.items()}
            )
            await damage.restore_all(tmp_path / "back")
            damage.heal()
    assert damage.counted.named > damage.counted.alone > 0


async def test_every_cut_at_a_border_of_fields_is_told(thin_damage: Damage):
    damage = thin_damage
    places = {}
    for name in damage.told_of():
        size = len(damage.whole.objects[name])
        borders = {0, 4, 8, 16, 32, 48, 64, 68, 80, size // 2, size - 16, size - 8, size - 1}
        borders |= {
            length + one
            for container in damage.state.index.containers.values()
            if container.name == name.removeprefix(PREFIX)
            for segment in container.segments
            for length in [container.area_start + segment.offset]
            for one in (-1, 0, 1)
        }
        places[name] = sorted(length for length in borders if 0 <= length < size)
    for at in rounds(damage, places):
        await damage.try_all(cut, at)


async def test_every_object_that_is_missing_is_told(damage: Damage):
    """But for the last entry, which a witness must miss, caches, receipts, and slots that others replace."""
    last = max(name for name in damage.whole.objects if "/c/" in name)
    there = [name for name in damage.told_of() if name != last and f"{PREFIX}r/" not in name]
    for name in there:
        if name.startswith((f"{PREFIX}x/", f"{TENANT}k/")):
            continue
        del damage.bucket.objects[name]
        assert await damage.faults(), name
        damage.heal()


async def test_a_guard_that_was_lost_is_told_and_stands_again_after_the_next_upkeep(damage: Damage):
    """A writer who slept through that fold would believe what he placed behind it."""
    guard = f"{PREFIX}g/00000001"
    del damage.bucket.objects[guard]
    assert "g/00000001" in str(await damage.faults())
    opened = damage.cold()
    assert (await opened.collect(REF, policy=None, actor="t")).refused == ""
    assert damage.bucket.objects[guard] == damage.whole.objects[guard]
    assert (await opened.verify(REF, "full")).faults == ()


async def test_a_process_that_opened_a_slot_long_ago_tells_of_its_damage(damage: Damage):
    """It has the keys, and needs the slot no more: the next process will."""
    opened = damage.cold()
    await opened.list(REF)
    for name in damage.whole.objects:
        if "/k/" in name and "-m" in name:
            damage.bucket.objects[name] = flipped(damage.whole.objects[name], 8 * 100)
            [fault] = (await opened.verify(REF, "structure")).faults
            assert name.rpartition("/")[2] in fault
            damage.heal()


async def test_a_receipt_of_an_earlier_master_key_is_no_forgery(damage: Damage):
    opened = damage.cold(ways=storage.KeyWays(master=bytes(range(100, 132)), previous=(MASTER_KEY,)))
    await opened.rewrap()
    assert (await opened.verify(REF, "full")).faults == ()


async def test_what_nobody_needs_may_hold_anything(damage: Damage, tmp_path: Path):
    """Given up, orphaned or folded: whatever lies there, all else is whole, restores, and it goes away."""
    dead = damage.dead()
    assert {name.removeprefix(PREFIX)[0] for name in dead} == {"c", "p"}
    chance = random.Random(2)
    for harm in (lambda _: b"", lambda raw: raw[: len(raw) // 2], lambda raw: chance.randbytes(len(raw))):
        for name in dead:
            damage.bucket.objects[name] = harm(damage.whole.objects[name])
        assert await damage.faults() == ()
        await damage.restore_all(tmp_path / "back", whole=True)
    opened = damage.cold()
    head = await opened.take_over(REF, fence_at_least=3, node="n", session="n", registry_epoch=1)
    assert head.fence >= 3, "orphans of the fence before may go"
    for _ in range(2):
        report = await opened.collect(REF, policy=storage.Retention(), actor="t")
        assert report.refused == ""
    assert not dead & damage.bucket.objects.keys()
    assert (await opened.verify(REF, "full")).faults == ()


async def test_a_damaged_index_snapshot_is_told_and_harms_nobody(damage: Damage, tmp_path: Path):
    snapshots = [name for name in damage.whole.objects if name.startswith(f"{PREFIX}x/")]
    chance = random.Random(3)
    for _ in range(20):
        for name in snapshots:
            raw = damage.whole.objects[name]
            damage.bucket.objects[name] = flipped(raw, chance.randrange(8 * len(raw)))
        await damage.restore_all(tmp_path / "back", whole=True)


async def told_by_the_tombstone(damage: Damage) -> bool:
    """Whoever asks for the workspace is stopped all the same; who erased it is told by nobody wrongly."""
    opened = damage.cold()
    with pytest.raises(storage.WorkspaceErased):
        await opened.list(ERASED)
    try:
        await opened.tombstone(ERASED)
    except storage.StorageError:
        return True
    finally:
        await opened.close()
    return False


async def told_by_the_code(damage: Damage) -> bool:
    """Only whoever has the recovery code can tell a damaged slot of it: every drill opens one."""
    ways = storage.KeyWays(master=bytes(32), recovery_private=RECOVERY_PRIVATE)
    opened = damage.cold(ways=ways)
    try:
        await opened.list(REF)
    except storage.StorageError:
        return True
    else:
        return False
    finally:
        await opened.close()


async def read_by_others(damage: Damage, step: int) -> int:
    """Flip bits and cut what is read neither by `verify` nor when a repository is opened; return how many."""
    tried = 0
    assert not await told_by_the_code(damage)
    assert not await told_by_the_tombstone(damage)
    for name, told in (
        (TOMBSTONE, told_by_the_tombstone),
        *((slot, told_by_the_code) for slot in damage.recovery_slots()),
    ):
        raw = damage.whole.objects[name]
        for bit in range(0, 8 * len(raw), step):
            damage.bucket.objects[name] = flipped(raw, bit)
            assert await told(damage), f"bit {bit} of {name}"
            tried += 1
        for length in range(0, len(raw), max(1, step // 8)):
            damage.bucket.objects[name] = raw[:length]
            assert await told(damage), f"{name} cut to {length}"
            tried += 1
        damage.heal()
    return tried


async def test_tombstones_and_recovery_slots_are_told_by_whoever_reads_them(damage: Damage):
    assert await read_by_others(damage, 61) > 50


@pytest.mark.soak
async def test_every_bit_of_tombstones_and_recovery_slots_is_told(thin: Whole, tmp_path: Path):
    assert await read_by_others(await damage_to(thin, tmp_path), 1) > 4_000


@pytest.mark.soak
@pytest.mark.parametrize("part", range(8))
async def test_every_changed_bit_is_told(thin: Whole, tmp_path: Path, part: int):
    """All bits of all objects, in eight parts: bit 0 of every byte, bit 1, and so on."""
    damage = await damage_to(thin, tmp_path)
    places = {name: list(range(part, 8 * len(damage.whole.objects[name]), 8)) for name in damage.told_of()}
    for number, at in enumerate(rounds(damage, places)):
        await damage.try_all(flipped, at)
        if number % 64 == part:
            damage.bucket.objects.update(
                {name: flipped(damage.whole.objects[name], bit) for name, bit in at.items()}
            )
            await damage.restore_all(tmp_path / "back")
            damage.heal()
    tried = sum(map(len, places.values()))
    sys.stdout.write(f"bits {tried}, {damage.counted}\n")
    assert damage.counted.named + damage.counted.alone == tried


@pytest.mark.soak
async def test_every_cut_is_told(thin: Whole, tmp_path: Path, record_property: Callable[[str, object], None]):
    damage = await damage_to(thin, tmp_path)
    places = {name: list(range(len(damage.whole.objects[name]))) for name in damage.told_of()}
    for at in rounds(damage, places):
        await damage.try_all(cut, at)
    tried = sum(map(len, places.values()))
    sys.stdout.write(f"cuts {tried}, {damage.counted}\n")
    assert damage.counted.named + damage.counted.alone == tried


@pytest.mark.soak
async def test_every_bit_of_a_padded_entry_is_told(usual: Whole, tmp_path: Path):
    """Padding is sealed as everything else: most of this entry is padding."""
    damage = await damage_to(usual, tmp_path)
    name = max(name for name in damage.whole.objects if name.startswith(f"{PREFIX}c/"))
    for bit in range(8 * len(damage.whole.objects[name])):
        await damage.try_all(flipped, {name: bit})
    assert damage.counted.named + damage.counted.alone == 8 * whole_repository.PAD_TO_BYTES


def test_the_master_key_of_these_tests_is_the_usual_one():
    assert whole_repository.WAYS.master == MASTER_KEY

"""Every decoder of format version 1 against valid objects that were changed: only declared errors come out.

Bytes are changed beneath the seals, where a taken host could have written them; what lies above the seals is
held by the tests of damage.
"""

import random
import tracemalloc
from collections.abc import Callable

import pytest

from storage.errors import FormatError
from storage.format import config, entries, lists, secrets, table, tree
from storage.format.encoding import decode
from storage.format.frame import make_frame, open_frame
from storage.format.limits import MIB
from tests.fakes import golden_repository
from tests.fakes.storage_rig import PREFIX
from tests.unit.test_storage_format_hostile import sample_bodies

PEAK_BYTES_MAX = 32 * MIB
HOSTILE = (
    b"\x91" * 5_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xa1\xff",
    b"\xc0",
    b"\xc1",
)
READERS: tuple[Callable[[bytes], object], ...] = (
    *((lambda raw, kind=kind: entries.decode_entry(kind, raw)) for kind in range(1, 9)),
    tree.decode_entries,
    lambda raw: tree.decode_children(raw, 1),
    lambda raw: lists.decode_list(raw, 0),
    lambda raw: lists.decode_list(raw, 1),
    config.decode_config,
    lambda raw: secrets.read_receipt(raw, {}),
    lambda raw: secrets.decode_tenant_secret(raw, tenant="aa"),
    lambda raw: table.read_table(decode(table.table_decoder, raw, what="table")),
    lambda raw: open_frame(raw, raw_bytes_max=MIB),
)


def samples() -> list[bytes]:
    bodies = sample_bodies()
    frames = [make_frame(body * 20, padding=3) for body in bodies]
    objects, _ = golden_repository.read(golden_repository.FOLDED)
    plain = [raw for name, raw in objects.items() if name == PREFIX + "config"]
    return [*bodies, *frames, *plain]


def change(raw: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Flip, cut, put in, repeat, or cross with another object."""
    body = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(body))
        match chance.randrange(6):
            case 0 if at < len(body):
                body[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(body):
                body[at] = chance.randrange(256)
            case 2:
                del body[at : at + chance.randint(1, 12)]
            case 3:
                body[at:at] = chance.choice(HOSTILE)
            case 4:
                body[at:at] = body[at : at + chance.randint(1, 40)]
            case _:
                other = chance.choice(others)
                body[at:] = other[chance.randint(0, len(other)) :]
    return bytes(body)


def read_changed(cases: int, seed: int) -> int:
    """Return how many cases were read as values."""
    chance, made, values = random.Random(seed), samples(), 0
    tracemalloc.start()
    try:
        for number in range(cases):
            raw = change(chance.choice(made), chance, made)
            try:
                chance.choice(READERS)(raw)
                values += 1
            except FormatError:
                continue
            except BaseException as exc:
                raise AssertionError(f"seed {seed}, case {number}: {raw.hex()}") from exc
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES_MAX
    finally:
        tracemalloc.stop()
    return values


def test_changed_objects_give_values_or_declared_errors():
    assert read_changed(4_000, seed=1) > 0


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_million_changed_objects_give_values_or_declared_errors(seed: int):
    read_changed(100_000, seed)

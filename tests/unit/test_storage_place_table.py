"""The packed table of where chunks lie against a plain dict."""

import hashlib
import random

import pytest

from storage.format.table import pack_chunk_refs
from storage.repository import place_table
from storage.repository.place_table import PlaceTable


def id_of(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=16).digest()


@pytest.mark.parametrize("least", [1, 7, 100_000])
def test_it_answers_as_a_dict_does_while_it_grows(monkeypatch, least: int):
    """Packed often, sometimes, and never; the first numbers of an id stay."""
    monkeypatch.setattr(place_table, "NEW_MIN", least)
    monkeypatch.setattr(place_table, "LOADED_MIN", 3 * least)
    table, plain, random_ = PlaceTable(), dict[bytes, tuple[int, int, int, int]](), random.Random(7)
    for step in range(1_000):
        some = [(id_of(random_.randrange(2_000)), random_.randrange(2**20)) for _ in range(3)]
        table.put(step, step % 9, pack_chunk_refs(some))
        start = 0
        for chunk_id, length in some:
            plain.setdefault(chunk_id, (step, step % 9, start, length))
            start += length
        table.settle()
        for _ in range(3):
            asked = id_of(random_.randrange(4_000))
            assert table.get(asked) == plain.get(asked)
    assert len(plain) <= len(table) <= 2 * len(plain)


def test_bytes_that_lie_across_two_rows_are_no_id(monkeypatch):
    monkeypatch.setattr(place_table, "NEW_MIN", 0)
    table = PlaceTable()
    first, second = bytes(16), bytes(15) + b"\1"
    table.put(0, 1, pack_chunk_refs([(first, 1), (second, 4)]))
    table.settle()
    assert table.get(first) == (0, 1, 0, 1)
    assert table.get(second) == (0, 1, 1, 4)
    assert table.get(bytes(12) + b"\0\0\0\2") is None

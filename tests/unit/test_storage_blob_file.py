"""The file of the stat cache: what is put is given back, or nothing is."""

import os
from pathlib import Path

import pytest

from storage.errors import CacheLost
from storage.format.keys import EpochKeys
from storage.repository import blob_file
from storage.repository.blob_file import BlobFile


@pytest.fixture
def keys() -> EpochKeys:
    return EpochKeys.from_secrets(bytes(16), bytes(32), bytes(32))


def test_values_and_states_are_there_for_the_next_process(tmp_path: Path, keys: EpochKeys):
    """Before and behind the buffer's end, over several states."""
    file = BlobFile(tmp_path / "new", "stat", keys)
    values = [os.urandom(length) for length in (0, 1, 300_000, 5)]
    slots = [file.put(value) for value in values]
    assert [file.get(slot) for slot in slots] == values
    assert file.commit(b"first")
    slots.append(file.put(b"more"))
    assert file.commit(b"second")
    del file
    again = BlobFile(tmp_path / "new", "stat", keys)
    assert list(again.states()) == [b"first", b"second"]
    assert [again.get(slot) for slot in slots] == [*values, b"more"]


def test_a_torn_end_costs_what_is_behind_it(tmp_path: Path, keys: EpochKeys):
    file = BlobFile(tmp_path, "stat", keys)
    for state in (b"first", b"second"):
        file.put(b"value" * 10)
        file.commit(state)
    del file
    whole = (tmp_path / "stat.cache").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "stat.cache").write_bytes(whole[:length])
        found = list(BlobFile(tmp_path, "stat", keys).states())
        assert found in ([], [b"first"])
    (tmp_path / "stat.cache").write_bytes(whole[:-1])
    cut = BlobFile(tmp_path, "stat", keys)
    assert list(cut.states()) == [b"first"]
    slot = cut.put(b"instead")
    assert cut.commit(b"third")
    del cut
    last = BlobFile(tmp_path, "stat", keys)
    assert list(last.states()) == [b"first", b"third"]
    assert last.get(slot) == b"instead"


def test_no_bit_of_a_value_changes_unnoticed(tmp_path: Path, keys: EpochKeys):
    file = BlobFile(tmp_path, "stat", keys)
    slot = file.put(b"value")
    file.commit(b"state")
    whole = (tmp_path / "stat.cache").read_bytes()
    at = whole.index(b"value")
    for bit in range(8 * len(b"value")):
        changed = bytearray(whole)
        changed[at + bit // 8] ^= 1 << bit % 8
        (tmp_path / "stat.cache").write_bytes(changed)
        with pytest.raises(CacheLost):
            file.get(slot)
    (tmp_path / "stat.cache").write_bytes(b"")
    with pytest.raises(CacheLost):
        file.get(slot)


def test_a_second_writer_leaves_the_first_ones_file_alone(tmp_path: Path, keys: EpochKeys):
    """It keeps what it has in memory, and writes a file of its own in the end."""
    first = BlobFile(tmp_path, "stat", keys)
    mine = first.put(b"mine")
    first.commit(b"first")
    second = BlobFile(tmp_path, "stat", keys)
    assert list(second.states()) == [b"first"]
    assert second.get(mine) == b"mine"
    other = second.put(b"other")
    assert not second.takes_more
    assert not second.commit(b"second")
    assert second.get(other) == b"other"
    fresh = second.fresh()
    fresh.put(b"other")
    assert fresh.commit(b"second")
    assert first.get(mine) == b"mine", "it has the file that it opened"
    assert list(BlobFile(tmp_path, "stat", keys).states()) == [b"second"]


def test_what_came_to_nothing_is_overwritten(tmp_path: Path, keys: EpochKeys, monkeypatch):
    monkeypatch.setattr(blob_file, "BUFFER_BYTES", 10)
    file = BlobFile(tmp_path, "stat", keys)
    file.commit(b"first")
    mark = file.mark()
    for _ in range(100):
        file.put(b"twelve bytes")
    file.drop_after(mark)
    slot = file.put(b"kept")
    assert file.commit(b"second")
    assert file.get(slot) == b"kept"
    assert (tmp_path / "stat.cache").stat().st_size < 1_400
    del file
    assert list(BlobFile(tmp_path, "stat", keys).states()) == [b"first", b"second"]


def test_without_a_disk_everything_stays_in_memory(tmp_path: Path, keys: EpochKeys):
    (tmp_path / "taken").write_bytes(b"no folder")
    file = BlobFile(tmp_path / "taken", "stat", keys)
    slot = file.put(bytes(600_000))
    assert not file.commit(b"state")
    assert file.get(slot) == bytes(600_000)
    assert not file.takes_more

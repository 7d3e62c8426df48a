"""The index of chunks while one thread applies an entry of the log and others look for places."""

import pytest

from storage.errors import ObjectMissing
from storage.format.header import ObjectType
from storage.format.keys import BoxKind
from storage.format.table import Segment, pack_chunk_refs
from storage.repository.index import ChunkIndex, Container
from storage.repository.place_table import PlaceTable


def chunk(number: int) -> bytes:
    return bytes([number]) * 16


def container(number: int) -> Container:
    segment = Segment(
        index=0,
        kind=BoxKind.DATA,
        offset=0,
        sealed_bytes=10,
        raw_bytes=10,
        digest=bytes(16),
        refs=pack_chunk_refs([(chunk(number), 10)]),
    )
    return Container(
        name=f"p/{number}", object_type=ObjectType.PACK, area_start=0, segments=(segment,), size=10
    )


@pytest.fixture
def index() -> ChunkIndex:
    made = ChunkIndex()
    for number in range(3):
        made.add(container(number))
    return made


def test_a_reader_never_gets_a_place_in_another_container(index, monkeypatch):
    """Containers are retired at the worst moment: a reader knows a number, and looks up what it names."""
    get = PlaceTable.get

    def retired_meanwhile(table: PlaceTable, chunk_id: bytes):
        found = get(table, chunk_id)
        index.retire("p/0")
        return found

    monkeypatch.setattr(PlaceTable, "get", retired_meanwhile)
    assert index.place(BoxKind.DATA, chunk(1)).container.name == "p/1"


def test_what_stays_is_found_at_every_moment_of_a_retirement(index, monkeypatch):
    """Else a save would store it anew, and a restore would take it for damaged if it looked twice."""
    put, seen = PlaceTable.put, []

    def looked_meanwhile(table: PlaceTable, number: int, segment: int, refs: bytes) -> None:
        seen.append([index.place(BoxKind.DATA, chunk(n)).container.name for n in (1, 2)])
        put(table, number, segment, refs)

    monkeypatch.setattr(PlaceTable, "put", looked_meanwhile)
    index.retire("p/0")
    assert seen == [["p/1", "p/2"]] * 2
    with pytest.raises(ObjectMissing):
        index.place(BoxKind.DATA, chunk(0))

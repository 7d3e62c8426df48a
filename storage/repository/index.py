"""Where every live chunk of one workspace lies: containers (packs and entries), their segments, and chunk
ids.

Built by reading the log from its beginning; the local cache only saves the reading. Chunks of the two classes
are kept apart, so that a reference to a tree node can never be answered with a user's bytes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from storage.errors import ObjectMissing, StorageError
from storage.format.encoding import Body
from storage.format.header import ObjectType
from storage.format.keys import BoxKind
from storage.format.table import Segment
from storage.repository.place_table import PlaceTable

DAMAGED_NAMED_MAX: Final = 4
"""Packs that one error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An object with segments. Offsets of its segments count from `area_start`."""

    name: str
    object_type: ObjectType
    area_start: int
    segments: tuple[Segment, ...]
    size: int
    """Of the whole object; bytes."""


class Place(NamedTuple):
    """Where a chunk lies: in which container and segment, from which raw byte, how long."""

    container: Container
    segment: int
    start: int
    length: int


Unreadable = Mapping[tuple[str, int], StorageError]
"""Segments that cannot be read, by container and number, and why."""


class DamagedPack(Body, frozen=True):
    """A live pack whose footer alone tells what is in it, and cannot be read: none of its chunks is known."""

    name: str
    size: int
    footer_digest: bytes
    why: str


class Places(Protocol):
    """Where chunks lie, for whoever reads them; a chunk may be moved while he does."""

    @property
    def looks(self) -> int:
        """Return how often the log was looked at again."""

    def place(self, kind: BoxKind, chunk_id: bytes) -> Place:
        """Return where a chunk lies. Raises ObjectMissing."""

    async def look_again(self, looks: int) -> bool:
        """Something was not where it should be: return whether the log may say by now where it is.

        Args:
            looks: as they were before the place was asked for; who comes second finds the first one's answer.
        """

    async def look_elsewhere(
        self, kind: BoxKind, chunk_ids: Collection[bytes], unreadable: Unreadable
    ) -> bool:
        """What cannot be read where it should be is damaged: look whether there are other copies of it.

        From then on `place` tells of other places than the unreadable ones, or raises why they are.

        Args:
            chunk_ids: what was wanted, and has no place or one of these.

        Returns:
            Whether some of the wanted chunks have a place now.
        """


class _Tables:
    """Places of both classes, and the containers by the numbers under which places name them.

    They mean something only together, so what replaces one of them replaces all.
    """

    __slots__ = ("data", "meta", "numbered")

    def __init__(self) -> None:
        self.data, self.meta = PlaceTable(), PlaceTable()
        self.numbered: list[Container] = []

    def add(self, container: Container) -> None:
        number = len(self.numbered)
        self.numbered.append(container)
        for segment in container.segments:
            self.of(segment.kind).put(number, segment.index, segment.refs)

    def of(self, kind: BoxKind) -> PlaceTable:
        return self.data if kind is BoxKind.DATA else self.meta


class ChunkIndex:
    """Live chunks by class and id.

    One thread may change it while others look for places: readers hold no lock.
    """

    looks = 0

    def __init__(self) -> None:
        self._tables = _Tables()
        self.containers: dict[str, Container] = {}
        self.damaged: dict[str, DamagedPack] = {}
        """Packs in which a chunk may lie that is known nowhere else, by name."""

    def add(self, container: Container) -> None:
        """Make the chunks of a container findable. The first place of a chunk stays its place."""
        self.containers[container.name] = container
        self._tables.add(container)

    def retire(self, name: str) -> None:
        """Forget a container and every chunk that is found there only."""
        self.retire_all([name])

    def retire_all(self, names: Iterable[str]) -> None:
        """Forget containers; chunks that lie in another one as well are found there from now on."""
        gone = [self.containers.pop(name) for name in names if name in self.containers]
        if not gone:
            return
        tables = _Tables()
        for container in self.containers.values():
            tables.add(container)
        self._tables = tables  # at once: a reader must not follow an old number to another container

    def knows(self, kind: BoxKind, chunk_id: bytes) -> bool:
        """Return whether a chunk is stored already."""
        return self._tables.of(kind).get(chunk_id) is not None

    def place(self, kind: BoxKind, chunk_id: bytes) -> Place:
        """Return where a chunk lies."""
        tables = self._tables
        found = (tables.data if kind is BoxKind.DATA else tables.meta).get(chunk_id)
        if found is None:
            raise self._missing(chunk_id)
        number, segment, start, length = found
        return Place(tables.numbered[number], segment, start, length)

    def _missing(self, chunk_id: bytes) -> ObjectMissing:
        if not self.damaged:
            return ObjectMissing(what="chunk is in no live object", chunk=chunk_id.hex())
        named = sorted(self.damaged)[:DAMAGED_NAMED_MAX]
        more = f" and {len(self.damaged) - len(named)} more" if len(self.damaged) > len(named) else ""
        what = "chunk is in no object that can be read; this pack is damaged"
        return ObjectMissing(what=what, object=", ".join(named) + more, chunk=chunk_id.hex())

    async def look_again(self, looks: int) -> bool:
        """Return False: this is the log of one moment. `CurrentPlaces` follows it."""
        return False

    async def look_elsewhere(
        self, kind: BoxKind, chunk_ids: Collection[bytes], unreadable: Unreadable
    ) -> bool:
        """Return False: whoever decides by the log looks for no other copies. `CurrentPlaces` does."""
        return False

    def seconds(self) -> list[tuple[Container, Segment]]:
        """Return the segments with chunks that have their place somewhere else.

        It asks for every chunk, a microsecond each, because nothing about second places is kept: for a
        thread, and only where damage was met.
        """
        tables = self._tables
        return [
            (container, segment)
            for number, container in enumerate(list(tables.numbered))
            for segment in container.segments
            if tables.of(segment.kind).is_elsewhere(number, segment.index, segment.refs)
        ]

    def settle(self) -> None:
        """Give back memory that only the reading of the log needed."""
        self._tables.data.settle()
        self._tables.meta.settle()

    def counts(self) -> tuple[int, int]:
        """Return how many data and meta chunks are known."""
        return len(self._tables.data), len(self._tables.meta)

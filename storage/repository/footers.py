"""Reads what is in packs of which the log says no more than their names: from their own footers.

A footer that cannot be read stops only who needs something of that pack. The log keeps it as damaged, with
none of its chunks, and whoever decides what may go refuses while there is one (`state.py`, "damaged").

Source: storage.md 4.1 "Pack"; docs/design/0018-proof-of-the-storage.md.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from storage.errors import FormatError, KeyMissing, ObjectDamaged, ObjectNotFound
from storage.format.entries import PackRef
from storage.format.header import ObjectType, open_header
from storage.format.keys import EpochKeys
from storage.format.limits import HEADER_BYTES, KIB, TRAILER_BYTES
from storage.format.pack import Footer, read_footer, read_trailer
from storage.format.table import Table
from storage.objects.store import ObjectInfo
from storage.repository.index import DamagedPack
from storage.repository.prefixed import Prefixed
from storage.repository.slots import RepositoryKeys
from storage.repository.state import pack_name
from storage.repository.together import together

READS_AT_ONCE: Final = 16
TAIL_BYTES: Final = 64 * KIB
"""Of the end of a pack that no entry describes, fetched first: the footer of a usual pack is shorter."""

KeysOf: TypeAlias = Callable[[bytes, str], EpochKeys]
"""Returns the keys for an object from its header and its name."""


class Footers:
    """Footers of the packs of one repository."""

    def __init__(self, place: Prefixed, keys: RepositoryKeys) -> None:
        self._place = place
        self._keys = keys
        self._looked_at = 0

    async def required(
        self, refs: Sequence[PackRef], retired: set[str], *, beside: bool = False
    ) -> list[Table | None]:
        """Read the tables of references that carry none; a pack that was retired meanwhile may be gone.

        Raises:
            FormatError, RepositoryError: one of them cannot be read.
        """
        asked = [(pack_name(ref, beside=beside), ref) for ref in refs if ref.table is None]
        reads = [self._table(name, ref, retired) for name, ref in asked]
        return await together(reads, at_once=READS_AT_ONCE)

    async def live(
        self, refs: Sequence[PackRef], retired: set[str]
    ) -> tuple[list[Table | None], list[DamagedPack]]:
        """Read the same of the main line's packs; one that cannot be read is told, and its table is None.

        One that an R behind gave up may be gone by now: the state drops it when it meets that R.
        """
        asked = [ref for ref in refs if ref.table is None]
        found = await together([self._live(ref, retired) for ref in asked], at_once=READS_AT_ONCE)
        tables = [None if isinstance(one, DamagedPack) else one for one in found]
        return tables, [one for one in found if isinstance(one, DamagedPack)]

    async def is_one_back(self, damaged: Sequence[DamagedPack]) -> bool:
        """Return whether a pack that was damaged can be read by now, of some that are looked at in turn."""
        first = self._looked_at % len(damaged)
        turn = [*damaged[first:], *damaged[:first]][:READS_AT_ONCE]
        self._looked_at = first + len(turn)
        reads = [self._or_why(one.name, one.size, one.footer_digest) for one in turn]
        return any(isinstance(one, Table) for one in await together(reads, at_once=READS_AT_ONCE))

    async def _table(self, name: str, ref: PackRef, retired: set[str]) -> Table | None:
        return None if name in retired else await self._read(name, ref.size, ref.footer_digest)

    async def _live(self, ref: PackRef, retired: set[str]) -> Table | DamagedPack | None:
        name = pack_name(ref, beside=False)
        if name in retired:
            return None
        found = await self._or_why(name, ref.size, ref.footer_digest)
        return DamagedPack(name, ref.size, ref.footer_digest, found) if isinstance(found, str) else found

    async def _or_why(self, name: str, size: int, footer_digest: bytes) -> Table | str:
        try:
            return await self._read(name, size, footer_digest)
        except (FormatError, KeyMissing, ObjectDamaged) as exc:
            return str(exc)

    async def _read(self, name: str, size: int, footer_digest: bytes) -> Table:
        try:
            start = await self._place.get(name, length=HEADER_BYTES)
            trailer = await self._place.get(name, start=size - TRAILER_BYTES)
            footer_bytes, count = read_trailer(trailer, pack_bytes=size, name=name)
            at = size - TRAILER_BYTES - footer_bytes
            raw = await self._place.get(name, start=at, length=footer_bytes)
        except ObjectNotFound as exc:
            raise ObjectDamaged(object=name, what="missing") from exc
        header = open_header(self._keys.of_header(start, name), start, ObjectType.PACK, name)
        footer = read_footer(header, raw, count, pack_bytes=size, name=name)
        if footer.footer_digest != footer_digest:
            raise ObjectDamaged(object=name, what="another footer than the log names")
        return footer.table


async def unnamed_footer(place: Prefixed, info: ObjectInfo, keys_of: KeysOf) -> Footer | None:
    """Return the footer of a pack that was only listed, from its two ends; None if it does not open, or if
    the listing is wrong about its length.
    """
    if info.size < HEADER_BYTES + TRAILER_BYTES:
        return None
    try:
        head = await place.get(info.name, length=HEADER_BYTES)
        header = open_header(keys_of(head, info.name), head, ObjectType.PACK, info.name)
        start = max(HEADER_BYTES, info.size - TAIL_BYTES)
        tail = await place.get(info.name, start=start, length=info.size - start + 1)
        footer_bytes, count = read_trailer(tail[-TRAILER_BYTES:], pack_bytes=info.size, name=info.name)
        wanted = footer_bytes + TRAILER_BYTES
        if wanted > len(tail):
            tail = await place.get(info.name, start=info.size - wanted, length=wanted + 1)
        raw = tail[-wanted:-TRAILER_BYTES]
        return read_footer(header, raw, count, pack_bytes=info.size, name=info.name)
    except (ObjectNotFound, ObjectDamaged, KeyMissing, FormatError):
        return None

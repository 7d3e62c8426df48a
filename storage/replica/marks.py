"""Which of several stores is the main one: an identity per store, and marks that only ever count up.

    stores/id               ["CKPT", 1, id (16)]
    stores/main-<8 digits>  ["CKPT", 1, number, id of the main store, at_ms, actor, reason]

Both are created once and never changed.

A store may be written as the main one only while the highest mark that anybody knows of names it. Marks are
witnessed in three places: on the store itself, on the other one, and in a file of the machine; whoever is
asked to write to a store that an older mark named finds a newer one in at least one of them. A store without
any mark is a main one that never had a second: nothing changes for it.

Not a lock: a node that is cut off from all three can still write into its old store. Nothing of that reaches
the new one, and when both meet the logs differ under one number, which stops replication with an alarm.

Source: docs/design/0011-second-target.md.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from storage.errors import Malformed, NotMain, ObjectNotFound, StoreRefused
from storage.format.encoding import Body, decode, encode
from storage.objects.store import ObjectStore
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create

SAME_PLACE: Final = "the second store is the first one, or a copy made past this service"
PREFIX: Final = "stores/"
ID_NAME: Final = "id"
ID_BYTES: Final = 16
MAGIC: Final = "CKPT"
VERSION: Final = 1
_MARK: Final = re.compile(r"main-([0-9]{8})\Z")


class StoreId(Body, frozen=True):
    """Who a store is."""

    magic: str
    version: int
    id: bytes


class MainMark(Body, frozen=True):
    """Which store is the main one from this number on."""

    magic: str
    version: int
    number: int
    main: bytes
    at_ms: int
    actor: str
    reason: str


_id_decoder: Final = msgspec.msgpack.Decoder(StoreId)
mark_decoder: Final = msgspec.msgpack.Decoder(MainMark)


def mark_name(number: int) -> str:
    """Return the name of a mark below `stores/`."""
    return f"main-{number:08d}"


class Marks:
    """Identity and marks of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._place = Prefixed(store, PREFIX)

    async def id(self) -> bytes | None:
        """Return who the store is, or None if it was never told."""
        raw = await self._place.find(ID_NAME)
        if raw is None:
            return None
        found = decode(_id_decoder, raw, what="identity of a store")
        if found.magic != MAGIC or found.version != VERSION or len(found.id) != ID_BYTES:
            raise Malformed(rule="identity of a store", object=PREFIX + ID_NAME)
        return found.id

    async def named(self, fresh: Callable[[int], bytes]) -> bytes:
        """Return who the store is, given a name if it has none."""
        known = await self.id()
        if known is None:
            await settle_create(self._place, ID_NAME, encode(StoreId(MAGIC, VERSION, fresh(ID_BYTES))))
            known = await self.id()
        if known is None:
            raise StoreRefused(reason="the identity of a store is gone after it was made")
        return known

    async def newest(self) -> MainMark | None:
        """Return the highest mark."""
        numbers = [int(match[1]) async for info in self._place.list() if (match := _MARK.match(info.name))]
        if not numbers:
            return None
        name = mark_name(max(numbers))
        try:
            found = decode(mark_decoder, await self._place.get(name), what="mark of a main store")
        except ObjectNotFound as exc:
            raise Malformed(rule="mark of a main store", object=PREFIX + name) from exc
        if found.magic != MAGIC or found.version != VERSION or found.number != max(numbers):
            raise Malformed(rule="mark of a main store", object=PREFIX + name)
        return found

    async def has(self, number: int) -> bool:
        """Return whether there is a mark with this number, by one HEAD."""
        return await self._place.head(mark_name(number)) is not None

    async def put(self, mark: MainMark) -> None:
        """Place a mark. Raises NotMain if another one has this number."""
        if not await settle_create(self._place, mark_name(mark.number), encode(mark)):
            raise NotMain(what="another store was named at the same time", number=mark.number)


def new_mark(number: int, main: bytes, *, at_ms: int, actor: str, reason: str) -> MainMark:
    """Return a mark to be placed."""
    return MainMark(MAGIC, VERSION, number, main, at_ms, actor, reason)


def require_main(own: bytes | None, *witnesses: MainMark | None) -> MainMark | None:
    """Return the highest mark that any witness knows; it must name the store `own`.

    Raises:
        NotMain: it names another store.
    """
    newest = max((one for one in witnesses if one is not None), key=lambda one: one.number, default=None)
    if newest is None:
        return None
    if any(one is not None and one.number == newest.number and one.main != newest.main for one in witnesses):
        raise NotMain(what="two stores were named under one number", number=newest.number)
    if newest.main != own:
        raise NotMain(
            what="another store is the main one",
            number=newest.number,
            main=newest.main.hex(),
            this=own.hex() if own is not None else "",
            since_ms=newest.at_ms,
        )
    return newest


async def pair(
    main: ObjectStore,
    second: ObjectStore,
    *,
    witness: MainMark | None,
    fresh: Callable[[int], bytes],
    at_ms: int,
) -> MainMark:
    """Let two stores know each other; return the mark under which `main` is the main one.

    Raises:
        NotMain: it is not.
        StoreRefused: both are the same place.
    """
    ours, theirs = Marks(main), Marks(second)
    own, other = await ours.named(fresh), await theirs.named(fresh)
    if own == other:
        raise StoreRefused(reason=SAME_PLACE)
    on_main, on_second = await ours.newest(), await theirs.newest()
    mark = require_main(own, on_main, on_second, witness)
    if mark is None:
        mark = new_mark(1, own, at_ms=at_ms, actor="service", reason="first second store")
    for marks, known in ((theirs, on_second), (ours, on_main)):
        if known is None or known.number < mark.number:
            await marks.put(mark)
    return mark


async def promote(
    second: ObjectStore,
    main: ObjectStore | None,
    *,
    witness: MainMark | None,
    fresh: Callable[[int], bytes],
    at_ms: int,
    actor: str,
    reason: str,
) -> MainMark:
    """Name the second store the main one; return the mark. Repeating it returns the mark that stands.

    The mark is placed on the second store first: from then on whoever asks it is refused as the old main. The
    old one is told as well where it answers; `main` is None where it does not.

    Raises:
        NotMain: yet another store was named since.
    """
    theirs = Marks(second)
    other = await theirs.named(fresh)
    ours = None if main is None else Marks(main)
    there = await theirs.newest()
    known = [witness, there, None if ours is None else await ours.newest()]
    mark = max((one for one in known if one is not None), key=lambda one: one.number, default=None)
    if mark is None or mark.main != other:
        if mark is not None and (there is None or there.number < mark.number):
            await theirs.put(mark)  # no number may be missing there: a copier looks for the next one only
        number = 1 if mark is None else mark.number + 1
        mark = new_mark(number, other, at_ms=at_ms, actor=actor, reason=reason)
        await theirs.put(mark)
    if ours is not None:
        newest = await ours.newest()
        if newest is None or newest.number < mark.number:
            await ours.put(mark)
    return mark

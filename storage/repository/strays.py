"""Finds objects that may hold whole copies of damaged chunks although the log does not count on them.

They lie there because nobody has swept them yet, or never may: entries that a fold took in, packs that were
moved out of, what a stale owner wrote, packs of a save that was killed, side checkpoints that wait for their
B. None of them is part of a repository's contents, and nothing here makes it so. But the id of a chunk says
what its bytes are, whoever left them lying, so who has lost a chunk may take it from there.

It costs a listing and one or two small reads for each object, so it is asked only by whoever met damage that
nothing else mends, once for each state of the log. What does not open is passed over without a word: of what
nobody needs any more, `verify` tells. So is an object that the store fails to give while it gives the others:
one bad disk of the store must not stop a restore that could go on without.
"""

from collections.abc import Sequence
from typing import Final

from storage.errors import FormatError, KeyMissing, ObjectDamaged, ObjectNotFound, StoreUnavailable
from storage.format import names
from storage.format.entries import decode_entry
from storage.format.envelope import open_head
from storage.format.header import ObjectType
from storage.format.limits import HEADER_BYTES
from storage.objects.store import ObjectInfo
from storage.repository.entry_head import find_head
from storage.repository.footers import KeysOf, unnamed_footer
from storage.repository.index import ChunkIndex, Container
from storage.repository.prefixed import Prefixed
from storage.repository.together import together

STRAYS_MAX: Final = 4_096
"""Objects of each kind that are looked into; they are swept by the next run of upkeep but one."""
READS_AT_ONCE: Final = 8
NOT_GIVEN_MAX: Final = 3
"""Objects that the store fails to give; at one more it is the store that is away."""
_PREFIXES: Final = (names.PACK_PREFIX, names.LOG_PREFIX, names.SIDE_PREFIX)


async def find_strays(place: Prefixed, keys_of: KeysOf, known: ChunkIndex) -> Sequence[Container]:
    """Return what lies in a repository with chunks in it and is not in an index.

    Raises:
        StoreError: the store does not answer.
    """
    found: list[Container | None] = []
    not_given: list[StoreUnavailable] = []
    answered = 0

    async def look(info: ObjectInfo) -> Container | None:
        nonlocal answered
        try:
            one = await _look(place, info, keys_of)
        except StoreUnavailable as exc:
            not_given.append(exc)
            if len(not_given) > NOT_GIVEN_MAX:
                raise
            return None
        answered += 1
        return one

    for prefix in _PREFIXES:
        listed: list[ObjectInfo] = []
        async for info in place.list(prefix):
            if info.name not in known.containers:
                listed.append(info)
            if len(listed) == STRAYS_MAX:
                break
        found += await together([look(info) for info in listed], at_once=READS_AT_ONCE)
    if not_given and not answered:
        raise not_given[0]
    return [container for container in found if container is not None]


async def _look(place: Prefixed, info: ObjectInfo, keys_of: KeysOf) -> Container | None:
    if info.name.startswith(names.PACK_PREFIX) or names.is_side_pack(info.name):
        return await _pack(place, info, keys_of)
    try:
        return await _entry(place, info, keys_of)
    except (ObjectNotFound, ObjectDamaged, KeyMissing, FormatError):
        return None


async def _pack(place: Prefixed, info: ObjectInfo, keys_of: KeysOf) -> Container | None:
    footer = await unnamed_footer(place, info, keys_of)
    if footer is None:
        return None
    return Container(
        name=info.name,
        object_type=ObjectType.PACK,
        area_start=HEADER_BYTES,
        segments=footer.segments,
        size=info.size,
    )


async def _entry(place: Prefixed, info: ObjectInfo, keys_of: KeysOf) -> Container | None:
    name = info.name
    is_side = name.startswith(names.SIDE_PREFIX)
    object_type = ObjectType.SIDE_CHECKPOINT if is_side else ObjectType.LOG_ENTRY
    raw = await find_head(place, name)
    if raw is None:
        return None
    head = open_head(keys_of(raw, name), object_type, name, raw)
    segments = decode_entry(head.kind, head.body).segments
    if not segments:
        return None
    return Container(
        name=name, object_type=object_type, area_start=head.area_start, segments=segments, size=info.size
    )

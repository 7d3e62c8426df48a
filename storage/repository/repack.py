"""Repacking: packs of which little is reached, and small packs, become few full ones.

A choice and nothing else: which packs are worth it, how much per run. What is reached of them is moved by
`moving.py`; the R that retires them and brings the new ones in is the collector's, placed right behind the
entries it was planned against, so a checkpoint that relied on an old pack plans again. The old packs go in
the next run.

Sparse: at least half of it is dead. A pack that is retired at half costs as many bytes to move as it frees,
so no byte is moved more than about once per halving of what it lies beside. Small: there are enough of them
to fill a good part of a pack, so that one of a small home is not written again each hour. After a leak (a V
that asks for a newer key epoch) everything that an older key opens is moved, whatever its share.

Source: storage.md 4.4 rules 3 to 6, 4.5 "Rotation".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from storage.format.header import ObjectType
from storage.format.limits import MIB
from storage.repository.index import ChunkIndex, Container
from storage.repository.mark import Marks
from storage.repository.state import LogState

LIVE_SHARE_MAX: Final = 0.5
"""A pack of which more than this is reached stays as it is."""
SMALL_BYTES: Final = 4 * MIB
"""A pack below this is small: four times as many objects as the same contents need."""
SMALL_PACKS_MIN: Final = 16
"""So many small packs are worth being made into one. Fewer are left alone: moving costs requests, too."""
DEAD_BYTES_MIN: Final = 1 * MIB
"""Less than this, dead in all sparse packs together, is not worth an entry."""
MOVED_BYTES_MAX: Final = 256 * MIB
"""Sealed bytes that one run reads to move them: some seconds on a local store. The rest waits for the next
run.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Packs to be retired after what is reached of them was moved, and why."""

    sparse: tuple[Container, ...] = ()
    small: tuple[Container, ...] = ()
    leaked: tuple[Container, ...] = ()

    @property
    def packs(self) -> tuple[Container, ...]:
        """Return all of them, each once."""
        return tuple({one.name: one for one in (*self.leaked, *self.sparse, *self.small)}.values())


def live_bytes(index: ChunkIndex, marks: Marks) -> dict[str, int]:
    """Return how many raw bytes are reached in each object that has reached chunks."""
    found: dict[str, int] = {}
    for kind, ids in marks.reached.items():
        for chunk_id in ids:
            place = index.place(kind, chunk_id)
            found[place.container.name] = found.get(place.container.name, 0) + place.length
    return found


def choose(
    state: LogState, live: Mapping[str, int], *, leaked: Sequence[str] = (), bytes_max: int = MOVED_BYTES_MAX
) -> Choice:
    """Return what is worth moving now, the worst first. Packs without a reached byte are not among it: they
    are retired as they are.

    Args:
        live: reached raw bytes by object.
        leaked: packs that a key opens which must not be used any more.
        bytes_max: sealed bytes that are read to move them. One pack is always taken, so that a run gets on.
    """
    packs = [
        one
        for one in state.index.containers.values()
        if one.object_type is ObjectType.PACK and one.name in state.packs and live.get(one.name, 0)
    ]
    out = [one for one in packs if one.name in set(leaked)]
    left = [one for one in packs if one.name not in set(leaked)]
    sparse = sorted((one for one in left if _share(one, live) <= LIVE_SHARE_MAX), key=lambda one: one.name)
    sparse.sort(key=lambda one: _share(one, live))
    dead = sum(one.size * (1 - _share(one, live)) for one in sparse)
    if dead < DEAD_BYTES_MIN:
        sparse = []
    thin = {one.name for one in sparse}
    small = [one for one in left if one.size < SMALL_BYTES and one.name not in thin]
    if len(small) < SMALL_PACKS_MIN:
        small = []
    small.sort(key=lambda one: (one.size, one.name))
    left_bytes = bytes_max
    chosen: list[tuple[Container, ...]] = []
    for part in (out, sparse, small):
        taken: list[Container] = []
        for one in part:
            first = not taken and not any(chosen)
            if one.size > left_bytes and not first:
                break
            taken.append(one)
            left_bytes -= one.size
        chosen.append(tuple(taken))
    return Choice(leaked=chosen[0], sparse=chosen[1], small=chosen[2])


def _share(container: Container, live: Mapping[str, int]) -> float:
    raw = sum(segment.raw_bytes for segment in container.segments)
    return live.get(container.name, 0) / raw if raw else 0.0

"""Packs that an earlier attempt of the same fence has stored and no entry names: what they hold is not
uploaded again.

A first checkpoint of a large home takes minutes; whoever makes it may be killed in the middle, and what it
had stored lies there, under names that begin with its fence. Nothing is written down about that beside the
store: the next attempt, on whatever machine, lists the fence's packs and reads their footers, so a cold start
equals a warm one. A pack that is relied on is first fetched whole and decoded, like one that was just
uploaded; so a claim costs reading, never trust.

Not a second truth: the entry that names a claimed pack is planned and placed like any other. Garbage
collection may give such a pack up at any time by an R; then the plan is older than the log and is thrown
away (storage.md 4.4 rule 5). A pack that an R has named already is never claimed, and where a fold may have
taken such an R in, nothing is: see docs/design/0017-saving-by-rule.md.
"""

from collections.abc import Callable, Mapping
from typing import Final

from storage.errors import (
    CommitContended,
    FormatError,
    ObjectDamaged,
    ObjectNotFound,
)
from storage.format import names
from storage.format.entries import EntryKind, PackRef
from storage.format.keys import BoxKind, EpochKeys
from storage.format.pack import Footer, check_pack
from storage.format.table import read_table
from storage.objects.store import ObjectInfo
from storage.ops.values import Progress
from storage.repository.footers import unnamed_footer
from storage.repository.log import CommitLog
from storage.repository.prefixed import Prefixed
from storage.repository.state import LogState
from storage.repository.threads import Stop, Threads
from storage.repository.together import together

LEFT_PACKS_MAX: Final = 4_096
"""64 GiB; what is beyond is uploaded again."""
FOOTERS_AT_ONCE: Final = 8
CLAIMS_AT_ONCE: Final = 2
"""Whole packs in memory while they are decoded: fewer than the buffers that a scan has just given back."""


class LeftPacks:
    """What was found, by chunk; remembers which packs somebody relies on."""

    def __init__(self, refs: Mapping[str, PackRef]) -> None:
        self._refs = dict(refs)
        self._where: dict[tuple[BoxKind, bytes], str] = {}
        self._used: set[str] = set()
        for name, ref in self._refs.items():
            assert ref.table is not None, "a footer has a table"
            for segment in read_table(ref.table):
                for chunk_id, _ in segment.chunks:
                    self._where.setdefault((segment.kind, chunk_id), name)

    @property
    def names(self) -> frozenset[str]:
        """Return the packs that were found."""
        return frozenset(self._refs)

    def begin(self) -> None:
        """Forget what an earlier scan relied on."""
        self._used.clear()

    def takes(self, kind: BoxKind, chunk_id: bytes) -> bool:
        """Return whether a chunk lies in a left pack, which is relied on from now on. For any thread."""
        name = self._where.get((kind, chunk_id))
        if name is None:
            return False
        self._used.add(name)
        return True

    def used(self) -> list[tuple[str, PackRef]]:
        """Return the packs that somebody relies on."""
        return [(name, self._refs[name]) for name in sorted(self._used)]


NOTHING_LEFT: Final = LeftPacks({})


async def find_left(
    fence: int, *, state: LogState, log: CommitLog, place: Prefixed, keys: EpochKeys, spoiled: set[str]
) -> LeftPacks:
    """Return the packs of a fence that no entry names and none ever gave up.

    Args:
        state: the log as it was read before this call; an entry that comes after it makes the plan void.
        spoiled: names that did not decode whole; they are left alone.

    Raises:
        CommitContended: the log grew meanwhile.
    """
    listed = [
        info
        async for info in place.list(f"{names.PACK_PREFIX}{fence}-")
        if info.name not in (state.packs.keys() | state.damaged.keys() | spoiled)
    ]
    if not listed:
        return NOTHING_LEFT
    given_up = await _given_up(fence, state, log)
    if given_up is None:
        return NOTHING_LEFT
    wanted = [info for info in listed if info.name not in given_up][:LEFT_PACKS_MAX]
    found = await together([_look(info, place, keys) for info in wanted], at_once=FOOTERS_AT_ONCE)
    return LeftPacks({info.name: ref for info, ref in zip(wanted, found, strict=True) if ref is not None})


async def _given_up(fence: int, state: LogState, log: CommitLog) -> Mapping[str, int] | None:
    """Return every name that an R gave up since the fence began; None where that cannot be known.

    A pack of this fence is younger than its E, so is an R that names it. An R that a fold took in, or that an
    index snapshot stands for, is not remembered; the chain itself has the latter.
    """
    began = max(
        (row.seq for row in state.rows if row.kind == EntryKind.TAKE_OVER and row.fence == fence), default=0
    )
    if not began or state.folded_to >= began:
        return None
    if state.snapshot_at < began:
        return state.retired
    chain = await log.another().refresh()
    if (chain.seq, chain.hash) != (state.seq, state.hash):
        raise CommitContended(what="the log grew while it was read", seq=state.seq)
    return None if chain.folded_to >= began else chain.retired


async def _look(info: ObjectInfo, place: Prefixed, keys: EpochKeys) -> PackRef | None:
    """Return the reference of a pack; None if this service did not make it whole, under these keys."""
    footer = await unnamed_footer(place, info, lambda header, name: keys)
    if footer is None:
        return None
    fence, pack_id = names.pack_parts(info.name)
    return PackRef(fence, pack_id, info.size, footer.footer_bytes, footer.footer_digest, footer.table)


async def claim(
    left: LeftPacks,
    *,
    place: Prefixed,
    keys: EpochKeys,
    threads: Threads,
    stop: Stop,
    spoiled: set[str],
    progress: Callable[[Progress], None],
) -> list[PackRef]:
    """Fetch the packs that a scan relied on, decode them whole, and return their references.

    Raises:
        CommitContended: one of them is gone or does not decode; scan again, without it.
    """
    moved_bytes = 0

    async def one(name: str, ref: PackRef) -> PackRef:
        nonlocal moved_bytes
        try:
            raw = await place.get(name, length=ref.size + 1)
            footer: Footer = await threads.run(stop, check_pack, keys, name, raw)
        except (ObjectNotFound, ObjectDamaged, FormatError) as exc:
            spoiled.add(name)
            raise CommitContended(what="a pack of an earlier attempt is not whole", object=name) from exc
        if (footer.footer_digest, len(raw)) != (ref.footer_digest, ref.size):
            spoiled.add(name)
            raise CommitContended(what="a pack of an earlier attempt is another one", object=name)
        moved_bytes += len(raw)
        progress(Progress(stage="upload", done=moved_bytes, unit="bytes"))
        return ref

    return list(await together([one(name, ref) for name, ref in left.used()], at_once=CLAIMS_AT_ONCE))

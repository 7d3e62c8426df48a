"""Which objects a replica is to have, in which order, and what each of them must be: the plan of replication.

Pure: it is given the main store's log and what is listed there, and returns names with what the log says of
them. Order is the safety of it: config, key slots, guards of folds, then packs, histories and side
checkpoints, then entries ascending, receipts last; so whatever stands on the replica has beneath it what it
names, and a copy that ends anywhere is a shorter log, not a broken one.

Not here: reading and writing (`copier.py`), what may be removed (`repository/removal.py`).

Source: docs/design/0011-second-target.md; storage.md 4.5 "Erasure" for the order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from storage.format import names
from storage.repository.index import Container
from storage.repository.removal import may_go
from storage.repository.state import FOREIGN_KIND, LogState

_FIRST: Final = (names.CONFIG, names.KEY_PREFIX, names.GUARD_PREFIX)
_BEFORE_ENTRIES: Final = (names.PACK_PREFIX, names.HISTORY_PREFIX, names.SIDE_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One object that the replica is to have. What the log does not say is None."""

    name: str
    hash: bytes | None = None
    """Of the head of an entry, a side checkpoint or a history; of a pack, the digest of its footer."""
    container: Container | None = None
    time_ms: int | None = None
    """Of an entry: when it was written."""
    foreign: bool = False
    """Stepped over: no entry. It is copied as it is, for a reader who comes from below; `hash` is that
    of the whole object.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a replica is known to follow: what stood in the main log when everything up to it was there."""

    seq: int
    hash: bytes
    histories: int
    key_epoch: int


def wanted_of(state: LogState, listed: Iterable[str]) -> list[Wanted]:
    """Return everything that a whole replica of this log has, in order.

    Args:
        listed: names on the main store. They tell what no entry speaks of: slots, receipts, guards, side
            checkpoints whose B is still to come.
    """
    found: dict[str, Wanted] = {}
    for name in listed:
        loose = name.startswith((*_FIRST, names.RECEIPT_PREFIX))
        early_side = name.startswith(names.SIDE_PREFIX) and not may_go(state, name)
        if loose or early_side:
            found[name] = Wanted(name=name)
    found[names.CONFIG] = Wanted(name=names.CONFIG, hash=state.config_hash)
    _add_named(found, state)
    for seq in range(state.folded_to + 1, state.seq + 1):
        _add_entry(found, state, seq)
    return in_order(found.values())


def wanted_since(state: LogState, known: Position) -> list[Wanted] | None:
    """Return what came since a position, in order; None where only a full comparison can tell."""
    row = state.row(known.seq)
    if row is None or row.hash != known.hash or state.folded_to > known.seq:
        return None
    found: dict[str, Wanted] = {}
    for number in range(known.histories + 1, len(state.histories) + 1):
        found[names.fold_guard(number)] = Wanted(name=names.fold_guard(number))
        name, hash_ = state.histories[number - 1]
        found[name] = Wanted(name=name, hash=hash_)
    for seq in range(known.seq + 1, state.seq + 1):
        side = state.sides.get(seq)
        rows = [state.rows[seq - 1]]
        if side is not None:
            found[side.name] = Wanted(
                name=side.name, hash=side.hash, container=state.index.containers.get(side.name)
            )
            rows += [side.row] if side.row is not None else []
        for name in (name for one in rows for name in one.containers):
            if name in state.packs:
                found[name] = _pack(state, name)
            elif names.is_side_pack(name):
                found[name] = Wanted(name=name, container=state.index.containers.get(name))
        _add_entry(found, state, seq)
    return in_order(found.values())


def in_order(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return objects in the order in which they are created."""
    return sorted(wanted, key=lambda one: (rank(one.name), one.name))


def rank(name: str) -> int:
    """Return the stage of a name: 0 what opens a repository, 1 content, 2 entries, 3 receipts."""
    if name.startswith(_FIRST):
        return 0
    if name.startswith(_BEFORE_ENTRIES):
        return 1
    return 2 if name.startswith(names.LOG_PREFIX) else 3


def newest_entry(listed: Iterable[str]) -> int:
    """Return the highest number of a log entry in a listing, 0 without any."""
    return max((names.log_entry_seq(name) for name in listed if name.startswith(names.LOG_PREFIX)), default=0)


def odd_sizes(wanted: Iterable[Wanted], there: Mapping[str, int]) -> list[str]:
    """Return the containers that lie on the replica with another size than the log says."""
    return [
        one.name
        for one in wanted
        if one.container is not None and there.get(one.name, one.container.size) != one.container.size
    ]


def _add_named(found: dict[str, Wanted], state: LogState) -> None:
    for name in state.packs:
        found[name] = _pack(state, name)
    for name, hash_ in state.histories:
        found[name] = Wanted(name=name, hash=hash_)
    for side in state.sides.values():
        found[side.name] = Wanted(
            name=side.name, hash=side.hash, container=state.index.containers.get(side.name)
        )
    for name, container in state.index.containers.items():
        if name not in found and not name.startswith(names.LOG_PREFIX):
            found[name] = Wanted(name=name, container=container)


def _add_entry(found: dict[str, Wanted], state: LogState, seq: int) -> None:
    name, row = names.log_entry(seq), state.rows[seq - 1]
    found[name] = Wanted(
        name=name,
        hash=row.hash,
        container=state.index.containers.get(name),
        time_ms=row.time_ms,
        foreign=row.kind == FOREIGN_KIND,
    )


def _pack(state: LogState, name: str) -> Wanted:
    return Wanted(
        name=name,
        hash=state.packs[name].footer_digest,
        container=state.index.containers.get(name),
    )

"""Which key epochs the live objects of a repository were made under: what a leak still opens.

An object names its key in its plain header, so 64 bytes of each are read and nothing is opened. A repack asks
this for the packs and entries to move; people see the counts in `keys show`.

Source: storage.md 4.5 "Rotation".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from storage.format import names
from storage.format.header import header_key_id
from storage.format.limits import HEADER_BYTES
from storage.repository.prefixed import Prefixed
from storage.repository.slots import RepositoryKeys
from storage.repository.state import LogState
from storage.repository.together import together

AT_ONCE: Final = 16
"""Headers read at the same time; a request has 64 bytes of answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochUse:
    """What lies under one key epoch."""

    key_epoch: int
    """0: no slot here opens it."""
    key_id: str
    packs: tuple[str, ...] = ()
    """Names of live packs."""
    entries: tuple[str, ...] = ()
    """Names of entries of the log that are still objects of their own, and of histories."""


async def epochs_in_use(place: Prefixed, keys: RepositoryKeys, state: LogState) -> list[EpochUse]:
    """Return what lies under each key epoch, the oldest first; epochs with a slot and no object too.

    Raises:
        StorageError: an object that the log needs is missing, or has no header.
    """
    found: dict[bytes, list[str]] = {key: [] for key in keys.epochs}
    wanted = sorted(_live(state))
    reads = [place.get(name, length=HEADER_BYTES) for name in wanted]
    for name, raw in zip(wanted, await together(reads, at_once=AT_ONCE), strict=True):
        found.setdefault(header_key_id(raw, name), []).append(name)
    uses = [
        EpochUse(
            key_epoch=keys.numbers.get(key, 0),
            key_id=key.hex(),
            packs=tuple(name for name in under if name.startswith(names.PACK_PREFIX)),
            entries=tuple(name for name in under if not name.startswith(names.PACK_PREFIX)),
        )
        for key, under in found.items()
    ]
    return sorted(uses, key=lambda use: (use.key_epoch, use.key_id))


def older_than(uses: Iterable[EpochUse], key_epoch: int) -> tuple[str, ...]:
    """Return the packs and entries that a repack after a leak must move: those of an older key epoch."""
    return tuple(name for use in uses if use.key_epoch < key_epoch for name in (*use.packs, *use.entries))


def _live(state: LogState) -> set[str]:
    entries = {names.log_entry(row.seq) for row in state.rows if row.seq > state.folded_to}
    histories = {name for name, _ in state.histories[-1:]}
    return set(state.packs) | entries | histories

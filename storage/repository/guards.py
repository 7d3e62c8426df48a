"""Guards of folds: `g/<number>` says that the log's fold of that number may have happened.

A fold frees numbers, so a writer that planned before it must not believe an entry that he placed behind it.
One look at the guard of the next fold tells him. A guard is created before its fold, and never removed: one
that is lost is made again by the next upkeep.

Source: docs/design/0008-retention-and-gc.md, "The guard of a fold".
"""

from collections.abc import Collection

from storage.errors import CollectRefused, Malformed
from storage.format import names
from storage.format.encoding import encode
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create


def guard_bytes(number: int) -> bytes:
    """Return what lies under the guard's name."""
    return encode(["CKPT", 1, number])


def check_guard(name: str, raw: bytes) -> None:
    """Raise Malformed if a guard holds anything else. That it is there is all that a writer looks at."""
    if raw != guard_bytes(names.guard_number(name)):
        raise Malformed(rule="guard of a fold", object=name)


async def raise_guard(place: Prefixed, number: int) -> None:
    """Create the guard of a fold, if it is not there, and see it.

    Raises:
        CollectRefused: it cannot be seen.
    """
    name = names.fold_guard(number)
    await settle_create(place, name, guard_bytes(number))
    if await place.head(name) is None:
        raise CollectRefused(what="the guard of the fold is not there", object=name)


def missing_guards(folds: int, listed: Collection[str]) -> list[int]:
    """Return the folds of a log, counted from 1, whose guard is not listed."""
    return [number for number in range(1, folds + 1) if names.fold_guard(number) not in listed]

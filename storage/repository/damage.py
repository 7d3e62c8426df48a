"""What of a repository cannot be given, and why: the one place that tells damage from every other failure.

Damage is of the objects: one is missing, cut, changed, or names a key that nobody has. A store that does not
answer is none, because trying again helps; nor is an object that only a newer version reads; nor is a tree
that came whole out of its object and breaks a rule of the format: somebody wrote it so, and nothing of it is
used. Not here: what is done about damage. A restore leaves out what needs the object and goes on; whoever
decides what may be removed stops.
"""

from dataclasses import dataclass
from typing import Final

from storage.errors import (
    FormatError,
    KeyMissing,
    LimitReached,
    NewerServiceNeeded,
    ObjectDamaged,
    StorageError,
)

_NO_DAMAGE: Final = (NewerServiceNeeded, LimitReached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One object that cannot be used. `object` names several where it is not known which; it is empty where
    none could be told.
    """

    object: str
    reason: str


def damage_of(exc: StorageError, *, name: str = "") -> Damage | None:
    """Return the damage that an error tells of; None for every other error.

    Args:
        name: the object that was being opened, for errors that do not name it. Without either an error of the
            format is one of what was in the object.
    """
    if not isinstance(exc, ObjectDamaged | KeyMissing | FormatError) or isinstance(exc, _NO_DAMAGE):
        return None
    told, what = exc.facts.get("object"), exc.facts.get("what")
    found = told if isinstance(told, str) and told else name
    if not found and isinstance(exc, FormatError):
        return None
    return Damage(object=found, reason=what if isinstance(what, str) else str(exc))

"""Noncurrent versions of objects: where a bucket keeps what was deleted, erasure has to reach that too.

Beside the contract of an object store, because no other part of the format knows of versions. A store that
keeps none says so with an empty list; a store that cannot say (no such call, or no right to it) with None,
and then the erasure's receipt says that nobody knows.

Source: storage.md 4.5 "Erasure".
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from storage.objects.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """One version of an object, or the mark that it was deleted."""

    name: str
    version: str
    is_mark: bool = False
    """The mark of a deletion: with it gone, the newest version that is left counts again."""


@runtime_checkable
class Versioned(Protocol):
    """A store that can be asked about versions."""

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        """Return every version and mark below a prefix, complete, or None if the store cannot say."""

    async def delete_version(self, name: str, version: str) -> None:
        """Remove one of them for ever; "already gone" is done. Raises ObjectLocked: the store keeps it."""


async def versions_below(store: ObjectStore, prefix: str) -> tuple[ObjectVersion, ...] | None:
    """Return what `store` keeps of deleted and replaced objects below a prefix; None: it cannot say."""
    return await store.list_versions(prefix) if isinstance(store, Versioned) else None


async def delete_version(store: ObjectStore, one: ObjectVersion) -> None:
    """Remove one version. Called by `repository/removal.py` only."""
    assert isinstance(store, Versioned), "it listed this version"
    await store.delete_version(one.name, one.version)

"""The contract of an object store: create-only writes, ranged reads, complete listings.

This is the port of `storage`; the adapters (a folder, S3) lie beside it. It is deliberately small: there is
no overwrite and no rename, because every object of a repository is written once. Names are ASCII, lower case,
parts separated by `/`, relative to the prefix of the store. What each failure means is part of the contract:
the commit log draws conclusions from it (storage.md 4.4, "Answers of PUT").
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One row of a listing."""

    name: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCheck:
    """One promise that a store was asked to show. `words` say what was seen, for a person."""

    name: str
    passed: bool
    needed: bool
    """Without it a repository cannot be safe; the others are told and lived with."""
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeVerdict:
    """What a store was seen to do; `usable` says that every needed check passed."""

    usable: bool
    checks: tuple[ProbeCheck, ...]
    took_ms: int


class ObjectStore(Protocol):
    """Where objects lie. Every method may raise StoreUnavailable (retryable) and StoreRefused (permanent)."""

    async def create(self, name: str, data: bytes | bytearray) -> None:
        """Write an object that must not exist yet; durable when this returns.

        Raises:
            ObjectExists: the name is taken (412), also by our own bytes of an earlier try.
            CreateConflict: 409, racing; the same bytes may be sent again.
            AmbiguousWrite: the bytes may have landed, or may land later. Never raised once ObjectExists is
            known.
        """

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return the object's bytes from `start`, at most `length`; fewer only where the object ends.

        Raises:
            ObjectNotFound: a clean 404 with the bucket reachable, and nothing else.
        """

    async def head(self, name: str) -> int | None:
        """Return the size, or None on a clean 404."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield every object whose name starts with `prefix`, ascending by bytes.

        An error raises, never ends.
        """

    async def delete(self, name: str) -> None:
        """Remove an object; "already gone" is done. Called by `repository/removal.py` only."""

    async def close(self) -> None:
        """Give back connections and threads."""

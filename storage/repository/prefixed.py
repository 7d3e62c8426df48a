"""The part of an object store that lies below one prefix, with the reads that a repository needs.

Names in a repository are relative to its prefix, and only the relative name goes into an object's key.
This is no `ObjectStore`: it cannot delete. The one thing that may is `removal.py`.
"""

from collections.abc import AsyncIterator

from storage.errors import ObjectNotFound
from storage.objects.pieces import piece_bytes
from storage.objects.store import ObjectInfo, ObjectStore


class Prefixed:
    """Objects below a prefix."""

    __slots__ = ("_store", "prefix")

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self.prefix = prefix

    @property
    def piece_bytes(self) -> int:
        """How much one request of a long read asks for."""
        return piece_bytes(self._store)

    async def create(self, name: str, data: bytes | bytearray) -> None:
        """Create an object; as `ObjectStore.create`."""
        await self._store.create(self.prefix + name, data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Read an object; as `ObjectStore.get`."""
        return await self._store.get(self.prefix + name, start=start, length=length)

    async def find(self, name: str, *, length: int | None = None) -> bytes | None:
        """Read an object from its beginning, or return None on a clean "no such object"."""
        try:
            return await self.get(name, length=length)
        except ObjectNotFound:
            return None

    async def head(self, name: str) -> int | None:
        """Return the size, or None on a clean "no such object"."""
        return await self._store.head(self.prefix + name)

    async def list(self, below: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield what lies below, with names relative to the prefix."""
        cut = len(self.prefix)
        async for found in self._store.list(self.prefix + below):
            yield ObjectInfo(name=found.name[cut:], size=found.size)

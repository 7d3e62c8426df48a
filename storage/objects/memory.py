"""Object store in memory: the strict twin of the real ones, for tests and simulations.

It yields to the event loop before and after each step, so that two writers really interleave, and it refuses
everything the narrowest real store would refuse. A bucket can be shared by several stores: two nodes, one
truth. It has no faults of its own; a wrapper in the tests adds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from storage.errors import ObjectExists, ObjectNotFound, StoreRefused
from storage.objects.names import OBJECT_BYTES_MAX, check_name, check_prefix
from storage.objects.store import ObjectInfo
from storage.objects.versions import ObjectVersion

PAGE = 100
"""Names read at once while listing: small, so that tests meet a listing that changes between pages."""


@dataclass(slots=True)
class MemoryBucket:
    """What would lie on disk."""

    objects: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """An `ObjectStore` over a `MemoryBucket`."""

    def __init__(self, bucket: MemoryBucket | None = None) -> None:
        self.bucket = bucket if bucket is not None else MemoryBucket()
        self._closed = False

    async def create(self, name: str, data: bytes | bytearray) -> None:
        check_name(name)
        assert len(data) <= OBJECT_BYTES_MAX, "the writer splits before this limit"
        await self._pause()
        objects = self.bucket.objects
        if name in objects:
            raise ObjectExists(name=name)
        parents = [name[:at] for at, letter in enumerate(name) if letter == "/"]
        if any(parent in objects for parent in parents) or any(
            other.startswith(f"{name}/") for other in objects
        ):
            raise StoreRefused(name=name, reason="one name is a folder of the other")
        objects[name] = bytes(data)
        await asyncio.sleep(0)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        assert start >= 0
        assert length is None or length >= 0
        await self._pause()
        try:
            data = self.bucket.objects[name]
        except KeyError:
            raise ObjectNotFound(name=name) from None
        return data[start:] if length is None else data[start : start + length]

    async def head(self, name: str) -> int | None:
        check_name(name)
        await self._pause()
        data = self.bucket.objects.get(name)
        return None if data is None else len(data)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        after = ""
        while True:
            await self._pause()
            names = sorted(name for name in self.bucket.objects if name.startswith(prefix) and name > after)[
                :PAGE
            ]
            page = [ObjectInfo(name=name, size=len(self.bucket.objects[name])) for name in names]
            for info in page:
                yield info
            if len(page) < PAGE:
                return
            after = page[-1].name

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._pause()
        self.bucket.objects.pop(name, None)
        await asyncio.sleep(0)

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...]:
        """None are kept."""
        check_prefix(prefix)
        await self._pause()
        return ()

    async def delete_version(self, name: str, version: str) -> None:
        raise AssertionError("it lists none")

    async def close(self) -> None:
        self._closed = True

    async def _pause(self) -> None:
        if self._closed:
            raise StoreRefused(reason="the object store was closed")
        await asyncio.sleep(0)

"""A store that counts what is asked of it: what a provider would bill, and what an operator watches rise.

Around an adapter and within the retries, so that each try counts. Nothing decides by it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from storage.errors import ObjectExists, ObjectNotFound, StoreError
from storage.objects.store import ObjectInfo, ObjectStore
from storage.objects.versions import ObjectVersion, delete_version, versions_below

LIST_PAGE: Final = 1_000
"""Rows of one answer to a listing, as S3 has it: each further page is a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTraffic:
    """What one process asked of a store since it opened it."""

    requests: dict[str, int]
    """By kind: put, get, head, list, delete, versions."""
    failures: int
    """Requests without an answer that says something: the store was away, slow, or refused."""
    sent_bytes: int
    """Bodies of writes, also of those that failed."""
    fetched_bytes: int


KINDS: Final = ("put", "get", "head", "list", "delete", "versions")


class CountedStore:
    """An `ObjectStore` that counts."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self._requests: Counter[str] = Counter()
        self._failures = 0
        self._sent_bytes = 0
        self._fetched_bytes = 0

    def traffic(self) -> StoreTraffic:
        """Return the counts as they are now."""
        return StoreTraffic(
            requests={kind: self._requests[kind] for kind in KINDS},
            failures=self._failures,
            sent_bytes=self._sent_bytes,
            fetched_bytes=self._fetched_bytes,
        )

    @contextmanager
    def _one(self, kind: str) -> Iterator[None]:
        self._requests[kind] += 1
        try:
            yield
        except (ObjectExists, ObjectNotFound):
            raise  # an answer like another
        except StoreError:
            self._failures += 1
            raise

    async def create(self, name: str, data: bytes | bytearray) -> None:
        self._sent_bytes += len(data)
        with self._one("put"):
            await self.inner.create(name, data)

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        with self._one("get"):
            found = await self.inner.get(name, start=start, length=length)
        self._fetched_bytes += len(found)
        return found

    async def head(self, name: str) -> int | None:
        with self._one("head"):
            return await self.inner.head(name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        rows = 0
        with self._one("list"):
            async for info in self.inner.list(prefix):
                if rows and rows % LIST_PAGE == 0:
                    self._requests["list"] += 1
                rows += 1
                yield info

    async def delete(self, name: str) -> None:
        with self._one("delete"):
            await self.inner.delete(name)

    async def list_versions(self, prefix: str) -> tuple[ObjectVersion, ...] | None:
        with self._one("versions"):
            return await versions_below(self.inner, prefix)

    async def delete_version(self, name: str, version: str) -> None:
        with self._one("delete"):
            await delete_version(self.inner, ObjectVersion(name=name, version=version))

    async def close(self) -> None:
        await self.inner.close()

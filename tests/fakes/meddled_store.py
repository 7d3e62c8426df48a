"""A store in memory in which something happens before one of the reads: what others do meanwhile."""

from collections.abc import Awaitable, Callable

from storage.objects.memory import MemoryBucket, MemoryStore
from tests.fakes.faulty_store import FaultyStore

Meddle = Callable[[], Awaitable[object]]


class Meddled(FaultyStore):
    """Lets something happen before one of the reads of it, counted from 1."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(MemoryStore(bucket))
        self.reads = 0
        self.at = 0
        self.meddle: Meddle | None = None

    def plan_meddling(self, at: int, meddle: Meddle) -> None:
        """Count reads from now, and let it happen before the one with this number."""
        self.reads, self.at, self.meddle = 0, at, meddle

    async def get(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        if self.meddle is not None and self.reads == self.at:
            meddle, self.meddle = self.meddle, None
            await meddle()
        return await super().get(name, start=start, length=length)

"""A storage front door over a store in memory: opened often, crashed often, with caches that can be thrown
away.

Every "node" has its own cache folder and its own faulty store over one shared bucket, so that two of them
behave as two machines do.
"""

import hashlib
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from storage import KeyWays, Retention, RetryPolicy, Storage, WorkspaceRef
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.watch.watching import Watching
from tests.fakes.faulty_store import FaultyStore

MASTER_KEY = bytes(range(32))
REF = WorkspaceRef(tenant="aa" * 8, workspace="bb" * 8)
PREFIX = f"t/{REF.tenant}/w/{REF.workspace}/"
KEEP_ONE = Retention(keep_last=1, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)
"""What forgets all that may be forgotten."""
IMPATIENT = RetryPolicy(tries=2, wait_first_s=0.001, wait_most_s=0.002, jitter_s=0.0)
"""One repetition, as in production there are more: a planned fault that happens twice is seen by the code."""


class Node:
    """One machine."""

    def __init__(self, bucket: MemoryBucket, folder: Path, *, fresh: Callable[[int], bytes] = os.urandom):
        self.store = FaultyStore(MemoryStore(bucket))
        self.folder = folder
        self.clock = itertools.count(1_700_000_000_000)
        self.fresh = fresh

    def open(
        self,
        *,
        master_key: bytes | KeyWays = MASTER_KEY,
        reread: Callable[[], Awaitable[KeyWays]] | None = None,
        signers: dict[bytes, bytes] | None = None,
        watching: Watching | None = None,
    ) -> Storage:
        """Start a process on this machine; its caches are those that the last one left."""
        return Storage(
            self.store,
            master_key=master_key,
            cache_folder=self.folder,
            fresh=self.fresh,
            clock_ms=lambda: next(self.clock),
            retry=IMPATIENT,
            reread=reread,
            signers=signers,
            watching=watching,
        )


def seeded(seed: str) -> Callable[[int], bytes]:
    """Return random bytes that repeat: a cloned machine."""
    counter = itertools.count()

    def fresh(count: int) -> bytes:
        return hashlib.shake_256(f"{seed} {next(counter)}".encode()).digest(count)

    return fresh


def write(home: Path, **files: bytes | str) -> None:
    """Write small files into a home; a double underscore in a name is a folder."""
    for name, content in files.items():
        path = home / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


async def take(storage: Storage, *, fence: int = 1, node: str = "node") -> int:
    """Take the workspace over; return the fence."""
    session = f"session of {node}"
    head = await storage.take_over(REF, fence_at_least=fence, node=node, session=session, registry_epoch=1)
    return head.fence


def objects(bucket: MemoryBucket, part: str = "") -> list[str]:
    """Return the names in the repository that begin with a part."""
    return sorted(name.removeprefix(PREFIX) for name in bucket.objects if name.startswith(PREFIX + part))


LOCKED = ("locked", "locked/inner", "mode000")
"""What a plain user cannot look at in the odd home."""


def unlocked(root: Path) -> Path:
    """Open what is locked in an odd home, so that a plain user can take its picture; returns the home."""
    for name in LOCKED:
        if (root / name).exists():
            (root / name).chmod(0o700)
    return root

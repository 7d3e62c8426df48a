"""One service per registry file: a lock that the kernel takes back when its holder dies.

Not SQLite's own locking, which lets several processes write in turn: two services would each count ticks and
hold deadlines for the same node. A restore takes the same lock, so it cannot pull the file from under a
service.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from session_service.base.errors import RegistryUnavailable


def take_lock(registry: Path) -> int:
    """Return the descriptor whose closing gives the lock back.

    Raises:
        RegistryUnavailable: another process holds it, or the folder cannot be written.
    """
    path = registry.with_name(registry.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise RegistryUnavailable(
            f"The registry's folder cannot be used: {exc}. Correct its owner, or make it.",
            cause="not_writable",
            path=str(registry),
        ) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise RegistryUnavailable(
            "Another process uses this registry. Stop the service first (deploy/down).",
            cause="locked",
            path=str(registry),
        ) from exc
    return descriptor


@contextmanager
def hold_lock(registry: Path) -> Iterator[None]:
    """Hold the lock for the length of a block."""
    descriptor = take_lock(registry)
    try:
        yield
    finally:
        os.close(descriptor)

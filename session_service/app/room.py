"""Says whether this machine has room for one more desktop, in words a person can act on.

Not a scheduler. Looked at before a start only: a desktop that runs is never touched for room.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from session_service.base import errors

if TYPE_CHECKING:
    from session_service.app.settings import Room

_MEMORY_FACTS = Path("/proc/meminfo")


def memory_available_mb() -> int:
    """Return the kernel's estimate of memory that a new program can get, in MiB."""
    for line in _MEMORY_FACTS.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def disk_free_mb(folder: Path) -> int:
    """Return the MiB free for us on the disk of `folder`."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize >> 20


def check(limits: "Room", folder: Path) -> None:
    """Raise NoRoom when a further desktop would leave less free than the settings ask for."""
    memory, disk = memory_available_mb(), disk_free_mb(folder)
    if memory < limits.memory_free_mb_min:
        raise errors.NoRoom(
            f"{memory} MB of memory are free, {limits.memory_free_mb_min} MB must stay free "
            "(room.memory_free_mb_min)",
            memory_free_mb=memory,
        )
    if disk < limits.disk_free_mb_min:
        raise errors.NoRoom(
            f"{disk} MB of disk are free, {limits.disk_free_mb_min} MB must stay so (room.disk_free_mb_min)",
            disk_free_mb=disk,
        )

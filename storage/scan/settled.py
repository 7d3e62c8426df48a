"""How long after a file's times a reading of it proves that it is still as it was read.

Not the racy-clean rule of two seconds (`ops/stat_cache.py`), which is about the tick of a clock. Here: the
first store through a memory map moves mtime and ctime, but while its page is dirty further stores move
nothing; once the kernel has written the page back the next store moves them again. File systems that live in
memory write nothing back, and move no time for such stores at all.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SETTLED_NS_MIN: Final = 120_000_000_000
"""Four times what the kernel waits by default before it writes a dirty page back."""
WRITEBACK_FACTOR: Final = 4
"""Of the kernel's own settings: a busy disk is late."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
FINE_TIMES: Final = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs"})
"""Local file systems that stamp each change with the kernel's own clock, to its last tick."""
_VM: Final = Path("/proc/sys/vm")
_MOUNTS: Final = Path("/proc/self/mountinfo")


def settled_after_ns(device: int, *, vm: Path = _VM, mounts: Path = _MOUNTS) -> int | None:
    """Return by how much a reading must be later than a file's times; None: no reading proves anything.

    Args:
        device: st_dev of the home.
    """
    try:
        expire_cs = int((vm / "dirty_expire_centisecs").read_text("ascii"))
        pause_cs = int((vm / "dirty_writeback_centisecs").read_text("ascii"))
        kinds = set(_kinds_of(device, mounts.read_text("utf-8", "surrogateescape").splitlines()))
    except (OSError, ValueError):
        return None
    if pause_cs == 0 or kinds & IN_MEMORY:
        return None
    return max(SETTLED_NS_MIN, WRITEBACK_FACTOR * (expire_cs + pause_cs) * 10_000_000)


def keeps_fine_times(device: int, *, mounts: Path = _MOUNTS) -> bool:
    """Return whether every change of a file gets the time of the kernel's clock. Unknown is no."""
    try:
        kinds = set(_kinds_of(device, mounts.read_text("utf-8", "surrogateescape").splitlines()))
    except (OSError, ValueError):
        return False
    return bool(kinds) and kinds <= FINE_TIMES


def _kinds_of(device: int, lines: Iterable[str]) -> Iterable[str]:
    """Yield the file system types that are mounted under a device number."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split(" ")
        if fields[2] == number:
            yield fields[fields.index("-", 6) + 1]

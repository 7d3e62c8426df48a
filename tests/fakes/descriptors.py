"""Which descriptors of this process lie below a folder.

All of a process's descriptors say little: what an earlier test left to the garbage collector may be closed at
any moment.
"""

import os
from contextlib import suppress
from pathlib import Path


def open_below(folder: Path) -> int:
    """Return how many open descriptors lie in a folder or are it."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            count += os.readlink(f"/proc/self/fd/{number}").startswith(str(folder))
    return count

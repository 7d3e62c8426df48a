"""Opens a group of fanotify that tells a storage worker which folders of homes change.

Only root may have one on a whole file system, so the parent opens it and the worker, which has lost root,
inherits the descriptor and reads. The calls are those of `storage/watch/kernel.py`; they stand here again
because importing storage would bring half a second and all its libraries into the parent.

Where there is none (no root, an old kernel, a file system without ids) the worker uses inotify.
"""

import ctypes
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

PART_VARIABLE: Final = "SESSION_SERVICE_PART_WATCH"
"""The number of the descriptor that a worker inherits."""
FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_REPORT_DIR_FID: Final = 0x400
FAN_MARK_ADD: Final = 0x1
FAN_MARK_FILESYSTEM: Final = 0x100
EVENTS: Final = 0x4000_03CE
"""modify, attrib, close_write, moved_from, moved_to, create, delete; on folders, too."""
AT_FDCWD: Final = -100


def open_group(folder: Path) -> int | None:
    """Return a group for the file system of a folder, or None where that cannot be."""
    libc = ctypes.CDLL(None)
    try:
        fd: int = libc.fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DIR_FID, os.O_CLOEXEC)
        if fd < 0:
            return None
        flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
        if libc.fanotify_mark(fd, flags, ctypes.c_uint64(EVENTS), AT_FDCWD, os.fsencode(folder)) == 0:
            return fd
    except AttributeError:
        return None  # a C library without these calls
    os.close(fd)
    return None


def inherited(variables: MutableMapping[str, str]) -> int | None:
    """Return the descriptor that the parent has left to this part, closed to the programs it starts."""
    told = variables.pop(PART_VARIABLE, "")
    if not told.isdecimal():
        return None
    fd = int(told)
    try:
        os.set_inheritable(fd, False)
    except OSError:
        return None
    return fd

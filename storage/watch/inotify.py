"""Folders watched by one inotify instance: one watch each, for users without privilege.

A watch costs the kernel about a kilobyte, and a user has a limited number of them, so there is a budget.
What is under the watched folders is watched when a scan enters it, before it is listed.
"""

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

from storage.watch import kernel
from storage.watch.dirt import Atlas, Key, Why
from storage.watch.source import MASK, READ_BYTES

_EVENT: Final = struct.Struct("=iIII")
_FOLDER_MOVED: Final = kernel.IN_MOVED_FROM | kernel.IN_MOVED_TO
BUDGET_SHARE: Final = 0.5
"""Of the watches that this user may have; desktops of the same user and editors in them need theirs."""
WATCHES_LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_watches")


def watches_allowed(*, share: float = BUDGET_SHARE, limit: Path = WATCHES_LIMIT) -> int:
    """Return how many folders to watch at most."""
    try:
        return int(int(limit.read_text("ascii")) * share)
    except (OSError, ValueError):
        return 0


class Inotify:
    """Implements `Source`."""

    mode = "inotify"

    def __init__(self, *, folders_max: int) -> None:
        """Open an instance.

        Raises:
            OSError: this user has too many of them.
        """
        self.folders_max = folders_max
        self._fd = kernel.inotify_open()

    def fileno(self) -> int:
        return self._fd

    def watch(self, folder_fd: int) -> Key:
        return kernel.inotify_add(self._fd, folder_fd, MASK | kernel.IN_MOVE_SELF)

    def forget(self, key: Key) -> None:
        assert isinstance(key, int)
        with contextlib.suppress(OSError):
            kernel.inotify_remove(self._fd, key)

    def read(self, atlas: Atlas) -> int:
        told = 0
        while True:
            try:
                raw = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return told
            at = 0
            while at < len(raw):
                watch, mask, _, name_bytes = _EVENT.unpack_from(raw, at)
                at += _EVENT.size + name_bytes
                told += 1
                self._tell(atlas, watch, mask)

    def _tell(self, atlas: Atlas, watch: int, mask: int) -> None:
        if mask & kernel.IN_Q_OVERFLOW:
            atlas.all_lost(Why.OVERFLOW)
        elif mask & kernel.IN_UNMOUNT:
            atlas.lost(watch, Why.WATCH_LOST)
        elif mask & kernel.IN_IGNORED:
            atlas.gone(watch)
        elif mask & kernel.IN_MOVE_SELF:
            atlas.lost(watch, Why.FOLDER_MOVED)
        elif mask & _FOLDER_MOVED and mask & kernel.IN_ISDIR:
            atlas.moved(watch)
        elif mask & MASK:
            atlas.touched(watch)
        else:
            atlas.lost(watch, Why.WATCH_LOST)

    def close(self) -> None:
        os.close(self._fd)

"""Read the files of a folder that may hold what a restore wants: a previous home, or the running one.

Nothing about it is believed. It may be hostile, half written or changing at this moment: files are opened
name by name beneath the folder, never through a link, never on another file system, and whoever asks gets
bytes, which he must compare with what he wanted. Whatever cannot be opened or read is not there.
"""

import os
import stat
from collections.abc import Container
from pathlib import Path
from typing import Final

from storage.scan.open_folders import OpenFolders
from storage.scan.rights import READ_FILE, READ_FOLDER, READ_QUIETLY

_NO_NAMES: Final = frozenset({b"", b".", b".."})


class _Every(Container[bytes]):
    """A seed may have any folder; whether it does is found by opening it."""

    def __contains__(self, path: object) -> bool:
        return True


def open_seed(folder: Path) -> int | None:
    """Return a descriptor of a seed, the caller's to close; None where there is no such folder."""
    try:
        return os.open(folder, READ_FOLDER)
    except OSError:
        return None


class SeedFolder:
    """One thread's hand of a seed. Close it: it holds folders open."""

    def __init__(self, root_fd: int) -> None:
        """Take the open folder, which stays the caller's to close."""
        self._device = os.fstat(root_fd).st_dev
        self._folders = OpenFolders(root_fd, _Every(), {})

    def open(self, path: bytes) -> int | None:
        """Return a descriptor of a file, the caller's to close; None if there is none that may be read."""
        if not _NO_NAMES.isdisjoint(path.split(b"/")) or b"\0" in path:
            return None  # of a hostile tree: the extractor says so
        parent, _, leaf = path.rpartition(b"/")
        try:
            folder = self._folders.fd(parent)
            try:
                fd = os.open(leaf, READ_QUIETLY, dir_fd=folder)
            except PermissionError:
                fd = os.open(leaf, READ_FILE, dir_fd=folder)
        except OSError:
            return None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_dev != self._device:
            os.close(fd)
            return None
        return fd

    def close(self) -> None:
        """Close the folders."""
        self._folders.close()


def read_into(fd: int, room: memoryview, offset: int) -> int:
    """Fill `room` from a place of a file; return how many bytes there were. An error ends what there is."""
    filled = 0
    try:
        while filled < len(room):
            count = os.preadv(fd, [room[filled:]], offset + filled)
            if not count:
                break
            filled += count
    except OSError:
        pass
    return filled

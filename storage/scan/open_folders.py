"""The folders of a restore that are open, a bounded number of them, for one thread.

Each is opened name by name from the nearest one that is open, never by a path and never through a link.
"""

import os
from collections import OrderedDict
from collections.abc import Container, Mapping
from typing import Final

from storage.errors import HostileTree
from storage.scan.rights import READ_FOLDER

FOLDERS_OPEN_MAX: Final = 64


class OpenFolders:
    """Descriptors of folders by path, the least recently used closed first; the root (`b""`) never."""

    def __init__(self, root_fd: int, made: Container[bytes], renamed: Mapping[bytes, bytes]) -> None:
        """Take the root, the folders that this restore made, and the names that some of them really got."""
        self._root_fd = root_fd
        self._made = made
        self._renamed = renamed
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def fd(self, path: bytes) -> int:
        """Return a folder of this restore, open until 64 others were asked for."""
        if path == b"":
            return self._root_fd
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        if path not in self._made:
            raise HostileTree(path=path, rule="its folder was not restored")
        missing: list[bytes] = []
        at = path
        while at and at not in self._open:
            missing.append(at)
            at = at.rpartition(b"/")[0]
        fd = self._open[at] if at else self._root_fd
        for below in reversed(missing):
            name = self._renamed.get(below, below.rpartition(b"/")[2])
            fd = os.open(name, READ_FOLDER, dir_fd=fd)
            self.keep(below, fd)
        return fd

    def keep(self, path: bytes, fd: int) -> None:
        """Keep a folder that was opened for another reason; it is closed here from now on."""
        self._open[path] = fd
        if len(self._open) > FOLDERS_OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])

    def close(self) -> None:
        """Close them all."""
        while self._open:
            os.close(self._open.popitem()[1])

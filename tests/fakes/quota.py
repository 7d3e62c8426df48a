"""A disk quota where the kernel of a test machine has none to give: EDQUOT at the edge of the system calls.

It counts what lies in one folder, unnamed files too, as a file system with quotas does. A write beyond the
limit stores what still fits, then is refused; so is what would make one more name. Everything else of the
disk is real. Only for a process of its own: it replaces functions of `os`.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Quota:
    """The limit of one folder. Used as a context manager."""

    def __init__(self, folder: Path, *, bytes_max: int, names_max: int = 1_000_000) -> None:
        self.folder = str(folder.resolve())
        self.bytes_max = bytes_max
        self.names_max = names_max
        self.refused = 0
        self._real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> "Quota":
        for name in ("write", "pwrite"):
            self._replace(name, self._limited_write)
        for name in ("open", "mkdir", "symlink", "mkfifo", "link"):
            self._replace(name, self._limited_name)
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def lift(self) -> None:
        """Let there be enough from now on."""
        self.bytes_max, self.names_max = 1 << 40, 1 << 40

    def used(self) -> tuple[int, int]:
        """Return bytes and names in the folder."""
        size = names = 0
        for base, folders, files in os.walk(self.folder):
            names += len(folders) + len(files)
            for name in files:
                try:
                    size += os.lstat(os.path.join(base, name)).st_size
                except FileNotFoundError:
                    continue
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
                if target.startswith(self.folder) and target.endswith(" (deleted)"):
                    size += os.fstat(int(fd)).st_size
            except OSError:
                continue
        return size, names

    def _replace(self, name: str, limited: Callable[..., Any]) -> None:
        real = self._real[name] = getattr(os, name)
        setattr(os, name, lambda *args, **more: limited(real, *args, **more))

    def _refuse(self) -> None:
        self.refused += 1
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def _limited_write(self, real: Callable[..., int], fd: int, data: bytes, *more: int) -> int:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(self.folder):
            return real(fd, data, *more)
        room = self.bytes_max - self.used()[0]
        if room <= 0:
            self._refuse()
        return real(fd, memoryview(data)[:room], *more)

    def _limited_name(self, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        makes = real is not self._real["open"] or bool(args[1] & os.O_CREAT)
        at = more.get("dir_fd", more.get("dst_dir_fd"))
        place = os.readlink(f"/proc/self/fd/{at}") if at is not None else os.fspath(args[0])
        inside = isinstance(place, str) and place.startswith(self.folder)
        if makes and inside and self.used()[1] >= self.names_max:
            self._refuse()
        return real(*args, **more)

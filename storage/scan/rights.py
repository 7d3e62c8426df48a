"""Open what its owner has locked: files and folders whose mode forbids even the owner to read.

A plain user who owns a file with mode 000 may change the mode; root need not. The mode is changed through a
descriptor, never by path, so a name swapped under us cannot make us change another file. The caller puts it
back at the end, because each look-up in a folder, and each look at an attribute, asks for permission again.
Only our own files are touched. This moves ctime and nothing else.
"""

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator

READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
READ_QUIETLY = READ_FILE | os.O_NOATIME
"""Only the owner and root may ask for that."""
READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_UNLOCKING = threading.Lock()
_FOLDER_BITS = stat.S_IRUSR | stat.S_IXUSR


def open_file(name: bytes, folder_fd: int, *, repair: bool) -> tuple[int, int | None]:
    """Open for reading, following nothing and waiting for nothing; what it is, the caller must look up.

    The second value is the mode to put back when done with it, or None. Not at once: an open descriptor stays
    readable, but its extended attributes are asked for with the mode of the moment.
    """
    try:
        return _open_quietly(name, READ_FILE, folder_fd), None
    except PermissionError:
        if not repair:
            raise
    with _searchable(folder_fd):
        try:
            return _open_quietly(name, READ_FILE, folder_fd), None
        except PermissionError:
            return _open_locked(name, folder_fd, stat.S_ISREG, stat.S_IRUSR, READ_FILE)


def open_folder(name: bytes, folder_fd: int, *, repair: bool) -> tuple[int, int | None]:
    """Open a folder; the second value is the mode to put back when done with it, or None."""
    try:
        fd = _open_quietly(name, READ_FOLDER, folder_fd)
    except PermissionError:
        if not repair:
            raise
        return _open_locked(name, folder_fd, stat.S_ISDIR, _FOLDER_BITS, READ_FOLDER)
    found = os.fstat(fd)
    mode = stat.S_IMODE(found.st_mode)
    user = os.geteuid()
    if not repair or user == 0 or found.st_uid != user or mode & _FOLDER_BITS == _FOLDER_BITS:
        return fd, None
    try:
        os.fchmod(fd, mode | _FOLDER_BITS)  # readable but not searchable: names without facts
    except BaseException:
        os.close(fd)
        raise
    return fd, mode


@contextlib.contextmanager
def _searchable(folder_fd: int) -> Iterator[None]:
    """Let names be looked up in a locked folder of our own for a moment.

    Files are read after the walk has left their folder and locked it again. One at a time, because two
    threads in one folder would each put back what the other has set.
    """
    with _UNLOCKING:
        found = os.fstat(folder_fd)
        mode = stat.S_IMODE(found.st_mode)
        if mode & stat.S_IXUSR or found.st_uid != os.geteuid() or os.geteuid() == 0:
            yield
            return
        os.fchmod(folder_fd, mode | stat.S_IXUSR)
        try:
            yield
        finally:
            os.fchmod(folder_fd, mode)


def _open_quietly(name: bytes, flags: int, folder_fd: int) -> int:
    """Open without moving atime, where the kernel lets us (owner or root)."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder_fd)


def _open_locked(
    name: bytes, folder_fd: int, is_kind: Callable[[int], bool], bits: int, flags: int
) -> tuple[int, int]:
    handle = os.open(name, HANDLE, dir_fd=folder_fd)
    try:
        found = os.fstat(handle)
        if not is_kind(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, "not ours to unlock")
        mode = stat.S_IMODE(found.st_mode)
        path = f"/proc/self/fd/{handle}"
        os.chmod(path, mode | bits)
        try:
            return os.open(path, flags & ~os.O_NOFOLLOW | os.O_NOATIME), mode
        except BaseException:
            os.chmod(path, mode)
            raise
    finally:
        os.close(handle)

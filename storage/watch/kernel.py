"""The few calls of Linux that change notification needs and Python has not: inotify, fanotify, file handles.

Own bindings of ctypes, because no library fits: `inotify_simple` and `watchfiles` turn names into text (one
name that is not UTF-8 raises in the latter), and what binds fanotify knows neither file handles nor marks on
a file system. Names of files never pass through here.
"""

import ctypes
import os
import struct
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_CLOSE_WRITE: Final = 0x8
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_UNMOUNT: Final = 0x2000
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x0100_0000
IN_ISDIR: Final = 0x4000_0000
"""fanotify has the same numbers for the same events, with FAN_ONDIR for IN_ISDIR."""

FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_REPORT_DIR_FID: Final = 0x400
FAN_MARK_ADD: Final = 0x1
FAN_MARK_FILESYSTEM: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
AT_FDCWD: Final = -100

HANDLE_BYTES_MAX: Final = 128
"""MAX_HANDLE_SZ of the kernel."""
_HANDLE: Final = struct.Struct("=Ii")
_STATFS_BYTES: Final = 256
"""More than any `struct statfs` has."""


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def inotify_open() -> int:
    """Return the descriptor of a new instance, which never waits."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def inotify_add(fd: int, folder_fd: int, mask: int) -> int:
    """Watch an open folder, whatever its name is now; return the watch number."""
    path = b"/proc/self/fd/%d/." % folder_fd
    return _checked(_libc.inotify_add_watch(fd, path, ctypes.c_uint32(mask | IN_ONLYDIR)))


def inotify_remove(fd: int, watch: int) -> None:
    """Stop watching."""
    _checked(_libc.inotify_rm_watch(fd, watch))


def fanotify_open() -> int:
    """Return a group that tells of each event the folder it happened in, and no more. Needs CAP_SYS_ADMIN to
    be marked on a file system.
    """
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DIR_FID
    return _checked(_libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC))


def fanotify_mark_filesystem(fd: int, folder: str | os.PathLike[str], mask: int) -> None:
    """Ask for events of the whole file system in which a folder lies."""
    flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
    _checked(_libc.fanotify_mark(fd, flags, ctypes.c_uint64(mask), AT_FDCWD, os.fsencode(folder)))


def handle_of(folder_fd: int) -> bytes:
    """Return the file handle of an open folder, as events have it: length, kind and bytes."""
    buffer = ctypes.create_string_buffer(_HANDLE.size + HANDLE_BYTES_MAX)
    _HANDLE.pack_into(buffer, 0, HANDLE_BYTES_MAX, 0)
    mount = ctypes.c_int()
    _checked(_libc.name_to_handle_at(folder_fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH))
    (length, _) = _HANDLE.unpack_from(buffer)
    return buffer.raw[: _HANDLE.size + length]


def file_system_of(folder_fd: int) -> bytes:
    """Return the id of the file system, as events have it: f_fsid of statfs."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    _checked(_libc.fstatfs(folder_fd, buffer))
    # Five words of the machine lie before it: type, block size, blocks, free, available; then files, free.
    start = 7 * struct.calcsize("l")
    return buffer.raw[start : start + 8]

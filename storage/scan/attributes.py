"""Extended attributes, ACLs among them, and inode flags of one entry: raw bytes, with what could not be read.

An attribute that cannot be read is a fact about the entry, not a failure of the checkpoint. What is too
large for the format is named in the errors (E2BIG) and left out.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Callable

from storage.scan.descriptors import require_descriptors
from storage.scan.entry import NO_ATTRIBUTES, Attributes
from storage.scan.rights import HANDLE

VALUE_BYTES_MAX = 64 * 1024
ENTRY_BYTES_MAX = 1024 * 1024

GET_FLAGS = 0x80086601
"""FS_IOC_GETFLAGS on 64-bit Linux."""

FLAG_IMMUTABLE, FLAG_APPEND, FLAG_NODUMP, FLAG_NOCOW = 0x10, 0x20, 0x40, 0x0080_0000
FLAGS_KEPT = FLAG_IMMUTABLE | FLAG_APPEND | FLAG_NODUMP | FLAG_NOCOW
"""The rest says how the file system stored the file, which is its own affair."""

_FLAGS = struct.Struct("=I")
_NO_FLAGS = bytes(8)
_NONE_HERE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})


def attributes(fd: int) -> Attributes:
    """Attributes and flags of an open file or folder."""
    flags = _inode_flags(fd)
    try:
        if not os.listxattr(fd):
            return NO_ATTRIBUTES if flags is None else Attributes(inode_flags=flags)
    except OSError:
        pass  # told below, where it is asked for again
    return _collect(lambda: os.listxattr(fd), lambda name: os.getxattr(fd, name), inode_flags=flags)


def attributes_at(folder_fd: int, name: bytes) -> Attributes:
    """Attributes of an entry that must not be opened (link, fifo, socket, device); links are not followed."""
    try:
        handle = os.open(name, HANDLE, dir_fd=folder_fd)
    except OSError as exc:
        require_descriptors(exc)
        return Attributes(xattr_errors=((b"", exc.errno or errno.EIO),))
    path = f"/proc/self/fd/{handle}"
    try:
        return _collect(lambda: os.listxattr(path), lambda item: os.getxattr(path, item), inode_flags=None)
    finally:
        os.close(handle)


def _collect(
    names: Callable[[], list[str]], value_of: Callable[[bytes], bytes], *, inode_flags: int | None
) -> Attributes:
    try:
        found = names()
    except OSError as exc:
        error = () if exc.errno in _NONE_HERE else ((b"", exc.errno or errno.EIO),)
        return Attributes(xattr_errors=error, inode_flags=inode_flags)
    if not found:
        return Attributes(inode_flags=inode_flags)
    kept: list[tuple[bytes, bytes]] = []
    errors: list[tuple[bytes, int]] = []
    total = 0
    for name in sorted(map(os.fsencode, found)):
        try:
            value = value_of(name)
        except OSError as exc:
            if exc.errno != errno.ENODATA:  # removed since the names were listed
                errors.append((name, exc.errno or errno.EIO))
            continue
        total += len(name) + len(value)
        if len(value) > VALUE_BYTES_MAX or total > ENTRY_BYTES_MAX:
            errors.append((name, errno.E2BIG))
            continue
        kept.append((name, value))
    return Attributes(xattrs=tuple(kept), xattr_errors=tuple(errors), inode_flags=inode_flags)


def _inode_flags(fd: int) -> int | None:
    try:
        raw = fcntl.ioctl(fd, GET_FLAGS, _NO_FLAGS)
    except OSError:
        return None  # this file system knows none
    (flags,) = _FLAGS.unpack_from(raw)
    return (flags & FLAGS_KEPT) or None

"""Folders watched by a fanotify group on their file system, which root opens and hands over.

The group has one mark, on the file system of the homes, so nothing is spent per folder and no folder is ever
missed while it is new. It tells folders only (FAN_REPORT_DIR_FID, not DFID_NAME): without names the kernel
merges all that happens in one folder into one event, so a hundred thousand writes are a handful of events.
Events of other folders of this file system are told, too, and are nobody's. Folders are known by their file
handles, which are asked of the kernel when a scan enters them; no handle is ever opened.
"""

import os
import struct
from pathlib import Path
from typing import Final

from storage.watch import kernel
from storage.watch.dirt import Atlas, Key, Why
from storage.watch.source import MASK, READ_BYTES

_EVENT: Final = struct.Struct("=IBBHQii")
_INFO: Final = struct.Struct("=BBH8s")
_VERSION: Final = 3
_INFO_FID: Final = 1
_INFO_DFID: Final = 3
"""Both name the folder: the first for events on things that are no folder."""
_FOLDER_MOVED: Final = kernel.IN_MOVED_FROM | kernel.IN_MOVED_TO
_HANDLE: Final = struct.Struct("=I")


def open_group(folder: str | os.PathLike[str]) -> int | None:
    """Return a group that watches the file system of a folder, or None where that cannot be.

    For a process that is root; whoever reads the group needs no privilege.
    """
    try:
        fd = kernel.fanotify_open()
    except OSError:
        return None
    try:
        kernel.fanotify_mark_filesystem(fd, folder, MASK | kernel.IN_ISDIR)
    except OSError:
        os.close(fd)
        return None
    return fd


class Fanotify:
    """Implements `Source`."""

    mode = "fanotify"
    folders_max = None

    def __init__(self, group: int, *, marked: Path) -> None:
        """Take a group over that is marked on the file system of a folder.

        Raises:
            OSError: that file system has no id or no file handles.
        """
        self._fd = group
        folder = os.open(marked, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._file_system = kernel.file_system_of(folder)
            kernel.handle_of(folder)
        finally:
            os.close(folder)

    def fileno(self) -> int:
        return self._fd

    def watch(self, folder_fd: int) -> Key:
        file_system = kernel.file_system_of(folder_fd)
        if file_system != self._file_system:
            raise OSError("another file system than the one that is watched")
        return file_system + kernel.handle_of(folder_fd)

    def forget(self, key: Key) -> None:
        """Do nothing: the mark is not this folder's."""

    def read(self, atlas: Atlas) -> int:
        told = 0
        while True:
            try:
                raw = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return told
            at = 0
            while at < len(raw):
                length, version, _, head_bytes, mask, _, _ = _EVENT.unpack_from(raw, at)
                told += 1
                if version != _VERSION:
                    atlas.all_lost(Why.WATCH_LOST)
                elif mask & kernel.IN_Q_OVERFLOW:
                    atlas.all_lost(Why.OVERFLOW)
                else:
                    self._tell(atlas, mask, raw, at + head_bytes, at + length)
                at += length

    def _tell(self, atlas: Atlas, mask: int, raw: bytes, at: int, end: int) -> None:
        if at >= end:
            return  # no folder belongs to it: an inode that nobody reached by a name
        kind, _, _, file_system = _INFO.unpack_from(raw, at)
        start = at + _INFO.size
        (handle_bytes,) = _HANDLE.unpack_from(raw, start)
        key = file_system + raw[start : start + 8 + handle_bytes]
        if kind not in (_INFO_FID, _INFO_DFID):
            atlas.all_lost(Why.WATCH_LOST)
        elif mask & _FOLDER_MOVED and mask & kernel.IN_ISDIR:
            atlas.moved(key)
        else:
            atlas.touched(key)

    def close(self) -> None:
        os.close(self._fd)

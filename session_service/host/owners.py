"""Which uid owns the files and processes of which desktop, where we are root: one of a pool.

Another service on the same machine (a demonstration beside the real one) draws from the same numbers, and a
census goes by uid, too: so each state folder starts at its own place, and a number in use is not given.

Given for as long as the home lives. Not accounts: these numbers need no passwd entry on the machine. A uid is
kept per (workspace, fence) so that two desktops never share one, and is given again as late as possible. As a
plain user everything is ours and there is nothing to keep.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from session_service.base import errors
from session_service.host.state_file import sync_folder

FIRST_UID: Final = 2_100_000_001
"""Numbers that nobody else gives: above those of /etc/subuid (from 100,000 or 524,288), systemd's containers
(to 1,879,048,191) and of a directory's accounts as SSSD maps them (to 2,000,200,000), and below 2^31.
"""
POOL_SIZE: Final = 60_000


class _Owners(msgspec.Struct):
    next: int = FIRST_UID
    given: dict[str, int] = {}


class Owners:
    """The table of given uids, kept in one small file."""

    def __init__(self, file: Path, *, root: bool) -> None:
        self._file = file
        self._root = root
        self._table = self._read()

    def of(self, workspace_id: str, fence: int) -> tuple[int, int] | None:
        """Return (uid, gid) of the desktop of (workspace, fence), giving one if needed; None = our own user.

        Raises: NoRoom when the pool is used up.
        """
        if not self._root:
            return None
        key = f"{workspace_id}/{fence}"
        if (uid := self._table.given.get(key)) is None:
            uid = self._fresh()
            self._table.given[key] = uid
            self._table.next = FIRST_UID + (uid + 1 - FIRST_UID) % POOL_SIZE
            self._write()
        return uid, uid

    def forget(self, workspace_id: str, fence: int) -> None:
        """Free the uid: nothing of this desktop is left, neither process nor home."""
        if self._table.given.pop(f"{workspace_id}/{fence}", None) is not None:
            self._write()

    def retain(self, wanted: Callable[[str, int], bool]) -> None:
        """Free uids that were asked for once and never used, or whose desktop was wiped in a crash.

        Only when the pool runs low: a home under this uid may be on its way at this moment.
        """
        if len(self._table.given) < POOL_SIZE // 2:
            return
        kept = {key: uid for key, uid in self._table.given.items() if wanted(*_parts(key))}
        if len(kept) < len(self._table.given):
            self._table.given = kept
            self._write()

    def _fresh(self) -> int:
        taken = set(self._table.given.values()) | uids_in_use()
        for step in range(POOL_SIZE):
            uid = FIRST_UID + (self._table.next - FIRST_UID + step) % POOL_SIZE
            if uid not in taken:
                return uid
        raise errors.NoRoom("no uid is left for another desktop", desktops=len(taken))

    def _read(self) -> _Owners:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Owners)
        except FileNotFoundError:
            place = zlib.crc32(os.fsencode(self._file.absolute()))
            return _Owners(next=FIRST_UID + place % POOL_SIZE)

    def _write(self) -> None:
        fresh = self._file.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(self._table))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        sync_folder(self._file.parent)


def uids_in_use() -> set[int]:
    """Return the uids of the pool that own a process of this machine now."""
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found.add(entry.stat().st_uid)
            except FileNotFoundError:
                continue  # it ended while we looked
    return {uid for uid in found if FIRST_UID <= uid < FIRST_UID + POOL_SIZE}


def _parts(key: str) -> tuple[str, int]:
    workspace_id, _, fence = key.partition("/")
    return workspace_id, int(fence)

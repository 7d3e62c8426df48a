"""Which folders of which homes changed: the thinking part of change notification.

It is told of folders that are watched and of events, and answers what a scan has to look at. No kernel, no
clock, no thread: the adapters beside it translate what the kernel says, and `watching.py` owns them all.

Events are about folders, never about names in them, so no file name can confuse it. Whatever is not a plain
change in a known folder makes a home *lost*: then only a full scan says what is there.

Source: docs/design/0010-change-notification.md.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeAlias

Key: TypeAlias = int | bytes
"""What the kernel calls a folder in its events: a watch number, or file system and file handle."""

DIRTY_FOLDERS_MAX: Final = 10_000
"""Of one home; beyond it a full scan costs less than finding each of them."""


class Why(StrEnum):
    """Why a scan looks at everything."""

    NOTIFIED = "notified"
    """It does not: only at what changed."""
    START = "start"
    OFF = "off"
    """Nothing is watched here: not possible, or not on this file system."""
    BUDGET = "budget"
    """There are no watches left for this home."""
    OVERFLOW = "overflow"
    """The kernel's queue was full and dropped events."""
    FOLDER_MOVED = "folder_moved"
    WATCH_LOST = "watch_lost"
    """A watched folder went away otherwise than by being removed, or the file system did."""
    TWO_PLACES = "two_places"
    """One folder is seen under two paths, by a bind mount."""
    MANY = "many"
    HOME_REPLACED = "home_replaced"
    MOUNTS = "mounts"
    """What is mounted where has changed on this machine."""
    OTHER_BASE = "other_base"
    """What is remembered of the home is not what the last look under watch has left."""
    NOT_KEPT = "not_kept"
    """The last look came to nothing."""
    ROUTE_LOST = "route_lost"
    """What was met does not fit what was known; or a file got a second name, and may change through either.
    """
    DUE = "due"
    """The full scan is the truth, and it was time for one."""
    EXACT = "exact"
    """A close, or another last word."""


class HomeDirt:
    """One watched home. Paths are relative to it; `b""` is the home itself."""

    __slots__ = ("dirty", "keys", "lost", "touched")

    def __init__(self) -> None:
        self.keys: dict[bytes, Key] = {}
        self.dirty: set[bytes] = set()
        self.lost: Why | None = Why.START
        self.touched = 0
        """Events that were about this home."""

    def lose(self, why: Why) -> None:
        """Rely on nothing until the next full scan; the first reason stays."""
        if self.lost is None:
            self.lost = why
        self.dirty.clear()

    def take(self) -> frozenset[bytes]:
        """Return the dirty folders, which are clean from now on; the caller looks at each of them."""
        assert self.lost is None, "of a lost home nothing is known"
        taken = frozenset(self.dirty)
        self.dirty.clear()
        return taken

    def give_back(self, folders: Iterable[bytes]) -> None:
        """Make folders dirty again that were taken and not looked at to an end."""
        if self.lost is None:
            self.dirty.update(folders)


class Atlas:
    """Every watched folder of every home, by key."""

    def __init__(self) -> None:
        self._places: dict[Key, tuple[HomeDirt, bytes]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def enter(self, home: HomeDirt, path: bytes, key: Key) -> bool:
        """Note a folder that is being looked at; call it before its names are listed.

        Return whether the folder is the one that was known under this path.
        """
        before = home.keys.get(path)
        if before == key:
            return True
        if before is not None:
            self._places.pop(before, None)
        place = self._places.get(key)
        if place is not None:
            other, elsewhere = place
            if other is home or other.lost is None:
                home.lose(Why.TWO_PLACES)
                home.keys.pop(path, None)
                return False
            other.keys.pop(elsewhere, None)  # moved out of a home that is to be scanned in full anyway
        home.keys[path] = key
        self._places[key] = (home, path)
        return False

    def leave(self, home: HomeDirt, path: bytes) -> Key | None:
        """Forget a folder that is gone; return its key, which need not be watched any more."""
        key = home.keys.pop(path, None)
        if key is not None and self._places.get(key) == (home, path):
            del self._places[key]
        return key

    def leave_all(self, home: HomeDirt) -> list[Key]:
        """Forget a home's folders; return their keys."""
        return [key for path in list(home.keys) if (key := self.leave(home, path)) is not None]

    def touched(self, key: Key) -> None:
        """Something in a folder, or the folder itself, changed. Unknown keys are nobody's."""
        place = self._places.get(key)
        if place is None:
            return
        home, path = place
        home.touched += 1
        if home.lost is None:
            home.dirty.add(path)
            if len(home.dirty) > DIRTY_FOLDERS_MAX:
                home.lose(Why.MANY)

    def moved(self, key: Key) -> None:
        """A folder was renamed out of or into this one: what lies beneath it has other paths now."""
        place = self._places.get(key)
        if place is not None:
            place[0].touched += 1
            place[0].lose(Why.FOLDER_MOVED)

    def gone(self, key: Key) -> None:
        """A folder was removed, and will say nothing any more; the one it lay in has said so itself."""
        place = self._places.get(key)
        if place is None:
            return
        home, path = place
        self.leave(home, path)
        home.touched += 1
        if path:
            self.touched(home.keys.get(path.rpartition(b"/")[0], b""))
        else:
            home.lose(Why.HOME_REPLACED)

    def lost(self, key: Key, why: Why) -> None:
        """Something happened to a folder that no list of dirty folders can tell."""
        place = self._places.get(key)
        if place is not None:
            place[0].lose(why)

    def all_lost(self, why: Why) -> None:
        """Events of any home may be missing."""
        for home in {id(home): home for home, _ in self._places.values()}.values():
            home.lose(why)

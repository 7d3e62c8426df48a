"""Owns the watched homes of one process: one queue of the kernel, a thread that empties it, rounds of scans.

A *round* is one look at a home: it begins by reading the queue to its end, so that every change that was made
before is known, and says what to look at. It is kept when what it found is saved and verified; a round that
is not kept gives back what it took. The full scan stays the truth: a home that is new, lost, or was not
scanned in full for ten minutes is scanned in full.

The thread pauses between two readings: the kernel merges what is alike meanwhile. A queue that overflows
nevertheless costs full scans, nothing else.
"""

import contextlib
import os
import re
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from storage.watch.dirt import Atlas, HomeDirt, Key, Why
from storage.watch.source import Source

FULL_SCAN_EVERY_S: Final = 600.0
"""What no event told of (stores into memory maps, first of all) is found after this at the latest."""
IDLE_S: Final = 120.0
"""A home that nobody scanned for so long gives its watches to others that need some."""
FORGET_S: Final = 1_800.0
"""A home that nobody scanned for so long has ended, or belongs to another worker now."""
PAUSE_S: Final = 0.05
"""Between two readings of the queue. It has room for 16,384 events by default: 300,000 per second."""
END_S: Final = 2.0
SILENT_FOLDERS_MAX: Final = 256
"""Of one home: folders that are looked at always because something in them changed without any event."""

Base = tuple[Hashable, ...]
"""What a home's last kept look has left; the same value, and the same files are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a look that is kept leaves for the next one."""

    base: Base
    again: frozenset[bytes] = frozenset()
    """Folders to look at next time, whatever happens: something in them is not settled."""
    linked: frozenset[int] = frozenset()
    """Inodes with several names; all folders that hold one are in `again`."""
    silent: frozenset[bytes] = frozenset()
    """Folders in which something had changed of which no event told."""
    full_next: bool = False
    complete: bool = True
    """Everything could be read, so a home that is clean since is as it was saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What is watched, for operators."""

    mode: str
    """fanotify, inotify, or scan only."""
    folders: int
    folders_max: int | None
    homes: int
    homes_unwatched: int
    scans: dict[str, int]
    """Full scans by their reason, and `notified` ones."""
    silent: int
    """Folders met by full scans that had changed without any event."""


@dataclass(slots=True)
class _Home:
    dirt: HomeDirt = field(default_factory=HomeDirt)
    left: Left | None = None
    silent: set[bytes] = field(default_factory=set)
    looking: bool = False
    """A round has begun that was neither kept nor undone. If another one begins, nobody knows of the first:
    its caller was cancelled while it began, and what it took is lost.
    """
    looked_s: float = 0.0
    full_s: float = 0.0
    mounts: bytes = b""
    refused: Why | None = None
    """Why this home is not watched; tried again after ten minutes."""
    refused_s: float = 0.0


class Round:
    """One look at one home. Made by `Watching.begin`; `keep` or `undo` ends it."""

    def __init__(self, watching: "Watching", home: _Home, *, why: Why, dirty: frozenset[bytes]) -> None:
        self._watching = watching
        self._home = home
        self._old: frozenset[Key] = frozenset()
        self._met_new = False
        self.why = why
        self.dirty = dirty
        """Folders to look at, if not `full`."""
        self.suspect: frozenset[bytes] | None = None
        """In a full round: the folders that events told of; what changed elsewhere, changed silently."""

    @property
    def full(self) -> bool:
        """Return whether everything is to be looked at."""
        return self.why is not Why.NOTIFIED

    @property
    def linked(self) -> frozenset[int]:
        """Return the inodes with several names that the last look knew."""
        return self._home.left.linked if self._home.left is not None else frozenset()

    def entered(self, path: bytes, folder_fd: int) -> bool:
        """Take note of a folder before its names are listed; return whether it is the known one."""
        same = self._watching.enter(self._home, path, folder_fd)
        self._met_new = self._met_new or not same
        return same

    def left_out(self, path: bytes) -> None:
        """Take note that a folder is not there any more."""
        self._watching.leave(self._home, path)

    def keep(self, left: Left) -> None:
        """What was found is saved and verified."""
        self._watching.keep(self, self._home, left, self._old)

    def lose(self) -> None:
        """What was met needs a full look; call `undo`, then begin again."""
        self._home.dirt.lose(Why.ROUTE_LOST)

    def undo(self) -> None:
        """What was found came to nothing."""
        sure = not self.full and not self._met_new
        self._watching.undo(self._home, self.dirty, self._old, sure=sure)

    def purge(self, atlas: Atlas) -> None:
        """Let go of what was known of the home's folders: the look notes each of them again."""
        self._old = frozenset(atlas.leave_all(self._home.dirt))


class Watching:
    """Every home that one process looks at."""

    def __init__(
        self,
        source: Source | None,
        *,
        watchable: Callable[[int], bool],
        clock_s: Callable[[], float] = time.monotonic,
        mounts: Path = Path("/proc/self/mountinfo"),
    ) -> None:
        """Take over a source; None means scans only.

        Args:
            watchable: asked with the device of a home: does its file system tell of every change made here,
                and are all changes made here?
        """
        self._source = source
        self._watchable = watchable
        self._clock_s = clock_s
        self._mounts = mounts
        self._atlas = Atlas()
        self._homes: dict[str, _Home] = {}
        self._lock = threading.RLock()
        self._scans: Counter[str] = Counter()
        self._silent = 0
        self._thread: threading.Thread | None = None
        self._end: tuple[int, int] | None = None

    def start(self) -> None:
        """Start the thread that empties the queue. Without it an eager home fills the queue: more scans."""
        if self._source is not None and self._thread is None:
            self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            told = (self._source.fileno(), self._end[0])
            self._thread = threading.Thread(target=self._empty, args=told, name="watch-homes", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        if self._thread is not None and self._end is not None:
            os.write(self._end[1], b"x")
            self._thread.join(END_S)
            for fd in self._end:
                os.close(fd)
            self._thread = self._end = None
        with self._lock:
            if self._source is not None:
                self._source.close()
                self._source = None

    def _empty(self, queue: int, end: int) -> None:
        ready, ending = select.poll(), select.poll()
        ready.register(queue, select.POLLIN)
        ready.register(end, select.POLLIN)
        ending.register(end, select.POLLIN)
        while end not in [fd for fd, _ in ready.poll()] and not ending.poll(PAUSE_S * 1000):
            self.drain()

    def drain(self) -> None:
        """Read the queue to its end."""
        with self._lock:
            if self._source is None:
                return
            try:
                self._source.read(self._atlas)
            except OSError:
                self._atlas.all_lost(Why.WATCH_LOST)

    def begin(self, home: str, *, base: Base | None, exact: bool = False) -> Round:
        """Begin a look at a home.

        Args:
            base: what is remembered of the home, as the last kept round was told it.
            exact: this look has the last word, so it looks at everything.
        """
        now_s = self._clock_s()
        with self._lock:
            known = self._homes.setdefault(home, _Home())
            known.looked_s = now_s
            if known.looking:
                known.dirt.lose(Why.NOT_KEPT)
            known.looking = True
            self._forget_ended(now_s)
            mounts = self._mounts_in(home)
            self.drain()
            why = self._why(known, base, mounts, now_s, exact=exact)
            self._scans[why.value] += 1
            if why is Why.NOTIFIED:
                assert known.left is not None
                dirty = known.dirt.take() | known.left.again | known.silent
                return Round(self, known, why=why, dirty=dirty)
            look = Round(self, known, why=why, dirty=frozenset())
            if self._knows(known, base, why):
                again = known.left.again if known.left is not None else frozenset()
                look.suspect = known.dirt.take() | again | known.silent
            known.full_s = now_s
            known.mounts = mounts
            if known.refused is None or now_s - known.refused_s >= FULL_SCAN_EVERY_S:
                known.refused = None
                if not self._can_watch(home):
                    self._refuse(known, Why.OFF)
            known.dirt.lost = None
            known.dirt.dirty.clear()
            look.purge(self._atlas)
            return look

    def _knows(self, known: _Home, base: Base | None, why: Why) -> bool:
        """Return whether a full look can tell what changed without any event."""
        usual = why in (Why.DUE, Why.EXACT) and known.dirt.lost is None
        return usual and known.left is not None and known.left.base == base

    def _refuse(self, known: _Home, why: Why) -> None:
        known.refused, known.refused_s, known.left = why, self._clock_s(), None

    def _why(self, known: _Home, base: Base | None, mounts: bytes, now_s: float, *, exact: bool) -> Why:
        if self._source is None:
            return Why.OFF
        if exact:
            return Why.EXACT
        if known.left is None:
            return known.refused or known.dirt.lost or Why.START
        if known.refused is not None:
            return known.refused
        if known.dirt.lost is not None:
            return known.dirt.lost
        if known.left.base != base:
            return Why.OTHER_BASE
        if known.mounts != mounts:
            return Why.MOUNTS
        if known.left.full_next:
            return Why.NOT_KEPT
        return Why.DUE if now_s - known.full_s >= FULL_SCAN_EVERY_S else Why.NOTIFIED

    def clean_since(self, home: str) -> bool:
        """Return whether a home is certainly as the last kept round left it: nothing to look at, complete,
        and no full scan due.
        """
        with self._lock:
            known = self._homes.get(home)
            if known is None or known.left is None or not known.left.complete or known.looking:
                return False
            known.looked_s = self._clock_s()
            self.drain()
            why = self._why(known, known.left.base, self._mounts_in(home), known.looked_s, exact=False)
            return why is Why.NOTIFIED and not (known.dirt.dirty or known.left.again or known.silent)

    def enter(self, known: _Home, path: bytes, folder_fd: int) -> bool:
        """Watch a folder of a home; for `Round`."""
        with self._lock:
            if known.refused is not None or self._source is None:
                return False
            key = self._key_of(self._source, folder_fd)
            if key is None and self._make_room(known):
                key = self._key_of(self._source, folder_fd)
            if key is None:
                self._refuse(known, Why.BUDGET if self._source.folders_max is not None else Why.OFF)
                return False
            return self._atlas.enter(known.dirt, path, key)

    def _key_of(self, source: Source, folder_fd: int) -> Key | None:
        """Watch a folder within the budget; None if that cannot be."""
        try:
            key = source.watch(folder_fd)
        except OSError:
            return None
        most = source.folders_max
        if most is None or len(self._atlas) < most or key in self._atlas:
            return key
        source.forget(key)
        return None

    def _make_room(self, asking: _Home) -> bool:
        """Take the watches of the home that was longest without a scan, if it is idle at all."""
        idle = [home for home in self._homes.values() if home is not asking and home.dirt.keys]
        oldest = min(idle, key=lambda home: home.looked_s, default=None)
        if oldest is None or self._clock_s() - oldest.looked_s < IDLE_S:
            return False
        self._unwatch(oldest)
        self._refuse(oldest, Why.BUDGET)
        return True

    def leave(self, known: _Home, path: bytes) -> None:
        """Stop watching a folder and forget what lies beneath it; for `Round`."""
        with self._lock:
            beneath = path + b"/"
            for gone in [one for one in known.dirt.keys if one == path or one.startswith(beneath)]:
                key = self._atlas.leave(known.dirt, gone)
                if key is not None and self._source is not None:
                    self._source.forget(key)

    def keep(self, look: Round, known: _Home, left: Left, old: frozenset[Key]) -> None:
        """End a round whose result is saved; for `Round`."""
        with self._lock:
            self._drop(old)
            known.looking = False
            if known.refused is not None:
                self._unwatch(known)
                return
            if look.suspect is not None and left.silent:
                self.drain()  # what changed while it was looked at has told so by now
                found = left.silent - look.suspect - known.dirt.dirty
                self._silent += len(found)
                known.silent.update(found)
                if len(known.silent) > SILENT_FOLDERS_MAX:
                    known.dirt.lose(Why.MANY)
            known.silent &= known.dirt.keys.keys()
            known.left = left

    def undo(self, known: _Home, taken: frozenset[bytes], old: frozenset[Key], *, sure: bool) -> None:
        """End a round that came to nothing; for `Round`."""
        with self._lock:
            self._drop(old)
            known.looking = False
            if sure:
                known.dirt.give_back(taken)
            else:
                known.dirt.lose(Why.NOT_KEPT)

    def tally(self) -> Tally:
        """Return what is watched."""
        with self._lock:
            return Tally(
                mode=self._source.mode if self._source is not None else "scan only",
                folders=len(self._atlas),
                folders_max=self._source.folders_max if self._source is not None else None,
                homes=sum(home.refused is None for home in self._homes.values()),
                homes_unwatched=sum(home.refused is not None for home in self._homes.values()),
                scans=dict(self._scans),
                silent=self._silent,
            )

    def _can_watch(self, home: str) -> bool:
        if self._source is None:
            return False
        try:
            return self._watchable(os.stat(home).st_dev)
        except OSError:
            return False

    def _mounts_in(self, home: str) -> bytes:
        """Return what is mounted inside of a home; a mount makes no event."""
        below = re.sub(rb"[ \t\n\\]", lambda one: b"\\%03o" % one[0][0], os.fsencode(home)) + b"/"
        try:
            lines = self._mounts.read_bytes().splitlines()
        except OSError:
            return b""
        return b"\n".join(line for line in lines if below in line)

    def _forget_ended(self, now_s: float) -> None:
        for name in self._ended(now_s):
            self._unwatch(self._homes.pop(name))

    def _ended(self, now_s: float) -> list[str]:
        """Return the homes that nobody looks at any more; a look at a large one may take longer than that."""
        homes = self._homes.items()
        return [name for name, one in homes if not one.looking and now_s - one.looked_s >= FORGET_S]

    def _unwatch(self, known: _Home) -> None:
        self._drop(frozenset(self._atlas.leave_all(known.dirt)))

    def _drop(self, keys: frozenset[Key]) -> None:
        for key in keys:
            if self._source is not None and key not in self._atlas:
                with contextlib.suppress(OSError):
                    self._source.forget(key)

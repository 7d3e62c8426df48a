"""The way of a scan through a home of which it is known which folders changed.

Dirty folders are listed, and what lies on the way to them is passed through by name. In a listed folder a
subfolder is passed if it is the remembered one by all its stat facts, and is not dirty itself; what is new
there is scanned to its ground. Nothing is guessed: where what is met does not fit what is remembered,
`RouteLost` says that only a scan of everything will do.

Source: docs/design/0010-change-notification.md.
"""

from collections.abc import Callable

from storage.errors import RouteLost
from storage.ops.folder_record import FolderRecord, facts_of, is_folder, is_special, remembered_of
from storage.ops.stat_cache import StatCache
from storage.scan.entry import StatFacts
from storage.watch.watching import Round

StoredNode = Callable[[bytes], bool]


class NotifiedRoute:
    """Implements `storage.scan.walk.Route` for one round. In a full round it only notes folders."""

    def __init__(self, look: Round, cache: StatCache | None, *, stored: StoredNode) -> None:
        self._look = look
        self.full = look.full
        self._cache = cache
        self._stored = stored
        self._new: set[bytes] = set()
        """Folders of which nothing is remembered that counts: everything in them is looked at."""
        self._ways = {} if look.full else _ways(look.dirty)
        self._record: tuple[bytes | None, FolderRecord | None] = (None, None)

    def enter(self, path: bytes, folder_fd: int) -> list[bytes] | None:
        same = self._look.entered(path, folder_fd)
        if self.full:
            return None
        parent = path.rpartition(b"/")[0]
        if path and parent in self._new:
            self._new.add(path)
        elif not same and (not path or not self.lists(parent)):
            raise RouteLost(path=path, what="another folder than the one that was watched")
        elif not same:
            self._new.add(path)
        return None if self.lists(path) else self._ways[path]

    def lists(self, path: bytes) -> bool:
        """Return whether all of an entered folder is looked at; else only what the way leads to."""
        return self.full or path in self._look.dirty or path in self._new or path not in self._ways

    def passes(self, path: bytes, facts: StatFacts) -> bool:
        parent, _, name = path.rpartition(b"/")
        if parent in self._new:
            return False
        record = self._folder(parent)
        made = record.made(name) if record is not None else None
        if made is None or not is_folder(made):
            self._new.add(path)
            return False
        if path in self._look.dirty or path in self._ways or is_special(made):
            return False
        known = remembered_of(made)
        content = known.entry.content
        usual = isinstance(content, tuple) and isinstance(content[0], bytes) and self._stored(content[0])
        return usual and known.facts == facts_of(facts)

    def meet_linked(self, path: bytes, inode: int) -> None:
        """Take note of something with several names, of whatever type: it may change through each of them.

        Raises:
            RouteLost: it had one name before, so nobody knows where the others are.
        """
        if not self.full and inode not in self._look.linked:
            raise RouteLost(path=path, what="it has several names now")

    def is_silent(self, path: bytes) -> bool:
        """Return whether no event has told of a change in a folder, where events tell of all."""
        return self._look.suspect is not None and path not in self._look.suspect

    def left_out(self, path: bytes) -> None:
        """Take note that a folder is gone."""
        self._look.left_out(path)

    def _folder(self, path: bytes) -> FolderRecord | None:
        if self._record[0] != path:
            self._record = path, self._cache.record(path) if self._cache is not None else None
        return self._record[1]


def _ways(dirty: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return, for each folder above a dirty one, the names that lead there."""
    ways: dict[bytes, set[bytes]] = {b"": set()}
    for path in dirty:
        while path:
            parent, _, name = path.rpartition(b"/")
            names = ways.setdefault(parent, set())
            if name in names:
                break
            names.add(name)
            path = parent
    return {path: list(names) for path, names in ways.items()}

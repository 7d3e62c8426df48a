"""What differs between two checkpoints: paths that were added, removed or changed.

Folders with the same node are equal and never entered, and so are equal nodes of a large folder, so the price
is that of the difference. What is in memory is a node of either side for each folder on the way. A rename is
a removal and an addition. A folder with a damaged node is named, and the others are compared. Not here: what
differs inside of a file.
"""

from collections.abc import AsyncIterator
from typing import Final

from storage.errors import HostileTree, Malformed, StorageError
from storage.format import tree
from storage.format.limits import DEPTH_FOLDERS_MAX
from storage.format.tree import Entry, EntryType
from storage.ops.values import Change, Diff, LeftOut
from storage.repository.damage import damage_of
from storage.repository.index import Places
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.scan.walk import PATH_BYTES_MAX

CHANGES_MAX: Final = 10_000
"""Changes that are named; more are only said to be there."""
LOST_MAX: Final = 1_000
"""Folders that are named as not compared; one more of them is an error."""


async def compare(reader: Reader, index: Places, before: Row, after: Row) -> Diff:
    """Return what changed from one checkpoint to another."""
    assert before.checkpoint is not None
    assert after.checkpoint is not None
    found: list[Change] = []
    lost: list[LeftOut] = []
    async for change in _below(reader, index, before.checkpoint.root, after.checkpoint.root, lost):
        if len(found) == CHANGES_MAX:
            return Diff(changes=tuple(found), more=True, left_out=tuple(lost))
        found.append(change)
    return Diff(changes=tuple(found), left_out=tuple(lost))


async def _below(
    reader: Reader, index: Places, before: Entry, after: Entry, lost: list[LeftOut]
) -> AsyncIterator[Change]:
    opened = [(b"", _Pairs(reader, index, before, after))]
    while opened:
        path, pairs = opened[-1]
        try:
            pair = await pairs.next()
        except StorageError as exc:
            damage = damage_of(exc)
            if damage is None or len(lost) == LOST_MAX:
                raise
            # What was told of it is true; what follows in it is known of one side only, or of none.
            lost.append(LeftOut(path=path, kind="folder", object=damage.object, reason=damage.reason))
            opened.pop()
            continue
        if pair is None:
            opened.pop()
            continue
        name, was, now = pair
        where = path + b"/" + name if path else name
        change = _change(where, was, now)
        if change is not None:
            yield change
        if _content(was) != _content(now):
            if len(opened) > DEPTH_FOLDERS_MAX:
                raise HostileTree(path=where[:PATH_BYTES_MAX], rule="depth")
            opened.append((where, _Pairs(reader, index, was, now)))


class _Pairs:
    """The names of two folders, ascending, each with what it is on either side; equal nodes are left out."""

    def __init__(self, reader: Reader, index: Places, before: Entry | None, after: Entry | None) -> None:
        self._sides = tuple(_Side(reader, index, folder) for folder in (before, after))

    async def next(self) -> tuple[bytes, Entry | None, Entry | None] | None:
        """Return the next name that is not in an equal node of both; None at the end."""
        one, two = self._sides
        await self._approach(one, two)
        names = [side.entries[-1].name for side in self._sides if side.entries]
        if not names:
            return None
        name = min(names)
        return name, one.take(name), two.take(name)

    async def _approach(self, one: "_Side", two: "_Side") -> None:
        """Open nodes until each side shows its next entry, or none that could come before the other's."""
        while True:
            if not one.entries and not two.entries and one.nodes and two.nodes:
                if one.nodes[-1][:2] == two.nodes[-1][:2]:
                    one.nodes.pop()
                    two.nodes.pop()
                    continue
                # The higher one first: what is equal is equal on one level.
                levels = one.level, two.level
                if levels[0] >= levels[1]:
                    await one.open()
                if levels[1] >= levels[0]:
                    await two.open()
            elif one.needs_opening(two):
                await one.open()
            elif two.needs_opening(one):
                await two.open()
            else:
                return


class _Side:
    """What is left of one folder: entries of the open node and the nodes behind it, both reversed."""

    def __init__(self, reader: Reader, index: Places, folder: Entry | None) -> None:
        self._reader = reader
        self._index = index
        self._last = b""
        self.entries: list[Entry] = []
        self.nodes: list[tuple[bytes, int, bytes | None]] = []
        """id, level and first name, which nobody told of the topmost."""
        if folder is not None and _content(folder) is not None:
            self.nodes.append((*tree.node_ref(folder), None))

    @property
    def level(self) -> int:
        return self.nodes[-1][1]

    def needs_opening(self, other: "_Side") -> bool:
        """Return whether the next node may hold a name that is not behind the other side's next one."""
        if self.entries or not self.nodes:
            return False
        first = self.nodes[-1][2]
        return first is None or not other.entries or first <= other.entries[-1].name

    async def open(self) -> None:
        """Put what is in the next node in its place."""
        node_id, level, first = self.nodes.pop()
        children, entries = await self._reader.node(self._index, (node_id, level), first=first)
        self.nodes += [(child.id, level - 1, child.first) for child in reversed(children)]
        if entries and entries[0].name <= self._last:
            raise Malformed(rule="names ascend over nodes")
        self.entries = entries[::-1]

    def take(self, name: bytes) -> Entry | None:
        """Return the next entry if it has this name."""
        if not self.entries or self.entries[-1].name != name:
            return None
        self._last = name
        return self.entries.pop()


def _content(entry: Entry | None) -> object:
    """Return what identifies everything in a folder; None for what is no folder."""
    return entry.content if entry is not None and entry.type == EntryType.FOLDER else None


def _change(path: bytes, was: Entry | None, now: Entry | None) -> Change | None:
    if was is None and now is not None:
        return Change(path=path, what="added", size_before=None, size_after=now.size)
    if now is None and was is not None:
        return Change(path=path, what="removed", size_before=was.size, size_after=None)
    assert was is not None
    assert now is not None
    if was == now or (_content(was) is not None and _same_but_content(was, now)):
        return None
    return Change(path=path, what="changed", size_before=was.size, size_after=now.size)


def _same_but_content(was: Entry, now: Entry) -> bool:
    """Return whether a folder itself is the same: what is in it is told by its own paths."""
    return (was.type, was.mode, was.uid, was.gid, was.extra) == (
        now.type,
        now.mode,
        now.uid,
        now.gid,
        now.extra,
    )

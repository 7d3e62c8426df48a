"""What differs between two checkpoints: paths that were added, removed or changed.

Folders with the same node are equal and never entered, so the price is that of the difference. A rename is a
removal and an addition. Not here: what differs inside of a file.
"""

from collections.abc import AsyncIterator
from typing import Final

from storage.format import tree
from storage.format.tree import Entry, EntryType
from storage.ops.values import Change, Diff
from storage.repository.index import Places
from storage.repository.reader import Reader
from storage.repository.state import Row

CHANGES_MAX: Final = 10_000
"""Changes that are named; more are only said to be there."""


async def compare(reader: Reader, index: Places, before: Row, after: Row) -> Diff:
    """Return what changed from one checkpoint to another."""
    assert before.checkpoint is not None
    assert after.checkpoint is not None
    found: list[Change] = []
    async for change in _below(reader, index, before.checkpoint.root, after.checkpoint.root):
        if len(found) == CHANGES_MAX:
            return Diff(changes=tuple(found), more=True)
        found.append(change)
    return Diff(changes=tuple(found))


async def _below(reader: Reader, index: Places, before: Entry, after: Entry) -> AsyncIterator[Change]:
    todo: list[tuple[bytes, Entry | None, Entry | None]] = [(b"", before, after)]
    while todo:
        path, old, new = todo.pop()
        if _content(old) is not None and _content(old) == _content(new):
            continue
        one, two = await _names(reader, index, old), await _names(reader, index, new)
        deeper: list[tuple[bytes, Entry | None, Entry | None]] = []
        for name in sorted(one.keys() | two.keys()):
            was, now = one.get(name), two.get(name)
            where = path + b"/" + name if path else name
            change = _change(where, was, now)
            if change is not None:
                yield change
            if _content(was) is not None or _content(now) is not None:
                deeper.append((where, was, now))
        todo += reversed(deeper)


def _content(entry: Entry | None) -> object:
    """Return what identifies everything in a folder; None for what is no folder."""
    return entry.content if entry is not None and entry.type == EntryType.FOLDER else None


async def _names(reader: Reader, index: Places, folder: Entry | None) -> dict[bytes, Entry]:
    if folder is None or _content(folder) is None:
        return {}
    return {entry.name: entry async for entry in reader.folder(index, tree.node_ref(folder))}


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

"""Marks every chunk that a kept checkpoint or a live side branch reaches.

Reads trees and lists only, so it needs the meta key and never a data key. Nodes that checkpoints share are
entered once. One tree that cannot be read stops it: then nothing may be collected.

Source: storage.md 4.4 rules 4 and 8.
"""

from dataclasses import dataclass, field

from storage.errors import CollectRefused, FormatError, RepositoryError
from storage.format import lists, tree
from storage.format.entries import Checkpoint
from storage.format.keys import BoxKind
from storage.format.table import read_chunk_refs
from storage.format.tree import Content, EntryType
from storage.repository.index import ChunkIndex
from storage.repository.reader import Reader
from storage.repository.state import LogState
from storage.repository.telling import Tell, tell_nobody


@dataclass(slots=True)
class Marks:
    """Ids of reached chunks, by class."""

    reached: dict[BoxKind, set[bytes]] = field(
        default_factory=lambda: {BoxKind.DATA: set(), BoxKind.META: set()}
    )

    def containers(self, index: ChunkIndex) -> set[str]:
        """Return the names of the objects in which reached chunks lie."""
        return {
            index.place(kind, chunk_id).container.name
            for kind, ids in self.reached.items()
            for chunk_id in ids
        }


async def mark(reader: Reader, state: LogState, tell: Tell = tell_nobody) -> Marks:
    """Return what is reached.

    Raises:
        CollectRefused: a tree cannot be read, or a side branch is known by name only.
    """
    roots: list[Checkpoint] = []
    for row in state.checkpoints():
        assert row.checkpoint is not None
        roots.append(row.checkpoint)
    for side in state.sides.values():
        if side.row is None or side.row.checkpoint is None:
            raise CollectRefused(what="a side checkpoint does not open", object=side.name)
        roots.append(side.row.checkpoint)
    marking = _Marking(reader, state.index)
    try:
        for number, root in enumerate(roots):
            tell("mark", number, len(roots), "checkpoints")
            await marking.checkpoint(root)
    except (FormatError, RepositoryError) as exc:
        raise CollectRefused(what="a tree cannot be read", cause=str(exc)) from exc
    return marking.marks


class _Marking:
    def __init__(self, reader: Reader, index: ChunkIndex) -> None:
        self._reader = reader
        self._index = index
        self.marks = Marks()

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._content(BoxKind.META, checkpoint.report.rest)
        if checkpoint.root.content is not None:
            await self._folders(tree.node_ref(checkpoint.root))

    async def _folders(self, root: tree.NodeRef) -> None:
        todo = [root]
        while todo:
            node_id, level = todo.pop()
            if not self._reach(BoxKind.META, node_id):
                continue
            raw = await self._reader.chunk(self._index, BoxKind.META, node_id)
            if level:
                todo += [(child.id, level - 1) for child in tree.decode_children(raw, level)]
                continue
            for entry in tree.decode_entries(raw):
                if entry.type == EntryType.FOLDER and entry.content is not None:
                    todo.append(tree.node_ref(entry))
                elif entry.type == EntryType.FILE:
                    await self._content(BoxKind.DATA, entry.content)
                await self._content(BoxKind.META, tree.entry_extras(entry).extents_content)

    async def _content(self, kind: BoxKind, content: Content) -> None:
        if content is None:
            return
        if isinstance(content, bytes):
            for chunk_id, _ in read_chunk_refs(content):
                self._reach(kind, chunk_id)
            return
        assert isinstance(content[0], bytes), "checked when the entry was decoded"
        todo = [(content[0], content[1])]
        while todo:
            list_id, level = todo.pop()
            if not self._reach(BoxKind.META, list_id):
                continue
            raw = await self._reader.chunk(self._index, BoxKind.META, list_id)
            for item_id, _ in lists.decode_list(raw, level):
                if level:
                    todo.append((item_id, level - 1))
                else:
                    self._reach(kind, item_id)

    def _reach(self, kind: BoxKind, chunk_id: bytes) -> bool:
        """Mark a chunk, which must lie in a live object; return whether it is new."""
        reached = self.marks.reached[kind]
        if chunk_id in reached:
            return False
        self._index.place(kind, chunk_id)
        reached.add(chunk_id)
        return True

"""Writes the tree of names and the lists of chunks, bottom up, into new meta chunks.

Nodes that are stored already cost nothing: `offer` finds their id. Pure but for that call.
"""

from collections.abc import Sequence
from typing import Final

from storage.errors import LimitReached
from storage.format import lists, tree
from storage.format.keys import BoxKind
from storage.format.limits import CHUNK_REFS_INLINE_MAX, NODE_LEVELS_MAX
from storage.format.table import pack_chunk_refs
from storage.format.tree import Child, Content, NodeRef
from storage.repository.packer import ChunkTaker

REFS_IN_ENTRY: Final = 8
"""More of them lie in a list: with up to 64 in each entry a folder of logs took 16 KB, stored again for every
line that one of them got."""
assert REFS_IN_ENTRY <= CHUNK_REFS_INLINE_MAX, "what a reader takes"


def write_above(chunks: ChunkTaker, leaves: Sequence[Child]) -> NodeRef:
    """Write what is above the nodes of level 0 of one folder; return the reference to its top node."""
    if len(leaves) == 1:
        return leaves[0].id, 0
    children = leaves
    for level in range(1, NODE_LEVELS_MAX + 1):
        above: list[Child] = []
        for part in tree.split_children(children, level):
            node_id = chunks.offer(BoxKind.META, tree.encode_node(level, part))
            if len(part) == len(children):
                return node_id, level
            above.append(Child(part[0].first, node_id, sum(child.entries for child in part)))
        children = above
    raise LimitReached(limit="node levels")


def write_content(chunks: ChunkTaker, refs: Sequence[tuple[bytes, int]]) -> Content:
    """Return the content of chunks: nil, packed up to a few references, else the top of a list."""
    if not refs:
        return None
    if len(refs) <= REFS_IN_ENTRY:
        return pack_chunk_refs(refs)
    items: Sequence[tuple[bytes, int]] = refs
    for level in range(NODE_LEVELS_MAX + 1):
        above: list[tuple[bytes, int]] = []
        for run in lists.split_refs(items):
            raw = lists.encode_refs(run) if level == 0 else lists.encode_lists(run, level)
            list_id = chunks.offer(BoxKind.META, raw)
            if len(run) == len(items):
                return list_id, level
            above.append((list_id, sum(size for _, size in run)))
        items = above
    raise LimitReached(limit="list levels")

"""What differs between two folders, whatever nodes they are made of: as if all names were compared."""

import asyncio
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from storage.format.tree import Child, Entry, EntryType
from storage.ops import diff
from storage.ops.values import LeftOut

NAMES = st.integers(0, 40).map(lambda number: b"%02d" % number)
FILES = st.dictionaries(NAMES, st.integers(1, 3), max_size=30)
WIDTHS = st.tuples(st.integers(1, 5), st.integers(2, 4))


def entry(name: bytes, size: int, content: object = None, kind: int = EntryType.FILE) -> Entry:
    return Entry(name, kind, 0o600, None, None, 0, 0, size, content, None)


class Nodes:
    """Trees of folders; nodes with the same items are one, as in a repository."""

    def __init__(self) -> None:
        self.known: dict[tuple[bytes, int], tuple[list[Child], list[Entry]]] = {}

    def put(self, children: list[Child], entries: list[Entry], level: int) -> bytes:
        node_id = hashlib.sha256(repr((children, entries, level)).encode()).digest()
        self.known[node_id, level] = (children, entries)
        return node_id

    def folder(self, files: dict[bytes, int], widths: tuple[int, int]) -> Entry:
        wide, high = widths
        entries = [entry(name, size) for name, size in sorted(files.items())]
        parts = [entries[at : at + wide] for at in range(0, len(entries), wide)] or [[]]
        level = 0
        row = [Child(part[0].name if part else b"", self.put([], part, 0), len(part)) for part in parts]
        while len(row) > 1:
            level += 1
            row = [
                Child(part[0].first, self.put(part, [], level), sum(one.entries for one in part))
                for part in (row[at : at + high] for at in range(0, len(row), high))
            ]
        return entry(b"", 0, (row[0].id, level), EntryType.FOLDER)

    async def node(
        self, _index: object, ref: tuple[bytes, int], *, first: bytes | None
    ) -> tuple[list[Child], list[Entry]]:
        children, entries = self.known[ref]
        begins = children[0].first if children else entries[0].name if entries else None
        assert first in (None, begins)
        return children, entries


async def differences(nodes: Nodes, before: Entry, after: Entry) -> list[tuple[bytes, str]]:
    lost: list[LeftOut] = []
    found = [(one.path, one.what) async for one in diff._below(nodes, None, before, after, lost)]
    assert not lost
    return found


@given(before=FILES, after=FILES, widths=st.tuples(WIDTHS, WIDTHS))
def test_two_folders_differ_where_their_names_do(before, after, widths):
    nodes = Nodes()
    found = asyncio.run(differences(nodes, nodes.folder(before, widths[0]), nodes.folder(after, widths[1])))
    expected = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            expected.append((name, "added"))
        elif name not in after:
            expected.append((name, "removed"))
        elif before[name] != after[name]:
            expected.append((name, "changed"))
    assert found == expected

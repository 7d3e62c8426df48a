"""The tree of names: folders as nodes of entries, split by a hash of the name.

Node `[1, level, items]`. Level 0 has entries, names strictly ascending as bytes; above are
`[first name, id, number of entries]`. Readers know no cut rule; they check the level of every child. A
million entries are some 4,000 nodes, and one new file rewrites two or three of them.

Entry `[name, type, mode, uid, gid, mtime_s, mtime_ns, size, content, extra]`. Inode, ctime and atime are a
cache of the host and never in the repository.

Source: storage.md 4.1 "Tree".
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec
from blake3 import blake3

from storage.errors import LimitReached, Malformed, NewerServiceNeeded
from storage.format.encoding import Body, decode, encode
from storage.format.extras import Extras, read_extras
from storage.format.keys import CHUNK_ID_BYTES
from storage.format.limits import (
    CHUNK_REFS_INLINE_MAX,
    ENTRIES_MAX,
    FILE_BYTES_LIMIT,
    KIB,
    NAME_BYTES_MAX,
    NODE_BYTES_MAX,
    NODE_LEVELS_MAX,
    SYMLINK_TARGET_BYTES_MAX,
)
from storage.format.table import CHUNK_BYTES, chunk_refs_bytes

NODE_VERSION: Final = 1
CUT_ITEMS_MIN: Final = 32
CUT_ITEMS_MAX: Final = 1_024
CUT_NODE_BYTES: Final = 128 * KIB
_LEAF_START: Final = bytes((0x93, NODE_VERSION, 0))
"""msgpack: an array of three, the version, level 0."""
_SHORT_ARRAY: Final = 16
_SHORT_ARRAY_MARK: Final = 0x90
_LONG_ARRAY: Final = struct.Struct(">BH")
_LONG_ARRAY_MARK: Final = 0xDC
"""Up to 65,535 items; a node has at most 1,024."""


class EntryType(IntEnum):
    """Types of entries. 5 to 7 are recorded and not made again; unknown ones are reported by a restore."""

    FILE = 1
    FOLDER = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR = 6
    BLOCK = 7


NodeRef: TypeAlias = tuple[bytes, int]
"""[node or list id, level]"""
Content: TypeAlias = bytes | tuple[bytes | int, int] | None


class Entry(Body, frozen=True):
    """One name in a folder. Owner nil is `self`: whoever the workspace belongs to."""

    name: bytes
    type: int
    mode: int
    uid: int | None
    gid: int | None
    mtime_s: int
    mtime_ns: int
    size: int
    content: Content
    extra: list[tuple[int, msgspec.Raw]] | None


class Child(Body, frozen=True):
    """One item of a node above level 0."""

    first: bytes
    id: bytes
    entries: int


class _AnyNode(Body, frozen=True):
    version: int
    level: int
    items: msgspec.Raw


class Node(Body, frozen=True):
    """A node: entries at level 0, children above."""

    version: int
    level: int
    items: list[Entry] | list[Child]


_any_decoder: Final = msgspec.msgpack.Decoder(_AnyNode)
_entries_decoder: Final = msgspec.msgpack.Decoder(list[Entry])
_children_decoder: Final = msgspec.msgpack.Decoder(list[Child])


def node_ref(entry: Entry) -> NodeRef:
    """Return (id, level) of a folder's node."""
    content = entry.content
    if entry.type != EntryType.FOLDER or not isinstance(content, tuple) or not isinstance(content[0], bytes):
        raise Malformed(rule="folder content")
    return content[0], content[1]


def entry_extras(entry: Entry) -> Extras:
    """Return the checked extras of an entry."""
    return read_extras(entry.extra, size=entry.size)


def encode_node(level: int, items: "Sequence[Entry] | Sequence[Child]") -> bytes:
    """Return the bytes of a node; its id is taken over exactly these."""
    raw = encode(Node(NODE_VERSION, level, list(items)))  # type: ignore[arg-type]  # one kind per level
    if len(raw) > NODE_BYTES_MAX:
        raise LimitReached(limit="node bytes", value=len(raw))
    return raw


def decode_entries(raw: bytes) -> list[Entry]:
    """Return the entries of a node of level 0, every rule checked."""
    entries = decode(_entries_decoder, _items_of(raw, level=0), what="tree node")
    last = b""
    for entry in entries:
        if entry.name <= last:
            raise Malformed(rule="names ascend")
        check_name(entry.name)
        check_entry(entry)
        last = entry.name
    return entries


def decode_children(raw: bytes, level: int) -> list[Child]:
    """Return the children of a node of `level` 1 and up. A node is never empty there."""
    children = decode(_children_decoder, _items_of(raw, level=level), what="tree node")
    if not children:
        raise Malformed(rule="a node above level 0 has children")
    last = b""
    for child in children:
        if child.first <= last or len(child.id) != CHUNK_ID_BYTES or not 0 < child.entries <= ENTRIES_MAX:
            raise Malformed(rule="children ascend")
        check_name(child.first)
        last = child.first
    return children


def _items_of(raw: bytes, *, level: int) -> bytes:
    if len(raw) > NODE_BYTES_MAX:
        raise Malformed(rule="node bytes")
    node = decode(_any_decoder, raw, what="tree node")
    if node.version != NODE_VERSION:
        raise NewerServiceNeeded(what="tree node version", value=node.version)
    if node.level != level or not 0 <= level <= NODE_LEVELS_MAX:
        raise Malformed(rule="node level")
    return bytes(node.items)


def check_name(name: bytes) -> None:
    """Refuse a name that is none: it must be one part of a path and nothing else."""
    if not 0 < len(name) <= NAME_BYTES_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Malformed(rule="entry name")


def check_root(entry: Entry) -> None:
    """Refuse a root that is not the home folder itself."""
    if entry.name or entry.type != EntryType.FOLDER:
        raise Malformed(rule="root entry")
    check_entry(entry)


def check_entry(entry: Entry) -> None:
    """Check everything of an entry but its name."""
    if not 0 <= entry.mode <= 0o7777 or not 0 <= entry.mtime_ns <= 999_999_999:
        raise Malformed(rule="entry mode or time")
    if not -(1 << 63) <= entry.mtime_s < 1 << 63 or not 0 <= entry.size < FILE_BYTES_LIMIT:
        raise Malformed(rule="entry numbers")
    if not _owner_fits(entry.uid) or not _owner_fits(entry.gid) or entry.type < 1:
        raise Malformed(rule="entry owner or type")
    if entry.extra is None and entry.type == EntryType.FILE and entry.content.__class__ is bytes:
        # Almost every entry; the same two rules as below, and no value is made for them.
        if check_content_refs(entry.content) != entry.size:
            raise Malformed(rule="content length")
        return
    extras = entry_extras(entry)
    if entry.type == EntryType.FILE:
        _check_file(entry, extras)
    elif entry.type == EntryType.FOLDER:
        if not _is_node_ref(entry.content) and not (entry.content is None and extras.unreadable):
            raise Malformed(rule="folder content")
    elif entry.type == EntryType.SYMLINK:
        target = entry.content
        if target is None and extras.unreadable:
            return
        if not isinstance(target, bytes) or b"\0" in target:
            raise Malformed(rule="symlink target")
        if not 0 < len(target) <= SYMLINK_TARGET_BYTES_MAX:
            raise Malformed(rule="symlink target")
    elif entry.type in (EntryType.FIFO, EntryType.SOCKET) and entry.content is not None:
        raise Malformed(rule="content of a fifo or socket")
    elif entry.type in (EntryType.CHAR, EntryType.BLOCK) and not _is_device(entry.content):
        raise Malformed(rule="device numbers")


def _owner_fits(number: int | None) -> bool:
    return number is None or 0 <= number <= 0xFFFFFFFF


def _is_node_ref(content: Content) -> bool:
    return (
        isinstance(content, tuple)
        and isinstance(content[0], bytes)
        and len(content[0]) == CHUNK_ID_BYTES
        and 0 <= content[1] <= NODE_LEVELS_MAX
    )


def _is_device(content: Content) -> bool:
    return (
        isinstance(content, tuple)
        and isinstance(content[0], int)
        and 0 <= content[0] < 1 << 32
        and 0 <= content[1] < 1 << 32
    )


def check_content_refs(content: Content) -> int | None:
    """Check a content of chunks: packed references, `[list id, level]` or nil.

    Return its bytes where known.
    """
    if content is None:
        return 0
    if isinstance(content, bytes):
        if not 0 < len(content) <= CHUNK_REFS_INLINE_MAX * CHUNK_BYTES:
            raise Malformed(rule="chunk references")
        return chunk_refs_bytes(content)
    if not _is_node_ref(content):
        raise Malformed(rule="list reference")
    return None


def _check_file(entry: Entry, extras: Extras) -> None:
    known = check_content_refs(entry.content)
    if extras.unreadable:
        if entry.content is not None:
            raise Malformed(rule="an unreadable file has no content")
        return
    expected = extras.data_bytes(entry.size)
    if known is not None and expected is not None and known != expected:
        raise Malformed(rule="content length")


def encode_leaf(entries: Sequence[bytes | msgspec.Raw]) -> bytes:
    """Return the bytes of a node of level 0 from entries that are encoded already; as `encode_node`."""
    count = len(entries)
    if count < _SHORT_ARRAY:
        items = bytes((_SHORT_ARRAY_MARK | count,))
    else:
        items = _LONG_ARRAY.pack(_LONG_ARRAY_MARK, count)
    raw = b"".join((_LEAF_START, items, *entries))
    if len(raw) > NODE_BYTES_MAX:
        raise LimitReached(limit="node bytes", value=len(raw))
    return raw


class LeafCut:
    """Cuts a folder's entries, given one by one and ascending by name, into the runs of its nodes of level 0.

    A cut falls after a name whose hash says so (about every 256), so that one change moves no other cut. A
    run has 32 to 1,024 entries and at most 128 KiB; the bytes are those of the entries, the node's own are
    few. Where a run ends depends on nothing that was before it.
    """

    __slots__ = ("_count", "_size")

    def __init__(self) -> None:
        self._count = self._size = 0

    def before(self, raw_bytes: int) -> bool:
        """Return whether the run ends before an entry of so many bytes."""
        if self._count and (self._size + raw_bytes > CUT_NODE_BYTES or self._count == CUT_ITEMS_MAX):
            self._count = self._size = 0
            return True
        return False

    def after(self, name: bytes, raw_bytes: int) -> bool:
        """Take an entry; return whether the run ends with it, whatever follows."""
        self._count += 1
        self._size += raw_bytes
        if self._count >= CUT_ITEMS_MIN and _cuts(name, level=0):
            self._count = self._size = 0
            return True
        return False


def split_children(children: Sequence[Child], level: int) -> Iterator[list[Child]]:
    """Cut the children of a node of `level` 1 and up into runs, by the hash of their first names."""
    run: list[Child] = []
    for child in children:
        run.append(child)
        if len(run) == CUT_ITEMS_MAX // 4 or (len(run) >= CUT_ITEMS_MIN and _cuts(child.first, level=level)):
            yield run
            run = []
    if run:
        yield run


def _cuts(name: bytes, *, level: int) -> bool:
    return blake3(name).digest(length=NODE_LEVELS_MAX + 1)[level] == 0

"""What is remembered of one folder: its entries as they were stored, how each looked on disk, its node.

One packed value per folder. A scan that finds a folder as it was takes the value as it is: no entry is
decoded, no node is written. Where some entries changed, the others are taken over as bytes.

An entry that a scan must look at by itself, whatever its stat facts say, is *special*: it has a grade, its
inode has several names, or it is reported each time (sockets, devices). No part of the format: a cache.
"""

import stat
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from storage.errors import FormatError
from storage.format.encoding import Body, decode, encode
from storage.format.tree import Entry, NodeRef, entry_extras
from storage.scan.entry import Before, Kind, StatFacts

SPECIAL: Final = -1
"""In place of the bytes of a special entry."""
SKIPPED_KINDS: Final = frozenset({Kind.SOCKET, Kind.CHAR, Kind.BLOCK})
_TYPE_BITS: Final[Mapping[int, int]] = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}

Facts = tuple[int, int, int, int, int, int, int, int, int]
"""mode, inode, device, links, uid, gid, size, mtime_ns, ctime_ns"""
Made = tuple[Before, bytes]
"""An entry of a folder: how it looked, and its bytes in the tree."""
Totals = tuple[int, int, int]
"""Entries, folders, bytes."""


class Remembered(Body, frozen=True):
    """One entry of a folder: its stat facts, and what was stored of it."""

    facts: Facts | None
    entry: Entry
    read_ns: int = 0
    """When the scan began that has read it; scans that only believed it leave this as it is."""


class _Stored(Body, frozen=True):
    node: NodeRef | None
    others: int
    """Entries that are no folders."""
    below: Totals | None
    """Of everything in and beneath the folder, itself not counted; None where something special is there."""
    rows: list[Before]
    raws: list[msgspec.Raw]


_stored_decoder: Final = msgspec.msgpack.Decoder(_Stored)
_entry_decoder: Final = msgspec.msgpack.Decoder(Entry)


def facts_of(found: StatFacts) -> Facts:
    """Return what is compared of a stat."""
    return (
        found.mode,
        found.inode,
        found.device,
        found.links,
        found.uid,
        found.gid,
        found.size,
        found.mtime_ns,
        found.ctime_ns,
    )


def made_of(entry: Entry, facts: Facts | None, read_ns: int) -> Made:
    """Return an entry as it is kept; without facts it is never taken for unchanged."""
    raw = encode(entry)
    size = _counted_bytes(entry)
    if facts is None:
        return (entry.name, None, 0, 0, read_ns, size), raw
    mode, inode, device, links, uid, gid, file_bytes, mtime_ns, ctime_ns = facts
    whole_mode = mode | _TYPE_BITS.get(entry.type, 0)
    head = (whole_mode, inode, device, links, uid, gid, file_bytes)
    return (entry.name, head, mtime_ns, ctime_ns, read_ns, size), raw


def made_from(remembered: Remembered) -> Made:
    """Return a remembered entry as it is kept."""
    return made_of(remembered.entry, remembered.facts, remembered.read_ns)


def entry_of(made: Made) -> Entry:
    """Return the entry of what is kept."""
    return decode(_entry_decoder, made[1], what="remembered entry")


def is_special(row: Before) -> bool:
    """Return whether a scan must look at this entry by itself."""
    return row[5] == SPECIAL


def is_folder(row: Before, raw: bytes) -> bool:
    """Return whether an entry is a folder."""
    if row[1] is not None:
        return stat.S_ISDIR(row[1][0])
    return decode(_entry_decoder, raw, what="remembered entry").type == Kind.FOLDER


def pack_folder(items: Sequence[Made], *, node: NodeRef | None, below: Totals | None) -> bytes:
    """Return the packed value of a folder, its items ascending by name."""
    rows = [row for row, _ in items]
    folders = sum(is_folder(row, raw) for row, raw in items)
    raws = [msgspec.Raw(raw) for _, raw in items]
    return encode(_Stored(node, len(rows) - folders, below, rows, raws))


class FolderRecord:
    """A folder's packed value, opened."""

    __slots__ = ("_at", "_stored", "packed")

    def __init__(self, packed: bytes) -> None:
        """Open it.

        Raises:
            FormatError: it is none.
        """
        self.packed = packed
        self._stored = decode(_stored_decoder, packed, what="stat cache")
        if len(self._stored.rows) != len(self._stored.raws):
            raise FormatError(what="stat cache")
        self._at: dict[bytes, int] | None = None

    @property
    def node(self) -> NodeRef | None:
        """The folder's node in the checkpoint; None where it is not known."""
        return self._stored.node

    @property
    def others(self) -> int:
        """How many entries are no folders."""
        return self._stored.others

    @property
    def below(self) -> Totals | None:
        """Totals of everything in and beneath it; None where something special is there."""
        return self._stored.below

    def __len__(self) -> int:
        return len(self._stored.rows)

    def before(self) -> dict[bytes, Before]:
        """Return by name what a walk may pass by if it looks the same; nothing that has several names."""
        rows = self._stored.rows
        return {row[0]: row for row in rows if row[1] is not None and row[1][3] == 1 and row[5] != SPECIAL}

    def made(self, name: bytes) -> Made | None:
        """Return an entry as it is kept."""
        if self._at is None:
            self._at = {row[0]: at for at, row in enumerate(self._stored.rows)}
        at = self._at.get(name)
        return None if at is None else (self._stored.rows[at], bytes(self._stored.raws[at]))

    def all_made(self) -> list[Made]:
        """Return every entry as it is kept, ascending by name."""
        return [(row, bytes(raw)) for row, raw in zip(self._stored.rows, self._stored.raws, strict=True)]

    def remembered(self, name: bytes) -> Remembered | None:
        """Return one entry."""
        made = self.made(name)
        return None if made is None else remembered_of(made)


def remembered_of(made: Made) -> Remembered:
    """Return what is kept of an entry as one value."""
    row = made[0]
    entry = entry_of(made)
    if row[1] is None:
        return Remembered(None, entry, row[4])
    mode, inode, device, links, uid, gid, size = row[1]
    facts = (stat.S_IMODE(mode), inode, device, links, uid, gid, size, row[2], row[3])
    return Remembered(facts, entry, row[4])


def _counted_bytes(entry: Entry) -> int:
    """Return the data bytes of an entry, or SPECIAL."""
    if entry.type in SKIPPED_KINDS:
        return SPECIAL
    if entry.extra is None:
        return entry.size if entry.type == Kind.FILE and entry.content is not None else 0
    extras = entry_extras(entry)
    if extras.link_group is not None or extras.grade is not None:
        return SPECIAL
    if entry.type != Kind.FILE or entry.content is None:
        return 0
    return extras.data_bytes(entry.size) or 0

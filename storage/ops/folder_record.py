"""What is remembered of one folder: its entries as they were stored, how each looked on disk, its node.

One packed value per folder, and for a folder with very many entries one for each of its parts besides: a
part is what one node of level 0 holds. A scan that finds a folder, or a part, as it was takes the value as it
is: no entry is encoded, no node is written. Only the part that a scan stands in is decoded.

An entry that a scan must look at by itself, whatever its stat facts say, is *special*: it has a grade, its
inode has several names, or it is reported each time (sockets, devices). No part of the format: a cache.
"""

import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from storage.errors import CacheLost, FormatError
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

T = TypeVar("T")
Facts = tuple[int, int, int, int, int, int, int, int, int]
"""mode, inode, device, links, uid, gid, size, mtime_ns, ctime_ns"""
Head = tuple[int, int, int, int, int, int, int]
Made = tuple[bytes, Head | None, int, int, int, int, msgspec.Raw]
"""An entry of a folder: how it looked (`Before`), and its bytes in the tree."""
Totals = tuple[int, int, int]
"""Entries, folders, bytes."""


class Blobs(Protocol):
    """Where packed values lie while nobody looks at them."""

    def put(self, raw: bytes) -> bytes:
        """Keep a value; return by what it is found."""
        ...

    def get(self, slot: bytes) -> bytes:
        """Return a value. Raises CacheLost."""
        ...


class Nowhere:
    """Implements `Blobs` for who will not ask: of a look that is not saved nothing is remembered."""

    def put(self, raw: bytes) -> bytes:
        return b""

    def get(self, slot: bytes) -> bytes:
        raise CacheLost(what="nothing is kept")


NOWHERE: Final = Nowhere()


class Remembered(Body, frozen=True):
    """One entry of a folder: its stat facts, and what was stored of it."""

    facts: Facts | None
    entry: Entry
    read_ns: int = 0
    """When the scan began that has read it; scans that only believed it leave this as it is."""


class Part(Body, frozen=True):
    """Some neighbours of a folder: those of one node of level 0."""

    first: bytes
    leaf: bytes | None
    """The node; None where it is not known."""
    firm: bool
    """It ends where it does whatever follows."""
    others: int
    """Entries that are no folders."""
    plain: Totals
    """Of the entries that are not special."""
    special: int
    inline: bool
    rows: bytes
    """The packed entries, or by what they are found."""

    @property
    def entries(self) -> int:
        """Return how many entries it has."""
        return self.plain[0] + self.special


class _Stored(Body, frozen=True):
    node: NodeRef | None
    below: Totals | None
    """Of everything in and beneath the folder, itself not counted; None where something special is there."""
    parts: list[Part]


_stored_decoder: Final = msgspec.msgpack.Decoder(_Stored)
_rows_decoder: Final = msgspec.msgpack.Decoder(list[Made])
_made_decoder: Final = msgspec.msgpack.Decoder(Made)
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
    return unpacked(packed_of(entry, facts, read_ns))


def packed_of(entry: Entry, facts: Facts | None, read_ns: int) -> bytes:
    """Return an entry as it waits for its folder to be written: packed, and in order of the names.

    Its name and a zero come first, which no name holds.
    """
    size, name = _counted_bytes(entry), entry.name
    if facts is None:
        return name + b"\0" + encode((name, None, 0, 0, read_ns, size, entry))
    mode, inode, device, links, uid, gid, file_bytes, mtime_ns, ctime_ns = facts
    whole_mode = mode | _TYPE_BITS.get(entry.type, 0)
    head = (whole_mode, inode, device, links, uid, gid, file_bytes)
    return name + b"\0" + encode((name, head, mtime_ns, ctime_ns, read_ns, size, entry))


def packed(made: Made) -> bytes:
    """Return an entry that is kept as it waits for its folder."""
    return made[0] + b"\0" + encode(made)


def unpacked(waiting: bytes) -> Made:
    """Return what has waited."""
    made: Made = decode(_made_decoder, memoryview(waiting)[waiting.index(0) + 1 :], what="entry")
    return made


def made_from(remembered: Remembered) -> Made:
    """Return a remembered entry as it is kept."""
    return made_of(remembered.entry, remembered.facts, remembered.read_ns)


def entry_of(made: Made) -> Entry:
    """Return the entry of what is kept."""
    return entry_from(made[6])


def entry_from(raw: bytes | msgspec.Raw) -> Entry:
    """Return the entry in bytes of our own."""
    return decode(_entry_decoder, raw, what="remembered entry")


def is_special(made: Made) -> bool:
    """Return whether a scan must look at this entry by itself."""
    return made[5] == SPECIAL


def is_folder(made: Made) -> bool:
    """Return whether an entry is a folder."""
    if made[1] is not None:
        return stat.S_ISDIR(made[1][0])
    return entry_of(made).type == Kind.FOLDER


def part_of(made: Sequence[Made], *, leaf: bytes | None, firm: bool) -> Part:
    """Return some neighbours, ascending by name."""
    plain = folders = special_others = size = 0
    for one in made:
        folder = is_folder(one)
        if one[5] == SPECIAL:
            special_others += not folder
            continue
        plain += 1
        folders += folder
        size += one[5]
    first = made[0][0] if made else b""
    others, special = plain - folders + special_others, len(made) - plain
    return Part(first, leaf, firm, others, (plain, folders, size), special, True, encode(made))


def pack_folder(
    parts: Sequence[Part], blobs: Blobs, *, node: NodeRef | None = None, below: Totals | None = None
) -> bytes:
    """Return the packed value of a folder. If it has several parts these are kept by themselves."""
    assert parts, "an empty folder has an empty part"
    if len(parts) > 1:
        parts = [set_apart(part, blobs) for part in parts]
    return encode(_Stored(node, below, list(parts)))


def set_apart(part: Part, blobs: Blobs) -> Part:
    """Return a part whose entries are kept by themselves."""
    if not part.inline:
        return part
    return msgspec.structs.replace(part, inline=False, rows=blobs.put(part.rows))


def moved(packed_folder: bytes, before: Blobs, now: Blobs) -> bytes:
    """Return the packed value of a folder that is to be kept elsewhere."""
    stored = _read(_stored_decoder, packed_folder)
    if all(part.inline for part in stored.parts):
        return packed_folder
    parts = [
        part if part.inline else msgspec.structs.replace(part, rows=now.put(before.get(part.rows)))
        for part in stored.parts
    ]
    return encode(_Stored(stored.node, stored.below, parts))


class FolderRecord:
    """A folder's packed value, opened."""

    __slots__ = ("_at", "_blobs", "_opened", "_stored", "slot")

    def __init__(self, slot: bytes, blobs: Blobs) -> None:
        """Open it.

        Raises:
            CacheLost: it is not there any more, or is none that this version reads.
        """
        self.slot = slot
        self._blobs = blobs
        self._stored = _read(_stored_decoder, blobs.get(slot))
        self._opened: tuple[int, list[Made]] = (-1, [])
        self._at: tuple[int, dict[bytes, int]] = (-1, {})

    def lies_in(self, blobs: Blobs) -> bool:
        """Return whether it is kept there."""
        return self._blobs is blobs or blobs is NOWHERE

    def slot_in(self, blobs: Blobs) -> bytes:
        """Return by what it is found there, where it is put if it is kept elsewhere."""
        if self.lies_in(blobs):
            return self.slot
        return blobs.put(moved(self._blobs.get(self.slot), self._blobs, blobs))

    @property
    def node(self) -> NodeRef | None:
        """The folder's node in the checkpoint; None where it is not known."""
        return self._stored.node

    @property
    def parts(self) -> list[Part]:
        """Its entries in order, some neighbours after the other; never none."""
        return self._stored.parts

    @property
    def others(self) -> int:
        """How many entries are no folders."""
        parts = self._stored.parts
        return parts[0].others if len(parts) == 1 else sum(part.others for part in parts)

    @property
    def below(self) -> Totals | None:
        """Totals of everything in and beneath it; None where something special is there."""
        return self._stored.below

    @property
    def plain(self) -> Totals:
        """Totals of its own entries that are not special."""
        plain = [part.plain for part in self._stored.parts]
        if len(plain) == 1:
            return plain[0]
        return sum(one[0] for one in plain), sum(one[1] for one in plain), sum(one[2] for one in plain)

    def __len__(self) -> int:
        return sum(part.entries for part in self._stored.parts)

    def rows(self, number: int) -> list[Made]:
        """Return the entries of a part. The last one that was asked for is kept."""
        opened = self._opened
        if opened[0] != number:
            part = self._stored.parts[number]
            raw = part.rows if part.inline else self._blobs.get(part.rows)
            opened = self._opened = number, _read(_rows_decoder, raw)
        return opened[1]

    def before(self, number: int) -> dict[bytes, Before]:
        """Return by name what a walk may pass by if it looks the same; nothing that has several names."""
        rows = self.rows(number)
        return {row[0]: row for row in rows if row[1] is not None and row[1][3] == 1 and row[5] != SPECIAL}

    def made(self, name: bytes) -> Made | None:
        """Return an entry as it is kept."""
        parts = self._stored.parts
        number = 0 if len(parts) == 1 else max(0, bisect_right(parts, name, key=_first_of) - 1)
        rows, at = self.rows(number), self._at
        if at[0] != number:
            at = self._at = number, {row[0]: where for where, row in enumerate(rows)}
        where = at[1].get(name)
        return None if where is None else rows[where]

    def all_made(self) -> Iterator[Made]:
        """Yield every entry as it is kept, ascending by name."""
        for number in range(len(self._stored.parts)):
            yield from self.rows(number)

    def special(self) -> Iterator[Made]:
        """Yield the special entries."""
        for number, part in enumerate(self._stored.parts):
            if part.special:
                yield from filter(is_special, self.rows(number))

    def remembered(self, name: bytes) -> Remembered | None:
        """Return one entry."""
        made = self.made(name)
        return None if made is None else remembered_of(made)


class Kept:
    """Which entries of a remembered folder, none of them a folder, a walk has found as they were.

    Implements `storage.scan.entry.Earlier`. Names are kept only of parts in which not all were.
    """

    __slots__ = ("_record", "count", "parts")

    def __init__(self, record: FolderRecord) -> None:
        self._record = record
        self.count = 0
        self.parts: list[frozenset[bytes] | None] = []
        """For each part the names; None is all of them."""

    def over(self, names: list[bytes]) -> Iterator[tuple[list[bytes], Mapping[bytes, Before], list[bytes]]]:
        parts = self._record.parts
        for number, part in enumerate(parts):
            if number + 1 < len(parts):
                first = parts[number + 1].first
                some: list[bytes] = []
                while names and names[-1] < first:
                    some.append(names.pop())
            else:
                some = names[::-1]
                names.clear()
            same: list[bytes] = []
            yield some, self._record.before(number), same
            self.count += len(same)
            self.parts.append(None if len(same) == part.others else frozenset(same))


def remembered_of(made: Made) -> Remembered:
    """Return what is kept of an entry as one value."""
    entry = entry_of(made)
    if made[1] is None:
        return Remembered(None, entry, made[4])
    mode, inode, device, links, uid, gid, size = made[1]
    facts = (stat.S_IMODE(mode), inode, device, links, uid, gid, size, made[2], made[3])
    return Remembered(facts, entry, made[4])


def _read(decoder: "msgspec.msgpack.Decoder[T]", raw: bytes) -> T:
    """Return what a version of this service has kept; of another one nothing is needed."""
    try:
        return decode(decoder, raw, what="stat cache")
    except FormatError as exc:
        raise CacheLost(what="stat cache") from exc


def _first_of(part: Part) -> bytes:
    return part.first


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

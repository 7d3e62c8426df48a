"""The end of a scan: from the folders that were met to the tree, its totals and the next stat cache.

Folders are written from the deepest up. One whose entries are all as they were keeps its packed value and
its node: nothing of it is encoded, hashed or offered. Nothing here looks at a disk or at the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.format.extras import Extras
from storage.format.tree import Entry, NodeRef, entry_extras
from storage.ops.entry_maker import EntryMaker
from storage.ops.folder_record import (
    FolderRecord,
    Made,
    Remembered,
    Totals,
    entry_of,
    facts_of,
    is_folder,
    is_special,
    made_of,
    pack_folder,
)
from storage.ops.stat_cache import StatCache
from storage.repository.packer import ChunkTaker
from storage.repository.tree_writer import write_folder
from storage.scan.entry import Attributes, Before, Kind, StatFacts


@dataclass(slots=True, kw_only=True)
class MetFolder:
    """One folder that the scan went through."""

    path: bytes
    facts: StatFacts
    attributes: Attributes | None
    """None: as `known` says."""
    record: FolderRecord | None = None
    """What is remembered of it, if that may stand for what is there."""
    known: Made | None = None
    """Its own entry as remembered, if the folder itself is as it was."""
    stands: bool = False
    """Whether the record may be kept as it is: it says `self` of the same owner, and its node is stored."""
    same: list[bytes] = field(default_factory=list)
    """Names of the remembered entries that are as they were."""
    passed: list[bytes] = field(default_factory=list)
    """Names of subfolders that were not entered: nothing in or beneath them has changed."""
    listed: bool = True
    """False: it was passed through, and only what the way led to was looked at."""
    made: list[Made] = field(default_factory=list)
    """Entries that were looked at. Readers add theirs from their own threads."""
    children: list["MetFolder"] = field(default_factory=list)
    result: Made | None = None
    below: Totals | None = None
    """Of everything in and beneath it; None where something special is there."""

    @property
    def name(self) -> bytes:
        """Return the last part of its path."""
        return self.path.rpartition(b"/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A whole tree."""

    root: Entry
    cache: StatCache
    entries: int
    folders: int
    content_bytes: int


class Assembly:
    """Writes the folders of one scan. Used once."""

    def __init__(
        self, *, taker: ChunkTaker, maker: EntryMaker, owner: tuple[int, int], start_ns: int
    ) -> None:
        self._taker = taker
        self._maker = maker
        self._owner = owner
        self._start_ns = start_ns
        self._groups: set[bytes] = set()
        """Inodes with several names whose data is counted already."""
        self._entries = self._folders = self._bytes = 0
        self._special: Totals = (0, 0, 0)
        """What of these is special."""

    def write(self, met: Sequence[MetFolder]) -> Assembled:
        """Write every folder.

        Args:
            met: parents before their children, the root first.
        """
        root = met[0]
        cache = self._new_cache(root)
        for folder in reversed(met):
            folder.result = self._write(folder, cache)
            folder.made = []
        assert root.result is not None
        entry = entry_of(root.result)
        cache.root = Remembered(facts_of(root.facts), entry, self._start_ns)
        cache.totals = minus((self._entries, self._folders, self._bytes), [self._special])
        return Assembled(
            root=entry,
            cache=cache,
            entries=self._entries,
            folders=self._folders + 1,
            content_bytes=self._bytes,
        )

    def _new_cache(self, root: MetFolder) -> StatCache:
        blank = Remembered(None, self._maker.make(b"", Kind.FOLDER, root.facts, (bytes(16), 0)))
        return StatCache(seq=0, hash_=b"", device=root.facts.device, root=blank, owner=self._owner)

    def count_remembered(self, record: FolderRecord) -> None:
        """Count a folder that is only remembered: what lies below one that cannot be listed."""
        self._count([made for made in record.all_made() if not is_special(made[0])])
        self._count_special([made for made in record.all_made() if is_special(made[0])])

    def _write(self, folder: MetFolder, cache: StatCache) -> Made:
        record = folder.record
        children = [child.result for child in folder.children if child.result is not None]
        if record is not None and _is_same(folder, record, children):
            assert record.node is not None
            cache.put_packed(folder.path, record.packed)
            self._count_kept(folder, record)
            return self._entry(folder, record.node)
        items = self._items(folder, children)
        node = write_folder(self._taker, [(row[0], raw) for row, raw in items])
        folder.below = self._totals_of(folder, items, cache)
        cache.put_packed(folder.path, pack_folder(items, node=node, below=folder.below))
        return self._entry(folder, node)

    def _items(self, folder: MetFolder, children: Sequence[Made]) -> list[Made]:
        """Return the entries of a folder, ascending by name."""
        items = [*folder.made, *children]
        if folder.record is not None:
            kept = map(folder.record.made, (*folder.same, *folder.passed))
            items += [made for made in kept if made is not None]
        items.sort(key=_name_of)
        return items

    def _totals_of(self, folder: MetFolder, items: Sequence[Made], cache: StatCache) -> Totals | None:
        """Count the entries of a folder; return the totals of everything beneath it."""
        own = self._count([made for made in items if not is_special(made[0])])
        special = [made for made in items if is_special(made[0])]
        self._count_special(special)
        return None if special else sum_of(own, [child.below for child in folder.children])

    def _entry(self, folder: MetFolder, node: NodeRef) -> Made:
        """Return the folder's own entry; the remembered one, to the bit, if it says the same."""
        known = folder.known
        if folder.attributes is not None or known is None:
            attributes = folder.attributes if folder.attributes is not None else Attributes()
            entry = self._maker.make(folder.name, Kind.FOLDER, folder.facts, node, attributes=attributes)
            return made_of(entry, facts_of(folder.facts), self._start_ns)
        if folder.record is not None and folder.record.node == node:
            return known
        entry = self._maker.with_content(entry_of(known), node)
        return known[0], made_of(entry, None, 0)[1]

    def _count(self, items: Sequence[Made]) -> Totals:
        """Count entries none of which is special; return what they are."""
        folders = sum(is_folder(row, raw) for row, raw in items)
        size = sum(row[5] for row, _ in items)
        self._entries += len(items)
        self._folders += folders
        self._bytes += size
        return len(items), folders, size

    def _count_kept(self, folder: MetFolder, record: FolderRecord) -> None:
        """Count a folder that is kept as it is; what lies beneath it was counted by itself."""
        own = minus(record.below, [child.below for child in folder.children])
        folder.below = record.below
        if own is None:
            self.count_remembered(record)
            return
        self._entries += own[0]
        self._folders += own[1]
        self._bytes += own[2]

    def _count_special(self, items: Sequence[Made]) -> None:
        """Count entries of which each may be another case; data of a link group once."""
        for made in items:
            entry = entry_of(made)
            folders, size = int(entry.type == Kind.FOLDER), 0
            if entry.type == Kind.FILE and entry.content is not None:
                size = self._special_bytes(entry, entry_extras(entry))
            self._entries += 1
            self._folders += folders
            self._bytes += size
            entries, all_folders, all_bytes = self._special
            self._special = entries + 1, all_folders + folders, all_bytes + size

    def _special_bytes(self, entry: Entry, extras: Extras) -> int:
        if extras.link_group is not None:
            if extras.link_group in self._groups:
                return 0
            self._groups.add(extras.link_group)
        return extras.data_bytes(entry.size) or 0


def _is_same(folder: MetFolder, record: FolderRecord, children: Sequence[Made]) -> bool:
    """Return whether nothing in a folder differs from what is remembered."""
    if not folder.stands or folder.made:
        return False
    if not folder.listed:
        return all(record.made(child[0][0]) == child for child in children)
    if len(folder.same) != record.others:
        return False
    if len(children) + len(folder.passed) != len(record) - record.others:
        return False
    return all(record.made(child[0][0]) == child for child in children)


def _name_of(made: Made) -> bytes:
    row: Before = made[0]
    return row[0]


def sum_of(own: Totals, others: Sequence[Totals | None]) -> Totals | None:
    """Return totals together; None if one of them is not known."""
    entries, folders, size = own
    for one in others:
        if one is None:
            return None
        entries, folders, size = entries + one[0], folders + one[1], size + one[2]
    return entries, folders, size


def minus(whole: Totals | None, parts: Sequence[Totals | None]) -> Totals | None:
    """Return totals without those of parts; None if one of them is not known."""
    taken = sum_of((0, 0, 0), parts)
    if whole is None or taken is None:
        return None
    return whole[0] - taken[0], whole[1] - taken[1], whole[2] - taken[2]

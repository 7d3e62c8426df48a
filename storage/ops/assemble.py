"""The writing of a scan: from the folders that were met to the tree, its totals and the next stat cache.

A folder is written as soon as everything in it was read and everything beneath it written, and then only its
own entry is left of it: what a scan holds is the way to where it stands, and what is being read. One whose
entries are all as they were keeps its packed value and its node: nothing of it is encoded, hashed or offered.
So does a part of a folder. Nothing here looks at a disk or at the store.

Source: docs/design/0023-memory-of-a-save.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from storage.format import tree
from storage.format.encoding import encode
from storage.format.extras import Extras
from storage.format.keys import BoxKind
from storage.format.tree import Child, Entry, LeafCut, NodeRef, entry_extras
from storage.ops.entry_maker import EntryMaker
from storage.ops.folder_record import (
    Blobs,
    FolderRecord,
    Kept,
    Made,
    Part,
    Remembered,
    Totals,
    entry_of,
    facts_of,
    is_folder,
    is_special,
    made_of,
    pack_folder,
    packed,
    packed_of,
    part_of,
    set_apart,
    unpacked,
)
from storage.ops.stat_cache import StatCache
from storage.ops.unsettled import is_unsettled
from storage.repository.packer import ChunkTaker
from storage.repository.tree_writer import write_above
from storage.scan.entry import Attributes, Kind, StatFacts


@dataclass(slots=True, kw_only=True, eq=False)
class MetFolder:
    """One folder that the scan went through, until it is written."""

    path: bytes
    facts: StatFacts
    attributes: Attributes | None
    """None: as `known` says."""
    parent: "MetFolder | None" = None
    record: FolderRecord | None = None
    """What is remembered of it, if that may stand for what is there."""
    known: Made | None = None
    """Its own entry as remembered, if the folder itself is as it was."""
    stands: bool = False
    """Whether the record may be kept as it is: it says `self` of the same owner, and its node is stored."""
    kept: Kept | None = None
    """Which of the remembered entries that are no folders are as they were; None is none of them."""
    passed: set[bytes] = field(default_factory=set)
    """Names of subfolders that are as they are remembered: not entered, or the same again."""
    listed: bool = True
    """False: it was passed through, and only what the way led to was looked at."""
    unsettled: bool = False
    """The next scan must look at it, whatever happens."""
    made: list[bytes] = field(default_factory=list)
    """Entries that were looked at, packed, in any order. Readers add theirs from their own threads."""
    awaited: int = 1
    """What has to come before it can be written: the walk's leaving it, files, links, subfolders."""
    below: Totals | None = (0, 0, 0)
    """Of everything beneath its subfolders, in the end of itself; None where something special is there."""
    below_before: Totals | None = (0, 0, 0)
    """What was remembered to be beneath those of its subfolders that were met."""

    @property
    def name(self) -> bytes:
        """Return the last part of its path."""
        return self.path.rpartition(b"/")[2]

    def add(self, entry: Entry, facts: StatFacts | None, read_ns: int) -> None:
        """Take an entry that was looked at; without facts it is never taken for unchanged. For any thread."""
        if facts is None or is_unsettled(entry, facts, read_ns):
            self.unsettled = True
        self.made.append(packed_of(entry, None if facts is None else facts_of(facts), read_ns))

    def add_below(self, child: "MetFolder", made: Made) -> None:
        """Take a subfolder that is written."""
        name = made[0]
        if self.record is not None and self.record.made(name) == made:
            self.passed.add(name)
        else:
            self.made.append(packed(made))
        self.below = sum_of((0, 0, 0), [self.below, child.below])
        if child.record is not None:
            self.below_before = sum_of((0, 0, 0), [self.below_before, child.record.below])


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
        self, *, taker: ChunkTaker, maker: EntryMaker, owner: tuple[int, int], start_ns: int, blobs: Blobs
    ) -> None:
        """Take the parts; `blobs` is where what is remembered goes."""
        self._taker = taker
        self._maker = maker
        self._owner = owner
        self._start_ns = start_ns
        self._blobs = blobs
        self._cache: StatCache | None = None
        self._groups: set[bytes] = set()
        """Inodes with several names whose data is counted already."""
        self._entries = self._folders = self._bytes = 0
        self._special: Totals = (0, 0, 0)
        """What of these is special."""
        self._met = 0
        self._root_made: Made | None = None
        self.again: set[bytes] = set()
        """Folders that the next scan must look at."""

    def begin(self, root: MetFolder) -> None:
        """Begin with the root, of which nothing but itself is known."""
        self._cache = self._new_cache(root)

    def write(self, folder: MetFolder) -> None:
        """Write a folder for which nothing is awaited any more, and tell the one that it lies in."""
        cache = self._cache
        assert cache is not None
        assert folder.awaited == 0, "all of it has come"
        self._met += 1
        if folder.unsettled:
            self.again.add(folder.path)
        made = self._write(folder, cache)
        if folder.parent is not None:
            folder.parent.add_below(folder, made)
        else:
            self._root_made = made

    def end(self, root: MetFolder) -> Assembled:
        """Return the whole tree."""
        cache = self._cache
        assert cache is not None
        assert self._root_made is not None, "the root is written last"
        entry = entry_of(self._root_made)
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
        return StatCache(
            seq=0,
            hash_=b"",
            device=root.facts.device,
            root=blank,
            owner=self._owner,
            blobs=self._blobs,
        )

    def count_remembered(self, record: FolderRecord) -> None:
        """Count a folder that is only remembered: what lies below one that cannot be listed."""
        self._count(record.plain)
        self._count_special(record.special())

    def _write(self, folder: MetFolder, cache: StatCache) -> Made:
        record = folder.record
        if record is not None and _is_same(folder, record):
            assert record.node is not None
            cache.put_record(folder.path, record)
            self._count_kept(folder, record)
            return self._entry(folder, record.node)
        gone: list[bytes] = []
        parts = list(self._parts(folder, gone))
        leaves = [Child(part.first, part.leaf, part.entries) for part in parts if part.leaf is not None]
        node = write_above(self._taker, leaves)
        own = (0, 0, 0)
        for part in parts:
            own = _sum(own, part.plain)
        self._count(own)
        below = self._totals_of(folder, own, gone, cache)
        folder.below = None if any(part.special for part in parts) else below
        cache.put_packed(folder.path, pack_folder(parts, self._blobs, node=node, below=folder.below))
        return self._entry(folder, node)

    def _parts(self, folder: MetFolder, gone: list[bytes]) -> Iterator[Part]:
        """Yield a folder's parts, each written. All are set apart as soon as there is a second."""
        first: Part | None = None
        for number, part in enumerate(self._cut(folder, gone)):
            if number == 0:
                first = part
                continue
            if first is not None:
                yield set_apart(first, self._blobs)
                first = None
            yield set_apart(part, self._blobs)
        if first is not None:
            yield first

    def _cut(self, folder: MetFolder, gone: list[bytes]) -> Iterator[Part]:
        cut, run, empty = LeafCut(), list[Made](), True
        for step in _merged(folder, gone):
            rows: Iterable[Made]
            if isinstance(step, tuple):
                rows = (step,)
            else:
                stays = None if run else self._standing(folder, step)
                if stays is not None:
                    yield stays
                    empty = False
                    continue
                assert folder.record is not None
                rows = folder.record.rows(step)
            for made in rows:
                size = len(made[6])
                if cut.before(size):
                    yield self._part(run, firm=len(run) == tree.CUT_ITEMS_MAX)
                    run, empty = [], False
                run.append(made)
                if cut.after(made[0], size):
                    yield self._part(run, firm=True)
                    run, empty = [], False
        if run or empty:
            yield self._part(run, firm=False)

    def _standing(self, folder: MetFolder, number: int) -> Part | None:
        """Return a part that is as it was, if it is cut and stored as it was where it begins a run."""
        record = folder.record
        assert record is not None
        part = record.parts[number]
        last = number + 1 == len(record.parts)
        if part.leaf is None or not folder.stands or not (part.firm or last):
            return None
        if not (part.inline or record.lies_in(self._blobs)):
            return None
        if part.special:
            self._count_special(filter(is_special, record.rows(number)))
        return part

    def _part(self, run: Sequence[Made], *, firm: bool) -> Part:
        leaf = self._taker.offer(BoxKind.META, tree.encode_leaf([made[6] for made in run]))
        part = part_of(run, leaf=leaf, firm=firm)
        if part.special:
            self._count_special(filter(is_special, run))
        return part

    def _totals_of(
        self, folder: MetFolder, own: Totals, gone: Sequence[bytes], cache: StatCache
    ) -> Totals | None:
        """Return the totals of everything beneath a folder, of whose own entries `own` are not special."""
        return sum_of(own, [folder.below])

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
        return (*known[:6], msgspec.Raw(encode(entry)))

    def _count(self, plain: Totals) -> None:
        """Count entries none of which is special."""
        self._entries += plain[0]
        self._folders += plain[1]
        self._bytes += plain[2]

    def _count_kept(self, folder: MetFolder, record: FolderRecord) -> None:
        """Count a folder that is kept as it is; what lies beneath it was counted by itself."""
        folder.below = record.below
        self.count_remembered(record)

    def _count_special(self, items: Iterable[Made]) -> None:
        """Count entries of which each may be another case; data of a link group once."""
        for made in items:
            entry = entry_of(made)
            folders, size = int(entry.type == Kind.FOLDER), 0
            if entry.type == Kind.FILE and entry.content is not None:
                size = self._special_bytes(entry, entry_extras(entry))
            one = (1, folders, size)
            self._count(one)
            self._special = _sum(self._special, one)

    def _special_bytes(self, entry: Entry, extras: Extras) -> int:
        if extras.link_group is not None:
            if extras.link_group in self._groups:
                return 0
            self._groups.add(extras.link_group)
        return extras.data_bytes(entry.size) or 0


def _merged(folder: MetFolder, gone: list[bytes]) -> Iterator[Made | int]:
    """Yield the entries of a folder, ascending by name, or the number of a part that is as it was.

    Args:
        gone: gets the remembered subfolders that are not there.
    """
    new, folder.made = folder.made, []
    new.sort(reverse=True)
    record = folder.record
    if record is not None:
        for number in range(len(record.parts)):
            end = record.parts[number + 1].first if number + 1 < len(record.parts) else None
            if not (new and (end is None or new[-1] < end)) and _is_whole(folder, record, number):
                yield number
                continue
            for made in record.rows(number):
                name = made[0]
                while new and new[-1] < name:
                    yield unpacked(new.pop())
                if new and new[-1].startswith(name + b"\0"):
                    here = unpacked(new.pop())
                    if is_folder(made) and not is_folder(here):
                        gone.append(name)
                    yield here
                elif _is_kept(folder, made, number):
                    yield made
                elif is_folder(made):
                    gone.append(name)
            while new and (end is None or new[-1] < end):
                yield unpacked(new.pop())
    while new:
        yield unpacked(new.pop())


def _is_whole(folder: MetFolder, record: FolderRecord, number: int) -> bool:
    """Return whether all of a remembered part stays."""
    if not folder.listed:
        return True
    part = record.parts[number]
    if part.others and (folder.kept is None or folder.kept.parts[number] is not None):
        return False
    if part.others == part.entries:
        return True
    return all(made[0] in folder.passed for made in record.rows(number) if is_folder(made))


def _is_kept(folder: MetFolder, made: Made, number: int) -> bool:
    """Return whether a remembered entry stays, unless there is another one of its name."""
    if not folder.listed:
        return True
    if is_folder(made):
        return made[0] in folder.passed
    if folder.kept is None:
        return False
    names = folder.kept.parts[number]
    return names is None or made[0] in names


def _is_same(folder: MetFolder, record: FolderRecord) -> bool:
    """Return whether nothing in a folder differs from what is remembered."""
    if not folder.stands or folder.made:
        return False
    if not folder.listed:
        return True
    others = record.others
    same = folder.kept.count if folder.kept is not None else 0
    return same == others and len(folder.passed) == len(record) - others


def _sum(a: Totals, b: Totals) -> Totals:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


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

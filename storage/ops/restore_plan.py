"""What a restore will make: every entry of a checkpoint, counted, and in which order.

Nothing is written here, and everything is counted here: a checkpoint that holds more than it announced is
refused before the first folder is made, whole or in part. What cannot be made again (sockets, devices,
unreadable entries, unknown types) is named. Files are put into two tiers: what a desktop reads when it
starts and what its user had in hand last; then the rest.

Source: storage.md 4.6 "Order".
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

from storage.errors import HostileTree, StorageError
from storage.format import tree
from storage.format.encoding import encode
from storage.format.extras import Extras, GradeTag
from storage.format.limits import DEPTH_FOLDERS_MAX, KIB, MIB
from storage.format.table import checked_chunk_refs
from storage.format.tree import Entry
from storage.ops.browse import Browser
from storage.ops.lanes import File
from storage.ops.values import BadPath, LeftOut
from storage.repository.damage import Damage, damage_of
from storage.repository.index import Places
from storage.repository.reader import Reader
from storage.repository.state import Row
from storage.repository.verify import announced, walk_tree
from storage.scan.entry import NO_ATTRIBUTES, Attributes, Kind, RawPath, RestoreFacts
from storage.scan.walk import PATH_BYTES_MAX

SMALL_FILE_BYTES: Final = 1 * MIB
CONFIGURATION_BYTES: Final = 64 * KIB
"""Hidden files up to this come first: more is no configuration."""
PROFILE_FILE_BYTES: Final = 16 * MIB
"""Databases of profiles up to this come first, too; a larger one keeps a desktop from starting, and not an
application from being started a second later.
"""
PROFILE_SUFFIXES: Final = (b".sqlite", b".sqlite-wal", b".sqlite-shm", b".db", b".json", b".ini", b".js")
LATER_FOLDERS: Final = (b".cache/", b".local/share/Trash/")
FIRST_BYTES: Final = 32 * MIB
"""The first tier ends here; the newest of what would be in it are taken."""
RECENT_FILES: Final = 32
"""Files up to 1 MiB that were changed last, wherever they lie."""
PART_BYTES_MIN: Final = 512
"""Chunks and extents of more than one a file must be this large on average. Writers cut at 4 KiB and more; a
list that names one byte a thousand million times would fill the memory before a byte is written.
"""
PARTS_SPARE: Final = 2_000_000
"""For files of so many extents that these have a content of their own: totals do not know their bytes."""


@dataclass(slots=True)
class Plan:
    """Everything of one checkpoint."""

    made: list[tuple[bytes, int, bytes, RestoreFacts]] = field(default_factory=list)
    """Folders, links, fifos and empty files, in the order of the tree."""
    files: list[File] = field(default_factory=list)
    entries: dict[bytes, bytes] = field(default_factory=dict)
    """All of them, for the stat cache, encoded and in the order of the tree; empty unless one is wanted."""
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    not_made: list[BadPath] = field(default_factory=list)
    differences: list[BadPath] = field(default_factory=list)
    left_out: dict[bytes, LeftOut] = field(default_factory=dict)
    """By path: what cannot be given."""
    lists_lost: list[tuple[bytes, RestoreFacts]] = field(default_factory=list)
    """Of these the files of which it cannot even be read what is in them."""
    bytes: int = 0
    """How many bytes will be written."""

    @property
    def entries_made(self) -> int:
        """Return how many entries will be made."""
        return len(self.made) + len(self.files) + len(self.links)

    @property
    def folders_lost(self) -> bool:
        """Return whether there may be entries of which not even the names are known."""
        return any(one.kind == "folder" for one in self.left_out.values())

    def leave_out(self, path: RawPath, damage: Damage, *, kind: str = "file") -> None:
        """Note what cannot be given, and why; the first reason counts."""
        told = LeftOut(path=path, kind=kind, object=damage.object, reason=damage.reason)
        self.left_out.setdefault(path, told)

    def lose_folder(self, path: RawPath, damage: Damage) -> None:
        """Note a folder of which not all can be read."""
        self.leave_out(path, damage, kind="folder")


class Planner:
    """Makes the plan of one checkpoint. Used once."""

    def __init__(
        self,
        reader: Reader,
        places: Places,
        row: Row,
        *,
        keep_entries: bool = False,
        path: bytes = b"",
        must_be_whole: bool,
    ) -> None:
        """Take a checkpoint, and what of it is wanted: a file, or a folder with all that is in it."""
        assert row.checkpoint is not None
        self._path = path
        self._reader = reader
        self._places = places
        self._row = row
        self._root = row.checkpoint.root
        self._keep_entries = keep_entries
        totals = row.checkpoint.totals
        self._bytes_announced = totals.size
        self._bytes_unannounced = 0
        self._parts_left = totals.entries + totals.size // PART_BYTES_MIN + PARTS_SPARE
        self._groups: dict[bytes, tuple[bytes, Entry]] = {}
        self._plan = Plan()
        self._lost = None if must_be_whole else self._plan.lose_folder

    async def run(self, met_one: Callable[[], None]) -> Plan:
        """Walk the tree; `met_one` is called for every entry."""
        plan, root = self._plan, self._root
        if self._path:
            # The part comes under its own name into a folder that is nobody's copy.
            facts = RestoreFacts(mode=0o700, uid=None, gid=None, mtime_s=root.mtime_s, mtime_ns=root.mtime_ns)
            plan.made.append((b"", Kind.FOLDER, b"", facts))
        else:
            plan.made.append((b"", Kind.FOLDER, b"", facts_of(root, tree.entry_extras(root), None)))
        walk = (
            self._part() if self._path else walk_tree(self._reader, self._places, self._row, lost=self._lost)
        )
        async for path, entry in walk:
            met_one()
            if len(path) > PATH_BYTES_MAX:
                raise HostileTree(path=path[:PATH_BYTES_MAX], rule="too deep")
            if self._keep_entries:
                plan.entries[path] = encode(entry)
            if not self._take_plain(path, entry):
                await self._take_or_leave(path, entry)
        if plan.bytes - self._bytes_unannounced > self._bytes_announced:
            # The walk counts a link group once; names of it with contents of their own count here.
            raise HostileTree(rule="more bytes than announced")
        return plan

    async def _part(self) -> AsyncIterator[tuple[bytes, Entry]]:
        """Yield what lies at the wanted path and beneath it, counted against all that was announced."""
        browser = Browser(self._reader, self._places, self._row)
        start = await browser.find(self._path)
        totals = announced(self._row)
        totals.count(start)
        deepest = DEPTH_FOLDERS_MAX - self._path.count(b"/")
        yield start.name, start
        if start.type == Kind.FOLDER:
            async for path, entry in browser.below(start, start.name, lost=self._lost):
                totals.count(entry)
                if path.count(b"/") > deepest:
                    raise HostileTree(path=path[:PATH_BYTES_MAX], rule="depth")
                yield path, entry

    def _take_plain(self, path: bytes, entry: Entry) -> bool:
        """Take what almost every entry is, without waiting: nothing about it is odd."""
        if entry.extra is not None or entry.type > Kind.SYMLINK:
            return False
        facts = RestoreFacts(
            entry.mode, entry.uid, entry.gid, entry.mtime_s, entry.mtime_ns, entry.size, None, NO_ATTRIBUTES
        )
        if entry.type != Kind.FILE or entry.content is None:
            self._plan.made.append((path, entry.type, _target(entry), facts))
        elif isinstance(entry.content, bytes):
            self._plan.files.append(File(path, facts, checked_chunk_refs(entry.content)))
            self._plan.bytes += entry.size
        else:
            return False
        return True

    async def _take_or_leave(self, path: bytes, entry: Entry) -> None:
        try:
            await self._take(path, entry)
        except StorageError as exc:
            damage = damage_of(exc)
            if self._lost is None or damage is None or entry.type != Kind.FILE:
                raise
            self._plan.leave_out(path, damage)
            facts = RestoreFacts(entry.mode, entry.uid, entry.gid, entry.mtime_s, entry.mtime_ns, entry.size)
            self._plan.lists_lost.append((path, facts))

    async def _take(self, path: bytes, entry: Entry) -> None:
        plan, extras = self._plan, tree.entry_extras(entry)
        if extras.unknown_tags:
            plan.differences.append(BadPath(path=path, grade="unknown properties"))
        if extras.grade in (GradeTag.FUZZY, GradeTag.STALE):
            name = "fuzzy" if extras.grade == GradeTag.FUZZY else "stale"
            plan.differences.append(BadPath(path=path, grade=name))
        reason = _not_made(entry, extras)
        if reason is not None:
            plan.not_made.append(BadPath(path=path, grade=reason))
            return
        if entry.type != Kind.FILE:
            plan.made.append((path, entry.type, _target(entry), facts_of(entry, extras, None)))
            return
        if extras.link_group is not None:
            first = self._groups.setdefault(extras.link_group, (path, entry))
            if first[0] != path:
                if same_inode(first[1], entry):
                    plan.links.append((path, first[0]))
                    return
                plan.differences.append(BadPath(path=path, grade="hard link with other content"))
        await self._take_file(path, entry, extras)

    async def _take_file(self, path: bytes, entry: Entry, extras: Extras) -> None:
        extents = extras.extents
        if extras.extents_content is not None:
            extents = await self._reader.extents(self._places, entry)
        facts = facts_of(entry, extras, extents)
        wanted = left = entry.size if extents is None else sum(length for _, length in extents)
        self._count_parts(path, max(0, len(extents or ()) - 1))
        self._plan.bytes += wanted
        if extras.extents_content is not None:
            self._bytes_unannounced += wanted
        refs: list[tuple[bytes, int]] = []
        async for some in self._reader.ref_lists(self._places, entry.content):
            self._count_parts(path, len(some) if refs else len(some) - 1)
            refs += some
            left -= sum(length for _, length in some)
            if left < 0:
                raise HostileTree(path=path, rule="bytes of the file")
        if left:
            raise HostileTree(path=path, rule="bytes of the file")
        if refs:
            self._plan.files.append(File(path, facts, refs))
        else:
            self._plan.made.append((path, entry.type, b"", facts))

    def _count_parts(self, path: bytes, count: int) -> None:
        self._parts_left -= count
        if self._parts_left < 0:
            raise HostileTree(path=path, rule="chunks and extents are too small")


def tiers(files: list[File]) -> tuple[list[File], list[File]]:
    """Return the files that come first, and the others."""
    wanted = [file for file in files if _is_read_at_start(file)]
    recent = (file for file in files if file.facts.size <= SMALL_FILE_BYTES and not _is_later(file.path))
    wanted += nlargest(RECENT_FILES, recent, key=_changed)
    first: dict[bytes, File] = {}
    size = 0
    for file in sorted(wanted, key=_changed, reverse=True):
        if file.path not in first and size + file.facts.size <= FIRST_BYTES:
            first[file.path] = file
            size += file.facts.size
    return list(first.values()), [file for file in files if file.path not in first]


def _target(entry: Entry) -> bytes:
    """Return where a symlink leads."""
    if entry.type != Kind.SYMLINK:
        return b""
    assert isinstance(entry.content, bytes), "checked when it was decoded"
    return entry.content


def _is_read_at_start(file: File) -> bool:
    """Return whether a file is configuration or a profile: hidden, no cache, and small or a database."""
    if not file.path.startswith(b".") or _is_later(file.path):
        return False
    size = file.facts.size
    return size <= CONFIGURATION_BYTES or (
        size <= PROFILE_FILE_BYTES and file.path.endswith(PROFILE_SUFFIXES)
    )


def _is_later(path: bytes) -> bool:
    return path.startswith(LATER_FOLDERS)


def _changed(file: File) -> tuple[int, int]:
    return file.facts.mtime_s, file.facts.mtime_ns


def _not_made(entry: Entry, extras: Extras) -> str | None:
    """Return why an entry is not made, if it is not."""
    if extras.unreadable:
        return "unreadable"
    if entry.type in (Kind.SOCKET, Kind.CHAR, Kind.BLOCK):
        return "skipped"
    if entry.type > Kind.BLOCK:
        return "unknown type"
    return None


def same_inode(a: Entry, b: Entry) -> bool:
    """Return whether two names of a link group tell the same of their file."""
    return (a.content, a.size, a.mode, a.mtime_s, a.mtime_ns) == (
        b.content,
        b.size,
        b.mode,
        b.mtime_s,
        b.mtime_ns,
    )


def facts_of(entry: Entry, extras: Extras, extents: tuple[tuple[int, int], ...] | None) -> RestoreFacts:
    """Return what the extractor puts on an entry."""
    plain = not extras.xattrs and not extras.xattr_errors and extras.inode_flags is None
    return RestoreFacts(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_s=entry.mtime_s,
        mtime_ns=entry.mtime_ns,
        size=entry.size,
        extents=extents,
        attributes=NO_ATTRIBUTES
        if plain
        else Attributes(
            xattrs=extras.xattrs, xattr_errors=extras.xattr_errors, inode_flags=extras.inode_flags
        ),
    )

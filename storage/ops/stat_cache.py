"""What a file looked like when it was last saved, so that unchanged files are not read again.

A file is unchanged if size, mtime, ctime, inode, mode and owner are, and neither mtime nor ctime is within
two seconds of that scan's start (the racy-clean rule: such a file may have been written again within one tick
of the file system's clock). ctime cannot be set by a user, so a restored mtime hides nothing.

A memory map hides something: a page that is dirty already takes further stores without any new time, until
the kernel has written it back. So where a home must be exact (the two checkpoints of a close and the last
look) a file counts as unchanged only if it was read long after its times, and nothing counts where the file
system moves no time for stores (`storage.scan.settled`).

Kept as one packed blob per folder, decoded when the scan enters the folder. A pure cache: without it every
file is read, and the tree comes out the same. Made from a checkpoint's tree it has no stat facts, and then
serves for what is unreadable now (the last good content) and for a first look at what is pending.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec

from storage.errors import FormatError
from storage.format.encoding import Body, decode, encode
from storage.format.tree import Entry
from storage.ops.folder_record import (
    FolderRecord,
    Remembered,
    Totals,
    facts_of,
    is_folder,
    made_from,
    pack_folder,
    remembered_of,
)
from storage.repository.cache import RecordFile
from storage.scan.entry import StatFacts

RACY_NS: Final = 2_000_000_000
VOUCHED_NS: Final = (1 << 63) - 1
"""As the time of reading: our own restore wrote the file before anybody else could reach it, looked at it
through the same descriptor, and waited until the file system's clock had gone on. Any later store moves its
times, the first one through a new memory map too, so its unchanged times prove it at any distance."""

LATER_FACTOR: Final = 2
LATER_BYTES_LEAST: Final = 1024 * 1024
"""A cache file grows by what changes until it is so many times as long as when it was written whole."""


class _Saved(Body, frozen=True):
    seq: int
    hash: bytes
    device: int
    root: Remembered
    folders: list[tuple[bytes, bytes]]
    owner: tuple[int, int] | None
    totals: Totals | None = None


class _Later(Body, frozen=True):
    """What a later checkpoint has changed in what stands before it in the file."""

    base_ns: int
    """`root.read_ns` of what it belongs on: anything else is not to be mixed with it."""
    seq: int
    hash: bytes
    root: Remembered
    totals: Totals | None
    folders: list[tuple[bytes, bytes | None]]


_later_decoder: Final = msgspec.msgpack.Decoder(_Later)
_saved_decoder: Final = msgspec.msgpack.Decoder(_Saved)


class StatCache:
    """Remembered folders of one home."""

    def __init__(
        self,
        *,
        seq: int,
        hash_: bytes,
        device: int,
        root: Remembered,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Begin without folders.

        Args:
            owner: whom the entries call `self`; None where that is not certain, and then each is looked at.
        """
        self.owner = owner
        self.seq = seq
        self.hash = hash_
        self.device = device
        self.root = root
        self.totals: Totals | None = None
        """Of everything below the root that is not special; None where nobody has counted."""
        self._folders: dict[bytes, bytes] = {}
        self._later: dict[bytes, bytes | None] | None = None
        """What differs from the one this is the successor of; None where it is nobody's."""
        self._base_ns = 0
        self._whole_bytes = 0

    def put(self, path: bytes, entries: list[Remembered]) -> None:
        """Remember a folder whose node is not known."""
        made = sorted(map(made_from, entries), key=lambda one: one[0][0])
        self._folders[path] = pack_folder(made, node=None, below=None)

    def put_packed(self, path: bytes, packed: bytes) -> None:
        """Remember a folder by its packed value."""
        self._folders[path] = packed
        if self._later is not None:
            self._later[path] = packed

    def drop(self, path: bytes) -> None:
        """Forget a folder that is gone."""
        if self._folders.pop(path, None) is not None and self._later is not None:
            self._later[path] = None

    def successor(self) -> "StatCache":
        """Return a copy that is to be changed; this one stays as it is."""
        made = StatCache(seq=0, hash_=b"", device=self.device, root=self.root, owner=self.owner)
        made.totals = self.totals
        made._folders = dict(self._folders)
        made._later, made._base_ns, made._whole_bytes = {}, self.root.read_ns, self._whole_bytes
        return made

    def record(self, path: bytes) -> FolderRecord | None:
        """Return what is remembered of a folder."""
        packed = self._folders.get(path)
        return None if packed is None else FolderRecord(packed)

    def folder(self, path: bytes) -> dict[bytes, Remembered]:
        """Return what is remembered of a folder, by name."""
        record = self.record(path)
        return {} if record is None else {made[0][0]: remembered_of(made) for made in record.all_made()}

    def below(self, path: bytes) -> Iterator[tuple[bytes, FolderRecord]]:
        """Yield every remembered folder at or beneath `path`."""
        todo = [path]
        while todo:
            where = todo.pop()
            record = self.record(where)
            if record is None:
                continue
            yield where, record
            todo += [where + b"/" + row[0] for row, raw in record.all_made() if is_folder(row, raw)]

    def unchanged(self, known: Remembered | None, found: StatFacts, *, settled_ns: int | None) -> bool:
        """Return whether an entry is certainly as it was saved.

        Args:
            settled_ns: how much older than its reading its times must be; None: no time proves anything.
        """
        if known is None or known.facts is None or found.device != self.device or settled_ns is None:
            return False
        newest_ns = max(found.mtime_ns, found.ctime_ns)
        return known.facts == facts_of(found) and newest_ns + settled_ns < known.read_ns

    def looks_unchanged(self, known: Remembered | None, found: StatFacts) -> bool:
        """Return whether an entry seems as it was saved; for counting what is pending, not for saving."""
        if known is None:
            return False
        if known.facts is not None:
            return known.facts == facts_of(found)
        entry = known.entry
        seconds, nanoseconds = divmod(found.mtime_ns, 1_000_000_000)
        same_time = (entry.mtime_s, entry.mtime_ns) == (seconds, nanoseconds)
        return same_time and entry.size == found.size and entry.mode == found.mode

    def save(self, file: RecordFile) -> None:
        """Write it into a cache file; only what changed, where the file holds what this is a successor of."""
        later, base_ns = self._later, self._base_ns
        self._later, self._base_ns = {}, self.root.read_ns
        if later is not None and 0 < file.size < LATER_FACTOR * self._whole_bytes + LATER_BYTES_LEAST:
            changed = list(later.items())
            told = _Later(base_ns, self.seq, self.hash, self.root, self.totals, changed)
            file.add([encode(told)], anew=False)
            return
        folders = list(self._folders.items())
        saved = _Saved(self.seq, self.hash, self.device, self.root, folders, self.owner, self.totals)
        raw = encode(saved)
        self._whole_bytes = len(raw)
        file.add([raw], anew=True)

    @classmethod
    def load(cls, file: RecordFile) -> "StatCache | None":
        """Read a cache file; None if there is nothing to be believed."""
        records = file.read()
        if not records:
            return None
        try:
            cache = cls._from(decode(_saved_decoder, records[0], what="stat cache"))
            cache._whole_bytes = len(records[0])
            for raw in records[1:]:
                if not cache._follow(decode(_later_decoder, raw, what="stat cache")):
                    break
        except FormatError:
            return None
        return cache

    def _follow(self, later: _Later) -> bool:
        """Become what a later checkpoint has left. A record that was lost before it ends the chain."""
        if later.base_ns != self.root.read_ns:
            return False
        self.seq, self.hash, self.root, self.totals = later.seq, later.hash, later.root, later.totals
        self._base_ns = self.root.read_ns
        for path, packed in later.folders:
            if packed is None:
                self._folders.pop(path, None)
            else:
                self._folders[path] = packed
        return True

    @classmethod
    def _from(cls, saved: _Saved) -> "StatCache":
        cache = cls(
            seq=saved.seq,
            hash_=saved.hash,
            device=saved.device,
            root=saved.root,
            owner=saved.owner,
        )
        cache.totals = saved.totals
        cache._folders = dict(saved.folders)
        cache._later, cache._base_ns = {}, saved.root.read_ns
        return cache

    @classmethod
    async def from_tree(
        cls, *, seq: int, hash_: bytes, root: Entry, tree: AsyncIterator[tuple[bytes, Entry]]
    ) -> "StatCache":
        """Make a cache without stat facts from a checkpoint's tree."""
        cache = cls(seq=seq, hash_=hash_, device=-1, root=Remembered(None, root))
        folders: dict[bytes, list[Remembered]] = {b"": []}
        async for path, entry in tree:
            parent = path[: -len(entry.name) - 1] if len(path) > len(entry.name) else b""
            folders.setdefault(parent, []).append(Remembered(None, entry))
            if entry.type == 2:
                folders.setdefault(path, [])
        for path, items in folders.items():
            cache.put(path, items)
        return cache


__all__ = ["RACY_NS", "VOUCHED_NS", "Remembered", "StatCache", "facts_of"]

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
    facts_of,
    is_folder,
    made_from,
    pack_folder,
    remembered_of,
)
from storage.repository.cache import CacheFile
from storage.scan.entry import StatFacts

RACY_NS: Final = 2_000_000_000
VOUCHED_NS: Final = (1 << 63) - 1
"""As the time of reading: our own restore wrote the file before anybody else could reach it, looked at it
through the same descriptor, and waited until the file system's clock had gone on. Any later store moves its
times, the first one through a new memory map too, so its unchanged times prove it at any distance."""


class _Saved(Body, frozen=True):
    seq: int
    hash: bytes
    device: int
    root: Remembered
    folders: list[tuple[bytes, bytes]]
    owner: tuple[int, int] | None


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
        self._folders: dict[bytes, bytes] = {}

    def put(self, path: bytes, entries: list[Remembered]) -> None:
        """Remember a folder whose node is not known."""
        made = sorted(map(made_from, entries), key=lambda one: one[0][0])
        self._folders[path] = pack_folder(made, node=None, below=None)

    def put_packed(self, path: bytes, packed: bytes) -> None:
        """Remember a folder by its packed value."""
        self._folders[path] = packed

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

    def save(self, file: CacheFile) -> None:
        """Write everything into a cache file."""
        folders = list(self._folders.items())
        saved = _Saved(self.seq, self.hash, self.device, self.root, folders, self.owner)
        file.write(encode(saved))

    @classmethod
    def load(cls, file: CacheFile) -> "StatCache | None":
        """Read a cache file; None if there is nothing to be believed."""
        raw = file.read()
        if raw is None:
            return None
        try:
            saved = decode(_saved_decoder, raw, what="stat cache")
        except FormatError:
            return None
        cache = cls(
            seq=saved.seq,
            hash_=saved.hash,
            device=saved.device,
            root=saved.root,
            owner=saved.owner,
        )
        cache._folders = dict(saved.folders)
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

"""What a file looked like when it was last saved, so that unchanged files are not read again.

A file is unchanged if size, mtime, ctime, inode, mode and owner are, and neither mtime nor ctime is within
two seconds of that scan's start (the racy-clean rule: such a file may have been written again within one tick
of the file system's clock). ctime cannot be set by a user, so a restored mtime hides nothing.

A memory map hides something: a page that is dirty already takes further stores without any new time, until
the kernel has written it back. So where a home must be exact (the two checkpoints of a close and the last
look) a file counts as unchanged only if it was read long after its times, and nothing counts where the file
system moves no time for stores (`storage.scan.settled`).

Kept as one packed blob per folder in a file, read and decoded when the scan enters the folder; held is only
by what each is found there. A pure cache: without it every file is read, and the tree comes out the same.
Made from a checkpoint's tree it has no stat facts, and then serves for what is unreadable now (the last good
content) and for a first look at what is pending.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec

from storage.errors import FormatError
from storage.format.encoding import Body, decode, encode
from storage.format.tree import Entry
from storage.ops.folder_record import (
    Blobs,
    FolderRecord,
    Made,
    Part,
    Remembered,
    Totals,
    facts_of,
    is_folder,
    made_from,
    pack_folder,
    part_of,
    remembered_of,
    set_apart,
)
from storage.repository.blob_file import BlobFile
from storage.scan.entry import Kind, StatFacts

RACY_NS: Final = 2_000_000_000
VOUCHED_NS: Final = (1 << 63) - 1
"""As the time of reading: our own restore wrote the file before anybody else could reach it, looked at it
through the same descriptor, and waited until the file system's clock had gone on. Any later store moves its
times, the first one through a new memory map too, so its unchanged times prove it at any distance."""

ENTRIES_OF_PART: Final = 1_024
"""Of a folder that is remembered without its nodes."""


class _State(Body, frozen=True):
    """What a checkpoint has left, as it differs from what stands before it in the file."""

    seq: int
    hash: bytes
    device: int
    root: Remembered
    owner: tuple[int, int] | None
    totals: Totals | None
    folders: list[tuple[bytes, bytes | None]]


_state_decoder: Final = msgspec.msgpack.Decoder(_State)


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
        blobs: Blobs,
    ) -> None:
        """Begin without folders.

        Args:
            blobs: where their packed values lie.
            owner: whom the entries call `self`; None where that is not certain, and then each is looked at.
        """
        self.owner = owner
        self.seq = seq
        self.hash = hash_
        self.device = device
        self.root = root
        self.totals: Totals | None = None
        """Of everything below the root that is not special; None where nobody has counted."""
        self.blobs = blobs
        self._folders: dict[bytes, bytes] = {}
        """By what each folder is found; not changed any more once it is saved."""

    def put_packed(self, path: bytes, packed: bytes) -> None:
        """Remember a folder by its packed value."""
        self._folders[path] = self.blobs.put(packed)

    def put_record(self, path: bytes, record: FolderRecord) -> None:
        """Remember a folder as it was remembered."""
        self._folders[path] = record.slot_in(self.blobs)

    def drop(self, path: bytes) -> None:
        """Forget a folder that is gone."""
        self._folders.pop(path, None)

    def successor(self) -> "StatCache":
        """Return a copy that is to be changed; this one stays as it is."""
        made = StatCache(
            seq=0, hash_=b"", device=self.device, root=self.root, owner=self.owner, blobs=self.blobs
        )
        made.totals = self.totals
        made._folders = dict(self._folders)
        return made

    def record(self, path: bytes) -> FolderRecord | None:
        """Return what is remembered of a folder."""
        slot = self._folders.get(path)
        return None if slot is None else FolderRecord(slot, self.blobs)

    def folder(self, path: bytes) -> dict[bytes, Remembered]:
        """Return what is remembered of a folder, by name."""
        record = self.record(path)
        return {} if record is None else {made[0]: remembered_of(made) for made in record.all_made()}

    def below(self, path: bytes) -> Iterator[tuple[bytes, FolderRecord]]:
        """Yield every remembered folder at or beneath `path`."""
        todo = [path]
        while todo:
            where = todo.pop()
            record = self.record(where)
            if record is None:
                continue
            yield where, record
            todo += [where + b"/" + made[0] for made in record.all_made() if is_folder(made)]

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

    def saved(self) -> "tuple[StatCache, BlobFile]":
        """Let it stand in its file, as what changed there; return it, or a copy of it in a fresh file.

        Where nothing can be written, what is returned holds it in memory.

        Raises:
            CacheLost: what it remembers is not there any more.
        """
        file = self.blobs
        assert isinstance(file, BlobFile), "what is to be saved was put into a file"
        if file.takes_more:
            if file.commit(encode(self._state(file.named))):
                file.named = self._folders
            return self, file
        fresh = file.fresh()
        made = StatCache(
            seq=self.seq, hash_=self.hash, device=self.device, root=self.root, owner=self.owner, blobs=fresh
        )
        made.totals = self.totals
        made._folders = {
            path: FolderRecord(slot, file).slot_in(fresh) for path, slot in self._folders.items()
        }
        if fresh.commit(encode(made._state({}))):
            fresh.named = made._folders
        elif fresh.held_bytes >= file.held_bytes:
            return self, file
        return made, fresh  # uncommitted it holds less: without what nobody names any more

    def _state(self, before: dict[bytes, bytes]) -> _State:
        folders: list[tuple[bytes, bytes | None]] = [
            (path, slot) for path, slot in self._folders.items() if before.get(path) != slot
        ]
        folders += [(path, None) for path in before if path not in self._folders]
        return _State(self.seq, self.hash, self.device, self.root, self.owner, self.totals, folders)

    @classmethod
    def load(cls, file: BlobFile) -> "StatCache | None":
        """Read the states of a file that was just opened; None if there is nothing to be believed."""
        named: dict[bytes, bytes] = {}
        last: _State | None = None
        try:
            for raw in file.states():
                last = decode(_state_decoder, raw, what="stat cache")
                for path, slot in last.folders:
                    if slot is None:
                        named.pop(path, None)
                    else:
                        named[path] = slot
        except FormatError:
            return None
        if last is None:
            return None
        file.named = named
        cache = cls(
            seq=last.seq,
            hash_=last.hash,
            device=last.device,
            root=last.root,
            owner=last.owner,
            blobs=file,
        )
        cache.totals = last.totals
        cache._folders = named
        return cache

    @classmethod
    async def from_tree(
        cls,
        *,
        seq: int,
        hash_: bytes,
        root: Entry,
        tree: AsyncIterator[tuple[bytes, Entry]],
        blobs: Blobs,
    ) -> "StatCache":
        """Make a cache without stat facts from a checkpoint's tree."""
        cache = cls(seq=seq, hash_=hash_, device=-1, root=Remembered(None, root), blobs=blobs)
        folders = ByFolder(cache)
        async for path, entry in tree:
            folders.take(path, Remembered(None, entry))
        folders.end()
        return cache


class ByFolder:
    """Puts the entries of a tree, as they come, into a cache: all of one folder come together."""

    def __init__(self, cache: StatCache) -> None:
        self._cache = cache
        self._path = b""
        self._parts: list[Part] = []
        self._run: list[Made] = []
        self._empty: set[bytes] = set()
        """Folders of which nothing has come yet."""

    def take(self, path: bytes, one: Remembered) -> None:
        """Take one entry."""
        name = one.entry.name
        where = path[: -len(name) - 1] if len(path) > len(name) else b""
        if where != self._path:
            self._put()
            self._path = where
        self._run.append(made_from(one))
        if len(self._run) == ENTRIES_OF_PART:
            self._end_part()
        if one.entry.type == Kind.FOLDER:
            self._empty.add(path)

    def end(self) -> None:
        """Put what is left."""
        self._put()
        for path in sorted(self._empty):
            self._path = path
            self._put()

    def _put(self) -> None:
        if self._run or not self._parts:
            self._end_part()
        parts, self._parts = self._parts, []
        self._cache.put_packed(self._path, pack_folder(parts, self._cache.blobs))
        self._empty.discard(self._path)

    def _end_part(self) -> None:
        run, self._run = sorted(self._run, key=_name_of), []
        part = part_of(run, leaf=None, firm=False)
        self._parts.append(set_apart(part, self._cache.blobs) if len(run) == ENTRIES_OF_PART else part)


def _name_of(made: Made) -> bytes:
    return made[0]


__all__ = ["RACY_NS", "VOUCHED_NS", "Remembered", "StatCache", "facts_of"]

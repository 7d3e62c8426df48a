"""Makes what an archive of a checkpoint holds, in a folder of this machine, as it comes from the service.

For who has no keys and no store: `checkpoints restore --to`. The archive is not believed. It goes through the
extractor that every restore goes through (`scan/extract.py`), beneath the descriptor of a folder that is made
here: no link is followed, no name leads out, paths have no length that matters, and whoever runs this owns
everything. Blocks of zeros become holes; an archive cannot say what was one.
"""

import errno
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import Cancelled, HostileTree, TargetFailed
from storage.ops.draft import empty_draft
from storage.ops.tar_reader import Member, TarReader
from storage.ops.values import BadPath
from storage.scan.entry import FileWriter, Kind, RestoreFacts, RestorePolicy
from storage.scan.extract import Extractor, Target

HOLE_BYTES: Final = 4_096
"""The block of the usual file systems; a shorter hole saves nothing."""
NAMED_MAX: Final = 1_000
_ZEROS: Final = bytes(HOLE_BYTES)
_NO_MODE: Final = RestoreFacts(mode=0o700, uid=None, gid=None, mtime_s=0, mtime_ns=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What was made, and what of the archive was not, or not quite."""

    entries: int
    bytes: int
    not_made: tuple[BadPath, ...]
    differences: tuple[BadPath, ...]


@contextmanager
def unpacking(into: Path) -> Iterator["Unpacker"]:
    """Open a folder that is made, or is empty, and fill it. What is in it stays, whatever happens."""
    with ExitStack() as opened:
        with Target(b""):
            draft = opened.enter_context(empty_draft(into))
        unpacker = Unpacker(draft.fd)
        opened.callback(unpacker.close)
        yield unpacker


class Unpacker:
    """Fills one folder. Each call blocks for the disk, so it may run in a thread, one call at a time."""

    def __init__(self, root_fd: int) -> None:
        self._extractor = Extractor(root_fd, RestorePolicy())
        self._reader = TarReader(self)
        self._lock = threading.Lock()
        self._closed = False
        self._writer: FileWriter | None = None
        self._at = 0
        self._members = 0
        self._folders: set[bytes] = set()
        self._not_made: list[BadPath] = []

    def feed(self, piece: bytes) -> None:
        """Take what came.

        Raises:
            Malformed: this is no archive of a checkpoint.
            HostileTree: a name in it is none, or leads somewhere else.
            RestoreError: the folder does not take it; after any of these only `close` is called.
        """
        with self._lock:
            if self._closed:
                raise Cancelled()  # by whoever gave up while a thread was on its way here
            self._reader.feed(piece)

    def finish(self) -> Unpacked:
        """Know that all has come; folders get their modes and times. Raises as `feed` does."""
        with self._lock:
            if self._closed:
                raise Cancelled()
            self._reader.end()
            report = self._extractor.finish()
        different = (BadPath(path=path, grade=what) for path, what in report.differences[:NAMED_MAX])
        return Unpacked(
            entries=report.entries,
            bytes=report.content_bytes,
            not_made=tuple(self._not_made),
            differences=tuple(different),
        )

    def close(self) -> None:
        """Give every descriptor back; waits for a call that a thread is still in."""
        with self._lock:
            self._closed = True
            self._extractor.close()

    def begin(self, member: Member) -> None:
        """Called by the reader: make this entry."""
        path = member.path
        self._members += 1
        if self._members == 1:
            self._lead_to(path)
        size = member.size if member.kind == Kind.FILE else 0
        facts = RestoreFacts(
            member.mode, None, None, member.mtime_s, member.mtime_ns, size, None, member.attributes
        )
        if member.first is not None:
            self._another_name(path, member.first)
        elif member.kind == Kind.FOLDER:
            self._folder(path, facts)
        elif member.kind == Kind.SYMLINK:
            self._extractor.symlink(path, member.link, facts)
        elif member.kind == Kind.FIFO:
            self._extractor.fifo(path, facts)
        elif member.kind == Kind.FILE:
            self._writer, self._at = self._extractor.file(path, facts), 0
        elif len(self._not_made) < NAMED_MAX:
            self._not_made.append(BadPath(path=path, grade="no file, folder or link"))

    def content(self, part: memoryview) -> None:
        """Called by the reader: write bytes of the file that was begun."""
        if self._writer is None:
            return  # of an entry that is not made
        raw = bytes(part)
        for begin, end in _without_holes(raw, self._at) if _ZEROS in raw else ((0, len(raw)),):
            self._writer.write(self._at + begin, raw[begin:end])
        self._at += len(raw)

    def end(self) -> None:
        """Called by the reader: the file that was begun is whole."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _folder(self, path: bytes, facts: RestoreFacts) -> None:
        if path in self._folders:
            raise HostileTree(path=path, rule="a folder twice")
        self._extractor.folder(path, facts)
        self._folders.add(path)

    def _another_name(self, path: bytes, first: bytes) -> None:
        try:
            self._extractor.hardlink(path, first)
        except TargetFailed as exc:
            if exc.facts["errno"] != errno.ENOENT:
                raise
            raise HostileTree(path=path, rule="hard link to something not restored here") from exc

    def _lead_to(self, path: bytes) -> None:
        """Make the folders above the first entry: a service of an earlier version began an archive of a
        folder with what lies in it. All others must have come before what is in them.
        """
        at = path.find(b"/")
        while at > 0:
            self._folder(path[:at], _NO_MODE)
            at = path.find(b"/", at + 1)


def _without_holes(raw: bytes, offset: int) -> Iterator[tuple[int, int]]:
    """Yield where in a part of a file something else than blocks of zeros stands, as (begin, end)."""
    begin, at = 0, 0
    while at < len(raw):
        end = min(at + HOLE_BYTES - (offset + at) % HOLE_BYTES, len(raw))
        if raw[at:end] == _ZEROS[: end - at]:
            if begin < at:
                yield begin, at
            begin = end
        at = end
    if begin < len(raw):
        yield begin, len(raw)

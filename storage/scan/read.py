"""Read one file that may be written, cut, replaced or locked while we read.

A file is looked at, read and looked at again; if size, mtime or ctime moved it is read again after 20, 100
and 500 ms, and at last kept as it is, marked fuzzy. Only data is read: holes are told, so that a sparse
gibibyte costs nothing. Never blocks on a fifo put in the file's place, never follows a link, never moves
atime.

What this cannot see: a page that was already dirty and is written again through a memory map moves no time
stamp. Only the read under a freeze is exact there.
"""

import errno
import os
import stat
import time
from collections.abc import Callable

from storage.errors import Cancelled
from storage.scan.attributes import attributes
from storage.scan.descriptors import require_descriptors
from storage.scan.entry import PIECE_BYTES, Attributes, Grade, ReadOutcome, Sink, StatFacts
from storage.scan.rights import READ_QUIETLY, open_file
from storage.scan.walk import facts_of

PAUSES_S = (0.02, 0.1, 0.5)
"""Before the second, third and fourth read of a file that keeps changing."""

BLOCK_BYTES = 512
"""Unit of st_blocks, whatever the file system's own block is."""

EXTENTS_MAX = 1_000_000
"""A file with more pieces than this is read as one, holes as zeros: its map would be larger than it is
worth.
"""

_NOT_A_FILE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.ESTALE})

Extents = tuple[tuple[int, int], ...]
Pause = Callable[[float], bool]


def always_pause(seconds: float) -> bool:
    """The default: there is time for every retry."""
    time.sleep(seconds)
    return True


def _never() -> bool:
    return False


def read_stable(
    folder_fd: int,
    name: bytes,
    expected: StatFacts,
    *,
    sink: Sink,
    repair_rights: bool = False,
    stop: Callable[[], bool] = _never,
    pause: Pause = always_pause,
) -> ReadOutcome:
    """Give the sink one file's bytes and say how good they are.

    Args:
        folder_fd: the folder it lies in; `name` is looked up there and nowhere else.
        expected: what the walk saw; only its device is binding (another one is not read: EXDEV).
        sink: told `begin` for each attempt; then its room is filled, piece by piece.
        repair_rights: open a file of our own whose mode forbids it, and put the mode back.
        stop: asked at every piece.
        pause: waits that many seconds and returns True, or returns False when the time budget is used up;
            then the last read stands.

    Raises:
        Cancelled: `stop` said so.
    """
    outcome = _read_at_once(folder_fd, name, expected, sink)
    if outcome is None:
        outcome = _read_once(folder_fd, name, expected, sink, repair_rights, stop)
    for seconds in PAUSES_S:
        settled = outcome.grade is None or (
            outcome.grade is Grade.UNREADABLE and outcome.error != errno.EAGAIN  # a lease is being broken
        )
        if settled or not pause(seconds):
            break
        outcome = _read_once(folder_fd, name, expected, sink, repair_rights, stop)
    return outcome


def _read_at_once(folder_fd: int, name: bytes, expected: StatFacts, sink: Sink) -> ReadOutcome | None:
    """Read a file of one piece that is as the walk saw it and has nothing odd about it, as almost every file.

    Return None if it is otherwise: then nothing is decided, and it is read with all care.
    """
    if expected.size > PIECE_BYTES:
        return None
    try:
        fd = os.open(name, READ_QUIETLY, dir_fd=folder_fd)
    except OSError:
        return None
    try:
        before = os.fstat(fd)
        size = before.st_size
        if before.st_blocks * BLOCK_BYTES < size or not _is_as_seen(before, expected):
            return None
        sink.begin(expected)
        given = 0
        if size:
            room = sink.room()
            if len(room) < size:
                return None
            given = os.preadv(fd, [room[:size]], 0)
            sink.data(given)
        found = attributes(fd)
        after = os.fstat(fd)
        if given == size and _is_as_seen(after, expected):
            return ReadOutcome(expected, None, found)
        return ReadOutcome(facts_of(after)._replace(size=given), None, found, Grade.FUZZY)
    except OSError:
        return None  # of a bad disk: then it is this file that cannot be read, and not the home
    finally:
        os.close(fd)


def _is_as_seen(found: os.stat_result, expected: StatFacts) -> bool:
    """Return whether a regular file is the one that was seen, unchanged."""
    mode, inode, device, _, uid, gid, size = found[:7]
    return (
        stat.S_ISREG(mode)
        and (size, inode, device, uid, gid)
        == (expected.size, expected.inode, expected.device, expected.uid, expected.gid)
        and found.st_mtime_ns == expected.mtime_ns
        and found.st_ctime_ns == expected.ctime_ns
    )


def _read_once(
    folder_fd: int, name: bytes, expected: StatFacts, sink: Sink, repair: bool, stop: Callable[[], bool]
) -> ReadOutcome:
    try:
        fd, mode_before = open_file(name, folder_fd, repair=repair)
    except OSError as exc:
        require_descriptors(exc)
        if exc.errno in _NOT_A_FILE:
            return ReadOutcome(facts=expected, extents=None, gone=True)
        return ReadOutcome(facts=expected, extents=None, grade=Grade.UNREADABLE, error=exc.errno)
    try:
        try:
            outcome = _read_open(fd, expected, sink, stop)
        finally:
            if mode_before is not None:
                os.fchmod(fd, mode_before)
        return outcome if mode_before is None else _after_lock(fd, outcome)
    finally:
        os.close(fd)


def _read_open(fd: int, expected: StatFacts, sink: Sink, stop: Callable[[], bool]) -> ReadOutcome:
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        return ReadOutcome(facts=expected, extents=None, gone=True)
    if before.st_dev != expected.device:
        return ReadOutcome(facts=expected, extents=None, grade=Grade.UNREADABLE, error=errno.EXDEV)
    try:
        return _read_file(fd, before, sink, stop)
    except OSError as exc:
        return ReadOutcome(facts=facts_of(before), extents=None, grade=Grade.UNREADABLE, error=exc.errno)


def _after_lock(fd: int, outcome: ReadOutcome) -> ReadOutcome:
    """Take in what putting the mode back changed (mode, ctime), and nothing that happened besides."""
    if outcome.gone or outcome.grade is Grade.UNREADABLE:
        return outcome
    now = facts_of(os.fstat(fd))
    same = (now.size, now.mtime_ns) == (outcome.facts.size, outcome.facts.mtime_ns)
    return outcome._replace(
        facts=outcome.facts._replace(mode=now.mode, ctime_ns=now.ctime_ns),
        grade=outcome.grade if same else Grade.FUZZY,
    )


def _read_file(fd: int, before: os.stat_result, sink: Sink, stop: Callable[[], bool]) -> ReadOutcome:
    facts = facts_of(before)
    extents = _extents(fd, before)
    sink.begin(facts)
    given = _feed(fd, facts.size, extents, sink, stop)
    found: Attributes = attributes(fd)
    after = os.fstat(fd)
    same = (
        given == before.st_size == after.st_size
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
    )
    if extents is not None and given < facts.size:
        extents = _cut(extents, given)
    now = facts if same else facts_of(after)._replace(size=given)
    return ReadOutcome(
        facts=now,
        extents=extents,
        attributes=found,
        grade=None if same else Grade.FUZZY,
    )


def _feed(fd: int, size: int, extents: Extents | None, sink: Sink, stop: Callable[[], bool]) -> int:
    """Give data and holes in order; return how far it came (less than `size` if the file was cut
    meanwhile).
    """
    at = 0
    for offset, length in ((0, size),) if extents is None else extents:
        if offset > at:
            sink.hole(offset - at)
            at = offset
        end = offset + length
        while at < end:
            if stop():
                raise Cancelled(what="read")
            room = sink.room()
            count = os.preadv(fd, [room[: end - at]], at)
            if not count:
                return at
            sink.data(count)
            at += count
    if at < size:
        sink.hole(size - at)
    return size


def _extents(fd: int, found: os.stat_result) -> Extents | None:
    """The file's data, ascending; None where it has no holes (or where they cannot be told)."""
    if found.st_blocks * BLOCK_BYTES >= found.st_size:
        return None
    extents: list[tuple[int, int]] = []
    at = 0
    try:
        while at < found.st_size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno == errno.ENXIO:  # nothing but a hole from here on
                    break
                raise
            end = min(os.lseek(fd, start, os.SEEK_HOLE), found.st_size)
            if start >= found.st_size or len(extents) >= EXTENTS_MAX:
                break
            extents.append((start, end - start))
            at = end
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # this file system does not tell
            return None
        raise
    if len(extents) >= EXTENTS_MAX or extents == [(0, found.st_size)]:
        return None
    return tuple(extents)


def _cut(extents: Extents, size: int) -> Extents:
    return tuple((start, min(length, size - start)) for start, length in extents if start < size)

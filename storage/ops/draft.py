"""The folder that a restore fills, and the note beside it by which a cut-off restore is taken up again.

The note `<folder>.restore` says which checkpoint the folder is being made from, for whom, and since which
start of the machine; it is locked while somebody writes there. A folder is taken up only if all of that is
as it was, and if the folder itself is still closed to everybody else. After a crash of the machine it is not:
what was written may lack its content though it has its size and time, because nothing was synced. Then, and
whenever taking up fails, the caller drops the folder and begins anew.

Not here: what in the folder is whole (`scan/extract.py`).
"""

import contextlib
import ctypes
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import RestoreRunning, TargetFailed, TargetNotEmpty
from storage.format.encoding import encode

NOTE_ENDING: Final = ".restore"
NOTE_BYTES_MAX: Final = 4_096
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True, kw_only=True)
class Draft:
    """An open folder to restore into."""

    fd: int
    resumed: bool
    """A restore of the same checkpoint was here before."""
    to_be_continued: bool = False
    """Set by a restore that could not give all: the note stays, and the folder may be taken up again."""


def write_out(draft: Draft) -> None:
    """Put all that was written onto the disk, by one call: a home has thousands of files. For a thread.

    Before a folder gets its name: after a crash of the machine a home that stands is saved as it is found,
    and files that had a size and no content yet would be saved as empty.
    """
    if _libc.syncfs(draft.fd) < 0:
        number = ctypes.get_errno()
        raise TargetFailed(path=b"", errno=number)


def note_beside(into: Path) -> Path:
    """Return where the note of a folder lies."""
    return into.with_name(into.name + NOTE_ENDING)


def is_being_filled(into: Path) -> bool:
    """Return whether a living process restores into that folder, and may be taken up."""
    try:
        fd = os.open(note_beside(into), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def empty_draft(into: Path) -> Iterator[Draft]:
    """Open a folder that is made, or exists and is empty. It is left as it is, whatever happens."""
    fd = _open_folder(into)
    try:
        if not _is_empty(fd):
            raise TargetNotEmpty(path=os.fspath(into))
        yield Draft(fd=fd, resumed=False)
    finally:
        os.close(fd)


@contextlib.contextmanager
def resumable_draft(into: Path, about: tuple[object, ...]) -> Iterator[Draft]:
    """Open a folder that is empty or that a restore `about` the same left; the note goes when all is made.

    Raises:
        RestoreRunning: somebody is writing there.
        TargetNotEmpty: it holds something that must not be taken up.
    """
    wanted = encode([1, BOOT_ID.read_bytes(), *about])
    with _in_a_folder(into):
        note = os.open(note_beside(into), _NOTE, 0o600)
    try:
        # Without a name it is of somebody who has finished since it was opened here: the folder is whole, and
        # about to be given away.
        if not _locked(note) or os.fstat(note).st_nlink == 0:
            raise RestoreRunning(path=os.fspath(into))
        fd = _open_folder(into)
        try:
            resumed = not _is_empty(fd)
            if resumed and not (os.pread(note, NOTE_BYTES_MAX, 0) == wanted and _is_closed(fd)):
                raise TargetNotEmpty(path=os.fspath(into), what="it is not what a restore left")
            os.ftruncate(note, 0)
            os.pwrite(note, wanted, 0)
            draft = Draft(fd=fd, resumed=resumed)
            yield draft
        finally:
            os.close(fd)
        if not draft.to_be_continued:
            os.unlink(note_beside(into))
    finally:
        os.close(note)


def _locked(note: int) -> bool:
    try:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_folder(into: Path) -> int:
    """Make or open the target; it must be a folder and no link to one."""
    with _in_a_folder(into), contextlib.suppress(FileExistsError):  # it may be there, if it is empty
        os.mkdir(into, 0o700)
    try:
        return os.open(into, _FOLDER)
    except OSError as exc:
        raise TargetNotEmpty(path=os.fspath(into), errno=exc.errno) from exc


@contextlib.contextmanager
def _in_a_folder(into: Path) -> Iterator[None]:
    """Say what to do where the folder around the target is missing: whose it is to be, is not ours to say."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as exc:
        what = f"the folder {os.fspath(into.parent)!r} is not there: make it first"
        raise TargetFailed(path=os.fspath(into), errno=exc.errno, what=what) from exc


def _is_empty(fd: int) -> bool:
    with os.scandir(fd) as entries:
        return next(entries, None) is None


def _is_closed(fd: int) -> bool:
    """Return whether nobody but us could enter: a restore gives its folder away last."""
    found = os.fstat(fd)
    # The set-group-ID bit comes from the folder around it and lets nobody in.
    return found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o777 == 0o700

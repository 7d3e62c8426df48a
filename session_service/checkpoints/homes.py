"""Makes, finds and fills the homes of desktops on this machine's disk; runs in the worker.

Not the restore itself (storage). A home is at homes/<workspace>/<fence>; it appears there by one rename
when it is whole, and what is
there is never overwritten. Paths a desktop can write are entered only by folder descriptor, never followed.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import storage
from session_service.base import errors
from session_service.base.ids import is_ulid
from session_service.base.layout import Layout

UPLOAD_FOLDER: Final = b"Uploads"
RESTORED_FOLDER: Final = b"Restored"
UPLOAD_NAMES_MAX: Final = 1000
"""Names tried (name, name (2), ...) before an upload is refused."""
NAME_BYTES_MAX: Final = 255
FENCE_DIGITS_MAX: Final = 19
"""A fence has 64 bits."""
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def checked(layout: Layout, home: str, *, workspace_id: str, fence: int | None = None) -> Path:
    """Return `home` as a path if it is the one place where that workspace has its home under that fence.

    Raises BadInput for anything else: a caller that mixes up two homes must not save or prove the wrong one.

    Args:
        fence: None where the caller is asked for none; then the one that the path itself names.
    """
    path = Path(home)
    number = path.name
    if fence is None and number.isdecimal() and len(number) <= FENCE_DIGITS_MAX:
        fence = int(number)
    if fence is None or not is_ulid(workspace_id) or str(layout.home(workspace_id, fence)) != home:
        raise errors.BadInput("not the home of this workspace and fence", home=home)
    return path


@contextlib.contextmanager
def sole_maker(home: Path) -> Iterator[None]:
    """Let nobody else, here or in another process, make a home of this workspace meanwhile.

    A call that was cut off may still be removing a draft or putting a home in place while it is tried again.

    Raises:
        RestoreRunning: somebody does, or has just removed the last one; try again.
    """
    home.parent.mkdir(exist_ok=True)
    try:
        fd = os.open(home.parent, _FOLDER_FLAGS)
    except FileNotFoundError as exc:
        raise storage.RestoreRunning(path=os.fspath(home)) from exc
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise storage.RestoreRunning(path=os.fspath(home)) from exc
        if not os.fstat(fd).st_nlink:  # removed meanwhile: a lock on it keeps nobody out of the next one
            raise storage.RestoreRunning(path=os.fspath(home))
        yield
    finally:
        os.close(fd)


def draft_of(home: Path, seq: int | None = None) -> Path:
    """Return a name beside the final one, for a home that is being made: that of a checkpoint's draft, which
    a later call takes up, or a new one.
    """
    home.parent.mkdir(exist_ok=True)
    home.parent.chmod(0o711)  # whatever our umask is: the desktop's user passes through, and sees no names
    ending = secrets.token_hex(4) if seq is None else str(seq)
    return home.with_name(f"{home.name}.new-{ending}")


def make_empty(home: Path, owner: tuple[int, int] | None) -> None:
    """Make an empty home: a folder of mode 0700 that belongs to the desktop's user."""
    draft = draft_of(home)
    draft.mkdir(mode=0o700)
    publish(draft, home, owner)


def publish(draft: Path, home: Path, owner: tuple[int, int] | None) -> None:
    """Give a whole home to its user and put it in place, durably. Asserts that nothing is there."""
    if owner is not None:
        os.chown(draft, *owner, follow_symlinks=False)
    assert not home.exists(), home
    draft.rename(home)
    for folder in (home, home.parent):
        fd = os.open(folder, _FOLDER_FLAGS)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def drop_drafts(home: Path, *, but: Path | None = None) -> None:
    """Remove what interrupted restores of this workspace left, under any fence: only our own drafts and the
    notes beside them, never a home, and not the draft that is to be taken up. What somebody still writes goes
    the next time.
    """
    if not home.parent.is_dir():
        return
    kept = set() if but is None else {but, storage.note_beside(but)}
    drafts = [left for left in home.parent.glob("*.new-*") if left not in kept]
    for left in drafts:
        if left.is_dir() and not left.is_symlink() and not storage.is_being_filled(left):
            shutil.rmtree(left, ignore_errors=True)
    for left in drafts:
        if left.is_file() and not left.with_suffix("").exists():
            left.unlink(missing_ok=True)


def earlier(home: Path) -> Path | None:
    """Return the newest home of this workspace that still stands here under an earlier fence, if there is
    one: on a node that was declared lost and is back, say. It may be wiped at any moment, and proves nothing.
    """
    fences = [
        int(name)
        for name in os.listdir(home.parent)
        if name.isdecimal() and name.isascii() and len(name) <= FENCE_DIGITS_MAX
    ]
    below = [fence for fence in fences if fence < int(home.name)]
    return home.with_name(str(max(below))) if below else None


def clean_name(name: str) -> bytes:
    """Return a file name that can stand in a folder; path parts, controls and leading dots of an upload
    are refused.
    """
    raw = name.encode("utf-8", "strict")
    bad = not raw or b"/" in raw or raw.startswith(b".") or any(byte < 32 for byte in raw)
    if bad or len(raw) > NAME_BYTES_MAX - 8:
        raise errors.BadInput("this file name cannot be used", name=name[:80])
    return raw


def _open_in(home: Path, name: bytes, owner: tuple[int, int] | None) -> int:
    """Open a folder at the top of a home, made for its user if it is not there; no link is followed."""
    try:
        top = os.open(home, _FOLDER_FLAGS)
    except FileNotFoundError as exc:
        raise errors.DesktopGone() from exc  # it was closed and wiped meanwhile
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=top)
            if owner is not None:
                os.chown(name, *owner, dir_fd=top, follow_symlinks=False)
        except FileExistsError:
            pass
        return os.open(name, _FOLDER_FLAGS, dir_fd=top)
    except OSError as exc:
        raise errors.BadInput(f"the folder {name.decode()} cannot be used: {exc.strerror}") from exc
    finally:
        os.close(top)


def drop_draft(draft: Path) -> None:
    """Remove one draft of ours, if it is still there."""
    shutil.rmtree(draft, ignore_errors=True)


def put_restored(draft: Path, home: Path, owner: tuple[int, int] | None) -> str:
    """Put a filled draft into the folder Restored of a living home, under the time of now, by one rename;
    returns its path in the home. Whatever the home's user does meanwhile, nothing of his is replaced but an
    empty folder of that very name.

    Raises: BadInput.
    """
    if owner is not None:
        os.chown(draft, *owner, follow_symlinks=False)
    folder = _open_in(home, RESTORED_FOLDER, owner)
    when = time.strftime("%Y-%m-%d %H.%M.%S")
    try:
        for number in range(1, UPLOAD_NAMES_MAX):
            name = when if number == 1 else f"{when} ({number})"
            if os.path.lexists(f"/proc/self/fd/{folder}/{name}"):
                continue
            os.rename(draft, name, dst_dir_fd=folder)
            return f"{RESTORED_FOLDER.decode()}/{name}"
    except OSError as exc:
        raise errors.BadInput(f"the folder Restored cannot be used: {exc.strerror}") from exc
    finally:
        os.close(folder)
    raise errors.BadInput("too many restores in one second")


def put_upload(layout: Layout, home: Path, name: str, source: str, owner: tuple[int, int] | None) -> str:
    """Copy an uploaded file into the home's Uploads folder under a free name; returns the path in the home.

    Raises: BadInput, NoRoom.
    """
    uploaded = Path(source)
    if uploaded.parent != layout.uploads:
        raise errors.BadInput("not an upload of this machine")
    raw = clean_name(name)
    stem, dot, ending = raw.rpartition(b".")
    if not dot or not stem:
        stem, dot, ending = raw, b"", b""
    folder = _open_in(home, UPLOAD_FOLDER, owner)
    try:
        for number in range(1, UPLOAD_NAMES_MAX):
            candidate = raw if number == 1 else b"%s (%d)%s%s" % (stem, number, dot, ending)
            try:
                _copy(uploaded, folder, candidate, owner)
            except FileExistsError:
                continue
            return "Uploads/" + candidate.decode()
    except OSError as exc:
        raise errors.NoRoom(f"the upload could not be written: {exc.strerror}") from exc
    finally:
        os.close(folder)
    raise errors.BadInput("too many files of this name", name=name[:80])


def _copy(source: Path, folder: int, name: bytes, owner: tuple[int, int] | None) -> None:
    with source.open("rb") as reading:
        if not stat.S_ISREG(os.fstat(reading.fileno()).st_mode):
            raise errors.BadInput("not a file")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            with open(fd, "wb", closefd=False) as writing:
                shutil.copyfileobj(reading, writing, 1 << 20)
            if owner is not None:
                os.fchown(fd, *owner)
            os.fsync(fd)
        except OSError:
            os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(fd)

"""What the host remembers of one desktop, on disk, before and after every step that matters.

Not the registry's record: the machine's own word, used to find a desktop again after a crash of everything
else. Written to a new file, fsynced, renamed, and the folder fsynced (S25: a full disk leaves the last good
one). An fsync error is a failure (S24).
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from session_service.base.ids import is_ulid
from session_service.ports.desktops import Handle

STATE_BYTES_MAX: Final = 65_536
FILE_NAME: Final = "state.json"


class DesktopState(msgspec.Struct, frozen=True, kw_only=True):
    """One desktop as its host knows it."""

    handle: Handle
    user_id: str
    registry_epoch: int
    ready: bool = False
    """It answered once: from then on only a proof ends it. Never goes back to False."""
    init_pid: int = 0
    """The first process inside the sandbox; its end ends all of them. 0: no sandbox, or not known yet."""
    init_start_time: int = 0
    display: int = 1
    limits_missing: tuple[str, ...] = ()
    furniture: tuple[tuple[int, int], ...] = ()
    """(pid, start time) of what ran when the desktop became ready.

    Its own parts, not the user's applications.
    """
    display_side: tuple[tuple[int, int], ...] = ()
    """(pid, start time) of sandbox and X server: what goes on while only the applications are frozen."""
    helpers: tuple[tuple[int, int], ...] = ()
    """(pid, start time) of our processes beside it: network, log keeper."""
    provisional_loss_epoch: int | None = None
    revoked_grant: int | None = None
    sandboxed: bool = True
    format: int = 1


def write(folder: Path, state: DesktopState) -> None:
    """Make this state the durable one.

    Returns when it is on disk. Raises OSError, and then the old one stands.
    """
    fresh = folder / f"{FILE_NAME}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        data = msgspec.json.format(msgspec.json.encode(state), indent=1)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(folder / FILE_NAME)
    sync_folder(folder)


def read(folder: Path) -> DesktopState | None:
    """Return the state in this folder, or None when there is none.

    A damaged one counts as none and is left as it is.
    """
    try:
        with (folder / FILE_NAME).open("rb") as file:
            state = msgspec.json.decode(file.read(STATE_BYTES_MAX), type=DesktopState)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return state if state.handle.session_id == folder.name else None


def read_all(desktops: Path) -> list[DesktopState]:
    """Return every desktop that this machine remembers, in the order of their ids."""
    if not desktops.is_dir():
        return []
    found = (read(folder) for folder in sorted(desktops.iterdir()) if is_ulid(folder.name))
    return [state for state in found if state is not None]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

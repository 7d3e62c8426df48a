"""The master key of this machine: found, made on the very first start, and never silently replaced.

Not the key hierarchy (storage). Losing this file and every copy of it means that no checkpoint can be
read again; so it is made only
while the store is empty, and doctor nags until a copy was made.
"""

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Final

from blake3 import blake3

from session_service.base import errors

KEY_BYTES: Final = 32
BACKED_UP_NOTE: Final = "backed-up.json"
_CONTEXT: Final = "session-service 2026-11 name of a master key"


def name_of(key: bytes) -> str:
    """Return the public name of a master key, for people to compare copies; it tells nothing about the
    key.
    """
    return blake3(key, derive_key_context=_CONTEXT).hexdigest(length=8)


def parse(text: str) -> bytes:
    """Read a key file: 64 hex digits. Raises StorageRefused."""
    try:
        key = bytes.fromhex("".join(text.split()))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise errors.StorageRefused("the master key file does not hold 64 hex digits")
    return key


def read(path: Path) -> bytes | None:
    """Return the key, or None when there is no file. Raises StorageRefused when it cannot be read."""
    try:
        return parse(path.read_text("ascii"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise errors.StorageRefused(f"the master key {path} cannot be read: {exc}") from exc


def make(path: Path) -> bytes:
    """Make the key of a new, empty store. Two workers may try at once: the first one's key is used by
    both.
    """
    put(path, secrets.token_bytes(KEY_BYTES))
    found = read(path)
    assert found is not None
    return found


def put(path: Path, key: bytes) -> None:
    """Write a key file, durable when this returns. One that is there already stays as it is."""
    draft = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            text = key.hex().encode() + b"\n"
            if os.write(fd, text) < len(text):
                raise OSError(errno.ENOSPC, "the key was written in part", str(draft))
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make a name in a folder of keys durable; as root give the file to whoever owns the folder."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
        owner = os.fstat(folder)
    finally:
        os.close(folder)
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def is_backed_up(path: Path, key: bytes) -> bool:
    """Say whether `session-service backup key` was run for this very key."""
    try:
        noted = json.loads(path.with_name(BACKED_UP_NOTE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(noted, dict) and noted.get("key") == name_of(key)


def note_backup(path: Path, key: bytes, at: str) -> None:
    """Remember that a copy was made; only the key's public name and the time are written."""
    note = path.with_name(BACKED_UP_NOTE)
    note.write_text(json.dumps({"key": name_of(key), "at": at}) + "\n")
    note.chmod(0o644)

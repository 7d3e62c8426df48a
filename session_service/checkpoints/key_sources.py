"""Where this machine's ways into the store come from: files in the folder of keys, commands, settings.

Read at the start of a worker and again whenever a slot does not open, so that a new master key or recovery
code needs no restart. Not the keys' hierarchy (storage), and no place for a private half: of the recovery
code only the public half is kept here.
"""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import storage
from session_service.base import errors
from session_service.checkpoints import key_commands, keyring
from session_service.checkpoints.key_commands import CommandKms

RECOVERY_FILE: Final = "recovery.json"
SIGNERS_FILE: Final = "signers.json"
PREVIOUS_ENDING: Final = ".previous"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySources:
    """The sources of one machine."""

    file: Path
    """Of the master key; also where the other files of keys lie."""
    command: tuple[str, ...] = ()
    """Prints the master key; then the file is not read."""
    previous_file: Path | None = None
    previous_command: tuple[str, ...] = ()
    kms_wrap: tuple[str, ...] = ()
    kms_unwrap: tuple[str, ...] = ()
    kms_key: str = ""
    kms_workspace_key: str = ""
    kms: CommandKms | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        named = bool(self.kms_key or self.kms_workspace_key)
        if named != bool(self.kms_wrap and self.kms_unwrap):
            raise errors.StorageRefused(
                "store.kms_wrap_command, store.kms_unwrap_command and the name of a KMS key belong together"
            )
        if self.kms_workspace_key and "{workspace}" not in self.kms_workspace_key:
            raise errors.StorageRefused(
                "store.kms_workspace_key names one key for all: put {workspace} into it"
            )
        if named:
            kms = CommandKms(wrap_command=self.kms_wrap, unwrap_command=self.kms_unwrap)
            object.__setattr__(self, "kms", kms)

    async def ways(self) -> storage.KeyWays | None:
        """Return the ways in as they are now; None when there is no master key yet.

        Raises:
            StorageRefused, StorageUnavailable: a source is there and gives no key.
        """
        master = await self._master()
        if master is None:
            return None
        previous = await self._previous()
        return storage.KeyWays(
            master=master,
            previous=tuple(key for key in previous if key != master),
            recovery_public=self.recovery_public(),
            kms=self.kms,
            kms_key=self.kms_key,
            kms_workspace_key=self.kms_workspace_key,
        )

    async def required_ways(self) -> storage.KeyWays:
        """Return the ways in. Raises StorageRefused when the master key is gone."""
        ways = await self.ways()
        if ways is None:
            raise errors.StorageRefused(f"the master key {self.file} is missing: put the copy back")
        return ways

    async def _master(self) -> bytes | None:
        if not self.command:
            return keyring.read(self.file)
        whose = "store.master_key_command"
        return key_commands.parse_key(await key_commands.run(self.command, whose=whose), whose=whose)

    async def _previous(self) -> list[bytes]:
        """Return older master keys: those named, and the one that `keys rewrap --new` put aside."""
        found: list[bytes] = []
        named = self.previous_file
        for path in (named, self.aside):
            key = keyring.read(path) if path is not None else None
            if key is None and path is not None and path == named:
                raise errors.StorageRefused(f"store.previous_master_key_file names no file: {path}")
            if key is not None:
                found.append(key)
        if self.previous_command:
            whose = "store.previous_master_key_command"
            printed = await key_commands.run(self.previous_command, whose=whose)
            found.append(key_commands.parse_key(printed, whose=whose))
        return found

    @property
    def aside(self) -> Path:
        """Where `keys rewrap --new` puts the master key that it replaces."""
        return self.file.with_name(self.file.name + PREVIOUS_ENDING)

    def recovery_public(self) -> bytes | None:
        """Return the public half of the recovery code, if one was made."""
        found = _read_json(self.file.with_name(RECOVERY_FILE)).get("public")
        return (
            bytes.fromhex(found) if isinstance(found, str) and len(found) == 2 * keyring.KEY_BYTES else None
        )

    def put_recovery_public(self, public: bytes, *, at: str) -> None:
        """Keep the public half of a code that its owner has typed back."""
        if len(public) != keyring.KEY_BYTES:
            raise errors.BadInput("the public half of a recovery code has 32 bytes", field="recovery_public")
        _write_json(self.file.with_name(RECOVERY_FILE), {"public": public.hex(), "at": at})

    def signers(self) -> dict[bytes, bytes]:
        """Return the public halves of every signer of receipts that this machine has known."""
        found: dict[bytes, bytes] = {}
        for name, public in _read_json(self.file.with_name(SIGNERS_FILE)).items():
            if isinstance(public, str):
                found[bytes.fromhex(name)] = bytes.fromhex(public)
        return found

    def remember_signers(self, signers: dict[bytes, bytes]) -> None:
        """Keep the public halves of signers, so that receipts outlive their master key."""
        known = self.signers()
        if signers.items() <= known.items():
            return
        both = known | signers
        _write_json(
            self.file.with_name(SIGNERS_FILE), {name.hex(): public.hex() for name, public in both.items()}
        )

    def is_first_start(self) -> bool:
        """Say whether no store was ever opened from here: only then a folder of our own is made for one."""
        return keyring.read(self.file) is None and not self.signers()

    def is_safe(self, master: bytes) -> bool:
        """Say whether losing this machine loses no key: kept elsewhere, copied, or opened by a code."""
        return (
            bool(self.command)
            or keyring.is_backed_up(self.file, master)
            or self.recovery_public() is not None
        )


def recovery_name(public: bytes) -> str:
    """Return the public name of a recovery code."""
    return storage.recovery_id(public)


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: dict[str, str]) -> None:
    """Replace a small public file, durable when this returns."""
    draft = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, json.dumps(value).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path)

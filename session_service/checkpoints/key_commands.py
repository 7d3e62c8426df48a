"""Commands that an operator names to reach keys kept elsewhere: one that prints the master key, and a KMS.

A command gets no secret in its arguments or environment, only on standard input, and answers on standard
output; so every KMS with a command line fits. It has a time limit, and nothing that it printed there is ever
logged. What it says on standard error is shown when it fails, cut short: that is for its operator.

Not a client of any KMS.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import storage
from session_service.base import errors

COMMAND_S: Final = 30.0
"""A KMS answers within a second; a key that needs a person's touch within this."""
ANSWER_BYTES_MAX: Final = 64 * 1024
TOLD_LETTERS_MAX: Final = 200
KEY_BYTES: Final = 32
KEY_NAME_FIELD: Final = "{key}"
"""Where the arguments of a KMS command have the name of the KMS key."""


class CommandFailed(errors.StorageUnavailable):
    """A command that gives or opens keys failed."""

    action = "Run the command by hand as the service's user; the setting that names it is in the group store."


def parse_key(raw: bytes, *, whose: str) -> bytes:
    """Return 32 bytes from what a command printed: raw, hex or base64. Raises StorageRefused."""
    if len(raw) == KEY_BYTES:
        return raw
    text = b"".join(raw.split())
    for read in (bytes.fromhex, _base64):
        try:
            key = read(text.decode("ascii"))
        except (ValueError, binascii.Error):
            continue
        if len(key) == KEY_BYTES:
            return key
    raise errors.StorageRefused(f"{whose} printed no 32 bytes, neither raw nor as hex or base64")


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


async def run(command: Sequence[str], stdin: bytes = b"", *, whose: str) -> bytes:
    """Run a command and return what it printed.

    Raises:
        CommandFailed: it could not be started, ended with a status, took too long, or printed too much.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as exc:
        raise CommandFailed(f"{whose} cannot be started: {exc.strerror}: {command[0]}") from exc
    try:
        async with asyncio.timeout(COMMAND_S):
            printed, told = await process.communicate(stdin)
    except TimeoutError as exc:
        raise CommandFailed(f"{whose} did not end within {COMMAND_S:.0f} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = told.decode("utf-8", "backslashreplace").strip()[-TOLD_LETTERS_MAX:]
        raise CommandFailed(f"{whose} ended with status {process.returncode}: {words}")
    if len(printed) > ANSWER_BYTES_MAX:
        raise CommandFailed(f"{whose} printed more than {ANSWER_BYTES_MAX} bytes")
    return printed


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandKms:
    """A `storage.Kms` of two commands."""

    wrap_command: tuple[str, ...]
    unwrap_command: tuple[str, ...]

    async def wrap(self, key_name: str, secret: bytes) -> bytes:
        return await self._asked(self.wrap_command, key_name, secret, whose="store.kms_wrap_command")

    async def unwrap(self, key_name: str, wrapped: bytes) -> bytes:
        return await self._asked(self.unwrap_command, key_name, wrapped, whose="store.kms_unwrap_command")

    async def _asked(self, command: tuple[str, ...], key_name: str, stdin: bytes, *, whose: str) -> bytes:
        words = [word.replace(KEY_NAME_FIELD, key_name) for word in command]
        try:
            return await run(words, stdin, whose=whose)
        except CommandFailed as exc:
            raise storage.KeyServiceFailed(kms_key=key_name, reason=exc.detail) from exc

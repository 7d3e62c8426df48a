"""Passwords: argon2id in threads, few at once, with the same work for accounts that do not exist.

Not a policy of composition: length is what counts (NIST SP 800-63B); paste and password managers are welcome.
"""

import asyncio
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from session_service.base import errors
from session_service.http import limits


class Passwords:
    """Hashes and checks passwords; a bounded number at once, since each takes 64 MiB."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turns = asyncio.Semaphore(limits.PASSWORD_HASHES_AT_ONCE)
        self._waiting = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to keep."""
        return str(await self._in_turn(self._hasher.hash, password))

    async def check(self, stored: str | None, password: str) -> bool:
        """Say whether the password is right; None (no such account) takes the same time and is never
        right.
        """
        if self._nobody is None:
            self._nobody = str(await self._in_turn(self._hasher.hash, "nobody has this password"))
        right = bool(await self._in_turn(self._verify, stored or self._nobody, password))
        return right and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Say whether a hash was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_turn(self, work: Callable[..., object], *arguments: str) -> object:
        if self._waiting >= limits.PASSWORD_HASHES_WAITING_MAX:
            raise errors.TooManyAttempts("Too many people sign in at this moment.", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._waiting -= 1


def check_form(password: str, *, name: str) -> None:
    """Refuse a new password that is too short or is the account's name. Raises BadInput."""
    if len(password) < limits.PASSWORD_LENGTH_MIN:
        raise errors.BadInput(
            f"A password has at least {limits.PASSWORD_LENGTH_MIN} characters.",
            field="password",
            length_min=limits.PASSWORD_LENGTH_MIN,
        )
    if len(password.encode("utf-8", "surrogatepass")) > limits.PASSWORD_BYTES_MAX:
        raise errors.BadInput("The password is too long.", field="password")
    if password.casefold() == name.casefold():
        raise errors.BadInput("The password is the name of the account.", field="password")

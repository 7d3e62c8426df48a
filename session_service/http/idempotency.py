"""Idempotency-Key: the repeat of a request gets the answer of the first, also after a restart.

Answers are kept in the registry, sealed under the key that the client made: some hold a ticket or a token,
and the registry never holds those in the clear. Only success is kept; a failed request may be tried again
under the same key.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from session_service.base import errors, log
from session_service.base.ids import UserId
from session_service.core.changes import AddIdempotency, Unit
from session_service.core.records import Idempotency
from session_service.http import limits, secrets
from session_service.ports.clock import Clock, Ids
from session_service.ports.registry import Registry

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A kept answer."""

    status: int
    body: bytes


def checked_key(text: str) -> str:
    """Return a key that can be used. Raises BadInput."""
    length_right = limits.IDEMPOTENCY_KEY_LENGTH_MIN <= len(text) <= limits.IDEMPOTENCY_KEY_LENGTH_MAX
    if not length_right or not text.isascii() or not text.isprintable():
        raise errors.BadInput(
            f"{HEADER} has {limits.IDEMPOTENCY_KEY_LENGTH_MIN} to {limits.IDEMPOTENCY_KEY_LENGTH_MAX} "
            "printable characters; a UUID is right.",
            field=HEADER,
        )
    return text


def request_hash(method: str, path: str, body: bytes) -> bytes:
    """Return what makes a request the same one."""
    return hashlib.sha256(
        b"\n".join((method.encode(), path.encode("utf-8", "surrogateescape"), body))
    ).digest()


class KeptAnswers:
    """Looks answers up and keeps them; two requests under one key never run at once in this process."""

    def __init__(self, *, registry: Registry, clock: Clock, ids: Ids) -> None:
        self._registry = registry
        self._clock = clock
        self._ids = ids
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._users_of_lock: Counter[tuple[str, str]] = Counter()

    @contextlib.asynccontextmanager
    async def one_at_a_time(self, user_id: UserId, key: str) -> AsyncIterator[None]:
        """Wait until no other request under this key runs."""
        place = (user_id, key)
        lock = self._locks.setdefault(place, asyncio.Lock())
        self._users_of_lock[place] += 1
        try:
            async with lock:
                yield
        finally:
            self._users_of_lock[place] -= 1
            if not self._users_of_lock[place]:
                del self._users_of_lock[place]
                del self._locks[place]

    async def find(self, user_id: UserId, key: str, wanted: bytes) -> Kept | None:
        """Return the kept answer of the same request, None for a fresh key.

        Raises:
            IdempotencyMismatch: the key belongs to another request.
        """
        entry = await self._registry.idempotency(user_id, _name(key))
        if entry is None:
            return None
        if not secrets.same(entry.request_hash, wanted):
            raise errors.IdempotencyMismatch()
        nonce, sealed = entry.body[:_NONCE_BYTES], entry.body[_NONCE_BYTES:]
        try:
            body = _cipher(user_id, key).decrypt(nonce, sealed, entry.request_hash)
        except (InvalidTag, ValueError) as exc:
            raise errors.IdempotencyMismatch("The kept answer cannot be opened with this key.") from exc
        return Kept(status=entry.status, body=body)

    async def keep(self, user_id: UserId, key: str, wanted: bytes, answer: Kept) -> None:
        """Keep an answer. What was done stays done if it cannot be kept: the acts can be repeated."""
        nonce = self._ids.secret()[:_NONCE_BYTES]
        entry = Idempotency(
            key=_name(key),
            user_id=user_id,
            request_hash=wanted,
            status=answer.status,
            body=nonce + _cipher(user_id, key).encrypt(nonce, answer.body, wanted),
            created_at_ms=self._clock.wall_ms(),
        )
        try:
            await self._registry.commit(Unit(writes=(AddIdempotency(entry=entry),)))
        except (errors.RegistryUnavailable, errors.Conflict) as exc:
            log.get_logger().warning("request.failed", error=exc.code, detail="the answer was not kept")


def _name(key: str) -> str:
    return secrets.hash_of("idempotency-key", key).hex()


def _cipher(user_id: UserId, key: str) -> AESGCM:
    return AESGCM(secrets.hash_of("idempotency-seal", f"{user_id}\n{key}"))

"""The ways in: what this process was given to open key slots with, and to make new ones for.

A master key (and the one before it, while slots are re-wrapped), a KMS that somebody operates elsewhere, the
public half of the recovery code, and in an emergency its private half. Each is a wrapper that finds K of a
slot. It reads and writes no slot itself (`slots.py`).

Source: storage.md 4.5.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from blake3 import blake3

from storage.errors import KeyMissing, Malformed
from storage.format import names, recovery
from storage.format.key_slot import slot_blob
from storage.format.keys import key_id
from storage.format.secrets import SECRET_BYTES

METHOD_ABOVE: Final = "m"
"""Wrapped by the key above: the master key for a tenant key, the tenant key for an epoch key."""
METHOD_KMS: Final = "k"
METHOD_RECOVERY: Final = "r"
WORKSPACE_FIELD: Final = "{workspace}"
"""Where the name of a KMS key per workspace has the workspace's id."""


class Kms(Protocol):
    """A service that wraps 32 bytes under a key which never leaves it."""

    async def wrap(self, key_name: str, secret: bytes) -> bytes:
        """Return the ciphertext. Raises KeyServiceFailed."""

    async def unwrap(self, key_name: str, wrapped: bytes) -> bytes:
        """Return the 32 bytes. Raises KeyServiceFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWays:
    """What opens the store. None of it is ever written by `storage`."""

    master: bytes = field(repr=False)
    """New slots are for this one."""
    previous: tuple[bytes, ...] = field(default=(), repr=False)
    """Master keys that still open slots, until these are re-wrapped."""
    recovery_public: bytes | None = None
    recovery_private: bytes | None = field(default=None, repr=False)
    """Only while somebody opens the store by the code."""
    kms: Kms | None = field(default=None, repr=False)
    kms_key: str = ""
    """Name of the KMS key that also wraps tenant keys; empty = none does."""
    kms_workspace_key: str = ""
    """Name of the KMS key of one workspace, with `{workspace}` for its id: it then wraps the secrets of the
    workspace in place of the tenant key, so that destroying it erases every copy. Empty = none.
    """

    def __post_init__(self) -> None:
        secrets = (self.master, *self.previous, self.recovery_private or self.master)
        if any(len(secret) != SECRET_BYTES for secret in secrets):
            raise Malformed(rule="the master key has 32 bytes")

    @property
    def public_half(self) -> bytes | None:
        """Return the public half that new tenant keys are wrapped for."""
        if self.recovery_public is None and self.recovery_private is not None:
            return recovery.public_half(self.recovery_private)
        return self.recovery_public


class Wrapper(Protocol):
    """One way into slots."""

    @property
    def slot(self) -> str:
        """Return the id of the slots that it makes and opens."""

    async def sealing(self, fresh: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        """Return K of a new slot, and what lies behind its head."""

    async def opening(self, name: str, raw: bytes) -> bytes:
        """Return K of a slot. Raises KeyMissing: this way only makes slots."""


@dataclass(frozen=True, slots=True)
class ByKey:
    """Method m: the wrapping key itself."""

    secret: bytes = field(repr=False)

    @property
    def slot(self) -> str:
        return names.slot_id(METHOD_ABOVE, key_id(self.secret))

    async def sealing(self, fresh: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        return self.secret, b""

    async def opening(self, name: str, raw: bytes) -> bytes:
        if slot_blob(name, raw):
            raise Malformed(rule="bytes after a key slot", object=name)
        return self.secret


@dataclass(frozen=True, slots=True)
class ByKms:
    """Method k: a fresh K, wrapped by a KMS under a key that has a name."""

    kms: Kms = field(repr=False)
    key_name: str

    @property
    def slot(self) -> str:
        return names.slot_id(METHOD_KMS, blake3(self.key_name.encode()).digest(length=8))

    async def sealing(self, fresh: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        secret = fresh(SECRET_BYTES)
        wrapped = await self.kms.wrap(self.key_name, secret)
        if not wrapped or await self.kms.unwrap(self.key_name, wrapped) != secret:
            raise KeyMissing(what="the KMS does not unwrap what it wrapped", kms_key=self.key_name)
        return secret, wrapped

    async def opening(self, name: str, raw: bytes) -> bytes:
        secret = await self.kms.unwrap(self.key_name, slot_blob(name, raw))
        if len(secret) != SECRET_BYTES:
            raise KeyMissing(object=name, what="the KMS gave no 32 bytes", kms_key=self.key_name)
        return secret


@dataclass(frozen=True, slots=True)
class ByRecovery:
    """Method r: for the recovery code; opens with the private half only."""

    public: bytes
    private: bytes | None = field(default=None, repr=False)

    @property
    def slot(self) -> str:
        return names.slot_id(METHOD_RECOVERY, recovery.wrapper_id(self.public))

    async def sealing(self, fresh: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        return recovery.sealing_key(self.public, fresh(recovery.KEY_BYTES))

    async def opening(self, name: str, raw: bytes) -> bytes:
        if self.private is None:
            raise KeyMissing(object=name, what="only the recovery code opens it")
        return recovery.opening_key(self.private, slot_blob(name, raw))


def tenant_makers(ways: KeyWays) -> list[Wrapper]:
    """Return the ways that every tenant key is wrapped for, the master key first."""
    makers: list[Wrapper] = [ByKey(ways.master)]
    if ways.kms is not None and ways.kms_key:
        makers.append(ByKms(ways.kms, ways.kms_key))
    public = ways.public_half
    if public is not None:
        makers.append(ByRecovery(public))
    return makers


def tenant_openers(ways: KeyWays) -> list[Wrapper]:
    """Return the ways that open tenant keys, the cheapest first: a KMS is asked last."""
    openers: list[Wrapper] = [ByKey(secret) for secret in (ways.master, *ways.previous)]
    if ways.recovery_private is not None:
        private = ways.recovery_private
        openers.append(ByRecovery(recovery.public_half(private), private))
    if ways.kms is not None and ways.kms_key:
        openers.append(ByKms(ways.kms, ways.kms_key))
    return openers


def workspace_kms(ways: KeyWays, workspace: str) -> ByKms | None:
    """Return the KMS key of one workspace, where there is one."""
    if ways.kms is None or not ways.kms_workspace_key:
        return None
    return ByKms(ways.kms, ways.kms_workspace_key.replace(WORKSPACE_FIELD, workspace))

"""What is said about keys and erasure: the answers of the `Checkpoints` port to questions about them.

No key ever crosses that port: keys have public names, and a recovery code sends its public half only.
"""

import msgspec


class EpochLook(msgspec.Struct, frozen=True, kw_only=True):
    """What lies under one key epoch of a workspace."""

    key_epoch: int
    key_id: str
    packs: int
    entries: int


class KeyLook(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one workspace."""

    master_key_id: str
    key_epoch: int
    min_key_epoch: int = 1
    """Older ones are refused to every writer."""
    epochs: tuple[EpochLook, ...] = ()


class TenantKeys(msgspec.Struct, frozen=True, kw_only=True):
    """By what the keys of one tenant are wrapped; counts of keys."""

    tenant_id: str
    keys: int
    opened: int
    under_master: int
    under_previous: int
    under_recovery: int
    under_other_codes: int


class StoreKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Every way into the store, and whom it opens for."""

    master_key_id: str
    key_backed_up: bool
    recovery_id: str
    """Public name of the recovery code; empty = none was made."""
    kms_key: str
    tenants: tuple[TenantKeys, ...]
    refused: tuple[str, ...]
    """Tenants whose keys nothing here opens."""


class RewrapLook(msgspec.Struct, frozen=True, kw_only=True):
    """What a re-wrap did."""

    tenants: int
    workspaces: int
    made: int
    removed: int
    left: tuple[str, ...] = ()
    """What could not be moved, in words."""


class ErasedLook(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure deleted; `receipt` is signed and can be checked by anyone with the public key."""

    actor: str
    at_ms: int
    slots: int
    objects: int
    size: int
    receipt: bytes
    versions: int | None = None
    """Noncurrent versions that went with them; None: the store cannot say whether it keeps any."""
    processes: int = 0
    """Workers that confirmed that they forgot the keys."""
    second: str = ""
    """Of the second store: empty (there is none), erased, or waits (it did not answer)."""
    locked: int = 0
    """Versions that a bucket with object lock keeps, here or in the second store."""
    locked_keys: int = 0
    """Of these, key slots: until they go, who has the bucket and the master key reads what lies there."""
    locked_until_ms: int | None = None
    """When the last lock ends; None: there is none, or one is a hold."""

    @property
    def finished(self) -> bool:
        """Return whether nothing is left that the service knows of."""
        return self.second != "waits" and not self.locked


class TombstoneLook(msgspec.Struct, frozen=True, kw_only=True):
    """Who erased a workspace, when and why."""

    actor: str
    at_ms: int
    reason: str

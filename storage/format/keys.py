"""How every key is derived from the secrets of a key epoch, and per object from those.

BLAKE3 in its derive_key mode, with a context string that is fixed for ever. What is derived: a key id that
may be shown, a key for metadata and one for data (so that somebody may browse names without reading
contents), a key that hedges nonces, and one key per class for the ids of chunks. Nothing here draws random
numbers.

Source: storage.md 4.5.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from blake3 import blake3

from storage.errors import Malformed

CONTEXT: Final = "session-service checkpoints v1 "
NO_REPOSITORY: Final = bytes(16)
"""Repository id of objects that belong to a tenant and to no repository."""
CHUNK_ID_BYTES: Final = 16
KEY_ID_BYTES: Final = 8


class BoxKind(IntEnum):
    """What a sealed box is; part of what is authenticated."""

    HEAD = 1
    DATA = 2
    META = 3
    FOOTER = 4


def derive(what: str, material: bytes, length: int = 32) -> bytes:
    """Return `length` bytes derived from secret `material` for the purpose `what`."""
    return blake3(material, derive_key_context=CONTEXT + what).digest(length=length)


def key_id(epoch_key: bytes) -> bytes:
    """Return the 8 bytes by which a key is named in headers and slots. Not secret."""
    return derive("key id", epoch_key, KEY_ID_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKeys:
    """The two keys of one object, and what its header commits to."""

    meta: bytes = field(repr=False)
    data: bytes | None = field(repr=False)
    commitments: bytes

    def for_box(self, kind: BoxKind) -> bytes:
        """Return the key of a box; data boxes are refused where the writer or the reader has no data key."""
        if kind is not BoxKind.DATA:
            return self.meta
        if self.data is None:
            raise Malformed(rule="data box without a data key")
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKeys:
    """Everything derived from one key epoch of one repository. `data` is None for those who only mark and
    browse.

    Chunk ids use the id secret, which is the same in all epochs, so that deduplication survives a rotation.
    """

    repository_id: bytes
    key_id: bytes
    meta: bytes = field(repr=False)
    data: bytes | None = field(repr=False)
    hedge: bytes = field(repr=False)
    chunk_data: bytes | None = field(repr=False)
    chunk_meta: bytes = field(repr=False)
    chunker_seed: int = field(repr=False)

    @classmethod
    def from_secrets(cls, repository_id: bytes, epoch_key: bytes, id_secret: bytes) -> "EpochKeys":
        """Derive all keys. The three arguments are 16, 32 and 32 bytes."""
        if (len(repository_id), len(epoch_key), len(id_secret)) != (16, 32, 32):
            raise Malformed(rule="lengths of key secrets")
        return cls(
            repository_id=repository_id,
            key_id=key_id(epoch_key),
            meta=derive("meta key", epoch_key),
            data=derive("data key", epoch_key),
            hedge=derive("hedge key", epoch_key),
            chunk_data=derive("chunk id: data", id_secret),
            chunk_meta=derive("chunk id: meta", id_secret),
            chunker_seed=int.from_bytes(derive("chunker seed", id_secret, 8), "little"),
        )

    @classmethod
    def wrapping(cls, repository_id: bytes, wrapping_key: bytes) -> "EpochKeys":
        """Return the keys of a key slot's envelope; it has no chunks, so there is no id secret."""
        return cls.from_secrets(repository_id, wrapping_key, bytes(32))

    def chunk_id(self, kind: BoxKind, content: bytes | bytearray | memoryview) -> bytes:
        """Return the 16 byte id of a chunk. One key per class: a file cannot be given a tree node's id."""
        key = self.chunk_data if kind is BoxKind.DATA else self.chunk_meta
        if key is None:
            raise Malformed(rule="data chunk without a data id key")
        return blake3(content, key=key).digest(length=CHUNK_ID_BYTES)

    def object_keys(self, header_start: bytes, name: str) -> ObjectKeys:
        """Derive the keys of the object `name` whose header begins with these 32 bytes."""
        place = self.repository_id + header_start + name.encode("ascii")
        meta = derive("object: meta", self.meta + place, 48)
        if self.data is None:
            return ObjectKeys(meta=meta[:32], data=None, commitments=meta[32:] + bytes(16))
        data = derive("object: data", self.data + place, 48)
        return ObjectKeys(meta=meta[:32], data=data[:32], commitments=meta[32:] + data[32:])

    def hedged(self, fresh: bytes, *parts: bytes, length: int) -> bytes:
        """Return `length` bytes that repeat only if the random bytes *and* all parts repeat."""
        return blake3(fresh + b"".join(parts), key=self.hedge).digest(length=length)

"""The 64 plain bytes in front of every object but config: what it is, which key, and commitments to that key.

Layout: 0 magic `CKPT`; 4 version; 5 type; 6 flags a reader must know; 7 flags it may ignore; 8 key id (8);
16 salt (16); 32 commitment to the object's meta key (16); 48 to its data key (16, zero without one).
The commitments are checked before anything is opened: GCM alone would let a key holder make one box that
opens under two keys. The object's name and the repository are in the keys, so nothing can be moved.

Source: storage.md 4.1 "Header", 4.5 "Commitment".
"""

import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from storage.errors import Malformed, NewerServiceNeeded, WrongKey
from storage.format.keys import EpochKeys, ObjectKeys
from storage.format.limits import HEADER_BYTES

MAGIC: Final = b"CKPT"
VERSION: Final = 1
FRESH_BYTES: Final = 32
"""Random bytes that a caller must give per header and per box."""


class ObjectType(IntEnum):
    """The types of version 1; config has no header."""

    PACK = 1
    LOG_ENTRY = 2
    INDEX_SNAPSHOT = 3
    HISTORY = 4
    SIDE_CHECKPOINT = 5
    RECEIPT = 6
    KEY_SLOT = 7
    TOMBSTONE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHeader:
    """A header that was made or accepted, with the keys of its object."""

    raw: bytes
    keys: ObjectKeys


def make_header(keys: EpochKeys, object_type: ObjectType, name: str, fresh: bytes) -> OpenHeader:
    """Make the header of a new object. `fresh` is 32 random bytes, used once."""
    if len(fresh) != FRESH_BYTES:
        raise Malformed(rule="fresh bytes of a header")
    start = MAGIC + bytes((VERSION, object_type, 0, 0)) + keys.key_id
    start += keys.hedged(fresh, start, name.encode("ascii"), length=16)
    object_keys = keys.object_keys(start, name)
    return OpenHeader(raw=start + object_keys.commitments, keys=object_keys)


def header_key_id(raw: bytes, name: str) -> bytes:
    """Return the key id of an object's first bytes: exactly this key is to be tried, never several."""
    if len(raw) < HEADER_BYTES or raw[:4] != MAGIC:
        raise Malformed(rule="header", object=name)
    if raw[4] != VERSION:
        raise NewerServiceNeeded(what="object version", value=raw[4], object=name)
    return raw[8:16]


def open_header(keys: EpochKeys, raw: bytes, object_type: ObjectType, name: str) -> OpenHeader:
    """Check the first 64 bytes of the object `name` and return its keys.

    Raises:
        Malformed: too short, no magic, another type.
        NewerServiceNeeded: another version, or a flag that a reader must know.
        WrongKey: made with another key, or under another name or in another repository.
    """
    named_key = header_key_id(raw, name)
    if raw[5] != object_type:
        raise Malformed(rule="object type", object=name, found=raw[5])
    if raw[6]:
        raise NewerServiceNeeded(what="object flags", value=raw[6], object=name)
    if named_key != keys.key_id:
        raise WrongKey(object=name, key_id=named_key.hex())
    object_keys = keys.object_keys(raw[:32], name)
    if not hmac.compare_digest(object_keys.commitments[:16], raw[32:48]):
        raise WrongKey(object=name, commitment="meta")
    told, ours = raw[48:64], object_keys.commitments[16:]
    if object_keys.data is not None and not hmac.compare_digest(ours, told):
        if any(told):
            raise WrongKey(object=name, commitment="data")
        # The writer held no data key: whatever calls itself a data box here is refused.
        object_keys = ObjectKeys(meta=object_keys.meta, data=None, commitments=object_keys.commitments)
    return OpenHeader(raw=raw[:HEADER_BYTES], keys=object_keys)

"""Key slots as objects: an envelope whose K is the wrapping key, and behind its head what leads to it.

Method m has nothing there (the reader holds K), method k the ciphertext of a KMS, method r an ephemeral
public key. What the body says is in `secrets.py`; how K is found is the wrapper's affair
(`repository/ways.py`).

Source: storage.md 4.5.
"""

from typing import Final

from storage.errors import LimitReached, Malformed
from storage.format.envelope import HEAD_START, head_end, make_object, open_head
from storage.format.header import ObjectType, make_header
from storage.format.keys import EpochKeys

BLOB_BYTES_MAX: Final = 16 * 1024
"""Behind the head of a slot: a KMS's ciphertext of 32 bytes has some hundred."""


def seal_slot(
    wrapping_key: bytes,
    repository_id: bytes,
    name: str,
    body: bytes,
    *,
    blob: bytes,
    fresh: tuple[bytes, bytes],
) -> bytes:
    """Return a whole slot.

    Args:
        wrapping_key: K of the envelope.
        blob: lies behind the head, as it is; empty for method m.
        fresh: twice 32 random bytes, used once.
    """
    if len(blob) > BLOB_BYTES_MAX:
        raise LimitReached(limit="bytes behind a slot's head", value=len(blob))
    keys = EpochKeys.wrapping(repository_id, wrapping_key)
    header = make_header(keys, ObjectType.KEY_SLOT, name, fresh[0])
    boxes = (blob,) if blob else ()
    raw = make_object(keys, header, kind=0, body=body, boxes=boxes, fresh=fresh[1], compress=False)
    assert open_slot(wrapping_key, repository_id, name, raw) == body, "decoded before upload"
    return raw


def slot_blob(name: str, raw: bytes) -> bytes:
    """Return what lies behind the head of a slot."""
    if len(raw) < HEAD_START:
        raise Malformed(rule="head length", object=name)
    blob = raw[head_end(raw, name) :]
    if len(blob) > BLOB_BYTES_MAX:
        raise Malformed(rule="bytes behind a slot's head", object=name)
    return blob


def open_slot(wrapping_key: bytes, repository_id: bytes, name: str, raw: bytes) -> bytes:
    """Return the body of a slot."""
    keys = EpochKeys.wrapping(repository_id, wrapping_key)
    return open_head(keys, ObjectType.KEY_SLOT, name, raw).body

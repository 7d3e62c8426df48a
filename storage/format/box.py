"""Sealed boxes: nonce 12, AES-256-GCM ciphertext, tag 16.

Authenticated with it: the whole header (in head boxes also the length bytes), the kind of the box, its index.
A nonce is 12 bytes of keyed BLAKE3 over random bytes, all of that, and the plaintext: a cloned machine that
repeats its random numbers still never seals two plaintexts under one key and nonce; equal ones give equal
bytes.

Source: storage.md 4.1 "Box", 4.5 "Nonce".
"""

import struct
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.errors import Malformed, NotAuthentic
from storage.format.frame import Buffer
from storage.format.header import FRESH_BYTES, OpenHeader
from storage.format.keys import BoxKind, EpochKeys
from storage.format.limits import BOX_OVERHEAD_BYTES

NONCE_BYTES: Final = 12
_PLACE: Final = struct.Struct("<BI")


def seal(
    keys: EpochKeys,
    header: OpenHeader,
    kind: BoxKind,
    index: int,
    frame: Buffer,
    *,
    fresh: bytes,
    length_bytes: bytes = b"",
) -> bytes:
    """Return the sealed box of `frame` at its place. `fresh` is 32 random bytes, used once."""
    box = bytearray(len(frame) + BOX_OVERHEAD_BYTES)
    seal_into(keys, header, kind, index, frame, memoryview(box), fresh=fresh, length_bytes=length_bytes)
    return bytes(box)


def seal_into(
    keys: EpochKeys,
    header: OpenHeader,
    kind: BoxKind,
    index: int,
    frame: Buffer,
    room: memoryview,
    *,
    fresh: bytes,
    length_bytes: bytes = b"",
) -> None:
    """Write the sealed box of `frame` at its place into `room`, which has exactly its length.

    Args:
        fresh: 32 random bytes, used once.
        length_bytes: of head boxes only.
    """
    if len(fresh) != FRESH_BYTES:
        raise Malformed(rule="fresh bytes of a box")
    place = header.raw + length_bytes + _PLACE.pack(kind, index)
    nonce = keys.hedged(fresh, place, blake3(frame).digest(), length=NONCE_BYTES)
    room[:NONCE_BYTES] = nonce
    AESGCM(header.keys.for_box(kind)).encrypt_into(nonce, frame, place, room[NONCE_BYTES:])


def unseal(
    header: OpenHeader,
    kind: BoxKind,
    index: int,
    box: Buffer,
    *,
    length_bytes: bytes = b"",
    room: memoryview | None = None,
) -> Buffer:
    """Return the frame in a box; in `room`, if there is one, until that is used again.

    Args:
        room: at least as long as the box. Bytes of its own are cleared for every box before they are filled.

    Raises:
        NotAuthentic: changed, or sealed for another place or with another key.
        Malformed: too short to be a box.
    """
    if len(box) < BOX_OVERHEAD_BYTES:
        raise Malformed(rule="box length")
    place = header.raw + length_bytes + _PLACE.pack(kind, index)
    view = memoryview(box)
    cipher = AESGCM(header.keys.for_box(kind))
    try:
        if room is None:
            return cipher.decrypt(view[:NONCE_BYTES], view[NONCE_BYTES:], place)
        frame = room[: len(box) - BOX_OVERHEAD_BYTES]
        cipher.decrypt_into(view[:NONCE_BYTES], view[NONCE_BYTES:], place, frame)
        return frame
    except InvalidTag as exc:
        raise NotAuthentic(box_kind=int(kind), index=index) from exc

"""The first part of an entry or a side checkpoint: its head, without the segments behind it."""

from typing import Final

from storage.format.envelope import HEAD_START, head_end
from storage.format.limits import KIB
from storage.repository.prefixed import Prefixed

HEAD_READ_BYTES: Final = 64 * KIB
"""First read of an entry; longer heads cost one more."""


async def find_head(place: Prefixed, name: str) -> bytes | None:
    """Return an object from its beginning to the end of its head, or further; None on a clean "no such
    object".
    """
    raw = await place.find(name, length=HEAD_READ_BYTES)
    if raw is not None and len(raw) >= HEAD_START and head_end(raw, name) > len(raw):
        raw = await place.get(name, length=head_end(raw, name))
    return raw

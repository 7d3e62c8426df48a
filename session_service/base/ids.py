"""Identifiers: text ULIDs, made from a time and random bytes that are given, so that a test can repeat them.

Not a source of randomness or time: callers pass both. An id is never used again; authority is keyed by
ids, never by
names (lifecycle.md section 1). The storage layer takes the same 128 bits as hex.
"""

from functools import lru_cache
from typing import Final, NewType

SessionId = NewType("SessionId", str)
WorkspaceId = NewType("WorkspaceId", str)
UserId = NewType("UserId", str)
TenantId = NewType("TenantId", str)
NodeId = NewType("NodeId", str)
LinkId = NewType("LinkId", str)
DeviceId = NewType("DeviceId", str)
EffectId = NewType("EffectId", str)
PolicyId = NewType("PolicyId", str)

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ULID_LENGTH: Final = 26
RANDOM_BYTES: Final = 10
_VALUES: Final = {letter: value for value, letter in enumerate(ALPHABET)}
_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)
"""Two letters at a time: an id is made for each link, and a storm makes thousands."""


def new_ulid(now_ms: int, fresh: bytes) -> str:
    """Return the ULID of a wall time in milliseconds (48 bit) and 10 random bytes."""
    assert 0 <= now_ms < 1 << 48, now_ms
    assert len(fresh) == RANDOM_BYTES, len(fresh)
    n, two = int.from_bytes(fresh, "big"), _PAIRS
    return (
        f"{_stamp(now_ms)}{two[n >> 70]}{two[n >> 60 & 1023]}{two[n >> 50 & 1023]}{two[n >> 40 & 1023]}"
        f"{two[n >> 30 & 1023]}{two[n >> 20 & 1023]}{two[n >> 10 & 1023]}{two[n & 1023]}"
    )


@lru_cache(maxsize=4)
def _stamp(now_ms: int) -> str:
    """Return the ten letters of a time; many ids are made in one millisecond."""
    return _spelled(now_ms << 80)[:10]


def is_ulid(text: str) -> bool:
    """Say whether a text from outside has the exact form of an id; anything else is not found, never
    parsed.
    """
    return len(text) == ULID_LENGTH and text[0] <= "7" and all(letter in _VALUES for letter in text)


def ulid_to_hex(text: str) -> str:
    """Return the 32 lower-case hex digits of an id, the form used in names of the object store."""
    assert is_ulid(text), text
    number = 0
    for letter in text:
        number = number << 5 | _VALUES[letter]
    return f"{number:032x}"


def hex_to_ulid(text: str) -> str:
    """Return the id whose 128 bits are these 32 hex digits; the inverse of `ulid_to_hex`."""
    number = int(text, 16)
    assert len(text) == 32, text
    assert number < 1 << 128, text
    return _spelled(number)


def _spelled(number: int) -> str:
    """Return the 26 letters of 128 bits, the highest first."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])

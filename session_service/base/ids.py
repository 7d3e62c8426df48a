"""Identifiers: text ULIDs, made from a time and random bytes that are given, so that a test can repeat them.

Not a source of randomness or time: callers pass both. An id is never used again; authority is keyed by
ids, never by
names (lifecycle.md section 1). The storage layer takes the same 128 bits as hex.
"""

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


def new_ulid(now_ms: int, fresh: bytes) -> str:
    """Return the ULID of a wall time in milliseconds (48 bit) and 10 random bytes."""
    assert 0 <= now_ms < 1 << 48, now_ms
    assert len(fresh) == RANDOM_BYTES, len(fresh)
    number = now_ms << 80 | int.from_bytes(fresh, "big")
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


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
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))

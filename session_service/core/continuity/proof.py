"""The one proof of a resume: who holds the key of a grant signs this socket's challenge and where it stands.

Not encryption, and nothing durable: a recorded attempt is worthless on any other socket, because the
challenge is another one. Keys are derived, never stored; older ones answer ("taken") and never attach.

Source: docs/protocol.md, "The proof"; vectors in tests/vectors/wire-v1-vectors.json.
"""

import binascii
import hashlib
from hmac import compare_digest
from typing import Final

SECRET_BYTES: Final = 32
CHALLENGE_BYTES: Final = 16
LEG_BYTES: Final = 8
MAC_BYTES: Final = 32
NO_LEG: Final = "AAAAAAAAAAA"
"""Names no stream: a client that has none, or that gave one up, resumes with it and gets a resync."""
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(value ^ 0x36 for value in range(256))
_OUTER: Final = bytes(value ^ 0x5C for value in range(256))


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of base64url without padding. Raises ValueError for any other spelling of them."""
    # The reader skips what it does not know; the comparison finds that, as it does every other spelling.
    data = binascii.a2b_base64((text.encode("ascii") + b"===").translate(_FROM_URL))
    if encode(data) != text:
        raise ValueError("another spelling of base64url")
    return data


def session_secret(service_secret: bytes, session_id: str) -> bytes:
    """Return the 32 secret bytes of a session, derived from those of the service (design note 0007)."""
    assert len(service_secret) == SECRET_BYTES, len(service_secret)
    return _hmac(service_secret, f"session-service\nresume secret\n{session_id}")


def grant_key(secret: bytes, session_id: str, grant: int) -> bytes:
    """Return the key of one grant of a session: what `opened` carries, once."""
    return _hmac(secret, f"continuity.v1\nkey\n{session_id}\n{grant}")


def attempt_text(
    *,
    aud: str,
    session_id: str,
    grant: int,
    leg: str,
    number: int,
    received: int,
    have: int,
    end: int,
    challenge: str,
) -> str:
    """Return what is signed; no field can hold a newline, so that every text has one reading."""
    return (
        f"continuity.v1\nresume\n{aud}\n{session_id}\n{grant}\n{leg}\n{number}\n{received}\n{have}\n{end}\n"
        f"{challenge}"
    )


def sign(key: bytes, text: str) -> bytes:
    """Return the MAC of an attempt."""
    return _hmac(key, text)


def is_signed(key: bytes, text: str, mac: bytes) -> bool:
    """Say whether the MAC is right, in a time that tells nothing about it."""
    return compare_digest(_hmac(key, text), mac)


def _hmac(key: bytes, text: str) -> bytes:
    """Return HMAC-SHA256 as RFC 2104 defines it: three of them are most of what a proof costs, and the
    library's object for each is twice the work of the two hashes.
    """
    assert len(key) <= _BLOCK_BYTES, len(key)
    block = key.ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(block.translate(_INNER) + text.encode()).digest()
    return hashlib.sha256(block.translate(_OUTER) + inner).digest()

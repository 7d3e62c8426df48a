"""The one proof of a resume: who holds the key of a grant signs this socket's challenge and where it stands.

Not encryption, and nothing durable: a recorded attempt is worthless on any other socket, because the
challenge is another one. Keys are derived, never stored; older ones answer ("taken") and never attach.

Source: docs/protocol.md, "The proof"; vectors in tests/vectors/wire-v1-vectors.json.
"""

import base64
import hashlib
import hmac
from typing import Final

SECRET_BYTES: Final = 32
CHALLENGE_BYTES: Final = 16
LEG_BYTES: Final = 8
MAC_BYTES: Final = 32
NO_LEG: Final = "AAAAAAAAAAA"
"""Names no stream: a client that has none, or that gave one up, resumes with it and gets a resync."""


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of base64url without padding. Raises ValueError for any other spelling of them."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
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
    fields = (aud, session_id, grant, leg, number, received, have, end, challenge)
    return "continuity.v1\nresume\n" + "\n".join(map(str, fields))


def sign(key: bytes, text: str) -> bytes:
    """Return the MAC of an attempt."""
    return _hmac(key, text)


def is_signed(key: bytes, text: str, mac: bytes) -> bool:
    """Say whether the MAC is right, in a time that tells nothing about it."""
    return hmac.compare_digest(_hmac(key, text), mac)


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

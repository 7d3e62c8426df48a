"""The secrets that browsers and programs carry, how they look, and the hashes that are kept of them.

Not passwords (`passwords.py`): these are 256 random bits, so that one plain hash is enough and a look-up
is by hash. Each kind is hashed under its own name, so that one can never be used as another.
"""

import base64
import hashlib
import hmac
from typing import Final

from session_service.http import limits

TOKEN_PREFIX: Final = "sst_"
"""Starts each API token, so that scanners of published code find it."""
_CODE_LETTERS: Final = "ABCDEFGHJKMNPQRTUVWXYZ2346789"
"""No letter or figure that is taken for another: 0 O, 1 I L, 5 S."""


def text_of(secret: bytes) -> str:
    """Return 32 random bytes as base64url without padding."""
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def hash_of(kind: str, text: str) -> bytes:
    """Return what is kept of a secret of this kind."""
    return hashlib.sha256(f"session-service\n{kind}\n{text}".encode("utf-8", "surrogateescape")).digest()


def setup_code(secret: bytes) -> str:
    """Return a setup code, such as K7QRT-MW4XH, from 32 random bytes; every letter is equally likely."""
    letters: list[str] = []
    block = secret
    while len(letters) < limits.SETUP_CODE_LENGTH:
        for byte in block:
            if byte < 256 - 256 % len(_CODE_LETTERS) and len(letters) < limits.SETUP_CODE_LENGTH:
                letters.append(_CODE_LETTERS[byte % len(_CODE_LETTERS)])
        block = hashlib.sha256(block).digest()
    half = limits.SETUP_CODE_LENGTH // 2
    return "".join(letters[:half]) + "-" + "".join(letters[half:])


def plain_code(typed: str) -> str:
    """Return a typed setup code without what people add: spaces, dashes, small letters."""
    return "".join(letter for letter in typed.upper() if letter.isalnum())


def same(left: bytes, right: bytes) -> bool:
    """Compare two hashes in a time that tells nothing."""
    return hmac.compare_digest(left, right)

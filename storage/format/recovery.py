"""The recovery code: the private half of an X25519 key as a text for paper, and the keys that it opens.

The service keeps the public half only: it can wrap secrets for the code and never open them. A slot of method
r is wrapped by K = derive("recovery", X25519 secret, ephemeral public key, recipient's public key). Nothing
here draws random numbers. It is no password: the code has 256 bits, so there is nothing to stretch or guess.

Source: storage.md 4.5.
"""

from typing import Final

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage.errors import Malformed
from storage.format.keys import derive

KEY_BYTES: Final = 32
CHECK_BYTES: Final = 3
"""24 bits: of 16 million typing mistakes one is taken for a code, and that one opens nothing."""
GROUP_LETTERS: Final = 4
LETTERS: Final = (KEY_BYTES + CHECK_BYTES) * 8 // 5
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's: no letter looks like a digit; I and L are read as 1, O as 0."""
_READ_AS: Final = str.maketrans({"I": "1", "L": "1", "O": "0"})


def public_half(private: bytes) -> bytes:
    """Return the public half (32 bytes) of a recovery key; `private` is any 32 random bytes."""
    return _private(private).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def code_of(private: bytes) -> str:
    """Return the code to print: 14 groups of 4 letters and digits, the last ones a checksum."""
    if len(private) != KEY_BYTES:
        raise Malformed(rule="a recovery key has 32 bytes")
    number = int.from_bytes(private + derive("recovery code", private, CHECK_BYTES), "big")
    letters = "".join(_ALPHABET[number >> 5 * at & 31] for at in reversed(range(LETTERS)))
    groups = [letters[at : at + GROUP_LETTERS] for at in range(0, LETTERS, GROUP_LETTERS)]
    return "-".join(groups)


def private_of(code: str) -> bytes:
    """Return the private half of a typed code; case, spaces and dashes do not matter.

    Raises:
        Malformed: letters are missing, too many, or wrong: the checksum does not fit.
    """
    letters = "".join(code.upper().replace("-", " ").split()).translate(_READ_AS)
    if len(letters) != LETTERS:
        raise Malformed(rule="letters in a recovery code", found=len(letters), wanted=LETTERS)
    number = 0
    for letter in letters:
        value = _ALPHABET.find(letter)
        if value < 0:
            raise Malformed(rule="letters of a recovery code")
        number = number << 5 | value
    raw = number.to_bytes(KEY_BYTES + CHECK_BYTES, "big")
    private, check = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if derive("recovery code", private, CHECK_BYTES) != check:
        raise Malformed(rule="checksum of a recovery code")
    return private


def recovery_id(public: bytes) -> str:
    """Return the public name of a recovery code, as the names of its slots have it."""
    return wrapper_id(public).hex()


def wrapper_id(public: bytes) -> bytes:
    """Return the 8 bytes by which slots of method r name the public half."""
    return blake3(public).digest(length=8)


def sealing_key(public: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    """Return K of a new slot, and the 32 bytes that lie behind its head.

    Args:
        ephemeral: 32 random bytes, used once.
    """
    return _agreed(ephemeral, public, public_half(ephemeral), public), public_half(ephemeral)


def opening_key(private: bytes, blob: bytes) -> bytes:
    """Return K of a slot from what lies behind its head."""
    return _agreed(private, blob, blob, public_half(private))


def _agreed(private: bytes, peer: bytes, ephemeral_public: bytes, recipient: bytes) -> bytes:
    if len(peer) != KEY_BYTES:
        raise Malformed(rule="public key of a recovery slot")
    try:
        secret = _private(private).exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as exc:  # a point of low order: everybody knows the secret
        raise Malformed(rule="public key of a recovery slot") from exc
    return derive("recovery", secret + ephemeral_public + recipient)


def _private(private: bytes) -> X25519PrivateKey:
    if len(private) != KEY_BYTES:
        raise Malformed(rule="a recovery key has 32 bytes")
    return X25519PrivateKey.from_private_bytes(private)

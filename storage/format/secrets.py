"""Sealed bodies that are no log entries: key slots and receipts.

A key slot is an envelope whose K is the wrapping key. The slot of a key epoch holds
`[repository id, tenant, workspace, key epoch, K, id secret]`, the slot of a tenant key `[tenant, tenant
key, number]`. The ids in a slot must be the ones asked for, else a whole repository copied to
another prefix would open there. A receipt is `[body, signer key id, Ed25519 signature over
"session-service receipt v1" + body]`.

Source: storage.md 4.5 table of keys, 4.1 "Receipt".
"""

from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from storage.errors import Malformed, NotAuthentic
from storage.format.encoding import Body, decode, encode
from storage.format.keys import KEY_ID_BYTES, derive

RECEIPT_CONTEXT: Final = b"session-service receipt v1"
SECRET_BYTES: Final = 32


class EpochSecrets(Body, frozen=True):
    """What a slot of a key epoch wraps."""

    repository_id: bytes
    tenant: str
    workspace: str
    key_epoch: int
    epoch_key: bytes
    id_secret: bytes

    def __repr__(self) -> str:
        return f"EpochSecrets(workspace={self.workspace!r}, key_epoch={self.key_epoch})"


class TenantSecret(Body, frozen=True):
    """What a slot of a tenant key wraps."""

    tenant: str
    tenant_key: bytes
    number: int = 0
    """Of several keys of a tenant the one with the highest is for new slots; a rotation's is one higher."""

    def __repr__(self) -> str:
        return f"TenantSecret(tenant={self.tenant!r})"


class SignedReceipt(Body, frozen=True):
    """The body of a receipt object."""

    body: bytes
    signer: bytes
    signature: bytes


_epoch_decoder: Final = msgspec.msgpack.Decoder(EpochSecrets)
_tenant_decoder: Final = msgspec.msgpack.Decoder(TenantSecret)
_receipt_decoder: Final = msgspec.msgpack.Decoder(SignedReceipt)


def decode_epoch_secrets(
    raw: bytes, *, repository_id: bytes, tenant: str, workspace: str, key_epoch: int
) -> EpochSecrets:
    """Return the secrets of a slot, if they are of the repository that was asked for."""
    secrets = decode(_epoch_decoder, raw, what="epoch slot")
    asked = (repository_id, tenant, workspace, key_epoch)
    if (secrets.repository_id, secrets.tenant, secrets.workspace, secrets.key_epoch) != asked:
        raise Malformed(rule="key slot of another repository")
    if len(secrets.epoch_key) != SECRET_BYTES or len(secrets.id_secret) != SECRET_BYTES:
        raise Malformed(rule="secrets in a key slot")
    return secrets


def decode_tenant_secret(raw: bytes, *, tenant: str) -> TenantSecret:
    """Return what a slot wraps, if it is of the tenant that was asked for."""
    secret = decode(_tenant_decoder, raw, what="tenant slot")
    if secret.tenant != tenant or len(secret.tenant_key) != SECRET_BYTES:
        raise Malformed(rule="key slot of another tenant")
    return secret


class ReceiptSigner:
    """Signs receipts; the same body always gives the same bytes.

    The key is derived, so nothing has to be kept.
    """

    __slots__ = ("_key", "key_id", "public_key")

    def __init__(self, master_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(derive("receipt signer", master_key))
        self.public_key: bytes = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id: bytes = derive("receipt signer id", self.public_key, KEY_ID_BYTES)

    def sign(self, body: bytes) -> bytes:
        """Return the body of a receipt object."""
        return encode(SignedReceipt(body, self.key_id, self._key.sign(RECEIPT_CONTEXT + body)))


def read_receipt(raw: bytes, signers: dict[bytes, bytes]) -> bytes:
    """Return the signed body in `raw`; `signers` are public keys by key id.

    Raises:
        NotAuthentic: unknown signer, or the signature does not hold.
    """
    signed = decode(_receipt_decoder, raw, what="receipt")
    public = signers.get(signed.signer)
    if public is None:
        raise NotAuthentic(what="receipt", signer=signed.signer.hex())
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, RECEIPT_CONTEXT + signed.body)
    except InvalidSignature as exc:
        raise NotAuthentic(what="receipt", signature="does not hold") from exc
    return signed.body

"""Receipts of closed sessions: signed, sealed, created once, read back.

A repeat has other sealed bytes (fresh salt and nonce), so on "exists" the object is opened and the body
compared.

Source: lifecycle.md 6.5, storage.md 4.1 "Receipt".
"""

from collections.abc import Mapping

from blake3 import blake3

from storage.errors import ObjectDamaged
from storage.format import names
from storage.format.envelope import make_object, open_head
from storage.format.header import ObjectType, make_header
from storage.format.limits import KIB
from storage.format.secrets import ReceiptSigner, read_receipt
from storage.repository.packer import Fresh
from storage.repository.prefixed import Prefixed
from storage.repository.settle import settle_create
from storage.repository.slots import RepositoryKeys

PAD_TO_BYTES = 4 * KIB


class Receipts:
    """Receipts of one repository."""

    def __init__(
        self,
        place: Prefixed,
        keys: RepositoryKeys,
        signer: ReceiptSigner,
        fresh: Fresh,
        signers: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Take the parts; `signers` are the public halves that may have signed, by their ids."""
        self._place = place
        self._keys = keys
        self._signer = signer
        self._fresh = fresh
        self._signers = dict(signers or {}) | {signer.key_id: signer.public_key}

    async def put(self, session: str, body: bytes) -> bytes:
        """Store a receipt and read it back; return BLAKE3-256 of the body. The same body may be put again.

        Raises:
            ObjectDamaged: there is a receipt of this session with another body.
        """
        name = names.receipt(session)
        keys = self._keys.newest
        header = make_header(keys, ObjectType.RECEIPT, name, self._fresh(32))
        raw = make_object(
            keys,
            header,
            kind=0,
            body=self._signer.sign(body),
            boxes=(),
            fresh=self._fresh(32),
            pad_to=PAD_TO_BYTES,
        )
        await settle_create(self._place, name, raw)
        if await self.get(session) != body:
            raise ObjectDamaged(object=name, what="the receipt of this session has another body")
        return blake3(body).digest()

    async def get(self, session: str) -> bytes | None:
        """Return the signed body of a receipt, or None if there is none."""
        name = names.receipt(session)
        raw = await self._place.find(name)
        if raw is None:
            return None
        head = open_head(self._keys.of_header(raw, name), ObjectType.RECEIPT, name, raw)
        if head.area_start != len(raw):
            raise ObjectDamaged(object=name, what="bytes after the receipt")
        return read_receipt(head.body, self._signers)

"""The seal on a proof that a desktop's files are saved: made by the storage worker, checked by the host.

Not cryptography against the worker or the host (both hold the key) but against everybody else, and against
mistakes: the one module that ends desktops accepts nothing that the service could have made up. Pure: key,
time and fields are arguments. Source: lifecycle.md 6.1, design.md 3 ("One place destroys").
"""

import hmac
from typing import Final, Protocol

import blake3
import msgspec

SEAL_KEY_BYTES: Final = 32
PROOF_AGE_MS_MAX: Final = 600_000
"""Ten minutes by the boot-time clock.

Long enough for a slow end, short enough that a proof is about the home as it lies.
"""


class Proof(Protocol):
    """What is sealed: the fields of `ports.desktops.EndProof` (the core knows no port)."""

    @property
    def kind(self) -> str: ...
    @property
    def workspace_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def fence(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def home(self) -> str: ...
    @property
    def made_at_boot_ms(self) -> int: ...
    @property
    def seal(self) -> bytes: ...


def seal_of(proof: Proof, key: bytes) -> bytes:
    """Return the seal of a proof.

    BLAKE3 keyed with the 32 bytes of this start, over every other field in order.
    """
    assert len(key) == SEAL_KEY_BYTES, len(key)
    fields = (
        "session-service end proof 1",
        proof.kind,
        proof.workspace_id,
        proof.session_id,
        proof.fence,
        proof.seq,
        proof.hash,
        proof.home,
        proof.made_at_boot_ms,
    )
    return blake3.blake3(msgspec.msgpack.encode(fields), key=key).digest()


def flaw(
    proof: Proof,
    key: bytes,
    *,
    kind: str,
    workspace_id: str,
    session_id: str,
    fence: int,
    home: str,
    now_boot_ms: int,
) -> str | None:
    """Return why this proof allows nothing, or None when it stands; the caller refuses with ProofRequired.

    Args:
        now_boot_ms: CLOCK_BOOTTIME in milliseconds, the clock of `made_at_boot_ms`.
    """
    if not hmac.compare_digest(seal_of(proof, key), proof.seal):
        return "the seal is not right"
    if proof.kind != kind:
        return f"a proof of kind {kind} is needed"
    if (proof.workspace_id, proof.session_id, proof.fence) != (workspace_id, session_id, fence):
        return "the proof is about another session"
    if proof.home != home:
        return "the proof is about another home"
    if proof.seq < 1:
        return "the proof names no checkpoint"
    if not now_boot_ms - PROOF_AGE_MS_MAX <= proof.made_at_boot_ms <= now_boot_ms:
        return "the proof is too old, or from another start of the machine"
    return None

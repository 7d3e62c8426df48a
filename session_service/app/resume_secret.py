"""The one secret that the keys of resumable streams are derived from: made at the first start, kept beside
the registry.

Not in the registry: who reads that, or a backup of it, can resume nothing (docs/design/0007). Without the
file a new one is made, and every page asks for a new link once.
"""

import os
from pathlib import Path

from session_service.base.errors import SessionError
from session_service.core.continuity.proof import SECRET_BYTES

NAME = "resume.key"


class ResumeSecretDamaged(SessionError):
    """The file is there and is not a secret of ours."""

    code, status, action = (
        "resume_secret_damaged",
        500,
        "Remove the file: a new one is made, and every page asks for a new link once.",
    )


def resume_secret(folder: Path) -> bytes:
    """Return the secret, readable by the service alone. Raises ResumeSecretDamaged."""
    path = folder / NAME
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise ResumeSecretDamaged(f"{path} has {len(secret)} bytes.", path=str(path))
    return secret


def _make(path: Path) -> None:
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, os.urandom(SECRET_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)

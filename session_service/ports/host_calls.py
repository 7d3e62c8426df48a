"""The parameters of the calls between the local provider and the host, one struct each.

Answers are structs of `desktops.py`. Not a public interface: host and provider are of one version, started by
one program.
"""

import msgspec

from session_service.ports.desktops import DesktopSpec, EndProof, Handle


class OwnerCall(msgspec.Struct, frozen=True, kw_only=True):
    """Which uid has or will have the desktop of (workspace, fence)?"""

    workspace_id: str
    fence: int


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to OwnerCall."""

    ids: tuple[int, int] | None
    """(uid, gid); None = the host's own user."""


class LaunchCall(msgspec.Struct, frozen=True, kw_only=True):
    """Start a desktop, or find it."""

    spec: DesktopSpec


class HandleCall(msgspec.Struct, frozen=True, kw_only=True):
    """observe, thaw, discard, last_words: one desktop."""

    handle: Handle


class FreezeCall(msgspec.Struct, frozen=True, kw_only=True):
    """Freeze everything, or only the applications."""

    handle: Handle
    applications_only: bool


class AskCall(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the applications to close."""

    handle: Handle
    hook: bool


class ProofCall(msgspec.Struct, frozen=True, kw_only=True):
    """End or wipe, with proof."""

    handle: Handle
    proof: EndProof


class MarkCall(msgspec.Struct, frozen=True, kw_only=True):
    """Write or clear what was promised while the registry was away."""

    handle: Handle
    provisional_loss_epoch: int | None
    revoked_grant: int | None = None


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """An event of `exits`: a desktop's processes have ended, whoever ended them. May be told twice."""

    handle: Handle
    last_words: str

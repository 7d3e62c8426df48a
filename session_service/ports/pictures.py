"""The contract of whoever can take a picture of a desktop: small, once, and without touching it.

Not a link and not a stream: nothing is attached by it (docs/design/0024-picture-of-a-desktop.md). Who may
ask, and when, is decided by control.
"""

from typing import Protocol

import msgspec


class TakenPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A screen, made small. Screen content: never logged, never stored."""

    width: int
    height: int
    jpeg: bytes

    def __repr__(self) -> str:
        return f"TakenPicture({self.width} x {self.height})"


class Pictures(Protocol):
    """Takes pictures of desktops."""

    async def take(self, *, socket: str, uid: int | None) -> TakenPicture:
        """Look once at the desktop behind `socket`, which `uid` must own; None = we ourselves.

        Raises:
            PartUnavailable: it is not there, does not answer, or is no desktop.
        """
        ...

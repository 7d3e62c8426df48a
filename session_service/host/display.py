"""The X server of a desktop: its flags, its cookie, and what "ready" means.

Not how it is put into its sandbox. Each flag is there because its absence broke something in a trial
(desktops.md 1): without `-rfbport -1` a TCP port opens on all addresses, with GLX it takes four times the
memory, and so on.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.host.x11 import Display, open_socket

COOKIE_BYTES: Final = 16
LOOK_AGAIN_S: Final = 0.004
SANDBOX_DISPLAY: Final = 1
"""A sandbox has its own mount namespace, so that the number cannot clash: no race at all."""


def flags(
    *, run_folder: str, cookie_file: str, geometry: tuple[int, int], title: str, shared: bool
) -> list[str]:
    """Return the arguments of Xvnc, without display number. `shared`: the socket is for the group, too."""
    return [
        *("-auth", cookie_file),
        *("-rfbunixpath", f"{run_folder}/rfb.sock"),
        *("-rfbunixmode", "0660" if shared else "0600"),
        *("-rfbport", "-1"),
        *("-SecurityTypes", "None"),
        "-AlwaysShared=1",
        "-DisconnectClients=0",
        *("-MaxIdleTime", "0"),
        *("-MaxDisconnectionTime", "0"),
        *("-MaxConnectionTime", "0"),
        *("-IdleTimeout", "0"),
        *("-geometry", f"{geometry[0]}x{geometry[1]}"),
        *("-depth", "24"),
        *("-dpi", "96"),
        *("-nolisten", "tcp"),
        "-noreset",
        *("-extension", "GLX"),
        *("-desktop", title),
        *("-s", "0"),
        *("-Log", "*:stderr:0"),
    ]


def cookie_entry(cookie: bytes) -> bytes:
    """Return the content of an X authority file: one cookie, for every address and display number."""
    assert len(cookie) == COOKIE_BYTES
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", cookie)
    return b"\xff\xff" + b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def cookie_of(content: bytes) -> bytes:
    """Return the cookie in an authority file that we wrote."""
    return content[-COOKIE_BYTES:]


async def window_manager(socket_path: Path, *, cookie: bytes, uid: int) -> None:
    """Return when the window manager of this display is there; the caller sets the limit of time."""
    while True:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            display = await Display.connect(socket_path, cookie=cookie, uid=uid)
            try:
                return await display.window_manager()
            finally:
                await display.close()
        await asyncio.sleep(LOOK_AGAIN_S)


async def banner(socket_path: Path, *, uid: int) -> None:
    """Return when the RFB server says who it is.

    A bound socket alone proves nothing (it has a backlog before it answers).
    """
    while True:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_unix_connection(sock=open_socket(socket_path, uid=uid))
            try:
                if (greeting := await reader.readexactly(12)).startswith(b"RFB 003."):
                    return
                raise errors.DesktopStartFailed(f"the display greets with {greeting!r}")
            finally:
                writer.close()
        await asyncio.sleep(LOOK_AGAIN_S)

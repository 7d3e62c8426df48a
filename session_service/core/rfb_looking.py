"""What a program says to a desktop in order to see it, and the words of the handshake.

Pure: values and bytes. Not what is made of the answers: the client keeps a screen, the service takes one
small picture strip by strip. Only what every server must offer (RFB 3.8, RFC 6143), at 32 bits a pixel.
"""

import struct
from collections.abc import Sequence
from typing import Final

from session_service.core.rfb import SET_ENCODINGS, SET_PIXEL_FORMAT, UPDATE_REQUEST

GREETING: Final = b"RFB 003.008\n"
SECURITY_NONE: Final = 1
SHARED: Final = b"\x01"
"""Nobody is sent away."""
RAW: Final = 0
COPIED: Final = 1
RESIZED: Final = -223
PIXEL_BYTES: Final = 4
"""Blue, green, red, and an unused one."""
TEXT_BYTES_MAX: Final = 1 << 20
"""A name or a clipboard; a longer one is no desktop's."""
_PIXEL_FORMAT: Final = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def first_messages(encodings: Sequence[int] = (COPIED, RAW, RESIZED)) -> bytes:
    """Return what follows the handshake: our pixel format and the encodings that we read."""
    head = struct.pack(">BxH", SET_ENCODINGS, len(encodings))
    return (
        bytes((SET_PIXEL_FORMAT, 0, 0, 0))
        + _PIXEL_FORMAT
        + head
        + struct.pack(f">{len(encodings)}i", *encodings)
    )


def update_request(width: int, height: int, *, incremental: bool, top: int = 0) -> bytes:
    """Return a request for what changed, or for everything, in rows from `top` on."""
    return struct.pack(">BBHHHH", UPDATE_REQUEST, incremental, 0, top, width, height)

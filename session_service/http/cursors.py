"""Cursors of lists: opaque texts that say where the next page begins.

Not a secret and not signed: what they hold is checked like any input, and shows nothing that the list does
not.
"""

import base64
import binascii

from session_service.base import errors
from session_service.http import limits

_MARK = "c1:"
_NAME = "name:"


def write(place: str | int) -> str:
    """Return the cursor for the place after which the next page begins."""
    return base64.urlsafe_b64encode(f"{_MARK}{place}".encode()).rstrip(b"=").decode()


def read(cursor: str) -> str | None:
    """Return the place of a cursor, None for the beginning. Raises BadInput for anything we never wrote."""
    if not cursor:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except (binascii.Error, UnicodeError, ValueError) as exc:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor") from exc
    if not text.startswith(_MARK) or write(text[len(_MARK) :]) != cursor:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor")
    return text[len(_MARK) :]


def write_name(name: bytes) -> str:
    """Return the cursor for the name in a folder after which the next page begins."""
    return write(_NAME + name.hex())


def read_name(cursor: str) -> bytes:
    """Return the name of a cursor, empty for the beginning. Raises BadInput."""
    text = read(cursor)
    if text is None:
        return b""
    try:
        name = bytes.fromhex(text.removeprefix(_NAME)) if text.startswith(_NAME) else b""
    except ValueError:
        name = b""
    if not 0 < len(name) <= limits.NAME_BYTES_MAX or write_name(name) != cursor:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor")
    return name


def read_number(cursor: str) -> int | None:
    """Return the number of a cursor, None for the beginning. Raises BadInput."""
    text = read(cursor)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor")
    return int(text)

"""Cursors of lists: opaque texts that say where the next page begins.

Not a secret and not signed: what they hold is checked like any input, and shows nothing that the list does
not.
"""

import base64
import binascii

from session_service.base import errors

_MARK = "c1:"


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


def read_number(cursor: str) -> int | None:
    """Return the number of a cursor, None for the beginning. Raises BadInput."""
    text = read(cursor)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise errors.BadInput("This cursor is not one of ours.", field="cursor")
    return int(text)

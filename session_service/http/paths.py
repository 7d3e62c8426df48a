"""Paths inside a home as the API writes them: any bytes as text, and back, without loss.

Not a file system path of ours: it is looked up in a checkpoint's tree only. Bytes that are not UTF-8, and
the backslash itself, are written as \\xNN, so that every name has exactly one text.
"""

import re
import unicodedata
from urllib.parse import quote

from session_service.base import errors
from session_service.http import limits

_ESCAPED = re.compile(rb"\\x([0-9a-fA-F]{2})")


def shown(raw: bytes) -> str:
    """Return the text of a name or path."""
    text = raw.decode("utf-8", "surrogateescape")
    return "".join(
        f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else _letter(letter)
        for letter in text
    )


def _letter(letter: str) -> str:
    return "\\x5c" if letter == "\\" else letter


def raw(text: str) -> bytes:
    """Return the bytes of a path that was sent, without slashes at its ends.

    Raises:
        BadInput: longer than Linux allows, with a zero byte, or not from the top down.
    """
    data = _bytes_of(text, "The path is not text.", field="path")
    parts = [part for part in data.split(b"/") if part]
    if b"\0" in data or any(part in {b".", b".."} for part in parts):
        raise errors.BadInput("The path has a part that no name can be.", field="path")
    joined = b"/".join(parts)
    if len(joined) > limits.PATH_BYTES_MAX:
        raise errors.BadInput("The path is too long.", field="path", bytes_max=limits.PATH_BYTES_MAX)
    return joined


def raw_prefix(text: str) -> bytes:
    """Return the bytes that names in one folder are to begin with. Raises BadInput for what none can."""
    data = _bytes_of(text, "The beginning of a name is not text.", field="prefix")
    if b"\0" in data or b"/" in data or len(data) > limits.NAME_BYTES_MAX:
        raise errors.BadInput("No name begins like this.", field="prefix")
    return data


def _bytes_of(text: str, problem: str, *, field: str) -> bytes:
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise errors.BadInput(problem, field=field) from exc
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), encoded)


def disposition(name: str) -> str:
    """Return the Content-Disposition of a download under this name, safe for any bytes in it (RFC 6266)."""
    clean = "".join(
        "_" if unicodedata.category(letter).startswith("C") or letter in '/\\"' else letter for letter in name
    )
    plain = clean.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_") or "file"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean or 'file', safe='')}"

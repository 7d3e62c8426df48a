"""Times as the API writes them: ISO 8601, UTC, milliseconds, `Z`. Only for display; nothing decides by
them.
"""

from datetime import UTC, datetime
from typing import Final

FILE_MS_FIRST: Final = -62_135_596_800_000
FILE_MS_LAST: Final = 253_402_300_799_999
"""From the first instant of the year 1 to the last one of 9999: what ISO 8601 can say with four digits."""


def iso(ms: int) -> str:
    """Return a UTC wall time in milliseconds as text, such as 2026-11-25T14:03:12.345Z."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def iso_of_file(ms: int) -> str:
    """Return the time of a file as text. It may be any, before 1970 too; beyond four digits of a year it is
    told as their end.
    """
    told = min(max(ms, FILE_MS_FIRST), FILE_MS_LAST)
    moment = datetime.fromtimestamp(told // 1000, UTC)
    return f"{moment.replace(tzinfo=None).isoformat()}.{told % 1000:03d}Z"


def iso_or_none(ms: int | None) -> str | None:
    """Return None for an unknown time, never an invented one."""
    return None if ms is None else iso(ms)

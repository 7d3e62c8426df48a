"""Times as the API writes them: ISO 8601, UTC, milliseconds, `Z`. Only for display; nothing decides by
them.
"""

from datetime import UTC, datetime


def iso(ms: int) -> str:
    """Return a UTC wall time in milliseconds as text, such as 2026-11-25T14:03:12.345Z."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def iso_or_none(ms: int | None) -> str | None:
    """Return None for an unknown time, never an invented one."""
    return None if ms is None else iso(ms)

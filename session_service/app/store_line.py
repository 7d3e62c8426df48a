"""The limits of the line to the store in bytes, as the parts need them.

Not properties of the settings: a part gets the plain values of its parent, without pydantic and its classes.
"""

from typing import Final

MIB: Final = 1 << 20


def bytes_per_s(mib_per_s: int) -> float | None:
    """Return a limit in bytes by second; None for 0, which is no limit."""
    return float(mib_per_s * MIB) or None

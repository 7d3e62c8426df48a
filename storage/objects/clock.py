"""What the store's own clock says: the second opinion before anything is forgotten.

Not part of the contract of an object store, because a store without a clock is a good store. S3 says the time
in each answer (`Date`), a folder in the time of a file that was just made. Nothing but retention looks at it,
and only to do less.

Source: storage.md 4.4 rule 9.
"""

from email.utils import parsedate_to_datetime
from typing import Protocol, runtime_checkable


@runtime_checkable
class TellsTime(Protocol):
    """A store with a clock."""

    async def time_ms(self) -> int | None:
        """Return what the store's clock says now, in ms since 1970; None if it does not tell.

        Raises:
            StoreUnavailable: it was not reached.
        """


async def store_time_ms(store: object) -> int | None:
    """Ask a store, or the one that it wraps."""
    while not isinstance(store, TellsTime):
        store = getattr(store, "inner", None)
        if store is None:
            return None
    return await store.time_ms()


def of_date(header: str | None) -> int | None:
    """Return the time in a `Date` header (RFC 9110, 5.6.7); None if it is none."""
    if not header:
        return None
    try:
        return int(parsedate_to_datetime(header).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

"""Wait for a state, never for a time: the one polling loop that tests use where nothing tells them of a
change.
"""

import asyncio
from collections.abc import Callable

LIMIT_S = 20.0
"""Only a broken program reaches it."""


async def until(state: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return once `state()` is true. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not state():  # noqa: ASYNC110 - what is watched has no event: sockets, counters, files
            await asyncio.sleep(0.005)

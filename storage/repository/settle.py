"""Answers of PUT: create an object and find out whether the name holds our bytes.

200: ours. 412: look whose bytes are there. 409: the same bytes again. Time-out, 5xx, connection lost: the
name is used up by these bytes, so exactly the same bytes are sent until 200 or 412; a 404 on reading proves
nothing, the first copy may still land. HTTP libraries retry by themselves, so a 412 by our own bytes is the
normal case.

Source: storage.md 4.4 "Answers of PUT".
"""

import asyncio
from typing import Final

from storage.errors import (
    AmbiguousWrite,
    CommitUncertain,
    ObjectExists,
    ObjectNotFound,
    StoreError,
)
from storage.repository.prefixed import Prefixed

PAUSES_S: Final = (0.1, 1.0)
"""Between the sendings after an answer that never came. The store's own wrapper has repeated each of them for
a while already, so afterwards the caller is told that nothing is certain, and sends them again later.
"""


async def settle_create(store: Prefixed, name: str, data: bytes | bytearray) -> bool:
    """Create `name`; return True if it holds `data` now, False if it holds other bytes.

    Raises:
        CommitUncertain: no certain answer came; these bytes are sent again before any other for this name.
        StoreUnavailable, CreateConflict, StoreRefused: nothing was written.
    """
    unanswered: StoreError | None = None
    for pause_s in (*PAUSES_S, None):
        try:
            await store.create(name, data)
            return True
        except ObjectExists:
            return await _holds(store, name, data)
        except AmbiguousWrite as exc:
            unanswered = exc
        except StoreError:
            if unanswered is None:
                raise
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    raise CommitUncertain(name=name) from unanswered


async def _holds(store: Prefixed, name: str, data: bytes | bytearray) -> bool:
    try:
        return await store.get(name) == data
    except ObjectNotFound:
        # Taken a moment ago and gone now: somebody removed it, so it certainly is not ours to build on.
        return False

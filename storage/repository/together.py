"""Run a few calls at once and let the failure that counts pass, not a group of them.

Callers are told declared errors; that several calls ran side by side is nobody's business but ours.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from storage.errors import StorageError

T = TypeVar("T")


def first_failure(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that counts: a declared one before what it cancelled."""
    declared, others = failed.split(StorageError)
    found: BaseException | None = declared if declared is not None else others
    assert found is not None, "a group has members"
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def together(calls: Sequence[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """Run calls, at most `at_once` of them at a time; return their results in order."""
    gate = asyncio.Semaphore(at_once)

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await call

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(call), name="together") for call in calls]
    except BaseExceptionGroup as failed:
        raise first_failure(failed) from failed
    finally:
        for call in calls:
            call.close()
    return [task.result() for task in tasks]

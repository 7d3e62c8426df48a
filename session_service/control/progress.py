"""Waiting for a checkpoint or a restore as long as it moves, however long that takes in all.

Not a limit on the whole: a save that is cut off keeps nothing, so a home that needs longer than any such
limit could never be saved, nor its session closed. What is limited is the time without a word of progress; a
worker tells one only when something was done. Waiting for a free worker has no limit of its own: those ahead
have.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from session_service.core import limits
from session_service.ports.checkpoints import BEGUN, QUEUED, Progress

Result = TypeVar("Result")
Tell = Callable[[Progress], None]


async def while_moving(work: Callable[[Tell], Awaitable[Result]], told: Tell | None = None) -> Result:
    """Do `work`, giving it where to tell its progress, and pass that on to `told`.

    Raises:
        TimeoutError: nothing was told for `limits.PROGRESS_S_MAX`.
    """
    loop = asyncio.get_running_loop()
    inside = True
    try:
        async with asyncio.timeout(limits.PROGRESS_S_MAX) as limit:

            def seen(progress: Progress) -> None:
                if not inside or limit.expired():
                    return
                waits = progress.stage == QUEUED
                limit.reschedule(None if waits else loop.time() + limits.PROGRESS_S_MAX)
                if told is not None and progress.stage not in (QUEUED, BEGUN):
                    told(progress)

            return await work(seen)
    finally:
        inside = False

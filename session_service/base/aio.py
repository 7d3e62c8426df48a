"""The only place that starts a task outside of a TaskGroup, and the few habits around tasks that asyncio
lacks.

Not a framework: a protocol callback (which cannot await) and a server's per-connection work need a task
whose failure is
seen. `Tasks` keeps each one, names it, and hands an unexpected end to one reporter. Fire-and-forget is
not possible.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Reporter = Callable[[str, BaseException], None]


class Tasks:
    """Tasks with one owner: kept, named, reported when they fail, cancelled together."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._running: dict[asyncio.Task[Any], None] = {}  # ordered: the same seed ends in the same order

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Start `work` as a named task that this object owns until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(task.get_name(), error)

    def __len__(self) -> int:
        return len(self._running)

    async def wait(self, limit_s: float) -> bool:
        """Wait until all have ended by themselves, for `limit_s` seconds at most; say whether they have."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=limit_s)
        return not self._running

    async def close(self) -> None:
        """Cancel what runs and wait for its end; errors were reported already."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

"""Tells the caller of a worker's call how far it is. The last word is the answer, not this."""

import asyncio
import time
from typing import Final

import storage
from session_service.base import rpc
from session_service.checkpoints import translate
from session_service.ports.checkpoints import Progress

PROGRESS_EVERY_S: Final = 0.25
"""Progress is told at most so often."""


class Emitter:
    """Passes progress on from any thread: every new stage, else at most every quarter of a second."""

    def __init__(self, call: rpc.Call) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._told = 0.0
        self._stage = ""

    def __call__(self, progress: storage.Progress) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_EVERY_S and progress.stage == self._stage:
            return
        self._told, self._stage = now, progress.stage
        value = translate.progress(progress)
        self._loop.call_soon_threadsafe(self._send, value)

    def _send(self, value: Progress) -> None:
        asyncio.run_coroutine_threadsafe(self._call.event(value), self._loop)

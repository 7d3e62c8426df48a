"""Acknowledgements that are due within 50 ms: one timer for all links that owe one.

Not a timer each: a user who types would arm and cancel one per key. A link may be told a little early, never
late.
"""

import asyncio
from typing import Protocol

import structlog

from session_service.core.continuity.limits import ACK_S


class Owing(Protocol):
    """A link that owes an acknowledgement."""

    def pay(self) -> None: ...


class Soon:
    """Calls each one once, at most `ACK_S` after it was added."""

    def __init__(self) -> None:
        self._owing: dict[Owing, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, link: Owing) -> None:
        """It owes; adding it twice is harmless."""
        self._owing[link] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACK_S, self._pay)

    def stop(self) -> None:
        """Nobody is owed anything any more."""
        self._owing.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pay(self) -> None:
        self._timer = None
        owing, self._owing = self._owing, {}
        for link in owing:
            try:
                link.pay()
            except Exception as error:  # noqa: BLE001 # the edge of one link: the others are owed as well
                structlog.get_logger().error(
                    "task.failed", task="acknowledge", error=type(error).__name__, exc_info=error
                )

"""Tells people about alarms besides the page: by webhook, by a command, always in the log.

Not the alarms themselves (control). A notice that cannot be delivered is logged and tried again with the
next change; it never blocks.
"""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from session_service.base import aio, log
from session_service.core.views import Alarm
from session_service.http import webhook

if TYPE_CHECKING:
    from session_service.app.settings import Alarms

DELIVERY_S: Final = 10.0
"""How long one delivery may take."""
PENDING_MAX: Final = 100
"""Notices under way; over that a new one is only logged."""


class Notices:
    """Sends each raised and cleared alarm on."""

    def __init__(self, settings: "Alarms") -> None:
        self._settings = settings
        self._tasks = aio.Tasks(log.task_failed)

    def changed(self, alarm: Alarm, raised: bool) -> None:
        """Note that an alarm was raised or cleared. Returns at once."""
        logger = log.get_logger().bind(alarm=alarm.kind, session_id=alarm.session_id, detail=alarm.detail)
        if raised:
            logger.error("alarm.raised", action=alarm.action)
        else:
            logger.info("alarm.cleared")
        if not self._settings.webhook and not self._settings.command:
            return
        if len(self._tasks) >= PENDING_MAX:
            logger.warning("alarm.unsent", reason="too many under way")
            return
        self._tasks.spawn(self._deliver(alarm, raised), name=f"alarm-{alarm.kind}")

    async def _deliver(self, alarm: Alarm, raised: bool) -> None:
        facts = dict(alarm.facts)
        body = json.dumps({**asdict(alarm), "facts": facts, "raised": raised}).encode()
        try:
            async with asyncio.timeout(DELIVERY_S):
                if self._settings.webhook:
                    await webhook.post_json(self._settings.webhook, body)
                if self._settings.command:
                    await self._run(body)
        except (TimeoutError, OSError, webhook.NotDelivered) as exc:
            log.get_logger().warning("alarm.unsent", alarm=alarm.kind, error=repr(exc))
            return
        log.get_logger().info("alarm.sent", alarm=alarm.kind)

    async def _run(self, body: bytes) -> None:
        process = await asyncio.create_subprocess_exec(*self._settings.command, stdin=asyncio.subprocess.PIPE)
        try:
            await process.communicate(body)
        finally:
            if process.returncode is None:  # its time is over, or we end
                process.kill()
                await process.wait()
        if process.returncode:
            raise OSError(f"the alarm command ended with status {process.returncode}")

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Give up what is under way."""
        await self._tasks.close()

"""Change notification in the real service: an idle desktop costs no scan, a changed file is saved in time."""

import asyncio
import re
from typing import Any

import pytest

from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService, first_desktop
from tests.fakes.until import until

pytestmark = pytest.mark.slow


async def scans(service: RunningService) -> dict[str, int]:
    """How many scans there were so far, by kind, as the metrics say."""
    _, told = await service.call("GET", "/metrics")
    found = re.findall(r'^session_service_home_scans{kind="(\w+)"} (\d+)', told["text"], re.MULTILINE)
    return {kind: int(count) for kind, count in found}


async def saved_after(service: RunningService, session_id: str, as_of: Any) -> dict[str, Any]:
    """Wait until everything up to a later moment is saved."""
    async with asyncio.timeout(60):
        while True:
            session = await service.api("GET", f"/sessions/{session_id}")
            if session["saved_as_of"] is not None and session["saved_as_of"] != as_of:
                return session
            await asyncio.sleep(0.1)


async def test_what_a_desktop_changes_is_saved_by_notification() -> None:
    """Its files come and go under the kernel's eyes; the first look is at everything, the later ones not."""
    async with RunningService(hold_s=600, template="bare") as service:
        session_id, handle = await first_desktop(service)
        first = await saved_after(service, session_id, None)
        await run_in_terminal(handle, "echo written > ~/letter")
        letter = home_file(handle, "letter")
        await until(letter.is_file)
        seen = await saved_after(service, session_id, first["saved_as_of"])
        async with asyncio.timeout(60):
            while not await holds_letter(service, seen):
                seen = await saved_after(service, session_id, seen["saved_as_of"])
        status = await service.api("GET", "/status")
        assert status["storage"]["watching"].startswith(("fanotify", "inotify")), status
        traffic = status["storage"]["traffic"]
        assert traffic["puts"] >= 2, traffic
        assert traffic["sent_bytes"] > 0, traffic
        assert traffic["failures"] == 0, traffic
        async with asyncio.timeout(60):
            while True:
                told = await scans(service)
                if told["notified"]:
                    break
                await asyncio.sleep(0.5)
        assert told["full"] >= 1


async def holds_letter(service: RunningService, session: dict[str, Any]) -> bool:
    """Look whether the newest checkpoint has the file."""
    path = f"/workspaces/{session['workspace']['id']}/checkpoints/{session['saved_seq']}/files"
    return any(entry["name"] == "letter" for entry in (await service.api("GET", path))["items"])

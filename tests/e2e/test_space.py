"""A home that fills the disk, on the real service: stopped before it harms the others, and never ended.

The disk is not filled: the limit is set so high that what is free counts as too little.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from session_service.app.room import disk_free_mb
from session_service.host.state_file import DesktopState
from session_service.ports.desktops import Handle
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.rfb_client import RfbClient
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow

FILL = "while :; do head -c 300000 /dev/urandom >> ~/fill; date +%s%N > ~/turn; sleep 0.1; done"


def handle_of(service: RunningService, session_id: str) -> Handle:
    """The host's own note of a desktop."""
    path = service.state_folder / "desktops" / session_id / "state.json"
    return msgspec.json.decode(path.read_bytes(), type=DesktopState).handle


async def shown(service: RunningService, session_id: str, *, stopped: bool) -> dict[str, Any]:
    """Wait until the session says that its programs are stopped for space, or not any more."""
    async with asyncio.timeout(90):
        while True:
            session = await service.api("GET", f"/sessions/{session_id}")
            if ("space" in session["limits_missing"]) == stopped:
                return session
            await asyncio.sleep(0.1)


async def test_the_programs_of_a_home_that_fills_the_disk_stop_until_there_is_space() -> None:
    """Its user is told and still sees the screen, it is saved meanwhile, and it goes on by itself."""
    async with RunningService(hold_s=600, template="bare") as service:
        account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
        await service.call("POST", "/api/v1/users", account)
        session_id = (await service.api("POST", "/sessions", {}))["id"]
        await service.until_state(session_id, "active", "held")
        handle = handle_of(service, session_id)
        await run_in_terminal(handle, FILL)
        turn = home_file(handle, "turn")
        await until(turn.is_file)

        service.set("room.disk_free_mb_min", str(disk_free_mb(service.state_folder) * 5))
        await service.restart()
        told = await shown(service, session_id, stopped=True)
        assert "nearly full" in told["step_error"]
        (alarm,) = [
            one for one in (await service.api("GET", "/alarms"))["items"] if one["kind"] == "disk_low"
        ]
        assert "ada" in alarm["detail"]
        last = turn.read_text()
        async with RfbClient(handle.socket) as client:
            await client.picture()
        await service.api("POST", f"/sessions/{session_id}/save", {})
        assert turn.read_text() == last
        assert Path(f"/proc/{handle.pid}").exists()

        service.set("room.disk_free_mb_min", "1")
        await service.restart()
        await until(lambda: turn.read_text() not in ("", last), 60)
        assert (await shown(service, session_id, stopped=False))["step_error"] == ""
        assert not [
            one for one in (await service.api("GET", "/alarms"))["items"] if one["kind"] == "disk_low"
        ]

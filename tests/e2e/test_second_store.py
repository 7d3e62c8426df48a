"""The service with a second store: the first one is removed, and the files come back from the second.

Both are folders; the service, its desktops and its workers are real.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow


async def second_store(service: RunningService) -> dict[str, Any]:
    return await service.api("GET", "/second-store")


async def in_step(service: RunningService, seq: int) -> dict[str, Any]:
    """Wait until the second store has everything up to a checkpoint."""
    async with asyncio.timeout(60):
        while True:
            found = await second_store(service)
            rows = found["workspaces"]
            if found["in_step"] and rows and all((one["replica_seq"] or 0) >= seq for one in rows):
                return found
            await asyncio.sleep(0.2)


async def saved(service: RunningService, session_id: str, name: str, content: bytes) -> int:
    """Write a file into the running desktop's home, and save it."""
    status, _ = await service.call("GET", f"/api/v1/sessions/{session_id}")
    assert status == 200
    (home,) = (service.state_folder / "homes").glob("*/*")
    (home / name).write_bytes(content)
    done = await service.api("POST", f"/sessions/{session_id}/save", {})
    return int(done["seq"])


async def restored(service: RunningService) -> Path:
    (home,) = (service.state_folder / "homes").glob("*/*")
    return home


async def test_files_come_back_from_the_second_store_when_the_first_is_gone() -> None:
    """Close, lose the first store, promote the second one, start again."""
    service = RunningService(hold_s=600, template="bare")
    second = service.state_folder.with_suffix(".second")
    url = second.as_uri()
    service.set("store.second_url", f"{url}?create=true")
    service.set("store.second_required", "close")
    try:
        async with service:
            account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
            await service.call("POST", "/api/v1/users", account)
            session_id = (await service.api("POST", "/sessions", {}))["id"]
            await service.until_state(session_id, "active", "held")
            seq = await saved(service, session_id, "letter", b"Dear Sir")
            told = await in_step(service, seq)
            assert (told["usable"], told["required"], told["behind_entries"]) == (True, "close", 0)
            await service.api("POST", f"/sessions/{session_id}/end", {"reason": "test"})
            await service.until_state(session_id, "closed")
            await in_step(service, seq + 1)

            await service.halt()
            shutil.rmtree(service.state_folder / "objects")
            await service.start()
            status, _ = await service.call(
                "POST", "/api/v1/second-store/promote", {"url": "file:///wrong", "reason": "gone"}
            )
            assert status == 422
            done = await service.api(
                "POST", "/second-store/promote", {"url": f"{url}?create=true", "reason": "gone"}
            )
            assert done["url"] == f"{url}?create=true"

            service.set("store.url", url)
            service.set("store.second_url", "")
            service.set("store.second_required", "off")
            await service.restart()
            session_id = (await service.api("POST", "/sessions", {}))["id"]
            await service.until_state(session_id, "active", "held")
            assert ((await restored(service)) / "letter").read_bytes() == b"Dear Sir"
    finally:
        shutil.rmtree(second, ignore_errors=True)


async def test_a_close_waits_for_the_second_store_where_the_policy_says_so_and_tells_it() -> None:
    """The second store goes away before the end; the session stays closing and says why, then closes."""
    service = RunningService(hold_s=600, template="bare")
    second = service.state_folder.with_suffix(".second")
    aside = second.with_suffix(".aside")
    service.set("store.second_url", f"{second.as_uri()}?create=true")
    service.set("store.second_required", "close")
    try:
        async with service:
            account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
            await service.call("POST", "/api/v1/users", account)
            session_id = (await service.api("POST", "/sessions", {}))["id"]
            await service.until_state(session_id, "active", "held")
            await in_step(service, await saved(service, session_id, "letter", b"Dear Sir"))
            await service.halt()
            second.rename(aside)
            second.write_text("not a folder")
            await service.start()
            seq = await saved(service, session_id, "letter", b"Dear Madam")
            await service.api("POST", f"/sessions/{session_id}/end", {"reason": "test"})
            await waits_for_the_second(service, session_id)
            second.unlink()
            aside.rename(second)
            await service.until_state(session_id, "closed")
            assert (await in_step(service, seq + 1))["in_step"]
    finally:
        for path in (second, aside):
            shutil.rmtree(path, ignore_errors=True)


async def waits_for_the_second(service: RunningService, session_id: str) -> None:
    """Wait until the session says what its close waits for."""
    async with asyncio.timeout(60):
        while True:
            session = await service.api("GET", f"/sessions/{session_id}")
            assert session["state"] in ("active", "held", "closing"), session
            if session["state"] == "closing" and "second store" in (session["step_error"] or ""):
                return
            await asyncio.sleep(0.1)

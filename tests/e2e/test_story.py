"""The story of the product on the real service: the demonstration, kills at every step, and a store that
is away.
"""

import asyncio
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import storage
from session_service.app.parent import start_time
from session_service.base import errors
from session_service.checkpoints import keyring
from session_service.client.api import Api
from session_service.client.transport import Transport
from tests.fakes.minio import minio, minio_program
from tests.fakes.running_service import RunningService
from tests.fakes.s3_server import S3Server
from tests.fakes.until import until

CONTENT = b"what somebody wrote\n" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PROGRAM = Path(sys.executable).parent / "session-service"


async def begin(service: RunningService, folder: Path) -> dict[str, Any]:
    """Make the account, start a desktop and put a file into it; returns the session."""
    await service.call(
        "POST",
        "/api/v1/users",
        {"name": "ada", "role": "administrator", "password": "long enough to be good"},
    )
    started = await service.api("POST", "/sessions", {})
    session = await service.until_state(started["id"], "active", "held", "closed")
    assert session["state"] != "closed", (session, service.log[-3000:])
    source = folder / "work.txt"
    source.write_bytes(CONTENT)
    async with Transport.over_socket(service.socket) as transport:
        await Api(transport).upload(session["id"], name="work.txt", source=source)
    return session


def state_of(service: RunningService, session_id: str) -> dict[str, Any]:
    """The host's own note of a desktop."""
    found: dict[str, Any] = json.loads(
        (service.state_folder / "desktops" / session_id / "state.json").read_text()
    )
    return found


async def saved_digest(service: RunningService, session: dict[str, Any]) -> str:
    """The hash of the file in the checkpoint that the receipt names; a part that is away is waited for."""
    receipt = await service.api("GET", f"/receipts/{session['id']}")
    async with asyncio.timeout(30), Transport.over_socket(service.socket) as transport:
        while True:
            pieces = Api(transport).content(
                receipt["workspace_id"], receipt["body"]["c2"]["seq"], path="Uploads/work.txt"
            )
            try:
                return hashlib.sha256(b"".join([piece async for piece in pieces])).hexdigest()
            except errors.PartUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", "minio"])
async def test_the_demonstration_keeps_its_promises(store: str) -> None:
    """Exactly what a person sees, as one JSON document; every step proves what it says."""
    program = minio_program()
    environment = {"SESSION_SERVICE_TEST_MINIO": str(program)} if program else {}
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        "demo",
        "--json",
        *(["--s3"] if store == "minio" else []),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    output, words = await process.communicate()
    found = json.loads(output)
    assert found["ok"], (found, words.decode()[-3000:])
    assert process.returncode == 0
    assert [step["ok"] for step in found["steps"]] == [True] * 7


@pytest.mark.slow
async def test_killing_everything_ends_no_desktop(tmp_path: Path) -> None:
    """kill -9 of every part, then of the parent: the same processes are there, and the session is held
    again.
    """
    async with RunningService(hold_s=60, template="bare") as service:
        session = await begin(service, tmp_path)
        handle = state_of(service, session["id"])["handle"]
        for part in ("host", "worker-0", "worker-1", "service", "parent"):
            service.kill(part)
            if part == "parent":
                await until(lambda: service.pid_of("service") is None)
                await service.halt()
                await service.start()
            await service.ready()
            found = await service.until_state(session["id"], "held", "active")
            assert start_time(handle["pid"]) == handle["start_time"], f"the desktop ended with {part}"
            assert state_of(service, session["id"])["handle"]["pid"] == handle["pid"]
            assert found["outcome"] is None
        checkpoint = await service.api("POST", f"/sessions/{session['id']}/save", {})
        assert checkpoint["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["service", "host", "worker-0", "worker-1"])
async def test_a_part_killed_at_each_step_of_the_close_changes_nothing(part: str, tmp_path: Path) -> None:
    """Each time the record names another step the part is killed with SIGKILL; the close ends once, saved."""
    async with RunningService(hold_s=60, template="bare") as service:
        session = await begin(service, tmp_path)
        handle = state_of(service, session["id"])["handle"]
        await service.api("POST", f"/sessions/{session['id']}/end", {"reason": "the test ends it"})
        seen: list[str] = []
        async with asyncio.timeout(90):
            while "closed" not in seen:
                found = await _look(service, session["id"])
                step = (
                    ""
                    if found is None
                    else "closed"
                    if found["state"] == "closed"
                    else str(found["close_step"])
                )
                if step and step not in seen:
                    seen.append(step)
                    if step != "closed" and service.pid_of(part) is not None:
                        service.kill(part)
                await asyncio.sleep(0.02)
        found = await service.until_state(session["id"], "closed")
        assert found["outcome"] == "ended_by_user" or found["outcome"] == "saved", found
        assert start_time(handle["pid"]) != handle["start_time"], "the desktop still runs"
        assert await saved_digest(service, session) == DIGEST
        assert len(seen) >= 3, f"too few steps were seen to say anything: {seen}"


async def _look(service: RunningService, session_id: str) -> dict[str, Any] | None:
    try:
        status, found = await service.call("GET", f"/api/v1/sessions/{session_id}")
    except (aiohttp.ClientError, OSError):
        return None
    return found if status == 200 else None


@pytest.mark.slow
async def test_a_store_that_is_away_keeps_the_desktop_until_it_is_back(tmp_path: Path) -> None:
    """The hold ends while MinIO is down: the session stays in closing, frozen, says so; then it ends by
    itself.
    """
    program = minio_program()
    assert program is not None, "MinIO is not built: run deploy/test"
    (tmp_path / "minio").mkdir()
    server = minio(tmp_path / "minio", program)
    server.start()
    try:
        await _store_goes_away(server, tmp_path)
    finally:
        server.kill()


async def _store_goes_away(server: S3Server, folder: Path) -> None:
    store = server.url("homes")
    async with RunningService(hold_s=4, template="bare", store_url=store, environment=server.keys) as service:
        session = await begin(service, folder)
        handle = state_of(service, session["id"])["handle"]
        server.kill()
        closing = await service.until_state(session["id"], "closing")
        async with asyncio.timeout(90):
            while not closing["step_error"] or not (await service.api("GET", "/alarms"))["items"]:
                closing = await service.until_state(session["id"], "closing")
                await asyncio.sleep(0.1)
        assert closing["close_step"] == "access_ended"
        assert start_time(handle["pid"]) == handle["start_time"], (
            "the desktop ended before its files were saved"
        )
        server.start()
        closed = await service.until_state(session["id"], "closed")
        assert closed["outcome"] == "saved", closed
        assert await saved_digest(service, session) == DIGEST
        assert not (await service.api("GET", "/alarms"))["items"], "the alarm did not close itself"


@pytest.mark.slow
async def test_this_machine_burned(tmp_path: Path) -> None:
    """Registry, homes and caches are gone: the store and the master key alone give the files back."""
    async with RunningService(hold_s=60, template="bare") as service:
        session = await begin(service, tmp_path)
        await service.api("POST", f"/sessions/{session['id']}/end", {"reason": "test"})
        await service.until_state(session["id"], "closed")
        key = keyring.read(service.state_folder / "keys" / "master.key")
        assert key is not None
        store = tmp_path / "rescued"
        await asyncio.to_thread(shutil.copytree, service.state_folder / "objects", store)
    async with await storage.Storage.open(
        storage.StoreSpec(url=store.as_uri()),
        master_key=key,
        cache_folder=tmp_path / "cache",
        clock_ms=lambda: 0,
    ) as found:
        (workspace,) = await found.workspaces()
        newest = max(await found.list(workspace), key=lambda info: info.seq)
        await found.restore(workspace, seq=newest.seq, into=tmp_path / "home", owner=None)
    assert hashlib.sha256((tmp_path / "home" / "Uploads" / "work.txt").read_bytes()).hexdigest() == DIGEST

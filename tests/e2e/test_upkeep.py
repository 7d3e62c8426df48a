"""What a log may let go, by the commands, over a running service: retention, keep, forget, gc, and a log that
something foreign jams while a desktop closes.

Service, desktop, workers, store (a folder) and commands are real.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow


async def command(service: RunningService, *words: str, fails: bool = False) -> str:
    """Run `session-service checkpoints` as an administrator types it; return what it says."""
    out, err = await streams(service, *words, fails=fails)
    return out + err if fails else out


async def streams(service: RunningService, *words: str, fails: bool = False) -> tuple[str, str]:
    """Return standard output and standard error apart."""
    asked = [
        str(Path(sys.executable).parent / "session-service"),
        "checkpoints",
        *words,
        "--state-folder",
        str(service.state_folder),
    ]
    done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, (words, done.stdout, done.stderr)
    return done.stdout, done.stderr


async def session(service: RunningService) -> dict[str, Any]:
    found = await service.api("POST", "/sessions", {})
    return await service.until_state(found["id"], "active", "held")


def home_of(service: RunningService) -> Path:
    (home,) = (service.state_folder / "homes").glob("*/*")
    return home


def objects(service: RunningService, kind: str) -> list[Path]:
    """Return the objects of the one workspace below a prefix, as they lie in the folder."""
    return sorted(path for path in (service.state_folder / "objects").rglob("*") if path.parent.name == kind)


def jam(service: RunningService) -> Path:
    """Put something foreign under the log's next number, as its owner would own it."""
    last = objects(service, "c")[-1]
    foreign = last.with_name(f"{int(last.name) + 1:0{len(last.name)}d}")
    foreign.write_bytes(b"nobody knows what this is" * 9)
    facts = last.stat()
    foreign.chmod(facts.st_mode & 0o777)
    os.chown(foreign, facts.st_uid, facts.st_gid)
    return foreign


async def test_retention_keep_forget_and_gc_by_command() -> None:
    async with RunningService(hold_s=600, template="bare") as service:
        account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
        await service.call("POST", "/api/v1/users", account)
        running = await session(service)
        workspace = running["workspace"]["id"]
        seqs = []
        for number in range(4):
            (home_of(service) / "letter").write_text(f"letter {number}")
            seqs.append((await service.api("POST", f"/sessions/{running['id']}/save", {}))["seq"])
        assert "The newest" in await command(service, "retention", workspace)
        assert "pinned" in await command(service, "keep", workspace, str(seqs[0]), "--reason", "law")
        refused = await command(service, "forget", workspace, str(seqs[0]), fails=True)
        assert "stays" in refused
        await command(service, "keep", workspace, str(seqs[0]), "--release")
        assert "Forgotten" in await command(service, "forget", workspace, str(seqs[0]), str(seqs[1]))
        out, err = await streams(service, "gc", workspace, "--json")
        assert json.loads(out)["refused"] == ""
        assert {"begun", "mark"} <= {json.loads(line)["stage"] for line in err.splitlines()}
        out, err = await streams(service, "verify", workspace, "--json")
        assert json.loads(out)["faults"] == []
        assert {"verify", "trees"} <= {json.loads(line)["stage"] for line in err.splitlines()}
        assert "Deleted" in await command(service, "gc", workspace, "--renew-index")
        listed = json.loads(await command(service, "list", workspace, "--json"))
        assert {one["seq"] for one in listed}.isdisjoint(seqs[:2])
        assert "log is whole" in await command(service, "step-over", workspace)
        _, metrics = await service.call("GET", "/metrics")
        assert 'session_service_upkeep_runs_total{outcome="refused"} 0.0' in metrics["text"]


async def test_a_desktop_that_closes_over_a_jammed_log_is_saved_beside_and_closes_after_a_step_over() -> None:
    """It says where its files lie, ends nothing, and goes on by itself once somebody stepped over."""
    async with RunningService(hold_s=600, template="bare") as service:
        account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
        await service.call("POST", "/api/v1/users", account)
        running = await session(service)
        workspace = running["workspace"]["id"]
        await service.api("POST", f"/sessions/{running['id']}/save", {})
        foreign = jam(service)
        (home_of(service) / "letter").write_text("what nobody else has")
        await service.api("POST", f"/sessions/{running['id']}/end", {"reason": "test"})
        async with asyncio.timeout(60):
            while True:
                found = await service.api("GET", f"/sessions/{running['id']}")
                if "saved whole beside" in (found["step_error"] or ""):
                    break
                await asyncio.sleep(0.1)
        assert found["state"] == "closing"
        beside = objects(service, "b")
        assert beside
        shown = json.loads(await command(service, "step-over", workspace, "--json"))
        assert [one["seq"] for one in shown] == [int(foreign.name)]
        wrong = ["--hash", "00" * 32, "--reason", "test"]
        await command(service, "step-over", workspace, *wrong, fails=True)
        right = ["--hash", shown[0]["hash"], "--reason", "a disk fault"]
        assert "do not count" in await command(service, "step-over", workspace, *right)
        await service.until_state(running["id"], "closed")
        conflicts = await service.api("GET", f"/workspaces/{workspace}/conflicts")
        [one] = conflicts["items"]
        assert one["reason"] == "conflict"
        status, _ = await service.call("DELETE", f"/api/v1/workspaces/{workspace}/conflicts/{one['seq']}")
        assert status == 204
        for _ in range(3):
            assert json.loads(await command(service, "gc", workspace, "--json"))["refused"] == ""
        assert (await service.api("GET", f"/workspaces/{workspace}/conflicts"))["items"] == []
        assert (await service.api("POST", f"/workspaces/{workspace}/verify", {"level": "full"}))[
            "faults"
        ] == []

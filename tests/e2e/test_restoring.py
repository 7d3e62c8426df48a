"""Bringing files back with the command, from the real service: looked at, fetched, unpacked, put beside."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from session_service.host.state_file import DesktopState
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService, first_desktop
from tests.fakes.until import until

pytestmark = pytest.mark.slow
BODY_BYTES = 300_000
LARGE_BYTES = 12_000_000
COMMAND_S = 60


async def command(
    service: RunningService,
    *words: str,
    group: str = "checkpoints",
    on_terminal: bool = False,
    status: int = 0,
) -> tuple[str, str]:
    """Run `session-service checkpoints`; return standard output and error, the latter of a terminal."""
    line = [str(Path(sys.executable).parent / "session-service"), group, *words]
    line += ["--state-folder", str(service.state_folder)]
    if on_terminal:
        return await asyncio.to_thread(_on_terminal, line)
    return await asyncio.to_thread(_plain, line, status)


def _plain(line: list[str], status: int) -> tuple[str, str]:
    done = subprocess.run(line, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def _on_terminal(line: list[str]) -> tuple[str, str]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4_096)
            except OSError:  # nobody holds the other side any more
                break
            shown += piece
        assert child.stdout is not None
        told = child.stdout.read()
    os.close(ours)
    assert child.returncode == 0, shown
    return told, shown.decode(errors="replace")


async def saved_with(service: RunningService, session_id: str, name: str) -> dict[str, Any]:
    """Wait until the newest checkpoint holds a file."""
    async with asyncio.timeout(COMMAND_S):
        while True:
            session = await service.api("GET", f"/sessions/{session_id}")
            if session["saved_seq"] is not None:
                path = f"/workspaces/{session['workspace']['id']}/checkpoints/{session['saved_seq']}/files"
                if any(one["name"] == name for one in (await service.api("GET", path))["items"]):
                    return session
            await asyncio.sleep(0.2)


async def test_what_was_saved_is_found_fetched_and_brought_back_by_the_command(
    tmp_path: Path,
) -> None:
    """One life of a letter: saved, changed, looked for, and back in three ways. Nothing is replaced."""
    async with RunningService(hold_s=600, template="bare") as service:
        session_id, handle = await first_desktop(service)
        await run_in_terminal(
            handle, f"mkdir ~/docs; head -c {BODY_BYTES} /dev/urandom > ~/docs/body; echo 1 > ~/a"
        )
        await until(home_file(handle, "a").is_file)
        first = await saved_with(service, session_id, "a")
        body = home_file(handle, "docs/body").read_bytes()
        await run_in_terminal(handle, "rm ~/docs/body; echo 2 > ~/b")
        await until(home_file(handle, "b").is_file)
        second = await saved_with(service, session_id, "b")
        workspace, seq = first["workspace"]["id"], str(first["saved_seq"])
        await _looked_at(service, workspace, seq, str(second["saved_seq"]))
        await _fetched(service, workspace, seq, tmp_path, body)
        told, _ = await command(service, "restore", workspace, seq, "docs", "--session", session_id, "--json")
        made = json.loads(told)
        assert (made["entries"], made["not_made"]) == (2, [])
        assert home_file(handle, f"{made['path']}/docs/body").read_bytes() == body
        assert not home_file(handle, "docs/body").exists()


async def test_a_damaged_object_costs_its_files_and_is_told_by_the_command(tmp_path: Path) -> None:
    """In three ways back, each with exit status 3: half of the large file is nowhere, all else is there."""
    async with RunningService(hold_s=600, template="bare") as service:
        session_id, handle = await first_desktop(service)
        await run_in_terminal(handle, f"head -c {LARGE_BYTES} /dev/urandom > ~/large; echo 1 > ~/a")
        await until(home_file(handle, "a").is_file)
        saved = await saved_with(service, session_id, "a")
        workspace, seq = saved["workspace"]["id"], str(saved["saved_seq"])
        # The newest pack holds the end of the file, also where a save met it half written. The byte is behind
        # what is read before a header goes out.
        pack = max((service.state_folder / "objects").rglob("p/*"), key=lambda one: one.stat().st_mtime_ns)
        raw = bytearray(pack.read_bytes())
        raw[-min(1_000_000, len(raw) // 2)] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(raw)
        back, packed = tmp_path / "back", tmp_path / "all.tar"
        told, _ = await command(service, "restore", workspace, seq, "--to", str(back), "--json", status=3)
        report = json.loads(told)
        assert (report["complete"], [one["path"] for one in report["left_out"]]) == (False, ["large"])
        assert report["left_out"][0]["object"].startswith("p/")
        assert (back / "a").read_text() == "1\n"
        assert not (back / "large").exists()
        assert not back.with_name("back.part").exists()
        await command(service, "get", workspace, seq, "--tar", "--to", str(packed), status=1)
        told, _ = await command(service, "restore", workspace, seq, "--session", session_id)
        assert "left out" not in told, "its home has it still, and gives it"
        await run_in_terminal(handle, "rm ~/large ~/Restored -r; echo 2 > ~/b")
        await until(home_file(handle, "b").is_file)
        told, _ = await command(service, "restore", workspace, seq, "--session", session_id, status=3)
        assert "left out: large" in told
        _, why = await command(service, "restore", workspace, seq, "large", "--session", session_id, status=1)
        assert "is damaged" in why


async def test_a_start_that_meets_damage_has_the_way_out_that_the_manual_names(tmp_path: Path) -> None:
    """It refuses to begin with half a home; an older checkpoint starts, and gets back what can be given."""
    async with RunningService(hold_s=600, template="bare") as service:
        session_id, handle = await first_desktop(service)
        await run_in_terminal(handle, "echo 1 > ~/a")
        await until(home_file(handle, "a").is_file)
        older = await saved_with(service, session_id, "a")
        packs = set((service.state_folder / "objects").rglob("p/*"))
        await run_in_terminal(handle, f"head -c {LARGE_BYTES} /dev/urandom > ~/large; echo 2 > ~/b")
        await until(home_file(handle, "b").is_file)
        await service.api("POST", f"/sessions/{session_id}/end", {"reason": "test"})
        newest = await service.until_state(session_id, "closed")
        for pack in set((service.state_folder / "objects").rglob("p/*")) - packs:
            pack.unlink()
        workspace = older["workspace"]["id"]
        failing = (await service.api("POST", "/sessions", {"workspace_id": workspace}))["id"]
        failed = await service.until_state(failing, "closed")
        assert failed["outcome"] == "start_failed"
        assert "files_damaged" in failed["detail"]
        assert "p/" in failed["detail"]
        words = ("--workspace", workspace, "--checkpoint", str(older["saved_seq"]), "--json")
        told, _ = await command(service, "start", *words, group="sessions")
        again = json.loads(told)["id"]
        await service.until_state(again, "active", "held")
        seq = str(newest["saved_seq"])
        await command(service, "keep", workspace, seq, "--reason", "damaged")
        told, _ = await command(service, "restore", workspace, seq, "--session", again, "--json", status=3)
        report = json.loads(told)
        assert "large" in [one["path"] for one in report["left_out"]]
        path = service.state_folder / "desktops" / again / "state.json"
        now = msgspec.json.decode(path.read_bytes(), type=DesktopState).handle
        assert home_file(now, f"{report['path']}/a").read_text() == "1\n"


async def _looked_at(service: RunningService, workspace: str, before: str, after: str) -> None:
    told, _ = await command(service, "list", workspace, "--json")
    assert {int(before), int(after)} <= {one["seq"] for one in json.loads(told)}
    told, _ = await command(service, "show", workspace, before, "--json")
    assert json.loads(told)["complete"]
    told, _ = await command(service, "diff", workspace, before, after, "--json")
    changes = {one["path"]: one["what"] for one in json.loads(told)["changes"]}
    assert (changes["docs/body"], changes["b"]) == ("removed", "added")
    told, _ = await command(service, "list", workspace)
    assert "SAVED AS OF" in told


async def _fetched(service: RunningService, workspace: str, seq: str, to: Path, body: bytes) -> None:
    one, packed, back = to / "one", to / "docs.tar", to / "back"
    _, shown = await command(service, "get", workspace, seq, "docs/body", "--to", str(one), on_terminal=True)
    assert one.read_bytes() == body
    assert "fetch" in shown
    assert "━" in shown, "a bar on a terminal"
    _, lines = await command(service, "get", workspace, seq, "docs", "--tar", "--to", str(packed), "--json")
    assert json.loads(lines.splitlines()[-1])["done"] == packed.stat().st_size
    with tarfile.open(packed) as found:
        member = found.extractfile("docs/body")
        assert member is not None
        assert member.read() == body
    told, shown = await command(service, "restore", workspace, seq, "--to", str(back), on_terminal=True)
    assert (back / "docs" / "body").read_bytes() == body
    assert "restore" in shown
    assert str(back) in "".join(told.split("\n"))

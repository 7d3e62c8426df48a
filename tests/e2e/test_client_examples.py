"""The examples of docs/client.md, each run as a program of somebody else against a running service."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.test_space import handle_of
from tests.e2e.test_vnc_viewer import begin
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService
from tests.fakes.silent_line import known_as
from tests.fakes.until import until

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
WORDS = "Grüße, 5 €, 漢字 καλημέρα, and enough more that a terminal shows a difference"


@asynccontextmanager
async def example(
    service: RunningService, folder: Path, name: str, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an example as its reader does: with an address and a token's file."""
    user_id = (await service.api("GET", "/users"))["items"][0]["id"]
    wish = {"name": name, "scopes": ["read", "sessions"], "user_id": user_id}
    token = folder / "token"
    token.write_text((await service.api("POST", "/tokens", wish))["token"] + "\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-W", "error", str(EXAMPLES / name), *arguments),
        cwd=folder,
        env={**os.environ, "DESK_URL": service.address, "DESK_TOKEN_FILE": str(token)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def printed(service: RunningService, folder: Path, name: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed."""
    async with example(service, folder, name, *arguments) as process, asyncio.timeout(90):
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()


async def line(process: asyncio.subprocess.Process, words: str) -> str:
    """Read to the first line with these words."""
    assert process.stdout is not None
    seen: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not seen or words not in seen[-1]:
                seen.append((await process.stdout.readline()).decode())
                assert seen[-1], f"it ended without {words}: {seen}"
    except TimeoutError as exc:
        raise AssertionError(seen) from exc
    return seen[-1]


async def test_the_examples_do_what_their_reader_sees(tmp_path: Path) -> None:
    """One service for all of them: paste, look on over a cut, and the bot that ends the desktop."""
    service = RunningService(hold_s=60, template="bare")
    async with CuttingProxy(service.port) as proxy:
        known_as(service, f"http://127.0.0.1:{proxy.port}")
        async with service:
            session_id = await begin(service)
            handle = handle_of(service, session_id)
            await run_in_terminal(handle, "true")
            async with example(service, tmp_path, "events.py", session_id) as watcher:
                await line(watcher, "a stream began")
                assert await printed(service, tmp_path, "paste.py", session_id, WORDS) == ""
                await line(watcher, "now 1600 x 900")
                await until(lambda: home_file(handle, "pasted.txt").read_text() == WORDS + "\n")
                proxy.cut_all()
                await line(watcher, "the link is gone")
                await line(watcher, "a stream began")
                said = await printed(service, tmp_path, "bot.py")
                assert session_id in said
                assert await line(watcher, "ended: ")
            with Image.open(tmp_path / "bot.png") as picture:
                assert picture.size == (1600, 900)
            await service.until_state(session_id, "closed")

"""A service with several desktops in a bad week: parts killed and stopped, links cut, its store away, holds
that end. Whatever was acknowledged to a user is in what is saved at the end, and nobody is stuck.

Nothing is faked: MinIO, the parts, Xvnc and the links are real; chance alone decides, from a seed.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import pytest

from session_service.base import errors
from session_service.client.api import Api
from session_service.client.transport import Transport
from tests.e2e.test_connect import PASSWORD, Seat
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.minio import minio, minio_program
from tests.fakes.running_service import RunningService
from tests.fakes.s3_server import S3Server
from tests.fakes.until import until

DESKTOPS: Final = 3
KILLED: Final = ("host", "worker-0", "worker-1", "service")
CALM_S: Final = 240.0
"""For a desktop to come up or to be saved and ended, while parts go on dying."""
GROWTH_DESCRIPTORS_MAX: Final = 40
GROWTH_MIB_MAX: Final = 150
T = TypeVar("T")


@dataclass
class Life:
    """One workspace, and everything of it that its user was told is in the desktop's home."""

    number: int
    workspace_id: str
    files: dict[str, str] = field(default_factory=dict)
    """Digest by name below `Uploads`."""
    saved: int = 0
    lives: int = 0


class BadWeek:
    """The service, its users, and what happens to them."""

    def __init__(
        self, service: RunningService, server: S3Server, proxy: CuttingProxy, *, seed: int, folder: Path
    ) -> None:
        self.service, self.server, self.proxy, self.folder = service, server, proxy, folder
        self.chance = random.Random(seed)
        self.over = False
        self.lives: list[Life] = []
        self.happened: dict[str, int] = {}

    # -- users ----------------------------------------------------------------------------------------

    async def patiently(self, ask: Callable[[Api], Awaitable[T]]) -> T:
        """Ask the API until it answers; a refusal that says to try again is one to try again."""
        async with asyncio.timeout(CALM_S):
            while True:
                try:
                    async with Transport.over_socket(self.service.socket) as transport:
                        return await ask(Api(transport))
                except errors.SessionError as exc:
                    if exc.status < 500 and exc.status not in {409, 429}:
                        raise
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                await asyncio.sleep(0.3)

    async def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The same for a call by its path."""
        async with asyncio.timeout(CALM_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    status, answer = await self.service.call(method, f"/api/v1{path}", body)
                    if status < 400:
                        return answer
                    assert status >= 500 or status in {409, 429}, (method, path, status, answer)
                await asyncio.sleep(0.3)

    async def session_of(self, life: Life) -> dict[str, Any]:
        """Return an active session of a workspace, started if there is none."""
        async with asyncio.timeout(CALM_S):
            while True:
                for each in await self.sessions():
                    if each["workspace"]["id"] == life.workspace_id:
                        if each["state"] in {"active", "held"}:
                            return each
                        break
                else:
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        await self.service.call(
                            "POST", "/api/v1/sessions", {"workspace_id": life.workspace_id}
                        )
                await asyncio.sleep(0.3)

    async def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.api("GET", "/sessions?open=true&limit=200"))["items"]
        return found

    async def live(self, life: Life) -> None:
        """Start, work, leave in one of two ways, and look at what was kept; again and again."""
        while not self.over:
            session = await self.session_of(life)
            seat = Seat(self.service, session["id"], self.proxy)
            with contextlib.suppress(errors.SessionError):
                async with seat.stream:
                    looking = asyncio.ensure_future(seat.look())
                    try:
                        for _ in range(self.chance.randrange(3, 9)):
                            await self.work(life, session["id"])
                            await asyncio.sleep(self.chance.random())
                    finally:
                        looking.cancel()
                        await asyncio.gather(looking, return_exceptions=True)
            if self.chance.random() < 0.5:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    await self.service.call("POST", f"/api/v1/sessions/{session['id']}/end", {"reason": "x"})
            await self.closed(life, session["id"])
            life.lives += 1

    async def work(self, life: Life, session_id: str) -> None:
        """Put a file into the home, and ask for a checkpoint now and then."""
        name = f"{life.number}-{len(life.files)}-{self.chance.randrange(10**9)}.bin"
        body = self.chance.randbytes(self.chance.choice([0, 10, 5_000, 300_000]))
        source = self.folder / name
        source.write_bytes(body)
        with contextlib.suppress(errors.SessionError, aiohttp.ClientError, OSError, TimeoutError):
            async with Transport.over_socket(self.service.socket) as transport:
                api = Api(transport)
                done = await api.upload(session_id, name=name, source=source)
                life.files[done.path.rpartition("/")[2]] = hashlib.sha256(body).hexdigest()
                if self.chance.random() < 0.4:
                    known = dict(life.files)
                    checkpoint = await api.save(session_id)
                    life.saved += 1
                    if checkpoint.complete:
                        await self.holds(life, checkpoint.seq, known, some=2)
        source.unlink()

    async def closed(self, life: Life, session_id: str) -> None:
        """Wait for the session's end, and compare all that was acknowledged with what the receipt names."""
        async with asyncio.timeout(CALM_S):
            while True:
                found = await self.api("GET", f"/sessions/{session_id}")
                if found["state"] == "closed":
                    break
                if found["state"] == "active":  # its link's end was not seen, or somebody is there
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        await self.service.call("POST", f"/api/v1/sessions/{session_id}/end", {"reason": "x"})
                await asyncio.sleep(0.3)
        assert found["outcome"] in {"saved", "ended_by_user"}, found
        receipt = await self.api("GET", f"/receipts/{session_id}")
        await self.holds(life, receipt["body"]["c2"]["seq"], life.files, some=6)

    async def holds(self, life: Life, seq: int, files: dict[str, str], *, some: int | None = None) -> None:
        """Compare files of a checkpoint with what was acknowledged."""
        names = sorted(files)
        if some is not None:
            names = [*names[-1:], *self.chance.sample(names, min(some, len(names)))]
        for name in names:

            async def whole(api: Api, name: str = name) -> bytes:
                pieces = api.content(life.workspace_id, seq, path=f"Uploads/{name}")
                return b"".join([piece async for piece in pieces])

            body = await self.patiently(whole)
            assert hashlib.sha256(body).hexdigest() == files[name], (life.number, seq, name, len(body))

    # -- what happens ---------------------------------------------------------------------------------

    async def happen(self) -> None:
        """One bad thing after the other."""
        things = (self.kill, self.kill, self.stop_a_while, self.cut, self.cut, self.lose_store)
        while not self.over:
            await asyncio.sleep(1 + 5 * self.chance.random())
            thing = self.chance.choice(things)
            await thing()
            self.happened[thing.__name__] = self.happened.get(thing.__name__, 0) + 1

    async def kill(self) -> None:
        part = self.chance.choice(KILLED)
        if (pid := self.service.pid_of(part)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def stop_a_while(self) -> None:
        part = self.chance.choice(KILLED)
        if (pid := self.service.pid_of(part)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(1 + 6 * self.chance.random())
                finally:
                    os.kill(pid, signal.SIGCONT)

    async def cut(self) -> None:
        self.proxy.cut_all()

    async def lose_store(self) -> None:
        await asyncio.to_thread(self.server.kill)
        try:
            await asyncio.sleep(1 + 8 * self.chance.random())
        finally:
            await asyncio.to_thread(self.server.start)

    def size(self) -> dict[str, tuple[int, int, int]]:
        """Descriptors and MiB of each part, with its pid."""
        found = {}
        for part in ("parent", *KILLED):
            if (pid := self.service.pid_of(part)) is not None:
                with contextlib.suppress(OSError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    count = len(os.listdir(f"/proc/{pid}/fd"))
                    found[part] = (pid, count, pages * os.sysconf("SC_PAGE_SIZE") // 2**20)
        return found

    async def run(self, length_s: float) -> None:
        """Let it happen for so long, then all go home; look at everything."""
        await self.service.call(
            "POST", "/api/v1/users", {"name": "ada", "role": "administrator", "password": PASSWORD}
        )
        for number in range(DESKTOPS):
            made = await self.api("POST", "/workspaces", {"name": f"number {number}"})
            self.lives.append(Life(number, made["id"]))
        before = self.size()
        async with asyncio.TaskGroup() as group:
            for life in self.lives:
                group.create_task(self.live(life))
            bad = group.create_task(self.happen())
            await asyncio.sleep(length_s)
            self.over = True
            await bad
        assert await self.sessions() == [], "somebody is stuck"
        await self.service.ready()
        for life in self.lives:
            history = await self.api("GET", f"/workspaces/{life.workspace_id}/checkpoints?limit=200")
            newest = max(one["seq"] for one in history["items"] if one["complete"])
            await self.holds(life, newest, life.files)
        for part, (_, count, mib) in self.size().items():
            assert count <= before[part][1] + GROWTH_DESCRIPTORS_MAX, (part, before[part], count)
            assert mib <= before[part][2] + GROWTH_MIB_MAX, (part, before[part], mib)


@contextlib.asynccontextmanager
async def bad_week(folder: Path, *, seed: int) -> AsyncIterator[BadWeek]:
    program = minio_program()
    assert program is not None, "MinIO is not built: run deploy/test"
    (folder / "minio").mkdir()
    (folder / "work").mkdir()
    server = minio(folder / "minio", program)
    await asyncio.to_thread(server.start)
    try:
        async with (
            RunningService(
                hold_s=5,
                template="bare",
                store_url=server.url("homes"),
                environment=server.keys,
                settings={"hold.checkpoint_target_s": "3"},
            ) as service,
            CuttingProxy(service.port, seed=seed) as proxy,
        ):
            yield BadWeek(service, server, proxy, seed=seed, folder=folder / "work")
    finally:
        await asyncio.to_thread(server.kill)


@pytest.mark.slow
@pytest.mark.soak
async def test_whatever_happens_what_was_acknowledged_is_saved_and_nobody_is_stuck(tmp_path: Path) -> None:
    """Minutes as SESSION_SERVICE_TEST_MINUTES says, ten if nothing does."""
    minutes = float(os.environ.get("SESSION_SERVICE_TEST_MINUTES", "10"))
    seed = int(os.environ.get("SESSION_SERVICE_TEST_SEED", "1"))
    async with bad_week(tmp_path, seed=seed) as week:
        try:
            await week.run(60 * minutes)
        except BaseException:
            # What is to be ended now may fail as well, and would be all that is shown.
            traceback.print_exc()
            sys.stderr.write(week.service.log[-5_000:])
            raise
        told = [(life.lives, len(life.files), life.saved) for life in week.lives]
        sys.stdout.write(f"lives, files and saves: {told}; {week.happened}\n")
        await until(lambda: week.service.is_running)

"""The real service, as people start it: `session-service serve` with a state folder and a port of its own.

Not a fake and no part of one: every process, desktop and file is real. It is started from the venv that runs
the tests, because that is what is tested. State lies in a short folder under /tmp, since the names of unix
sockets end at 107 bytes. At the end all desktops are ended through the API; what is left then is an error of
the test or of the service and is told as one.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from session_service.host.state_file import DesktopState
from session_service.ports.desktops import Handle
from tests.fakes.until import until

READY_S: Final = 60.0
STOP_S: Final = 30.0
END_S: Final = 90.0
"""How long the desktops of a test may take to be saved and ended; only a broken service reaches it."""
PARTS: Final = ("service", "host", "worker-0", "worker-1")
_SETUP: Final = re.compile(r"^\s*Setup\s+([0-9A-Z]{5}-[0-9A-Z]{5})", re.MULTILINE)
_OPEN: Final = frozenset({"starting", "active", "held", "closing"})


class DesktopsLeft(AssertionError):
    """Some desktops could not be ended through the API when their service was to be removed."""


class RunningService:
    """One service. Use it as an async context manager, or call `start` and `stop`."""

    def __init__(
        self,
        *,
        hold_s: float = 30.0,
        store_url: str | None = None,
        template: str = "openbox",
        settings: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.state_folder = Path(tempfile.mkdtemp(prefix="ss-", dir="/tmp"))  # short, for sockets
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.socket = self.state_folder / "run" / "service" / "api.sock"
        self.log_file = self.state_folder.with_suffix(".log")
        self._settings = {"hold.hold_s": str(hold_s), "desktops.template": template, **(settings or {})}
        self._store_url = store_url
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def setup_code(self) -> str:
        """The newest code that the terminal shows."""
        found = _SETUP.findall(self.log)
        assert found, self.log[-2000:]
        return str(found[-1])

    @property
    def log(self) -> str:
        """Everything the service printed."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    async def __aenter__(self) -> "RunningService":
        try:
            await self.start()
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and return when it is ready."""
        self._launch()
        await self.ready()

    def _launch(self) -> None:
        command = [
            str(Path(sys.executable).parent / "session-service"),
            "serve",
            "--state-folder",
            str(self.state_folder),
            "--port",
            str(self.port),
        ]
        if self._store_url is not None:
            command += ["--store", self._store_url]
        for name, value in self._settings.items():
            command += ["--set", f"{name}={value}"]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    async def ready(self) -> None:
        """Return when control is settled; raises AssertionError with the log when it ended instead."""
        async with asyncio.timeout(READY_S):
            while True:
                assert self.is_running, f"the service ended:\n{self.log[-4000:]}"
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    status, _ = await self.call("GET", "/readyz")
                    if status == 200:
                        return
                await asyncio.sleep(0.05)

    @property
    def is_running(self) -> bool:
        """Whether the parent lives."""
        return self._process is not None and self._process.poll() is None

    async def halt(self) -> None:
        """Stop the service in order; its desktops go on."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            await until(lambda: self._process is None or self._process.poll() is not None, STOP_S)
        self._process = None

    def set(self, name: str, value: str) -> None:
        """Change a setting for the next start."""
        self._settings[name] = value

    async def restart(self) -> None:
        """Stop and start it; desktops and state stay."""
        await self.halt()
        await self.start()

    def pid_of(self, part: str) -> int | None:
        """Return the process of a part (one of PARTS, or `parent`), None while it does not run."""
        assert self._process is not None
        if part == "parent":
            return self._process.pid
        wanted = [part.encode(), str(self._process.pid).encode()]
        for pid, arguments in _processes():
            if b"session_service.app.part" in arguments and arguments[-2:] == wanted:
                return pid
        return None

    def kill(self, part: str) -> int:
        """Kill a part with SIGKILL; the parent starts it again. Returns the pid that was killed."""
        pid = self.pid_of(part)
        assert pid is not None, f"{part} does not run"
        os.kill(pid, signal.SIGKILL)
        return pid

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask the API over the unix socket, as the command line does; returns status and answer."""
        timeout = aiohttp.ClientTimeout(total=END_S)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket)), timeout=timeout) as http,
            http.request(method, f"http://service{path}", json=body) as response,
        ):
            text = await response.text()
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                return response.status, answer if isinstance(answer, dict) else {"items": answer}
            return response.status, {"text": text}

    async def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the API and return its answer; a failure is an AssertionError that shows it."""
        status, answer = await self.call(method, f"/api/v1{path}", body)
        assert status < 400, (method, path, status, answer)
        return answer

    async def sessions(self) -> list[dict[str, Any]]:
        """Return all sessions that are not closed."""
        items: list[dict[str, Any]] = (await self.api("GET", "/sessions?open=true&limit=200"))["items"]
        return items

    async def until_state(self, session_id: str, *states: str, limit_s: float = END_S) -> dict[str, Any]:
        """Wait until a session is in one of these states, and return it."""
        async with asyncio.timeout(limit_s):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    status, found = await self.call("GET", f"/api/v1/sessions/{session_id}")
                    if status == 200 and found["state"] in states:
                        return found
                await asyncio.sleep(0.05)

    async def end_desktops(self) -> None:
        """Save and end every desktop. Raises DesktopsLeft."""
        if not self.is_running:
            await self.start()
        await self.ready()  # a part that was killed may be on its way back
        try:
            async with asyncio.timeout(END_S):
                while still := await self.sessions():
                    for each in still:
                        if each["state"] in {"active", "held"}:
                            await self.call("POST", f"/api/v1/sessions/{each['id']}/end", {"reason": "test"})
                    await asyncio.sleep(0.1)
        except TimeoutError as exc:
            left = [(each["id"], each["state"], each["step_error"]) for each in await self.sessions()]
            raise DesktopsLeft(left) from exc

    async def stop(self) -> None:
        """End all desktops, then the service, and remove its state; raises DesktopsLeft where that failed."""
        try:
            await self.end_desktops()
        finally:
            try:
                await self.halt()
            finally:
                self._remove()

    def _remove(self) -> None:
        """Leave nothing on the machine: the parts, what is left of desktops, then the folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        ours = str(self.state_folder).encode()
        for pid, arguments in _processes():
            if any(ours + b"/" in argument for argument in arguments):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        for pid in self._left_of_desktops():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for name in (self.state_folder, self.state_folder / "homes"):
            with contextlib.suppress(OSError):
                name.chmod(0o700)
        shutil.rmtree(self.state_folder, ignore_errors=True)
        self.log_file.unlink(missing_ok=True)

    def _left_of_desktops(self) -> Iterator[int]:
        """Tell the processes of desktops that still run: the very ones that their state files name."""
        for file in self.state_folder.glob("desktops/*/state.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                noted = json.loads(file.read_text())
                for pid, started in [*noted["furniture"], *noted["helpers"]]:
                    if _start_time(pid) == started:
                        yield int(pid)


@contextlib.asynccontextmanager
async def running_service(**options: Any) -> AsyncIterator[RunningService]:
    """Run a service for a test: `async with running_service(hold_s=10) as service`."""
    async with RunningService(**options) as service:
        yield service


async def first_desktop(service: RunningService) -> tuple[str, Handle]:
    """Make the first account of a service and start its desktop; return the session's id and what the host
    knows of the desktop.
    """
    account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
    await service.call("POST", "/api/v1/users", account)
    session_id = (await service.api("POST", "/sessions", {}))["id"]
    await service.until_state(session_id, "active", "held")
    path = service.state_folder / "desktops" / session_id / "state.json"
    return session_id, msgspec.json.decode(path.read_bytes(), type=DesktopState).handle


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat, None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")

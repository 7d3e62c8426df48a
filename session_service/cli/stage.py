"""What the demonstration plays on: a real service with a state folder of its own, and a real S3 server
where one is asked for.

Not a test double and not the machine's own service: its port, accounts, store and desktops are apart, and
gone afterwards. Whoever is
root uses the same system accounts as the real one.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

from session_service.base import errors
from session_service.base.layout import Layout
from session_service.client.api import Api
from session_service.client.transport import Transport

READY_S: Final = 60.0
STOP_S: Final = 30.0
LOG_TAIL_BYTES: Final = 4000
MINIO_VARIABLE: Final = "SESSION_SERVICE_TEST_MINIO"


class StageFailed(errors.SessionError):
    """The demonstration could not be set up."""

    code, status, action = (
        "stage_failed",
        500,
        "Run `session-service doctor`; it checks every part that is needed.",
    )


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(command: list[str], log: BinaryIO, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program that is waited for elsewhere; starting it does not block."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


class Minio:
    """A MinIO of ours on a folder of ours; `url` is the store's address."""

    def __init__(self, folder: Path) -> None:
        named = os.environ.get(MINIO_VARIABLE, "")
        self._program = named or shutil.which("minio") or ""
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.credentials_file = folder / "credentials.toml"
        self.url = (
            f"s3://demo/checkpoints?endpoint=http://127.0.0.1:{self._port}&region=us-east-1&create=true"
        )

    async def start(self) -> None:
        """Start it and return when it answers. Raises StageFailed."""
        if not self._program:
            raise StageFailed(
                "MinIO is not here: `./deploy/up -- demo --s3` builds it, or give --s3 an address"
            )
        user, password = "demo-" + secrets.token_hex(4), secrets.token_hex(16)
        self.credentials_file.write_text(f"access_key = {user}\nsecret_key = {password}\n")
        self.credentials_file.chmod(0o600)
        environment = {
            **os.environ,
            "MINIO_ROOT_USER": user,
            "MINIO_ROOT_PASSWORD": password,
            "MINIO_BROWSER": "off",
        }
        command = [
            self._program,
            "server",
            "--quiet",
            f"--address=127.0.0.1:{self._port}",
            str(self._folder / "data"),
        ]
        (self._folder / "data").mkdir()
        with (self._folder / "minio.log").open("wb") as log:
            self._process = _spawn(command, log, environment)
        async with asyncio.timeout(READY_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """End it; its folder goes with the stage."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_S)


class Stage:
    """The service of one demonstration. `async with Stage(...)`: ready inside, gone afterwards."""

    def __init__(self, *, hold_s: float, store_url: str = "", credentials_file: Path | None = None) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="session-demo-", dir="/tmp")
        )  # short: socket names end at 107 bytes
        self.folder.chmod(0o711)
        self.layout = Layout(self.folder / "state")
        self.address = ""
        self._flags = [
            "--set",
            f"hold.hold_s={hold_s}",
            "--set",
            "desktops.template=bare",
            "--port",
            str(free_port()),
        ]
        self.address = f"http://127.0.0.1:{self._flags[-1]}"
        self._store_url, self._credentials_file = store_url, credentials_file
        self._log = self.folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: Transport | None = None
        self.minio: Minio | None = None

    async def __aenter__(self) -> "Stage":
        try:
            await self._start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    @property
    def api(self) -> Api:
        """The service's API as its administrator."""
        assert self._transport is not None
        return Api(self._transport)

    async def _start(self) -> None:
        if self._store_url == "minio":
            self.minio = Minio(self.folder)
            await self.minio.start()
            self._store_url, self._credentials_file = self.minio.url, self.minio.credentials_file
        command = [str(Path(sys.executable).parent / "session-service"), "serve"]
        command += ["--state-folder", str(self.layout.root), *self._flags]
        if self._store_url:
            command += ["--store", self._store_url]
        if self._credentials_file is not None:
            command += ["--set", f"store.credentials_file={self._credentials_file}"]
        with self._log.open("ab") as log:
            self._process = _spawn(command, log, dict(os.environ))
        self._transport = await Transport.over_socket(self.layout.api_socket).__aenter__()
        await self._ready()
        await self.api.create_user(name="demo", password=secrets.token_urlsafe(24), role="administrator")

    async def _ready(self) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    if self._process.poll() is not None:
                        raise StageFailed(f"the service ended at once:\n{self.log_tail()}")
                    with contextlib.suppress(errors.PartUnavailable):
                        if (await self.api.status()).ready:
                            return
                    await asyncio.sleep(0.02)
        except TimeoutError as exc:
            raise StageFailed(f"the service was not ready in {READY_S:.0f} s:\n{self.log_tail()}") from exc

    def log_tail(self) -> str:
        """Return the end of what the service said."""
        return self._log.read_text(errors="replace")[-LOG_TAIL_BYTES:] if self._log.exists() else ""

    async def _leave(self) -> None:
        """Save and end what still runs, stop the service, remove the folder. What cannot be ended is
        left, and said.
        """
        left = await self._end_sessions() if self._transport is not None else []
        if self._transport is not None:
            await self._transport.__aexit__()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, STOP_S)
        if self.minio is not None:
            self.minio.stop()
        if not left:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(
                f"{len(left)} desktops could not be ended; their state is in {self.folder}", file=sys.stderr
            )

    async def _end_sessions(self) -> list[str]:
        from session_service.cli.sessions import end_all

        try:
            async with asyncio.timeout(STOP_S):
                still = await end_all(self.api)
                while still:
                    await asyncio.sleep(0.1)
                    still = await end_all(self.api)
        except (TimeoutError, errors.SessionError):
            # Asked of the disk: a service that ended at once tells nothing, and had none.
            return sorted(one.name for one in self.layout.desktops.glob("*/"))
        return []

    def processes_of(self, session_id: str) -> tuple[int, int]:
        """Return (pid, start time) of a desktop's outermost process, from the host's own note."""
        note = json.loads((self.layout.desktops / session_id / "state.json").read_text())
        return int(note["handle"]["pid"]), int(note["handle"]["start_time"])

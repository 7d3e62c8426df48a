"""A real S3 server as a child process: start, wait until it answers, stop, kill, start again on the same
data.

It dies with its parent (`setpriv --pdeathsig`), so that a killed test run leaves nothing behind, and
listens on the loopback only. What it prints goes to a file beside its data.
"""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key-0123456789"

START_S = 60.0
STOP_S = 20.0
LOOK_AGAIN_S = 0.05


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. Taken together, so that they differ."""
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
        return ports


@dataclass(slots=True, kw_only=True)
class S3Server:
    """One server and its data folder."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    port: int
    folder: Path
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self) -> dict[str, str]:
        """As environment variables."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def url(self, bucket: str, prefix: str = "") -> str:
        """The address of a store in this server, for `open_store`."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&create=true"

    def start(self) -> None:
        assert self.process is None, "already running"
        with open(self.folder / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return
        self.process = None

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Let it hang: connections stay open and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _wait_until_it_answers(self) -> None:
        assert self.process is not None
        until = time.monotonic() + START_S
        while True:
            if self.process.poll() is not None or time.monotonic() > until:
                words = (self.folder / "output.log").read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self.name} did not start ({self.process.poll()}): {words}")
            if self._answers():
                return
            time.sleep(LOOK_AGAIN_S)

    def _answers(self) -> bool:
        """An unsigned look at the list of buckets: refused or answered, but by an S3 server that is ready."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return answer.status in {200, 400, 401, 403}

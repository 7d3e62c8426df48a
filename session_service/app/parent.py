"""The parent: starts host, workers and service, starts each again when it dies, and ends them in order.

It decides nothing about sessions and holds no secret. Killing it ends the parts (they get a TERM when it
dies), never a desktop:
the next start finds every desktop again. Why not systemd units for each part: one command must do on a
laptop, too.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from session_service.app import accounts, folders, handover, heap, listening, successor, watch_group
from session_service.app.refused import ConfigurationRefused
from session_service.base import log, priority
from session_service.base.aio import Tasks
from session_service.base.layout import Layout
from session_service.core import shards

if TYPE_CHECKING:
    from session_service.app.settings import Settings

RESTART_PAUSE_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a part that died is started again; the last one repeats. A part that lived a minute
starts at the first.
"""
HEALTHY_S: Final = 60.0
STOP_S: Final = 20.0
"""How long a part may take to end in order; then it is killed, which loses nothing."""
REFUSED_STATUS: Final = 78
"""Exit status of a part that cannot run with these settings: starting it again would not help."""


@dataclass(slots=True)
class _Part:
    name: str
    command: tuple[str, ...]
    process: asyncio.subprocess.Process | None = None
    refused: bool = False


class AlreadyRunning(ConfigurationRefused):
    """Another service uses this state folder."""

    code, action = (
        "already_running",
        "Use that one, stop it with `session-service stop`, or give another state folder.",
    )


def start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat, or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def running_parent(layout: Layout) -> int | None:
    """Return the pid of the parent that the pid file names, if it is that very process; else None."""
    try:
        noted = json.loads((layout.run / "parent.json").read_text())
        pid, started = int(noted["pid"]), int(noted["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if start_time(pid) == started else None


def _lock(layout: Layout) -> int:
    """Be the only parent of this state folder for as long as the descriptor is open.

    The pid file is for people and for `stop`: two that start in the same moment would both find none.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    lock = os.open(layout.root / "parent.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(lock)
        raise AlreadyRunning(f"another process starts the service in {layout.root}") from exc
    return lock


def _note(layout: Layout) -> None:
    path = layout.run / "parent.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"pid": os.getpid(), "start_time": start_time(os.getpid())}))
    draft.chmod(0o644)
    draft.replace(path)


def gateway_processes(settings: "Settings") -> int:
    """Return how many gateways there are, the one inside the service included."""
    chosen = settings.gateway.processes
    return len(os.sched_getaffinity(0)) if chosen == "auto" else int(chosen)


def _parts(settings: "Settings", layout: Layout, who: accounts.Accounts) -> list[_Part]:
    shared = (sys.executable, "-P", "-m", "session_service.app.part")
    # The service first: people wait for it, and it takes longest to start.
    names = [
        "service",
        *(f"gateway-{shard}" for shard in shards.names(gateway_processes(settings)) if shard != shards.FIRST),
        "host",
        *(f"worker-{number}" for number in range(settings.store.workers)),
    ]
    return [
        _Part(
            name=name,
            command=(*accounts.command_prefix(name, who), *shared, name, str(os.getpid())),
        )
        for name in names
    ]


class Parent:
    """Keeps the parts running until it is told to stop."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._layout = Layout(settings.state_folder)
        self._stop = asyncio.Event()
        self._status = 0
        self._parts: list[_Part] = []
        self._listening: tuple[socket.socket, ...] = ()
        self._tasks = Tasks(log.task_failed)
        self.successor: tuple[str, ...] | None = None
        """The command that is to take this process's place, once `run` has returned."""

    def become_successor(self) -> None:
        """Execute the successor in this process, the listening sockets open; returns only by an OSError."""
        assert self.successor is not None
        listening.hand_over(self._listening, os.environ)
        os.execvpe(self.successor[0], self.successor, os.environ)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a successor is to follow; returns the exit status.

        Raises:
            AlreadyRunning, ConfigurationRefused: nothing was started.
        """
        folders.check_owner(self._layout.root)
        if (pid := running_parent(self._layout)) is not None:
            raise AlreadyRunning(f"process {pid} runs the service in {self._layout.root}")
        who = accounts.find()
        if who.gateway_gid is None and gateway_processes(self._settings) > 1:
            raise ConfigurationRefused(
                f"the system account {accounts.GATEWAY_ACCOUNT} is missing: run ./deploy/up once, or make it "
                "with useradd --system, or set gateway.processes = 1"
            )
        lock = _lock(self._layout)
        try:
            self._listening = listening.open_sockets(self._settings.listen.host, self._settings.listen.port)
            listening.store(self._listening)
            folders.prepare(self._layout, who)
            _note(self._layout)
            return await self._run_parts(who)
        finally:
            os.close(lock)

    async def _run_parts(self, who: accounts.Accounts) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(
            signal.SIGUSR2, lambda: self._tasks.spawn(self._replace(), name="find-successor")
        )
        self._parts = _parts(self._settings, self._layout, who)
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(self._keep(part), name=f"keep-{part.name}") for part in self._parts]
            await self._stop.wait()
            await self._end(group)
            for keeper in keepers:
                keeper.cancel()
        (self._layout.run / "parent.json").unlink(missing_ok=True)
        return self._status

    async def _keep(self, part: _Part) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            began = loop.time()
            with self._handed_over(part.name) as (descriptors, variables):
                part.process = await asyncio.create_subprocess_exec(
                    *part.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env=self._environment(part.name) | variables,
                    start_new_session=True,
                    pass_fds=descriptors,
                )
            # Without the right to, a worker does not stand back for others' closes; nothing else changes.
            may_stand_back = part.name.startswith("worker") and priority.allow_return(part.process.pid)
            log.get_logger().debug(
                "part.started", name=part.name, pid=part.process.pid, may_stand_back=may_stand_back
            )
            status = await part.process.wait()
            if self._stop.is_set():
                return
            if status == REFUSED_STATUS:
                self._status = 1
                self._stop.set()
                return
            failures = 0 if loop.time() - began > HEALTHY_S else failures + 1
            pause = (
                RESTART_PAUSE_S[min(failures, len(RESTART_PAUSE_S)) - 1] if failures else RESTART_PAUSE_S[0]
            )
            log.get_logger().warning("part.ended", name=part.name, status=status, again_in_s=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)

    @contextlib.contextmanager
    def _handed_over(self, part: str) -> Iterator[tuple[list[int], dict[str, str]]]:
        """Yield the descriptors that a part inherits, and the variables that name them."""
        if part == "service":
            numbers = [one.fileno() for one in self._listening]
            yield numbers, {listening.PART_VARIABLE: ",".join(map(str, numbers))}
            return
        group = watch_group.open_group(self._layout.homes) if part.startswith("worker") else None
        if group is None:
            yield [], {}
            return
        try:
            yield [group], {watch_group.PART_VARIABLE: str(group)}
        finally:
            os.close(group)

    def _environment(self, part: str) -> dict[str, str]:
        names: tuple[str, ...] = KEPT_VARIABLES
        if part.startswith("worker"):
            names += STORE_VARIABLES
        elif part == "service":
            names += READY_VARIABLES
        keep = {name: os.environ[name] for name in names if name in os.environ}
        keep[SETTINGS_VARIABLE] = handover.pack(self._settings)
        keep["PYTHONUNBUFFERED"] = "1"
        return keep | heap.environment(part)

    def _reload(self) -> None:
        """Let the service read its certificate again."""
        for part in self._parts:
            if part.name == "service" and part.process is not None and part.process.returncode is None:
                part.process.send_signal(signal.SIGHUP)

    async def _replace(self) -> None:
        """Make room for the program that is to come, if it would start."""
        command = successor.find(self._layout)
        if self._stop.is_set() or not await successor.is_usable(self._layout, command):
            return
        log.get_logger().info("part.replaced", name="parent", command=command[0])
        self.successor = command
        self._stop.set()

    async def _end(self, group: asyncio.TaskGroup) -> None:
        """Intake first, then the workers, then the host; what does not end in time is killed."""
        for names in (("service",), ("gateway", "worker"), ("host",)):
            parts = [part for part in self._parts if part.name.split("-")[0] in names]
            enders = [group.create_task(_end_part(part), name=f"end-{part.name}") for part in parts]
            for ender in enders:
                await ender


SETTINGS_VARIABLE: Final = "SESSION_SERVICE_PART_SETTINGS"
"""The settings of this start, handed to the parts: no secret is in them, only the names of files that
hold secrets.
"""
KEPT_VARIABLES: Final = (
    "PATH", "LANG", "LC_ALL", "HOME", "TZ", "TERM", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
READY_VARIABLES: Final = ("NOTIFY_SOCKET",)
"""The service says when it is ready; nobody else has anything to tell who started us."""
STORE_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
"""Credentials of the object store go to the workers alone."""


async def _end_part(part: _Part) -> None:
    process = part.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def parse_settings() -> "Settings":
    """Return the settings that the parent handed to this part."""
    return handover.unpack(os.environ.pop(SETTINGS_VARIABLE))

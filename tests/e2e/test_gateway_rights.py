"""Gateway processes of the real service own nothing but their links: they open no desktop, end nobody, and
one that stands still holds no desktop that somebody else has taken over.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from session_service.base.ids import ulid_to_hex
from session_service.base.layout import Layout
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream, StreamEnded
from session_service.core.shards import shard_of
from tests.e2e.test_connect import PASSWORD, Seat
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow
PROCESSES = 3
REACHED = """
import os, socket, sys
for path in sys.argv[1].split(","):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("opened", path)
    except PermissionError:
        pass
for pid in sys.argv[2].split(","):
    try:
        os.kill(int(pid), 0)
        print("could end", pid)
    except PermissionError:
        pass
"""


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with RunningService(
        hold_s=60, template="bare", settings={"gateway.processes": str(PROCESSES)}
    ) as running:
        await running.call(
            "POST", "/api/v1/users", {"name": "ada", "role": "administrator", "password": PASSWORD}
        )
        yield running


async def session_outside(service: RunningService) -> tuple[str, str, Path]:
    """Return a session that a gateway process carries, its shard, and its home."""
    for number in range(PROCESSES * 3):
        made = await service.api("POST", "/workspaces", {"name": f"w {number}"})
        session_id: str = (await service.api("POST", "/sessions", {"workspace_id": made["id"]}))["id"]
        await service.until_state(session_id, "active", "held")
        shard = shard_of(session_id, PROCESSES)
        if shard != "0":
            homes = Layout(service.state_folder).homes / ulid_to_hex(made["id"])
            (home,) = homes.iterdir()
            return session_id, shard, home
    raise AssertionError("all sessions are carried inside")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a process is, as the kernel tells."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def of(cls, pid: int) -> "Identity":
        lines = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        assert int(lines["CapEff"], 16) == 0 or os.geteuid() != 0
        return cls(
            uid=int(lines["Uid"].split()[1]),
            gid=int(lines["Gid"].split()[1]),
            groups=tuple(map(int, lines["Groups"].split())),
        )

    def command(self) -> tuple[str, ...]:
        """Return the words before a command that make it this one."""
        who = (f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--no-new-privs")
        return (shutil.which("setpriv") or "/usr/bin/setpriv", *who, "--bounding-set=-all", "--")


async def test_a_gateway_process_opens_no_desktop_and_can_end_nobody(service: RunningService) -> None:
    """Each is a user of its own in a group that has two sockets and nothing else; where we are no root, all
    parts are one user, and nothing is kept from anybody.
    """
    await session_outside(service)
    pids = {name: service.pid_of(name) or 0 for name in ("gateway-1", "gateway-2", "service", "host")}
    first, second = Identity.of(pids["gateway-1"]), Identity.of(pids["gateway-2"])
    if os.geteuid() != 0:
        assert first.uid == second.uid == os.geteuid()
        return
    assert len({first.uid, second.uid, Identity.of(pids["service"]).uid}) == 3
    assert first.gid == second.gid != Identity.of(pids["service"]).gid
    assert first.groups == second.groups == ()
    layout = Layout(service.state_folder)
    desktops = list(layout.desktops.glob("*/run/rfb.sock"))
    assert desktops
    forbidden = [*desktops, layout.api_socket, layout.host_socket, layout.worker_socket(0)]
    trying = await asyncio.create_subprocess_exec(
        *first.command(), sys.executable, "-I", "-c", REACHED, ",".join(map(str, forbidden)),
        ",".join(str(pid) for name, pid in pids.items() if name != "gateway-1"),
        cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await trying.communicate()
    assert (trying.returncode, said) == (0, b"")


async def test_what_a_stopped_process_had_read_of_a_displaced_link_reaches_no_desktop(
    service: RunningService,
) -> None:
    """It is stopped with what its user typed in its socket. Somebody else takes over by the service itself,
    and is not answered before the service has cut the stopped one's desktop.
    """
    session_id, shard, home = await session_outside(service)
    older, newer = Seat(service, session_id), Seat(service, session_id)
    newer.stream = by_the_service(service, newer)
    gateway = service.pid_of(f"gateway-{shard}")
    assert gateway is not None
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as looking:
        await stack.enter_async_context(older.stream)
        old = looking.create_task(look(older))
        await until_typed(older, home / "older.txt")
        os.kill(gateway, signal.SIGSTOP)
        try:
            await older.type("touch stolen.txt\n")
            await stack.enter_async_context(newer.stream)
            new = looking.create_task(look(newer))
            await until_typed(newer, home / "newer.txt")
        finally:
            os.kill(gateway, signal.SIGCONT)
        await old
        await until_typed(newer, home / "last.txt")
        assert not (home / "stolen.txt").exists()
        assert newer.stream.number == 1
        new.cancel()


def by_the_service(service: RunningService, seat: Seat) -> ResumableStream:
    """Return a stream that dials the service itself, whatever process its tickets name."""
    ask = seat.stream._tickets

    async def ticket() -> Ticket:
        given = await ask()
        return Ticket(
            ticket=given.ticket,
            expires_at=given.expires_at,
            mode=given.mode,
            path="/s/0/ws",
            stock_path=given.stock_path,
        )

    return ResumableStream(service.address, ticket)


async def look(seat: Seat) -> None:
    """Until it is told that somebody else has taken over."""
    with contextlib.suppress(StreamEnded):
        await seat.look()


async def until_typed(seat: Seat, marker: Path) -> None:
    """Type until the desktop has done it: at first nobody has the keyboard."""
    async with asyncio.timeout(60):
        while not marker.exists():
            if seat.down > 1000:
                await seat.type(f"touch {marker.name}\n")
            await asyncio.sleep(0.3)

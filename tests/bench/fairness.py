"""`python -m tests.bench.fairness`: final checkpoints of small homes, alone and beside one large first save.

Two real worker processes over one store and the queue that the service uses; only the registry and the
desktops are missing. Each small home gets new files before each of its final checkpoints. The large home is
of bytes that do not shrink, and its save is a periodic one, so it may not take the last worker. The ratio of
the medians says what a close pays for somebody else's photographs; the goal is 2.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.base.layout import Layout
from session_service.checkpoints import worker
from session_service.checkpoints.key_sources import KeySources
from session_service.checkpoints.workers import Workers
from session_service.ports.checkpoints import CheckpointResult, SavePlan, WorkspaceName

GOAL_RATIO: Final = 2.0
WORKERS: Final = 2
MIB: Final = 1024 * 1024
FILE_BYTES: Final = 8 * MIB
SMALL_FILES: Final = 50
TENANT: Final = "01J0000000000000000000000T"
SESSION: Final = "01J0000000000000000000000S"
START_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A workspace and where its files lie."""

    workspace: WorkspaceName
    folder: Path


def name_of(number: int) -> WorkspaceName:
    """Return the workspace with a number; 0 is the large one."""
    return WorkspaceName(tenant_id=TENANT, workspace_id=f"01J{number:023d}")


def serve(root: Path, number: int, upload_mib_per_s: int) -> None:
    """Be one worker process."""
    layout = Layout(root)
    told = worker.WorkerSettings(
        layout=layout,
        number=number,
        store_url=layout.objects.as_uri(),
        own_store=True,
        credentials_file=None,
        keys=KeySources(file=layout.keys / "master.key"),
        service_uid=os.geteuid(),
        service_gid=os.getegid(),
        workers=WORKERS,
        upload_bytes_per_s=upload_mib_per_s * MIB or None,
    )
    asyncio.run(worker.run(told, asyncio.Event()))


def start(root: Path, number: int, upload_mib_per_s: int) -> "subprocess.Popen[bytes]":
    """Start one worker process."""
    limit = ["--upload-mib-per-s", str(upload_mib_per_s)]
    words = ["--serve", str(number), "--root", str(root), *limit]
    return subprocess.Popen([sys.executable, "-m", "tests.bench.fairness", *words])


@asynccontextmanager
async def running(root: Path, upload_mib_per_s: int) -> AsyncIterator[Workers]:
    """Start the worker processes and give what hands work to them; end them afterwards."""
    layout = Layout(root)
    for folder in (layout.keys, layout.cache, layout.homes, layout.worker_socket(0).parent):
        folder.mkdir(parents=True, exist_ok=True)
    layout.seal_key.write_bytes(os.urandom(32))
    started = [start(root, number, upload_mib_per_s) for number in range(WORKERS)]
    sockets = [layout.worker_socket(number) for number in range(WORKERS)]
    workers = Workers(sockets)
    try:
        async with asyncio.timeout(START_S):
            while not all(socket.exists() for socket in sockets):  # noqa: ASYNC110 - another process makes them
                await asyncio.sleep(0.05)
        yield workers
    finally:
        await workers.close()
        for process in started:
            process.kill()
            process.wait()


async def begun(workers: Workers, number: int) -> Home:
    """Take a workspace over and make its home, empty."""
    workspace = name_of(number)
    await workers.take_over(workspace, fence_at_least=1, node_id="n", session_id=SESSION, registry_epoch=1)
    report = await workers.new_home(workspace, fence=1, seq=None, owner=None)
    return Home(workspace=workspace, folder=Path(report.home))


def fill(home: Home, total: int, file_bytes: int, label: str) -> None:
    """Write files of bytes that do not shrink."""
    for number in range(max(1, total // file_bytes)):
        (home.folder / f"{label}-{number}").write_bytes(os.urandom(file_bytes))


async def saved(workers: Workers, home: Home, reason: str) -> CheckpointResult:
    """Save a home; final ones say so."""
    final = reason == "final"
    plan = SavePlan(
        workspace=home.workspace,
        session_id=SESSION,
        fence=1,
        home=str(home.folder),
        reason=reason,
        frozen=final,
        final=final,
    )
    return await workers.save(plan)


async def closes(workers: Workers, homes: list[Home], label: str, until: asyncio.Future[object] | None,
                 rounds: int) -> list[float]:  # fmt: skip
    """Return the seconds of final checkpoints, one after another; only those that ended before `until`."""
    took: list[float] = []
    for turn in range(rounds):
        for home in homes:
            await asyncio.to_thread(fill, home, SMALL_FILES * 8192, 8192, f"{label}-{turn}")
            began = time.monotonic()
            await saved(workers, home, "final")
            if until is not None and until.done():
                return took
            took.append(time.monotonic() - began)
    return took


async def measure(told: argparse.Namespace, root: Path) -> float:
    """Measure both ways in turn, print the figures and return the ratio."""
    async with running(root, told.upload_mib_per_s) as workers:
        large = await begun(workers, 0)
        small = [await begun(workers, number) for number in range(1, told.homes + 1)]
        await asyncio.to_thread(fill, large, told.large_mb * MIB, FILE_BYTES, "photo")
        await closes(workers, small, "warm", None, 1)
        before = await closes(workers, small, "alone", None, told.rounds)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(saved(workers, large, "periodic"))
            beside = await closes(workers, small, "beside", saving, 10_000)
        large_s = time.monotonic() - began
        after = await closes(workers, small, "after", None, told.rounds)
    if not beside:
        raise errors.BadInput("the large home was saved before one close ended: give a larger --large-mb")
    alone = before + after
    ratio = statistics.median(beside) / statistics.median(alone)
    for label, took in (("alone", alone), ("beside", beside)):
        print(f"{label}: {len(took)} closes, median {statistics.median(took):.3f} s, worst {max(took):.3f} s")
    print(f"large: {told.large_mb} MiB in {large_s:.1f} s; load {os.getloadavg()[0]:.1f}")
    print(f"ratio {ratio:.2f}, goal {GOAL_RATIO:.0f}: {'met' if ratio <= GOAL_RATIO else 'missed'}")
    return ratio


def main() -> None:
    """Read the options and measure, or be a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large-mb", type=int, default=1024, help="the large home; 10240 for the full one")
    parser.add_argument("--homes", type=int, default=4, help="small homes")
    parser.add_argument("--rounds", type=int, default=4, help="closes of each home, before and after")
    parser.add_argument("--upload-mib-per-s", type=int, default=0, help="as store.upload_mib_per_s")
    parser.add_argument("--root", type=Path, help="a folder on the disk to be measured")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve is not None:
        serve(told.root, told.serve, told.upload_mib_per_s)
        return
    with tempfile.TemporaryDirectory(dir=told.root, prefix="fairness-") as folder:
        asyncio.run(measure(told, Path(folder)))


if __name__ == "__main__":
    main()

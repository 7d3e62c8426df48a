"""One phase of ours in a process of its own, as the peers have one: a checkpoint or a restore.

    python _storage_phase.py WHAT --store URL [--keys FILE] --cache FOLDER --home FOLDER [--twice]

Prints one JSON object: seconds inside of this process, and what the call told. WHAT is birth, checkpoint or
restore (then --home is where to), or notified: several checkpoints of one process that watches the home, of
no change and of a minute each, and one of a day. With --resident the checkpoint is taken a second time, and
that one told.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Final

from session_service.app import heap
from storage import Progress, Storage, StoreSpec, WorkspaceRef, open_watching
from storage.watch.fanotify import open_group

NOTIFIED_TIMES: Final = 5
SETTLE_S: Final = 2.2
"""A file that is younger than this when it is read is read once more."""
REF = WorkspaceRef(tenant="aa" * 8, workspace="bb" * 8)


async def run(asked: argparse.Namespace) -> dict[str, float]:
    """Do what was asked once, or twice."""
    heap.settle()  # as a worker does when it has started
    home = Path(asked.home)
    watching = open_watching(home, group=open_group(home)) if asked.what == "notified" else None
    opened = await Storage.open(
        StoreSpec(url=asked.store, credentials_file=asked.keys),
        master_key=bytes(32),
        cache_folder=Path(asked.cache),
        clock_ms=lambda: time.time_ns() // 1_000_000,
        watching=watching,
    )
    async with opened:
        if asked.what == "birth":
            await opened.take_over(REF, fence_at_least=1, node="n", session="s", registry_epoch=1)
            return {}
        head = await opened.head(REF)
        assert head is not None
        if asked.what == "restore":
            assert head.newest is not None
            began = time.perf_counter()
            usable: list[float] = []

            def tell(progress: Progress) -> None:
                if progress.stage == "usable":
                    usable.append(time.perf_counter() - began)

            report = await opened.restore(REF, seq=head.newest.seq, into=Path(asked.home), progress=tell)
            assert report.whole
            return {"inside_s": time.perf_counter() - began, "usable_s": usable[0]}
        if asked.what == "notified":
            return await notified(opened, Path(asked.home), head.fence, asked.scale)
        told: dict[str, float] = {}
        for _ in range(2 if asked.resident else 1):
            began = time.perf_counter()
            saved = await opened.checkpoint(
                REF, home=Path(asked.home), fence=head.fence, session="s", reason="bench"
            )
            told = {
                "inside_s": time.perf_counter() - began,
                "stored": saved.stored_bytes,
                "read_files": saved.read_files,
            }
        return told


async def notified(opened: Storage, home: Path, fence: int, scale: float) -> dict[str, float]:
    """Take the looks that a running service takes: everything once, then what the kernel tells of."""
    seconds: dict[str, list[float]] = {}

    async def take(name: str = "") -> None:
        began, cpu = time.perf_counter(), time.process_time()
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="bench")
        if name:
            seconds.setdefault(f"{name}_s", []).append(time.perf_counter() - began)
            seconds.setdefault(f"{name}_cpu_s", []).append(time.process_time() - cpu)

    async def change(how: str, seed: int) -> None:
        script = str(Path(__file__).with_name("_storage_home.py"))
        command = [sys.executable, "-P", script, how, str(home), str(seed), str(scale)]
        changing = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await changing.wait() == 0

    await take()
    await take()
    for number in range(NOTIFIED_TIMES):
        await take("no_change")
        await change("minute", 100 + number)
        await take("tick")
        await asyncio.sleep(SETTLE_S)
        await take()  # of what was too young
    await change("day", 200)
    await take("day")
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("what", choices=("birth", "checkpoint", "notified", "restore"))
    made.add_argument("--store", required=True)
    made.add_argument("--keys")
    made.add_argument("--cache", required=True)
    made.add_argument("--home", required=True)
    made.add_argument("--resident", action="store_true")
    made.add_argument("--scale", type=float, default=1.0, help="share of the full size that the home has")
    print(json.dumps(asyncio.run(run(made.parse_args()))))


if __name__ == "__main__":
    main()

"""One phase of ours in a process of its own, as the peers have one: a checkpoint or a restore.

    python _storage_phase.py WHAT --store URL [--keys FILE] --cache FOLDER --home FOLDER [--twice]

Prints one JSON object: seconds inside of this process, and what the call told. WHAT is birth, checkpoint or
restore (then --home is where to). With --resident the checkpoint is taken a second time, and that one told.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from storage import Progress, Storage, StoreSpec, WorkspaceRef

REF = WorkspaceRef(tenant="aa" * 8, workspace="bb" * 8)


async def run(asked: argparse.Namespace) -> dict[str, float]:
    """Do what was asked once, or twice."""
    opened = await Storage.open(
        StoreSpec(url=asked.store, credentials_file=asked.keys),
        master_key=bytes(32),
        cache_folder=Path(asked.cache),
        clock_ms=lambda: time.time_ns() // 1_000_000,
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


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("what", choices=("birth", "checkpoint", "restore"))
    made.add_argument("--store", required=True)
    made.add_argument("--keys")
    made.add_argument("--cache", required=True)
    made.add_argument("--home", required=True)
    made.add_argument("--resident", action="store_true")
    print(json.dumps(asyncio.run(run(made.parse_args()))))


if __name__ == "__main__":
    main()

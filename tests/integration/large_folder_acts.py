"""What is done with the large folder of `test_storage_large_folder.py`, each act in a child process of its
own, so that its peak of memory is its own. Answers in plain data.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import storage
from tests.fakes.storage_rig import MASTER_KEY, REF, take

FOLDER = b"many"
PAGES = 8
Answer = dict[str, Any]


def name_of(number: int) -> str:
    """Return a name; they ascend as their numbers do."""
    return f"{number:07d} of many"


def fill(folder: Path, count: int) -> None:
    """Make a home with one folder of so many files, some with a few bytes in them."""
    many = folder / "home" / os.fsdecode(FOLDER)
    many.mkdir(parents=True)
    fd = os.open(many, os.O_RDONLY)
    for number in range(count):
        os.mknod(name_of(number), 0o600, dir_fd=fd)
    os.close(fd)
    for number in range(0, count, 1_000):
        (many / name_of(number)).write_bytes(b"%d" % number)


async def save(opened: storage.Storage, folder: Path, _: int) -> Answer:
    """Take one checkpoint of the home as it is."""
    fence = await take(opened)
    saved = await opened.checkpoint(
        REF, home=folder / "home", fence=fence, session="session of node", reason="test"
    )
    return {
        "entries": saved.info.entries,
        "unchanged": saved.unchanged,
        "stored_bytes": saved.stored_bytes,
        "complete": saved.info.complete,
    }


async def verify(opened: storage.Storage, folder: Path, _: int) -> Answer:
    report = await opened.verify(REF, "full")
    return {"faults": list(report.faults), "entries": report.entries}


async def pages(opened: storage.Storage, folder: Path, count: int) -> Answer:
    """Read pages all over the folder, each as a process does that never saw it; then find one file."""
    seq = (await opened.list(REF))[-1].seq
    reads, wrong = [], []
    for number in range(0, count, count // PAGES):
        before = opened.traffic().requests["get"]
        after = b"" if not number else name_of(number - 1).encode()
        page = await opened.folder(REF, seq=seq, path=FOLDER, after=after, limit=200)
        reads.append(opened.traffic().requests["get"] - before)
        wanted = [name_of(one).encode() for one in range(number, number + 200)]
        if [entry.name for entry in page.entries] != wanted or not page.more:
            wrong.append(number)
    last = name_of(count - 1)
    found = await opened.folder(REF, seq=seq, path=FOLDER, prefix=last.encode())
    before = opened.traffic().requests["get"]
    content = b"".join(
        [part async for part in opened.read(REF, seq=seq, path=FOLDER + b"/" + name_of(1_000).encode())]
    )
    return {
        "reads": reads,
        "wrong": wrong,
        "found": [os.fsdecode(entry.name) for entry in found.entries],
        "file_reads": opened.traffic().requests["get"] - before,
        "content": content.decode(),
    }


async def all_pages(opened: storage.Storage, folder: Path, _: int) -> Answer:
    """Go through all of it, page by page."""
    seq = (await opened.list(REF))[-1].seq
    seen, after, more = 0, b"", True
    while more:
        page = await opened.folder(REF, seq=seq, path=FOLDER, after=after)
        assert all(a.name < b.name for a, b in zip(page.entries, page.entries[1:], strict=False))
        assert page.entries[0].name > after
        seen, after, more = seen + len(page.entries), page.entries[-1].name, page.more
    return {"seen": seen}


async def compare(opened: storage.Storage, folder: Path, _: int) -> Answer:
    """Compare the first checkpoint with the last."""
    listed = await opened.list(REF)
    before = opened.traffic().requests["get"]
    found = await opened.diff(REF, before=listed[0].seq, after=listed[-1].seq)
    return {
        "changes": [[change.what, os.fsdecode(change.path)] for change in found.changes],
        "reads": opened.traffic().requests["get"] - before,
    }


async def archive(opened: storage.Storage, folder: Path, _: int) -> Answer:
    """Download all of it as a zip, which is kept, and as a tar, which is not."""
    seq = (await opened.list(REF))[-1].seq
    with (folder / "all.zip").open("wb") as file:
        async for piece in opened.archive(REF, seq=seq, kind="zip"):
            file.write(piece)
    total = 0
    async for piece in opened.archive(REF, seq=seq, kind="tar"):
        total += len(piece)
    return {"tar_bytes": total}


async def restore(opened: storage.Storage, folder: Path, _: int) -> Answer:
    seq = (await opened.list(REF))[-1].seq
    report = await opened.restore(REF, seq=seq, into=folder / "back")
    return {"entries": report.entries, "whole": report.whole}


ACTS: dict[str, Callable[[storage.Storage, Path, int], Awaitable[Answer]]] = {
    act.__name__: act for act in (save, verify, pages, all_pages, compare, archive, restore)
}


async def _run(act: str, folder: Path, count: int) -> Answer:
    opened = await storage.Storage.open(
        storage.StoreSpec(url=f"file://{folder}/objects?create=true"),
        master_key=MASTER_KEY,
        cache_folder=folder / "cache",
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )
    async with opened:
        await opened.list(REF)  # loads what is loaded late
        before, cpu = _memory("VmRSS"), _cpu_s()
        answer = await ACTS[act](opened, folder, count)
        return {**answer, "peak_bytes": _memory("VmHWM") - before, "cpu_s": round(_cpu_s() - cpu, 2)}


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1_024
    raise AssertionError(what)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))

"""What happens on the small disks of `test_small_disk.py`; each runs in a child process and answers in
plain data.
"""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

from storage.errors import StoreFull, TargetFull
from storage.objects.folder import FolderStore
from storage.scan.entry import RestoreFacts, RestorePolicy
from storage.scan.extract import Extractor, require_space
from storage.scan.walk import walk

MIB = 1 << 20


def fill_a_store(folder: Path) -> list[Any]:
    async def fill() -> list[Any]:
        store = await FolderStore.open(folder / "store", create=True)
        await store.create("c/1", b"good")
        told = None
        try:
            await store.create("p/1", bytes(16 * MIB))
        except StoreFull as exc:
            told = [exc.code, exc.retryable, exc.facts["errno"]]
        listed = [info.name async for info in store.list("")]
        await store.create("c/2", b"after")
        answer = [told, listed, (await store.get("c/1")).decode(), await store.head("c/2")]
        await store.close()
        return answer

    return asyncio.run(fill())


def fill_a_store_with_names(folder: Path) -> list[Any]:
    async def fill() -> list[Any]:
        store = await FolderStore.open(folder / "store", create=True)
        made = 0
        try:
            for number in range(1_000):
                await store.create(f"c/{number}", b"")
                made += 1
        except StoreFull as exc:
            told = [exc.code, exc.facts["errno"]]
        listed = [info.name async for info in store.list("c/")]
        await store.close()
        return [told, len(listed) == made]

    return asyncio.run(fill())


def fill_a_restore(folder: Path) -> list[Any]:
    root = folder / "fresh"
    root.mkdir()
    (folder / "last good state").write_bytes(b"kept")
    fd = os.open(root, os.O_RDONLY)
    told: list[Any] = []
    try:
        require_space(fd, bytes_needed=16 * MIB, entries_needed=1)
    except TargetFull as exc:
        told.append(exc.facts["what"])
    extractor = Extractor(fd, RestorePolicy())
    facts = RestoreFacts(mode=0o600, uid=None, gid=None, mtime_s=0, mtime_ns=0, size=16 * MIB)
    writer = extractor.file(b"large", facts)
    try:
        for at in range(0, 16 * MIB, MIB):
            writer.write(at, bytes(MIB))
    except TargetFull as exc:
        told.append(exc.facts["errno"])
    extractor.close()
    os.close(fd)
    return [told, sorted(os.listdir(folder)), (folder / "last good state").read_bytes().decode()]


def walk_over_a_mount(folder: Path) -> list[Any]:
    """The home is the parent; the other file system lies in it."""
    (folder / "not ours").write_bytes(b"x")
    fd = os.open(folder.parent, os.O_RDONLY)
    seen = [[found.path.decode(), errno.errorcode.get(found.error or 0)] for found in walk(fd)]
    os.close(fd)
    return seen

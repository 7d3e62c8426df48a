"""Whole restores on the small disks of `test_storage_restore_limits.py`; each runs in a child process."""

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import storage
from session_service.base import errors
from session_service.cli import unpacking
from storage.objects.memory import MemoryBucket
from tests.fakes.storage_rig import REF, Node, take

MIB = 1 << 20


def restore_onto_a_full_disk(folder: Path) -> list[Any]:
    """The disk tells that it is too small; then it tells nothing of it and fills up in the middle."""
    return asyncio.run(_on_a_full_disk(folder))


async def _on_a_full_disk(folder: Path) -> list[Any]:
    home = folder.parent / "home"
    home.mkdir()
    for number in range(60):
        (home / f"file{number:02}").write_bytes(os.urandom(100_000))
    opened = Node(MemoryBucket(), folder.parent / "node").open()
    fence = await take(opened)
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    (folder / "others").write_bytes(b"kept")
    told: list[Any] = []
    try:
        await opened.restore(REF, seq=saved.info.seq, into=folder / "back", resumable=True)
    except storage.TargetFull as exc:
        told.append([exc.facts.get("what"), len(list((folder / "back").iterdir()))])
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    ballast.write_bytes(bytes(int(free.f_bavail * free.f_frsize) - 2 * MIB))
    storage_space = "storage.ops.restore.require_space"
    module, _, name = storage_space.rpartition(".")
    vars(__import__(module, fromlist=[name]))[name] = lambda *_, **__: None
    try:
        await opened.restore(REF, seq=saved.info.seq, into=folder / "back", resumable=True)
    except storage.TargetFull as exc:
        told.append([exc.facts.get("errno"), exc.code])
    made = len(list((folder / "back").iterdir()))
    ballast.unlink()
    for number in range(30):
        (home / f"file{number:02}").unlink()
    fewer = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    report = await opened.restore(REF, seq=fewer.info.seq, into=folder / "fewer", resumable=True)
    return [told, 0 < made < 60, report.whole, (folder / "others").read_bytes().decode()]


def unpack_onto_a_full_disk(folder: Path) -> list[Any]:
    """An archive that is larger than the disk: what is said, and what stands beside it."""
    (folder / "others").write_bytes(b"kept")
    member = tarfile.TarInfo("large")
    member.size = 9 * MIB

    async def pieces() -> AsyncIterator[bytes]:
        yield member.tobuf(tarfile.PAX_FORMAT)
        for _ in range(9):
            yield os.urandom(MIB)
        yield bytes(1_024)

    try:
        asyncio.run(unpacking.unpacked(pieces(), folder / "back", lambda piece: None))
    except errors.NoRoom as exc:
        return [str(exc), (folder / "others").read_bytes().decode()]
    return []

"""Saves and restores of somebody who has a quota, for `test_storage_quota.py`; plain data comes back.

`limited` is the folder with the quota, `lift` makes it wide enough. Nothing here knows who enforces it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import storage
from storage.objects.folder import FolderStore
from tests.fakes.home import picture
from tests.fakes.storage_rig import IMPATIENT, MASTER_KEY, REF, take

FILES = 40
FILE_BYTES = 50_000


async def open_in(folder: Path, *, cache: Path) -> storage.Storage:
    store = await FolderStore.open(folder, create=True)
    return storage.Storage(
        store,
        master_key=MASTER_KEY,
        cache_folder=cache,
        fresh=os.urandom,
        clock_ms=lambda: 1_700_000_000_000,
        retry=IMPATIENT,
    )


def fill(home: Path) -> None:
    for number in range(FILES):
        folder = home / f"folder{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(os.urandom(FILE_BYTES))


async def save_into(limited: Path, outside: Path, lift: Callable[[], None]) -> dict[str, Any]:
    """Save what fits, then what does not; then lift the quota and save again."""
    home = outside / "home"
    home.mkdir()
    (home / "first").write_bytes(b"before")
    opened = await open_in(limited / "store", cache=limited / "cache")
    fence = await take(opened)
    first = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    fill(home)
    answer: dict[str, Any] = {}
    try:
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    except storage.StorageError as exc:
        answer["told"] = [exc.code, exc.retryable]
    answer["listed"] = [info.seq for info in await opened.list(REF)] == [first.info.seq]
    await opened.restore(REF, seq=first.info.seq, into=outside / "back")
    answer["first"] = (outside / "back" / "first").read_bytes().decode()
    answer["sound while full"] = (await opened.verify(REF, "full")).sound
    lift()
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    await opened.close()
    cold = await open_in(limited / "store", cache=outside / "cold cache")
    await cold.restore(REF, seq=saved.info.seq, into=outside / "after")
    answer["after"] = picture(outside / "after") == picture(home)
    answer["sound after"] = (await cold.verify(REF, "full")).sound
    await cold.close()
    return answer


async def restore_into(limited: Path, outside: Path, lift: Callable[[], None]) -> dict[str, Any]:
    """Restore what does not fit; then lift the quota and take the restore up."""
    home = outside / "home"
    home.mkdir()
    fill(home)
    (limited / "others").write_bytes(b"kept")
    opened = await open_in(outside / "store", cache=outside / "cache")
    fence = await take(opened)
    saved = await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="t")
    answer: dict[str, Any] = {}
    try:
        await opened.restore(REF, seq=saved.info.seq, into=limited / "back", resumable=True)
    except storage.StorageError as exc:
        answer["told"] = [exc.code, exc.facts.get("errno")]
    made = sum(path.is_file() for path in (limited / "back").rglob("*"))
    answer["partly"] = made < FILES
    answer["others"] = (limited / "others").read_bytes().decode()
    lift()
    report = await opened.restore(REF, seq=saved.info.seq, into=limited / "back", resumable=True)
    answer["whole"] = report.whole and picture(limited / "back") == picture(home)
    await opened.close()
    return answer

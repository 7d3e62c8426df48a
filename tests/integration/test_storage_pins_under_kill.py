"""A download, upkeep and an owner as processes of their own, and SIGKILL: what is being read stays, and what
the dead were reading does not stay for ever.

The pin of a download lies in the log, so it is seen by the upkeep of any other process; nothing on the
reader's machine has to survive.
"""

import asyncio
import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import storage
from tests.fakes.child import child_environment
from tests.fakes.storage_rig import KEEP_ONE, MASTER_KEY, REF, take

HOMES = 8
LIFE = """
import asyncio, sys, time
from pathlib import Path
import storage
from storage.repository import fold, repack
from tests.integration.test_storage_pins_under_kill import KEEP_ONE, opened_at
from tests.fakes.storage_rig import REF

fold.ENTRIES_MIN, repack.DEAD_BYTES_MIN, repack.SMALL_PACKS_MIN = 5, 1, 3

async def main(role, place, cache, seq):
    async with await opened_at(place, Path(cache)) as opened:
        if role == "tidy":
            while True:
                report = await opened.collect(REF, policy=KEEP_ONE, actor="test")
                print("did", report.refused, flush=True)
        pieces = opened.archive(REF, seq=seq)
        with open(Path(cache) / "download.zip", "wb") as out:
            out.write(await anext(pieces))
            print("reading", flush=True)
            sys.stdin.readline()
            async for piece in pieces:
                out.write(piece)
        print("read", flush=True)

role, place, cache, seq = sys.argv[1:5]
asyncio.run(main(role, place, cache, int(seq)))
"""


async def opened_at(place: str, cache: Path) -> storage.Storage:
    return await storage.Storage.open(
        storage.StoreSpec(url=place),
        master_key=MASTER_KEY,
        cache_folder=cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )


class Life:
    """One child process."""

    def __init__(self, role: str, place: str, cache: Path, seq: int = 0) -> None:
        self.command = [sys.executable, "-c", LIFE, role, place, str(cache), str(seq)]
        self.cache = cache

    async def __aenter__(self) -> "Life":
        self.cache.mkdir(parents=True, exist_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def told(self, wanted: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        while line := (await self.process.stdout.readline()).decode():
            if line.split()[0] == wanted:
                return
        raise AssertionError((await self.process.stderr.read()).decode())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


async def filled(opened: storage.Storage, home: Path) -> list[storage.CheckpointInfo]:
    """Save homes that have little in common, so that old ones hold space of their own."""
    await take(opened)
    infos = []
    for number in range(HOMES):
        home.mkdir(exist_ok=True)
        (home / "number").write_text(str(number))
        (home / "large").write_bytes(os.urandom(1_300_000 if number % 2 else 300_000))
        saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
        infos.append(saved.info)
    return infos


def pinned(infos: list[storage.CheckpointInfo]) -> list[int]:
    return [info.seq for info in infos if info.pinned]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.soak)])
async def test_what_is_read_outlives_killed_upkeep_and_a_killed_reader_holds_nothing_for_ever(
    tmp_path, kills
):
    place = f"{(tmp_path / 'store').as_uri()}?create=true"
    async with await opened_at(place, tmp_path / "owner") as opened:
        seq = (await filled(opened, tmp_path / "home"))[0].seq
        async with Life("read", place, tmp_path / "reader", seq) as reader:
            await reader.told("reading")
            for number in range(kills):
                async with Life("tidy", place, tmp_path / "tidy") as tidy:
                    await tidy.told("did")
                    await asyncio.sleep(number * 0.05)  # somewhere in its next run
            assert pinned(await opened.list(REF)) == [seq], "its own process is not the one that tidies"
            reader.process.stdin.write(b"\n")
            await reader.told("read")
        with zipfile.ZipFile(io.BytesIO((tmp_path / "reader" / "download.zip").read_bytes())) as back:
            assert back.testzip() is None
            [name] = [one for one in back.namelist() if one.endswith("number")]
            assert back.read(name) == b"0"
        assert pinned(await opened.list(REF)) == []

        async with Life("read", place, tmp_path / "dead", seq) as dead:
            await dead.told("reading")
            await dead.kill()
        async with Life("tidy", place, tmp_path / "tidy") as tidy:
            for _ in range(3):
                await tidy.told("did")
        assert pinned(await opened.list(REF)) == [seq], "nobody can know yet that it is dead"
        before = _stored(tmp_path / "store")
    async with await opened_at(place, tmp_path / "next owner") as opened:
        await take(opened, node="next")
        assert pinned(await opened.list(REF)) == []
        for _ in range(3):
            assert (await opened.collect(REF, policy=KEEP_ONE, actor="test")).refused == ""
        assert seq not in [info.seq for info in await opened.list(REF)]
        assert (await opened.verify(REF, "full")).faults == ()
    assert _stored(tmp_path / "store") < before - 200_000


def _stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

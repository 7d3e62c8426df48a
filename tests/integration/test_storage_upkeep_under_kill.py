"""Upkeep and saving as processes of their own over real stores, each killed at random moments, while a third
one restores. What was acknowledged is there, whole, and nothing else is.

Limits are small in the children, so that every run folds, repacks, retires and deletes.
"""

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import storage
from tests.fakes.child import child_environment
from tests.fakes.s3_fixtures import minio_server, seaweedfs_server
from tests.fakes.storage_rig import MASTER_KEY, REF, take

__all__ = ["minio_server", "seaweedfs_server"]
FILES = 5
LASTING_FILES = 13
FINISHED = ("did", "saved")
"""What a process tells when it has done one thing whole."""
SOAK_LIVES = 42
"""Of each role in one test of the soak lane: two roles, three stores and four seeds make some 1,000 kills."""
ROUNDS_MAX = 30
"""Saves and runs after the kills until every kind of upkeep has happened."""
LIFE = """
import asyncio, sys, time
from pathlib import Path
import storage
from storage.repository import fold, repack, snapshots
from tests.integration.test_storage_upkeep_under_kill import KEEP, REF, MASTER_KEY, make_home, spec_of

fold.ENTRIES_MIN, repack.DEAD_BYTES_MIN, repack.SMALL_PACKS_MIN, snapshots.ENTRIES = 5, 1, 4, 8

async def main(role, url, keys, cache, number):
    async with await storage.Storage.open(spec_of(url, keys), master_key=MASTER_KEY,
            cache_folder=Path(cache), clock_ms=lambda: time.time_ns() // 1_000_000) as opened:
        print("ready", flush=True)
        while True:
            if role == "tidy":
                report = await opened.collect(REF, policy=KEEP, actor="test")
                if report.refused and not report.contended:
                    print("refused", report.refused, flush=True)
                print("did", report.deleted_objects, report.repacked_packs, report.folded_entries, flush=True)
                continue
            home = Path(cache) / "home"
            make_home(home, number)
            try:
                saved = await opened.checkpoint(REF, home=home, fence=1, session="s", reason=str(number))
            except storage.CommitContended:
                continue
            print("saved", number, saved.info.seq, flush=True)
            number += 1

role, url, keys, cache, number = sys.argv[1:6]
asyncio.run(main(role, url, keys, cache, int(number)))
"""
KEEP = storage.Retention(keep_last=3, hourly=0, daily=0, weekly=0, monthly=0, within_ms=0)


def content(number: int) -> dict[str, bytes]:
    """Return the files of the home with that number: each step writes a large one that lives for 5 steps and
    one that lives for 13, so that packs become sparse.
    """
    found = {"number": str(number).encode()}
    for made in range(max(1, number - LASTING_FILES + 1), number + 1):
        chance = random.Random(made)
        large = chance.randbytes(chance.choice((50, 90_000, 1_300_000)))
        if made > number - FILES:
            found[f"f{made % FILES}"] = large
        found[f"g{made % LASTING_FILES}"] = chance.randbytes(chance.choice((3_000, 200_000)))
    return found


def make_home(home: Path, number: int) -> None:
    """Bring a home to what it is to hold."""
    home.mkdir(parents=True, exist_ok=True)
    wanted = content(number)
    for name, body in wanted.items():
        if not (home / name).exists() or (home / name).read_bytes() != body:
            (home / name).write_bytes(body)


def spec_of(url: str, keys: str) -> storage.StoreSpec:
    """Return the store's address."""
    return storage.StoreSpec(url=url, credentials_file=keys or None)


@pytest.fixture(params=["folder", "minio", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Return the address of a store of its own, and the file with its keys."""
    if request.param == "folder":
        return f"{(tmp_path / 'store').as_uri()}?create=true", ""
    server = request.getfixturevalue(f"{request.param}_server")
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key} = {value}\n" for key, value in server.keys.items()))
    keys.chmod(0o600)
    return server.url("homes", f"tidied-{time.time_ns()}"), str(keys)


async def opened_at(place: tuple[str, str], cache: Path) -> storage.Storage:
    return await storage.Storage.open(
        spec_of(*place),
        master_key=MASTER_KEY,
        cache_folder=cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )


class Lives:
    """Processes of one role, one after the other; each is killed a moment after it was ready."""

    def __init__(self, role: str, place: tuple[str, str], cache: Path) -> None:
        self.role, self.place, self.cache = role, place, cache
        self.number = 1
        self.last_saved = 0
        self.kills = 0
        self.done = [0, 0, 0]
        self.refused: list[str] = []

    async def one(self, lives_s: float, *, after: bool = False) -> None:
        """Let one process live for a while, kill it, and take in what it told.

        Args:
            after: begin to count once it has finished something. A machine may be so busy that whoever is
                always killed after a fixed time never gets to the end of a run, and then nothing was tried.
        """
        command = [sys.executable, "-c", LIFE, self.role, *self.place, str(self.cache), str(self.number)]
        life = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()
        )
        assert life.stdout is not None
        assert life.stderr is not None
        failed = asyncio.ensure_future(life.stderr.read())
        assert await self._told(life.stdout, ("ready",)), (await failed).decode()
        if after:
            assert await self._told(life.stdout, FINISHED), (await failed).decode()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(lives_s):
                await self._told(life.stdout, ())
        if life.returncode is None:
            life.kill()
            self.kills += 1
        await self._told(life.stdout, ())
        await life.wait()
        assert b"Traceback" not in await failed, (await failed).decode()

    async def _told(self, lines: asyncio.StreamReader, wanted: tuple[str, ...]) -> bool:
        """Take in lines up to one of those; return whether it came before the process ended."""
        while line := (await lines.readline()).decode():
            self._take(line)
            if line.endswith("\n") and line.split()[0] in wanted:
                return True
        return False

    def _take(self, line: str) -> None:
        what, *rest = line.split(" ")
        if not line.endswith("\n"):
            return  # it died while it spoke
        if what == "saved":
            self.last_saved = int(rest[0])
            self.number = self.last_saved + 1
        elif what == "refused":
            self.refused.append(line)
        elif what == "did":
            self.done = [before + int(more) for before, more in zip(self.done, rest, strict=True)]


async def restore_newest(opened: storage.Storage, target: Path) -> int:
    """Restore the newest checkpoint and compare it with what it must hold; return its number."""
    newest = (await opened.list(REF))[-1]
    try:
        await opened.restore(REF, seq=newest.seq, into=target)
    except storage.NoSuchCheckpoint:
        return 0  # forgotten while it was being read, and told so
    number = int(newest.reason)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == content(number), newest
    shutil.rmtree(target)
    return number


async def kill_again_and_again(
    place: tuple[str, str], folder: Path, *, lives: int, seed: int, life_s_max: float
) -> None:
    chance = random.Random(seed)
    tidying, saving = (Lives(role, place, folder / role) for role in ("tidy", "save"))
    async with await opened_at(place, folder / "reader") as reader:
        await take(reader)
        await saving.one(0.0, after=True)
        over = asyncio.Event()

        async def live_on(one: Lives) -> None:
            for number in range(lives):
                await one.one(chance.uniform(0.05, life_s_max), after=number % 2 == 1)

        async def read_on() -> None:
            seen = turn = 0
            while not over.is_set():
                turn += 1
                number = await restore_newest(reader, folder / f"read {turn}")
                assert not number or number >= seen, "the newest checkpoint moved back"
                seen = max(seen, number)

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_on())
            async with asyncio.TaskGroup() as both:
                both.create_task(live_on(tidying))
                both.create_task(live_on(saving))
            over.set()
            await reading
    await check(place, folder, saving)
    assert tidying.refused == []
    for _ in range(ROUNDS_MAX):
        if min(tidying.done) > 0:
            break
        await saving.one(0.0, after=True)
        await tidying.one(0.0, after=True)
    assert min(tidying.done) > 0, ("deleted, repacked, folded", tidying.done)
    assert tidying.refused == []
    await check(place, folder, saving, turn=2)
    kills = tidying.kills + saving.kills
    sys.stdout.write(f"{place[0][:5]} {kills} kills, {saving.last_saved} saves, {tidying.done}\n")


async def check(place: tuple[str, str], folder: Path, saving: Lives, *, turn: int = 1) -> None:
    """Look at all that is left, as somebody who knows nothing of it."""
    async with await opened_at(place, folder / f"cold {turn}") as cold:
        report = await cold.verify(REF, "full")
        assert report.faults == ()
        listed = await cold.list(REF)
        assert int(listed[-1].reason) >= saving.last_saved, "acknowledged and gone"
        for info in listed:
            target = folder / f"back {turn} {info.seq}"
            await cold.restore(REF, seq=info.seq, into=target)
            assert {path.name: path.read_bytes() for path in target.iterdir()} == content(int(info.reason))
        for _ in range(3):
            done = await cold.collect(REF, policy=KEEP, actor="test")
            assert done.refused == ""
        assert (await cold.verify(REF, "full")).faults == ()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder"], indirect=True)
async def test_killed_upkeep_and_killed_savers_lose_nothing(place, tmp_path):
    await kill_again_and_again(place, tmp_path, lives=3, seed=1, life_s_max=1.5)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
async def test_upkeep_and_savers_killed_again_and_again_lose_nothing(place, tmp_path, seed):
    """A server on a busy machine takes a second for a run."""
    life_s_max = 1.5 if place[0].startswith("file:") else 3.0
    await kill_again_and_again(place, tmp_path, lives=SOAK_LIVES, seed=seed, life_s_max=life_s_max)

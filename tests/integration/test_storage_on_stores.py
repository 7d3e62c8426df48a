"""The whole story of a home on a folder and on SeaweedFS, and a process that is killed while it saves."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import storage
from tests.fakes.home import make_odd_home, picture
from tests.fakes.s3_fixtures import seaweedfs_server
from tests.fakes.storage_rig import MASTER_KEY, REF, take, unlocked

__all__ = ["seaweedfs_server"]


@pytest.fixture(params=["folder", "seaweedfs"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> storage.StoreSpec:
    if request.param == "folder":
        return folder_spec(tmp_path)
    server = request.getfixturevalue("seaweedfs_server")
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} = {value}\n" for name, value in server.keys.items()))
    keys.chmod(0o600)
    return storage.StoreSpec(url=server.url("homes", tmp_path.name[-30:].lower()), credentials_file=keys)


def folder_spec(tmp_path: Path) -> storage.StoreSpec:
    return storage.StoreSpec(url=f"file://{tmp_path}/objects?create=true")


async def opened_at(spec: storage.StoreSpec, cache: Path) -> storage.Storage:
    return await storage.Storage.open(
        spec,
        master_key=MASTER_KEY,
        cache_folder=cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    )


async def save(opened: storage.Storage, home: Path, fence: int, **more) -> storage.CheckpointResult:
    return await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test", **more)


async def test_a_home_is_saved_proved_and_given_back_elsewhere(spec, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    make_odd_home(home)
    assert not await storage.has_repositories(spec)
    async with await opened_at(spec, tmp_path / "cache") as opened:
        await opened.require_safe()
        asked = {check.name for check in (await opened.probe()).checks}
        assert ("wrong_secret" in asked and "multipart" in asked) == spec.url.startswith("s3:")
        assert await opened.head(REF) is None
        fence = await take(opened)
        first = await save(opened, home, fence)
        (home / "new").write_bytes(os.urandom(5_000_000))
        last = await save(opened, home, fence, final=True, frozen=True)
        assert last.info.parent == first.info.seq
        assert await opened.same_as(REF, seq=last.info.seq, hash=last.info.hash, home=home)
        await opened.put_receipt(REF, "s", b"receipt")
    assert await storage.has_repositories(spec)
    async with await opened_at(spec, tmp_path / "another machine") as other:
        head = await other.head(REF)
        assert head.newest == last.info
        assert head.newest_is_final
        report = await other.restore(REF, seq=head.newest.seq, into=tmp_path / "back")
        assert [bad.path for bad in report.not_made] == [b"socket"]
        wanted = {path: facts for path, facts in picture(unlocked(home)).items() if path != b"socket"}
        assert masked(picture(unlocked(tmp_path / "back"))) == masked(wanted)
        await other.restore(REF, seq=first.info.seq, into=tmp_path / "first")  # nothing in it was remembered
        for gone in (b"", b"new"):
            wanted.pop(gone)
        found = picture(unlocked(tmp_path / "first"))
        assert {path: facts for path, facts in masked(found).items() if path} == masked(wanted)
        assert (await other.verify(REF, "full")).faults == ()
        assert await other.receipt(REF, "s") == b"receipt"
        assert await other.workspaces() == [REF]


def masked(seen: dict) -> dict:
    """setuid and setgid come back by policy only."""
    return {path: (facts[0], facts[1] & 0o1777, *facts[2:]) for path, facts in seen.items()}


async def test_two_machines_race_and_one_of_them_is_told(spec, tmp_path):
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
        (home / "who").write_text(home.name)
    async with (
        await opened_at(spec, tmp_path / "cache 1") as one,
        await opened_at(spec, tmp_path / "cache 2") as two,
    ):
        taken = await asyncio.gather(take(one, node="one"), take(two, node="two"), return_exceptions=True)
        # The first may learn of the second at its take-over already, else at its save: never later.
        fences = [1 if isinstance(found, storage.FenceMoved) else found for found in taken]
        assert sorted(fences) == [1, 2]
        results = await asyncio.gather(
            save(one, homes[0], fences[0]), save(two, homes[1], fences[1]), return_exceptions=True
        )
        winner = fences.index(2)
        assert isinstance(results[1 - winner], storage.FenceMoved)
        newest = (await one.head(REF)).newest
        assert newest == results[winner].info
        read = [piece async for piece in two.read(REF, seq=newest.seq, path=b"who")]
        assert b"".join(read) == homes[winner].name.encode()


LIFE = """
import asyncio, os, sys, time
from pathlib import Path
import storage
from tests_rig import MASTER_KEY, REF

async def main(url, cache, home):
    async with await storage.Storage.open(storage.StoreSpec(url=url), master_key=MASTER_KEY,
            cache_folder=Path(cache), clock_ms=lambda: time.time_ns() // 1_000_000) as opened:
        head = await opened.take_over(REF, fence_at_least=1, node="n", session="s", registry_epoch=1)
        for number in range(1_000):
            Path(home, "number").write_text(str(number))
            Path(home, "noise").write_bytes(os.urandom(1_500_000 if number % 3 == 0 else 10))
            saved = await opened.checkpoint(REF, home=Path(home), fence=head.fence, session="s", reason="r")
            print(saved.info.seq, saved.info.hash.hex(), number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_killed_while_it_saves_loses_nothing_it_told(tmp_path):
    """kill -9 after one, two, three ... told checkpoints, while the next one is under way."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    spec = folder_spec(tmp_path)
    rig = tmp_path / "rig"
    rig.mkdir()
    (rig / "tests_rig.py").write_text(
        f"import storage\nMASTER_KEY = bytes(range(32))\nREF = storage.WorkspaceRef("
        f"tenant={REF.tenant!r}, workspace={REF.workspace!r})\n"
    )
    (rig / "life.py").write_text(LIFE)
    path = os.pathsep.join([str(rig), str(Path(storage.__file__).parent.parent)])
    told: dict[int, str] = {}
    for lines in range(1, 7):
        with subprocess.Popen(
            [sys.executable, str(rig / "life.py"), spec.url, str(cache), str(home)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        ) as life:
            for _ in range(lines):
                seq, entry_hash, number = life.stdout.readline().split()
                told[int(seq)] = entry_hash
            life.send_signal(signal.SIGKILL)
        asyncio.run(check(spec, tmp_path / f"look {lines}", told, int(number)))


async def check(spec: storage.StoreSpec, cache: Path, told: dict[int, str], number: int) -> None:
    async with await opened_at(spec, cache) as opened:
        listed = {info.seq: info.hash.hex() for info in await opened.list(REF)}
        assert told.items() <= listed.items()
        newest = max(listed)
        pieces = [piece async for piece in opened.read(REF, seq=newest, path=b"number")]
        assert int(b"".join(pieces)) >= number
        assert (await opened.verify(REF, "full")).faults == ()

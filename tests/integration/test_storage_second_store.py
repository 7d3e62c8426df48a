"""A second store beside the first one, on real ones: folder to folder, folder to MinIO, MinIO to SeaweedFS.
And a replicating process that is killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import storage
from storage.objects.open import open_store
from storage.repository import fold
from tests.fakes.home import picture
from tests.fakes.s3_fixtures import minio_server, seaweedfs_server
from tests.fakes.storage_rig import KEEP_ONE, MASTER_KEY, REF, take, write

__all__ = ["minio_server", "seaweedfs_server"]


def folder_spec(path: Path) -> storage.StoreSpec:
    return storage.StoreSpec(url=f"{path.as_uri()}?create=true")


def s3_spec(server, tmp_path: Path, name: str) -> storage.StoreSpec:
    keys = tmp_path / f"keys of {name}"
    keys.write_text("".join(f"{key} = {value}\n" for key, value in server.keys.items()))
    keys.chmod(0o600)
    return storage.StoreSpec(url=server.url("homes", f"{name}-{time.time_ns()}"), credentials_file=keys)


@pytest.fixture(params=["folder to folder", "folder to minio", "minio to seaweedfs"])
def specs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[storage.StoreSpec, storage.StoreSpec]:
    if request.param == "folder to folder":
        return folder_spec(tmp_path / "first"), folder_spec(tmp_path / "second")
    there = request.getfixturevalue("minio_server")
    if request.param == "folder to minio":
        return folder_spec(tmp_path / "first"), s3_spec(there, tmp_path, "second")
    other = request.getfixturevalue("seaweedfs_server")
    return s3_spec(there, tmp_path, "first"), s3_spec(other, tmp_path, "second")


async def opened_at(
    spec: storage.StoreSpec, cache: Path, second: storage.StoreSpec | None = None
) -> storage.Storage:
    return await storage.Storage.open(
        spec,
        master_key=MASTER_KEY,
        cache_folder=cache,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        second=second,
    )


async def save(opened: storage.Storage, home: Path) -> storage.CheckpointInfo:
    done = await opened.checkpoint(REF, home=home, fence=1, session="s", reason="test")
    return done.info


async def everything(spec: storage.StoreSpec) -> dict[str, bytes]:
    file = Path(spec.credentials_file) if spec.credentials_file is not None else None
    store = await open_store(spec.url, credentials_file=file)
    try:
        names = [
            info.name async for info in store.list("t/") if "/x/" not in info.name
        ]  # a cache: not copied
        return {name: await store.get(name) for name in names}
    finally:
        await store.close()


async def test_the_second_store_can_take_the_place_of_the_first(specs, tmp_path, monkeypatch):
    """Copies, an hour of tidying, more copies; then the first one is gone for good."""
    monkeypatch.setattr(fold, "ENTRIES_MIN", 5)
    first, second = specs
    home = tmp_path / "home"
    home.mkdir()
    async with await opened_at(first, tmp_path / "cache", second) as opened:
        kept = await opened.require_main(None)
        await take(opened)
        for number in range(5):
            write(home, **{f"file{number}": os.urandom(400_000), "note": str(number)})
            await save(opened, home)
            assert (await opened.replicate(REF)).state == "in_step"
        await opened.put_receipt(REF, "s", b"receipt")
        for _ in range(4):
            await opened.collect(REF, policy=KEEP_ONE, actor="test")
        look = await opened.replicate(REF, whole=True)
        assert (look.state, look.removed_objects > 0) == ("in_step", True)
        assert await everything(first) == await everything(second)
    kept = await storage.promote_second(
        second, None, kept=kept, clock_ms=lambda: 1, actor="test", reason="burned"
    )
    async with await opened_at(second, tmp_path / "other cache") as main:
        await main.require_safe()
        assert await main.require_main(kept) == kept
        assert (await main.verify(REF, "full")).faults == ()
        fence = await take(main, fence=2, node="other")
        newest = (await main.head(REF)).newest
        await main.restore(REF, seq=newest.seq, into=tmp_path / "back", becomes_home=True)
        assert picture(tmp_path / "back") == picture(home)
        assert await main.receipt(REF, "s") == b"receipt"
        write(tmp_path / "back", more="work")
        await main.checkpoint(REF, home=tmp_path / "back", fence=fence, session="s2", reason="test")
    async with await opened_at(first, tmp_path / "cache", second) as old:
        for witness in (kept, None):
            with pytest.raises(storage.NotMain):
                await old.require_main(witness)


LIFE = """
import asyncio, sys, time
from pathlib import Path
import storage

REF = storage.WorkspaceRef(tenant=sys.argv[4], workspace=sys.argv[5])

async def main(first, second, cache):
    async with await storage.Storage.open(storage.StoreSpec(url=first), master_key=bytes(range(32)),
            cache_folder=Path(cache), clock_ms=lambda: time.time_ns() // 1_000_000,
            second=storage.StoreSpec(url=second)) as opened:
        print("ready", flush=True)
        look = await opened.replicate(REF, whole=True)
        print(look.state, flush=True)

asyncio.run(main(*sys.argv[1:4]))
"""


def killed(command: list[str], after_s: float) -> None:
    """Let a process run for a moment behind its first line, then kill it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parent.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as life:
        assert life.stdout is not None
        assert life.stdout.readline() == "ready\n"
        try:
            life.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            life.send_signal(signal.SIGKILL)


async def test_a_replicating_process_killed_again_and_again_ends_with_the_same_objects(tmp_path):
    """kill -9 a little later each time, then one that is left alone."""
    home = tmp_path / "home"
    home.mkdir()
    first, second = folder_spec(tmp_path / "first"), folder_spec(tmp_path / "second")
    async with await opened_at(first, tmp_path / "cache") as opened:
        await take(opened)
        for number in range(12):
            write(home, **{f"file{number}": os.urandom(1_500_000 if number % 3 == 0 else 9_000)})
            await save(opened, home)
    rig = tmp_path / "life.py"
    rig.write_text(LIFE)
    command = [sys.executable, str(rig), first.url, second.url, str(tmp_path / "replicator")]
    for round_ in range(4):
        await asyncio.to_thread(killed, [*command, REF.tenant, REF.workspace], 0.08 * (round_ + 1))
        if (tmp_path / "second").exists():
            ours, theirs = await everything(first), await everything(second)
            assert theirs.items() <= ours.items()
            await stands(second, tmp_path / f"look {round_}", theirs)
    async with await opened_at(first, tmp_path / "last", second) as opened:
        assert (await opened.replicate(REF)).state == "in_step"
    assert await everything(first) == await everything(second)


async def stands(spec: storage.StoreSpec, cache: Path, objects: dict[str, bytes]) -> None:
    """What is there is a shorter log, and a sound one."""
    if any("/c/" in name for name in objects):
        async with await opened_at(spec, cache) as opened:
            assert (await opened.verify(REF, "full")).faults == ()

"""A process that is killed in the middle of a large first checkpoint, on a real MinIO, and its successor.

Requests are counted on the wire, by a proxy between them and the server. When the first process dies, two of
its packs are still on their way: the proxy lets them land late, as a network may.
"""

import asyncio
import os
import re
import signal
import sys
import time
from pathlib import Path

import storage
from storage.fault_proxy.proxy import S3FaultProxy
from storage.fault_proxy.script import HttpFault
from storage.format.limits import MIB
from storage.ops import uploads
from tests.fakes.child import child_environment
from tests.fakes.s3_fixtures import minio_server
from tests.fakes.storage_rig import MASTER_KEY, REF, take
from tests.fakes.until import until

__all__ = ["minio_server"]
PACK_BYTES = 2 * MIB
FILES = 20
STORED_BEFORE = 18
"""Of some 20 packs: nine tenths."""
LIFE = """
import asyncio, sys, time
from pathlib import Path
import storage
from storage.ops import uploads
from tests.integration.test_storage_left_packs import MASTER_KEY, PACK_BYTES, REF

uploads.PACK_BYTES = PACK_BYTES

async def main(url, keys, cache, home, fence):
    async with await storage.Storage.open(storage.StoreSpec(url=url, credentials_file=keys),
            master_key=MASTER_KEY, cache_folder=Path(cache),
            clock_ms=lambda: time.time_ns() // 1_000_000) as opened:
        await opened.checkpoint(REF, home=Path(home), fence=int(fence), session="s", reason="first")

asyncio.run(main(*sys.argv[1:]))
"""


def packs_put(proxy: S3FaultProxy) -> list[str]:
    """Return the packs that were sent through the proxy, in order."""
    return [path for method, path, _ in proxy.seen if method == "PUT" and re.search(r"/p/\d", path)]


async def test_nine_tenths_of_a_killed_checkpoint_are_not_uploaded_again(
    minio_server, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(uploads, "PACK_BYTES", PACK_BYTES)
    home = tmp_path / "home"
    home.mkdir()
    for number in range(FILES):
        (home / f"file{number:02}").write_bytes(os.urandom(2 * MIB - 200_000))
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key} = {value}\n" for key, value in minio_server.keys.items()))
    keys.chmod(0o600)
    proxy = S3FaultProxy(minio_server.port)
    await proxy.start()
    url = re.sub(
        r"127\.0\.0\.1(:|%3A)\d+",
        f"127.0.0.1:{proxy.port}",
        minio_server.url("homes", f"left-{time.time_ns()}"),
    )

    async def opened(name: str) -> storage.Storage:
        return await storage.Storage.open(
            storage.StoreSpec(url=url, credentials_file=keys),
            master_key=MASTER_KEY,
            cache_folder=tmp_path / name,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )

    async with await opened("starter") as starter:
        fence = await take(starter)
    proxy.plan(HttpFault.SLOW, method="PUT", path=r"/p/\d", times=100, after=STORED_BEFORE)
    life = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LIFE, url, str(keys), str(tmp_path / "first"), str(home), str(fence)),
        env=child_environment(),
    )
    await until(lambda: len(packs_put(proxy)) >= STORED_BEFORE + 1, limit_s=90.0)
    life.send_signal(signal.SIGKILL)
    await life.wait()
    before = len(packs_put(proxy))
    proxy.heal()

    async with await opened("second") as second:
        saved = await second.checkpoint(REF, home=home, fence=fence, session="s", reason="again", resume=True)
        again = packs_put(proxy)[before:]
        assert len(again) <= FILES - STORED_BEFORE + 2, again
        assert saved.info.new_stored_bytes > FILES * (2 * MIB - 200_000)
        assert (await second.verify(REF, "full")).faults == ()
        await second.restore(REF, seq=saved.info.seq, into=tmp_path / "back")
    for file in home.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    await proxy.go_down()

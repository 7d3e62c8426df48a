"""Packs that are lost and cut in a bucket of a real server, behind the service's back, from the first save
after it to the repair: what a server answers to a range behind the end of an object is its own.
"""

import functools
import os
import time
from pathlib import Path

import pytest

import storage
from storage.objects.open import open_store
from storage.repository.index import ChunkIndex
from storage.repository.packer import NewChunks
from tests.fakes.home import picture
from tests.fakes.s3_fixtures import minio_server, seaweedfs_server
from tests.fakes.storage_rig import MASTER_KEY, PREFIX, REF, take

__all__ = ["minio_server", "seaweedfs_server"]
FILE_BYTES = 300_000


@pytest.fixture(autouse=True)
def all_in_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.ops.save.NewChunks", functools.partial(NewChunks, inline_bytes_max=1_000))
    monkeypatch.setattr("storage.repository.settle.PAUSES_S", (0.0, 0.0))


class Bucket:
    """A workspace in a bucket, a copy of it in a folder, and a raw client of the bucket."""

    def __init__(self, spec: storage.StoreSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.home = folder / "home"
        self.copy = storage.StoreSpec(url=f"file://{folder}/second?create=true")

    async def opened(self, cache: str, *, second: bool = False) -> storage.Storage:
        return await storage.Storage.open(
            self.spec,
            master_key=MASTER_KEY,
            cache_folder=self.folder / cache,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            second=self.copy if second else None,
        )

    async def save(self, opened: storage.Storage, name: str, size: int = FILE_BYTES) -> int:
        (self.home / name).write_bytes(os.urandom(size))
        return await self.saved(opened)

    async def saved(self, opened: storage.Storage) -> int:
        done = await opened.checkpoint(REF, home=self.home, fence=1, session="s", reason="t")
        assert done.info.complete
        return done.info.seq

    async def packs(self) -> set[str]:
        raw = await open_store(self.spec.url, credentials_file=Path(str(self.spec.credentials_file)))
        try:
            return {info.name.removeprefix(PREFIX) async for info in raw.list(f"{PREFIX}p/")}
        finally:
            await raw.close()

    async def harm(self, *, lost: str, cut: str) -> None:
        """As an operator with the wrong window open, or a bad disk of the server, would."""
        raw = await open_store(self.spec.url, credentials_file=Path(str(self.spec.credentials_file)))
        try:
            body = await raw.get(PREFIX + cut)
            for name in (lost, cut):
                await raw.delete(PREFIX + name)
            await raw.create(PREFIX + cut, body[: len(body) // 3])
        finally:
            await raw.close()


@pytest.fixture(params=["minio", "seaweedfs"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    server = request.getfixturevalue(f"{request.param}_server")
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} = {value}\n" for name, value in server.keys.items()))
    keys.chmod(0o600)
    url = server.url("homes", f"damaged-{time.time_ns()}")
    made = Bucket(storage.StoreSpec(url=url, credentials_file=keys), tmp_path)
    made.home.mkdir()
    return made


async def test_what_two_writers_stored_at_once_is_given_while_one_copy_is_whole(bucket: Bucket) -> None:
    """One of the first writer's packs is lost, another one is cut."""
    found: list[str] = []
    async with await bucket.opened("first") as opened:
        await take(opened)
        for name in ("gone", "cut"):
            before = await bucket.packs()
            await bucket.save(opened, name)
            found += await bucket.packs() - before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkIndex, "knows", lambda index, kind, chunk_id: False)
        async with await bucket.opened("other") as opened:
            seq = await bucket.save(opened, "more")
    lost, cut = found
    await bucket.harm(lost=lost, cut=cut)
    for cache in ("first", "new"):
        async with await bucket.opened(cache) as opened:
            into = bucket.folder / f"home by {cache}"
            await opened.restore(REF, seq=seq, into=into, becomes_home=True)
            assert picture(into) == picture(bucket.home)
            for name in ("gone", "cut"):
                pieces = [piece async for piece in opened.read(REF, seq=seq, path=name.encode())]
                assert b"".join(pieces) == (bucket.home / name).read_bytes()


async def test_from_damage_to_repair_nothing_is_lost_that_lies_elsewhere(bucket: Bucket) -> None:
    async with await bucket.opened("first", second=True) as opened:
        await take(opened)
        before = await bucket.packs()
        found: list[str] = []
        for name in ("gone", "cut", "kept"):
            await bucket.save(opened, name)
            [pack] = await bucket.packs() - before
            before.add(pack)
            found.append(pack)
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
    lost, cut, _ = found
    await bucket.harm(lost=lost, cut=cut)
    for cache in ("first", "new"):  # who knew the packs, and who did not
        async with await bucket.opened(cache) as opened:
            seq = await bucket.save(opened, f"after by {cache}", 50_000)
            report = await opened.restore(REF, seq=seq, into=bucket.folder / f"back by {cache}")
            assert {(one.path, one.object) for one in report.left_out} == {(b"gone", lost), (b"cut", cut)}
            back = bucket.folder / f"back by {cache}"
            for path in back.iterdir():
                assert path.read_bytes() == (bucket.home / path.name).read_bytes()
            assert {path.name for path in back.iterdir()} == {path.name for path in bucket.home.iterdir()} - {
                "gone",
                "cut",
            }
            with pytest.raises(storage.ObjectDamaged, match=f"{lost}|{cut}"):
                await opened.restore(REF, seq=seq, into=bucket.folder / f"home by {cache}", becomes_home=True)
            faults = (await opened.verify(REF, "full")).faults
            for name in (lost, cut):
                assert any(fault.startswith(f"{name}: ") for fault in faults)
    async with await bucket.opened("repairs", second=True) as opened:
        report = await opened.restore(REF, seq=seq, into=bucket.folder / "by the second store")
        assert report.complete, "its copies are whole"
        done = await opened.repair(REF)
        assert (set(done.objects), done.left) == ({lost, cut}, ())
        assert (await opened.verify(REF, "full")).faults == ()
        await bucket.save(opened, "later", 50_000)
        assert (await opened.replicate(REF, whole=True)).state == "in_step"
    async with await bucket.opened("cold") as opened:
        seq = await bucket.saved(opened)
        assert (await opened.restore(REF, seq=seq, into=bucket.folder / "all")).complete
    assert picture(bucket.folder / "all") == picture(bucket.home)

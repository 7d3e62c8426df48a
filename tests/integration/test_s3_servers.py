"""Real S3 servers that die, hang and come back while we write to them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import ObjectExists, StoreError
from storage.objects.open import open_store
from storage.objects.retry import RetryingStore, RetryPolicy
from tests.fakes.minio import minio, minio_program
from tests.fakes.s3_server import S3Server
from tests.fakes.seaweedfs import seaweedfs
from tests.fakes.until import until

QUICK = RetryPolicy(wait_first_s=0.05, wait_most_s=0.2, jitter_s=0.05)
OBJECTS = 60

pytestmark = pytest.mark.slow


@pytest.fixture(params=["seaweedfs", "minio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Server]:
    """A server of the test's own, because it does not survive the test."""
    if request.param == "seaweedfs":
        own = seaweedfs(tmp_path)
    else:
        program = minio_program()
        assert program is not None, "MinIO is not built: run deploy/test, or set SESSION_SERVICE_TEST_MINIO"
        own = minio(tmp_path, program)
    own.start()
    yield own
    own.kill()


async def test_a_server_killed_in_the_middle_loses_nothing_it_acknowledged(server: S3Server) -> None:
    """The writers ride it out: every object ends up there once, with its bytes."""
    bare = await open_store(server.url("killed", "x"), environment=server.keys)
    store = RetryingStore(bare, QUICK)
    acknowledged: set[str] = set()

    async def write(first: int) -> None:
        for number in range(first, OBJECTS, 4):
            name = f"p/{number:03d}"
            try:
                await store.create(name, name.encode() * 1_000)
            except ObjectExists:
                assert await store.get(name) == name.encode() * 1_000
            acknowledged.add(name)

    async with asyncio.TaskGroup() as group:
        for first in range(4):
            group.create_task(write(first))
        await until(lambda: len(acknowledged) >= OBJECTS // 3)
        server.kill()
        await asyncio.to_thread(server.start)
    assert [info.name async for info in store.list("p/")] == sorted(acknowledged)
    assert len(acknowledged) == OBJECTS
    for name in acknowledged:
        assert await store.get(name) == name.encode() * 1_000
    await store.close()


async def test_a_server_that_hangs_is_left_and_asked_again(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and never answers: an error after the time limit, not a wait for ever."""
    store = await open_store(server.url("hanging", "x"), environment=server.keys)
    await store.create("c/1", b"x")  # with the usual limits: a bucket's first object may take a second
    await store.close()
    monkeypatch.setattr("storage.objects.s3.READ_S", 0.3)
    monkeypatch.setattr("storage.objects.s3.REQUEST_S", 1.0)
    store = await open_store(server.url("hanging", "x"), environment=server.keys)
    assert await store.get("c/1") == b"x"
    server.freeze()
    with pytest.raises(StoreError) as told:
        await store.create("c/2", b"y")
    assert told.value.code == "ambiguous_write"
    with pytest.raises(StoreError) as told:
        await store.get("c/1")
    assert told.value.code == "store_unavailable"
    server.thaw()
    assert await RetryingStore(store, QUICK).get("c/1") == b"x"
    await store.close()

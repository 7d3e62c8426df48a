"""The S3 store behind a network that loses, cuts, delays and forges answers; on a real SeaweedFS.

What each fault must be told as decides whether a commit can be doubled or lost (storage.md 4.4, "Answers of
PUT").
"""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from storage.errors import (
    AmbiguousWrite,
    CreateConflict,
    ObjectExists,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
)
from storage.fault_proxy.proxy import S3FaultProxy
from storage.fault_proxy.script import HttpFault
from storage.objects.open import open_store
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.s3 import S3Place, S3Store
from tests.fakes.s3_fixtures import seaweedfs_server
from tests.fakes.s3_server import S3Server
from tests.fakes.until import until

__all__ = ["seaweedfs_server"]

QUICK = RetryPolicy(wait_first_s=0.001, wait_most_s=0.002, jitter_s=0.0)


@pytest.fixture
async def proxy(seaweedfs_server: S3Server) -> AsyncIterator[S3FaultProxy]:
    proxy = S3FaultProxy(seaweedfs_server.port)
    await proxy.start()
    yield proxy
    await proxy.go_down()


@pytest.fixture
async def store(seaweedfs_server: S3Server, proxy: S3FaultProxy) -> AsyncIterator[S3Store]:
    url = f"s3://faults/{secrets.token_hex(6)}?endpoint={proxy.endpoint}&create=true"
    opened = await open_store(url, environment=seaweedfs_server.keys)
    assert isinstance(opened, S3Store)
    proxy.forget_seen()
    yield opened
    await opened.close()


async def test_an_answer_lost_after_the_write_is_ambiguous_and_sent_only_once(
    store: S3Store, proxy: S3FaultProxy
) -> None:
    """On a connection used before: the libraries would send again by themselves, and hide what happened."""
    await store.create("c/0", b"warm up")
    proxy.plan(HttpFault.LOST_ANSWER, method="PUT")
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x")
    assert [seen[2] for seen in proxy.seen if seen[0] == "PUT"] == ["passed", "lost answer"]
    assert await store.get("c/1") == b"x"
    with pytest.raises(ObjectExists):
        await store.create("c/1", b"x")


async def test_a_request_cut_on_its_way_is_ambiguous_too(store: S3Store, proxy: S3FaultProxy) -> None:
    """Seen from here it looks the same."""
    await store.create("c/0", b"warm up")
    proxy.plan(HttpFault.CUT_REQUEST, method="PUT")
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x")
    assert await store.head("c/1") is None


@pytest.mark.parametrize("size", [5_000, 1 << 20, 5 << 20])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
async def test_a_body_that_breaks_off_leaves_no_object(
    store: S3Store, proxy: S3FaultProxy, part: float, size: int
) -> None:
    """A killed writer must not take the next number of the log with bytes that never open.

    Without a digest SeaweedFS keeps an empty object when nothing of the body came.
    """
    proxy.plan(HttpFault.CUT_BODY, method="PUT", part=part)
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", bytes(size))
    assert await store.head("c/1") is None
    await store.create("c/1", b"the next one")
    assert await store.get("c/1") == b"the next one"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_every_5xx_leaves_a_create_open(store: S3Store, proxy: S3FaultProxy, status: int) -> None:
    proxy.plan(HttpFault.STATUS, method="PUT", status=status)
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x")


async def test_what_was_refused_in_words_was_not_written(store: S3Store, proxy: S3FaultProxy) -> None:
    for status, error in (
        (409, CreateConflict),
        (412, ObjectExists),
        (429, StoreUnavailable),
        (403, StoreRefused),
    ):
        proxy.plan(HttpFault.STATUS, method="PUT", status=status)
        with pytest.raises(error):
            await store.create("c/1", b"x")
    proxy.plan(HttpFault.STATUS, method="PUT", status=501)
    with pytest.raises(StoreRefused) as told:
        await store.create("c/1", b"x")
    assert "conditional" in str(told.value.facts["advice"])


async def test_a_store_that_cannot_be_reached_has_certainly_written_nothing(
    store: S3Store, proxy: S3FaultProxy
) -> None:
    """Also with connections kept from before: those are broken, new ones refused."""
    await store.create("c/0", b"warm up")
    await proxy.go_down()
    answers = await asyncio.gather(
        *(store.create("c/1", b"x") for _ in range(4)),
        store.get("c/0"),
        store.head("c/0"),
        return_exceptions=True,
    )
    # Those that met a broken old connection cannot know; those that were refused a new one can.
    assert {type(answer) for answer in answers} <= {StoreUnavailable, AmbiguousWrite}
    with pytest.raises(StoreUnavailable):
        await store.create("c/1", b"x")
    with pytest.raises(StoreUnavailable):
        [info async for info in store.list("c/")]
    await proxy.come_up()
    assert await store.get("c/0") == b"warm up"


async def test_a_404_that_is_not_the_stores_own_is_no_missing_object(
    store: S3Store, proxy: S3FaultProxy
) -> None:
    """A proxy's page must never be read as "there is no checkpoint"."""
    await store.create("c/1", b"x")
    proxy.plan(HttpFault.FOREIGN_404)
    with pytest.raises(StoreUnavailable):
        await store.get("c/1")
    proxy.plan(HttpFault.FOREIGN_404, times=2)
    with pytest.raises(StoreUnavailable):
        await store.head("c/1")
    proxy.plan(HttpFault.FOREIGN_404, method="HEAD")
    assert await store.head("c/1") == 1
    proxy.plan(HttpFault.FOREIGN_404, method="HEAD", times=2)
    with pytest.raises(StoreUnavailable):
        await store.head("c/1")
    with pytest.raises(ObjectNotFound):
        await store.get("c/2")


async def test_an_answer_cut_short_is_no_object(store: S3Store, proxy: S3FaultProxy) -> None:
    await store.create("p/1", secrets.token_bytes(300_000))
    for length in (None, 200_000):
        proxy.plan(HttpFault.TRUNCATED, method="GET")
        with pytest.raises(StoreUnavailable):
            await store.get("p/1", length=length)


async def test_a_listing_that_repeats_a_page_is_an_error(store: S3Store, proxy: S3FaultProxy) -> None:
    for at in range(0, 1_010, 101):
        await asyncio.gather(*(store.create(f"p/{number:04d}", b"") for number in range(at, at + 101)))
    proxy.plan(HttpFault.REPEATED, method="GET", path="list-type=2", after=1)
    with pytest.raises(StoreUnavailable):
        [info async for info in store.list("p/")]
    assert len([info async for info in store.list("p/")]) == 1_010


async def test_a_listing_that_fails_on_its_second_page_gives_no_name(
    store: S3Store, proxy: S3FaultProxy
) -> None:
    for at in range(0, 1_010, 101):
        await asyncio.gather(*(store.create(f"p/{number:04d}", b"") for number in range(at, at + 101)))
    proxy.plan(HttpFault.STATUS, method="GET", path="list-type=2", after=1)
    seen = []
    with pytest.raises(StoreUnavailable):
        seen.extend([info async for info in store.list("p/")])
    assert seen == []


async def test_a_storm_ends_and_everything_is_there_once(store: S3Store, proxy: S3FaultProxy) -> None:
    """Every kind of fault, four writers, the retry wrapper: each name is written, or found with our bytes."""
    patient = RetryingStore(store, QUICK)
    for fault in (HttpFault.STATUS, HttpFault.LOST_ANSWER, HttpFault.CUT_REQUEST, HttpFault.TRUNCATED):
        for after in range(0, 30, 6):
            proxy.plan(fault, times=1, after=after)

    async def write(number: int) -> None:
        try:
            await patient.create(f"c/{number:02d}", b"%d" % number)
        except ObjectExists:
            pass
        assert await patient.get(f"c/{number:02d}") == b"%d" % number

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(write(number))
    proxy.heal()
    assert [info.name async for info in store.list("c/")] == [f"c/{number:02d}" for number in range(20)]


async def test_a_cancelled_write_gives_up_at_once(store: S3Store, proxy: S3FaultProxy) -> None:
    proxy.plan(HttpFault.SLOW, method="PUT")
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(store.create("c/1", b"x"))
        await until(lambda: bool(proxy.seen))
        writing.cancel()
    assert writing.cancelled()
    proxy.heal()


async def test_wrong_keys_are_refused_at_the_door_with_advice(
    seaweedfs_server: S3Server, store: S3Store
) -> None:
    for access, secret in (("nobody", "x" * 20), (seaweedfs_server.access_key, "wrong" * 5)):
        place = S3Place(
            bucket="faults", endpoint=seaweedfs_server.endpoint, access_key=access, secret_key=secret
        )
        with pytest.raises(StoreRefused) as told:
            await S3Store.open(place)
        assert told.value.facts["advice"]
        assert secret not in repr(place) + str(told.value)


async def test_a_missing_bucket_is_refused_and_made_only_on_demand(seaweedfs_server: S3Server) -> None:
    bucket = f"new-{secrets.token_hex(4)}"
    url = f"s3://{bucket}/x?endpoint={seaweedfs_server.endpoint}"
    with pytest.raises(StoreRefused) as told:
        await open_store(url, environment=seaweedfs_server.keys)
    assert "create=true" in str(told.value.facts["advice"])
    for _ in range(2):
        opened = await open_store(f"{url}&create=true", environment=seaweedfs_server.keys)
        await opened.close()


async def test_a_bucket_that_is_removed_makes_nothing_look_missing(seaweedfs_server: S3Server) -> None:
    """Its NoSuchBucket is also a 404. (SeaweedFS makes a missing bucket again at the next write.)"""
    url = seaweedfs_server.url(f"gone-{secrets.token_hex(4)}", "x")
    opened = await open_store(url, environment=seaweedfs_server.keys)
    assert isinstance(opened, S3Store)
    await opened._client.delete_bucket(Bucket=opened._place.bucket)
    for ask in (opened.get("c/1"), opened.head("c/1")):
        with pytest.raises(StoreRefused):
            await ask
    with pytest.raises(StoreRefused):
        [info async for info in opened.list("c/")]
    await opened.close()

"""One suite for every object store: in memory, in a folder, on SeaweedFS, on MinIO; and for what wraps them.

Wrappers are put around a store in memory, one by one and all at once as the front door does it: none of them
may change what an answer means. Whatever the commit log concludes from a store's answer is asserted here on
each of them.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from storage.errors import ObjectExists, ObjectNotFound, StoreError, StoreRefused
from storage.objects.clock import store_time_ms
from storage.objects.counted import CountedStore
from storage.objects.folder import FolderStore
from storage.objects.limited import LimitedStore, LineLimits
from storage.objects.memory import MemoryBucket, MemoryStore
from storage.objects.open import open_store
from storage.objects.probe import probe
from storage.objects.retry import RetryingStore, RetryPolicy
from storage.objects.s3 import S3Store
from storage.objects.store import ObjectStore
from storage.replica.second import SecondStore
from tests.fakes.faulty_store import Fault, FaultyStore
from tests.fakes.s3_server import S3Server

UNHURRIED = LineLimits(upload_bytes_per_s=1 << 34, download_bytes_per_s=1 << 34)
PATIENT = RetryPolicy(tries=3, wait_first_s=0.001, wait_most_s=0.002, jitter_s=0.0)


async def second(store: ObjectStore) -> ObjectStore:
    """As a replica is met: opened when it is needed, and handed to every caller anew."""

    async def opener() -> ObjectStore:
        return store

    return await SecondStore(opener, PATIENT).for_reading()


async def unsteady(store: ObjectStore) -> ObjectStore:
    """The first try of every kind of call fails before anything happened; who repeats it does not tell."""
    faulty = FaultyStore(store)
    for on in ("create", "get", "head", "list", "delete"):
        faulty.plan(Fault.UNAVAILABLE, on=on)
    return RetryingStore(faulty, PATIENT)


async def as_in_production(store: ObjectStore) -> ObjectStore:
    return LimitedStore(RetryingStore(CountedStore(store), PATIENT), UNHURRIED)


async def plainly(wrap: Callable[[ObjectStore], ObjectStore], store: ObjectStore) -> ObjectStore:
    return wrap(store)


WRAPPERS: dict[str, Callable[[ObjectStore], Awaitable[ObjectStore]]] = {
    "limited": partial(plainly, lambda store: LimitedStore(store, UNHURRIED)),
    "counted": partial(plainly, CountedStore),
    "retrying": partial(plainly, lambda store: RetryingStore(store, PATIENT)),
    "faulty": partial(plainly, FaultyStore),
    "unsteady": unsteady,
    "second": second,
    "production": as_in_production,
}
ALONE = ("limited", "counted", "retrying", "faulty")
"""Each is in `production` or `unsteady` as well."""
ADAPTERS = [
    "memory",
    "folder",
    pytest.param("seaweedfs", marks=pytest.mark.slow),
    pytest.param("minio", marks=pytest.mark.slow),
    *(f"{name} around memory" for name in ("unsteady", "second", "production")),
    *(
        pytest.param(name, marks=pytest.mark.soak)
        for name in (*(f"{one} around memory" for one in ALONE), "production around folder")
    ),
]
RACERS = 8


class Place(Protocol):
    """One place that can be opened several times."""

    async def open(self) -> ObjectStore: ...


class MemoryPlace:
    def __init__(self) -> None:
        self._bucket = MemoryBucket()

    async def open(self) -> ObjectStore:
        return MemoryStore(self._bucket)


class FolderPlace:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def open(self) -> ObjectStore:
        return await FolderStore.open(self._folder, create=True)


class WrappedPlace:
    def __init__(self, name: str, inner: Place) -> None:
        self._wrap = WRAPPERS[name]
        self._inner = inner

    async def open(self) -> ObjectStore:
        return await self._wrap(await self._inner.open())


class BucketPlace:
    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._prefix = f"test-{secrets.token_hex(6)}"

    async def open(self) -> ObjectStore:
        url = self._server.url("contract", self._prefix)
        return await open_store(url, environment=self._server.keys)


@pytest.fixture(params=ADAPTERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "memory":
            return MemoryPlace()
        case "folder":
            return FolderPlace(tmp_path / "a store")
        case wrapped if " around " in wrapped:
            name, _, inner = wrapped.partition(" around ")
            return WrappedPlace(
                name, MemoryPlace() if inner == "memory" else FolderPlace(tmp_path / "a store")
            )
        case name:
            return BucketPlace(request.getfixturevalue(f"{name}_server"))


@pytest.fixture
async def store(place: Place) -> AsyncIterator[ObjectStore]:
    opened = await place.open()
    yield opened
    await opened.close()


async def names(store: ObjectStore, prefix: str) -> list[str]:
    return [info.name async for info in store.list(prefix)]


async def test_an_object_comes_back_as_it_was_written(store: ObjectStore) -> None:
    body = bytes(range(256)) * 300 + secrets.token_bytes(1000)
    await store.create("p/1-abc", body)
    assert await store.get("p/1-abc") == body
    assert await store.head("p/1-abc") == len(body)


async def test_an_object_larger_than_any_part_of_an_upload_is_written_whole(store: ObjectStore) -> None:
    """17 MiB: a pack. It would be multipart in most clients."""
    body = secrets.token_bytes(1 << 20) * 17
    await store.create("p/2-large", body)
    assert await store.head("p/2-large") == len(body)
    assert await store.get("p/2-large", start=(16 << 20) + 5, length=70_000) == body[5:70_005]


async def test_a_taken_name_is_refused_and_keeps_its_bytes(store: ObjectStore) -> None:
    await store.create("c/0000000000000001", b"first")
    for body in (b"second", b"first", b""):
        with pytest.raises(ObjectExists):
            await store.create("c/0000000000000001", body)
    assert await store.get("c/0000000000000001") == b"first"


async def test_a_race_for_a_name_has_exactly_one_winner(place: Place) -> None:
    """From several openings of the same place, as from several nodes."""
    stores = [await place.open() for _ in range(2)]
    bodies = [b"racer %d" % number for number in range(RACERS)]
    answers = await asyncio.gather(
        *(stores[at % 2].create("c/race", body) for at, body in enumerate(bodies)), return_exceptions=True
    )
    won = [body for body, answer in zip(bodies, answers, strict=True) if answer is None]
    assert len(won) == 1, answers
    assert all(isinstance(answer, StoreError) for answer in answers if answer is not None)
    assert await stores[0].get("c/race") == won[0]
    for opened in stores:
        await opened.close()


async def test_what_one_opening_writes_another_reads_and_lists_at_once(place: Place) -> None:
    first, second = await place.open(), await place.open()
    for number in range(5):
        await first.create(f"c/{number}", b"%d" % number)
        assert await second.get(f"c/{number}") == b"%d" % number
        assert f"c/{number}" in await names(second, "c/")
    await first.close()
    await second.close()


async def test_a_missing_object_is_cleanly_not_found(store: ObjectStore) -> None:
    await store.create("c/1", b"x")
    for name in ("c/2", "d", "c/1x", "d/e/f"):
        assert await store.head(name) is None
        with pytest.raises(ObjectNotFound):
            await store.get(name)
        with pytest.raises(ObjectNotFound):
            await store.get(name, start=3, length=0)


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1),
        (0, 1000),
        (1, None),
        (10, 0),
        (990, 10),
        (990, 11),
        (990, 5000),
        (1000, 1),
        (1000, None),
        (5000, 7),
    ],
)
async def test_a_range_is_exact_and_ends_where_the_object_ends(
    store: ObjectStore, start: int, length: int | None
) -> None:
    body = secrets.token_bytes(1000)
    await store.create("p/ranges", body)
    end = None if length is None else start + length
    assert await store.get("p/ranges", start=start, length=length) == body[start:end]


async def test_an_empty_object_exists(store: ObjectStore) -> None:
    await store.create("p/empty", b"")
    assert await store.head("p/empty") == 0
    assert await store.get("p/empty") == b""
    assert await store.get("p/empty", start=0, length=10) == b""
    assert await names(store, "p/") == ["p/empty"]
    with pytest.raises(ObjectExists):
        await store.create("p/empty", b"")


async def test_a_listing_is_complete_and_ascending_by_bytes(store: ObjectStore) -> None:
    """A dash sorts before a slash: servers that list folder by folder get this wrong."""
    made = ["t/a-b/c/1", "t/a/c/1", "t/a/c/2", "t/a/k", "t/b", "u/a", "t/a0/1", "t/a=/1"]
    for name in made:
        await store.create(name, name.encode())
    assert await names(store, "t/") == sorted(name for name in made if name.startswith("t/"))
    assert await names(store, "t/a/c/") == ["t/a/c/1", "t/a/c/2"]
    assert await names(store, "t/a") == sorted(name for name in made if name.startswith("t/a"))
    assert await names(store, "t/b") == ["t/b"]
    assert await names(store, "") == sorted(made)
    assert await names(store, "v/") == []
    sizes = {info.name: info.size async for info in store.list("")}
    assert sizes == {name: len(name) for name in made}


async def test_a_listing_goes_on_past_one_page(store: ObjectStore) -> None:
    """1,000 names are a page of S3; both kinds of servers stop there."""
    made = [f"p/{number:05d}" for number in range(1_050)]
    for at in range(0, len(made), 25):
        await asyncio.gather(*(store.create(name, b"x") for name in made[at : at + 25]))
    assert await names(store, "p/") == made
    assert await names(store, "p/0104") == made[1040:]


async def test_a_deleted_object_is_gone_and_deleting_again_is_done(store: ObjectStore) -> None:
    await store.create("p/gone", b"x")
    await store.create("p/stays", b"y")
    for _ in range(2):
        await store.delete("p/gone")
        assert await store.head("p/gone") is None
        assert await names(store, "p/") == ["p/stays"]
    await store.delete("never/made")
    await store.create("p/gone", b"again")
    assert await store.get("p/gone") == b"again"


BAD_NAMES = ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", ".hidden", "a/.tmp", "a b", "a\nb", "a\0b"]
BAD_NAMES += ["ä", "a%2fb", "a\\b", "a:b", "x" * 201, "a/" * 500 + "a"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_some_store_would_change_is_refused_by_all(store: ObjectStore, name: str) -> None:
    with pytest.raises(StoreRefused):
        await store.create(name, b"x")
    with pytest.raises(StoreRefused):
        await store.get(name)
    assert await names(store, "") == []


async def test_a_store_with_a_clock_tells_about_the_time_that_it_is(store: ObjectStore) -> None:
    """A server of this machine has this machine's clock. A store in memory has none."""
    told = await store_time_ms(store)
    if told is None:
        assert not isinstance(store, FolderStore | S3Store), "a wrapper does not have to tell it"
    else:
        assert abs(told - time.time() * 1000) < 60_000


async def test_a_cancelled_create_leaves_all_or_nothing(store: ObjectStore) -> None:
    body = secrets.token_bytes(1 << 20)
    for number in range(4):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.create(f"p/{number}", body))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
    async for info in store.list("p/"):
        assert await store.get(info.name) == body


async def test_a_closed_store_answers_nothing(place: Place) -> None:
    opened = await place.open()
    await opened.create("c/1", b"x")
    await opened.close()
    await opened.close()
    with pytest.raises(StoreError):
        await opened.get("c/1")


async def test_the_probe_finds_it_usable_and_leaves_nothing_behind(store: ObjectStore) -> None:
    impostor = await store.with_wrong_secret() if isinstance(store, S3Store) else None
    questions = store.questions() if isinstance(store, S3Store) else None
    verdict = await probe(store, impostor=impostor, questions=questions, racers=RACERS)
    assert verdict.usable, verdict
    assert all(check.passed and check.words for check in verdict.checks), verdict
    asked = {"wrong_secret", "listing_in_pages", "checksum", "if_match", "multipart"}
    asked &= {check.name for check in verdict.checks}
    assert len(asked) == (5 if isinstance(store, S3Store) else 0)
    assert await names(store, "") == []
    if impostor is not None:
        await impostor.close()

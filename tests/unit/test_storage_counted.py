"""What a store was asked is counted as a provider bills it, and the model of the price says the same."""

import pytest

import storage
from session_service.core.price import GETS_OF_SAVE, Counted, Prices, counted_price
from storage.objects.counted import LIST_PAGE, CountedStore
from storage.objects.memory import MemoryBucket, MemoryStore
from tests.fakes.faulty_store import Fault, FaultyStore
from tests.fakes.storage_rig import REF, Node, take, write


@pytest.fixture
def counted():
    return CountedStore(MemoryStore())


async def test_each_request_and_each_byte_counts_once(counted):
    await counted.create("a/1", b"12345")
    with pytest.raises(storage.ObjectExists):
        await counted.create("a/1", b"123")
    assert await counted.get("a/1", start=1) == b"2345"
    with pytest.raises(storage.ObjectNotFound):
        await counted.get("a/2")
    assert await counted.head("a/2") is None
    await counted.delete("a/1")
    told = counted.traffic()
    assert told.requests == {"put": 2, "get": 2, "head": 1, "list": 0, "delete": 1, "versions": 0}
    assert (told.sent_bytes, told.fetched_bytes, told.failures) == (8, 4, 0)


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (LIST_PAGE, 1), (LIST_PAGE + 1, 2)])
async def test_a_listing_costs_one_request_by_page(counted, rows, pages):
    for number in range(rows):
        await counted.inner.create(f"a/{number:05}", b"")
    assert len([info async for info in counted.list("a/")]) == rows
    assert counted.traffic().requests["list"] == pages


async def test_a_store_that_is_away_is_counted_as_failures_by_try():
    faulty = FaultyStore(MemoryStore())
    counted = CountedStore(faulty)
    faulty.plan(Fault.UNAVAILABLE, on="head", times=2)
    for _ in range(2):
        with pytest.raises(storage.StoreUnavailable):
            await counted.head("a")
    assert await counted.head("a") is None
    assert counted.traffic().failures == 2


async def test_a_save_asks_of_the_store_what_the_model_of_its_price_says(tmp_path):
    opened = Node(MemoryBucket(), tmp_path / "node").open()
    home = tmp_path / "home"
    home.mkdir()
    fence = await take(opened)
    for text in ("first", "second"):
        write(home, a=text)
        before = opened.traffic().requests
        await opened.checkpoint(REF, home=home, fence=fence, session="s", reason="test")
    asked = {kind: count - before[kind] for kind, count in opened.traffic().requests.items()}
    assert asked == {"put": 1, "get": 5, "head": 2, "list": 0, "delete": 0, "versions": 0}
    assert asked["get"] + asked["head"] == GETS_OF_SAVE


def test_what_was_counted_has_a_price_and_a_month():
    counted = Counted(seconds=3_600, puts=900, lists=100, gets=900, heads=100, fetched_bytes=10**9)
    so_far, month = counted_price(counted, Prices(egress_gb=0.09))
    assert so_far == pytest.approx(0.005 + 0.0004 + 0.09)
    assert month == pytest.approx(so_far * 720)

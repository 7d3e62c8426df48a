"""The line to a store with a limited speed: what goes when, in which order, and what never waits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.objects.limited import (
    SMALL_BYTES_MAX,
    Bucket,
    LimitedStore,
    Line,
    LineLimits,
    going_first,
)
from storage.objects.memory import MemoryStore
from storage.objects.retry import RetryingStore

MIB = 1024 * 1024


class Time:
    """A clock that moves when somebody sleeps by it, and lets others run first."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        until = self.now_s + seconds
        for _ in range(20):
            await asyncio.sleep(0)
        self.now_s = max(self.now_s, until)


def line_at(bytes_per_s: float | None) -> tuple[Line, Time]:
    time = Time()
    return Line(bytes_per_s, clock_s=time.clock, sleep=time.sleep), time


def noted(line: Line, name: str, size: int, order: list[str]) -> Callable[[], Awaitable[None]]:
    async def go() -> None:
        await line.turn(size)
        order.append(name)

    return go


@given(
    per_s=st.integers(1_000, 10**9),
    sizes=st.lists(st.integers(0, 64 * MIB), min_size=1, max_size=30),
)
def test_what_went_before_is_paid_for_when_the_next_transfer_begins(per_s: int, sizes: list[int]) -> None:
    bucket, now_s = Bucket(per_s, now_s=0.0), 0.0
    for size in sizes:
        now_s += bucket.wait_s(now_s)
        bucket.take(size, now_s)
    assert sum(sizes[:-1]) <= per_s * (now_s + 1.0) * (1 + 1e-9) + 1


def test_an_overdrawn_bucket_says_when_it_is_paid_off() -> None:
    bucket = Bucket(1_000, now_s=0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.take(5_000, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(4.0)
    assert bucket.wait_s(3.0) == pytest.approx(1.0)
    assert bucket.wait_s(4.0) == 0


def test_a_clock_that_goes_back_gives_nothing_twice() -> None:
    bucket = Bucket(1_000, now_s=10.0)
    bucket.take(3_000, 10.0)
    bucket.wait_s(5.0)
    assert bucket.wait_s(10.0) == pytest.approx(2.0)


async def test_without_a_limit_nobody_waits() -> None:
    line, time = line_at(None)
    for _ in range(100):
        await line.turn(64 * MIB)
    assert time.now_s == 0


async def test_transfers_take_as_long_as_the_limit_says() -> None:
    line, time = line_at(MIB)
    for _ in range(11):
        await line.turn(MIB)
    assert time.now_s == pytest.approx(9.0)


async def test_a_final_save_goes_before_all_that_wait_already() -> None:
    line, _ = line_at(MIB)
    order: list[str] = []
    await line.turn(8 * MIB)
    async with asyncio.TaskGroup() as group:
        for name in ("periodic 1", "periodic 2"):
            group.create_task(noted(line, name, MIB, order)())
        await asyncio.sleep(0)
        with going_first():
            group.create_task(noted(line, "final", MIB, order)())
    assert order == ["final", "periodic 1", "periodic 2"]


async def test_who_gives_up_its_place_stops_nobody() -> None:
    line, _ = line_at(MIB)
    order: list[str] = []
    await line.turn(8 * MIB)
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(noted(line, "gone", MIB, order)())
        group.create_task(noted(line, "next", MIB, order)())
        await asyncio.sleep(0)
        gone.cancel()
    assert order == ["next"]


async def test_small_objects_do_not_wait_but_count() -> None:
    store = LimitedStore(MemoryStore(), LineLimits(upload_bytes_per_s=1.0, download_bytes_per_s=1.0))
    async with asyncio.timeout(30):
        for number in range(50):
            await store.create(f"l/{number}", bytes(SMALL_BYTES_MAX))
            await store.get(f"l/{number}", length=SMALL_BYTES_MAX)
    line, time = line_at(1_000)
    line.count(3_000)
    await line.turn(1)
    assert time.now_s == pytest.approx(2.0)


async def test_everything_else_reaches_the_store_as_it_is() -> None:
    inner = MemoryStore()
    store = LimitedStore(RetryingStore(inner), LineLimits(upload_bytes_per_s=1e9))
    await store.create("p/1", bytearray(b"x" * 200_000))
    assert await store.head("p/1") == 200_000
    assert await store.get("p/1", start=199_999) == b"x"
    assert [info.name async for info in store.list("p/")] == ["p/1"]
    assert await store.list_versions("p/") == await inner.list_versions("p/")
    await store.delete("p/1")
    assert await store.head("p/1") is None
    await store.close()

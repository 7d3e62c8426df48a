"""The one retry wrapper: what it repeats, when it stops, and what it must not forget."""

from collections.abc import Awaitable, Callable

import pytest

from storage.errors import (
    AmbiguousWrite,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from storage.objects.memory import MemoryStore
from storage.objects.retry import RetryingStore, RetryPolicy
from tests.fakes.faulty_store import FOR_EVER, Fault, FaultyStore

QUICK = RetryPolicy(wait_first_s=0.0001, wait_most_s=0.0002, jitter_s=0.0)
THREE = RetryPolicy(tries=3, wait_first_s=0.0001, wait_most_s=0.0002, jitter_s=0.0)


def store_with(policy: RetryPolicy) -> tuple[RetryingStore, FaultyStore]:
    faulty = FaultyStore(MemoryStore())
    return RetryingStore(faulty, policy), faulty


async def test_a_store_that_is_away_for_long_is_waited_for() -> None:
    store, faulty = store_with(QUICK)
    faulty.plan(Fault.UNAVAILABLE, times=25)
    await store.create("c/1", b"x")
    assert [call.outcome for call in faulty.calls] == ["unavailable"] * 25 + ["ok"]


async def test_every_operation_is_repeated() -> None:
    store, faulty = store_with(QUICK)
    await store.create("c/1", b"abc")
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: store.get("c/1", start=1, length=1),
        lambda: store.head("c/1"),
        lambda: store.delete("c/1"),
    ]
    answers = []
    for ask in asked:
        faulty.plan(Fault.UNAVAILABLE, times=2)
        answers.append(await ask())
    assert answers == [b"b", 3, None]


async def test_a_listing_that_breaks_off_is_read_again_from_the_start() -> None:
    store, faulty = store_with(QUICK)
    for number in range(4):
        await store.create(f"c/{number}", b"")
    faulty.plan(Fault.CUT_LISTING, on="list")
    assert [info.name async for info in store.list("c/")] == ["c/0", "c/1", "c/2", "c/3"]


@pytest.mark.parametrize(("fault", "error"), [(Fault.REFUSED, StoreRefused), (Fault.STALE, ObjectNotFound)])
async def test_what_is_permanent_is_not_repeated(fault: Fault, error: type[StoreError]) -> None:
    store, faulty = store_with(QUICK)
    await store.create("c/1", b"x")
    faulty.plan(fault, on="get", times=FOR_EVER)
    with pytest.raises(error):
        await store.get("c/1")
    assert len(faulty.calls) == 2


async def test_the_last_failure_is_raised_when_patience_ends() -> None:
    store, faulty = store_with(THREE)
    faulty.plan(Fault.UNAVAILABLE, times=FOR_EVER)
    with pytest.raises(StoreUnavailable):
        await store.get("c/1")
    assert len(faulty.calls) == 3


async def test_a_first_try_that_took_all_the_patience_is_the_last() -> None:
    store, faulty = store_with(RetryPolicy(give_up_after_s=0.0))
    faulty.plan(Fault.UNAVAILABLE, times=FOR_EVER)
    with pytest.raises(StoreUnavailable):
        await store.get("c/1")
    assert len(faulty.calls) == 1


async def test_a_lost_answer_is_settled_by_sending_the_same_bytes_again() -> None:
    """The second send meets the first: 412, which is the normal end, and the caller compares the bytes."""
    store, faulty = store_with(QUICK)
    faulty.plan(Fault.LOST_ANSWER, on="create")
    with pytest.raises(ObjectExists):
        await store.create("c/1", b"x")
    assert await store.get("c/1") == b"x"


async def test_a_write_that_never_arrived_is_written_by_the_repeat() -> None:
    store, faulty = store_with(QUICK)
    faulty.plan(Fault.NEVER_ARRIVED, on="create", times=3)
    faulty.plan(Fault.CONFLICT, on="create", times=2)
    await store.create("c/1", b"x")
    assert await store.get("c/1") == b"x"


@pytest.mark.parametrize("then", [Fault.UNAVAILABLE, Fault.REFUSED, Fault.CONFLICT, Fault.FULL])
async def test_once_ambiguous_a_create_stays_ambiguous_until_it_is_settled(then: Fault) -> None:
    """After one lost answer, "unreachable" or "refused" may not be read as "not written"."""
    store, faulty = store_with(THREE)
    faulty.plan(Fault.LOST_ANSWER, on="create")
    faulty.plan(then, on="create", times=FOR_EVER)
    with pytest.raises(AmbiguousWrite):
        await store.create("c/1", b"x")
    faulty.heal()
    assert await store.get("c/1") == b"x"


async def test_failures_are_told_while_they_happen() -> None:
    told: list[tuple[str, int]] = []
    faulty = FaultyStore(MemoryStore())
    store = RetryingStore(faulty, QUICK, lambda exc, number: told.append((exc.code, number)))
    faulty.plan(Fault.UNAVAILABLE, times=2)
    await store.create("c/1", b"x")
    assert told == [("store_unavailable", 1), ("store_unavailable", 2)]

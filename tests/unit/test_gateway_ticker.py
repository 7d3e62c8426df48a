"""When the ticker looks, when it judges, and that nobody stands in another's way."""

import asyncio
from collections.abc import Callable

from session_service.core.wheel import SLICE_KEYS_MAX
from session_service.gateway.liveness import Ticker
from session_service.gateway.stats import GatewayStats
from tests.fakes.until import until

TICK_S = 0.005


class Item:
    """Something watched, that says when it is to be looked at again."""

    def __init__(self, answer: Callable[[float], float | None]) -> None:
        self.answer = answer
        self.looks: list[float] = []
        self.judged: list[float] = []

    def look(self, now: float, excused: float) -> float | None:
        self.looks.append(now)
        return self.answer(now)

    def judge(self, now: float, excused: float) -> None:
        self.judged.append(now)


def made() -> Ticker:
    return Ticker(tick_s=TICK_S, stall_s=5.0, stats=GatewayStats())


async def test_nobody_is_looked_at_before_his_time_or_twice_for_it() -> None:
    ticker, loop = made(), asyncio.get_running_loop()
    began = loop.time()
    late, soon = Item(lambda now: now + 60), Item(lambda now: now + 60)
    ticker.add(late, began + 20 * TICK_S)
    ticker.add(soon, began + 2 * TICK_S)
    await until(lambda: late.looks)
    assert soon.looks[0] >= began + 2 * TICK_S
    assert late.looks[0] >= began + 20 * TICK_S
    assert len(soon.looks) == len(late.looks) == 1
    ticker.add(late, loop.time())
    await until(lambda: len(late.looks) == 2)  # an earlier time takes the place of the later one
    ticker.stop()


async def test_a_suspect_is_judged_a_tick_later_and_looked_at_again_when_it_lives_on() -> None:
    ticker, loop = made(), asyncio.get_running_loop()
    item = Item(lambda now: None if len(item.looks) < 2 else now + 60)
    ticker.add(item, loop.time())
    await until(lambda: len(item.looks) == 2)
    assert item.looks[0] < item.judged[0] <= item.looks[1]
    assert len(item.judged) == 1
    ticker.stop()


async def test_who_leaves_between_suspicion_and_judgement_is_not_judged() -> None:
    ticker, loop = made(), asyncio.get_running_loop()

    def suspect(_now: float) -> None:
        loop.call_soon(ticker.remove, item)

    item, other = Item(suspect), Item(lambda _now: None)
    ticker.add(item, loop.time())
    ticker.add(other, loop.time())
    await until(lambda: other.judged)
    assert (len(item.looks), item.judged, len(ticker)) == (1, [], 1)
    ticker.remove(other)
    assert len(ticker) == 0
    ticker.stop()


async def test_thousands_due_at_once_let_others_run_in_between() -> None:
    """What is due in one moment is looked at, and judged, in slices."""
    ticker, loop = made(), asyncio.get_running_loop()
    items = [Item(lambda _now: None) for _ in range(5 * SLICE_KEYS_MAX)]
    for item in items:
        ticker.add(item, loop.time())
    most = seen = 0
    while not all(item.judged for item in items):
        await asyncio.sleep(0)
        done = sum(len(item.looks) + len(item.judged) for item in items)
        most, seen = max(most, done - seen), done
    assert most <= SLICE_KEYS_MAX
    ticker.stop()

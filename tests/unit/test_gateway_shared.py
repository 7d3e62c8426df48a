"""What all connections share goes on when one of them fails."""

import asyncio

from session_service.gateway.liveness import Ticker
from session_service.gateway.soon import Soon
from session_service.gateway.stats import GatewayStats
from tests.fakes.until import until


class One:
    """A connection that counts, or breaks, when it is looked at."""

    def __init__(self, *, broken: bool) -> None:
        self.broken = broken
        self.looked = self.judged = self.paid = 0

    def look(self, now: float, excused: float) -> float | None:
        self.looked += 1
        assert not self.broken
        return None if self.judged < 2 else now + 0.01

    def judge(self, now: float, excused: float) -> None:
        self.judged += 1
        assert not self.broken

    def pay(self) -> None:
        self.paid += 1
        assert not self.broken


async def test_a_connection_that_fails_stops_no_ticker() -> None:
    """One failure ended it: from there on no silent client was found, on any link."""
    ticker = Ticker(tick_s=0.005, stall_s=5.0, stats=GatewayStats())
    broken, well = One(broken=True), One(broken=False)
    now = asyncio.get_running_loop().time()
    for one in (broken, well):
        ticker.add(one, now)
    ticker._suspects[broken] = None
    await until(lambda: well.looked > 4)
    assert broken.looked
    assert broken.judged
    assert well.judged == 2
    ticker.stop()


async def test_a_link_that_fails_leaves_no_other_one_unpaid() -> None:
    soon, broken, well = Soon(), One(broken=True), One(broken=False)
    for one in (broken, well):
        soon.add(one)
    await until(lambda: well.paid == 1)
    assert broken.paid == 1
    soon.stop()

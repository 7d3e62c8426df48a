"""Who fails too often is told to wait: per address, never per session, never who proves well."""

import asyncio

import pytest

from session_service.core.continuity.failures import (
    ADDRESSES_MAX,
    FAILURES_MAX,
    WINDOW_MS,
    Failures,
    address_key,
)
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal
from tests.sim.page import Page, started
from tests.sim.world import Life, World


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("10.0.0.9", "10.0.0.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.9", "10.0.0.9"),
        ("unix", "unix"),
    ],
)
def test_an_address_counts_as_itself_or_as_its_network(address: str, key: str) -> None:
    assert address_key(address) == key


def test_one_too_many_within_a_minute_and_a_minute_later_none() -> None:
    failures = Failures()
    assert [failures.failed("2001:db8::1", 0) for _ in range(FAILURES_MAX)] == [False] * FAILURES_MAX
    assert failures.failed("2001:db8::2", WINDOW_MS - 1)
    assert not failures.failed("10.0.0.9", WINDOW_MS - 1)
    assert not failures.failed("2001:db8::1", WINDOW_MS)


def test_what_is_remembered_is_bounded_and_the_quietest_is_forgotten_first() -> None:
    failures = Failures()
    for number in range(ADDRESSES_MAX + 5):
        failures.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number)
    assert len(failures) == ADDRESSES_MAX


def test_guessing_is_throttled_and_the_sessions_user_is_not_locked_out() -> None:
    """From the very address of the guesser: a good proof is always taken."""
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
        guesser = Page(life)
        guesser.session_id, guesser.grant, guesser.key = session_id, page.grant, bytes(32)
        whys = []
        for number in range(FAILURES_MAX + 2):
            answer = await guesser.resume(guesser.offer(number=number + 1))
            assert isinstance(answer, LinkRefusal)
            whys.append((answer.why, answer.code))
        assert whys[:FAILURES_MAX] == [("not_found", 4404)] * FAILURES_MAX
        assert whys[FAILURES_MAX:] == [("too_many", 4429)] * 2
        assert answer.retry_ms
        assert isinstance(await page.resume(), Attachment)
        await asyncio.sleep(WINDOW_MS / 1000)
        answer = await guesser.resume(guesser.offer(number=99))
        assert isinstance(answer, LinkRefusal)
        assert answer.why == "not_found"

    world.live(play)


def test_guessed_tickets_count_and_a_good_one_opens_all_the_same() -> None:
    world = World()

    async def play(life: Life) -> None:
        page, session_id = await started(life)
        for number in range(FAILURES_MAX + 1):
            offer = LinkOffer(
                link_id=f"guess-{number}", ticket="A" * 43, subprotocol="binary", address="10.0.0.9"
            )
            answer = await life.control.attachments.attach(offer)
            assert isinstance(answer, LinkRefusal)
        assert (answer.why, answer.next) == ("too_many", "open")
        await page.open_stream(session_id)

    world.live(play)

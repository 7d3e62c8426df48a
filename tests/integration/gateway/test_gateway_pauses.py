"""What is told beside the stream: planned pauses, and the one line that says all about a link that ended."""

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from session_service.core.continuity.client import Began, Lost, Replayed
from session_service.core.records import LossCause
from session_service.gateway import gateway
from session_service.gateway.address import address_class
from session_service.gateway.link import Link
from session_service.gateway.regular_ends import RegularEnds
from session_service.gateway.stats import resume_key
from session_service.ports.streams import PlannedPause
from tests.fakes.gateway_world import World, masked, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_resume import HANDSHAKE, SID, Page, add, page, stream

PAUSE = PlannedPause(begins_at_ms=1_800_000_000_000, back_at_ms=1_800_000_600_000, note="New disks.")


async def word(page: Page) -> dict[str, Any]:
    """The next text, whatever bytes of the desktop come before it."""
    message: str | bytes = b""
    while isinstance(message, bytes):
        message = await page.socket.recv()
    found: dict[str, Any] = json.loads(message)
    return found


async def test_a_planned_pause_is_told_on_open_links_on_new_ones_and_at_the_end(desktop: FakeDesktop) -> None:
    async with running() as world:
        add(world, desktop)
        async with page(world) as one:
            await one.open()
            await one.bytes(12)
            world.gateway.announce(PAUSE)
            told = {"t": "pause", "begin": PAUSE.begins_at_ms, "back": PAUSE.back_at_ms, "note": "New disks."}
            assert await word(one) == told
            async with page(world) as two:
                await two.open()
                assert await word(two) == told
                world.gateway.announce(None)
                assert await word(two) == {"t": "pause", "begin": None, "back": None, "note": ""}
                world.gateway.announce(PAUSE)
                assert await word(two) == told
                await world.gateway.close()
                assert await word(two) == {
                    "t": "drain",
                    "after": [0, 3000],
                    "to": None,
                    "back": PAUSE.back_at_ms,
                    "note": "New disks.",
                }


async def test_the_last_line_of_a_link_says_how_it_began_and_what_it_carried(
    world: World, desktop: FakeDesktop
) -> None:
    add(world, desktop)
    async with page(world) as first:
        opened = await first.open()
        await first.bytes(12)
        await first.say(a=12)
        await first.socket.send(HANDSHAKE)
        assert await word(first) == {"a": len(HANDSHAKE)}
        first.socket.transport.abort()
    end = await world.control.end_of(0)
    assert (end.mode, end.subprotocol, end.address_class) == ("control", "continuity.v1", "loopback")
    assert (end.resumed, end.acks_in, end.acks_out, end.bytes_up) == ("no", 1, 1, len(HANDSHAKE))
    async with page(world) as second:
        sent = len(HANDSHAKE)
        answer = await second.resume(opened, 1, received=12, have=sent, end=sent)
        assert answer["how"] == "replay"
        first_line = world.gateway.stats()
        assert first_line.resumes[resume_key("replay", "none")] == 1
        assert sum(first_line.replays) == 1
    end = await world.control.end_of(1)
    assert (end.resumed, end.close_code) == ("replay", 1000)
    async with page(world) as third:
        answer = await third.resume(opened, 1, received=12)
        assert answer["t"] == "no"
    assert world.gateway.stats().resumes[resume_key("refused", "none")] == 1


async def test_a_client_that_only_writes_makes_no_acknowledgements_pile_up(
    world: World, desktop: FakeDesktop
) -> None:
    """It reads nothing; every 4 KiB of it are worth an acknowledgement, of which only the newest is kept."""
    add(world, desktop)
    async with page(world) as one:
        await one.open()
        await one.bytes(12)
        await one.socket.send(HANDSHAKE)
        (link,) = world.gateway._hub.links.values()
        link.pause_writing()  # type: ignore[attr-defined]  # as the loop does for a full socket
        before = link._acks_out  # type: ignore[attr-defined]  # a resumable link
        for _ in range(64):
            await one.socket.send(b"\x06\x00\x00\x00\x00\x00\x10\x00" + bytes(4096))
        stream = world.gateway._hub.streams[SID]
        await until(lambda: stream.core.received == len(HANDSHAKE) + 64 * 4104)
        assert link._acks_out == before  # type: ignore[attr-defined]  # a resumable link
        link.resume_writing()  # type: ignore[attr-defined]  # a resumable link
        last: dict[str, Any] = {}
        while last.get("a", 0) < len(HANDSHAKE) + 64 * 4104:
            last = await word(one)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("fe80::1", "private"),
        ("9.9.9.9", "public4"),
        ("2620:fe::fe", "public6"),
        ("unix", "unix"),
    ],
)
def test_an_address_is_logged_by_its_kind_as_well(address: str, kind: str) -> None:
    assert address_class(address) == kind


def test_two_cuts_at_one_age_are_a_proxy_and_one_is_not() -> None:
    ends = RegularEnds()
    reset, idle = LossCause.RESET, LossCause.PROXY_IDLE
    ages = [(60.2, reset), (60.9, idle), (60.1, idle), (13.0, reset), (60.3, idle), (75.0, reset)]
    assert [ends.cause("s", reset, age) for age, _ in ages] == [cause for _, cause in ages]
    assert ends.cause("other", reset, 75.0) is reset
    assert ends.cause("s", LossCause.TAB_CLOSED, 75.0) is LossCause.TAB_CLOSED


async def test_a_stopping_gateway_without_a_plan_says_nothing_of_one(tmp_path: Path) -> None:
    async with FakeDesktop(tmp_path / "rfb.sock") as desktop, running() as world:
        add(world, desktop)
        async with page(world) as one:
            await one.open()
            await one.bytes(12)
            await world.gateway.close()
            assert "back" not in await word(one)
            with pytest.raises(ConnectionClosed):
                await one.socket.recv()


async def test_who_asks_between_two_slices_of_an_ending_gateway_is_told_to_come_back(
    desktop: FakeDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link whose first word comes while others are told already, and who waits is not dropped yet."""
    monkeypatch.setattr(gateway, "SLICE", 1)
    async with running() as world:
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s"), world.connect() as early, world.connect() as late:
            waiting = world.gateway._hub.waiting
            await until(lambda: len([each for each in waiting if isinstance(each, Link)]) == 2)
            last = list(waiting)[-1]
            assert isinstance(last, Link)
            says = masked(1, world.first(world.control.ticket("s")).encode())

            def and_meanwhile(name: str) -> None:
                plain = getattr(Link, name)

                def told(link: Link, *args: object) -> None:
                    plain(link, *args)
                    if last in waiting:
                        last.data_received(says)

                monkeypatch.setattr(Link, name, told)

            and_meanwhile("close_link")
            and_meanwhile("reset")
            await world.gateway.close()
            with pytest.raises(ConnectionClosed):
                await early.recv()
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await late.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


async def test_a_program_signs_its_return_in_by_itself_and_loses_no_byte(
    world: World, desktop: FakeDesktop
) -> None:
    """A policy that asks at each return: `login`, a fresh ticket that proves it, and the stream goes on."""
    add(world, desktop)
    world.control.asks_login = True
    async with stream(world) as client:
        events = client.events()
        while not isinstance(await anext(events), Began):
            pass
        await client.write(HANDSHAKE)
        await until(lambda: len(desktop.viewers[0].messages) > 0 or client._client.up.unacknowledged == 0)
        client.cut()
        whys = []
        while not isinstance(event := await anext(events), Replayed):
            assert not isinstance(event, Began), event
            if isinstance(event, Lost):
                whys.append(event.why)
    assert whys == ["network", "login"]
    assert [bool(offer.attempt.ticket) for offer in world.control.resumes] == [False, True]
    assert len(desktop.viewers) == 1

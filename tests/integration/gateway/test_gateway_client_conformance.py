"""The Python client and `connect` against the conformance kit: what networks, proxies and servers do to a
client; and that the kit finds a client that does not do what it must.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from session_service.client.resumable_stream import ResumableStream
from session_service.conformance import runner
from session_service.conformance.casework import Driver, Patience
from session_service.conformance.lobby import ByHand, Lobby
from session_service.conformance.runner import Colour, Verdict
from session_service.conformance.server import Server
from session_service.core.close_codes import Close
from session_service.core.continuity.client import Act, Client, Ended, Send
from session_service.core.continuity.messages import Beat, FromServer, Resumed, Taken
from tests.fakes.conformance_clients import ConnectDriver, SdkDriver, WallClock

QUICK = Patience(start_s=20.0, back_s=20.0, quiet_s=0.5, idle_s=3.0, freeze_s=2.0)
UNTRIED_ALLOWED = {"frozen_client"}
"""A client in the process of its test cannot stand still by itself; as a program it does."""
OURS = pytest.mark.parametrize("client", [SdkDriver, ConnectDriver], ids=["sdk", "connect"])
HASTY = replace(QUICK, back_s=3.0)
"""For clients that are broken: what they leave out never comes."""


class AsksOnLogin(ResumableStream):
    """Takes every `login` for one that a fresh ticket proves, `not_found` among them."""

    def _ended(self, ended: Ended) -> None:
        super()._ended(replace(ended, code=int(Close.LOGIN)) if ended.step == "login" else ended)


class GivesUp(Client):
    """Forgets its stream with its link."""

    def _lose(self, now: float, why: str, retry_ms: int | None = None) -> list[Act]:
        self._forget()
        return super()._lose(now, why, retry_ms)


class SendsNothingAgain(Client):
    """Takes what was not acknowledged for sent."""

    def _resumed(self, message: Resumed, now: float) -> list[Act]:
        return [act for act in super()._resumed(message, now) if not isinstance(act, Send)]


class AnswersNoBeat(Client):
    """Acknowledges in its own time only."""

    def _take_open(self, message: FromServer, now: float) -> list[Act]:
        return [] if isinstance(message, Beat) else super()._take_open(message, now)


class StealsBack(Client):
    """Takes `taken` for a lost line."""

    def _take_open(self, message: FromServer, now: float) -> list[Act]:
        return [] if isinstance(message, Taken) else super()._take_open(message, now)


class BelievesEveryAnswer(Client):
    """Looks at no checksum."""

    def _resumed(self, message: Resumed, now: float) -> list[Act]:
        taken = message.taken
        known = self.up.checksum(taken) if message.replay and self.up.holds(taken) else message.checksum
        return super()._resumed(replace(message, checksum=known), now)


class WaitsForNobody(Client):
    """Comes back when it likes."""

    def _pause(self, retry_ms: int | None) -> float:
        return 0.0


BROKEN: list[tuple[str, Callable[[], SdkDriver], str]] = [
    ("refused_4404", lambda: SdkDriver(AsksOnLogin), "dialled again"),
    ("lost_opened", lambda: SdkDriver(forgets_ticket=False), "offered twice"),
    ("cut", lambda: SdkDriver(core=GivesUp), "gave its stream up"),
    ("input_is_sent_again", lambda: SdkDriver(core=SendsNothingAgain), "sent again differs"),
    ("beats", lambda: SdkDriver(core=AnswersNoBeat), "not answered"),
    ("taken_over", lambda: SdkDriver(core=StealsBack), "dialled again"),
    ("copied_client", lambda: SdkDriver(core=BelievesEveryAnswer), "own history differs"),
    ("refused_4503", lambda: SdkDriver(core=WaitsForNobody), "were asked for"),
]


@pytest.fixture(autouse=True)
def wall_clock() -> Iterator[None]:
    """A wall clock that cases set forward and back."""
    with WallClock.movable():
        yield


async def verdicts(
    client: Callable[[], Driver], *patterns: str, patience: Patience = QUICK, with_long: bool = False
) -> list[Verdict]:
    """Run the cases of these names, all without any; none that is long by default."""
    cases = runner.chosen(patterns, with_long=with_long)
    async with Server("http://127.0.0.1:0") as server:
        return [one async for one in runner.run(server, cases, client, patience=patience)]


def not_green(found: list[Verdict]) -> list[tuple[str, str]]:
    """What a failing test has to show."""
    return [
        (one.case, one.words)
        for one in found
        if one.colour is Colour.RED or (one.colour is Colour.UNTRIED and one.case not in UNTRIED_ALLOWED)
    ]


@pytest.mark.slow
@OURS
async def test_our_clients_do_what_a_client_must(client: Callable[[], Driver]) -> None:
    """One red case names itself and what the client did."""
    found = await verdicts(client)
    assert len(found) > 85
    assert not_green(found) == []


@pytest.mark.slow
@pytest.mark.soak
@OURS
async def test_our_clients_do_it_over_the_limits_of_real_proxies_too(client: Callable[[], Driver]) -> None:
    """A minute of idling, half a minute of silence: the cases that wait for real limits, in full."""
    found = await verdicts(client, patience=Patience(), with_long=True)
    assert len(found) > 95
    assert not_green(found) == []


async def test_refusals_and_early_bytes_are_met_as_promised() -> None:
    """`not_found` was asked about without an end or a pause; a portal's page ended a stream for good."""
    names = ("refused_4404", "bytes_before_the_answer", "cut", "login_at_a_return", "ticket_portal_200")
    found = await verdicts(SdkDriver, *(f"^{name}$" for name in names))
    assert {one.case: (one.colour, one.words) for one in found} == dict.fromkeys(names, (Colour.GREEN, ""))


async def test_who_is_started_by_hand_meets_one_case_after_the_other() -> None:
    """One session for all; whoever was there before is told that it was ended, and the next one begins."""
    cases = runner.chosen(["^cut$", "^lost_opened$"])
    begun: list[str] = []
    clients: list[SdkDriver] = []
    async with Server("http://127.0.0.1:0") as server, asyncio.TaskGroup() as group:
        server.lobby = Lobby(shard="hand", session_id=runner.fresh_id(), aud=server.aud)
        place = runner.place_of(server, server.lobby.nobody, "by hand")

        async def somebody() -> None:
            while len(clients) < len(cases):
                clients.append(SdkDriver())
                await clients[-1].start(place)
                await clients[-1].over()

        group.create_task(somebody(), name="somebody")
        found = [
            one
            async for one in runner.run(
                server, cases, ByHand, patience=QUICK, begins=lambda case: begun.append(case.name)
            )
        ]
    assert [(one.case, one.colour) for one in found] == [(name, Colour.GREEN) for name in begun]
    assert [one.ended for one in clients] == [["stream_ended"], ["stream_ended"]]


async def test_a_kit_that_ends_with_clients_on_it_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its servers left a traceback of each line that was open."""
    client = SdkDriver()
    async with Server("http://127.0.0.1:0") as server:
        desk = server.desk("c1", runner.fresh_id())
        await client.start(runner.place_of(server, desk, "none"))
        await desk.until(lambda: desk.attachments > 0, QUICK.start_s, "nobody came")
    await client.stop()
    assert (server.errors, caplog.records) == ([], [])


@pytest.mark.parametrize(("name", "client", "words"), BROKEN, ids=[row[0] for row in BROKEN])
async def test_a_client_with_one_thing_broken_is_found_red(
    name: str, client: Callable[[], SdkDriver], words: str
) -> None:
    """The kit can fail a client, and says which promise was broken."""
    [one] = await verdicts(client, f"^{name}$", patience=HASTY)
    assert one.colour is Colour.RED
    assert words in one.words

"""The Python client against the conformance kit: what networks, proxies and servers do to a client."""

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from session_service.client.resumable_stream import ResumableStream
from session_service.conformance import runner
from session_service.conformance.casework import Patience
from session_service.conformance.runner import Colour, Verdict
from session_service.conformance.server import Server
from session_service.core.close_codes import Close
from session_service.core.continuity.client import Act, Client, Ended, Send
from session_service.core.continuity.messages import Beat, FromServer, Resumed, Taken
from tests.fakes.conformance_clients import SdkDriver

QUICK = Patience(start_s=20.0, back_s=20.0, quiet_s=0.5, idle_s=3.0, freeze_s=2.0)
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def verdicts(*patterns: str) -> list[Verdict]:
    """Run the cases of these names, all that are quick without any."""
    cases = runner.chosen(patterns, with_long=False)
    async with Server(f"http://127.0.0.1:{free_port()}") as server:
        return [one async for one in runner.run(server, cases, SdkDriver, patience=QUICK, jobs=6)]


@pytest.mark.slow
async def test_the_python_client_does_what_a_client_must() -> None:
    """One red case names itself, its promise and what the client did."""
    found = await verdicts()
    assert len(found) > 60
    assert [one for one in found if one.colour is Colour.RED] == []
    assert sum(one.colour is Colour.UNTRIED for one in found) <= 2


async def test_refusals_and_early_bytes_are_met_as_promised() -> None:
    """`not_found` was asked about without an end or a pause; early bytes were never sent by the kit."""
    found = await verdicts("^refused_4404$", "^bytes_before_the_answer$", "^cut$", "^login_at_a_return$")
    assert {one.case: (one.colour, one.words) for one in found} == {
        "refused_4404": (Colour.GREEN, ""),
        "bytes_before_the_answer": (Colour.GREEN, ""),
        "cut": (Colour.GREEN, ""),
        "login_at_a_return": (Colour.GREEN, ""),
    }


@pytest.mark.parametrize(("name", "client", "words"), BROKEN, ids=[row[0] for row in BROKEN])
async def test_a_client_with_one_thing_broken_is_found_red(
    name: str, client: Callable[[], SdkDriver], words: str
) -> None:
    """The kit can fail a client, and says which promise was broken."""
    cases = runner.chosen([f"^{name}$"])
    async with Server(f"http://127.0.0.1:{free_port()}") as server:
        [one] = [each async for each in runner.run(server, cases, client, patience=HASTY)]
    assert one.colour is Colour.RED
    assert words in one.words

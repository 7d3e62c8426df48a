"""The Python client against the conformance kit: what networks, proxies and servers do to a client."""

import socket

import pytest

from session_service.conformance import runner
from session_service.conformance.casework import Patience
from session_service.conformance.runner import Colour, Verdict
from session_service.conformance.server import Server
from tests.fakes.conformance_clients import SdkDriver

QUICK = Patience(start_s=20.0, back_s=20.0, quiet_s=0.5, idle_s=3.0, freeze_s=2.0)
NOT_YET = frozenset({"refused_4404", "bytes_before_the_answer"})
"""What the Python client does otherwise: it asks for a ticket of its own after `not_found`, and leaves a line
with bytes before the answer only after the time of a dial.
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def verdicts(*patterns: str) -> list[Verdict]:
    """Run the cases of these names, all that are quick without any."""
    cases = [case for case in runner.chosen(patterns, with_long=False) if case.name not in NOT_YET]
    async with Server(f"http://127.0.0.1:{free_port()}") as server:
        return [one async for one in runner.run(server, cases, SdkDriver, patience=QUICK, jobs=6)]


@pytest.mark.slow
async def test_the_python_client_does_what_a_client_must() -> None:
    """One red case names itself, its promise and what the client did."""
    found = await verdicts()
    assert len(found) > 60
    assert [one for one in found if one.colour is Colour.RED] == []
    assert sum(one.colour is Colour.UNTRIED for one in found) <= 2


async def test_what_it_does_otherwise_is_found_red() -> None:
    """The kit can fail a client, and says which promise was broken."""
    cases = runner.chosen(["^refused_4404$"])
    async with Server(f"http://127.0.0.1:{free_port()}") as server:
        [one] = [each async for each in runner.run(server, cases, SdkDriver, patience=QUICK)]
    assert one.colour is Colour.RED
    assert "dialled again" in one.words

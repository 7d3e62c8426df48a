"""The conformance kit for pytest: each case is a test of your own client.

Give a fixture `conformance_driver` that returns a driver (an object with `start(place)` and `stop()`), or the
option `--conformance-run`, and one test that asks for `conformance`; it runs once for each case:

    def test_my_client(conformance):
        conformance()

A coroutine awaits `conformance.play()` instead. Nothing of the kit is imported, and no run is changed, where
no test asks for it.
"""

import asyncio
import unittest
from typing import Any, Final

import pytest

FIXTURE: Final = "conformance"
OPTION: Final = "--conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("conformance", "clients of continuity.v1 (session-service)")
    group.addoption(
        f"{OPTION}-run",
        metavar="COMMAND",
        default="",
        help="starts the client under test, as `doctor client`",
    )
    group.addoption(
        f"{OPTION}-only", metavar="REGEX", default="", help="cases whose name matches; all without it"
    )
    group.addoption(f"{OPTION}-quick", action="store_true", help="leave out the cases that wait for limits")
    group.addoption(
        f"{OPTION}-url",
        metavar="URL",
        default="http://127.0.0.1:0",
        help="address under which the client finds the kit; port 0 takes a free one",
    )
    group.addoption(
        f"{OPTION}-idle-s",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="idle time-out of the proxy played",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case where `conformance` is asked for."""
    if FIXTURE not in metafunc.fixturenames:
        return
    from session_service.conformance.runner import chosen

    only = metafunc.config.getoption(f"{OPTION}-only")
    cases = chosen([only] if only else [], with_long=not metafunc.config.getoption(f"{OPTION}-quick"))
    metafunc.parametrize(FIXTURE, cases, ids=[case.name for case in cases], indirect=True)


class Trial:
    """One case, ready to be played with the client of `conformance_driver`."""

    def __init__(self, case: Any, driver: Any, patience: Any, url: str) -> None:
        self.case = case
        self._driver = driver
        self._patience = patience
        self._url = url

    def __call__(self) -> None:
        """Play it in an event loop of its own."""
        asyncio.run(self.play())

    async def play(self) -> None:
        """Play it. Fails the test with all that is known of a red case; skips one that was not tried."""
        from session_service.conformance import report
        from session_service.conformance.runner import Colour, run_case
        from session_service.conformance.server import Server

        async with Server(self._url) as server:
            verdict = await run_case(server, self.case, self._driver, self._patience)
        if verdict.colour is Colour.RED:
            pytest.fail(report.explained(verdict), pytrace=False)
        if verdict.colour is Colour.UNTRIED:
            raise unittest.SkipTest(verdict.words)


@pytest.fixture
def conformance_driver(request: pytest.FixtureRequest) -> Any:
    """The client under test; give one of your own, or the option --conformance-run."""
    from session_service.conformance.command import CommandDriver

    command = request.config.getoption(f"{OPTION}-run")
    if not command:
        pytest.fail(f"Give a fixture `conformance_driver`, or {OPTION}-run.", pytrace=False)
    return CommandDriver(command)


@pytest.fixture
def conformance_patience(request: pytest.FixtureRequest) -> Any:
    """How long the kit waits; give a `casework.Patience` of your own for slow machines."""
    from session_service.conformance.casework import Patience

    return Patience(idle_s=request.config.getoption(f"{OPTION}-idle-s"))


@pytest.fixture
def conformance(request: pytest.FixtureRequest, conformance_driver: Any, conformance_patience: Any) -> Trial:
    """One case of the kit; a test that asks for it runs once for each."""
    url = request.config.getoption(f"{OPTION}-url")
    return Trial(request.param, conformance_driver, conformance_patience, url)

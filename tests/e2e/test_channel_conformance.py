"""The browser's channel against the conformance kit, in a real Chromium, with an unmodified noVNC on top.

The page is the one that docs/channel.md shows, so the document is held to it as well.
"""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from session_service.conformance import runner
from session_service.conformance.casework import Patience
from session_service.conformance.runner import Colour
from session_service.conformance.server import Server
from tests.fakes.conformance_browser import Elsewhere, PageDriver

pytestmark = pytest.mark.slow
QUICK = Patience(quiet_s=0.5, idle_s=3.0, freeze_s=4.0)
SOME = (
    "^(many_cuts|first_dial_meets_a_portal|portal_302|refused_4404|login_twice|copied_client)$",
    "^(frozen_client|clock_jump|code_1007_twice|token_expired_at_a_login|ticket_portal_302)$",
)
"""Those that were red once, and what a browser does otherwise than a program."""


@pytest.fixture
async def site() -> AsyncIterator[Elsewhere]:
    """Somebody else's page and back end."""
    async with Elsewhere().serving() as serving:
        yield serving


async def _not_green(
    browser: Browser, site: Elsewhere, patience: Patience, *patterns: str
) -> list[tuple[str, str]]:
    """Play the cases, all without patterns; return what is red or untried, and the pages' complaints."""
    cases = runner.chosen(patterns)
    drivers: list[PageDriver] = []
    context = await browser.new_context()

    def driver() -> PageDriver:
        drivers.append(PageDriver(context, site))
        return drivers[-1]

    async with Server("http://127.0.0.1:0") as server:
        found = [one async for one in runner.run(server, cases, driver, patience=patience, jobs=6)]
    await context.close()
    assert len(found) == len(cases)
    red = [(one.case, one.words) for one in found if one.colour is not Colour.GREEN]
    return red + [("page", words) for each in drivers for words in each.complaints]


async def test_the_channel_does_what_a_client_must(browser: Browser, site: Elsewhere) -> None:
    assert await _not_green(browser, site, QUICK, *SOME) == []


@pytest.mark.parametrize(
    ("case", "broken", "words"),
    [
        ("refused_4404", ("if (code !== 4401) this.#key = null;", ""), "dialled again by itself"),
        ("copied_client", ("this.#up.checksum(taken) !== message.x", "false"), "own history differs"),
    ],
)
async def test_a_channel_with_one_thing_broken_is_found_red(
    browser: Browser, case: str, broken: tuple[str, str], words: str
) -> None:
    """The first of them is how it was: told `not_found`, the page asked and dialled again, and again."""
    async with Elsewhere(broken).serving() as site:
        [(found, said), *_] = await _not_green(browser, site, QUICK, f"^{case}$")
    assert (found, words in said) == (case, True), said


@pytest.mark.soak
async def test_the_channel_does_all_of_it_over_real_limits(browser: Browser, site: Elsewhere) -> None:
    """Every case, with a proxy's whole minute and a tab that is frozen for long."""
    assert await _not_green(browser, site, Patience()) == []

"""Typing in a real Chromium with noVNC while its network drops every packet without a word.

The line is real (tests/fakes/silent_line.py), the desktop and its terminal are real, and the truth is the
file that the terminal wrote: every key that the page took stands in it once, in order, and no other.
"""

import asyncio
import random
import string
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.e2e.conftest import signed_in
from tests.e2e.test_space import handle_of
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService
from tests.fakes.silent_line import Line, silent_line
from tests.fakes.until import until

pytestmark = pytest.mark.slow
LIVE, STALE = "body[data-view=live]", "body[data-view=stale]"
KEYS = string.ascii_lowercase + string.ascii_uppercase + string.digits
BACK_S = 6.0
"""From the moment the line speaks to a live picture, on a machine that is busy with other tests."""
# What the page takes: a key that arrives at the canvas while the picture is called live.
RECORD = """
window.took = "";
window.streams = 0;
addEventListener("keydown", (event) => {
  const live = document.body.dataset.view === "live" && event.target.matches(".glass canvas");
  if (live && event.key.length === 1) window.took += event.key;
}, true);
"""


@dataclass(slots=True, kw_only=True)
class Seat:
    """A page that is typed into."""

    page: Page
    line: Line
    typed: Path
    chance: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    backs_s: list[float] = field(default_factory=list)

    async def type(self) -> None:
        """Type without looking, as people do."""
        while not self.stop.is_set():
            await self.page.keyboard.press(self.chance.choice(KEYS))

    async def outage(self, silent_s: float) -> None:
        """Be silent for so long; then the picture must be live at once."""
        await self.line.silence()
        await asyncio.sleep(silent_s)  # the silence is the test
        before = time.monotonic()
        await self.line.speak()
        await self.page.wait_for_selector(LIVE)
        self.backs_s.append(time.monotonic() - before)

    async def settled(self) -> tuple[str, str]:
        """Stop typing and return what the page took and what the terminal got, once it has all."""
        self.stop.set()
        await self.page.wait_for_selector(LIVE)
        took = str(await self.page.evaluate("window.took"))
        await until(lambda: len(self.typed.read_text()) >= len(took), 30)
        return took, self.typed.read_text()


@asynccontextmanager
async def seat(tmp_path: Path, *, seed: int) -> AsyncIterator[Seat]:
    """Start everything and open the desktop with a terminal that keeps what it reads."""
    service = RunningService(hold_s=600, template="bare")
    async with silent_line(service, tmp_path) as line, service, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=line.browser, args=["--no-sandbox"])
        context = await browser.new_context(ignore_https_errors=True, locale="en-GB")
        await context.add_cookies(await signed_in(service))  # type: ignore[arg-type]  # as playwright made them
        page = await context.new_page()
        page.set_default_timeout(60_000)
        await page.goto(f"{line.address}/desktop")
        await page.get_by_role("button", name="Start my desktop").click()
        await page.wait_for_selector(LIVE)
        handle = handle_of(service, page.url.rsplit("/", 1)[-1])
        await run_in_terminal(handle, "stty -icanon -echo; touch ~/typed; cat > ~/typed & touch ~/reads; fg")
        await until(home_file(handle, "reads").is_file)
        await page.locator(".glass canvas").click(position={"x": 200, "y": 200})
        await page.evaluate(RECORD)
        await page.evaluate("document.querySelector('.glass canvas').dataset.mark = 'kept'")
        yield Seat(page=page, line=line, typed=home_file(handle, "typed"), chance=random.Random(seed))
        await browser.close()


async def test_keys_typed_while_packets_are_dropped_arrive_once_and_in_order(tmp_path: Path) -> None:
    """A silence that TCP bridges by itself, and one that the page must notice: it is never called live."""
    async with seat(tmp_path, seed=7) as seated, asyncio.TaskGroup() as group:
        group.create_task(seated.type())
        await seated.outage(1.5)
        await seated.line.silence()
        await seated.page.wait_for_selector(STALE, timeout=10_000)
        await expect(seated.page.locator(".glass canvas")).to_be_hidden()
        await seated.outage(1.0)
        took, got = await seated.settled()
        assert got == took
        assert len(took) > 100
        assert await seated.page.locator(".glass canvas").get_attribute("data-mark") == "kept"
        assert max(seated.backs_s) < BACK_S, seated.backs_s


@pytest.mark.soak
async def test_a_minute_of_silence_and_many_shorter_ones_lose_and_double_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with seat(tmp_path, seed=11) as seated, asyncio.TaskGroup() as group:
        group.create_task(seated.type())
        for _ in range(20):
            await seated.outage(seated.chance.uniform(0.2, 12.0))
            await asyncio.sleep(seated.chance.uniform(0.1, 1.5))  # some typing between
        await seated.outage(60)
        took, got = await seated.settled()
        record_property("keys", len(took))
        record_property("back_s", sorted(round(each, 2) for each in seated.backs_s))
        assert got == took
        assert len(took) > 1000
        assert await seated.page.locator(".glass canvas").get_attribute("data-mark") == "kept"
        assert max(seated.backs_s) < BACK_S, seated.backs_s

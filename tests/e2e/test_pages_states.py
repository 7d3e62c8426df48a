"""Every state of every page, wide and light, narrow and dark: what must be said is said, nothing runs over
the edge, everything has a name, and nothing is complained of.

Set PAGE_PICTURES to a folder to keep the pictures and look at them.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import OpenPage, signed_in
from tests.e2e.page_states import ALARM, SESSION_ID, Told, fleet, states, tell
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow
DESKTOP = {
    "none": "No desktop is open",
    "starting": "Your desktop is starting",
    "trouble": "Your desktop is starting",
    "active": "Your desktop is open",
    "held": "Your desktop is waiting, as you left it",
    "ending": "Your desktop closes in 5 minutes",
    "week": "Your desktop is waiting, as you left it",
    "closing": "Saving, then closing",
    "storage-down": "Not closed yet: not every file is in storage",
    "failed": "Your desktop did not start",
    "died": "No desktop is open",
}
SCREEN = {
    "starting": "Your desktop is starting",
    "closing": "Saving, then closing",
    "storage-down": "Not closed yet:",
    "closed": "Closed. All files are saved.",
    "failed": "Your desktop did not start",
    "died": "Your desktop stopped by itself",
}
NAMELESS = """
[...document.querySelectorAll("button, a[href], input:not([type=file]), select, textarea")].filter(e =>
  e.checkVisibility() && !(e.textContent.trim() || e.ariaLabel || e.title || e.labels?.length)).length"""

SMALL = """
[...document.querySelectorAll("button, a.button, .mark, nav a, select, summary, .input")]
  .filter(e => e.checkVisibility({ visibilityProperty: true })).map(e => [e, e.getBoundingClientRect()])
  .filter(([e, box]) => box.width > 0 && (box.width < 43.5 || box.height < 43.5) && !e.closest("td, .panel"))
  .map(([e, box]) => `${e.className} ${e.textContent} ${box.width} x ${box.height}`)"""
FOCUSED = """(() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), look = getComputedStyle(e);
  const ring = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2;
  const label = e.labels?.[0] && getComputedStyle(e.labels[0]);
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return {
    name: (e.ariaLabel ?? e.textContent.trim()) || e.id, is_body: e === document.body,
    ring: ring || label?.outlineStyle === "solid", at: [...document.querySelectorAll("*")].indexOf(e),
    hidden: !(top && (e === top || e.contains(top) || top.contains(e))),
  };
})()"""


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningService]:
    """One service for all looks, since none of them changes anything in it."""
    running = RunningService()
    asyncio.run(running.start())
    yield running
    asyncio.run(running.stop())


async def look(page: Page, name: str) -> None:
    """Hold the page to what every page must be, and keep a picture."""
    # Not innerWidth: a phone widens it when something runs over the edge.
    assert page.viewport_size is not None
    assert await page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], name
    assert await page.evaluate(NAMELESS) == 0, name
    assert await page.evaluate("document.querySelectorAll('main h1, dialog[open] h1').length") >= 1, name
    if folder := os.environ.get("PAGE_PICTURES"):
        await page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")
    if page.viewport_size["width"] == 390:
        before = page.viewport_size
        await page.set_viewport_size({"width": 320, "height": 640})
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320, name
        assert await page.evaluate(SMALL) == [], name
        await page.set_viewport_size(before)


@pytest.mark.parametrize(("size", "phone", "dark"), [("wide", False, False), ("phone", True, True)])
async def test_each_state_says_its_words_and_fits(
    shared: RunningService, open_page: OpenPage, size: str, phone: bool, dark: bool
) -> None:
    cookies = await signed_in(shared)
    user_id = (await shared.api("GET", "/users"))["items"][0]["id"]
    looks = states(user_id)
    told = Told()
    page = await open_page(phone=phone, dark=dark, cookies=cookies)
    await tell(page, told, user_id=user_id)
    for name, words in DESKTOP.items():
        told.sessions = looks[name]
        await page.goto(f"{shared.address}/desktop")
        await expect(page.get_by_role("heading", name=words)).to_be_visible()
        if name == "week":  # the figures are a day, and it is not said twice
            assert (await page.locator(".left").inner_text()).split()[:1] == ["until"]
            assert "left" not in await page.locator(".left").inner_text()
        await look(page, f"{size}-desktop-{name}")
    for name, words in SCREEN.items():
        told.sessions = looks[name]
        await page.goto(f"{shared.address}/desktop/{SESSION_ID}")
        await expect(page.locator("dialog[open] h1")).to_contain_text(words)
        await expect(page.locator("dialog[open] h1")).to_be_focused()
        await look(page, f"{size}-screen-{name}")


@pytest.mark.parametrize(("size", "phone", "dark"), [("wide", False, True), ("phone", True, False)])
async def test_each_other_page_fits_with_the_longest_things_in_it(
    shared: RunningService, open_page: OpenPage, size: str, phone: bool, dark: bool
) -> None:
    cookies = await signed_in(shared)
    user_id = (await shared.api("GET", "/users"))["items"][0]["id"]
    page = await open_page(phone=phone, dark=dark, cookies=cookies)
    told = Told(sessions=fleet(300), alarms=[ALARM])
    await tell(page, told, user_id=user_id)
    await page.goto(f"{shared.address}/operator")
    await expect(page.get_by_text("cannot go on")).to_be_visible()
    first = page.locator("tbody tr").first
    await expect(first).to_contain_text("s0003")
    assert await page.locator("tbody tr").count() == 80
    await look(page, f"{size}-fleet")
    for name, place, words in (
        ("files", "/files", "could not be read"),
        ("files-beside", "/files?seq=45", "saved beside the line and are in no later checkpoint"),
        ("receipts", "/receipts", "closed after the wait"),
        ("receipts-one", f"/receipts/{SESSION_ID}", "are saved"),
    ):
        await page.goto(shared.address + place)
        await expect(page.get_by_text(words).filter(visible=True).first).to_be_visible()
        await look(page, f"{size}-{name}")
    told.sessions = []
    await page.goto(f"{shared.address}/desktop")
    await page.get_by_role("button", name="Start my desktop").click()
    await expect(page.get_by_role("heading", name="Which files do you want to start with?")).to_be_visible()
    await expect(page.get_by_role("radio", name="Wait for the newest")).to_be_checked()
    await look(page, f"{size}-choose")
    await page.context.close()
    page = await open_page(phone=phone, dark=dark)
    await page.goto(f"{shared.address}/sign-in")
    await page.wait_for_selector("h1")
    await look(page, f"{size}-sign-in")


async def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(
    shared: RunningService, open_page: OpenPage
) -> None:
    """By Tab alone, from the link that skips to the content; a menu and a dialog close by Escape and give the
    focus back.
    """
    cookies = await signed_in(shared)
    user_id = (await shared.api("GET", "/users"))["items"][0]["id"]
    page = await open_page(cookies=cookies)
    told = Told(sessions=states(user_id)["held"])
    await tell(page, told, user_id=user_id)
    for place, must in (
        ("/desktop", {"Resume", "Extend…", "End and save…"}),
        ("/files", {"Download all"}),
        ("/receipts", {"Receipts"}),
        ("/people", {"New account…"}),
    ):
        await page.goto(shared.address + place)
        await expect(page.get_by_text(next(iter(must)), exact=True).first).to_be_visible()
        names, last = set(), -1
        for _ in range(80):
            await page.keyboard.press("Tab")
            seen = await page.evaluate(FOCUSED)
            if seen["is_body"] or seen["at"] < last:
                break
            assert seen["ring"], (place, seen)
            assert not seen["hidden"], (place, seen)
            names.add(seen["name"])
            last = seen["at"]
        assert must <= names, (place, names)
    await page.goto(f"{shared.address}/desktop")
    for name, role in (("Account ada", "menu"), ("Extend…", "dialog"), ("End and save…", "dialog")):
        opener = page.get_by_role("button", name=name)
        await opener.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role(role)).to_be_visible()  # type: ignore[arg-type]  # names of roles
        await page.keyboard.press("Escape")
        await expect(page.get_by_role(role)).to_have_count(0)  # type: ignore[arg-type]  # names of roles
        await expect(opener).to_be_focused()

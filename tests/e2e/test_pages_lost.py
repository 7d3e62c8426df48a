"""What the screen page says and shows when it is not alone, not reached, or not for long any more."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import OpenPage, signed_in
from tests.e2e.test_pages_states import look
from tests.fakes.odd_network import OddNetwork
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow
LIVE, STALE = "body[data-view=live]", "body[data-view=stale]"
# What the service tells, with one fact changed that would need a full disk.
FULL_DISK = """
const Real = window.EventSource;
window.EventSource = class extends Real {
  addEventListener(kind, hear) {
    super.addEventListener(kind, (event) => {
      if (!event.data) return hear(event);
      const told = JSON.parse(event.data);
      for (const session of told.sessions ?? [told]) session.limits_missing = ["space"];
      hear(new MessageEvent(kind, { data: JSON.stringify(told) }));
    });
  }
};
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll(".seat-bar button")].filter(e => e.checkVisibility()).flatMap(
  e => [e.offsetWidth, e.offsetHeight]))"""
A_MINUTE_LATER = """
const now = performance.now.bind(performance);
performance.now = () => now() + 61_000;
"""


@asynccontextmanager
async def odd_service() -> AsyncIterator[tuple[RunningService, OddNetwork]]:
    """A service behind a network that may turn odd."""
    service = RunningService(hold_s=600, template="bare")
    async with OddNetwork(service.port) as network:
        address = f"http://127.0.0.1:{network.port}"
        service._environment["SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS"] = json.dumps([address])
        async with service:
            service.address = address
            yield service, network


async def _start(page: Page, service: RunningService) -> None:
    await page.goto(f"{service.address}/desktop")
    await page.get_by_role("button", name="Start my desktop").click()
    await page.wait_for_selector(LIVE)


async def test_a_network_that_stands_in_between_is_named_and_the_picture_goes_after_a_minute(
    open_page: OpenPage,
) -> None:
    async with odd_service() as (service, network):
        page = await open_page(phone=True, cookies=await signed_in(service))
        await _start(page, service)
        assert await page.evaluate(SMALLEST) >= 44, "too small for a finger"
        network.manner = "portal"
        network.cut_all()
        status = page.locator("dialog[open] .status")
        await expect(status).to_contain_text("may want a sign-in of its own", timeout=30_000)
        assert await page.locator(".still").evaluate("still => still.width") > 0
        await look(page, "phone-seat-portal")
        await page.evaluate(A_MINUTE_LATER)
        await expect(page.locator("dialog[open]")).to_contain_text("The picture is hidden")
        await look(page, "phone-seat-blank")
        assert await page.locator(".still").evaluate("still => still.width") == 0
        network.manner = "no_websockets"
        await expect(status).to_contain_text("lets pages through", timeout=30_000)
        network.manner = "clear"
        await page.wait_for_selector(LIVE)
        await expect(page.locator(".glass canvas")).to_be_visible()
        await page.get_by_role("button", name="Keyboard and special keys").tap()
        await look(page, "phone-seat-keys")
        await page.get_by_role("button", name="Keyboard and special keys").tap()
        await page.get_by_role("button", name="Clipboard").tap()
        await look(page, "phone-seat-clipboard")


async def test_a_duplicated_tab_takes_over_once_and_each_stays_down_until_a_click(
    open_page: OpenPage,
) -> None:
    async with RunningService(hold_s=600, template="bare") as service:
        first = await open_page(cookies=await signed_in(service))
        await _start(first, service)
        second = await first.context.new_page()
        await second.goto(first.url)
        await second.wait_for_selector(LIVE)
        await first.wait_for_selector("body[data-moment=taken-over]")
        await look(first, "wide-seat-taken")
        await first.evaluate("dispatchEvent(new Event('online'))")
        await first.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await first.get_by_role("button", name="Take it back").click()
        await first.wait_for_selector(LIVE)
        await second.wait_for_selector("body[data-moment=taken-over]")
        await second.reload()
        await second.wait_for_selector(LIVE)
        await first.wait_for_selector("body[data-moment=taken-over]")


async def test_a_live_page_tells_of_a_full_disk_and_a_planned_pause_and_how_long_an_answer_takes(
    open_page: OpenPage,
) -> None:
    """All by keyboard; the choice of a picture is kept over a reload."""
    async with RunningService(hold_s=600, template="bare") as service:
        page = await open_page(cookies=await signed_in(service))
        await page.add_init_script(FULL_DISK)
        await _start(page, service)
        notice = page.locator(".seat-notice")
        await expect(notice).to_contain_text("The disk of this machine is nearly full.")
        pause = {"begins_at": "2098-12-31T22:00:00Z", "back_at": "2099-01-01T15:00:00Z", "note": "New disks."}
        await service.api("POST", "/pause", pause)
        await expect(notice).to_contain_text("A pause is planned")
        await expect(notice).to_contain_text("New disks.")
        await look(page, "wide-seat-notice")
        await page.keyboard.press("Control+Alt+Shift")
        for _ in range(3):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.get_by_role("menuitem", name="Picture and connection…").press("Enter")
        dialog = page.locator("dialog[open]")
        await expect(dialog.get_by_role("heading", name="Picture and connection")).to_be_focused()
        await expect(dialog.get_by_role("status")).to_contain_text("ms.", timeout=15_000)
        await look(page, "wide-seat-picture")
        await dialog.get_by_role("radio", name="Thrifty").press("Space")
        await dialog.get_by_role("radio", name="Its own size").press("Space")
        await dialog.get_by_role("button", name="Close").press("Enter")
        await expect(page.locator(".glass canvas")).to_be_focused()
        await page.reload()
        await page.wait_for_selector(LIVE)
        await page.get_by_role("button", name="More").click()
        await page.get_by_role("menuitem", name="Picture and connection…").click()
        await expect(dialog.get_by_role("radio", name="Thrifty")).to_be_checked()
        await expect(dialog.get_by_role("radio", name="Its own size")).to_be_checked()
        await page.keyboard.press("Escape")
        await page.set_viewport_size({"width": 390, "height": 844})
        await look(page, "narrow-seat-notice")

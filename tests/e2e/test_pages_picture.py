"""The picture of one's own desktop on My desktop: a real one, of a real desktop, in a real browser."""

import base64
import io
import re

import pytest
from PIL import Image
from playwright.async_api import Page, expect

from tests.e2e.conftest import OpenPage, signed_in
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow


async def held(service: RunningService, page: Page) -> str:
    """Start a desktop and leave it; return its session."""
    await page.goto(f"{service.address}/desktop")
    await page.get_by_role("button", name="Start my desktop").click()
    await page.wait_for_selector("body[data-view=live]")
    session_id = page.url.rsplit("/", 1)[-1]
    await page.goto(f"{service.address}/receipts")
    await service.until_state(session_id, "held")
    return session_id


async def test_my_desktop_shows_a_picture_with_its_age_and_looking_touches_nothing(
    open_page: OpenPage,
) -> None:
    async with RunningService(hold_s=600) as service:
        cookies = await signed_in(service)
        page = await open_page(cookies=cookies)
        session_id = await held(service, page)
        before = await service.api("GET", f"/sessions/{session_id}")
        await page.goto(f"{service.address}/desktop")
        shown = page.get_by_role("img", name="Last picture of your desktop")
        await expect(shown).to_be_visible()
        await expect(page.locator(".picture .stamp")).to_have_text(
            re.compile(r"^Picture from \d\d:\d\d:\d\d$")
        )
        size = await shown.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert 320 <= max(size) <= 640
        await expect(shown).to_have_css("filter", re.compile("grayscale"))
        after = await service.api("GET", f"/sessions/{session_id}")
        assert after["hold_remaining_s"] < before["hold_remaining_s"]
        for field in ("state", "generation", "links", "lost_at"):
            assert after[field] == before[field], field
        phone = await open_page(phone=True, cookies=cookies)
        await phone.goto(f"{service.address}/desktop")
        await expect(phone.locator(".picture img")).to_be_visible()
        box = await phone.locator(".hero .picture").bounding_box()
        assert box is not None
        assert box["height"] == 144
        kept = await page.evaluate(
            "async () => JSON.stringify([{...localStorage}, {...sessionStorage}, await indexedDB.databases(),"
            " await caches.keys()])"
        )
        assert "base64" not in kept
        assert kept.endswith("[],[]]")
        await page.get_by_role("button", name="End and save").click()
        await page.get_by_role("dialog").get_by_role("button", name=re.compile("End and save")).click()
        await service.until_state(session_id, "closing", "closed")
        await expect(page.locator(".picture img")).to_have_count(0)
        await expect(phone.locator(".picture img")).to_have_count(0)


async def test_a_page_left_alone_for_a_minute_shows_nothing_until_somebody_is_there(
    open_page: OpenPage,
) -> None:
    async with RunningService(hold_s=600) as service:
        page = await open_page(cookies=await signed_in(service))
        await held(service, page)
        await page.clock.install()
        await page.goto(f"{service.address}/desktop")
        shown = page.locator(".picture img")
        await expect(shown).to_be_visible()
        await page.clock.fast_forward(61_000)
        await expect(shown).to_have_count(0)
        await expect(page.locator(".picture.blank")).to_be_visible()
        await page.mouse.move(300, 300)
        await page.mouse.move(310, 300)
        await expect(shown).to_be_visible()


async def test_the_picture_is_of_what_was_on_the_desktop(open_page: OpenPage) -> None:
    """The page's last frame, made as small, differs from it by no more than a pointer and a seam."""
    async with RunningService(hold_s=600) as service:
        page = await open_page(cookies=await signed_in(service))
        await page.goto(f"{service.address}/desktop")
        await page.get_by_role("button", name="Start my desktop").click()
        await page.wait_for_selector("body[data-view=live]")
        session_id = page.url.rsplit("/", 1)[-1]
        answer = await page.request.get(f"{service.address}/api/v1/sessions/{session_id}/picture")
        told = await answer.json()
        frame = await page.locator(".glass canvas").evaluate("canvas => canvas.toDataURL()")
        with (
            Image.open(io.BytesIO(base64.b64decode(told["data"]))) as small,
            Image.open(io.BytesIO(base64.b64decode(frame.partition(",")[2]))) as whole,
        ):
            assert abs(small.width / small.height - whole.width / whole.height) < 0.02
            mine, other = small.convert("L"), whole.convert("L").resize(small.size)
            differing = sum(abs(a - b) > 40 for a, b in zip(mine.tobytes(), other.tobytes(), strict=True))
            assert differing < small.width * small.height / 100

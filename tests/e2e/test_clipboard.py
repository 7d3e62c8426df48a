"""The clipboard panel of the screen page against a real desktop, both ways, with letters beyond Latin-1."""

import asyncio

import pytest

from tests.e2e.conftest import OpenPage, signed_in
from tests.e2e.test_space import handle_of
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
LIVE = "body[data-view=live]"
WORDS = "Grüße, 5 €, 漢字 καλημέρα"


async def test_text_goes_to_the_desktop_and_comes_back_as_it_was(open_page: OpenPage) -> None:
    async with RunningService(hold_s=600, template="bare") as service:
        page = await open_page(cookies=await signed_in(service))
        await page.goto(f"{service.address}/desktop")
        await page.get_by_role("button", name="Start my desktop").click()
        await page.wait_for_selector(LIVE)
        handle = handle_of(service, page.url.rsplit("/", 1)[-1])
        await run_in_terminal(handle, "clear; cat > ~/pasted")
        await until(home_file(handle, "pasted").is_file)
        await page.get_by_role("button", name="Clipboard").click()
        panel = page.get_by_role("region", name="Clipboard")
        await panel.get_by_role("textbox").fill(WORDS)
        await panel.get_by_role("button", name="Give to the desktop").click()
        await page.keyboard.press("Escape")
        glass = page.locator(".glass canvas")
        async with asyncio.timeout(20):
            while WORDS not in home_file(handle, "pasted").read_text():
                await glass.click(button="middle", position={"x": 200, "y": 200})
                await page.keyboard.press("Enter")
                await asyncio.sleep(0.3)  # what was pasted and ended is written by then, or the next time
        await page.keyboard.press("Control+c")
        await page.keyboard.type("clear; cat ~/pasted\n")
        await page.get_by_role("button", name="Clipboard").click()
        await panel.get_by_role("textbox").fill("")
        tries = 0
        async with asyncio.timeout(20):
            while WORDS not in await panel.get_by_role("textbox").input_value():
                # Takes the line that it meets; a paste may have come after an empty one.
                await glass.click(click_count=3, position={"x": 60, "y": 60 + 18 * (tries % 3)})
                tries += 1
                await asyncio.sleep(0.3)

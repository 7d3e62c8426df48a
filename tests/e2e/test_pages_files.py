"""A large folder of a checkpoint with odd names: in a real browser, and with the command."""

import json

import msgspec
import pytest
from playwright.async_api import Page, expect

from session_service.host.state_file import DesktopState
from session_service.ports.desktops import Handle
from tests.e2e.conftest import OpenPage, signed_in
from tests.e2e.test_restoring import command, saved_with
from tests.fakes.desktop_world import home_file, run_in_terminal
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
FILES = 450
MAKE = (
    f"mkdir ~/many; cd ~/many; for n in $(seq 1000 {999 + FILES}); do echo $n > $n.txt; done; "
    r"""echo odd > "$(printf '<img src=x onerror=alert(1)>\377\n.txt')"; cd ~; echo > ready"""
)


async def test_a_large_folder_is_shown_as_it_is_read_and_its_names_are_found(
    open_page: OpenPage,
) -> None:
    """More by the button and by scrolling, on a desk and on a phone; one name of many by how it begins."""
    async with RunningService(hold_s=600, template="bare") as service:
        cookies = await signed_in(service)
        session_id = (await service.api("POST", "/sessions", {}))["id"]
        await service.until_state(session_id, "active", "held")
        path = service.state_folder / "desktops" / session_id / "state.json"
        handle: Handle = msgspec.json.decode(path.read_bytes(), type=DesktopState).handle
        await run_in_terminal(handle, MAKE)
        await until(home_file(handle, "ready").is_file)
        saved = await saved_with(service, session_id, "ready")
        workspace, seq = saved["workspace"]["id"], str(saved["saved_seq"])
        for phone in (False, True):
            page = await open_page(phone=phone, cookies=cookies)
            await page.goto(f"{service.address}/files?workspace={workspace}&seq={seq}&path=many")
            await _look_through(page)
            await page.context.close()
        await _listed(service, workspace, seq)


async def _look_through(page: Page) -> None:
    rows = page.locator(".folder tbody tr")
    status = page.locator(".folder").get_by_role("status")
    await expect(status).to_contain_text("are shown.")
    head = await page.locator(".folder-head").bounding_box()
    last = await page.get_by_role("button", name="Start with this checkpoint").bounding_box()
    assert head is not None
    assert last is not None
    assert last["x"] + last["width"] <= head["x"] + head["width"], "cut off at the edge"
    async with page.expect_response(lambda answer: answer.url.endswith("&prefix=1")):
        await page.get_by_label("Find names that begin with").fill("1")
    await expect(rows).to_have_count(200)
    await page.get_by_role("button", name="Show more").scroll_into_view_if_needed()
    await expect(status).to_contain_text("The first 400 are shown.")
    await page.get_by_role("button", name="Show more").focus()
    await page.keyboard.press("Enter")
    await expect(status).to_contain_text(f"All {FILES} are shown.")
    await page.get_by_label("Find names that begin with").fill("<img")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("<img src=x onerror=alert(1)>\\xff")
    async with page.expect_download() as download:
        await rows.get_by_role("link").first.click()
    assert (await (await download.value).path()).read_bytes() == b"odd\n"
    await page.get_by_label("Find names that begin with").fill("nobody")
    await expect(status).to_contain_text("No name here begins like this.")
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


async def _listed(service: RunningService, workspace: str, seq: str) -> None:
    told, _ = await command(service, "files", workspace, seq, "many", "--json")
    assert len(json.loads(told)) == FILES + 1
    told, aside = await command(service, "files", workspace, seq, "many", "--prefix", "12", "--limit", "3")
    assert [line.split()[-1] for line in told.splitlines()] == ["NAME", "1200.txt", "1201.txt", "1202.txt"]
    assert "There is more than these 3." in aside

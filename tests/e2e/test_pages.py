"""The pages in a real browser against the real service and desktops, from the setup code to the receipt."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.e2e.conftest import PASSWORD, OpenPage, signed_in
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
LIVE = "body[data-view=live]"


async def _start(page: Page, service: RunningService) -> str:
    """Start a desktop from its page and return its session."""
    await page.goto(f"{service.address}/desktop")
    await page.get_by_role("button", name="Start my desktop").click()
    await page.wait_for_selector(LIVE)
    return page.url.rsplit("/", 1)[-1]


async def _moment(page: Page, *moments: str) -> None:
    """Wait until the overlay of one of these moments is there."""
    selector = ", ".join(f"body[data-moment={moment}]" for moment in moments)
    await page.wait_for_selector(selector)


def _home(service: RunningService) -> Path:
    """Return the home of the one desktop there is."""
    homes = [path for path in (service.state_folder / "homes").glob("*/*") if path.is_dir()]
    assert len(homes) == 1, homes
    return homes[0]


def _display(service: RunningService, session_id: str) -> int:
    """Return the X server of a desktop, one of the processes that its state file names."""
    noted = json.loads((service.state_folder / "desktops" / session_id / "state.json").read_text())
    for pid, _ in noted["display_side"]:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "Xvnc":
            return int(pid)
    raise AssertionError(noted["display_side"])


async def test_the_setup_code_makes_the_administrator_and_the_sign_in_leads_back(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page()
    await page.goto(service.address)
    await page.wait_for_url("**/setup")
    await page.get_by_label("Setup code").fill("AAAAA-AAAAA")
    await page.get_by_label("Account").fill("ada")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Set up and sign in").click()
    await expect(page.get_by_text("This code is not right")).to_be_visible()
    await page.get_by_label("Setup code").fill(service.setup_code.lower())
    await page.get_by_role("button", name="Set up and sign in").click()
    await page.wait_for_url("**/desktop")
    await page.get_by_role("button", name="Account ada").click()
    await page.get_by_role("menuitem", name="Sign out", exact=True).click()
    await expect(page.get_by_text("You are signed out")).to_be_visible()
    await page.goto(f"{service.address}/files")
    await page.wait_for_url("**/sign-in?next=/files")
    await page.get_by_label("Account").fill("ada")
    await page.get_by_label("Password").fill("wrong")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("Account or password is not right.")).to_be_visible()
    await expect(page.get_by_label("Account")).to_have_value("ada")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/files")


async def test_a_killed_service_greys_the_picture_and_the_page_comes_back_by_itself(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    session_id = await _start(page, service)
    before = await service.api("GET", f"/sessions/{session_id}")
    service.kill("service")
    await page.wait_for_selector("body[data-view=stale]")
    await expect(page.locator(".stamp")).to_contain_text("Picture from")
    await expect(page.locator(".glass canvas")).to_be_hidden()
    await page.wait_for_selector(LIVE)
    after = await service.until_state(session_id, "active")
    assert after["workspace"] == before["workspace"]
    await expect(page.locator(".still")).to_be_hidden()


async def test_a_long_loss_names_time_work_and_next_and_cannot_be_thrown_away(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    await _start(page, service)
    await expect(page.locator(".seat-bar .saved b")).to_be_visible()  # the page was told of the first save
    parent = service.pid_of("parent")
    assert parent is not None
    os.kill(parent, signal.SIGSTOP)
    try:
        service.kill("service")
        await _moment(page, "lost")
        dialog = page.locator("dialog[open]")
        await expect(dialog.get_by_role("heading", level=1)).to_contain_text("Your desktop is still there.")
        await expect(dialog.get_by_role("heading", level=1)).to_be_focused()
        await expect(dialog.get_by_role("timer")).to_have_text(re.compile(r"\d+:\d\d"))
        await expect(dialog).to_contain_text("at least until")
        await expect(dialog).to_contain_text("when we last heard")
        for _ in range(3):
            await page.keyboard.press("Escape")
        await page.keyboard.type("hello ")
        await _moment(page, "lost")
        icons = await dialog.locator("svg.icon use").evaluate_all(
            "uses => uses.filter(use => !document.querySelector(use.getAttribute('href'))).length"
        )
        assert icons == 0
    finally:
        os.kill(parent, signal.SIGCONT)
        await service.ready()
    await page.wait_for_selector(LIVE)
    await expect(page.locator(".toast")).to_contain_text("You are back after")


async def test_a_device_without_network_is_named_as_such_and_comes_back_at_once(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    session_id = await _start(page, service)
    await page.context.set_offline(True)
    await _moment(page, "lost")
    await expect(page.locator("dialog[open] .status")).to_contain_text("This device has no network.")
    # The browser says goodbye for the page, so it counts as closed; who reads this did not close it.
    held = await service.until_state(session_id, "held")
    assert held["loss_cause"] == "tab_closed"
    await expect(page.locator("dialog[open]")).to_contain_text("The connection ended")
    await expect(page.locator("dialog[open]")).not_to_contain_text("This page was closed")
    await page.context.set_offline(False)
    await page.wait_for_selector(LIVE)


async def test_a_desktop_that_dies_is_told_with_what_was_saved(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    session_id = await _start(page, service)
    os.kill(_display(service, session_id), signal.SIGKILL)
    await service.until_state(session_id, "closed")
    await _moment(page, "closed")
    await expect(page.locator("dialog[open]")).to_contain_text("Your desktop stopped by itself")
    await page.get_by_role("button", name="Start with these files").click()
    await page.wait_for_selector(LIVE)


async def test_signing_out_everywhere_leads_to_a_sign_in_that_knows_the_desktop_waits(
    service: RunningService, open_page: OpenPage
) -> None:
    page, other = (
        await open_page(cookies=await signed_in(service)),
        await open_page(cookies=await signed_in(service)),
    )
    session_id = await _start(page, service)
    await other.goto(f"{service.address}/desktop")
    await other.get_by_role("button", name="Account ada").click()
    await other.get_by_role("menuitem", name="Sign out everywhere…").click()
    await other.get_by_role("button", name="Sign out everywhere…").click()
    await expect(other.get_by_text("You are signed out.")).to_be_visible()
    await page.wait_for_url("**/sign-in?next=*")
    await expect(page.get_by_text("Your sign-in has expired. Your desktop has not.")).to_be_visible()
    await page.get_by_label("Account").fill("ada")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_selector(LIVE)
    assert page.url.endswith(session_id)


async def test_what_is_typed_reaches_the_desktop_and_stays_after_a_reload(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    session_id = await _start(page, service)
    glass = page.locator(".glass canvas")
    box = await glass.bounding_box()
    assert box is not None
    home = _home(service)
    marker = home / "typed.txt"
    async with asyncio.timeout(120):
        while not marker.exists():
            # The panel's first button, a terminal; it may not be drawn yet. A new window has the keyboard.
            await page.mouse.click(box["x"] + 22, box["y"] + box["height"] - 20)
            await page.keyboard.type("echo kept > ~/typed.txt\n", delay=20)
            # A terminal comes for each click: not more of them than a busy machine can open.
            await asyncio.sleep(2.0)
    await page.reload()
    await page.wait_for_selector(LIVE)
    assert page.url.endswith(session_id)
    await page.get_by_role("button", name="Leave").click()
    await page.get_by_role("menuitem", name="Leave: it waits").click()
    await page.wait_for_url("**/desktop")
    await expect(page.get_by_role("heading", name="Your desktop is waiting, as you left it")).to_be_visible()
    await expect(page.get_by_role("timer")).to_be_visible()
    await page.get_by_role("link", name="Resume").click()
    await page.wait_for_selector(LIVE)


async def test_the_second_device_takes_over_and_the_first_stays_down_until_it_takes_back(
    service: RunningService, open_page: OpenPage
) -> None:
    cookies = await signed_in(service)
    first, second = await open_page(cookies=cookies), await open_page(phone=True, cookies=cookies)
    await _start(first, service)
    await second.goto(first.url)
    await second.wait_for_selector(LIVE)
    await _moment(first, "taken-over")
    await first.get_by_role("button", name="Only watch").click()
    await first.wait_for_selector(LIVE)
    await expect(first.locator(".toast")).to_contain_text("Watching only.")
    await second.wait_for_selector(LIVE)
    await first.get_by_role("button", name="Take it back").click()
    await _moment(second, "taken-over")
    await first.wait_for_selector(LIVE)
    await _moment(second, "taken-over")


async def test_end_and_save_shows_the_steps_and_leads_to_the_receipt_and_the_files(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    session_id = await _start(page, service)
    await until(lambda: _home(service).is_dir())
    await page.get_by_role("button", name="Leave").click()
    await page.get_by_role("menuitem", name="End and save…").click()
    await expect(page.get_by_role("heading", name="End your desktop now?")).to_be_focused()
    await page.get_by_role("button", name="End and save", exact=True).click()
    await _moment(page, "closed")
    await expect(page.locator("dialog[open]")).to_contain_text("Every file was read back from storage")
    await page.get_by_role("link", name="Receipt", exact=True).click()
    await page.wait_for_url(f"**/receipts/{session_id}")
    await expect(page.get_by_text("Closed and saved")).to_be_visible()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("are saved")
    await page.get_by_role("link", name="Browse files").click()
    await expect(page.get_by_role("link", name=".config", exact=True)).to_be_visible()
    async with page.expect_download() as waiting:
        await page.get_by_role("link", name="Download all").click()
    download = await waiting.value
    assert (await download.path()).stat().st_size > 100
    await page.get_by_role("button", name="Start with this checkpoint…").click()
    await page.get_by_role("button", name="Start with it").click()
    await page.wait_for_selector(LIVE)
    assert not page.url.endswith(session_id)


async def test_a_hold_that_ends_is_told_on_the_page_that_waits(open_page: OpenPage) -> None:
    async with RunningService(hold_s=6) as service:
        page = await open_page(cookies=await signed_in(service))
        session_id = await _start(page, service)
        await page.goto(f"{service.address}/desktop")
        await page.wait_for_selector("[data-state=held]")
        await service.until_state(session_id, "closed")
        await expect(page.get_by_role("heading", name="No desktop is open")).to_be_visible()
        await page.goto(f"{service.address}/desktop/{session_id}")
        await _moment(page, "closed")
        await expect(page.locator("dialog[open]")).to_contain_text("You were away for")


async def test_an_upload_and_a_save_are_told_with_what_was_verified(
    service: RunningService, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(cookies=await signed_in(service))
    await _start(page, service)
    await page.goto(f"{service.address}/desktop")
    await page.wait_for_selector("[data-state=held]")
    file = tmp_path / "a picture <b>.txt"
    file.write_text("hello", encoding="utf-8")
    async with page.expect_file_chooser() as waiting:
        await page.get_by_role("button", name="Put a file into it…").click()
    await (await waiting.value).set_files(str(file))
    await expect(page.locator(".toast")).to_contain_text("Put into your desktop")
    await until(lambda: list(_home(service).rglob(file.name)))
    await page.get_by_role("button", name="Save now").click()
    await expect(page.locator(".toast")).to_contain_text("read back from storage.")


async def test_operators_see_sessions_live_and_close_with_save_after_reading_what_it_does(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    await service.api("POST", "/users", {"name": "grace", "password": PASSWORD, "role": "user"})
    desk = await open_page(cookies=await signed_in(service, "grace"))
    await page.goto(f"{service.address}/operator")
    await expect(page.get_by_text("No desktop is open.")).to_be_visible()
    session_id = await _start(desk, service)
    row = page.locator(f"tr[data-session='{session_id}']")
    await expect(row).to_contain_text("Active")
    await row.get_by_role("button", name="Actions for grace").click()
    await page.get_by_role("menuitem", name="Disconnect…").click()
    await expect(page.get_by_role("heading", name="Disconnect grace from Home?")).to_be_focused()
    await page.get_by_role("button", name="Cancel").click()
    await row.get_by_role("button", name="Actions for grace").click()
    await page.get_by_role("menuitem", name="Close with save…").click()
    await page.get_by_label("Reason").fill("maintenance tonight")
    await page.get_by_role("button", name="Close with save", exact=True).click()
    await service.until_state(session_id, "closed")
    await expect(row).to_have_count(0)
    await _moment(desk, "closed")
    await expect(desk.locator("dialog[open]")).to_contain_text("An operator closed it")


async def test_the_fleet_says_since_when_it_is_not_live(service: RunningService, open_page: OpenPage) -> None:
    page = await open_page(cookies=await signed_in(service))
    await page.goto(f"{service.address}/operator")
    await expect(page.get_by_text("updated")).to_be_visible()
    parent = service.pid_of("parent")
    assert parent is not None
    os.kill(parent, signal.SIGSTOP)
    try:
        service.kill("service")
        await expect(page.get_by_text("Not live since").first).to_be_visible()
    finally:
        os.kill(parent, signal.SIGCONT)
        await service.ready()
    await expect(page.get_by_text("updated")).to_be_visible()


async def test_administrators_make_accounts_and_tokens_and_others_see_nothing_of_it(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    await page.goto(f"{service.address}/people")
    await page.get_by_role("button", name="New account…").click()
    await page.get_by_role("textbox", name="Account").fill("grace")
    await page.get_by_role("textbox", name="Password").fill(PASSWORD)
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("cell", name="grace", exact=True)).to_be_visible()
    await page.get_by_role("button", name="New token…").click()
    await page.get_by_role("textbox", name="Name").fill("nightly")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_text("sst_")).to_be_visible()
    await page.get_by_role("button", name="Close", exact=True).click()
    await expect(page.get_by_role("cell", name="nightly", exact=True)).to_be_visible()
    other = await open_page(cookies=await signed_in(service, "grace"))
    await other.goto(f"{service.address}/people")
    await expect(other.get_by_role("heading", name="There is nothing here for you")).to_be_visible()
    await other.goto(f"{service.address}/desktop")
    await expect(other.get_by_role("heading", name="No desktop is open")).to_be_visible()


async def test_somebody_elses_desktop_is_not_confirmed(service: RunningService, open_page: OpenPage) -> None:
    cookies = await signed_in(service)
    await service.api("POST", "/users", {"name": "grace", "password": PASSWORD, "role": "user"})
    page = await open_page(cookies=cookies)
    await _start(page, service)
    other = await open_page(cookies=await signed_in(service, "grace"))
    await other.goto(page.url)
    await _moment(other, "denied")
    unknown = await open_page(cookies=await signed_in(service, "grace"))
    await unknown.goto(f"{service.address}/desktop/01J9Z3M4N5P6Q7R8S9T0V1W2X3")
    await _moment(unknown, "denied")


async def test_the_keyboard_leaves_the_desktop_by_the_chord_and_reaches_everything_in_the_bar(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    await _start(page, service)
    await expect(page.locator(".glass canvas")).to_be_focused()
    await page.keyboard.press("Control+Alt+Shift")
    await expect(page.get_by_role("button", name="Clipboard")).to_be_focused()
    names = []
    for _ in range(4):
        await page.keyboard.press("Tab")
        names.append(
            await page.evaluate("document.activeElement.textContent || document.activeElement.title")
        )
    assert names == ["Keyboard and special keys", "Full screen", "More", "Leave"]
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("menuitem", name="Leave: it waits")).to_be_focused()
    await page.keyboard.press("Escape")
    await page.keyboard.press("Control+Alt+Shift")
    await expect(page.locator(".glass canvas")).to_be_focused()


async def test_no_page_asks_another_origin_or_reports_the_policy(
    service: RunningService, open_page: OpenPage
) -> None:
    page = await open_page(cookies=await signed_in(service))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.add_init_script(
        "window.reports = []; addEventListener('securitypolicyviolation', e => reports.push(e.blockedURI))"
    )
    for place in ("/desktop", "/files", "/receipts", "/operator", "/people"):
        await page.goto(service.address + place)
        await page.wait_for_selector("h1")
        assert await page.evaluate("window.reports") == []
    await _start(page, service)
    assert await page.evaluate("window.reports") == []
    own = (service.address, service.address.replace("http", "ws"), "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


async def test_the_way_out_of_the_keyboard_is_told_once_and_to_who_has_one(
    service: RunningService, open_page: OpenPage
) -> None:
    cookies = await signed_in(service)
    phone = await open_page(phone=True, cookies=cookies)
    session_id = await _start(phone, service)
    assert await phone.locator(".toast", has_text="All keys go to the desktop").count() == 0
    desk = await open_page(cookies=cookies)
    await desk.goto(f"{service.address}/desktop/{session_id}")
    await expect(desk.locator(".toast")).to_contain_text("All keys go to the desktop")


async def test_pages_fit_a_phone_and_a_zoom_of_four(service: RunningService, open_page: OpenPage) -> None:
    cookies = await signed_in(service)
    await service.api("POST", "/workspaces", {"name": "W" * 64})
    page = await open_page(phone=True, dark=True, cookies=cookies)
    for width in (390, 320):
        await page.set_viewport_size({"width": width, "height": 844})
        for place in ("/desktop", "/files", "/receipts", "/operator", "/people"):
            await page.goto(service.address + place)
            await page.wait_for_selector("h1")
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (place, width)

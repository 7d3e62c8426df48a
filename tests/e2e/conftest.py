"""What the end-to-end tests share: a real service, a real Chromium, and people who are signed in.

A browser's complaints (console errors, reports of the content policy, exceptions) fail the test that caused
them, except those that a test expects because it cut the line itself.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.fakes.running_service import RunningService

PASSWORD = "correct horse battery staple"
NETWORK_WORDS = (
    "net::ERR_",
    "Failed to load resource",
    "WebSocket connection",
    "ERR_CONNECTION",
    "EventSource's response",
)
AGENT = "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@dataclass
class Complaints:
    """What a browser complained of. Not slotted: playwright keeps its wrappers in it."""

    words: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        """Note an error of the console that is not the network's."""
        if message.type == "error" and not any(word in message.text for word in NETWORK_WORDS):
            self.words.append(message.text)

    def exception(self, error: object) -> None:
        """Note an exception that nobody caught."""
        self.words.append(f"exception: {error}")


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    """A running service with a hold of 30 seconds; its desktops are ended afterwards."""
    async with RunningService(hold_s=30) as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A real Chromium."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        await launched.close()


OpenPage = Callable[..., Awaitable[Page]]


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """Open a page in a browser of its own: `await open_page(phone=True, signed_in=cookies)`."""
    complaints = Complaints()

    async def opened(*, phone: bool = False, dark: bool = False, cookies: Any = None) -> Page:
        size = {"width": 390, "height": 844} if phone else {"width": 1440, "height": 900}
        context = await browser.new_context(
            viewport=size,
            is_mobile=phone,
            has_touch=phone,
            color_scheme="dark" if dark else "light",
            locale="en-GB",
            timezone_id="Europe/Berlin",
        )
        if cookies:
            await context.add_cookies(cookies)
        page = await context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", complaints.console)
        page.on("pageerror", complaints.exception)
        return page

    yield opened
    assert complaints.words == []


async def signed_in(service: RunningService, name: str = "ada") -> list[dict[str, Any]]:
    """Make the administrator, or sign in, and return the browser's cookies."""
    headers = {"X-Session-Service": "1", "Origin": service.address, "User-Agent": AGENT}
    status = await service.api("GET", "/status")
    body = {"name": name, "password": PASSWORD}
    path = "/sign-in"
    if status["setup_needed"]:
        path, body = "/setup", {**body, "code": service.setup_code}
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        # The one certificate of tests signed itself.
        aiohttp.ClientSession(cookie_jar=jar, connector=aiohttp.TCPConnector(ssl=False)) as http,
        http.post(f"{service.address}/api/v1{path}", json=body, headers=headers) as response,
    ):
        assert response.status < 300, await response.text()
        return [
            {"name": key, "value": morsel.value, "url": service.address}
            for key, morsel in response.cookies.items()
        ]

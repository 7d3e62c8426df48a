"""The browser's channel under the conformance kit: the page that docs/channel.md shows, once for each case.

A real Chromium with an unmodified noVNC on somebody else's page and back end. Nothing of the channel is
replaced; only its wall clock can be set, and its tab made to stand still.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from playwright.async_api import BrowserContext, Page

import session_service.http.pages as pages_module
from session_service.conformance.casework import Place

ROOT: Final = Path(__file__).resolve().parents[2]
HTTP: Final = Path(pages_module.__file__).parent
PAGE: Final = (
    "<!doctype html><p id=state>-</p><div id=screen></div>"
    '<script type="module" src="/own.js?case={query}"></script>'
)
CLOCK: Final = """
(() => {
  const real = Date.now.bind(Date);
  window.setForward = 0;
  Date.now = () => real() + window.setForward;
})();
"""


def example() -> str:
    """Return the page's script as the document shows it."""
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "channel.md").read_text(), re.DOTALL)
    return code


class Elsewhere:
    """Somebody else's site: a page for each place, and a back end that asks for its tickets.

    Args:
        broken: a line of the channel and what stands in its place, as its author could have got it wrong.
    """

    def __init__(self, broken: tuple[str, str] | None = None) -> None:
        self._broken = broken
        self._places: dict[str, Place] = {}
        self._http: aiohttp.ClientSession | None = None
        self.origin = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Elsewhere"]:
        """Serve it on the loopback, which is a secure context."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/own.js", self._script),
                web.post("/ticket", self._ticket),
                web.get("/channel/channel.js", self._channel),
            ]
        )
        app.router.add_static("/novnc", HTTP / "assets" / "novnc")
        app.router.add_static("/channel", HTTP / "pages")
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as self._http:
                yield self
        finally:
            await runner.cleanup()

    def address(self, place: Place) -> str:
        """Return where the page for a place is."""
        self._places[place.session_id] = place
        return f"{self.origin}/?case={place.session_id}"

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE.format(query=request.query["case"]), content_type="text/html")

    async def _script(self, request: web.Request) -> web.Response:
        place = self._places[request.query["case"]]
        code = example().replace("https://desk.example/channel/v1", f"{self.origin}/channel")
        code = code.replace("wss://desk.example:443", place.url.replace("http", "ws"))
        code = code.replace("https://desk.example", place.url)
        code = code.replace('"/ticket"', f'"/ticket?case={place.session_id}"')
        return web.Response(text=code, content_type="text/javascript")

    async def _channel(self, request: web.Request) -> web.Response:
        code = (HTTP / "pages" / "channel.js").read_text()
        if self._broken is not None:
            assert code.count(self._broken[0]) == 1, self._broken
            code = code.replace(*self._broken)
        return web.Response(text=code, content_type="text/javascript")

    async def _ticket(self, request: web.Request) -> web.Response:
        place = self._places[request.query["case"]]
        assert self._http is not None
        try:
            async with self._http.post(
                f"{place.url}/api/v1/sessions/{place.session_id}/tickets",
                json={"mode": "control", "device_label": "Elsewhere"},
                headers={"Authorization": f"Bearer {place.token}"},
                allow_redirects=False,
            ) as answer:
                if not answer.content_type.endswith("json"):
                    return web.Response(status=502)
                return web.json_response(await answer.json(content_type=None), status=answer.status)
        except aiohttp.ClientError:
            return web.Response(status=502)


class PageDriver:
    """One page for one case."""

    def __init__(self, context: BrowserContext, site: Elsewhere) -> None:
        self._context = context
        self._site = site
        self._page: Page | None = None
        self.complaints: list[str] = []

    async def start(self, place: Place) -> None:
        """Open the page."""
        page = self._page = await self._context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.add_init_script(CLOCK)
        await page.goto(self._site.address(place))

    async def stop(self) -> None:
        """Close it."""
        if self._page is not None:
            await self._page.close()

    async def jump(self, seconds: float) -> None:
        """Set its wall clock."""
        assert self._page is not None
        await self._page.evaluate(f"setForward += {seconds * 1000}")

    async def freeze(self, seconds: float) -> None:
        """Let its tab stand still: no timer and no event until it goes on.

        Asked to freeze a tab (`setWebLifecycleState`), a headless browser leaves its timers running.
        """
        assert self._page is not None
        tools = await self._context.new_cdp_session(self._page)
        await tools.send("Debugger.enable")
        await tools.send("Debugger.pause")
        await asyncio.sleep(seconds)
        await tools.send("Debugger.resume")
        await tools.send("Debugger.disable")

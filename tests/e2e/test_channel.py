"""The browser's channel in a real Chromium: the published vectors, and random cuts over a real gateway."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

import session_service.http.pages as pages_module
from tests.e2e.conftest import OpenPage, signed_in
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.gateway_world import World, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow
LIVE, STALE = "body[data-view=live]", "body[data-view=stale]"
PAGES = Path(pages_module.__file__).parent / "pages"
VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "wire-v1-vectors.json").read_text()
)
SID = "01JD0000000000000000000000"
CUTS = 100

# A viewer without eyes on a port of the channel: it greets, checks every byte it gets, and types numbers.
SEAT = """
async ({ dial, aud, ticket }) => {
  const { Channel } = await import("/channel.js");
  const seat = { told: [], got: 0, wrong: -1, typed: 0, streams: 0, replays: 0 };
  window.seat = seat;
  let port = null;
  let head = 46;
  const pattern = (place) => Number((BigInt(place) * 2654435761n >> 9n) & 255n);
  seat.channel = new Channel({
    dial, aud,
    tell: (kind, facts) => {
      if (kind === "ended") seat.told.push([kind, facts.why, facts.step]);
      if (kind === "replayed") seat.replays += 1;
      if (kind !== "stream") return;
      seat.streams += 1;
      port = facts.port;
      head = 46;
      port.onmessage = ({ data }) => {
        for (const byte of new Uint8Array(data)) {
          if (head > 0) { head -= 1; continue; }
          if (byte !== pattern(seat.got) && seat.wrong < 0) seat.wrong = seat.got;
          seat.got += 1;
        }
      };
      port.send(new Uint8Array([...new TextEncoder().encode("RFB 003.008\\n"), 1, 1]));
    },
  });
  const buffer = new Uint8Array(64);
  seat.type = () => {
    if (!port || !seat.channel.takesInput) return;
    for (const down of [1, 0]) {
      // noVNC gives a view of a buffer that it uses again.
      buffer.set([4, down, 0, 0, 1, seat.typed >> 16, seat.typed >> 8 & 255, seat.typed & 255], 3);
      port.send(buffer.subarray(3, 11));
      buffer.fill(99);
    }
    seat.typed += 1;
  };
  seat.typing = setInterval(seat.type, 4);
  seat.channel.open({ ticket, path: "/s/0/ws" });
}
"""
CHECK = """
async (vectors) => {
  const { attemptText, importKey, sign, crc32, decode, encode, Ring } = await import("/wire.js");
  const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const found = [];
  for (const vector of vectors.resume) {
    const { mac, t, ...fields } = JSON.parse(vector.message);
    const text = attemptText({ ...fields, challenge: vector.challenge });
    const key = await importKey(bytes(vector.key));
    const input = hex(new TextEncoder().encode(text));
    found.push([input === vector.input, await sign(key, text) === mac, key.extractable]);
  }
  for (const vector of vectors.keys) {
    const [key, text] = [vector.key, vector.key_b64url];
    found.push([hex(decode(text)) === key, encode(bytes(key)) === text, false]);
  }
  for (const vector of vectors.history_crc32) {
    const history = bytes(vector.c2s);
    const ring = new Ring();
    for (const byte of history) ring.append(new Uint8Array([byte]));
    ring.append(new Uint8Array([1, 2, 3]));
    ring.acknowledge(vector.rx >> 1);
    found.push([crc32(history) === vector.x, ring.checksum(vector.rx) === vector.x, false]);
  }
  return found;
}
"""


@asynccontextmanager
async def _page(browser: Browser, world: World) -> AsyncIterator[Page]:
    async def module(route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[-1]
        await route.fulfill(body=(PAGES / name).read_text(), content_type="text/javascript")

    page = await browser.new_page()
    await page.route("**/*.js", module)
    await page.goto(f"{world.origin}/hello")
    yield page
    await page.close()


async def test_the_browser_signs_and_counts_as_published(browser: Browser) -> None:
    async with running() as world, _page(browser, world) as page:
        found = await page.evaluate(CHECK, VECTORS)
    assert len(found) == len(VECTORS["resume"]) + len(VECTORS["keys"]) + len(VECTORS["history_crc32"])
    assert all(row == [True, True, False] for row in found), found


def _is_press(message: bytes) -> bool:
    return len(message) == 8 and message[0] == 4 and message[1] == 1


async def test_cuts_in_a_real_browser_lose_and_double_nothing(browser: Browser, tmp_path: Path) -> None:
    chance = random.Random(31)
    sent = 0

    def answer(viewer: Viewer, message: bytes) -> None:
        nonlocal sent
        if _is_press(message) and viewer.transport is not None:
            count = chance.randrange(1, 3000)
            viewer.transport.write(
                bytes((place * 2654435761 >> 9) & 255 for place in range(sent, sent + count))
            )
            sent += count

    async with (
        running() as world,
        FakeDesktop(tmp_path / "rfb.sock", answer=answer) as desktop,
        CuttingProxy(world.port, seed=31) as proxy,
        _page(browser, world) as page,
    ):
        world.control.add_session(SID, str(desktop.path))
        dial = f"ws://127.0.0.1:{proxy.port}"
        await page.evaluate(SEAT, {"dial": dial, "aud": world.aud, "ticket": world.control.ticket(SID)})
        await until(lambda: bool(desktop.viewers) and len(desktop.viewers[0].messages) > 3)
        while proxy.cuts < CUTS:
            await asyncio.sleep(0.15 * chance.random())
            proxy.cut_all()
            if chance.random() < 0.5:
                await page.evaluate("dispatchEvent(new Event('online'))")
        await page.evaluate("clearInterval(seat.typing)")
        async with asyncio.timeout(60):
            while True:
                found = await page.evaluate(
                    "({ got: seat.got, wrong: seat.wrong, typed: seat.typed, streams: seat.streams,"
                    " replays: seat.replays, told: seat.told })"
                )
                pressed = [m for m in desktop.viewers[0].messages if _is_press(m)]
                if found["got"] == sent and len(pressed) >= found["typed"]:
                    break
                await asyncio.sleep(0.1)
        assert [int.from_bytes(m[5:8], "big") for m in pressed] == list(range(found["typed"]))
        assert (found["wrong"], found["streams"], found["told"]) == (-1, 1, [])
        assert found["replays"] > CUTS // 5
        assert (len(desktop.viewers), desktop.viewers[0].errors) == (1, [])


async def test_a_lost_leg_gives_a_new_port_and_a_takeover_ends_it(browser: Browser, tmp_path: Path) -> None:
    async with (
        running() as world,
        FakeDesktop(tmp_path / "rfb.sock") as desktop,
        _page(browser, world) as page,
    ):
        world.control.add_session(SID, str(desktop.path))
        await page.evaluate(SEAT, {"dial": world.aud, "aud": world.aud, "ticket": world.control.ticket(SID)})
        await until(lambda: bool(desktop.viewers) and desktop.viewers[0].greeted)
        assert desktop.viewers[0].transport is not None
        desktop.viewers[0].transport.abort()
        await until(lambda: len(desktop.viewers) > 1 and desktop.viewers[1].greeted)
        async with world.opened(SID):
            await page.wait_for_function("seat.told.length > 0")
        assert await page.evaluate("[seat.told, seat.streams]") == [[["ended", "taken", "click"]], 2]


async def test_our_page_keeps_its_viewer_over_an_outage_and_says_that_nothing_was_lost(
    open_page: OpenPage,
) -> None:
    """The same canvas, hidden and without input meanwhile; after a restart of the service a new one."""
    service = RunningService(hold_s=60, template="bare")
    async with CuttingProxy(service.port) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        service._environment["SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS"] = json.dumps([address])
        async with service:
            service.address = address
            page = await open_page(cookies=await signed_in(service))
            await page.goto(f"{address}/desktop")
            await page.get_by_role("button", name="Start my desktop").click()
            await page.wait_for_selector(LIVE)
            await page.evaluate("document.querySelector('.glass canvas').dataset.mark = 'kept'")
            proxy.down = True
            proxy.cut_all()
            await page.wait_for_selector(STALE)
            await expect(page.locator(".glass canvas")).to_be_hidden()
            await page.keyboard.type("blind")
            await asyncio.sleep(1.5)
            proxy.down = False
            await page.wait_for_selector(LIVE)
            await expect(page.locator(".toast")).to_contain_text("Nothing was lost")
            assert await page.locator(".glass canvas").get_attribute("data-mark") == "kept"
            service.kill("service")
            await page.wait_for_selector(STALE)
            await page.wait_for_selector(LIVE)
            assert await page.locator(".glass canvas").get_attribute("data-mark") is None


async def test_a_policy_that_asks_for_a_login_is_met_in_silence_and_a_planned_pause_is_shown(
    open_page: OpenPage,
) -> None:
    """Signed in, nobody is asked and the canvas stays; without the cookie the page asks. Times are words."""
    service = RunningService(hold_s=60, template="bare", settings={"hold.reauthenticate_after_s": "0"})
    async with CuttingProxy(service.port) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        service._environment["SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS"] = json.dumps([address])
        async with service:
            service.address = address
            page = await open_page(cookies=await signed_in(service))
            await page.goto(f"{address}/desktop")
            await page.get_by_role("button", name="Start my desktop").click()
            await page.wait_for_selector(LIVE)
            await page.evaluate("document.querySelector('.glass canvas').dataset.mark = 'kept'")
            answer = await page.request.post(
                f"{address}/api/v1/pause",
                data={"back_at": "2099-01-01T15:00:00Z", "note": "New disks."},
                headers={"X-Session-Service": "1", "Origin": address},
            )
            assert answer.status == 200, await answer.text()
            proxy.down = True
            proxy.cut_all()
            await page.wait_for_selector(STALE)
            await expect(page.locator("[data-planned]")).to_contain_text("New disks.")
            proxy.down = False
            await page.wait_for_selector(LIVE)
            assert await page.locator(".glass canvas").get_attribute("data-mark") == "kept"
            await page.context.clear_cookies()
            proxy.cut_all()
            await expect(page.locator("input[type=password]")).to_be_visible()

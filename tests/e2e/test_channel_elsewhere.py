"""The channel on a page of somebody else, as docs/channel.md shows it; and the vectors of frames, as a
browser reads them below it.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect
from websockets.utils import accept_key

from session_service.http import pages as pages_module
from tests.e2e.test_channel import VECTORS
from tests.fakes.running_service import RunningService

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NOVNC = Path(pages_module.__file__).parent / "assets" / "novnc"
PAGE = (
    '<!doctype html><p id="state">-</p><div id="screen"></div><script type="module" src="/own.js"></script>'
)
UPGRADED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Protocol: continuity.v1\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
)
# Without mercy for what a page of ours would hide: the port gets what the vectors hold.
FRAMES = """
async (url) => {
  const heard = [];
  const hex = (bytes) => bytes.reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), "");
  const socket = new WebSocket(url, "continuity.v1");
  socket.binaryType = "arraybuffer";
  return await new Promise((done) => {
    socket.onmessage = (event) => heard.push(event.data);
    socket.onclose = (event) => {
      const told = [];
      for (const data of heard)
        told.push(typeof data === "string" ? data : { hex: hex(new Uint8Array(data)) });
      done([told, event.code, event.reason]);
    };
  });
}
"""


def _example(service: RunningService) -> str:
    """The example of the document, with this service's address in the place of desk.example's."""
    (code,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "channel.md").read_text(), re.DOTALL)
    dial = service.address.replace("http", "ws")
    return code.replace("wss://desk.example:443", dial).replace("https://desk.example", service.address)


@asynccontextmanager
async def elsewhere(app: web.Application) -> AsyncIterator[str]:
    """Serve somebody else's page and back end on the loopback, which is a secure context."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_documented_example_runs_on_a_page_of_another_origin(browser: Browser) -> None:
    """It comes back over a restart of the service, stays down after a takeover, and takes back by a click."""
    service = RunningService(hold_s=60, template="bare")
    session_id = ""

    async def page_(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def script(request: web.Request) -> web.Response:
        return web.Response(text=_example(service), content_type="text/javascript")

    async def ticket(request: web.Request) -> web.Response:
        ask = {"mode": "control", "device_label": "Elsewhere"}
        return web.json_response(await service.api("POST", f"/sessions/{session_id}/tickets", ask))

    app = web.Application()
    app.add_routes([web.get("/", page_), web.get("/own.js", script), web.post("/ticket", ticket)])
    app.router.add_static("/novnc", NOVNC)
    async with elsewhere(app) as origin:
        service._environment["SESSION_SERVICE_LISTEN__PUBLIC_ORIGINS"] = json.dumps([service.address, origin])
        async with service:
            account = {"name": "ada", "role": "administrator", "password": "long enough to be good"}
            await service.call("POST", "/api/v1/users", account)
            session_id = (await service.api("POST", "/sessions", {}))["id"]
            await service.until_state(session_id, "active", "held")
            first, second = await browser.new_page(), await browser.new_page()
            await first.goto(origin)
            await expect(first.locator("#state")).to_have_text("live")
            await expect(first.locator("#screen canvas")).to_be_visible()
            service.kill("service")
            await expect(first.locator("#state")).not_to_contain_text("live")
            await expect(first.locator("#state")).to_contain_text("live", timeout=30_000)
            await second.goto(origin)
            await expect(second.locator("#state")).to_have_text("live")
            await expect(first.locator("#state")).to_have_text("taken")
            await first.locator("#screen").evaluate("screen => screen.click()")
            await expect(second.locator("#state")).to_have_text("taken")
            await expect(first.locator("#state")).to_contain_text("live")


def _bytes_of(vector: dict[str, Any]) -> bytes:
    told = vector["from_server"]
    if "hex" in told:
        return bytes.fromhex(told["hex"])
    size = vector["payload_bytes"]
    whole = bytes.fromhex(told["head_hex"])[: told["bytes"] - size] + bytes(size)
    assert (len(whole), hashlib.sha256(whole).hexdigest()) == (told["bytes"], told["sha256"])
    return whole


def _payload(vector: dict[str, Any]) -> bytes:
    return _bytes_of(vector)[-vector["payload_bytes"] :]


async def test_a_browser_reads_the_frames_of_the_vectors_as_published(browser: Browser) -> None:
    """Each close once, after all messages; a ping between fragments disturbs nothing."""
    frames = VECTORS["frames"]
    by_name = {frame["name"]: frame for frame in frames}
    closes = [frame for frame in frames if frame["opcode"] == 8]
    order = [frame for frame in frames if frame["opcode"] != 8 and "fragment" not in frame["name"]]
    order = [frame for frame in order if frame["opcode"] != 0]
    order += [by_name["binary, first fragment"], by_name["ping"], by_name["continuation, last"]]
    remaining = list(closes)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = re.search(r"Sec-WebSocket-Key: (\S+)", head, re.IGNORECASE)
        if found is None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        writer.write(UPGRADED.format(accept=accept_key(found[1])).encode())
        writer.write(b"".join(_bytes_of(frame) for frame in order) + _bytes_of(remaining.pop(0)))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    page = await browser.new_page()
    await page.goto(f"http://127.0.0.1:{port}/")
    for close in closes:
        told, code, reason = await page.evaluate(FRAMES, f"ws://127.0.0.1:{port}/")
        payload = _bytes_of(close)[2:]
        assert [code, reason] == [int.from_bytes(payload[:2], "big"), payload[2:].decode()]
        texts = [each for each in told if isinstance(each, str)]
        assert texts == [_bytes_of(frame)[2:].decode() for frame in order if frame["opcode"] == 1]
        whole = [_payload(frame) for frame in order if frame["opcode"] == 2 and frame["fin"]]
        parts = _payload(by_name["binary, first fragment"]) + _payload(by_name["continuation, last"])
        got = [bytes.fromhex(each["hex"]) for each in told if not isinstance(each, str)]
        assert [len(each) for each in got] == [len(each) for each in (*whole, parts)]
        assert all(one == other for one, other in zip(got, (*whole, parts), strict=True))
    server.close()
    await server.wait_closed()

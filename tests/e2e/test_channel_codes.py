"""The browser's channel walks the one table of close codes in a real Chromium: alone, and with their words.

Its twin is tests/unit/test_close_codes.py; both ask the same of a client. The sockets here are made by the
test, so that each code comes in one moment; the channel, its timers and its signatures are the real ones.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from session_service.core.close_codes import ENDINGS, Close
from tests.e2e.test_channel import PAGES
from tests.unit.test_close_codes import BROKEN, NETWORK

pytestmark = pytest.mark.slow

# A page with sockets of the test: `attached()` gives a channel that is open on one, and what it tells.
SOCKETS = """
async () => {
  class TestSocket {
    static CONNECTING = 0; static OPEN = 1; static CLOSING = 2; static CLOSED = 3;
    constructor(url) {
      this.url = url; this.readyState = 1; this.sent = []; this.bufferedAmount = 0;
      window.sockets.push(this);
    }
    send(data) { this.sent.push(data); }
    close() { this.readyState = 3; }
    say(message) { this.onmessage({ data: JSON.stringify(message) }); }
    ends(code) { this.readyState = 3; this.onclose({ code }); }
  }
  window.WebSocket = TestSocket;
  const { Channel } = await import("/channel.js");
  const moment = () => new Promise((done) => setTimeout(done, 2));
  const until = async (condition) => { while (!condition()) await moment(); };
  window.attached = async () => {
    window.sockets = [];
    const told = [];
    const channel = new Channel({
      dial: "ws://h:1", aud: "ws://h:1",
      tell: (kind, facts) => told.push([kind, facts]),
    });
    channel.open({ ticket: "t".repeat(20), path: "/s/0/ws" });
    const socket = window.sockets.at(-1);
    socket.say({ t: "hello", c: "A".repeat(22) });
    socket.say({ t: "opened", sid: "01JD0000000000000000000000", grant: 1, key: "A".repeat(43),
                 leg: "AAECAwQFBgc", n: 0, mode: "control", hold: 1 });
    told.length = 0;
    return { channel, socket, told, last: () => window.sockets.at(-1), until };
  };
}
"""
ALONE = """
async (codes) => {
  const found = [];
  for (const code of codes) {
    const { channel, socket, told } = await attached();
    socket.ends(code);
    const [kind, facts] = told.at(-1);
    found.push([code, kind, facts.why, channel.hasKey]);
    channel.leave();
  }
  return found;
}
"""
WORDS = """
async (refusals) => {
  const found = [];
  for (const refusal of refusals) {
    const { channel, socket, told } = await attached();
    socket.say({ t: "no", ...refusal });
    socket.ends(refusal.code);
    const [kind, facts] = told.at(-1);
    found.push([refusal.code, kind, facts.why, facts.step ?? null, facts.retryInMs ?? null, channel.hasKey]);
    channel.leave();
  }
  return found;
}
"""
LOGIN = """
async () => {
  const { channel, socket, told, last, until } = await attached();
  const login = { t: "no", code: 4401, why: "login", next: "login", retry: null };
  socket.say(login);
  socket.ends(4401);
  const kept = channel.hasKey;
  const asked = channel.again({ ticket: "login-ticket-0000000" });
  last().say({ t: "hello", c: "B".repeat(22) });
  await until(() => last().sent.length);
  const auth = JSON.parse(last().sent[0]).auth;
  last().say(login);
  last().ends(4401);
  return [kept, asked, auth, channel.hasKey, channel.again({ ticket: "x" })];
}
"""
ROUND = """
async () => {
  const { channel, socket, told, last, until } = await attached();
  const pauses = [];
  let current = socket;
  for (let step = 0; step < 5; step++) {
    current.say({ t: "no", code: 4483, why: "moved", next: "resume", retry: 0, to: `/s/b${step}/ws` });
    current.ends(4483);
    pauses.push(told.filter(([kind]) => kind === "lost").at(-1)[1].retryInMs);
    const count = sockets.length;
    if (step < 4) { await until(() => sockets.length > count); current = last(); }
  }
  const url = current.url;
  channel.leave();
  return [pauses, url];
}
"""
PLANNED = """
async () => {
  const { channel, socket, told } = await attached();
  socket.say({ t: "pause", begin: 5, back: 10, note: "Disks." });
  socket.say({ t: "pause", begin: null, back: null, note: "" });
  socket.say({ t: "drain", after: [0, 3000], to: null, back: 20, note: "Now." });
  socket.say({ t: "pause", begin: "x", back: 1.5, note: 7 });
  channel.leave();
  return told.filter(([kind]) => kind === "planned").map(([, facts]) => facts);
}
"""


@asynccontextmanager
async def channels(browser: Browser) -> AsyncIterator[Page]:
    async def serve(route: Any) -> None:
        name = route.request.url.rsplit("/", 1)[-1]
        if name.endswith(".js"):
            await route.fulfill(body=(PAGES / name).read_text(), content_type="text/javascript")
        else:
            await route.fulfill(body="<!doctype html>", content_type="text/html")

    page = await browser.new_page()
    await page.route("**/*", serve)
    await page.goto("http://127.0.0.1:9/")  # a secure context, as the loopback is
    await page.evaluate(SOCKETS)
    yield page
    await page.close()


async def test_a_code_alone_keeps_the_key_in_the_browser_too(browser: Browser) -> None:
    async with channels(browser) as page:
        found = await page.evaluate(ALONE, [int(code) for code in Close])
    for code, kind, why, has_key in found:
        assert (kind, has_key) == ("lost", True), code
        assert why == ("protocol" if code in BROKEN else "network"), code


async def test_a_code_with_its_word_does_what_the_table_says_in_the_browser(browser: Browser) -> None:
    spoken = [code for code in Close if code not in BROKEN | NETWORK | {Close.NORMAL}]
    refusals = [
        {"code": int(code), "why": ENDINGS[code].why, "next": str(ENDINGS[code].next), "retry": 2000}
        for code in spoken
    ]
    async with channels(browser) as page:
        found = await page.evaluate(WORDS, refusals)
    assert len(found) == len(spoken)
    for code, kind, why, step, retry_ms, has_key in found:
        row = ENDINGS[Close(code)]
        # With a key a page asks again: told `not_found`, it did so without an end or a pause.
        assert has_key == (row.by_itself or code == Close.LOGIN), code
        if row.by_itself:
            assert (kind, why) == ("lost", row.why), code
            assert 2000 <= retry_ms <= 3000, code
        else:
            assert (kind, why, step) == ("ended", row.why, str(row.next)), code


async def test_after_a_login_the_browser_goes_on_with_its_key_once(browser: Browser) -> None:
    async with channels(browser) as page:
        assert await page.evaluate(LOGIN) == [True, True, "login-ticket-0000000", False, False]


async def test_the_browser_follows_three_redirects_and_never_goes_round_without_a_pause(
    browser: Browser,
) -> None:
    async with channels(browser) as page:
        pauses, url = await page.evaluate(ROUND)
    assert pauses[:3] == [0, 0, 0]
    assert all(pause > 0 for pause in pauses[3:]), json.dumps(pauses)
    assert url.endswith("/s/b2/ws")


async def test_the_browser_hears_of_planned_pauses_and_believes_no_nonsense(browser: Browser) -> None:
    async with channels(browser) as page:
        found = await page.evaluate(PLANNED)
    assert found == [
        {"begin": 5, "back": 10, "note": "Disks."},
        {"begin": None, "back": None, "note": ""},
        {"begin": None, "back": 20, "note": "Now."},
        {"begin": None, "back": None, "note": ""},
    ]

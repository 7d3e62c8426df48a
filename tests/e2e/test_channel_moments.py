"""When the browser's channel dials and asks by itself: sleep, freezing, networks, sockets that hang.

The sockets are made by the test, as in test_channel_codes.py; the timers are the real ones.
"""

import pytest
from playwright.async_api import Browser

from tests.e2e.test_channel_codes import channels

pytestmark = pytest.mark.slow

# Each event that may mean that a socket is dead leads to a question, and the answer keeps the socket.
QUESTIONS = """
async () => {
  const { channel, socket, told } = await attached();
  const asked = (act) => { socket.sent.length = 0; act(); return socket.sent.join(); };
  const found = {
    online: asked(() => dispatchEvent(new Event("online"))),
    pageshow: asked(() => dispatchEvent(new Event("pageshow"))),
    visible: asked(() => document.dispatchEvent(new Event("visibilitychange"))),
    unfrozen: asked(() => document.dispatchEvent(new Event("resume"))),
  };
  socket.say({ a: 0 });
  channel.leave();
  return [found, told.filter(([kind]) => kind === "lost").length, sockets.length];
}
"""
# The wall clock jumps, as it does when a machine wakes; nobody answers; a new socket is dialled.
SLEEP = """
async () => {
  const { channel, socket, told, until } = await attached();
  const wall = Date.now;
  socket.sent.length = 0;
  Date.now = () => wall() + 3_600_000;
  await until(() => socket.sent.length > 0);
  const asked = [socket.sent[0], performance.now()];
  await until(() => sockets.length > 1);
  const after = performance.now() - asked[1];
  Date.now = wall;
  const why = told.find(([kind]) => kind === "lost")[1].why;
  channel.leave();
  return [asked[0], why, after];
}
"""
# Nothing opens: rivals are dialled; the first that opens carries, what the others say counts for nothing.
RIVALS = """
async () => {
  const { channel, socket, told, until } = await attached();
  socket.ends(1006);
  await until(() => sockets.length > 1);
  const first = sockets.at(-1);
  const began = performance.now();
  await until(() => sockets.length > 2);
  const second = sockets.at(-1);
  const rivalAfter = performance.now() - began;
  second.onopen();
  second.say({ t: "hello", c: "B".repeat(22) });
  await until(() => second.sent.length);
  const lost = told.filter(([kind]) => kind === "lost").length;
  const left = [first.readyState, first.onmessage];
  channel.leave();
  return [rivalAfter, JSON.parse(second.sent[0]).t, first.sent.length, left, lost];
}
"""
# A second socket while the first hangs, because somebody looks again; its late answer is not heard.
HANGING = """
async () => {
  const { channel, socket, told, last, until } = await attached();
  socket.ends(1006);
  await until(() => sockets.length > 1);
  const first = last();
  const now = performance.now.bind(performance);
  performance.now = () => now() + 3_500;
  document.dispatchEvent(new Event("visibilitychange"));
  performance.now = now;
  const counts = [sockets.length, first.readyState, first.onmessage];
  channel.leave();
  return counts;
}
"""
FAILURES = """
async () => {
  const { channel, socket, told, until } = await attached();
  socket.ends(1006);
  const failures = [];
  for (let each = 1; each <= 3; each++) {
    await until(() => sockets.length > each);
    sockets.at(-1).ends(1006);
    failures.push(told.filter(([kind]) => kind === "lost").at(-1)[1].failures);
  }
  channel.leave();
  return failures;
}
"""
LATENCY = """
async () => {
  const { channel, socket, told, until } = await attached();
  channel.measure();
  channel.measure();
  const asked = socket.sent.filter((each) => each === '{"h":1}').length;
  socket.say({ a: 0 });
  const answered = [channel.latencyMs !== null, channel.askedSince];
  channel.measure();
  const since = channel.askedSince !== null;
  channel.leave();
  return [asked, answered, since, channel.askedSince, told.map(([kind]) => kind)];
}
"""


async def test_whatever_may_mean_a_dead_socket_leads_to_a_question(browser: Browser) -> None:
    async with channels(browser) as page:
        found, lost, sockets = await page.evaluate(QUESTIONS)
    assert found == dict.fromkeys(("online", "pageshow", "visible", "unfrozen"), '{"h":1}')
    assert (lost, sockets) == (0, 1)


async def test_after_sleep_a_socket_that_does_not_answer_in_three_seconds_is_left(browser: Browser) -> None:
    async with channels(browser) as page:
        asked, why, after_ms = await page.evaluate(SLEEP)
    assert (asked, why) == ('{"h":1}', "silent")
    assert 2_900 <= after_ms < 8_000


async def test_a_socket_that_does_not_open_gets_a_rival_and_the_first_that_opens_carries(
    browser: Browser,
) -> None:
    async with channels(browser) as page:
        rival_after_ms, sent, on_first, left, lost = await page.evaluate(RIVALS)
    assert 3_900 <= rival_after_ms < 8_000
    assert (sent, on_first, left) == ("resume", 0, [3, None])
    assert lost == 1, "the rival belongs to the same attempt"


async def test_who_looks_again_dials_past_a_socket_that_hangs(browser: Browser) -> None:
    async with channels(browser) as page:
        assert await page.evaluate(HANGING) == [3, 3, None]


async def test_sockets_that_do_not_open_are_counted_for_whoever_asks_why(browser: Browser) -> None:
    async with channels(browser) as page:
        assert await page.evaluate(FAILURES) == [1, 2, 3]


async def test_an_answer_is_timed_and_one_question_is_enough(browser: Browser) -> None:
    async with channels(browser) as page:
        asked, answered, since, after, told = await page.evaluate(LATENCY)
    assert (asked, answered, since, after, told) == (1, [True, None], True, None, ["latency"])

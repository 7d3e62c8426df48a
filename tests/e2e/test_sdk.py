"""The Python SDK on the real service and a real Xvnc: pictures, keys, clipboard and sizes, over cuts."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from PIL import Image

from session_service.base import errors
from session_service.client import keys
from session_service.client.api import Api
from session_service.client.desktop import (
    COPY_BYTES_MAX,
    Desktop,
    LooksOnOnly,
    StreamEnded,
    open_desktop,
)
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.client.screen import Copied, Resized
from session_service.client.transport import Transport
from session_service.core.continuity.client import Began, Replayed
from tests.e2e.test_connect import _home, _start
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.running_service import RunningService
from tests.fakes.until import until

pytestmark = pytest.mark.slow


@pytest.fixture
async def service() -> AsyncIterator[RunningService]:
    async with RunningService(hold_s=60, template="bare") as running:
        await running.call(
            "POST",
            "/api/v1/users",
            {"name": "ada", "role": "administrator", "password": "long enough to be good"},
        )
        yield running


@asynccontextmanager
async def desktop_of(
    service: RunningService,
    session_id: str,
    proxy: CuttingProxy,
    *,
    compressed: bool,
    mode: str = "control",
) -> AsyncIterator[Desktop]:
    async def ticket() -> Ticket:
        async with Transport.over_socket(service.socket) as transport:
            return await Api(transport).ticket(session_id, mode=mode)

    stream = ResumableStream(service.address, ticket, dial_url=f"http://127.0.0.1:{proxy.port}")
    async with Desktop(stream, compressed=compressed) as desktop:
        yield desktop


async def next_of(desktop: Desktop, kind: type) -> object:
    async with asyncio.timeout(30):
        while not isinstance(event := await desktop.next_event(), kind):
            pass
        return event


async def _terminal_answers(service: RunningService, desktop: Desktop) -> None:
    """Wait until the terminal has the keyboard: what is typed before goes nowhere."""
    sign = _home(service) / "there.txt"
    async with asyncio.timeout(60):
        while not sign.exists():
            await desktop.type("touch ~/there.txt\n")
            await asyncio.sleep(0.3)


async def test_a_program_sees_types_copies_and_resizes_over_cuts(service: RunningService) -> None:
    session_id = await _start(service)
    async with (
        CuttingProxy(service.port) as proxy,
        desktop_of(service, session_id, proxy, compressed=True) as desktop,
    ):
        assert not (await _first(desktop)).resync
        picture = await desktop.screenshot()
        image = Image.open(io.BytesIO(picture.png()))
        assert image.size == desktop.size == (1280, 800)
        home = _home(service)
        await _terminal_answers(service, desktop)
        for number in range(5):
            proxy.cut_all()
            await desktop.type(f"touch cut{number}.txt\n")
            await until(lambda number=number: (home / f"cut{number}.txt").exists(), 30)
        await next_of(desktop, Replayed)
        assert desktop.stream.resyncs == 0
        await desktop.type("echo -n gr\u00fc\u00dfe \u2713 | xclip -selection clipboard\n")
        assert await next_of(desktop, Copied) == Copied(text="gr\u00fc\u00dfe \u2713")
        await desktop.copy("von hier \u2713")
        await desktop.type("xclip -o -selection clipboard > pasted.txt\n")
        await until(lambda: (home / "pasted.txt").exists() and (home / "pasted.txt").read_text() != "", 30)
        assert (home / "pasted.txt").read_text() == "von hier \u2713"
        await desktop.resize(1024, 640)
        assert await next_of(desktop, Resized) == Resized(width=1024, height=640)
        assert (await desktop.screenshot()).width == 1024
        async with desktop_of(service, session_id, proxy, compressed=False) as other:
            plain = await other.screenshot()
            assert (plain.width, plain.height) == (1024, 640)


async def _first(desktop: Desktop) -> Began:
    event = await next_of(desktop, Began)
    assert isinstance(event, Began)
    return event


async def test_both_encodings_show_the_same_pixels(service: RunningService) -> None:
    session_id = await _start(service)
    pictures = []
    async with CuttingProxy(service.port) as proxy:
        for compressed in (True, False):
            async with desktop_of(service, session_id, proxy, compressed=compressed) as desktop:
                await desktop.type("clear; tput civis\n")
                last = await desktop.screenshot()
                for _ in range(20):
                    await asyncio.sleep(0.1)
                    last = await desktop.screenshot()
                pictures.append(last)
    assert pictures[0].differing(pictures[1]) < 200, "a cursor at most"


async def test_a_program_that_looks_on_sees_hears_no_clipboard_and_sends_nothing(
    service: RunningService,
) -> None:
    session_id = await _start(service)
    async with (
        CuttingProxy(service.port) as proxy,
        desktop_of(service, session_id, proxy, compressed=True) as owner,
        desktop_of(service, session_id, proxy, compressed=True, mode="view") as watcher,
    ):
        await _terminal_answers(service, owner)
        before = await watcher.screenshot()
        assert watcher.looks_on
        assert not owner.looks_on
        refused = [
            watcher.type("x"),
            watcher.press(keys.CONTROL, ord("c")),
            watcher.click(1, 1),
            watcher.copy("x"),
            watcher.resize(800, 600),
        ]
        for act in refused:
            with pytest.raises(LooksOnOnly):
                await act
        await owner.type("echo -n secret | xclip -selection clipboard; seq 20\n")
        assert await next_of(owner, Copied) == Copied(text="secret")
        await watcher.until(lambda picture: picture.differing(before) > 500, limit_s=30)
        settled = await watcher.settled(quiet_s=0.5, limit_s=30)
        async with asyncio.timeout(30):
            while settled.differing(await owner.settled(quiet_s=0.5, limit_s=30)) > 300:
                settled = await watcher.settled(quiet_s=0.5, limit_s=30)
        heard = [await watcher.next_event() for _ in range(len(watcher._events))]
        assert Copied not in {type(event) for event in heard}
        proxy.cut_all()
        assert isinstance(await next_of(watcher, Began), Began)
        await watcher.screenshot()
        assert (owner.stream.number, owner.stream.resyncs) == (1, 0)


async def test_what_will_never_work_is_said_at_the_opening(service: RunningService) -> None:
    """A token that is not good, a session of nobody, and a service that is not there."""
    session_id = await _start(service)
    wish = {"name": "bot", "scopes": ["read", "sessions"]}
    user_id = (await service.api("GET", "/users"))["items"][0]["id"]
    token = (await service.api("POST", "/tokens", {**wish, "user_id": user_id}))["token"]
    for address, secret, wanted, error in (
        (service.address, "sst_wrong", session_id, errors.SignInRequired),
        (service.address, token, "01JD0000000000000000000000", errors.NotFound),
        ("http://127.0.0.1:9", token, session_id, errors.PartUnavailable),
    ):
        with pytest.raises(error):
            async with open_desktop(address, secret, wanted):
                raise AssertionError("it opened")
    async with open_desktop(service.address, token, session_id) as desktop:
        with pytest.raises(errors.BadInput):
            await desktop.copy("x" * (COPY_BYTES_MAX + 1))
        await desktop.screenshot()
        await service.api("POST", f"/sessions/{session_id}/end", {"reason": "test"})
        with pytest.raises(StreamEnded) as ended:
            while True:
                await desktop.next_event()
        assert ended.value.facts["next"] in {"start", "wait", "login"}

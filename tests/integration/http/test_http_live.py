"""The live stream: a snapshot, then what changes, to those who may see it and for as long as they may."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
import structlog

from session_service.base import errors
from session_service.core.views import Alarm
from session_service.http import limits, live
from tests.fakes.http_world import Browser, HttpWorld
from tests.fakes.until import until

STREAM = "/api/v1/events/stream"


class Events:
    """The events of one stream as they come."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.comments: list[str] = []

    async def next(self) -> tuple[str, Any]:
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            while line := (await self._answer.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n" and "data" in fields:
                    return fields["event"], json.loads(fields["data"])
                if name:
                    fields[name] = value
                elif value:
                    self.comments.append(value)
        raise EOFError

    async def of(self, kind: str) -> Any:
        while True:
            found, data = await self.next()
            if found == kind:
                return data

    async def end(self) -> None:
        """Return when the stream ended."""
        with contextlib.suppress(EOFError):
            while True:
                await self.next()


@contextlib.asynccontextmanager
async def events_of(browser: Browser, **headers: str) -> AsyncIterator[Events]:
    request = browser.client.get(browser.world.url(STREAM), headers=browser.headers | headers)
    async with request as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield Events(answer)


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stream look around at once: nothing here measures time."""
    monkeypatch.setattr(limits, "STREAM_LOOK_S", 0.0)


async def test_a_stream_begins_with_what_is_and_goes_on_with_what_changes(world: HttpWorld) -> None:
    """Whatever Last-Event-ID names: there is no log to go on from."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    async with events_of(ada, **{"Last-Event-ID": "77"}) as events:
        snapshot = await events.of("snapshot")
        assert [item["id"] for item in snapshot["sessions"]] == [session]
        await until(lambda: world.control.readers == 1)
        await ada.post(f"/api/v1/sessions/{session}/disconnect")
        assert (await events.of("session"))["state"] == "held"
    await until(lambda: world.control.readers == 0)


async def test_a_user_sees_their_own_and_an_operator_all(world: HttpWorld) -> None:
    """Alarms are for operators."""
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    olga = await world.signed_in("olga", "operator")
    await world.session_of(bob)
    async with events_of(ada) as own, events_of(olga) as every:
        assert (await own.of("snapshot"))["sessions"] == []
        assert len((await every.of("snapshot"))["sessions"]) == 1
        await until(lambda: world.control.readers == 2)
        world.control.open_alarms.append(
            Alarm(id="a1", kind="store", since_ms=1, detail="The store is away.", action="Bring it back.")
        )
        assert [alarm["id"] for alarm in (await every.of("alarm"))["alarms"]] == ["a1"]
        other = (await bob.get("/api/v1/sessions")).body["items"][0]["id"]
        await bob.post(f"/api/v1/sessions/{other}/disconnect")
        assert (await every.of("session"))["id"] == other
        session = await world.session_of(ada)
        kind, data = await own.next()
        assert (kind, data["id"]) == ("session", session)
        assert data["address"] is None
        assert (await every.of("session"))["address"] == "192.0.2.7"


async def test_a_quiet_stream_says_that_it_lives(world: HttpWorld) -> None:
    """A comment for proxies and an event for the page."""
    ada = await world.signed_in("ada")
    async with events_of(ada) as events:
        await events.of("snapshot")
        world.clock.now_ms += 15_000
        assert (await events.of("beat"))["time"].endswith("Z")


async def test_a_revoked_reader_is_gone(world: HttpWorld) -> None:
    """By sign-out, and by a token's end."""
    ada, other = await world.signed_in("ada"), await world.signed_in("ada")
    program = await world.program("ada")
    async with events_of(ada) as events, events_of(program) as figures:
        await events.of("snapshot")
        await figures.of("snapshot")
        await other.post("/api/v1/sign-out-everywhere")
        world.clock.now_ms += 2000
        await events.end()
        again = await world.signed_in("ada")
        token = (await again.get("/api/v1/tokens")).body["items"][0]["id"]
        await again.ask("DELETE", f"/api/v1/tokens/{token}")
        world.clock.now_ms += 2000
        await figures.end()


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "operator"}])
async def test_a_reader_whose_account_changed_is_gone(world: HttpWorld, change: dict[str, object]) -> None:
    """Its token is still there; it is the account that counts."""
    root = await world.signed_in("root", "administrator")
    program = await world.program("ada")
    async with events_of(program) as events:
        await events.of("snapshot")
        await root.ask("PATCH", f"/api/v1/users/{program.user_id}", change)
        world.clock.now_ms += 2000
        await events.end()


async def test_streams_are_counted(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit: try again later; what ended is given back."""
    monkeypatch.setattr(limits, "STREAMS_PER_USER_MAX", 1)
    ada = await world.signed_in("ada")
    async with events_of(ada):
        assert (await ada.get(STREAM)).code == "too_many_streams"
    await until(lambda: world.control.readers == 0)
    async with events_of(ada) as events:
        await events.of("snapshot")


async def test_a_reader_that_takes_nothing_is_cut_off(
    world: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on, and what waits for it stays one view per session."""
    monkeypatch.setattr(limits, "STREAM_WRITE_S", 0.05)
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    async with events_of(ada):
        await until(lambda: world.control.readers == 1)
        async with asyncio.timeout(20):
            while world.control.readers:
                await world.control.change(session, detail="x" * 60_000)
                await asyncio.sleep(0)


async def test_a_fault_of_ours_ends_the_stream_and_is_logged(
    world: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut, not finished: the page comes back and gets a new snapshot."""

    async def changes() -> AsyncIterator[object]:
        await asyncio.sleep(0)
        raise RuntimeError("a mistake of ours")
        yield

    @contextlib.contextmanager
    def broken() -> Iterator[AsyncIterator[object]]:
        yield changes()

    monkeypatch.setattr(world.control, "subscribe", broken)
    ada = await world.signed_in("ada")
    with structlog.testing.capture_logs() as logs:
        with contextlib.suppress(aiohttp.ClientError):
            async with events_of(ada) as events:
                await events.end()
        await until(lambda: any(line["event"] == "request.done" for line in logs))
    assert "a mistake of ours" in next(line["error"] for line in logs if line["event"] == "request.failed")


async def test_a_stopping_service_ends_its_streams(world: HttpWorld) -> None:
    """A stop does not wait for a page that stays open."""
    ada = await world.signed_in("ada")
    async with events_of(ada) as events:
        await events.of("snapshot")
        await world.app.shutdown()
        await events.end()


async def test_a_stream_that_cannot_begin_is_refused_with_a_reason_and_leaves_nobody_listening(
    world: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the registry; and of readers that left before their first event nobody listens on."""
    ada = await world.signed_in("ada")
    views = world.control.views

    async def away(**_: object) -> list[object]:
        raise errors.RegistryUnavailable()

    monkeypatch.setattr(world.control, "views", away)
    for _ in range(3):
        assert (await ada.get(STREAM)).code == "registry_unavailable"
    assert world.control.readers == 0
    monkeypatch.setattr(world.control, "views", views)

    async def left(*_: object) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(live, "begin_stream", left)
        with contextlib.suppress(aiohttp.ClientError):
            await ada.get(STREAM)
    await until(lambda: world.control.readers == 0)
    async with events_of(ada) as events:
        assert (await events.of("snapshot"))["sessions"] == []

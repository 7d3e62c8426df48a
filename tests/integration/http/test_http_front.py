"""Behind the real front: pages, API and links share one port, and each gets its own bytes."""

import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from session_service.gateway.gateway import Gateway
from tests.fakes.gateway_control import FakeControl, FakeIds
from tests.fakes.http_world import Browser, HttpWorld, http_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[HttpWorld]:
    """An application whose port belongs to the gateway."""
    async with http_world(tmp_path) as made, contextlib.AsyncExitStack() as stack:
        runner = made.server.runner
        assert runner is not None
        assert runner.server is not None
        origins: set[str] = set()
        gateway = Gateway(
            attachments=FakeControl(), http=runner.server, origins=lambda: origins, ids=FakeIds()
        )
        stack.push_async_callback(gateway.close)
        ((host, port),) = await gateway.listen("127.0.0.1", 0)
        made.front = f"http://{host}:{port}"
        made.places.append(made.front)
        origins.add(made.front)
        yield made


async def test_a_browser_signs_in_and_works_through_the_front(world: HttpWorld) -> None:
    """Cookies, addresses, files on their way up and streams on their way down."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    audit = await world.registry.audit()
    assert dict(audit[0].entry.facts)["address"] == "127.0.0.1"
    seen = await ada.ask(
        "POST", f"/api/v1/sessions/{session}/uploads?name=a", data=io.BytesIO(b"x" * 3_000_000)
    )
    assert seen.code == "desktop_gone"
    async with ada.client.get(world.url("/api/v1/events/stream"), headers=ada.headers) as answer:
        assert (await answer.content.readline()).startswith(b"retry:")


async def test_a_link_on_a_connection_that_carried_pages_is_sent_away(world: HttpWorld) -> None:
    """A proxy's kept connection; the same on a fresh one reaches the gateway."""
    ada = await world.signed_in("ada")
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": world.front,
    }
    seen = await ada.get("/s/0/ws", headers=upgrade)
    assert (seen.status, seen.code) == (421, "misdirected")
    assert seen.headers["Connection"] == "close"
    fresh = Browser(world, (await world.browser()).client)
    assert (await fresh.get("/s/0/ws")).status in {400, 426}


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/status", "/api/v1/docs"])
async def test_what_needs_no_sign_in_is_there(world: HttpWorld, path: str) -> None:
    """With the security headers of every answer."""
    seen = await (await world.browser()).get(path)
    assert seen.status == 200
    assert "Content-Security-Policy" in seen.headers

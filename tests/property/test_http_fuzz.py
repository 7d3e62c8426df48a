"""Whatever is sent, the API answers with a problem that it declares, and never with a fault of its own."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_service.http import openapi
from session_service.http.callers import SCOPES
from session_service.http.table import ROUTES
from tests.fakes.http_world import Browser, HttpWorld, http_world

NOT_HERE = {"streamEvents", "backUpRegistry"}
"""A stream has no end, and the registry's twin writes no file: both have tests of their own."""
SENDABLE = [route for route in ROUTES if route.name not in NOT_HERE]
TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
IDS = st.sampled_from(["01KB000000000000000000000A", "0" * 26, "5", "x", "..", "%00", "é"]) | TEXT


class Place:
    """One running application for all examples of a test."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self.world: HttpWorld = self._runner.run(self._stack.enter_async_context(http_world(folder)))
        self.root: Browser = self._runner.run(self.world.program("root", "administrator", scopes=SCOPES))
        self.session: str = self._runner.run(self.world.session_of(self.root))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def run(self, work):
        return self._runner.run(work)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


def fields_of(route) -> st.SearchStrategy:
    """Bodies that come near: the right names with any values, or anything at all."""
    names = [*(route.body.model_fields if route.body is not None else ()), "x"]
    near = st.dictionaries(st.sampled_from(names), JSON, max_size=len(names))
    return near | JSON


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_request_gets_a_declared_answer(place: Place, data: st.DataObject) -> None:
    """Any route, any ids, any query, any body of JSON, from somebody who may do everything."""
    route = data.draw(st.sampled_from(SENDABLE))
    ids = {name: data.draw(IDS | st.just(place.session)) for name in ("session_id", "user_id", "device_id")}
    ids |= {name: data.draw(IDS) for name in ("workspace_id", "token_id", "seq")}
    path = "/".join(part.format(**ids) if "{" in part else part for part in route.path.split("/"))
    query = data.draw(
        st.dictionaries(st.sampled_from(["limit", "cursor", "path", "name", "state", "x"]), TEXT)
    )
    body = json.dumps(data.draw(fields_of(route))).encode() if data.draw(st.booleans()) else b""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k" * 16 + str(hash(body))}

    async def ask():
        from yarl import URL

        target = URL(place.world.url("/")).with_path(path if ".." not in ids.values() else route.path)
        request = place.root.client.request(
            route.method,
            target.with_query(query),
            data=body,
            headers=place.root.headers | headers,
            allow_redirects=False,
        )
        async with request as answer:
            return answer.status, answer.headers.get("Content-Type", ""), await answer.read()

    place.world.clock.now_ms += 1
    status, media, raw = place.run(ask())
    if status < 400:
        return
    assert status != 500, raw
    if status == 400 and not media.startswith("application/problem+json"):
        return  # not HTTP at all: aiohttp's own answer, before any route
    problem = json.loads(raw)
    declared = {error.code for error in openapi.errors_of(route)} | {"not_found", "method_not_allowed"}
    assert problem["code"] in declared, (route.name, problem)
    assert problem["status"] == status

"""The matrix of rights: every route, asked by everybody who could ask, told what the table says and
nothing else.
"""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from session_service.base import errors
from session_service.core.records import Outcome
from session_service.http import openapi
from session_service.http.callers import SCOPES, SCOPES_OF_ROLE, has_role
from session_service.http.routes import Route
from session_service.http.table import ROUTES
from tests.fakes.http_world import Browser, HttpWorld, Seen, http_world

ROLES = ("user", "operator", "administrator")
STREAMS = frozenset({"streamEvents"})
REFUSALS = {"sign_in_required", "not_allowed", "origin_refused"}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[HttpWorld]:
    """With something of somebody else's to ask for."""
    async with http_world(tmp_path) as made:
        yield made


async def ask(browser: Browser, route: Route, ids: dict[str, str]) -> Seen:
    """Ask for a route with an empty body: enough to learn whether one is let in."""
    return await browser.ask(route.method, route.path.format(**ids), {} if route.body is not None else None)


async def something_of_ada(world: HttpWorld) -> dict[str, str]:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    home = (await ada.get("/api/v1/workspaces")).body["items"][0]["id"]
    token = (await ada.post("/api/v1/tokens", {"name": "t", "scopes": ["read"]})).body["id"]
    return {
        "session_id": session,
        "workspace_id": home,
        "user_id": ada.user_id,
        "token_id": token,
        "device_id": (await ada.get("/api/v1/me")).body["device_id"],
        "seq": "5",
    }


def expected_refusal(route: Route, role: str, scopes: frozenset[str]) -> bool:
    access = route.access
    return access.role is not None and not (has_role(role, access.role) and access.scope in scopes)


async def test_what_is_public_and_what_is_privileged_changes_only_on_purpose() -> None:
    """Written out by hand: the other tests of this file believe the table."""
    assert {route.name for route in ROUTES if route.access.role is None} == {
        "setUp",
        "signIn",
        "readStatus",
        "healthz",
        "readyz",
        "metrics",
    }
    assert {route.name for route in ROUTES if route.access.role == "operator"} == {
        "listAlarms",
        "showSecondStore",
        "announcePause",
        "withdrawPause",
    }
    assert {route.name for route in ROUTES if route.access.role == "administrator"} == {
        "listUsers",
        "createUser",
        "readUser",
        "changeUser",
        "verifyWorkspace",
        "forgetCheckpoints",
        "keepCheckpoint",
        "compareCheckpoints",
        "collectWorkspace",
        "showKeys",
        "rotateKeys",
        "eraseWorkspace",
        "showTombstone",
        "erasePerson",
        "showErasure",
        "showStoreKeys",
        "setRecovery",
        "rewrapKeys",
        "rotateTenantKey",
        "verifyAudit",
        "backUpRegistry",
        "listForeignObjects",
        "stepOver",
        "compareSecondStore",
        "verifySecondCopy",
        "repairWorkspace",
        "promoteSecondStore",
    }
    reading = {route.name for route in ROUTES if route.access.scope == "read" and route.method != "GET"}
    assert reading == {"setUp", "signIn", "signOut", "signOutEverywhere", "changePassword"}
    files = {route.name for route in ROUTES if route.access.scope == "files"}
    assert files == {
        "uploadFile",
        "listFiles",
        "downloadFile",
        "downloadArchive",
        "restoreFiles",
        "dropConflict",
    }


@pytest.mark.parametrize("role", ROLES)
async def test_a_signed_in_person_gets_what_their_role_allows(world: HttpWorld, role: str) -> None:
    """Refused exactly where the table says so, before the body is looked at."""
    ids = await something_of_ada(world)
    for route in ROUTES:
        if route.name in STREAMS:
            continue
        browser = await world.signed_in(f"a-{role}", role)
        seen = await ask(browser, route, ids)
        if expected_refusal(route, role, SCOPES_OF_ROLE[role]):
            assert seen.code == "not_allowed", route.name
        elif seen.status >= 400:
            assert seen.code in {error.code for error in openapi.errors_of(route)}, (route.name, seen.raw)


@pytest.mark.parametrize(("role", "scope"), list(itertools.product(ROLES, SCOPES)))
async def test_a_token_with_one_scope_gets_that_and_no_more(world: HttpWorld, role: str, scope: str) -> None:
    """A scope beyond the role gives nothing."""
    ids = await something_of_ada(world)
    program = await world.program(f"b-{role}", role, scopes=(scope,))
    scopes = frozenset({scope}) & SCOPES_OF_ROLE[role]
    for route in ROUTES:
        if route.name in STREAMS:
            continue
        seen = await ask(program, route, ids)
        if expected_refusal(route, role, scopes):
            assert seen.code == "not_allowed", (route.name, seen.raw)
        elif seen.status >= 400:
            assert seen.code in {error.code for error in openapi.errors_of(route)}, (route.name, seen.raw)


async def test_strangers_get_what_is_public_and_nothing_else(world: HttpWorld) -> None:
    """Without a cookie, with a made-up one, with a made-up token."""
    ids = await something_of_ada(world)
    strangers = [
        await world.browser(),
        await world.browser(Cookie="session=made-up"),
        await world.browser(Authorization="Bearer sst_made-up"),
        await world.browser(Authorization="Basic YWRhOmFkYQ=="),
    ]
    for route, stranger in itertools.product(ROUTES, strangers):
        if route.access.role is not None:
            assert (await ask(stranger, route, ids)).code == "sign_in_required", route.name


async def test_every_unsafe_route_refuses_a_foreign_origin(world: HttpWorld) -> None:
    """Also those that need no sign-in: a foreign page must not sign people in either."""
    ids = await something_of_ada(world)
    root = await world.signed_in("root", "administrator")
    root.headers = root.headers | {"Origin": "https://evil.example"}
    for route in ROUTES:
        if route.method != "GET":
            assert (await ask(root, route, ids)).code == "origin_refused", route.name


async def test_nothing_of_another_user_is_reached_by_any_route(world: HttpWorld) -> None:
    """A user who knows every id of Ada's gets no answer with her name in it, and changes nothing."""
    ids = await something_of_ada(world)
    before = [act for act, _, _ in world.control.acts]
    bob = await world.signed_in("bob")
    for route in ROUTES:
        if "{" not in route.path or route.name in STREAMS:
            continue
        body = {"paths": ["x"], "reason": "x", "seconds": 1, "seq": 5}
        wanted = {
            name: body[name] for name in (route.body.model_fields if route.body else {}) if name in body
        }
        path = route.path.format(**ids)
        query = {"path": "notes.txt"} if route.name == "downloadFile" else {}
        query |= {"name": "a"} if route.name == "uploadFile" else {}
        seen = await bob.ask(route.method, path, wanted if route.body is not None else None, params=query)
        assert seen.code in {"not_found", "not_allowed"}, (route.name, seen.raw)
        assert b"ada" not in seen.raw
    assert [act for act, _, _ in world.control.acts] == before


async def test_a_receipt_is_for_its_user_and_operators(world: HttpWorld) -> None:
    """The same for both ways to it."""
    from session_service.core.changes import AddReceipt, Unit
    from session_service.core.records import Receipt

    ids = await something_of_ada(world)
    record = await world.control.close(ids["session_id"], Outcome.SAVED)  # type: ignore[arg-type]  # its text
    receipt = Receipt(
        session_id=record.id,
        workspace_id=record.workspace_id,
        user_id=record.user_id,
        body=b'{"outcome":"saved"}',
        written_at_ms=1000,
    )
    await world.registry.commit(Unit(writes=(AddReceipt(receipt=receipt),)))
    path = f"/api/v1/receipts/{record.id}"
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    assert (await ada.get(path)).body["body"] == {"outcome": "saved"}
    assert len((await ada.get("/api/v1/receipts")).body["items"]) == 1
    assert (await bob.get(path)).code == errors.NotFound.code
    assert (await bob.get("/api/v1/receipts")).body["items"] == []
    olga = await world.signed_in("olga", "operator")
    assert (await olga.get(path)).status == 200
    assert (await olga.get("/api/v1/receipts?mine=true")).body["items"] == []


async def test_events_are_for_those_whom_they_concern(world: HttpWorld) -> None:
    """In both directions, a page at a time, nothing twice."""
    await something_of_ada(world)
    bob = await world.signed_in("bob")
    olga = await world.signed_in("olga", "operator")
    assert {event["user_id"] for event in (await bob.get("/api/v1/events")).body["items"]} == {bob.user_id}
    total = len(await world.registry.audit())
    for order in ("true", "false"):
        found, cursor = [], ""
        while cursor is not None:
            page = (await olga.get(f"/api/v1/events?limit=2&newest_first={order}&cursor={cursor}")).body
            found += [event["seq"] for event in page["items"]]
            cursor = page["next_cursor"] if page["items"] else None
        assert sorted(found) == list(range(1, total + 1))
        assert found == sorted(found, reverse=order == "true")

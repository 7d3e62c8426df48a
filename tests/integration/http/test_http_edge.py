"""Around every request: problem documents, headers, figures, pages, and the documentation that is made of
the table.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from session_service.base import errors
from session_service.http import openapi
from session_service.http.server import CONTENT_POLICY
from session_service.http.table import ROUTES
from tests.fakes.http_world import PASSWORD, HttpWorld, http_world

PROBLEM = {"type", "title", "status", "detail", "code", "retryable", "action", "facts", "reference"}


async def test_every_failure_is_a_problem_document(world: HttpWorld) -> None:
    """Also those that never reach a handler."""
    ada = await world.signed_in("ada")
    json_type = {"Content-Type": "application/json"}
    sign_in = "/api/v1/sign-in"
    failures = [
        (await ada.get("/api/v1/nothing"), 404, "not_found"),
        (await ada.get("/nothing"), 404, "not_found"),
        (await ada.get("/api/v1/sessions/not-an-id"), 404, "not_found"),
        (await ada.ask("PUT", "/api/v1/sessions"), 405, "method_not_allowed"),
        (await ada.ask("POST", sign_in, data="{", headers=json_type), 422, "bad_input"),
        (await ada.ask("POST", sign_in, data=b"\xff\xfe", headers=json_type), 422, "bad_input"),
        (await ada.post(sign_in, {"name": "ada"}), 422, "bad_input"),
        (await ada.post(sign_in, {"name": "ada", "password": "x", "more": 1}), 422, "bad_input"),
        (await ada.post(sign_in, {"name": "ada", "password": 7}), 422, "bad_input"),
        (await ada.post(sign_in, [1]), 422, "bad_input"),
        (await ada.post(sign_in, {"name": "x" * 70_000, "password": "x"}), 413, "too_large"),
        (await ada.ask("POST", sign_in, data="name=ada"), 415, "unsupported_media_type"),
        (await ada.get("/api/v1/sessions?limit=0"), 422, "bad_input"),
        (await ada.get("/api/v1/sessions?limit=1&limit=2"), 422, "bad_input"),
        (await ada.get("/api/v1/sessions?nothing=1"), 422, "bad_input"),
        (await (await world.browser()).get("/api/v1/me"), 401, "sign_in_required"),
    ]
    for seen, status, code in failures:
        assert (seen.status, seen.code) == (status, code), seen.raw
        assert seen.headers["Content-Type"].startswith("application/problem+json")
        assert set(seen.body) == PROBLEM
        assert seen.body["reference"] == seen.headers["X-Request-Reference"]
        assert seen.body["action"]


async def test_what_was_typed_is_never_told_back(world: HttpWorld) -> None:
    """It may be a password in the wrong field."""
    browser = await world.browser()
    seen = await browser.post("/api/v1/sign-in", {"name": "ada", "password": ["secret-in-a-list"]})
    assert b"secret-in-a-list" not in seen.raw


async def test_a_wrong_method_names_the_right_ones(world: HttpWorld) -> None:
    """As RFC 9110 asks."""
    seen = await (await world.browser()).ask("DELETE", "/api/v1/sessions")
    assert {name.strip() for name in seen.headers["Allow"].split(",")} == {"GET", "POST"}


async def test_a_mistake_of_ours_is_told_with_a_reference_only(
    world: HttpWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """The cause is in the log under it."""
    ada = await world.signed_in("ada")
    world.control.failure = RuntimeError("a detail of ours")
    with structlog.testing.capture_logs() as logs:
        seen = await ada.post("/api/v1/sessions")
    assert (seen.status, seen.code) == (500, "internal")
    assert b"a detail of ours" not in seen.raw
    failed = next(line for line in logs if line["event"] == "request.failed")
    assert failed["reference"] == seen.body["reference"]
    assert "a detail of ours" in failed["error"]


async def test_each_request_is_one_line_without_secrets(world: HttpWorld) -> None:
    """The route's name, never the address as sent."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    with structlog.testing.capture_logs() as logs:
        await ada.get("/api/v1/events?cursor=", headers={"X-Secret": "in-a-header"})
        await ada.get("/s/0/t/a-ticket-in-a-path?secret=1")
        await ada.post(f"/api/v1/sessions/{session}/tickets")
        await ada.post("/api/v1/sign-in", {"name": "ada", "password": PASSWORD})
    done = [line for line in logs if line["event"] == "request.done"]
    assert [line["route"] for line in done] == ["listEvents", "misdirected", "issueTicket", "signIn"]
    assert all(line["duration_ms"] == 0 for line in done)
    assert done[0]["user_id"] == ada.user_id
    for secret in ("in-a-header", "a-ticket-in-a-path", PASSWORD):
        assert secret not in repr(logs)


async def test_every_answer_has_the_security_headers(world: HttpWorld) -> None:
    """Problems, pages, streams and files alike; nothing inline, nothing from elsewhere."""
    browser = await world.browser()
    for path in ("/healthz", "/api/v1/me", "/nothing", "/", "/api/v1/docs", "/api/v1/openapi.json"):
        seen = await browser.get(path)
        assert seen.headers["Content-Security-Policy"] == CONTENT_POLICY
        assert seen.headers["X-Content-Type-Options"] == "nosniff"
        assert seen.headers["Referrer-Policy"] == "no-referrer"
        assert seen.headers["Server"] == "session-service"
        assert seen.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Strict-Transport-Security" not in seen.headers
    assert "unsafe" not in CONTENT_POLICY
    assert "default-src 'none'" in CONTENT_POLICY


async def test_ready_means_control_and_registry_and_not_the_store(world: HttpWorld) -> None:
    """Taking us out of a balancer for the store's outage would cut desktops off for nothing."""
    browser = await world.browser()
    world.files.failure = errors.StorageUnavailable()
    assert (await browser.get("/readyz")).status == 200
    world.control.is_ready = False
    assert (await browser.get("/readyz")).code == "part_unavailable"
    assert (await browser.get("/healthz")).status == 200


async def test_figures_exist_before_the_first_failure(world: HttpWorld) -> None:
    """Each route with each class of status, each state; nothing is made up as it comes."""
    browser = await world.browser()
    text = (await browser.get("/metrics")).raw.decode()
    for state in ("starting", "active", "held", "closing"):
        assert f'session_service_sessions{{state="{state}"}} 0.0' in text
    assert 'session_service_requests_done_total{route="signIn",status="5xx"} 0.0' in text
    await world.session_of(await world.signed_in("ada"))
    text = (await browser.get("/metrics")).raw.decode()
    assert 'session_service_sessions{state="active"} 1.0' in text
    assert 'session_service_requests_done_total{route="signIn",status="2xx"} 1.0' in text


@pytest.mark.parametrize(
    "headers", [{"X-Forwarded-For": "203.0.113.9"}, {"Via": "1.1 proxy"}, {"Host": "evil.example"}]
)
async def test_figures_are_not_for_strangers(world: HttpWorld, headers: dict[str, str]) -> None:
    """Neither through a proxy nor by a name that was made to point here; a token with scope read may."""
    browser = await world.browser()
    assert (await browser.get("/metrics", headers=headers)).code == "sign_in_required"
    reader = await world.program("ada", scopes=("read",))
    assert (await reader.get("/metrics", headers=headers)).status == 200
    other = await world.program("ada", scopes=("files",))
    assert (await other.get("/metrics", headers=headers)).status == 401


async def test_behind_a_proxy_figures_need_a_token(tmp_path: Path) -> None:
    """One that adds no header and sends the local name would make the whole world local."""
    async with http_world(tmp_path, behind_proxy=True) as world:
        assert (await (await world.browser()).get("/metrics")).code == "sign_in_required"
        reader = await world.program("ada", scopes=("read",))
        assert (await reader.get("/metrics")).status == 200


async def test_the_address_is_the_proxys_word_only_where_the_proxy_is_trusted(tmp_path: Path) -> None:
    """Else anybody could choose whom to pause."""
    import ipaddress

    async def told(world: HttpWorld) -> object:
        await world.account("ada")
        browser = await world.browser(**{"X-Forwarded-For": "203.0.113.1, 198.51.100.7"})
        await browser.post("/api/v1/sign-in", {"name": "ada", "password": PASSWORD})
        return dict((await world.registry.audit())[-1].entry.facts)["address"]

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with http_world(tmp_path / "a") as world:
        assert await told(world) == "127.0.0.1"
    trusted = (ipaddress.ip_network("127.0.0.0/8"),)
    async with http_world(tmp_path / "b", trusted_proxies=trusted) as world:
        assert await told(world) == "198.51.100.7"


async def test_status_tells_strangers_only_what_a_sign_in_page_needs(world: HttpWorld) -> None:
    """Versions, names and the store's address are for those who are signed in, or operate."""
    stranger = (await (await world.browser()).get("/api/v1/status")).body
    assert stranger["version"] is stranger["node_name"] is stranger["alarms"] is None
    assert stranger["storage"] == {
        "usable": True,
        "error": "",
        "url": None,
        "key_id": None,
        "key_backed_up": None,
        "watching": None,
        "traffic": None,
        "checks": None,
    }
    user = (await (await world.signed_in("ada")).get("/api/v1/status")).body
    assert (user["version"], user["storage"]["url"], user["alarms"]) == ("9.9", None, None)
    operator = (await (await world.signed_in("olga", "operator")).get("/api/v1/status")).body
    assert (operator["storage"]["url"], operator["alarms"]) == ("file:///store", 0)
    assert [check["name"] for check in operator["storage"]["checks"]] == ["create_only"]


async def test_openapi_describes_every_route(world: HttpWorld) -> None:
    """It is the same table; every reference in it leads somewhere."""
    document = (await (await world.browser()).get("/api/v1/openapi.json")).body
    assert document["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    served = {
        (route.method, route.resource.canonical)
        for route in world.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/")
    }
    documents = {"/api/v1/openapi.json", "/api/v1/docs", "/api/v1/docs.css"}
    assert {each for each in served if each[1] not in documents} <= described
    text = json.dumps(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    assert "$defs" not in text


async def test_every_route_that_creates_or_acts_takes_a_key(world: HttpWorld) -> None:
    """Signing in and out and checks, which make nothing that could be made twice, and files do not."""
    without = {route.name for route in ROUTES if route.method == "POST" and not route.idempotent}
    assert without == {
        "setUp",
        "signIn",
        "signOut",
        "signOutEverywhere",
        "uploadFile",
        "verifyWorkspace",
        "verifySecondCopy",
    }


async def test_every_list_has_a_cursor(world: HttpWorld) -> None:
    """So that none of them has to grow one later."""
    for route in ROUTES:
        if (
            route.answer is not None
            and "items" in route.answer.model_fields
            and "session_id" not in route.path
        ):
            assert "next_cursor" in route.answer.model_fields, route.name


async def test_the_readable_page_needs_no_script_and_has_every_code(world: HttpWorld) -> None:
    """Each problem document points into it."""
    page = (await (await world.browser()).get("/api/v1/docs")).raw.decode()
    assert "<script" not in page
    assert "style=" not in page
    for route in ROUTES:
        assert route.path in page
        for error in openapi.errors_of(route):
            assert f"id='{error.code}'" in page
    for error in openapi.all_errors(ROUTES):
        assert f"id='{error.code}'" in page


async def test_a_link_on_a_used_connection_is_sent_away(world: HttpWorld) -> None:
    """Proxies that keep connections meet this; the answer closes the connection, so that the next try
    works.
    """
    seen = await (await world.browser()).get("/s/0/ws", headers={"Upgrade": "websocket"})
    assert (seen.status, seen.code) == (421, "misdirected")
    assert seen.headers["Connection"] == "close"


def pages_of(folder: Path) -> Path:
    """A folder of pages, with things beside it that must not be served."""
    pages = folder / "pages"
    (pages / "js").mkdir(parents=True)
    for name in ("setup", "sign-in", "desktop", "screen", "operator", "problem"):
        (pages / f"{name}.html").write_text(f"<title>{name}</title>")
    (pages / "js" / "desktop.js").write_text("export const many = 1;\n" * 200)
    (pages / ".hidden.js").write_text("no")
    (pages / "notes.py").write_text("no")
    (folder / "secret.txt").write_text("no")
    (pages / "out.txt").symlink_to(folder / "secret.txt")
    return pages


async def test_pages_are_behind_the_sign_in_and_lead_back(tmp_path: Path) -> None:
    """Setup first, then sign in, then what was asked for; the operator page is for operators."""
    async with http_world(tmp_path, pages=pages_of(tmp_path)) as world:
        stranger = await world.browser()
        assert (await stranger.get("/")).headers["Location"] == "/setup"
        await world.account("root", "administrator")
        assert (await stranger.get("/")).headers["Location"] == "/sign-in"
        seen = await stranger.get("/desktop/01KB000000000000000000000A")
        assert seen.status == 303
        assert seen.headers["Location"] == "/sign-in?next=/desktop/01KB000000000000000000000A"
        assert "sign-in" in (await stranger.get("/sign-in")).raw.decode()
        ada = await world.signed_in("ada")
        assert (await ada.get("/")).headers["Location"] == "/desktop"
        assert b"desktop" in (await ada.get("/desktop")).raw
        assert b"screen" in (await ada.get("/desktop/01KB000000000000000000000A")).raw
        assert (await ada.get("/operator")).code == "not_allowed"
        seen = await ada.get("/nothing", headers={"Accept": "text/html"})
        assert (seen.status, seen.raw) == (404, b"<title>problem</title>")
        assert (await (await world.signed_in("root")).get("/operator")).status == 200
        assert (await (await world.signed_in("olga", "operator")).get("/people")).code == "not_allowed"


async def test_only_files_of_the_pages_are_sent(tmp_path: Path) -> None:
    """By name out of a folder: no way up, no links out, nothing hidden, no unknown kinds, no page by its
    file.
    """
    async with http_world(tmp_path, pages=pages_of(tmp_path)) as world:
        browser = await world.browser()
        script = await browser.get("/pages/js/desktop.js", headers={"Accept-Encoding": "gzip"})
        assert script.status == 200
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert script.headers["Content-Encoding"] == "gzip"
        tag = {"If-None-Match": script.headers["ETag"]}
        assert (await browser.get("/pages/js/desktop.js", headers=tag)).status == 304
        (tmp_path / "pages/js/desktop.js").write_text("changed")
        assert (await browser.get("/pages/js/desktop.js", headers=tag)).raw == b"changed"
        for path in (
            "..%2fsecret.txt",
            "%2e%2e/secret.txt",
            "js/..%2f..%2fsecret.txt",
            "out.txt",
            ".hidden.js",
            "notes.py",
            "desktop.html",
            "js",
            "js/",
            "%00",
            "js%2fdesktop.js%00",
            "a" * 5000,
        ):
            seen = await browser.get("/pages/" + path)
            assert seen.status in {404, 400}, path
            assert seen.raw != b"no"


async def test_a_slow_body_holds_nothing(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stops in the middle is told and left."""
    monkeypatch.setattr("session_service.http.limits.BODY_READ_S", 0.05)
    browser = await world.browser()

    async def never() -> Any:
        yield b'{"name":'
        await asyncio.Event().wait()

    seen = await browser.ask(
        "POST", "/api/v1/sign-in", data=never(), headers={"Content-Type": "application/json"}
    )
    assert seen.code == "bad_input"

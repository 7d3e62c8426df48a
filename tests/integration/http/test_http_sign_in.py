"""Setup, signing in and out, and what holds strangers off."""

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from session_service.base import errors
from session_service.core.changes import PutUser, Unit
from session_service.core.records import State
from session_service.http import limits, setup
from session_service.http.callers import OWN_HEADER
from tests.fakes.http_world import PASSWORD, HttpWorld, http_world

SIGN_IN = "/api/v1/sign-in"


async def offer(world: HttpWorld) -> str:
    code = await setup.offer_setup(world.registry, world.clock, world.ids)
    assert code is not None
    return code


async def test_the_setup_code_makes_the_administrator_and_signs_in(world: HttpWorld) -> None:
    """Typed as people type: small letters, without the dash."""
    code = await offer(world)
    browser = await world.browser()
    assert (await browser.get("/api/v1/status")).body["setup_needed"] is True
    typed = code.replace("-", " ").lower()
    seen = await browser.post("/api/v1/setup", {"code": typed, "name": "ada", "password": PASSWORD})
    assert seen.status == 201, seen.raw
    assert seen.body["user"]["role"] == "administrator"
    assert (await browser.get("/api/v1/me")).body["user"]["name"] == "ada"
    spaces = (await browser.get("/api/v1/workspaces")).body["items"]
    assert [space["name"] for space in spaces] == ["Home"]
    assert (await browser.get("/api/v1/status")).body["setup_needed"] is False
    assert await setup.offer_setup(world.registry, world.clock, world.ids) is None


async def test_a_setup_code_counts_once_and_for_fifteen_minutes(world: HttpWorld) -> None:
    """A new start voids the one before."""
    old, browser = await offer(world), await world.browser()
    ask = {"name": "ada", "password": PASSWORD}
    newest = await offer(world)
    assert (await browser.post("/api/v1/setup", ask | {"code": old})).code == "wrong_setup_code"
    world.clock.now_ms += round(limits.SETUP_CODE_S * 1000)
    assert (await browser.post("/api/v1/setup", ask | {"code": newest})).code == "wrong_setup_code"
    newest = await offer(world)
    assert (await browser.post("/api/v1/setup", ask | {"code": newest})).status == 201
    assert (await browser.post("/api/v1/setup", ask | {"code": newest})).code == "setup_done"


async def test_guessing_setup_codes_is_paused(world: HttpWorld) -> None:
    """Five tries from anywhere, then a pause; the right code counts after it."""
    code, browser = await offer(world), await world.browser()
    ask = {"name": "ada", "password": PASSWORD}
    for _ in range(limits.SETUP_TRIES):
        seen = await browser.post("/api/v1/setup", ask | {"code": "AAAAA-AAAAA"})
        assert seen.code == "wrong_setup_code"
    seen = await browser.post("/api/v1/setup", ask | {"code": code})
    assert seen.code == "too_many_attempts"
    assert int(seen.headers["Retry-After"]) == limits.PAUSE_S_FIRST
    world.clock.now_ms += round(limits.PAUSE_S_FIRST * 1000)
    assert (await browser.post("/api/v1/setup", ask | {"code": code})).status == 201


async def test_a_short_password_is_refused_without_using_the_setup_code_up(world: HttpWorld) -> None:
    """The person corrects the field and goes on."""
    code, browser = await offer(world), await world.browser()
    seen = await browser.post("/api/v1/setup", {"code": code, "name": "ada", "password": "short"})
    assert (seen.status, seen.body["facts"]["field"]) == (422, "password")
    seen = await browser.post("/api/v1/setup", {"code": code, "name": "ada", "password": PASSWORD})
    assert seen.status == 201


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(world: HttpWorld) -> None:
    """On plain HTTP of the loopback it cannot have the prefix that TLS gives."""
    await world.account("ada")
    browser = await world.browser()
    seen = await browser.post(SIGN_IN, {"name": "ADA", "password": PASSWORD})
    cookie = seen.headers["Set-Cookie"]
    assert cookie.startswith("session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie
    assert PASSWORD.encode() not in seen.raw


async def test_behind_tls_the_cookie_has_the_host_prefix(tmp_path) -> None:
    """And browsers are told to stay on TLS."""
    async with http_world(tmp_path, secure=True) as world:
        await world.account("ada")
        seen = await (await world.browser()).post(SIGN_IN, {"name": "ada", "password": PASSWORD})
        assert seen.headers["Set-Cookie"].startswith("__Host-session=")
        assert "Secure" in seen.headers["Set-Cookie"]
        assert "max-age" in seen.headers["Strict-Transport-Security"]


async def test_unknown_disabled_and_wrong_look_the_same(world: HttpWorld) -> None:
    """Nobody learns which accounts exist."""
    await world.account("ada")
    await world.account("gone", disabled=True)
    browser, told = await world.browser(), []
    for name, password in (("ada", "wrong password"), ("nobody", PASSWORD), ("gone", PASSWORD)):
        seen = await browser.post(SIGN_IN, {"name": name, "password": password})
        told.append({key: value for key, value in seen.body.items() if key != "reference"})
        assert seen.status == 401
    assert told[0] == told[1] == told[2]
    assert told[0]["facts"] == {"tries_left": 4, "pause_s": 60.0}


async def test_an_account_is_paused_after_five_tries_and_longer_each_time(world: HttpWorld) -> None:
    """The right password counts only after the pause, and then forgives."""
    await world.account("ada")
    browser = await world.browser()
    for left in (4, 3, 2, 1, 0):
        seen = await browser.post(SIGN_IN, {"name": "ada", "password": "wrong"})
        assert seen.body["facts"]["tries_left"] == left
    right = {"name": "Ada", "password": PASSWORD}
    assert (await browser.post(SIGN_IN, right)).code == "too_many_attempts"
    world.clock.now_ms += 60_000
    seen = await browser.post(SIGN_IN, {"name": "ada", "password": "wrong"})
    assert seen.body["facts"]["pause_s"] == 120.0
    world.clock.now_ms += 60_000
    assert (await browser.post(SIGN_IN, right)).headers["Retry-After"] == "60"
    world.clock.now_ms += 60_000
    assert (await browser.post(SIGN_IN, right)).status == 200
    assert (await browser.post(SIGN_IN, {"name": "ada", "password": "wrong"})).status == 401


async def test_a_stranger_who_guesses_pauses_himself_and_not_the_accounts_user(tmp_path: Path) -> None:
    """One try a pause kept anybody out whose name was known. From fifty places together it is the account."""
    trusted = (ip_network("127.0.0.0/8"),)
    async with http_world(tmp_path, trusted_proxies=trusted) as world:
        await world.account("ada")

        async def sign_in(address: str, password: str) -> str:
            browser = await world.browser(**{"X-Forwarded-For": address})
            seen = await browser.post(SIGN_IN, {"name": "ada", "password": password})
            return "in" if seen.status == 200 else seen.code

        for _ in range(limits.SIGN_IN_TRIES):
            assert await sign_in("198.51.100.7", "wrong") == "wrong_password"
        for _ in range(limits.ACCOUNT_TRIES):
            assert await sign_in("198.51.100.7", "wrong") == "too_many_attempts"
        assert await sign_in("203.0.113.9", PASSWORD) == "in"
        for number in range(limits.ACCOUNT_TRIES - limits.SIGN_IN_TRIES):
            assert await sign_in(f"198.51.100.{number + 10}", "wrong") == "wrong_password"
        assert await sign_in("203.0.113.9", PASSWORD) == "too_many_attempts"


async def test_another_spelling_of_a_name_gives_no_further_tries(world: HttpWorld) -> None:
    """Capitals and wide letters are the same account for the registry, and for the pause."""
    await world.account("ada")
    browser = await world.browser()
    for name in ("ada", "ADA", "\uff41da", "Ad\uff21", " ada "):
        assert (await browser.post(SIGN_IN, {"name": name, "password": "wrong"})).code == "wrong_password"
    assert (await browser.post(SIGN_IN, {"name": "aDa", "password": PASSWORD})).code == "too_many_attempts"


async def test_an_address_is_paused_that_tries_many_accounts(world: HttpWorld) -> None:
    """One password for a thousand names does not get past."""
    browser = await world.browser()
    for number in range(limits.ADDRESS_TRIES):
        seen = await browser.post(SIGN_IN, {"name": f"user{number}", "password": "wrong"})
        assert seen.code == "wrong_password"
    seen = await browser.post(SIGN_IN, {"name": "another", "password": "wrong"})
    assert seen.code == "too_many_attempts"


@pytest.mark.parametrize(
    "headers",
    [
        {OWN_HEADER: ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
)
async def test_a_foreign_page_cannot_act_with_a_cookie(world: HttpWorld, headers: dict[str, str]) -> None:
    """Neither without our header nor from another origin; reading needs neither."""
    browser = await world.signed_in("ada")
    sent = browser.headers | headers
    browser.headers = {name: value for name, value in sent.items() if value}
    assert (await browser.post("/api/v1/sessions")).code == "origin_refused"
    assert (await browser.post("/api/v1/sign-out")).code == "origin_refused"
    assert (await browser.post(SIGN_IN, {"name": "ada", "password": PASSWORD})).code == "origin_refused"
    assert (await browser.get("/api/v1/me")).status == 200
    assert world.control.acts == []


async def test_signing_out_ends_the_sign_in_and_holds_this_browsers_desktop(world: HttpWorld) -> None:
    """The other browser stays signed in."""
    one, other = await world.signed_in("ada"), await world.signed_in("ada")
    session = await world.session_of(one)
    await one.post(f"/api/v1/sessions/{session}/tickets")
    assert (await other.post("/api/v1/sign-out")).status == 204
    assert (await one.get(f"/api/v1/sessions/{session}")).body["state"] == State.ACTIVE
    assert (await one.post("/api/v1/sign-out")).status == 204
    record = await world.registry.session(session)
    assert record is not None
    assert record.state is State.HELD
    assert (await one.get("/api/v1/me")).code == "sign_in_required"


async def test_signing_out_succeeds_when_control_cannot_write(world: HttpWorld) -> None:
    """The sign-in is gone; nobody is told that they are still signed in."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    await ada.post(f"/api/v1/sessions/{session}/tickets")
    world.control.failure = errors.RegistryUnavailable()
    assert (await ada.post("/api/v1/sign-out")).status == 204
    assert (await ada.get("/api/v1/me")).code == "sign_in_required"


async def test_a_new_password_holds_the_desktops_of_other_devices_only(world: HttpWorld) -> None:
    """The one who changes it goes on working."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    await ada.post(f"/api/v1/sessions/{session}/tickets")
    ask = {"current": PASSWORD, "new": "a quite different one"}
    assert (await ada.ask("PATCH", "/api/v1/me/password", ask)).status == 200
    assert (await ada.get(f"/api/v1/sessions/{session}")).body["state"] == "active"
    other = await world.browser()
    await other.post(SIGN_IN, {"name": "ada", "password": ask["new"]})
    back = {"current": ask["new"], "new": PASSWORD}
    assert (await other.ask("PATCH", "/api/v1/me/password", back)).status == 200
    assert (await other.get(f"/api/v1/sessions/{session}")).body["state"] == "held"


async def test_signing_out_everywhere_ends_all(world: HttpWorld) -> None:
    """And a single other browser can be signed out by its name."""
    browsers = [await world.signed_in("ada") for _ in range(3)]
    listed = (await browsers[0].get("/api/v1/me/sign-ins")).body["items"]
    assert [item["this_one"] for item in listed].count(True) == 1
    other = next(item["id"] for item in listed if not item["this_one"])
    assert (await browsers[0].ask("DELETE", f"/api/v1/me/sign-ins/{other}")).status == 204
    assert len((await browsers[0].get("/api/v1/me/sign-ins")).body["items"]) == 2
    assert (await browsers[0].post("/api/v1/sign-out-everywhere")).status == 204
    assert {(await browser.get("/api/v1/me")).status for browser in browsers} == {401}


async def test_a_token_that_may_only_read_signs_nobody_out(world: HttpWorld) -> None:
    """It cut every link of its account, too."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    program = await world.program("ada", scopes=("read",))
    assert (await program.post("/api/v1/sign-out-everywhere")).code == "bad_input"
    assert (await ada.get(f"/api/v1/sessions/{session}")).status == 200


async def test_a_new_password_ends_the_other_sign_ins(world: HttpWorld) -> None:
    """This browser goes on with a fresh cookie; the old password is void."""
    one, other = await world.signed_in("ada"), await world.signed_in("ada")
    ask = {"current": PASSWORD, "new": "a quite different one"}
    assert (await one.ask("PATCH", "/api/v1/me/password", ask | {"current": "wrong"})).status == 401
    assert (await one.ask("PATCH", "/api/v1/me/password", ask)).status == 200
    assert (await one.get("/api/v1/me")).status == 200
    assert (await other.get("/api/v1/me")).status == 401
    again = await world.browser()
    assert (await again.post(SIGN_IN, {"name": "ada", "password": PASSWORD})).status == 401
    assert (await again.post(SIGN_IN, {"name": "ada", "password": ask["new"]})).status == 200


async def test_a_sign_in_ends_when_it_is_not_used_or_too_old(world: HttpWorld) -> None:
    """Two days without a request, or seven in all."""
    idle = await world.signed_in("ada")
    world.clock.now_ms += round(limits.SIGN_IN_IDLE_S * 1000)
    assert (await idle.get("/api/v1/me")).status == 401
    used = await world.signed_in("ada")
    for _ in range(7):
        assert (await used.get("/api/v1/me")).status == 200
        world.clock.now_ms += 86_400_000
    assert (await used.get("/api/v1/me")).status == 401


async def test_a_disabled_account_is_out_at_once(world: HttpWorld) -> None:
    """By cookie and by token."""
    admin = await world.signed_in("root", "administrator")
    ada = await world.signed_in("ada")
    program = await world.program("ada")
    assert ada.user is not None
    assert (await program.get("/api/v1/me")).status == 200
    seen = await admin.ask("PATCH", f"/api/v1/users/{ada.user_id}", {"disabled": True})
    assert seen.body["disabled"] is True
    assert (await ada.get("/api/v1/me")).status == 401
    assert (await program.get("/api/v1/me")).status == 401


async def test_a_sign_in_of_a_disabled_account_opens_nothing(world: HttpWorld) -> None:
    """Even where it was left behind: the account is looked at each time."""
    ada = await world.signed_in("ada")
    assert ada.user is not None
    off = replace(ada.user, disabled=True, generation=2)
    await world.registry.commit(Unit(writes=(PutUser(user=off, expected=1),)))
    assert await world.registry.sign_ins(ada.user_id)
    assert (await ada.get("/api/v1/me")).code == "sign_in_required"


async def test_every_sign_in_and_refusal_is_in_the_audit_log(world: HttpWorld) -> None:
    """With the address, and never with what was typed as a password."""
    browser = await world.signed_in("ada")
    await browser.post(SIGN_IN, {"name": "ada", "password": "wrong password"})
    await browser.post("/api/v1/sign-out")
    records = await world.registry.audit()
    kinds = [record.entry.kind for record in records]
    assert kinds == ["user.signed_in", "user.refused", "user.signed_out"]
    assert "wrong password" not in repr(records)
    assert dict(records[0].entry.facts)["address"] == "127.0.0.1"


async def test_a_browser_that_only_looks_on_loses_the_picture_when_it_is_signed_out(world: HttpWorld) -> None:
    """The session is another browser's; control is told which device's views to close."""
    one, other = await world.signed_in("ada"), await world.signed_in("ada")
    session_id = (await one.post("/api/v1/sessions")).body["id"]
    assert (await one.post(f"/api/v1/sessions/{session_id}/tickets", {})).status == 201
    await world.control.change(session_id, state=State.ACTIVE)
    record = await world.registry.session(session_id)
    assert (await other.post("/api/v1/sign-out")).status in (200, 204)
    assert [act for act, *_ in world.control.acts if act == "disconnect"] == []
    ((closed, device, _),) = world.control.viewers_closed
    assert closed == session_id
    assert device not in (None, record.device_id)

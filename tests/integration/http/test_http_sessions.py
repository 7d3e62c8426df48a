"""Sessions over the API: whose they are, what is told of them, and acts that repeat."""

import uuid

import pytest

from session_service.base import errors
from session_service.core.records import Outcome
from tests.fakes.http_world import Browser, HttpWorld

UNKNOWN = "01KB000000000000000000000A"


async def test_a_start_returns_the_open_session_instead_of_a_second_desktop(world: HttpWorld) -> None:
    """201 for a new one, 200 for the same."""
    ada = await world.signed_in("ada")
    first = await ada.post("/api/v1/sessions", {"geometry": [1440, 900], "time_zone": "Europe/Vienna"})
    again = await ada.post("/api/v1/sessions")
    assert (first.status, again.status) == (201, 200)
    assert first.body["id"] == again.body["id"]
    assert first.headers["Location"] == f"/api/v1/sessions/{first.body['id']}"


async def test_a_session_tells_what_its_user_needs(world: HttpWorld) -> None:
    """Times are UTC texts with milliseconds; unknown is null, never 0."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    held = await ada.post(f"/api/v1/sessions/{session}/disconnect", {"reason": "lunch"})
    assert held.body["state"] == "held"
    assert held.body["hold_remaining_s"] == 1800.0
    assert held.body["hold_deadline"].endswith(".123Z")
    assert held.body["loss_cause"] == "tab_closed"
    assert held.body["pending_bytes"] is None
    assert held.body["saved_as_of"] is None
    assert held.body["node_id"] is None
    assert held.headers["ETag"] == f'"{held.body["generation"]}"'


async def test_operators_see_more_and_act_on_all_and_it_is_written_down(world: HttpWorld) -> None:
    """The act is in the audit log before it is done."""
    ada, olga = await world.signed_in("ada"), await world.signed_in("olga", "operator")
    session = await world.session_of(ada)
    seen = await olga.get(f"/api/v1/sessions/{session}")
    assert seen.body["node_id"] is not None
    assert (await olga.post(f"/api/v1/sessions/{session}/end", {"reason": "maintenance"})).status == 200
    act, _, actor = world.control.acts[-1]
    assert act == "end"
    assert actor is not None
    assert actor.kind == "operator"
    entry = next(r.entry for r in await world.registry.audit() if r.entry.kind == "operator.acted")
    assert entry.user_id == ada.user_id
    assert dict(entry.facts)["reason"] == "maintenance"


async def test_sessions_of_others_are_not_there(world: HttpWorld) -> None:
    """The same answer as for one that never was."""
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    session = await world.session_of(ada)
    for path in ("", "/explanation"):
        mine = await bob.get(f"/api/v1/sessions/{session}{path}")
        none = await bob.get(f"/api/v1/sessions/{UNKNOWN}{path}")
        assert mine.status == none.status == 404
        assert mine.body | {"reference": ""} == none.body | {"reference": ""}
    for act in ("disconnect", "save", "end", "reuse", "tickets"):
        assert (await bob.post(f"/api/v1/sessions/{session}/{act}")).code == "not_found"
    assert (await bob.get("/api/v1/sessions")).body["items"] == []
    assert [act for act, _, _ in world.control.acts] == ["start"]


async def test_an_operator_gets_no_ticket_for_somebody_elses_desktop(world: HttpWorld) -> None:
    """Looking on needs consent, which is not given by a role."""
    ada, olga = await world.signed_in("ada"), await world.signed_in("olga", "administrator")
    session = await world.session_of(ada)
    assert (await olga.post(f"/api/v1/sessions/{session}/tickets")).code == "not_allowed"
    assert (await olga.post(f"/api/v1/sessions/{session}/reuse")).code == "not_allowed"


async def test_a_ticket_is_told_once_and_never_listed(world: HttpWorld) -> None:
    """It names where to open the link; no list, log or page of the API has it."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    seen = await ada.post(f"/api/v1/sessions/{session}/tickets", {"device_label": "Laptop"})
    assert seen.status == 201
    ticket = seen.body["ticket"]
    assert seen.body["stock_path"].endswith(ticket)
    for path in ("/api/v1/sessions", f"/api/v1/sessions/{session}", "/api/v1/events"):
        assert ticket.encode() not in (await ada.get(path)).raw


async def stored_answers(world: HttpWorld, browser: Browser) -> list[object]:
    """Every answer that the registry keeps for a user."""
    kept = [row for row in world.registry._all("idempotency") if row.user_id == browser.user.id]
    assert kept
    return kept


async def test_a_repeat_under_the_same_key_gets_the_same_answer(world: HttpWorld) -> None:
    """Even a ticket; and the registry holds it sealed only."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    key = {"Idempotency-Key": str(uuid.uuid4())}
    path = f"/api/v1/sessions/{session}/tickets"
    first = await ada.post(path, {"mode": "view"}, headers=key)
    again = await ada.post(path, {"mode": "view"}, headers=key)
    assert first.raw == again.raw
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await ada.post(path, {"mode": "control"}, headers=key)).code == "idempotency_mismatch"
    other = f"/api/v1/sessions/{session}/end"
    assert (await ada.post(other, headers=key)).code == "idempotency_mismatch"
    assert first.body["ticket"] not in repr(await stored_answers(world, ada))


async def test_a_key_belongs_to_its_user(world: HttpWorld) -> None:
    """Two people may choose the same one."""
    ada, bob = await world.signed_in("ada"), await world.signed_in("bob")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    one = await ada.post("/api/v1/sessions", headers=key)
    two = await bob.post("/api/v1/sessions", headers=key)
    assert one.body["user"]["name"] == "ada"
    assert two.body["user"]["name"] == "bob"


async def test_a_failed_request_may_be_tried_again_under_its_key(world: HttpWorld) -> None:
    """Only success is kept."""
    ada = await world.signed_in("ada")
    key = {"Idempotency-Key": str(uuid.uuid4())}
    world.control.failure = errors.StorageUnavailable()
    seen = await ada.post("/api/v1/sessions", headers=key)
    assert seen.code == "storage_unavailable"
    assert seen.headers["Retry-After"] == "2"
    world.control.failure = None
    assert (await ada.post("/api/v1/sessions", headers=key)).status == 201


@pytest.mark.parametrize("key", ["short", "x" * 129, "with\ttab-and-length"])
async def test_a_key_that_can_be_guessed_is_refused(world: HttpWorld, key: str) -> None:
    """The answer is sealed under it."""
    ada = await world.signed_in("ada")
    assert (await ada.post("/api/v1/sessions", headers={"Idempotency-Key": key})).code == "bad_input"


async def test_an_act_on_an_older_generation_is_refused(world: HttpWorld) -> None:
    """With If-Match; without it the act is meant for whatever is there."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    path = f"/api/v1/sessions/{session}/disconnect"
    seen = await ada.post(path, headers={"If-Match": '"7"'})
    assert (seen.status, seen.code) == (412, "generation_moved")
    assert (await ada.post(path, headers={"If-Match": '"1"'})).status == 200


async def test_the_list_goes_on_under_its_cursor(world: HttpWorld) -> None:
    """Newest first, closed ones too, nothing twice and nothing left out."""
    ada = await world.signed_in("ada")
    made = []
    for _ in range(5):
        made.append(await world.session_of(ada))
        await world.control.close(made[-1], Outcome.SAVED)
    found, cursor = [], ""
    while True:
        page = (await ada.get(f"/api/v1/sessions?limit=2&cursor={cursor}")).body
        found += [item["id"] for item in page["items"]]
        assert {item["user"]["name"] for item in page["items"]} == {"ada"}
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sorted(made, reverse=True)
    assert (await ada.get("/api/v1/sessions?open=true")).body["items"] == []
    assert len((await ada.get("/api/v1/sessions?state=closed")).body["items"]) == 5
    assert (await ada.get("/api/v1/sessions?cursor=%21")).code == "bad_input"


async def test_a_user_cannot_list_for_another(world: HttpWorld) -> None:
    """An operator can, and can ask for their own only."""
    ada, olga = await world.signed_in("ada"), await world.signed_in("olga", "operator")
    await world.session_of(ada)
    assert (await ada.get(f"/api/v1/sessions?user_id={olga.user_id}")).code == "not_allowed"
    assert len((await olga.get("/api/v1/sessions")).body["items"]) == 1
    assert (await olga.get("/api/v1/sessions?mine=true")).body["items"] == []


async def test_a_closing_desktop_comes_back_as_a_new_session(world: HttpWorld) -> None:
    """Before the point of no return."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    await ada.post(f"/api/v1/sessions/{session}/end")
    seen = await ada.post(f"/api/v1/sessions/{session}/reuse")
    assert seen.body["state"] == "active"
    assert seen.body["id"] != session
    old = await ada.get(f"/api/v1/sessions/{session}")
    assert (old.body["state"], old.body["outcome"]) == ("closed", "reused")


async def test_files_that_cannot_be_saved_are_accepted_by_name(world: HttpWorld) -> None:
    """A reason is required."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    path = f"/api/v1/sessions/{session}/accept"
    assert (await ada.post(path, {"paths": ["a"], "reason": "known"})).code == "transition_refused"
    await ada.post(f"/api/v1/sessions/{session}/end")
    assert (await ada.post(path, {"paths": ["a"]})).code == "bad_input"
    seen = await ada.post(path, {"paths": ["a"], "reason": "known"})
    assert seen.body["accepted_paths"] == ["a"]


async def test_a_token_needs_the_scope_and_its_users_role(world: HttpWorld) -> None:
    """A scope gives nothing that the account may not do."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    reader = await world.program("ada", scopes=("read",))
    assert (await reader.get(f"/api/v1/sessions/{session}")).status == 200
    seen = await reader.post(f"/api/v1/sessions/{session}/end")
    assert seen.body["facts"] == {"scope_needed": "sessions"}
    greedy = await world.program("ada", scopes=("read", "sessions", "operate", "admin"))
    assert (await greedy.get("/api/v1/users")).body["facts"] == {"role_needed": "administrator"}
    assert (await greedy.get("/api/v1/alarms")).code == "not_allowed"
    reading_operator = await world.program("olga", "operator", scopes=("read",))
    assert (await reading_operator.get(f"/api/v1/sessions/{session}")).code == "not_found"


async def token_of(browser: Browser, **ask: object) -> Browser:
    seen = await browser.post("/api/v1/tokens", {"name": "ci"} | ask)
    assert seen.status == 201, seen.raw
    return Browser(browser.world, browser.client, {"Authorization": "Bearer " + seen.body["token"]})


async def test_a_token_is_shown_once_works_and_is_revoked(world: HttpWorld) -> None:
    """It needs neither our header nor an Origin, and makes no token that may do more."""
    ada = await world.signed_in("ada")
    program = await token_of(ada, scopes=["read", "sessions"])
    assert (await program.post("/api/v1/sessions")).status == 201
    assert (await program.post("/api/v1/tokens", {"name": "b", "scopes": ["files"]})).code == "not_allowed"
    listed = (await ada.get("/api/v1/tokens")).body["items"]
    assert [item["scopes"] for item in listed] == [["read", "sessions"]]
    assert "token" not in listed[0]
    assert (await ada.ask("DELETE", f"/api/v1/tokens/{listed[0]['id']}")).status == 204
    assert (await program.get("/api/v1/me")).code == "sign_in_required"
    assert (await ada.post("/api/v1/tokens", {"name": "c", "scopes": ["admin"]})).code == "not_allowed"


async def test_a_token_leaves_no_token_behind(world: HttpWorld) -> None:
    """Only one with scope admin makes another, and none that lives longer than itself."""
    ada, root = await world.signed_in("ada"), await world.signed_in("root", "administrator")
    plain = await token_of(ada, scopes=["read", "sessions"])
    refused = await plain.post("/api/v1/tokens", {"name": "b", "scopes": ["read"]})
    assert refused.code == "not_allowed"
    assert refused.body["facts"] == {"scope_needed": "admin"}
    admin = await token_of(root, scopes=["admin", "read", "sessions"], expires_in_s=60)
    for ask in ({}, {"expires_in_s": 3_600}):
        child = await token_of(admin, scopes=["read"], **ask)
        assert (await child.get("/api/v1/me")).status == 200
        world.clock.now_ms += 30_000
        shorter = await token_of(admin, scopes=["read"], expires_in_s=10)
        world.clock.now_ms += 10_000
        assert (await shorter.get("/api/v1/me")).status == 401
        world.clock.now_ms += 20_000
        assert (await child.get("/api/v1/me")).status == 401
        admin = await token_of(root, scopes=["admin", "read", "sessions"], expires_in_s=60)


async def test_a_revoked_token_loses_its_link(world: HttpWorld) -> None:
    """The desktop that it shows is held; another device's is not touched."""
    ada = await world.signed_in("ada")
    program = await token_of(ada, scopes=["read", "sessions"])
    session = await world.session_of(program)
    await ada.post(f"/api/v1/sessions/{session}/tickets")
    token = (await ada.get("/api/v1/tokens")).body["items"][0]["id"]
    other = await token_of(ada, scopes=["read"])
    ids = [item["id"] for item in (await ada.get("/api/v1/tokens")).body["items"]]
    await ada.ask("DELETE", f"/api/v1/tokens/{next(each for each in ids if each != token)}")
    assert (await other.get("/api/v1/me")).status == 401
    assert (await ada.get(f"/api/v1/sessions/{session}")).body["state"] == "active"
    await program.post(f"/api/v1/sessions/{session}/tickets")
    await ada.ask("DELETE", f"/api/v1/tokens/{token}")
    assert (await ada.get(f"/api/v1/sessions/{session}")).body["state"] == "held"


async def test_a_token_ends_at_its_time(world: HttpWorld) -> None:
    """And one for another account is made on the machine only."""
    ada, root = await world.signed_in("ada"), await world.signed_in("root", "administrator")
    program = await token_of(ada, scopes=["read"], expires_in_s=60)
    world.clock.now_ms += 60_000
    assert (await program.get("/api/v1/me")).status == 401
    ask = {"name": "x", "scopes": ["read"], "user_id": ada.user_id}
    assert (await root.post("/api/v1/tokens", ask)).code == "not_allowed"


async def test_accounts_are_made_changed_and_never_without_an_administrator(world: HttpWorld) -> None:
    """A name is taken whatever its case; a change ends the account's sign-ins."""
    root = await world.signed_in("root", "administrator")
    ask = {"name": "Eve", "password": "a long password", "role": "operator"}
    made = await root.post("/api/v1/users", ask)
    assert made.status == 201
    assert (await root.post("/api/v1/users", ask | {"name": "eVE"})).code == "name_taken"
    eve = await world.browser()
    seen = await eve.post("/api/v1/sign-in", {"name": "eve", "password": "a long password"})
    assert seen.body["user"]["role"] == "operator"
    path = f"/api/v1/users/{made.body['id']}"
    assert (await root.ask("PATCH", path, {"role": "user"}, headers={"If-Match": '"5"'})).status == 412
    assert (await root.ask("PATCH", path, {"role": "user"}, headers={"If-Match": '"1"'})).status == 200
    assert (await eve.get("/api/v1/me")).status == 401
    own = f"/api/v1/users/{root.user_id}"
    for change in ({"disabled": True}, {"role": "user"}):
        assert (await root.ask("PATCH", own, change)).code == "conflict"
    assert [user["name"] for user in (await root.get("/api/v1/users")).body["items"]] == ["root", "Eve"]


async def test_without_the_registry_nobody_is_taken_for_nobody(world: HttpWorld) -> None:
    """503 and "try again", not "sign in": a page must not throw its user out for our outage."""
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    world.registry.go_away()
    seen = await ada.get(f"/api/v1/sessions/{session}")
    assert (seen.status, seen.code) == (503, "registry_unavailable")
    assert "Retry-After" in seen.headers
    assert (await ada.get("/readyz")).code == "registry_unavailable"
    assert (await ada.get("/healthz")).status == 200
    status = await ada.get("/api/v1/status")
    assert (status.status, status.body["setup_needed"]) == (200, False)
    world.registry.come_back()
    assert (await ada.get(f"/api/v1/sessions/{session}")).status == 200


async def test_an_operators_act_that_cannot_be_written_down_is_not_done(world: HttpWorld) -> None:
    """Audit first."""
    ada, olga = await world.signed_in("ada"), await world.signed_in("olga", "operator")
    session = await world.session_of(ada)
    world.registry.refuse_commits(1)
    assert (await olga.post(f"/api/v1/sessions/{session}/end")).code == "registry_unavailable"
    assert [act for act, _, _ in world.control.acts] == ["start"]

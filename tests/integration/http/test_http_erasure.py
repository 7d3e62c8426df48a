"""Erasing a person, and keys over the API: refused before anything is done, finished by a repeat, proved."""

import pytest

from session_service.base import errors
from session_service.cli.keys import what_is_left
from session_service.client.api import Api
from session_service.client.transport import Transport
from session_service.core.changes import PutLease, Unit
from session_service.core.records import Lease
from session_service.http.callers import SCOPES
from tests.fakes.http_world import HttpWorld


async def _administrator(world: HttpWorld) -> Transport:
    program = await world.program("root", "administrator", scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    return Transport(world.origin, token=token)


async def test_a_person_is_erased_in_one_act_with_receipts_and_without_a_name(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    await ada.post("/api/v1/workspaces", {"name": "Second"})
    async with await _administrator(world) as transport:
        api = Api(transport)
        with pytest.raises(errors.NotFound):
            await api.erasure(ada.user_id)
        with pytest.raises(errors.BadInput):
            await api.erase_person(ada.user_id, name="someone", reason="asked")
        assert world.files.upkept == []
        done = await api.erase_person(ada.user_id, name="ada", reason="asked")
        assert (done.finished, len(done.workspaces), done.reason) == (True, 2, "asked")
        assert all(one.receipt for one in done.workspaces)
        assert await api.erasure(ada.user_id) == done
        assert await api.erase_person(ada.user_id, name="ada", reason="again") == done, "a repeat shows it"
        assert [act for act, *_ in world.files.upkept] == ["erase", "erase"]
    user = await world.registry.user(ada.user_id)
    assert (user.name, user.password_hash, user.disabled) == (f"erased-{ada.user_id}", "", True)
    names = {one.name for one in await world.registry.workspaces(user_id=ada.user_id)}
    assert all(name.startswith("erased-") for name in names)
    assert (await ada.get("/api/v1/me")).status == 401
    kinds = [record.entry.kind for record in await world.registry.audit()]
    assert kinds[-2:] == ["user.erasure_begun", "user.erased"]
    await world.registry.verify_audit()


async def test_a_running_desktop_refuses_the_erasure_and_nothing_was_done(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    [home] = await world.registry.workspaces(user_id=ada.user_id)
    await world.registry.commit(Unit(writes=(PutLease(lease=_lease_of(home.id), expected=None),)))
    async with await _administrator(world) as transport:
        with pytest.raises(errors.Conflict) as refused:
            await Api(transport).erase_person(ada.user_id, name="ada", reason="asked")
    assert "end its session first" in refused.value.detail
    assert world.files.upkept == []
    assert not (await world.registry.user(ada.user_id)).disabled


def _lease_of(workspace_id: str) -> Lease:
    return Lease(
        workspace_id=workspace_id, fence=1, session_id="01J0000000000000000000000S", node_id="n", generation=1
    )


async def test_an_erasure_that_was_cut_off_is_finished_by_the_next_request(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    world.files.erasures_fail = 1
    async with await _administrator(world) as transport:
        api = Api(transport)
        with pytest.raises(errors.StorageUnavailable):
            await api.erase_person(ada.user_id, name="ada", reason="asked")
        begun = await api.erasure(ada.user_id)
        assert not begun.finished
        assert (await world.registry.user(ada.user_id)).disabled
        done = await api.erase_person(ada.user_id, name="ada", reason="another")
        assert (done.finished, done.reason) == (True, "asked"), "who and why are those of the beginning"


async def test_an_erasure_with_something_left_is_not_finished_until_a_repeat_finds_nothing(
    world: HttpWorld,
) -> None:
    ada = await world.signed_in("ada")
    world.files.second_erased, world.files.locked = "waits", 7
    async with await _administrator(world) as transport:
        api = Api(transport)
        begun = await api.erase_person(ada.user_id, name="ada", reason="asked")
        [one] = begun.workspaces
        assert (begun.finished, one.finished, one.second) == (False, False, "waits")
        assert (one.locked, one.locked_keys, one.locked_until) == (7, 1, "1970-01-02T00:00:00.000Z")
        told = what_is_left(one)
        assert len(told) == 3
        assert "7 versions, 1 of them keys" in told[1]
        assert (await world.registry.user(ada.user_id)).name == f"erased-{ada.user_id}", "the name goes first"
        world.files.second_erased, world.files.locked = "erased", 0
        done = await api.erase_person(ada.user_id, name="anything", reason="again")
        [one] = done.workspaces
        assert (done.finished, one.second, one.objects, what_is_left(one)) == (True, "erased", 5, [])
        assert await api.erasure(ada.user_id) == done


async def test_the_last_administrator_stays(world: HttpWorld) -> None:
    async with await _administrator(world) as transport:
        api = Api(transport)
        [root] = [one for one in await api.users() if one.role == "administrator"]
        with pytest.raises(errors.Conflict):
            await api.erase_person(root.id, name="root", reason="asked")
    assert world.files.upkept == []


async def test_keys_are_shown_and_moved_and_only_a_public_half_is_sent(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    [home] = await world.registry.workspaces(user_id=ada.user_id)
    async with await _administrator(world) as transport:
        api = Api(transport)
        assert not (await api.store_keys()).key_backed_up
        found = await api.set_recovery(bytes(range(32)))
        assert (found.key_backed_up, found.recovery_id) == (True, bytes(range(8)).hex())
        assert (await api.rewrap("0" * 26)).made == 1
        assert (await api.rotate_tenant("0" * 26)).removed == 1
        with pytest.raises(errors.NotFound):
            await transport.ask("GET", f"/api/v1/workspaces/{home.id}/erasure", dict)
        await api.erase(home.id, name=home.name, reason="asked")
        stone = await transport.ask("GET", f"/api/v1/workspaces/{home.id}/erasure", dict)
        assert stone["reason"] == "asked"
    kinds = [record.entry.kind for record in await world.registry.audit()]
    assert kinds[-5:] == [
        "keys.recovery_set",
        "keys.rewrapped",
        "keys.tenant_rotated",
        "workspace.erased",
        "workspace.erasure_proved",
    ]

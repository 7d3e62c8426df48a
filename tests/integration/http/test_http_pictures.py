"""Who gets the picture of a desktop over the API: its own user's signed-in browser, and nobody else."""

import asyncio
import base64

import pytest

from session_service.base import errors
from tests.fakes.http_world import HttpWorld
from tests.fakes.until import until


async def test_the_own_browser_gets_it_with_its_time_and_no_cache_may_keep_it(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    seen = await ada.get(f"/api/v1/sessions/{session}/picture")
    assert seen.status == 200
    assert seen.headers["Cache-Control"] == "no-store"
    assert base64.b64decode(seen.body["data"]) == b"JPEG"
    assert seen.body["media_type"] == "image/jpeg"
    assert seen.body["taken_at"].endswith("Z")


@pytest.mark.parametrize("role", ["operator", "administrator"])
async def test_operators_and_administrators_see_no_picture_of_others(world: HttpWorld, role: str) -> None:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    boss = await world.signed_in("boss", role)
    assert (await boss.get(f"/api/v1/sessions/{session}/picture")).code == "not_allowed"
    stranger = await world.signed_in("eve")
    assert (await stranger.get(f"/api/v1/sessions/{session}/picture")).code == "not_found"
    assert not [act for act in world.control.acts if act[0] == "picture"]


async def test_a_token_looks_by_a_link_and_not_by_pictures(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    made = await ada.post("/api/v1/tokens", {"name": "bot", "scopes": ["read", "sessions", "files"]})
    bot = await world.browser(Authorization=f"Bearer {made.body['token']}")
    assert (await bot.get(f"/api/v1/sessions/{session}/picture")).code == "not_allowed"


async def test_who_is_signed_out_while_it_is_taken_gets_nothing(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    world.control.picture_waits = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ada.get(f"/api/v1/sessions/{session}/picture"))
        await until(lambda: any(act[0] == "picture" for act in world.control.acts))
        await ada.post("/api/v1/sign-out")
        world.control.picture_waits.set()
    assert asked.result().code == "sign_in_required"
    assert b"data" not in asked.result().raw


async def test_a_state_without_a_picture_says_so(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    session = await world.session_of(ada)
    await ada.post(f"/api/v1/sessions/{session}/end")
    assert (await ada.get(f"/api/v1/sessions/{session}/picture")).code == errors.TransitionRefused.code

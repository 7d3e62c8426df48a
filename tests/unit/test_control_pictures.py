"""Whose picture is shown, how often one is taken, and that looking changes nothing."""

import asyncio
from dataclasses import dataclass, field

import pytest

from session_service.base.errors import (
    NotAllowed,
    NotFound,
    PartUnavailable,
    SessionError,
    TooManyAttempts,
    TransitionRefused,
)
from session_service.control.pictures import DesktopPicture
from session_service.core import limits
from session_service.core.actor import Actor
from session_service.core.policy import Policy
from session_service.core.records import State
from session_service.ports.pictures import TakenPicture
from tests.sim.world import Client, Life, World, ready, until
from tests.unit.test_control_close import attached, play


@dataclass
class Camera:
    """Takes pictures that are numbered, and as long as a test wants it to."""

    taken: int = 0
    at_once: int = 0
    most_at_once: int = 0
    failure: SessionError | None = None
    sockets: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, *, socket: str, uid: int | None) -> TakenPicture:
        self.taken += 1
        self.sockets.append(socket)
        number = self.taken
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        if self.failure is not None:
            raise self.failure
        return TakenPicture(width=number, height=1, jpeg=b"JPEG")


def with_camera(*, users: int = 1, policy: Policy | None = None, ready: bool = True) -> tuple[World, Camera]:
    world, camera = World(users=users, policy=policy), Camera()
    world.pictures = camera
    if ready:
        camera.go.set()
    return world, camera


async def look(life: Life, page: Client, device: str = "laptop") -> DesktopPicture:
    assert page.session_id is not None
    return await life.control.picture(page.session_id, user=page.user, device_id=device)


def test_looking_at_a_held_desktop_moves_nothing_and_is_written_down_once_for_a_device() -> None:
    world, camera = with_camera()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        page.drop()
        await until(lambda: world.row(session.id).state is State.HELD)
        before, open_before = world.row(session.id), dict(life.streams.open)
        for _ in range(3):
            await look(life, page)
            await asyncio.sleep(limits.PICTURE_KEPT_S + 0.1)
        assert camera.taken == 3
        after = world.row(session.id)
        assert (after, life.streams.open) == (before, open_before)
        await look(life, page, "phone")
        lines = await life.control.explain(session.id)
        assert [words for _, words, _ in lines].count("Its user was shown a picture of it.") == 2
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=60)

    play(world, act)


def test_who_asks_again_gets_the_picture_that_was_taken_and_after_seconds_it_is_forgotten() -> None:
    """A failed look counts as one, too: a desktop that stands still is not asked all the time."""
    world, camera = with_camera(ready=False)

    async def act(life: Life) -> None:
        page, _ = await attached(life)
        asked = [asyncio.ensure_future(look(life, page)) for _ in range(5)]
        await asyncio.sleep(1)
        camera.go.set()
        assert {(await each).picture.width for each in asked} == {1}
        assert (await look(life, page)).picture.width == 1
        await asyncio.sleep(limits.PICTURE_KEPT_S + 0.1)
        camera.failure = PartUnavailable("The desktop shows no picture now.")
        for _ in range(3):
            with pytest.raises(PartUnavailable):
                await look(life, page)
        assert camera.taken == 2
        camera.failure = None
        await asyncio.sleep(limits.PICTURE_KEPT_S + 0.1)
        assert (await look(life, page)).picture.width == 3

    play(world, act)


def test_a_picture_is_its_own_users_and_of_an_active_or_held_desktop_only() -> None:
    world, camera = with_camera(users=2)

    async def act(life: Life) -> None:
        page, session = await attached(life)
        other = Client(life, 1)
        other.session_id = session.id
        with pytest.raises(NotFound):
            await look(life, other)
        await look(life, page)
        world.repository.down = True
        await life.control.end(session.id, actor=Actor(kind="user", user_id=page.user.id, name="ada"))
        with pytest.raises(TransitionRefused):
            await look(life, page)  # not even the one that was taken a moment ago
        world.repository.down = False
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=60)
        with pytest.raises(NotFound):
            await look(life, page)
        assert camera.taken == 1

    play(world, act)


def test_access_that_ends_while_a_picture_is_taken_leaves_nothing_to_show() -> None:
    world, camera = with_camera(ready=False)

    async def act(life: Life) -> None:
        page, session = await attached(life)
        asked = asyncio.ensure_future(look(life, page))
        await until(lambda: camera.taken == 1)
        await life.control.end(session.id, actor=Actor(kind="user", user_id=page.user.id, name="ada"))
        camera.go.set()
        with pytest.raises((TransitionRefused, NotFound)):
            await asked
        await until(lambda: world.row(session.id).state is State.CLOSED, limit_s=60)

    play(world, act)


def test_where_a_return_needs_a_login_so_does_the_picture() -> None:
    world, camera = with_camera(policy=Policy(hold_s=60.0, reauthenticate_after_s=5.0))

    async def act(life: Life) -> None:
        page, session = await attached(life)
        await look(life, page)
        page.drop()
        await until(lambda: world.row(session.id).state is State.HELD)
        await asyncio.sleep(6)
        with pytest.raises(NotAllowed):
            await look(life, page)
        assert camera.taken == 1

    play(world, act)


def test_few_pictures_are_taken_at_once_some_wait_and_more_are_refused() -> None:
    count = limits.PICTURE_USERS_MAX + 1
    world, camera = with_camera(users=count, ready=False)

    async def act(life: Life) -> None:
        await ready(life)
        pages = [Client(life, number) for number in range(count)]
        for page in pages:
            session = await page.start()
            await until(lambda session=session: world.row(session.id).state is State.HELD)  # type: ignore[misc]  # a default binds it
        asked = [asyncio.ensure_future(look(life, page)) for page in pages[:-1]]
        await until(lambda: camera.taken == limits.PICTURES_AT_ONCE)
        await asyncio.sleep(1)
        with pytest.raises(TooManyAttempts):
            await look(life, pages[-1])
        camera.go.set()
        await asyncio.gather(*asked)
        assert camera.most_at_once == limits.PICTURES_AT_ONCE
        await look(life, pages[-1])

    play(world, act)


def test_a_user_with_many_desktops_that_stand_still_does_not_keep_others_from_looking() -> None:
    """His looks come one after the other, and between two of them it is everybody else's turn."""
    world, camera = with_camera(users=3, ready=False)

    async def act(life: Life) -> None:
        await ready(life)
        many: list[str] = []
        for number in range(4):
            place = await life.control.create_workspace(user=world.users[0], name=f"Desk {number}")
            many.append((await life.control.start(user=world.users[0], workspace_id=place.id)).id)
        others = [Client(life, number) for number in (1, 2)]
        for page in others:
            await page.start()
        await until(lambda: all(row.state is State.HELD for row in world.rows()))

        def of_many(socket: str) -> bool:
            ran = [one.handle for one in world.machine.desktops.values() if one.user_id == world.users[0].id]
            return socket in {handle.socket for handle in ran}

        asked = [
            asyncio.ensure_future(life.control.picture(each, user=world.users[0], device_id="laptop"))
            for each in many
        ]
        await until(lambda: camera.taken == 1)
        asked += [asyncio.ensure_future(look(life, page)) for page in others]
        await until(lambda: camera.taken == 2)
        await asyncio.sleep(1)
        assert [of_many(socket) for socket in camera.sockets] == [True, False]
        camera.go.set()
        await asyncio.gather(*asked)
        assert [of_many(socket) for socket in camera.sockets][2:] == [False, True, True, True]

    play(world, act)


def test_a_life_that_ends_while_a_picture_is_taken_leaves_nobody_waiting() -> None:
    world, camera = with_camera(ready=False)

    async def act(life: Life) -> None:
        page, _ = await attached(life)
        asked = asyncio.ensure_future(look(life, page))
        await until(lambda: camera.taken == 1)
        life.stop.set()
        with pytest.raises(PartUnavailable):
            await asked

    play(world, act)

"""Who looks on is remembered with their device, and loses the picture when that device is signed out."""

import asyncio
from typing import Any

import pytest

from session_service.core import limits
from session_service.core.actor import Actor
from session_service.core.close_codes import Close
from session_service.core.records import State
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer, LinkRefusal
from tests.sim.world import Client, Life, World, until
from tests.unit.test_control_close import attached, play


async def offer(life: Life, page: Client, device: str) -> LinkOffer:
    """A link of a device that wants to look on."""
    assert page.session_id is not None
    ticket = await life.control.issue_ticket(
        page.session_id, user=page.user, device_id=device, device_label=device, mode="view"
    )
    link_id = life.world.ids.ulid()
    life.streams.open[link_id] = page.session_id
    return LinkOffer(link_id=link_id, ticket=ticket.token, subprotocol="binary", address="10.0.0.9")


async def look_on(life: Life, page: Client, device: str) -> str:
    made = await offer(life, page, device)
    answer = await life.control.attachments.attach(made)
    assert isinstance(answer, Attachment)
    assert answer.mode == "view"
    return made.link_id


def test_signing_a_device_out_closes_its_views_and_nothing_else() -> None:
    """The client of another device and what that device looks on with stay."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        old, phone = await look_on(life, page, "old-browser"), await look_on(life, page, "phone")
        assert await life.control.close_viewers(session.id, device_id="old-browser") == 1
        assert [(one.link_id, one.code) for one in life.streams.closed] == [(old, Close.LOGIN)]
        assert set(life.streams.open) == {phone, page.link_id}
        assert world.row(session.id).state is State.ACTIVE
        assert await life.control.close_viewers(session.id, device_id="old-browser") == 0
        assert await life.control.close_viewers(session.id, but_device_id="phone") == 0
        assert await life.control.close_viewers(session.id, but_device_id=page.device) == 1

    play(world, act)


def test_a_session_has_room_for_some_who_look_on_and_not_for_all_links_of_a_gateway() -> None:
    """One user's viewers were as many as there are links for everybody. A refused ticket is unused."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        first = await look_on(life, page, "device-0")
        for number in range(1, limits.VIEWERS_PER_SESSION_MAX):
            await look_on(life, page, f"device-{number}")
        late = await offer(life, page, "one more")
        answer = await life.control.attachments.attach(late)
        assert isinstance(answer, LinkRefusal)
        assert answer.code == Close.TOO_MANY
        life.control.attachments.ended(LinkEnd(session_id=session.id, link_id=first, cause="tab_closed"))
        assert isinstance(await life.control.attachments.attach(late), Attachment)

    play(world, act)


def test_a_device_that_is_signed_out_while_it_attaches_sees_nothing() -> None:
    """Its ticket is used up, and the answer comes after the cut."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        made = await offer(life, page, "old-browser")
        begun, go = asyncio.Event(), asyncio.Event()
        commit = world.registry.commit

        async def slow(*args: Any, **more: Any) -> Any:
            begun.set()
            await go.wait()
            return await commit(*args, **more)

        world.registry.commit = slow  # type: ignore[method-assign]  # the registry takes its time
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(life.control.attachments.attach(made))
            await begun.wait()
            world.registry.commit = commit  # type: ignore[method-assign]  # as it was
            assert await life.control.close_viewers(session.id, device_id="old-browser") == 1
            go.set()
        answer = asked.result()
        assert isinstance(answer, LinkRefusal)
        assert answer.code == Close.LOGIN

    play(world, act)


@pytest.mark.parametrize("how", ["ended", "refused", "disconnected", "closed"])
def test_a_view_that_is_over_is_forgotten(how: str) -> None:
    """By its end, by a ticket that could not be used, or with all links of the session."""
    world = World()

    async def act(life: Life) -> None:
        page, session = await attached(life)
        if how == "refused":
            made = await offer(life, page, "phone")
            world.registry.go_away()
            refused = await life.control.attachments.attach(made)
            assert isinstance(refused, LinkRefusal)
            world.registry.come_back()
        else:
            link_id = await look_on(life, page, "phone")
        if how == "ended":
            life.control.attachments.ended(
                LinkEnd(session_id=session.id, link_id=link_id, cause="tab_closed")
            )
        if how == "disconnected":
            await life.control.disconnect(session.id, actor=Actor(kind="operator", user_id=None, name="ops"))
        if how == "closed":
            actor = Actor(kind="user", user_id=page.user.id, name=page.user.name)
            await life.control.end(session.id, actor=actor)
            await until(lambda: world.row(session.id).state is State.CLOSED)
        assert await life.control.close_viewers(session.id) == 0

    play(world, act)

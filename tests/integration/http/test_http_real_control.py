"""The API over the real control: real transitions behind each act, desktops and store as the simulation
has them.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from session_service.app.system import SystemClock
from session_service.control.control import Control
from session_service.control.parts import Admission, NodeFacts, Parts, StreamsPlace
from session_service.core.policy import Policy
from session_service.ports.streams import LinkOffer
from session_service.registry.memory import MemoryRegistry
from tests.fakes.checkpoints import Repository
from tests.fakes.desktops import Machine
from tests.fakes.http_world import Browser, HttpWorld, http_world
from tests.fakes.streams import FakeStreams

LIMIT_S = 20.0


def real_control(registry: MemoryRegistry, clock: Any, ids: Any) -> tuple[Control, Repository]:
    machine = Machine()
    repository = Repository(machine=machine, clock=clock)
    place = StreamsPlace()
    place.put(FakeStreams())
    parts = Parts(
        clock=clock,
        ids=ids,
        registry=registry,
        desktops=machine,
        checkpoints=repository,
        streams=place,
        policy=Policy(),
        admission=Admission(accepting=lambda: True),
    )
    node = NodeFacts(id=ids.ulid(), boot_id=machine.boot_id, address="here")
    return Control(parts=parts, node=node), repository


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[HttpWorld]:
    """A control that runs, settled, behind the application."""
    async with http_world(tmp_path, control_of=real_control, clock=SystemClock()) as made:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(made.control.run(stop), name="control")  # type: ignore[attr-defined]  # the real one
            async with asyncio.timeout(LIMIT_S):
                while not await made.control.ready():  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0.01)
            yield made
            stop.set()


async def until_state(browser: Browser, path: str, state: str) -> Any:
    """Read a session until it is in a state."""
    async with asyncio.timeout(LIMIT_S):
        while (seen := await browser.get(path)).body["state"] != state:  # noqa: ASYNC110 - a state over HTTP
            await asyncio.sleep(0.01)
    return seen.body


async def attach(world: HttpWorld, browser: Browser, path: str, link_id: str) -> None:
    """Attach a link with a fresh ticket, as the gateway does."""
    ticket = (await browser.post(f"{path}/tickets", {"device_label": "Laptop"})).body["ticket"]
    offer = LinkOffer(link_id=link_id, ticket=ticket, subprotocol="binary", address="192.0.2.1")
    attachment = await world.control.attachments.attach(offer)  # type: ignore[attr-defined]  # the real one
    assert attachment.session_id == path.rpartition("/")[2]


async def test_a_session_lives_its_whole_life_through_the_api(world: HttpWorld) -> None:
    """Start, attach, cut by an operator, come back, save, end, and the receipt of it."""
    ada, olga = await world.signed_in("ada"), await world.signed_in("olga", "operator")
    started = await ada.post("/api/v1/sessions", {"geometry": [1024, 768]})
    assert started.status == 201, started.raw
    path = f"/api/v1/sessions/{started.body['id']}"
    assert (await ada.post("/api/v1/sessions")).status == 200
    waiting = await until_state(ada, path, "held")
    assert waiting["loss_cause"] == "never_attached"
    assert 0 < waiting["hold_remaining_s"] <= 1800
    await attach(world, ada, path, "link-1")
    active = await until_state(ada, path, "active")
    assert active["device_label"] == "Laptop"
    held = await olga.post(f"{path}/disconnect", {"reason": "a test"})
    assert held.body["state"] == "held", held.raw
    longer = await ada.post(f"{path}/extend", {"seconds": 600})
    assert longer.body["hold_remaining_s"] > 1800
    await attach(world, ada, path, "link-2")
    saved = await ada.post(f"{path}/save")
    assert (saved.status, saved.body["complete"]) == (200, True)
    assert (await ada.get(path)).body["saved_as_of"] is not None
    assert (await ada.post(f"{path}/end", {"reason": "done"})).body["state"] == "closing"
    closed = await until_state(ada, path, "closed")
    assert closed["outcome"] == "ended_by_user"
    receipt = (await ada.get(path.replace("sessions", "receipts"))).body
    assert receipt["body"]["session_id"] == started.body["id"]
    words = [line["words"] for line in (await ada.get(f"{path}/explanation")).body["items"]]
    assert "An operator asked for: disconnect." in words
    assert "Its user ended it." in words
    assert (await ada.post(f"{path}/end")).code == "transition_refused"
    assert await world.registry.verify_audit() > 5


async def test_signing_out_holds_the_desktop_of_this_browser(world: HttpWorld) -> None:
    """By the device that its ticket was for."""
    ada = await world.signed_in("ada")
    started = await ada.post("/api/v1/sessions")
    path = f"/api/v1/sessions/{started.body['id']}"
    await until_state(ada, path, "held")
    await attach(world, ada, path, "link-1")
    await until_state(ada, path, "active")
    assert (await ada.post("/api/v1/sign-out")).status == 204
    again = await world.signed_in("ada")
    assert (await again.get(path)).body["state"] == "held"


async def test_live_changes_come_from_control(world: HttpWorld) -> None:
    """Each state that the page shows."""
    ada = await world.signed_in("ada")
    states: list[str] = []
    async with ada.client.get(world.url("/api/v1/events/stream"), headers=ada.headers) as answer:
        started = await ada.post("/api/v1/sessions")
        async with asyncio.timeout(LIMIT_S):
            while "held" not in states:
                line = (await answer.content.readline()).decode()
                if started.body["id"] in line:
                    states += [state for state in ("starting", "held") if f'"state":"{state}"' in line]
    assert states[-1] == "held"


async def test_a_taken_name_of_a_workspace_is_told_as_that(world: HttpWorld) -> None:
    """The code that a page has words for."""
    ada = await world.signed_in("ada")
    assert (await ada.post("/api/v1/workspaces", {"name": "Projects"})).status == 201
    assert (await ada.post("/api/v1/workspaces", {"name": "projects"})).code == "name_taken"

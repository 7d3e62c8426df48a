"""A planned pause over the API: who may announce it, and who is told."""

import pytest

from session_service.core.records import State
from tests.fakes.http_world import HttpWorld

BACK = "2099-01-01T15:00:00.000Z"


async def test_an_operator_announces_a_pause_and_everybody_reads_it(world: HttpWorld) -> None:
    operator, user = await world.signed_in("olga", "operator"), await world.signed_in("ann")
    assert (await user.get("/api/v1/pause")).body == {"begins_at": None, "back_at": None, "note": ""}
    answer = await operator.post("/api/v1/pause", {"back_at": BACK, "note": "New disks."})
    assert answer.status == 200
    seen = (await user.get("/api/v1/pause")).body
    assert (seen["back_at"], seen["note"]) == (BACK, "New disks.")
    assert world.control.planned is not None
    assert (await operator.ask("DELETE", "/api/v1/pause")).status == 204
    assert world.control.planned is None
    kinds = [record.entry.kind for record in await world.registry.audit(limit=100)]
    assert kinds[-2:] == ["pause.announced", "pause.withdrawn"]


@pytest.mark.parametrize(
    "ask",
    [
        {"back_at": "2001-01-01T15:00:00Z"},
        {"back_at": BACK, "begins_at": "2099-01-01T15:00:00Z"},
        {"back_at": "15:00"},
        {"back_at": BACK, "note": "x" * 201},
    ],
)
async def test_a_pause_that_makes_no_sense_is_refused(world: HttpWorld, ask: dict[str, str]) -> None:
    operator = await world.signed_in("olga", "operator")
    assert (await operator.post("/api/v1/pause", ask)).status == 422
    assert world.control.planned is None


async def test_a_user_announces_nothing(world: HttpWorld) -> None:
    user = await world.signed_in("ann")
    assert (await user.post("/api/v1/pause", {"back_at": BACK})).status == 403


async def test_a_sign_out_cuts_a_desktop_that_is_starting(world: HttpWorld) -> None:
    """Its page waits for it on a link that was opened by the device that is signed out."""
    user = await world.signed_in("ann")
    session_id = await world.session_of(user)
    await user.post(f"/api/v1/sessions/{session_id}/tickets", {"mode": "control"})
    await world.control.change(session_id, state=State.STARTING)
    world.control.acts.clear()
    assert (await user.post("/api/v1/sign-out")).status == 204
    assert [act[0] for act in world.control.acts] == ["disconnect"]

"""Periodic saves of homes where nothing has happened: answered without the store, except once a minute."""

import msgspec

from session_service.checkpoints.quiet import HOMES_MAX, UNASKED_S_MAX, QuietHomes
from session_service.ports.checkpoints import CheckpointInfo, CheckpointResult, SavePlan, WorkspaceName

PLAN = SavePlan(
    workspace=WorkspaceName(tenant_id="t", workspace_id="w"),
    session_id="s",
    fence=3,
    home="/homes/w/3",
    reason="periodic",
    frozen=False,
)
RESULT = CheckpointResult(
    info=CheckpointInfo(
        seq=7, hash=b"h", fence=3, session_id="s", scan_ms=1, reason="periodic", complete=True, final=False,
        frozen=False, entries=1, bytes=2, new_stored_bytes=3,
    ),
    unchanged=False,
    saved_as_of_ms=1,
    scan_s=0.5,
    total_s=0.6,
)  # fmt: skip


class World:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.quiet = QuietHomes(clock_s=lambda: self.now_s, wall_ms=lambda: int(self.now_s * 1000))
        self.clean = True

    def answer(self, **changed):
        return self.quiet.answer(msgspec.structs.replace(PLAN, **changed), lambda home: self.clean)


def test_nothing_is_answered_before_the_store_has_answered_once():
    assert World().answer() is None


def test_a_quiet_home_is_saved_as_of_now_and_says_that_the_store_was_not_asked():
    world = World()
    world.quiet.keep(PLAN, RESULT)
    world.now_s += 10
    told = world.answer()
    assert told is not None
    assert told.saved_as_of_ms == 110_000
    assert told.unchanged
    assert not told.store_asked
    assert told.info == RESULT.info


def test_only_periodic_saves_of_the_same_session_are_answered():
    world = World()
    world.quiet.keep(PLAN, RESULT)
    for changed in (
        {"reason": "demand"},
        {"reason": "final"},
        {"session_id": "x"},
        {"fence": 4},
        {"home": "/x"},
    ):
        assert world.answer(**changed) is None, changed


def test_a_home_in_which_something_happened_goes_to_the_store():
    world = World()
    world.quiet.keep(PLAN, RESULT)
    world.clean = False
    assert world.answer() is None


def test_the_store_is_asked_once_a_minute():
    """An owner who was outdated must learn of it although his desktop is idle."""
    world = World()
    world.quiet.keep(PLAN, RESULT)
    world.now_s += UNASKED_S_MAX + 1
    assert world.answer() is None


def test_nothing_is_answered_after_a_save_that_failed():
    world = World()
    world.quiet.keep(PLAN, RESULT)
    world.quiet.drop(PLAN)
    assert world.answer() is None


def test_the_oldest_of_too_many_homes_is_forgotten():
    world = World()
    for number in range(HOMES_MAX + 1):
        world.quiet.keep(msgspec.structs.replace(PLAN, home=str(number)), RESULT)
    assert world.answer(home="0") is None
    assert world.answer(home="1") is not None

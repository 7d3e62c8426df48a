"""The table: every rule, every refused pair, and what each guard stands for."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from session_service.base.errors import TransitionRefused
from session_service.base.ids import DeviceId, LinkId, NodeId, PolicyId, SessionId, UserId, WorkspaceId
from session_service.core import drawing
from session_service.core.events import Effect, Event, Facts, Found
from session_service.core.fields import CHANGES, OUTCOMES, Change
from session_service.core.guards import GUARDS, Guard
from session_service.core.lifecycle import TRANSITIONS, Rule, adopted, check, refenced, returned, step
from session_service.core.records import (
    CloseCause,
    CloseStep,
    Hold,
    HookState,
    LogPosition,
    LossCause,
    Outcome,
    Session,
    State,
)

NODE = NodeId("node-1")
C1 = LogPosition(seq=3, hash=b"c1")
C2 = LogPosition(seq=4, hash=b"c2")


def session(state: State, **more: Any) -> Session:
    """Return a record as it stands in this state."""
    values: dict[str, Any] = {
        "id": SessionId("s"),
        "workspace_id": WorkspaceId("w"),
        "user_id": UserId("u"),
        "policy_id": PolicyId("p"),
        "policy_rev": 1,
        "state": state,
        "generation": 5,
        "registry_epoch": 1,
        "fence": 2,
        "node_id": NODE,
        "hold_s": 1_800.0,
        "created_at_ms": 1,
    }
    by_state: Mapping[State, dict[str, Any]] = {
        State.STARTING: {},
        State.ACTIVE: {"link_id": LinkId("l")},
        State.HELD: {
            "loss_epoch": 1,
            "loss_cause": LossCause.RESET,
            "hold": Hold(clock=NODE, base_ms=1_000, left_ms=1_800_000),
        },
        State.CLOSING: {"close_step": CloseStep.ACCESS_ENDED, "close_cause": CloseCause.HOLD},
        State.CLOSED: {"outcome": Outcome.SAVED},
    }
    found = Session(**(values | dict(by_state[state]) | more))
    check(found)
    return found


def facts(**more: Any) -> Facts:
    values: dict[str, Any] = {
        "at_ms": 9,
        "epoch": 1,
        "clock": NODE,
        "base_count_ms": 5_000,
        "written_count_ms": 5_000,
    }
    return Facts(**(values | more))


def closing(at: CloseStep, **more: Any) -> Session:
    """Return a closing record after a step."""
    values: dict[str, Any] = {"close_step": at}
    if at is not CloseStep.ACCESS_ENDED:
        values["c1"] = C1
    if at not in (CloseStep.ACCESS_ENDED, CloseStep.EXITING):
        values |= {"c2": C2, "asked_at_ms": 7}
    return session(State.CLOSING, **(values | more))


OVER = {"loss_epoch": 1, "written_count_ms": 1_801_000}
LINK = {"link_id": LinkId("new"), "device_id": DeviceId("d"), "device_label": "phone"}

# (record, event, facts, state after, effects that must be there)
ROWS: list[tuple[Session, Event, dict[str, Any], State, set[Effect]]] = [
    (session(State.STARTING), Event.CLIENT_ATTACHED, LINK, State.STARTING, {Effect.TELL_PROGRESS}),
    (session(State.STARTING), Event.DESKTOP_READY, {"attached": True}, State.ACTIVE, {Effect.OPEN_STREAM}),
    (session(State.STARTING), Event.DESKTOP_READY, {"attached": False}, State.HELD, {Effect.ARM_HOLD}),
    (session(State.STARTING), Event.START_FAILED, {"found": Found.ABSENT}, State.CLOSED, set()),
    (session(State.STARTING), Event.DESKTOP_DIED, {}, State.STARTING, {Effect.RELAUNCH}),
    (session(State.STARTING, start_attempts=2), Event.DESKTOP_DIED, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.STARTING), Event.USER_END, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.STARTING), Event.OPERATOR_END, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.STARTING), Event.DESKTOP_ABSENT, {"found": Found.ABSENT}, State.CLOSED, {Effect.REPORT}),
    (
        session(State.ACTIVE),
        Event.CLIENT_DROPPED,
        {"link_id": "l"},
        State.HELD,
        {Effect.ARM_HOLD, Effect.CHECKPOINT},
    ),
    (session(State.ACTIVE), Event.CLIENT_ATTACHED, LINK, State.ACTIVE, {Effect.DETACH_OLD}),
    (session(State.ACTIVE), Event.CLIENT_RESUMED, LINK, State.ACTIVE, {Effect.DETACH_OLD}),
    (session(State.ACTIVE), Event.HOLD_CHANGED, {"delta_ms": 1}, State.ACTIVE, {Effect.WARN}),
    (session(State.ACTIVE), Event.IDLE_LIMIT, {"limit_reached": True}, State.CLOSING, {Effect.CLOSE}),
    (session(State.ACTIVE), Event.LENGTH_LIMIT, {"limit_reached": True}, State.CLOSING, {Effect.CLOSE}),
    (session(State.ACTIVE), Event.USER_END, {}, State.CLOSING, {Effect.END_ACCESS, Effect.CLOSE}),
    (session(State.ACTIVE), Event.OPERATOR_END, {}, State.CLOSING, {Effect.END_ACCESS, Effect.CLOSE}),
    (session(State.ACTIVE), Event.DESKTOP_DIED, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.ACTIVE), Event.DESKTOP_ABSENT, {"found": Found.ABSENT}, State.CLOSED, {Effect.REPORT}),
    (session(State.HELD), Event.CLIENT_RESUMED, LINK, State.ACTIVE, {Effect.THAW, Effect.OPEN_STREAM}),
    (session(State.HELD), Event.CLIENT_ATTACHED, LINK, State.ACTIVE, {Effect.THAW, Effect.OPEN_STREAM}),
    (session(State.HELD), Event.HOLD_EXPIRED, OVER, State.CLOSING, {Effect.END_ACCESS, Effect.CLOSE}),
    (session(State.HELD), Event.KEYS_REVOKED, {}, State.HELD, set()),
    (session(State.HELD), Event.HOLD_CHANGED, {"delta_ms": 1}, State.HELD, {Effect.ARM_HOLD}),
    (
        session(State.HELD),
        Event.MOVED,
        {"fence": 3, "node_id": NodeId("b"), "old_count_ms": 2_000, "clock": NodeId("b")},
        State.HELD,
        {Effect.PUT_E},
    ),
    (session(State.HELD), Event.LENGTH_LIMIT, {"limit_reached": True}, State.CLOSING, {Effect.CLOSE}),
    (session(State.HELD), Event.USER_END, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.HELD), Event.OPERATOR_END, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.HELD), Event.DESKTOP_DIED, {}, State.CLOSING, {Effect.CLOSE}),
    (session(State.HELD), Event.DESKTOP_ABSENT, {"found": Found.ABSENT}, State.CLOSED, {Effect.REPORT}),
    (
        closing(CloseStep.ACCESS_ENDED),
        Event.STEP_DONE,
        {"step": CloseStep.EXITING, "position": C1},
        State.CLOSING,
        {Effect.NEXT_STEP},
    ),
    (
        closing(CloseStep.EXITING),
        Event.STEP_DONE,
        {"hook": HookState.STARTED},
        State.CLOSING,
        {Effect.NEXT_STEP},
    ),
    (
        closing(CloseStep.EXITING, asked_at_ms=7),
        Event.STEP_DONE,
        {"step": CloseStep.ENDING, "position": C2},
        State.CLOSING,
        {Effect.NEXT_STEP},
    ),
    (
        closing(CloseStep.ENDING),
        Event.STEP_DONE,
        {"step": CloseStep.ENDED, "found": Found.PROCESSES_ENDED},
        State.CLOSING,
        {Effect.NEXT_STEP},
    ),
    (closing(CloseStep.ENDED), Event.STEP_DONE, {"step": CloseStep.WIPED}, State.CLOSING, {Effect.NEXT_STEP}),
    (closing(CloseStep.WIPED), Event.STEP_DONE, {"step": CloseStep.RECEIPTED}, State.CLOSED, set()),
    (closing(CloseStep.EXITING), Event.DESKTOP_DIED, {}, State.CLOSING, {Effect.NEXT_STEP}),
    (closing(CloseStep.ENDED), Event.HOME_CHANGED, {}, State.CLOSING, {Effect.SAVE_AGAIN}),
    (closing(CloseStep.ENDING), Event.HOME_CHANGED, {}, State.CLOSING, {Effect.SAVE_AGAIN}),
    (closing(CloseStep.EXITING), Event.PATHS_ACCEPTED, {"paths": ("a",)}, State.CLOSING, {Effect.NEXT_STEP}),
    (closing(CloseStep.EXITING), Event.DESKTOP_REUSED, {"found": Found.RUNNING}, State.CLOSED, {Effect.THAW}),
    (
        closing(CloseStep.EXITING),
        Event.DESKTOP_ABSENT,
        {"found": Found.ABSENT},
        State.CLOSED,
        {Effect.REPORT},
    ),
    *[
        (one, event, {}, State.CLOSED, {Effect.REPORT})
        for one in (
            session(State.STARTING),
            session(State.ACTIVE),
            session(State.HELD),
            closing(CloseStep.ENDING),
        )
        for event in (Event.TAKEN_OVER, Event.NODE_GONE)
    ],
    *[
        (one, Event.SETTLED, {"epoch": 2, "found": found, "attached": attached, **LINK}, after, set())
        for one in (session(State.ACTIVE), session(State.HELD), closing(CloseStep.ENDING))
        for found, attached, after in (
            (Found.RUNNING, True, State.ACTIVE),
            (Found.RUNNING, False, State.HELD),
            (Found.PROCESSES_ENDED, False, State.CLOSING),
            (Found.ABSENT, False, State.CLOSED),
        )
    ],
    (
        session(State.STARTING),
        Event.SETTLED,
        {"epoch": 2, "found": Found.ABSENT},
        State.STARTING,
        {Effect.LAUNCH},
    ),
    (session(State.STARTING), Event.SETTLED, {"epoch": 2, "found": Found.RUNNING}, State.HELD, set()),
]


@pytest.mark.parametrize(
    ("before", "event", "given", "after", "effects"),
    ROWS,
    ids=lambda value: value.value if isinstance(value, Event | State) else "",
)
def test_each_row_of_the_table(
    before: Session, event: Event, given: dict[str, Any], after: State, effects: set[Effect]
) -> None:
    """State, generation, one audit record, and the effects that are owed."""
    done = step(before, event, facts(**given))
    assert done.session.state is after
    assert done.session.generation == before.generation + 1
    assert effects <= set(done.effects)
    assert done.audit.kind == f"session.{event.value}"
    assert dict(done.audit.facts)["to"] == after.value
    assert (done.session.id, done.session.user_id, done.session.workspace_id) == (before.id, "u", "w")


def test_the_rows_above_cover_every_rule() -> None:
    """A rule that no test names is a rule that nobody looked at."""
    tested = {(before.state, event, after) for before, event, _, after, _ in ROWS}
    written = {
        (state, event, rule.to)
        for (state, event), rules in TRANSITIONS.items()
        for rule in rules
        if state is not None
    }
    assert written - tested == {
        (State.STARTING, Event.SETTLED, State.ACTIVE),
        (State.STARTING, Event.SETTLED, State.CLOSING),
    }


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_what_is_not_in_the_table_is_refused_and_changes_nothing(state: State, event: Event) -> None:
    """All pairs of state and event; the record is frozen, so refusing is leaving it alone."""
    if (state, event) in TRANSITIONS:
        return
    before = session(state)
    with pytest.raises(TransitionRefused) as refused:
        step(before, event, facts(**LINK))
    assert refused.value.facts["state"] == state.value
    assert before == session(state)


def test_a_closed_session_refuses_everything() -> None:
    """Nothing ever follows `closed`."""
    assert not [pair for pair in TRANSITIONS if pair[0] is State.CLOSED]


@pytest.mark.parametrize(
    ("before", "event", "given"),
    [
        (session(State.STARTING), Event.START_FAILED, {"found": Found.RUNNING}),
        (session(State.STARTING), Event.START_FAILED, {}),
        (session(State.ACTIVE), Event.CLIENT_DROPPED, {"link_id": "an older one"}),
        (session(State.ACTIVE), Event.CLIENT_ATTACHED, {**LINK, "takeover_allowed": False}),
        (session(State.ACTIVE), Event.IDLE_LIMIT, {}),
        (session(State.ACTIVE), Event.DESKTOP_ABSENT, {"found": Found.PROCESSES_ENDED}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "loss_epoch": 0}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "loss_epoch": None}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "written_count_ms": 1_800_999}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "written_count_ms": None}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "clock": NodeId("other")}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "attached": True}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "marked": True}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "settled": False}),
        (session(State.HELD), Event.HOLD_EXPIRED, {**OVER, "epoch": 2}),
        (session(State.HELD), Event.USER_END, {"epoch": 2}),
        (session(State.HELD), Event.MOVED, {"fence": 2, "node_id": NodeId("b"), "old_count_ms": 1}),
        (session(State.HELD), Event.SETTLED, {"found": Found.RUNNING}),
        (closing(CloseStep.ACCESS_ENDED), Event.STEP_DONE, {"step": CloseStep.ENDING, "position": C2}),
        (closing(CloseStep.ACCESS_ENDED), Event.STEP_DONE, {"step": CloseStep.EXITING}),
        (closing(CloseStep.ACCESS_ENDED), Event.STEP_DONE, {"hook": HookState.STARTED}),
        (closing(CloseStep.ACCESS_ENDED), Event.STEP_DONE, {}),
        (closing(CloseStep.EXITING), Event.STEP_DONE, {"step": CloseStep.ENDING, "position": C2}),
        (closing(CloseStep.EXITING, asked_at_ms=7), Event.STEP_DONE, {"step": CloseStep.ENDING}),
        (
            closing(CloseStep.EXITING, asked_at_ms=7, hook_state=HookState.STARTED),
            Event.STEP_DONE,
            {"hook": HookState.STARTED},
        ),
        (closing(CloseStep.ENDING), Event.STEP_DONE, {"step": CloseStep.ENDED, "found": Found.RUNNING}),
        (closing(CloseStep.ENDING), Event.STEP_DONE, {"step": CloseStep.WIPED}),
        (closing(CloseStep.ENDED), Event.STEP_DONE, {"step": CloseStep.RECEIPTED}),
        (closing(CloseStep.ENDING), Event.DESKTOP_REUSED, {"found": Found.RUNNING}),
        (closing(CloseStep.EXITING), Event.DESKTOP_REUSED, {"found": Found.PROCESSES_ENDED}),
        (closing(CloseStep.ENDING), Event.DESKTOP_ABSENT, {"found": Found.ABSENT}),
        (closing(CloseStep.ENDING), Event.DESKTOP_DIED, {}),
        (closing(CloseStep.EXITING), Event.HOME_CHANGED, {}),
        (closing(CloseStep.WIPED), Event.HOME_CHANGED, {}),
        (closing(CloseStep.EXITING, c2=C2), Event.DESKTOP_REUSED, {"found": Found.RUNNING}),
        (closing(CloseStep.ENDING), Event.PATHS_ACCEPTED, {"paths": ("a",)}),
    ],
)
def test_each_guard_says_no(before: Session, event: Event, given: dict[str, Any]) -> None:
    """In the table, and refused all the same."""
    with pytest.raises(TransitionRefused) as refused:
        step(before, event, facts(**given))
    assert refused.value.facts["why"]


def test_a_destructive_rule_needs_a_settled_epoch() -> None:
    """After a restored backup nothing is ended, expired, started or released before the node settled
    (8.5).
    """
    for before, event, given, _, _ in ROWS:
        rules = TRANSITIONS[before.state, event]
        if not all(rule.destructive for rule in rules):
            continue
        with pytest.raises(TransitionRefused):
            step(before, event, facts(**{**given, "settled": False}))
        with pytest.raises(TransitionRefused):
            step(replace(before, registry_epoch=0), event, facts(**given))


def test_old_timer_cannot_end_a_new_hold() -> None:
    """Resume and drop again just before the first deadline; the first timer then fires with the old loss
    epoch.
    """
    held = session(State.HELD)
    back = step(held, Event.CLIENT_ATTACHED, facts(**LINK, base_count_ms=1_800_000)).session
    again = step(back, Event.CLIENT_DROPPED, facts(link_id="new", base_count_ms=1_800_500)).session
    assert again.loss_epoch == 2
    with pytest.raises(TransitionRefused):
        step(again, Event.HOLD_EXPIRED, facts(loss_epoch=1, written_count_ms=1_801_000))
    with pytest.raises(TransitionRefused):
        step(again, Event.HOLD_EXPIRED, facts(loss_epoch=2, written_count_ms=1_801_000))
    assert (
        step(again, Event.HOLD_EXPIRED, facts(loss_epoch=2, written_count_ms=3_600_500)).session.hold is None
    )


def test_an_expiry_that_was_decided_meets_an_extended_deadline() -> None:
    """The hold is extended between decision and transaction: the record's deadline counts."""
    longer = step(session(State.HELD), Event.HOLD_CHANGED, facts(delta_ms=60_000)).session
    with pytest.raises(TransitionRefused):
        step(longer, Event.HOLD_EXPIRED, facts(**OVER))


def test_a_running_hold_is_never_shortened_below_a_minute_from_now() -> None:
    """Consumed plus 60 s is the floor, and shortening never lengthens."""
    held = session(State.HELD)
    shorter = step(held, Event.HOLD_CHANGED, facts(delta_ms=-1_800_000, base_count_ms=11_000)).session
    assert shorter.hold is not None
    assert shorter.hold.left_ms == 10_000 + 60_000
    short = session(State.HELD, hold=Hold(clock=NODE, base_ms=0, left_ms=20_000))
    same = step(short, Event.HOLD_CHANGED, facts(delta_ms=-10_000, base_count_ms=5_000)).session
    assert same.hold is not None
    assert same.hold.left_ms == 20_000


def test_only_an_open_raises_the_grant() -> None:
    """A resume rotates nothing: a lost answer locks nobody out."""
    held = session(State.HELD, grant=4)
    assert step(held, Event.CLIENT_RESUMED, facts(**LINK)).session.grant == 4
    assert step(held, Event.CLIENT_ATTACHED, facts(**LINK)).session.grant == 5


def test_revoked_keys_are_void_whether_a_link_was_there_or_not() -> None:
    active, held = session(State.ACTIVE, grant=4, link_id=LINK["link_id"]), session(State.HELD, grant=4)
    dropped = step(active, Event.CLIENT_DROPPED, facts(**LINK, revoked=True)).session
    revoked = step(held, Event.KEYS_REVOKED, facts(revoked=True)).session
    assert (dropped.grant, dropped.grant_cause) == (revoked.grant, revoked.grant_cause) == (5, "login")
    lost = step(active, Event.CLIENT_DROPPED, facts(**LINK)).session
    assert (lost.grant, lost.grant_cause) == (4, active.grant_cause)


def test_another_node_forgets_consumption_and_never_compares_counters() -> None:
    """left' = max(0, left - max(0, old count - base)); the new base is the receiver's own reading (4.4)."""
    held = session(State.HELD, hold=Hold(clock=NODE, base_ms=1_000_000, left_ms=100_000))
    given = {"fence": 3, "node_id": NodeId("b"), "clock": NodeId("b"), "base_count_ms": 7}
    moved = step(held, Event.MOVED, facts(**given, old_count_ms=1_040_000)).session
    assert moved.hold == Hold(clock=NodeId("b"), base_ms=7, left_ms=60_000)
    behind = step(held, Event.MOVED, facts(**given, old_count_ms=5)).session
    assert behind.hold == Hold(clock=NodeId("b"), base_ms=7, left_ms=100_000)


def test_a_returned_desktop_keeps_its_fence_and_gets_a_full_hold() -> None:
    """Same lease, same fence, new id; held until a link is attached (5.6)."""
    given = facts(found=Found.RUNNING, actor="user:u")
    old = step(closing(CloseStep.EXITING), Event.DESKTOP_REUSED, given).session
    assert old.outcome is Outcome.REUSED
    new = returned(old, session_id=SessionId("n"), hold_s=60.0, facts=given).session
    assert (new.id, new.fence, new.state) == ("n", old.fence, State.HELD)
    assert new.hold == Hold(clock=NODE, base_ms=5_000, left_ms=60_000)


@pytest.mark.parametrize(("running", "state"), [(True, State.HELD), (False, State.CLOSING)])
def test_a_desktop_that_no_record_names_is_adopted(running: bool, state: State) -> None:
    """Held when it runs, closing with its home as it lies when it does not; never ended."""
    done = adopted(
        session_id=SessionId("s"),
        workspace_id=WorkspaceId("w"),
        user_id=UserId("u"),
        fence=7,
        node_id=NODE,
        policy_id=PolicyId("p"),
        policy_rev=1,
        hold_s=60.0,
        facts=facts(),
        running=running,
    )
    assert done.session.state is state
    assert done.session.fence == 7


def test_a_fence_only_grows() -> None:
    """The log knew a newer owner: the start goes on above it."""
    assert refenced(session(State.STARTING), 9, at_ms=1).session.fence == 9
    with pytest.raises(AssertionError):
        refenced(session(State.STARTING), 2, at_ms=1)


def test_a_session_that_launched_nothing_lost_nothing() -> None:
    """Its user ended it before anything ran: that is its outcome, not `desktop_lost`."""
    ended = session(State.CLOSING, close_cause=CloseCause.USER)
    given = {"found": Found.ABSENT, "launched": False}
    assert step(ended, Event.DESKTOP_ABSENT, facts(**given)).session.outcome is Outcome.ENDED_BY_USER
    given["launched"] = True
    assert step(ended, Event.DESKTOP_ABSENT, facts(**given)).session.outcome is Outcome.DESKTOP_LOST
    given["final_is_newest"] = True
    assert step(ended, Event.DESKTOP_ABSENT, facts(**given)).session.outcome is Outcome.SAVED


def test_every_name_has_a_meaning() -> None:
    """Guards, changes and causes are closed lists, and each is carried out."""
    assert set(GUARDS) == set(Guard)
    assert set(CHANGES) == set(Change)
    assert set(OUTCOMES) == set(CloseCause)
    used: list[Rule] = [rule for rules in TRANSITIONS.values() for rule in rules]
    assert {rule.guard for rule in used} == set(Guard)
    assert {change for rule in used for change in rule.changes} == set(Change)


def test_the_page_of_the_lifecycle_is_drawn_from_the_table() -> None:
    """docs/lifecycle.md is what the generator writes; run it again after a change."""
    there = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"
    assert there.read_text(encoding="utf-8") == drawing.page()


@pytest.mark.parametrize(
    ("before", "event", "outcome"),
    [
        (session(State.STARTING), Event.DESKTOP_ABSENT, Outcome.DESKTOP_LOST),
        (session(State.ACTIVE), Event.DESKTOP_ABSENT, Outcome.DESKTOP_LOST),
        (session(State.HELD), Event.DESKTOP_ABSENT, Outcome.DESKTOP_LOST),
        (closing(CloseStep.EXITING), Event.DESKTOP_ABSENT, Outcome.SAVED),
        (session(State.HELD), Event.SETTLED, Outcome.SAVED),
    ],
)
def test_a_desktop_that_is_gone_while_it_may_run_was_not_saved_by_an_earlier_close(
    before: Session, event: Event, outcome: Outcome
) -> None:
    """A close that was given back leaves its final checkpoint as the newest of the log."""
    epoch = 2 if event is Event.SETTLED else 1
    done = step(before, event, facts(found=Found.ABSENT, final_is_newest=True, epoch=epoch))
    assert done.session.outcome is outcome

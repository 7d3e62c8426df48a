"""What every registry does alike: the suite of `ports.registry`, run against SQLite and the in-memory twin.

What only SQLite has (files, kill -9, full disks, backups) is in `test_registry_sqlite.py`; lists and people
are in `test_registry_lists.py`, the comparison of the two under random units in `test_registry_twin.py`.
"""

import asyncio
from dataclasses import replace

import pytest

from session_service.base.errors import BadInput, Conflict
from session_service.core.changes import (
    AddEffect,
    AddIdempotency,
    AddReceipt,
    AddTicket,
    CounterReached,
    EpochIs,
    LeaseIs,
    PutApiToken,
    PutDesktop,
    PutLease,
    PutMark,
    PutNode,
    PutSession,
    PutSetting,
    PutSignIn,
    PutUser,
    PutWorkspace,
    Rank,
    SessionIs,
    Tick,
    Unit,
    UseTicket,
)
from session_service.core.records import (
    ApiToken,
    CloseCause,
    CloseStep,
    Desktop,
    EffectRecord,
    Hold,
    HookState,
    Idempotency,
    LogPosition,
    LossCause,
    NodeState,
    Outcome,
    Receipt,
    RegistryMark,
    SignIn,
    State,
)
from session_service.ports.registry import Registry
from tests.contract.registry_world import (
    TOUCH,
    a_held_session,
    a_lease,
    a_node,
    a_session,
    a_ticket,
    a_user,
    a_workspace,
    all_at_once,
    an_entry,
    reason,
    refusal,
    with_lease,
    with_node,
    with_session,
    write,
)

# records come back as they were written


async def test_session_comes_back_with_every_field(registry: Registry) -> None:
    session = a_session(
        state=State.CLOSED,
        outcome=Outcome.SAVED_AFTER_DEATH,
        generation=1,
        loss_epoch=7,
        loss_cause=LossCause.PROXY_IDLE,
        lost_at_ms=5,
        hold=Hold(clock="N9", base_ms=3, left_ms=4),
        start_attempts=2,
        start_from=LogPosition(seq=11, hash=b"\x01" * 32),
        chosen_seq=9,
        close_step=CloseStep.RECEIPTED,
        close_cause=CloseCause.DEATH,
        close_actor="user:U1",
        asked_at_ms=6,
        hook_state=HookState.TIMED_OUT,
        refused_windows=("Unsaved – LibreOffice", 'a "quoted" one'),
        freeze_method="cgroup2",
        accepted_paths=("Documents/ünreadable\n.txt",),
        c1=LogPosition(seq=12, hash=b"\x02" * 32),
        c2=LogPosition(seq=13, hash=b"\x03" * 32),
        grant=4,
        grant_cause="attach",
        link_id="L1",
        device_id="D1",
        device_label="Safari, Telefon",
        closed_at_ms=99,
        detail="last words",
    )
    await with_session(registry, session)
    assert await registry.session("S1") == session
    plain = await with_session(registry, a_session("S2"))
    assert await registry.session("S2") == plain
    updated = replace(session, generation=2, hold=None, c2=None, refused_windows=())
    await write(registry, PutSession(session=updated, expected=1))
    assert await registry.session("S1") == updated


async def test_every_other_record_comes_back_as_it_was_written(registry: Registry) -> None:
    workspace, user = a_workspace(policy_group="night", created_at_ms=3), a_user(disabled=True)
    lease = a_lease(newest=LogPosition(seq=4, hash=b"h" * 32), saved_as_of_ms=8, saved_seq=4)
    desktop = Desktop(
        workspace_id="W1", fence=1, node_id="N1", session_id="S1", handle=b'{"pid":1}', home="/home"
    )
    effect = EffectRecord(id="E1", session_id="S1", generation=3, kind="checkpoint", args=b'{"a":1}')
    token = ApiToken(
        id="A1",
        user_id="U1",
        name="ci",
        scopes=("read", "files"),
        hash=b"token",
        created_at_ms=1,
        expires_at_ms=2,
    )
    sign_in = SignIn(
        hash=b"cookie",
        user_id="U1",
        device_id="D1",
        device_label="Firefox",
        created_at_ms=1,
        last_seen_ms=2,
        expires_at_ms=3,
    )
    receipt = Receipt(session_id="S1", workspace_id="W1", user_id="U1", body=b"{}", written_at_ms=5)
    answer = Idempotency(key="k", user_id="U1", request_hash=b"r", status=201, body=b"{}", created_at_ms=5)
    await write(
        registry,
        PutWorkspace(workspace=workspace, expected=None),
        PutUser(user=user, expected=None),
        PutLease(lease=lease, expected=None),
        PutDesktop(desktop=desktop),
        PutNode(node=a_node(state=NodeState.DRAINING), expected_incarnation=None),
        AddEffect(effect=effect),
        AddTicket(ticket=a_ticket()),
        PutApiToken(token=token),
        PutSignIn(sign_in=sign_in),
        AddReceipt(receipt=receipt),
        AddIdempotency(entry=answer),
        PutSetting(name="setup", value=b"\x00done", expected=None),
    )
    assert await registry.workspace("W1") == workspace
    assert await registry.user("U1") == user
    assert await registry.lease("W1") == lease
    assert await registry.desktop("W1", 1) == desktop
    assert await registry.node("N1") == a_node(state=NodeState.DRAINING)
    assert list(await registry.effects("S1")) == [effect]
    assert await registry.ticket(b"ticket") == a_ticket()
    assert await registry.api_token(b"token") == token
    assert await registry.sign_in(b"cookie") == sign_in
    assert await registry.receipt("S1") == receipt
    assert await registry.idempotency("U1", "k") == answer
    assert await registry.setting("setup") == b"\x00done"


async def test_what_is_not_there_is_none_or_nothing(registry: Registry) -> None:
    assert await registry.session("S1") is None
    assert await registry.workspace("W1") is None
    assert await registry.lease("W1") is None
    assert await registry.desktop("W1", 1) is None
    assert await registry.node("N1") is None
    assert await registry.ticket(b"x") is None
    assert await registry.user("U1") is None
    assert await registry.user_by_name("ada") is None
    assert await registry.sign_in(b"x") is None
    assert await registry.api_token(b"x") is None
    assert await registry.receipt("S1") is None
    assert await registry.idempotency("U1", "k") is None
    assert await registry.setting("x") is None
    for found in (await registry.sessions(), await registry.leases(), await registry.audit()):
        assert list(found) == []


async def test_a_new_registry_has_epoch_1_and_an_id(registry: Registry) -> None:
    mark = await registry.mark()
    assert mark.epoch == 1
    assert mark.system_id


# compare-and-set


async def test_a_session_is_replaced_only_at_the_generation_that_was_read(registry: Registry) -> None:
    session = await with_session(registry, a_session())
    await write(registry, PutSession(session=replace(session, generation=2), expected=1))
    late = replace(session, generation=2, detail="late")
    assert await refusal(registry, PutSession(session=late, expected=1)) == "generation"
    assert await refusal(registry, PutSession(session=session, expected=None)) == "exists"
    unknown = a_session("S9", generation=2)
    assert await refusal(registry, PutSession(session=unknown, expected=1)) == "absent"
    assert (await registry.session("S1")) == replace(session, generation=2)


async def test_a_unit_sent_twice_is_refused_the_second_time(registry: Registry) -> None:
    session = await with_session(registry, a_session())
    unit = Unit(writes=(PutSession(session=replace(session, generation=2), expected=1),), audit=(an_entry(),))
    first, second = await all_at_once(registry, [unit, unit])
    assert first is None
    assert reason(second) == "generation"
    assert len(await registry.audit()) == 1


async def test_a_session_never_changes_its_user_or_workspace(registry: Registry) -> None:
    session = await with_session(registry, a_session())
    for changed in (
        replace(session, generation=2, user_id="U2"),
        replace(session, generation=2, workspace_id="W2"),
        replace(session, generation=2, created_at_ms=1),
    ):
        assert await refusal(registry, PutSession(session=changed, expected=1)) == "immutable"


async def test_a_workspace_has_one_open_session(registry: Registry) -> None:
    """Looked at after all writes of a unit, so that old and new may change places in any order."""
    old = await with_session(registry, a_session("S1", workspace_id="W1"))
    new = a_session("S2", workspace_id="W1")
    assert await refusal(registry, PutSession(session=new, expected=None)) == "second_session"
    closed = replace(old, generation=2, state=State.CLOSED, outcome=Outcome.REUSED)
    await write(registry, PutSession(session=new, expected=None), PutSession(session=closed, expected=1))
    assert [one.id for one in await registry.sessions(workspace_id="W1")] == ["S1", "S2"]


async def test_a_lease_is_replaced_by_generation_and_its_fence_never_goes_back(registry: Registry) -> None:
    await with_lease(registry, a_lease(fence=5))
    assert await refusal(registry, PutLease(lease=a_lease(fence=6), expected=None)) == "exists"
    lower = a_lease(fence=4, generation=2)
    assert await refusal(registry, PutLease(lease=lower, expected=1)) == "fence_backwards"
    freed = a_lease(fence=5, generation=2, session_id=None)
    await write(registry, PutLease(lease=freed, expected=1))
    assert await refusal(registry, PutLease(lease=a_lease(fence=6, generation=2), expected=1)) == "generation"
    assert await registry.lease("W1") == freed


async def test_the_mark_is_replaced_only_at_its_epoch(registry: Registry) -> None:
    await write(registry, PutMark(mark=RegistryMark(epoch=2, system_id="new"), expected=1))
    again = PutMark(mark=RegistryMark(epoch=3, system_id="newer"), expected=1)
    assert await refusal(registry, again) == "epoch"
    assert await registry.mark() == RegistryMark(epoch=2, system_id="new")


async def test_a_setting_is_replaced_only_at_its_value(registry: Registry) -> None:
    await write(registry, PutSetting(name="a", value=b"1", expected=None))
    assert await refusal(registry, PutSetting(name="a", value=b"2", expected=None)) == "value"
    assert await refusal(registry, PutSetting(name="a", value=b"2", expected=b"0")) == "value"
    assert await refusal(registry, PutSetting(name="b", value=b"2", expected=b"0")) == "value"
    await write(registry, PutSetting(name="a", value=b"2", expected=b"1"))
    assert await registry.setting("a") == b"2"


async def test_a_node_is_replaced_only_at_its_incarnation(registry: Registry) -> None:
    await with_node(registry)
    assert await refusal(registry, PutNode(node=a_node(), expected_incarnation=None)) == "exists"
    next_one = a_node(incarnation=2, boot_id="boot 2")
    await write(registry, PutNode(node=next_one, expected_incarnation=1))
    assert await refusal(registry, PutNode(node=next_one, expected_incarnation=1)) == "incarnation"
    assert await refusal(registry, PutNode(node=a_node("N2"), expected_incarnation=1)) == "absent"


async def test_names_are_unique_without_case(registry: Registry) -> None:
    await write(registry, PutUser(user=a_user("U1", name="Åsa Größe"), expected=None))
    await write(registry, PutWorkspace(workspace=a_workspace("W1", name="Work"), expected=None))
    clash = a_user("U2", name="åsa GRÖSSE")
    assert await refusal(registry, PutUser(user=clash, expected=None)) == "name_taken"
    clash_at_home = a_workspace("W2", name="WORK")
    assert await refusal(registry, PutWorkspace(workspace=clash_at_home, expected=None)) == "name_taken"
    await write(registry, PutWorkspace(workspace=a_workspace("W3", name="work", user_id="U2"), expected=None))
    found = await registry.user_by_name("ÅSA grösse")
    assert found is not None
    assert found.id == "U1"
    renamed = a_user("U1", name="Ada", generation=2)
    await write(registry, PutUser(user=renamed, expected=1))
    await write(registry, PutUser(user=clash, expected=None))
    assert (
        await refusal(registry, PutUser(user=replace(clash, name="ADA", generation=2), expected=1))
        == "name_taken"
    )
    with pytest.raises(BadInput):
        await write(registry, PutUser(user=a_user("U5", name=" "), expected=None))


# guards


async def test_an_expiry_is_refused_until_the_written_counter_is_there(registry: Registry) -> None:
    await with_node(registry, count_ms=14_999)
    due = CounterReached(node_id="N1", at_ms=15_000)
    assert await refusal(registry, TOUCH, guards=(due,)) == "not_reached"
    nobody = CounterReached(node_id="N9", at_ms=0)
    assert await refusal(registry, TOUCH, guards=(nobody,)) == "not_reached"
    await write(registry, Tick(node_id="N1", incarnation=1, beat=0, count_ms=15_000))
    await write(registry, TOUCH, guards=(due,))


async def test_a_unit_may_carry_the_tick_that_makes_it_due(registry: Registry) -> None:
    """The tick counts before the guards are looked at, and is undone with the unit."""
    await with_node(registry)
    tick = Tick(node_id="N1", incarnation=1, beat=0, count_ms=2000)
    late = CounterReached(node_id="N1", at_ms=2001)
    assert await refusal(registry, tick, TOUCH, guards=(late,)) == "not_reached"
    assert await registry.node("N1") == a_node()
    await write(registry, TOUCH, tick, guards=(CounterReached(node_id="N1", at_ms=2000),))
    assert await registry.node("N1") == a_node(count_ms=2000, beat=1)


async def test_a_guard_names_generation_and_loss_epoch(registry: Registry) -> None:
    await with_session(registry, a_held_session(generation=3))
    wrong = SessionIs(session_id="S1", generation=2, loss_epoch=1)
    assert await refusal(registry, TOUCH, guards=(wrong,)) == "generation"
    older = SessionIs(session_id="S1", generation=3, loss_epoch=0)
    assert await refusal(registry, TOUCH, guards=(older,)) == "loss_epoch"
    unknown = SessionIs(session_id="S2", generation=3, loss_epoch=1)
    assert await refusal(registry, TOUCH, guards=(unknown,)) == "absent"
    await write(registry, TOUCH, guards=(SessionIs(session_id="S1", generation=3, loss_epoch=1),))


async def test_a_lease_guard_needs_this_node_this_fence_and_a_holder(registry: Registry) -> None:
    await with_lease(registry, a_lease("W1", fence=3))
    await with_lease(registry, a_lease("W2", fence=3, session_id=None))
    for guard, why in (
        (LeaseIs(workspace_id="W1", node_id="N2", fence=3), "other_owner"),
        (LeaseIs(workspace_id="W1", node_id="N1", fence=2), "other_owner"),
        (LeaseIs(workspace_id="W2", node_id="N1", fence=3), "other_owner"),
        (LeaseIs(workspace_id="W3", node_id="N1", fence=3), "absent"),
    ):
        assert await refusal(registry, TOUCH, guards=(guard,)) == why
    await write(registry, TOUCH, guards=(LeaseIs(workspace_id="W1", node_id="N1", fence=3),))


async def test_an_epoch_guard_refuses_what_was_decided_before_a_restore(registry: Registry) -> None:
    await write(registry, PutMark(mark=RegistryMark(epoch=2, system_id="x"), expected=1))
    assert await refusal(registry, TOUCH, guards=(EpochIs(epoch=1),)) == "epoch"
    await write(registry, TOUCH, guards=(EpochIs(epoch=2),))


async def test_a_tick_needs_the_node_incarnation_beat_and_state(registry: Registry) -> None:
    await with_node(registry, count_ms=100, beat=7)
    await write(registry, PutNode(node=a_node("N2", state=NodeState.LOST), expected_incarnation=None))
    good = Tick(node_id="N1", incarnation=1, beat=7, count_ms=2100)
    for tick, why in (
        (replace(good, node_id="N9"), "absent"),
        (replace(good, incarnation=2), "incarnation"),
        (replace(good, beat=6), "beat"),
        (replace(good, count_ms=99), "count_backwards"),
        (Tick(node_id="N2", incarnation=1, beat=0, count_ms=1), "node_not_up"),
    ):
        assert await refusal(registry, tick) == why
    await write(registry, good)
    assert await registry.node("N1") == a_node(count_ms=2100, beat=8)
    assert await refusal(registry, good) == "beat"


async def test_a_refused_unit_leaves_nothing(registry: Registry) -> None:
    """Whichever of its writes is refused, also the last."""
    await with_session(registry, a_session())
    await with_node(registry)
    await write(registry, AddTicket(ticket=a_ticket()))
    unit = Unit(
        writes=(
            PutWorkspace(workspace=a_workspace(), expected=None),
            Tick(node_id="N1", incarnation=1, beat=0, count_ms=5),
            AddEffect(effect=EffectRecord(id="E1", session_id="S1", generation=1, kind="x")),
            UseTicket(hash=b"ticket", now_ms=2000),
            PutSetting(name="a", value=b"1", expected=None),
            PutSession(session=a_session(), expected=None),
        ),
        audit=(an_entry(),),
    )
    with pytest.raises(Conflict):
        await registry.commit(unit)
    assert await registry.workspace("W1") is None
    assert await registry.node("N1") == a_node()
    assert list(await registry.effects()) == []
    assert await registry.ticket(b"ticket") == a_ticket()
    assert await registry.setting("a") is None
    assert list(await registry.audit()) == []
    assert await registry.verify_audit() == 0


async def test_a_mistake_in_a_unit_is_the_callers_alone(registry: Registry) -> None:
    """An assertion is raised before anything is sent, and others of the same turn are carried out."""
    skipped = Unit(writes=(PutSession(session=a_session(generation=3), expected=1),))
    good = Unit(writes=(TOUCH,))
    first, second = await all_at_once(registry, [skipped, good])
    assert isinstance(first, AssertionError)
    assert second is None


# groups


@pytest.mark.parametrize("resume_first", [True, False])
async def test_a_resume_is_looked_at_before_an_expiry_of_the_same_moment(
    registry: Registry, resume_first: bool
) -> None:
    held = await with_session(registry, a_held_session())
    await with_node(registry, count_ms=15_000)
    guards = (SessionIs(session_id="S1", generation=1, loss_epoch=1),)
    resumed = replace(held, state=State.ACTIVE, generation=2, hold=None)
    expired = replace(held, state=State.CLOSING, generation=2, hold=None)
    resume = Unit(rank=Rank.RESUME, guards=guards, writes=(PutSession(session=resumed, expected=1),))
    expiry = Unit(
        rank=Rank.EXPIRY,
        guards=(*guards, CounterReached(node_id="N1", at_ms=15_000)),
        writes=(PutSession(session=expired, expected=1),),
    )
    units = [resume, expiry] if resume_first else [expiry, resume]
    answers = await all_at_once(registry, units)
    assert answers[units.index(resume)] is None
    assert reason(answers[units.index(expiry)]) == "generation"
    assert await registry.session("S1") == resumed


async def test_in_a_group_each_unit_keeps_its_own_fate(registry: Registry) -> None:
    for number in range(40):
        await with_session(registry, a_session(f"S{number}"))
    units = []
    for number in range(40):
        expected = 1 if number % 3 else 2
        session = a_session(f"S{number}", generation=expected + 1, detail="dropped")
        units.append(
            Unit(
                rank=Rank.DROP,
                writes=(PutSession(session=session, expected=expected),),
                audit=(an_entry(session_id=session.id),),
            )
        )
    answers = await all_at_once(registry, units)
    assert [answer is None for answer in answers] == [bool(number % 3) for number in range(40)]
    assert await registry.verify_audit() == sum(bool(number % 3) for number in range(40))


async def test_units_of_one_rank_keep_their_order(registry: Registry) -> None:
    values = [str(number).encode() for number in range(30)]
    units = [
        Unit(writes=(PutSetting(name="a", value=value, expected=before),))
        for before, value in zip([None, *values], values, strict=False)
    ]
    assert await all_at_once(registry, units) == [None] * 30
    assert await registry.setting("a") == values[-1]


async def test_a_cancelled_commit_does_not_disturb_the_others(registry: Registry) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(write(registry, TOUCH))
        group.create_task(write(registry, PutSetting(name="b", value=b"", expected=None)))
        asyncio.get_running_loop().call_soon(first.cancel)
    assert first.cancelled()
    assert await registry.setting("b") == b""

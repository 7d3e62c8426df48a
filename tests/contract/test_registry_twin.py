"""The in-memory twin against SQLite under random units, and the failures that only the twin can have."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_service.base.errors import AuditBroken, Conflict, RegistryUnavailable
from session_service.core import changes as c
from session_service.core.records import (
    ApiToken,
    EffectRecord,
    Idempotency,
    NodeState,
    Receipt,
    RegistryMark,
    State,
)
from session_service.ports.registry import Registry
from session_service.registry.memory import MemoryRegistry
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
    open_registry,
    with_session,
    write,
)

NAMES = st.sampled_from(["1", "2"])
GENERATIONS = st.sampled_from([None, 1, 2, 3])


def follow(expected: int | None) -> int:
    return 1 if expected is None else expected + 1


@st.composite
def put_session(draw: st.DrawFn) -> c.Write:
    expected = draw(GENERATIONS)
    make = draw(st.sampled_from([a_session, a_held_session]))
    session = make(
        f"S{draw(NAMES)}{draw(NAMES)}",
        workspace_id=f"W{draw(NAMES)}",
        generation=follow(expected),
        fence=draw(st.integers(1, 3)),
    )
    if draw(st.integers(0, 3)) == 0:
        session = a_session(
            session.id, workspace_id=session.workspace_id, generation=session.generation, state=State.CLOSED
        )
    return c.PutSession(session=session, expected=expected)


@st.composite
def put_lease(draw: st.DrawFn) -> c.Write:
    expected = draw(GENERATIONS)
    lease = a_lease(
        f"W{draw(NAMES)}",
        generation=follow(expected),
        fence=draw(st.integers(1, 3)),
        session_id=draw(st.sampled_from([None, "S1"])),
    )
    return c.PutLease(lease=lease, expected=expected)


@st.composite
def put_named(draw: st.DrawFn) -> c.Write:
    expected, name = draw(GENERATIONS), draw(st.sampled_from(["ada", "Ada", "ben"]))
    if draw(st.booleans()):
        user = a_user(f"U{draw(NAMES)}", name=name, generation=follow(expected))
        return c.PutUser(user=user, expected=expected)
    workspace = a_workspace(
        f"W{draw(NAMES)}", name=name, generation=follow(expected), user_id=f"U{draw(NAMES)}"
    )
    return c.PutWorkspace(workspace=workspace, expected=expected)


@st.composite
def node_write(draw: st.DrawFn) -> c.Write:
    if draw(st.booleans()):
        return c.Tick(
            node_id=f"N{draw(NAMES)}",
            incarnation=1,
            beat=draw(st.integers(0, 2)),
            count_ms=draw(st.integers(0, 3)),
        )
    expected = draw(st.sampled_from([None, 1]))
    node = a_node(f"N{draw(NAMES)}", state=draw(st.sampled_from([NodeState.UP, NodeState.DRAINING])))
    return c.PutNode(node=node, expected_incarnation=expected)


@st.composite
def small_write(draw: st.DrawFn) -> c.Write:
    name, time = draw(NAMES), draw(st.sampled_from([0, 1000, 2000, 200_000_000]))
    value = draw(st.sampled_from([None, b"1", b"2"]))
    return draw(
        st.sampled_from(
            [
                c.AddTicket(ticket=a_ticket(name.encode(), created_at_ms=time, expires_at_ms=time + 1500)),
                c.UseTicket(hash=name.encode(), now_ms=time),
                c.AddEffect(effect=EffectRecord(id=f"E{name}", session_id="S1", generation=1, kind="x")),
                c.EffectDone(effect_id=f"E{name}"),
                c.EffectFailed(effect_id=f"E{name}", error=name),
                c.PutSetting(name="a", value=name.encode(), expected=value),
                c.PutMark(mark=RegistryMark(epoch=int(name) + 1, system_id=name), expected=int(name)),
                c.AddReceipt(
                    receipt=Receipt(
                        session_id=f"S{name}", workspace_id="W1", user_id="U1", body=b"", written_at_ms=time
                    )
                ),
                c.AddIdempotency(
                    entry=Idempotency(
                        key=name, user_id="U1", request_hash=b"", status=200, body=b"", created_at_ms=time
                    )
                ),
                c.PutApiToken(
                    token=ApiToken(
                        id=f"A{name}", user_id="U1", name="", scopes=("read",), hash=b"h", created_at_ms=time
                    )
                ),
            ]
        )
    )


@st.composite
def guard(draw: st.DrawFn) -> c.Guard:
    name, number = draw(NAMES), draw(st.integers(1, 3))
    return draw(
        st.sampled_from(
            [
                c.CounterReached(node_id=f"N{name}", at_ms=number),
                c.SessionIs(session_id=f"S{name}{name}", generation=number, loss_epoch=int(name) - 1),
                c.LeaseIs(workspace_id=f"W{name}", node_id="N1", fence=number),
                c.EpochIs(epoch=number),
            ]
        )
    )


WRITES = st.one_of(put_session(), put_lease(), put_named(), node_write(), small_write())
UNITS = st.builds(
    c.Unit,
    rank=st.sampled_from(list(c.Rank)),
    guards=st.one_of(st.just(()), st.tuples(guard())),
    writes=st.lists(WRITES, min_size=1, max_size=3).map(tuple),
    audit=st.sampled_from([(), (an_entry(session_id="S1"),), (an_entry(), an_entry("other"))]),
)
GROUPS = st.lists(st.lists(UNITS, min_size=1, max_size=4), min_size=1, max_size=8)


async def everything(registry: Registry) -> dict[str, Any]:
    """Return all that can be asked, for a comparison."""
    return {
        "sessions": list(await registry.sessions()),
        "newest": list(await registry.sessions(newest_first=True, limit=2)),
        "leases": list(await registry.leases()),
        "workspaces": list(await registry.workspaces()),
        "users": list(await registry.users()),
        "ada": await registry.user_by_name("ADA"),
        "nodes": list(await registry.nodes()),
        "effects": list(await registry.effects()),
        "tickets": [await registry.ticket(name) for name in (b"1", b"2")],
        "tokens": list(await registry.api_tokens()),
        "receipts": list(await registry.receipts()),
        "answers": [await registry.idempotency("U1", name) for name in "12"],
        "setting": await registry.setting("a"),
        "epoch": (await registry.mark()).epoch,
        "audit": list(await registry.audit()),
        "verified": await registry.verify_audit(),
    }


def told(answer: BaseException | None) -> Any:
    assert answer is None or isinstance(answer, Conflict), answer
    return None if answer is None else dict(answer.facts)


@given(groups=GROUPS)
def test_both_registries_answer_alike(groups: list[list[c.Unit]]) -> None:
    async def compare(folder: Path) -> None:
        twin, real = MemoryRegistry(), await open_registry("sqlite", folder)
        try:
            for group in groups:
                ours, theirs = await all_at_once(twin, group), await all_at_once(real, group)
                assert [told(one) for one in ours] == [told(one) for one in theirs]
            assert await everything(twin) == await everything(real)
        finally:
            await real.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(Path(folder)))


# what a simulation tells the twin to do


async def fails(registry: Registry, *writes: c.Write) -> None:
    with pytest.raises(RegistryUnavailable):
        await write(registry, *writes)


async def test_a_twin_that_is_away_answers_and_writes_nothing() -> None:
    twin = MemoryRegistry()
    twin.go_away()
    await fails(twin, TOUCH)
    with pytest.raises(RegistryUnavailable):
        await twin.session("S1")
    twin.come_back()
    assert await twin.setting("touched") is None


async def test_a_twin_can_refuse_or_lose_the_answer_after_the_commit() -> None:
    twin = MemoryRegistry()
    twin.refuse_commits()
    await fails(twin, TOUCH)
    assert await twin.setting("touched") is None
    twin.lose_answers()
    await fails(twin, TOUCH)
    assert await twin.setting("touched") == b""
    await write(twin, c.PutSetting(name="b", value=b"", expected=None))


async def test_a_twin_can_lose_its_last_transactions_exactly() -> None:
    twin = MemoryRegistry()
    session = await with_session(twin, a_session())
    await write(twin, c.PutSession(session=replace(session, generation=2), expected=1), audit=(an_entry(),))
    await write(twin, TOUCH, audit=(an_entry(),))
    assert twin.lose_transactions(2) == 2
    assert await twin.session(session.id) == session
    assert await twin.setting("touched") is None
    assert await twin.verify_audit() == 0
    assert twin.lose_transactions(9) == 1
    assert list(await twin.sessions()) == []


async def test_a_twin_restores_a_backup_with_a_higher_epoch() -> None:
    twin = MemoryRegistry()
    await twin.backup("monday")
    await write(twin, TOUCH, c.PutMark(mark=RegistryMark(epoch=4, system_id="x"), expected=1))
    assert twin.restore("monday") == RegistryMark(epoch=5, system_id="restored")
    assert await twin.mark() == RegistryMark(epoch=5, system_id="restored")
    assert await twin.setting("touched") is None


async def test_units_wait_while_a_twin_is_paused_and_form_one_group() -> None:
    twin = MemoryRegistry()
    twin.pause()
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            setting = c.PutSetting(name=str(number), value=b"", expected=None)
            group.create_task(write(twin, setting))
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(twin.go_on))
    assert twin.transactions == 1


async def test_an_edited_record_of_a_twin_breaks_its_chain() -> None:
    twin = MemoryRegistry()
    await write(twin, audit=(an_entry(), an_entry()))
    twin.edit("audit", 2, hash=b"\0" * 32)
    with pytest.raises(AuditBroken):
        await twin.verify_audit()

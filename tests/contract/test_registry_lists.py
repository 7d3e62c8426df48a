"""What every registry does alike, continued: desktops, effects, tickets, people, lists and audit."""

from dataclasses import replace
from typing import Any

import pytest

from session_service.base.errors import BadInput
from session_service.core import audit_chain
from session_service.core.changes import (
    AddEffect,
    AddIdempotency,
    AddReceipt,
    AddTicket,
    EffectDone,
    EffectFailed,
    ForgetDesktop,
    ForgetSignIns,
    PutApiToken,
    PutDesktop,
    PutLease,
    PutNode,
    PutSignIn,
    PutUser,
    PutWorkspace,
    Unit,
    UseTicket,
)
from session_service.core.records import (
    ApiToken,
    Desktop,
    EffectRecord,
    Idempotency,
    Receipt,
    SignIn,
    State,
)
from session_service.ports.registry import Registry
from tests.contract.registry_world import (
    TOUCH,
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
    with_session,
    write,
)

# desktops, effects, tickets


async def test_a_desktop_is_recorded_again_and_forgotten_twice(registry: Registry) -> None:
    desktop = Desktop(workspace_id="W1", fence=1, node_id="N1", session_id="S1", handle=b"{}", home="/h")
    await write(registry, PutDesktop(desktop=desktop))
    await write(registry, PutDesktop(desktop=replace(desktop, handle=b'{"pid":2}')))
    await write(registry, PutDesktop(desktop=replace(desktop, fence=2, node_id="N2")))
    assert [(one.fence, one.handle) for one in await registry.desktops("N1")] == [(1, b'{"pid":2}')]
    for _ in range(2):
        await write(registry, ForgetDesktop(workspace_id="W1", fence=1))
    assert list(await registry.desktops("N1")) == []


async def test_an_effect_is_added_once_counted_and_removed(registry: Registry) -> None:
    effect = EffectRecord(id="E1", session_id="S1", generation=1, kind="checkpoint")
    await write(registry, AddEffect(effect=effect))
    await write(registry, EffectFailed(effect_id="E1", error="store down"))
    await write(registry, AddEffect(effect=effect))
    assert list(await registry.effects("S1")) == [replace(effect, attempts=1, last_error="store down")]
    assert list(await registry.effects("S2")) == []
    for _ in range(2):
        await write(registry, EffectDone(effect_id="E1"), EffectFailed(effect_id="E1", error="gone"))
    assert list(await registry.effects()) == []


async def test_a_ticket_is_used_once_among_fifty_who_try(registry: Registry) -> None:
    await write(registry, AddTicket(ticket=a_ticket()))
    answers = await all_at_once(registry, [Unit(writes=(UseTicket(hash=b"ticket", now_ms=2000),))] * 50)
    assert answers.count(None) == 1
    assert {reason(answer) for answer in answers if answer is not None} == {"used"}


async def test_a_ticket_is_refused_when_unknown_or_too_old(registry: Registry) -> None:
    await write(registry, AddTicket(ticket=a_ticket(expires_at_ms=5000)))
    assert await refusal(registry, UseTicket(hash=b"other", now_ms=1)) == "absent"
    assert await refusal(registry, UseTicket(hash=b"ticket", now_ms=5000)) == "expired"
    await write(registry, UseTicket(hash=b"ticket", now_ms=4999))
    used = await registry.ticket(b"ticket")
    assert used is not None
    assert used.used_at_ms == 4999


async def test_a_new_ticket_uses_up_the_older_ones_of_its_device(registry: Registry) -> None:
    await write(registry, AddTicket(ticket=a_ticket(b"old")))
    await write(registry, AddTicket(ticket=a_ticket(b"phone", device_id="D2")))
    await write(registry, AddTicket(ticket=a_ticket(b"new", created_at_ms=2000)))
    assert await refusal(registry, UseTicket(hash=b"old", now_ms=3000)) == "used"
    await write(registry, UseTicket(hash=b"phone", now_ms=3000))
    await write(registry, UseTicket(hash=b"new", now_ms=3000))
    assert await refusal(registry, AddTicket(ticket=a_ticket(b"new"))) == "exists"


async def test_tickets_to_look_on_use_up_none_and_are_used_up_by_none(registry: Registry) -> None:
    """One program may work in a desktop and look on twice, all opened in the same moment."""
    for hash_, mode in ((b"work", "control"), (b"one", "view"), (b"two", "view")):
        await write(registry, AddTicket(ticket=a_ticket(hash_, mode=mode)))
    for hash_ in (b"work", b"one"):
        await write(registry, UseTicket(hash=hash_, now_ms=3000))
    await write(registry, AddTicket(ticket=a_ticket(b"again")))
    await write(registry, UseTicket(hash=b"two", now_ms=3000))


async def test_tickets_long_expired_are_forgotten(registry: Registry) -> None:
    await write(registry, AddTicket(ticket=a_ticket(b"old")))
    await write(
        registry, AddTicket(ticket=a_ticket(b"new", created_at_ms=200_000_000, expires_at_ms=200_060_000))
    )
    assert await registry.ticket(b"old") is None


# people


def a_sign_in(hash_: bytes, user: str = "U1", **changes: Any) -> SignIn:
    fields: dict[str, Any] = {
        "device_id": "D1",
        "device_label": "",
        "created_at_ms": 1,
        "last_seen_ms": 1,
        "expires_at_ms": 1_000_000_000,
    }
    return SignIn(hash=hash_, user_id=user, **(fields | changes))


async def test_sign_ins_are_forgotten_one_by_one_or_all_of_a_user(registry: Registry) -> None:
    for hash_, user in ((b"a", "U1"), (b"b", "U1"), (b"c", "U1"), (b"d", "U2")):
        await write(registry, PutSignIn(sign_in=a_sign_in(hash_, user)))
    await write(registry, ForgetSignIns(hash=b"b"))
    assert [one.hash for one in await registry.sign_ins("U1")] == [b"a", b"c"]
    await write(registry, ForgetSignIns(user_id="U1"), PutSignIn(sign_in=a_sign_in(b"e")))
    assert [one.hash for one in await registry.sign_ins("U1")] == [b"e"]
    assert await registry.sign_in(b"d") == a_sign_in(b"d", "U2")


async def test_who_is_signed_out_has_no_ticket_left_to_come_back_with(registry: Registry) -> None:
    """Else a page that asks for a ticket every minute outlives every sign-out."""
    await write(registry, PutSignIn(sign_in=a_sign_in(b"a", device_id="D1")))
    await write(registry, PutSignIn(sign_in=a_sign_in(b"b", device_id="D2")))
    for hash_, changes in (
        (b"used", {"device_id": "D1"}),
        (b"1", {"device_id": "D1"}),
        (b"2", {"device_id": "D2"}),
        (b"other", {"device_id": "D1", "user_id": "U2", "session_id": "S2"}),
    ):
        await write(registry, AddTicket(ticket=a_ticket(hash_, **changes)))
        if hash_ == b"used":
            await write(registry, UseTicket(hash=hash_, now_ms=1001))
    await write(registry, ForgetSignIns(hash=b"a"))
    assert await refusal(registry, UseTicket(hash=b"1", now_ms=3000)) == "absent"
    assert await registry.ticket(b"2") is not None
    await write(registry, ForgetSignIns(user_id="U1"))
    assert await registry.ticket(b"2") is None
    assert await registry.ticket(b"other") is not None, "another account's"
    assert await registry.ticket(b"used") is not None, "what was used says so"


async def test_a_revoked_token_takes_its_tickets_along(registry: Registry) -> None:
    token = ApiToken(id="K1", user_id="U1", name="n", scopes=(), hash=b"k", created_at_ms=1)
    await write(registry, PutApiToken(token=token), AddTicket(ticket=a_ticket(b"t", device_id="K1")))
    await write(registry, PutApiToken(token=replace(token, revoked_at_ms=2)))
    assert await registry.ticket(b"t") is None


async def test_an_api_token_is_replaced_by_id_and_its_hash_is_one_tokens_only(registry: Registry) -> None:
    token = ApiToken(id="A1", user_id="U1", name="ci", scopes=(), hash=b"1", created_at_ms=1)
    await write(registry, PutApiToken(token=token))
    await write(registry, PutApiToken(token=replace(token, revoked_at_ms=5)))
    assert list(await registry.api_tokens("U1")) == [replace(token, revoked_at_ms=5)]
    assert await refusal(registry, PutApiToken(token=replace(token, id="A2"))) == "exists"
    assert list(await registry.api_tokens("U2")) == []


async def test_a_repeated_request_finds_its_answer_and_cannot_store_another(registry: Registry) -> None:
    entry = Idempotency(key="k", user_id="U1", request_hash=b"r", status=201, body=b"a", created_at_ms=1)
    other = replace(entry, body=b"b")
    answers = await all_at_once(
        registry, [Unit(writes=(AddIdempotency(entry=one),)) for one in (entry, other)]
    )
    assert answers[0] is None
    assert reason(answers[1]) == "exists"
    await write(registry, AddIdempotency(entry=replace(entry, user_id="U2")))
    assert await registry.idempotency("U1", "k") == entry
    await write(registry, AddIdempotency(entry=replace(entry, key="later", created_at_ms=100_000_000)))
    assert await registry.idempotency("U1", "k") is None


# lists


async def test_sessions_are_listed_by_state_user_and_cursor(registry: Registry) -> None:
    for number in range(9):
        state = State.CLOSED if number % 2 else State.ACTIVE
        user = f"U{number % 3}"
        await with_session(registry, a_session(f"S{number}", state=state, user_id=user))

    async def ids(**wanted: Any) -> list[str]:
        return [one.id for one in await registry.sessions(**wanted)]

    assert await ids() == [f"S{number}" for number in range(9)]
    assert await ids(states=frozenset({State.CLOSED})) == ["S1", "S3", "S5", "S7"]
    assert await ids(states=frozenset()) == []
    assert await ids(user_id="U0", states=frozenset({State.ACTIVE, State.HELD})) == ["S0", "S6"]
    assert await ids(workspace_id="W-S4") == ["S4"]
    assert await ids(after="S2", limit=3) == ["S3", "S4", "S5"]
    assert await ids(after="S2", limit=3, newest_first=True) == ["S1", "S0"]
    assert await ids(limit=2, newest_first=True) == ["S8", "S7"]
    assert await ids(limit=0) == []


async def test_lists_are_ordered_by_id_whatever_the_order_of_writing(registry: Registry) -> None:
    for name in ("3", "1", "2"):
        await write(
            registry,
            PutUser(user=a_user(f"U{name}"), expected=None),
            PutWorkspace(workspace=a_workspace(f"W{name}"), expected=None),
            PutLease(lease=a_lease(f"W{name}"), expected=None),
            PutNode(node=a_node(f"N{name}"), expected_incarnation=None),
            AddEffect(effect=EffectRecord(id=f"E{name}", session_id="S", generation=1, kind="x")),
        )
    assert [one.id for one in await registry.users()] == ["U1", "U2", "U3"]
    assert [one.id for one in await registry.workspaces(user_id="U1")] == ["W1", "W2", "W3"]
    assert list(await registry.workspaces(user_id="U2")) == []
    assert [one.workspace_id for one in await registry.leases()] == ["W1", "W2", "W3"]
    assert [one.id for one in await registry.nodes()] == ["N1", "N2", "N3"]
    assert [one.id for one in await registry.effects()] == ["E1", "E2", "E3"]


async def test_receipts_are_listed_newest_first_and_written_once(registry: Registry) -> None:
    for number in range(4):
        receipt = Receipt(
            session_id=f"S{number}",
            workspace_id="W",
            user_id=f"U{number % 2}",
            body=b"{}",
            written_at_ms=number,
        )
        await write(registry, AddReceipt(receipt=receipt))
    await write(registry, AddReceipt(receipt=replace(receipt, body=b"other")))
    assert (await registry.receipt("S3")) == receipt
    assert [one.session_id for one in await registry.receipts()] == ["S3", "S2", "S1", "S0"]
    assert [one.session_id for one in await registry.receipts(user_id="U1", limit=1)] == ["S3"]


# audit


async def test_audit_records_are_chained_in_the_order_of_their_units(registry: Registry) -> None:
    await write(registry, TOUCH, audit=(an_entry("one"), an_entry("two", session_id="S1")))
    await write(registry, audit=(an_entry("three", facts=()),))
    records = await registry.audit()
    assert [(one.seq, one.entry.kind) for one in records] == [(1, "one"), (2, "two"), (3, "three")]
    assert audit_chain.verify(records) == audit_chain.head_of(records[-1])
    assert await registry.verify_audit() == 3


async def test_audit_facts_come_back_with_their_types_and_order(registry: Registry) -> None:
    facts = (
        ("z", 1),
        ("a", 1.0),
        ("yes", True),
        ("no", None),
        ("text", 'ü"\n'),
        ("big", -(1 << 63)),
        ("e", 1e300),
    )
    await write(registry, audit=(an_entry(facts=facts),))
    (record,) = await registry.audit()
    assert record.entry.facts == facts
    assert [type(value) for _, value in record.entry.facts] == [type(value) for _, value in facts]
    assert await registry.verify_audit() == 1


@pytest.mark.parametrize(
    "facts",
    [
        (("n", float("nan")),),
        (("n", 1 << 63),),
        (("n", 1), ("n", 2)),
        (("n", "\ud800"),),
        (("n", "x" * 70_000),),
    ],
    ids=["nan", "too big a number", "named twice", "no unicode", "too long"],
)
async def test_an_audit_entry_that_cannot_be_kept_refuses_its_unit(registry: Registry, facts: Any) -> None:
    with pytest.raises(BadInput):
        await write(registry, TOUCH, audit=(an_entry(facts=facts),))
    assert await registry.setting("touched") is None


async def test_audit_is_read_from_both_ends_and_by_session(registry: Registry) -> None:
    for number in range(1, 7):
        await write(registry, audit=(an_entry(session_id=f"S{number % 2}"),))

    async def numbers(**wanted: Any) -> list[int]:
        return [one.seq for one in await registry.audit(**wanted)]

    assert await numbers() == [1, 2, 3, 4, 5, 6]
    assert await numbers(after=2, limit=2) == [3, 4]
    assert await numbers(newest_first=True, limit=2) == [6, 5]
    assert await numbers(newest_first=True, after=5, limit=2) == [4, 3]
    assert await numbers(session_id="S1") == [1, 3, 5]
    assert await numbers(session_id="S1", newest_first=True, after=5) == [3, 1]

"""Between records and rows: each record as a mapping of column to value, and back.

Not an ORM: no queries, no identity, no lazy anything. One field is one column, so that an operator can read a
registry with any SQLite tool; a log position or a hold is split into its numbers, tuples are JSON text.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec

from session_service.core.audit_chain import AuditHead
from session_service.core.records import (
    ApiToken,
    AuditEntry,
    AuditRecord,
    CloseCause,
    CloseStep,
    Desktop,
    EffectRecord,
    Hold,
    HookState,
    Idempotency,
    Lease,
    LogPosition,
    LossCause,
    Node,
    NodeState,
    Outcome,
    Receipt,
    RegistryMark,
    Session,
    SignIn,
    State,
    Ticket,
    User,
    Workspace,
)
from session_service.registry.checks import name_key

Row = Mapping[str, Any]
"""One row by column name."""

Flat = (
    Workspace | Desktop | Node | EffectRecord | Ticket | User | SignIn | Receipt | Idempotency | RegistryMark
)

_SPLIT = frozenset({"hold", "start_from", "c1", "c2", "grant", "refused_windows", "accepted_paths"})


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Return the fields that are columns as they are; asked for 100,000 times in a storm, so kept."""
    return tuple(field.name for field in fields(kind) if kind is not Session or field.name not in _SPLIT)


@cache
def _values(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*_names(kind))


def _plain(record: Any) -> dict[str, Any]:
    kind: Any = type(record)
    return dict(zip(_names(kind), _values(kind)(record), strict=True))


def flat_row(record: Flat) -> dict[str, Any]:
    """Return the row of a record whose fields are columns as they are."""
    row = _plain(record)
    if isinstance(record, User | Workspace):
        row["name_key"] = name_key(record.name)
    return row


def session_row(session: Session) -> dict[str, Any]:
    """Return the row of a session."""
    row = _plain(session)
    hold = session.hold
    row["hold_clock"] = None if hold is None else hold.clock
    row["hold_base_ms"] = None if hold is None else hold.base_ms
    row["hold_left_ms"] = None if hold is None else hold.left_ms
    _split(row, "start_from", session.start_from)
    _split(row, "c1", session.c1)
    _split(row, "c2", session.c2)
    row["grant_number"] = session.grant
    row["refused_windows"] = _texts(session.refused_windows)
    row["accepted_paths"] = _texts(session.accepted_paths)
    return row


def session_from(row: Row) -> Session:
    """Return the session of a row."""
    return Session(
        id=row["id"],
        workspace_id=row["workspace_id"],
        user_id=row["user_id"],
        policy_id=row["policy_id"],
        policy_rev=row["policy_rev"],
        state=State(row["state"]),
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        generation=row["generation"],
        registry_epoch=row["registry_epoch"],
        fence=row["fence"],
        node_id=row["node_id"],
        hold_s=row["hold_s"],
        created_at_ms=row["created_at_ms"],
        loss_epoch=row["loss_epoch"],
        loss_cause=None if row["loss_cause"] is None else LossCause(row["loss_cause"]),
        lost_at_ms=row["lost_at_ms"],
        hold=_hold(row),
        start_attempts=row["start_attempts"],
        start_from=_position(row["start_from_seq"], row["start_from_hash"]),
        chosen_seq=row["chosen_seq"],
        close_step=None if row["close_step"] is None else CloseStep(row["close_step"]),
        close_cause=None if row["close_cause"] is None else CloseCause(row["close_cause"]),
        close_actor=row["close_actor"],
        asked_at_ms=row["asked_at_ms"],
        hook_state=HookState(row["hook_state"]),
        refused_windows=_tuple(row["refused_windows"]),
        freeze_method=row["freeze_method"],
        accepted_paths=_tuple(row["accepted_paths"]),
        c1=_position(row["c1_seq"], row["c1_hash"]),
        c2=_position(row["c2_seq"], row["c2_hash"]),
        grant=row["grant_number"],
        grant_cause=row["grant_cause"],
        link_id=row["link_id"],
        device_id=row["device_id"],
        device_label=row["device_label"],
        closed_at_ms=row["closed_at_ms"],
        detail=row["detail"],
    )


def lease_row(lease: Lease) -> dict[str, Any]:
    """Return the row of a lease."""
    row = _plain(lease)
    _split(row, "newest", row.pop("newest"))
    return row


def lease_from(row: Row) -> Lease:
    """Return the lease of a row."""
    return Lease(
        workspace_id=row["workspace_id"],
        fence=row["fence"],
        node_id=row["node_id"],
        session_id=row["session_id"],
        generation=row["generation"],
        newest=_position(row["newest_seq"], row["newest_hash"]),
        saved_as_of_ms=row["saved_as_of_ms"],
        saved_seq=row["saved_seq"],
    )


def workspace_from(row: Row) -> Workspace:
    """Return the workspace of a row."""
    return Workspace(**_only(Workspace, row))


def desktop_from(row: Row) -> Desktop:
    """Return the desktop of a row."""
    return Desktop(**_only(Desktop, row))


def node_from(row: Row) -> Node:
    """Return the node of a row."""
    return Node(**{**_only(Node, row), "state": NodeState(row["state"])})


def mark_from(row: Row) -> RegistryMark:
    """Return the registry's mark."""
    return RegistryMark(epoch=row["epoch"], system_id=row["system_id"])


def effect_from(row: Row) -> EffectRecord:
    """Return the effect of a row."""
    return EffectRecord(**_only(EffectRecord, row))


def ticket_from(row: Row) -> Ticket:
    """Return the ticket of a row."""
    return Ticket(**_only(Ticket, row))


def user_from(row: Row) -> User:
    """Return the account of a row."""
    return User(**{**_only(User, row), "disabled": bool(row["disabled"])})


def sign_in_from(row: Row) -> SignIn:
    """Return the sign-in of a row."""
    return SignIn(**_only(SignIn, row))


def token_row(token: ApiToken) -> dict[str, Any]:
    """Return the row of an API token."""
    row = _plain(token)
    row["scopes"] = _texts(token.scopes)
    return row


def token_from(row: Row) -> ApiToken:
    """Return the API token of a row."""
    return ApiToken(**{**_only(ApiToken, row), "scopes": _tuple(row["scopes"])})


def receipt_from(row: Row) -> Receipt:
    """Return the receipt of a row."""
    return Receipt(**_only(Receipt, row))


def idempotency_from(row: Row) -> Idempotency:
    """Return the stored answer of a row."""
    return Idempotency(**_only(Idempotency, row))


def audit_row(record: AuditRecord) -> dict[str, Any]:
    """Return the row of an audit record; its facts are a JSON object in their order."""
    entry = record.entry
    return {
        "seq": record.seq,
        "kind": entry.kind,
        "actor": entry.actor,
        "at_ms": entry.at_ms,
        "session_id": entry.session_id,
        "workspace_id": entry.workspace_id,
        "user_id": entry.user_id,
        "facts": msgspec.json.encode(dict(entry.facts)).decode(),
        "prev": record.prev,
        "hash": record.hash,
    }


def audit_from(row: Row) -> AuditRecord:
    """Return the audit record of a row. Facts that are no JSON any more come back so that the chain fails."""
    try:
        facts = tuple(
            msgspec.json.decode(row["facts"], type=dict[str, str | int | float | bool | None]).items()
        )
    except msgspec.DecodeError:
        facts = (("unreadable", row["facts"]),)
    return AuditRecord(
        seq=row["seq"],
        entry=AuditEntry(
            kind=row["kind"],
            actor=row["actor"],
            at_ms=row["at_ms"],
            session_id=row["session_id"],
            workspace_id=row["workspace_id"],
            user_id=row["user_id"],
            facts=facts,
        ),
        prev=row["prev"],
        hash=row["hash"],
    )


def head_from(row: Row) -> AuditHead:
    """Return the kept head of the audit chain."""
    return AuditHead(seq=row["seq"], hash=row["hash"])


def _only(kind: Any, row: Row) -> dict[str, Any]:
    return {name: row[name] for name in _names(kind)}


def _hold(row: Row) -> Hold | None:
    if row["hold_clock"] is None:
        return None
    return Hold(clock=row["hold_clock"], base_ms=row["hold_base_ms"], left_ms=row["hold_left_ms"])


def _position(seq: int | None, hash_: bytes | None) -> LogPosition | None:
    return None if seq is None or hash_ is None else LogPosition(seq=seq, hash=hash_)


def _split(row: dict[str, Any], name: str, position: LogPosition | None) -> None:
    row[f"{name}_seq"] = None if position is None else position.seq
    row[f"{name}_hash"] = None if position is None else position.hash


def _texts(values: tuple[str, ...]) -> str:
    return msgspec.json.encode(values).decode()


def _tuple(text: str) -> tuple[str, ...]:
    if text == "[]":
        return ()
    return msgspec.json.decode(text, type=tuple[str, ...])

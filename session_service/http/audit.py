"""Audit records that the HTTP side itself writes: sign-ins, accounts, reads of files, acts of operators.

Not the records of transitions: control writes those with the transition. Each is made before what it tells
of is done or shown, so that a failure to write it stops the act.
"""

from session_service.base.ids import SessionId, UserId, WorkspaceId
from session_service.core.changes import Unit
from session_service.core.records import AuditEntry, Session
from session_service.http.routes import Exchange

Facts = dict[str, str | int | float | bool | None]
FACT_LENGTH_MAX = 1000
"""Characters of one fact; longer ones are cut, since audit records are kept for ever."""


def entry(
    exchange: Exchange,
    kind: str,
    *,
    actor: str | None = None,
    user_id: UserId | None = None,
    session_id: SessionId | None = None,
    workspace_id: WorkspaceId | None = None,
    **facts: str | int | float | bool | None,
) -> AuditEntry:
    """Return the record of something that this request does; who and from where is added."""
    caller = exchange.caller_or_none
    if actor is None:
        actor = str(caller.actor()) if caller is not None else "nobody"
    known: Facts = {"reference": exchange.reference}
    if caller is not None:
        known |= {"via": caller.via, "address": caller.address}
    cut = {
        name: value[:FACT_LENGTH_MAX] if isinstance(value, str) else value for name, value in facts.items()
    }
    return AuditEntry(
        kind=kind,
        actor=actor,
        at_ms=exchange.services.clock.wall_ms(),
        session_id=session_id,
        workspace_id=workspace_id,
        user_id=user_id,
        facts=tuple(sorted((known | cut).items())),
    )


async def record(exchange: Exchange, written: AuditEntry) -> None:
    """Write one record by itself; returns after it is durable."""
    await exchange.services.registry.commit(Unit(audit=(written,)))


async def record_operator_act(exchange: Exchange, session: Session, *, act: str, reason: str) -> None:
    """Write down that an operator acts on somebody else's session."""
    actor = str(exchange.caller.actor(owner=session.user_id))
    await record(
        exchange,
        entry(
            exchange,
            "operator.acted",
            actor=actor,
            user_id=session.user_id,
            session_id=session.id,
            workspace_id=session.workspace_id,
            act=act,
            reason=reason,
        ),
    )

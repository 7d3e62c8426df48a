"""The law of a session: which event is allowed in which state, what it changes, and what must be done then.

Not a runner: `step` is pure, `control` commits what it returns and carries the effects out after the commit.
What is not in the table is refused and changes nothing. `docs/lifecycle.md` is drawn from this table. Source:
lifecycle.md section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from session_service.base.errors import TransitionRefused
from session_service.base.ids import NodeId, PolicyId, SessionId, UserId, WorkspaceId
from session_service.core.events import Effect, Event, Facts
from session_service.core.fields import CHANGES, GRANT_STEP, Change
from session_service.core.guards import GUARDS, Guard
from session_service.core.records import AuditEntry, LossCause, Outcome, Session, State


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: where to, what must be done, under which condition, what changes in the record."""

    to: State
    effects: tuple[Effect, ...] = ()
    guard: Guard = Guard.ALWAYS
    changes: tuple[Change, ...] = ()
    destructive: bool = False
    """Needs a settled epoch: ends, expires, starts or releases something (8.5)."""


S, E, F, G, C = State, Event, Effect, Guard, Change

_CLOSE_BEGUN = Rule(S.CLOSING, (F.END_ACCESS, F.CLOSE), G.ALWAYS, (C.CLOSE_BEGUN,), True)
_CLOSE_AT_LIMIT = Rule(S.CLOSING, (F.END_ACCESS, F.CLOSE), G.LIMIT_REACHED, (C.CLOSE_BEGUN,), True)
_CLOSE_OF_DEAD = Rule(S.CLOSING, (F.END_ACCESS, F.CLOSE), G.ALWAYS, (C.CLOSE_OF_DEAD,), True)
_ABSENT = Rule(S.CLOSED, (F.END_ACCESS, F.REPORT), G.DESKTOP_ABSENT, (C.CLOSED_LOST,), True)
_TAKEN_OVER = Rule(S.CLOSED, (F.REPORT,), G.ALWAYS, (C.CLOSED_NODE_LOST,), True)
_NODE_GONE = Rule(S.CLOSED, (F.REPORT,), G.ALWAYS, (C.CLOSED_NODE_LOST,), True)
_TAKE_OVER_LINK = Rule(S.ACTIVE, (F.DETACH_OLD, F.OPEN_STREAM), G.TAKEOVER_ALLOWED, (C.LINK, C.GRANT))
_RETURN = Rule(S.ACTIVE, (F.THAW, F.OPEN_STREAM), G.ALWAYS, (C.LINK, C.GRANT, C.RESUMED))
_SETTLED: tuple[Rule, ...] = (
    Rule(S.ACTIVE, (F.THAW, F.OPEN_STREAM), G.SETTLED_ATTACHED, (C.SETTLED_LINK, C.EPOCH)),
    Rule(S.HELD, (F.THAW, F.ARM_HOLD, F.CHECKPOINT), G.SETTLED_RUNNING, (C.SETTLED_LOSS, C.EPOCH)),
    Rule(S.CLOSING, (F.CLOSE,), G.SETTLED_ENDED, (C.CLOSE_OF_DEAD, C.EPOCH)),
    Rule(S.CLOSED, (F.REPORT,), G.SETTLED_ABSENT, (C.CLOSED_LOST, C.EPOCH)),
)

TRANSITIONS: Mapping[tuple[State | None, Event], tuple[Rule, ...]] = {
    (None, E.START): (Rule(S.STARTING, (F.PUT_E, F.RESTORE, F.LAUNCH), G.NEW_RECORD, (), True),),
    # starting
    (S.STARTING, E.CLIENT_ATTACHED): (
        Rule(S.STARTING, (F.DETACH_OLD, F.TELL_PROGRESS), G.ALWAYS, (C.LINK,)),
    ),
    (S.STARTING, E.DESKTOP_READY): (
        Rule(S.ACTIVE, (F.OPEN_STREAM,), G.LINK_ATTACHED, (C.READY,)),
        Rule(S.HELD, (F.ARM_HOLD,), G.NO_LINK, (C.READY, C.LOSS_NEVER_ATTACHED)),
    ),
    (S.STARTING, E.START_FAILED): (Rule(S.CLOSED, (F.END_ACCESS,), G.NO_PROCESS, (C.CLOSED_FAILED,), True),),
    (S.STARTING, E.DESKTOP_DIED): (
        Rule(S.STARTING, (F.RELAUNCH,), G.STARTS_LEFT, (C.START_AGAIN,)),
        Rule(S.CLOSING, (F.END_ACCESS, F.CLOSE), G.STARTS_SPENT, (C.START_AGAIN, C.CLOSE_OF_DEAD), True),
    ),
    (S.STARTING, E.USER_END): (_CLOSE_BEGUN,),
    (S.STARTING, E.OPERATOR_END): (_CLOSE_BEGUN,),
    (S.STARTING, E.DESKTOP_ABSENT): (_ABSENT,),
    (S.STARTING, E.TAKEN_OVER): (_TAKEN_OVER,),
    (S.STARTING, E.NODE_GONE): (_NODE_GONE,),
    (S.STARTING, E.SETTLED): (
        *_SETTLED[:3],
        Rule(S.STARTING, (F.PUT_E, F.RESTORE, F.LAUNCH), G.NEWER_EPOCH, (C.EPOCH,)),
    ),
    # active
    (S.ACTIVE, E.CLIENT_DROPPED): (
        Rule(S.HELD, (F.RELEASE_KEYS, F.CHECKPOINT, F.ARM_HOLD), G.RECORDED_LINK, (C.LOSS,)),
    ),
    (S.ACTIVE, E.CLIENT_RESUMED): (_TAKE_OVER_LINK,),
    (S.ACTIVE, E.CLIENT_ATTACHED): (_TAKE_OVER_LINK,),
    (S.ACTIVE, E.HOLD_CHANGED): (Rule(S.ACTIVE, (F.WARN,), G.ALWAYS, (C.HOLD_LENGTH,)),),
    (S.ACTIVE, E.IDLE_LIMIT): (_CLOSE_AT_LIMIT,),
    (S.ACTIVE, E.LENGTH_LIMIT): (_CLOSE_AT_LIMIT,),
    (S.ACTIVE, E.USER_END): (_CLOSE_BEGUN,),
    (S.ACTIVE, E.OPERATOR_END): (_CLOSE_BEGUN,),
    (S.ACTIVE, E.DESKTOP_DIED): (_CLOSE_OF_DEAD,),
    (S.ACTIVE, E.DESKTOP_ABSENT): (_ABSENT,),
    (S.ACTIVE, E.TAKEN_OVER): (_TAKEN_OVER,),
    (S.ACTIVE, E.NODE_GONE): (_NODE_GONE,),
    (S.ACTIVE, E.SETTLED): _SETTLED,
    # held
    (S.HELD, E.CLIENT_RESUMED): (_RETURN,),
    (S.HELD, E.CLIENT_ATTACHED): (_RETURN,),
    (S.HELD, E.KEYS_REVOKED): (Rule(S.HELD, (), G.ALWAYS, (C.REVOKED,)),),
    (S.HELD, E.HOLD_CHANGED): (Rule(S.HELD, (F.ARM_HOLD, F.WARN), G.ALWAYS, (C.HOLD_LENGTH,)),),
    (S.HELD, E.HOLD_EXPIRED): (
        Rule(S.CLOSING, (F.END_ACCESS, F.CLOSE), G.HOLD_OVER, (C.CLOSE_BEGUN,), True),
    ),
    (S.HELD, E.MOVED): (Rule(S.HELD, (F.PUT_E, F.ARM_HOLD), G.RECEIVER_READY, (C.CARRIED,), True),),
    (S.HELD, E.LENGTH_LIMIT): (_CLOSE_AT_LIMIT,),
    (S.HELD, E.USER_END): (_CLOSE_BEGUN,),
    (S.HELD, E.OPERATOR_END): (_CLOSE_BEGUN,),
    (S.HELD, E.DESKTOP_DIED): (_CLOSE_OF_DEAD,),
    (S.HELD, E.DESKTOP_ABSENT): (_ABSENT,),
    (S.HELD, E.TAKEN_OVER): (_TAKEN_OVER,),
    (S.HELD, E.NODE_GONE): (_NODE_GONE,),
    (S.HELD, E.SETTLED): _SETTLED,
    # closing
    (S.CLOSING, E.STEP_DONE): (
        Rule(S.CLOSED, (), G.STEP_LAST, (C.CLOSED_DONE,), True),
        Rule(S.CLOSING, (F.NEXT_STEP,), G.STEP_FOLLOWS, (C.STEP,), True),
    ),
    (S.CLOSING, E.DESKTOP_DIED): (Rule(S.CLOSING, (F.NEXT_STEP,), G.BEFORE_ENDING, (C.NOT_ASKED,)),),
    (S.CLOSING, E.HOME_CHANGED): (Rule(S.CLOSING, (F.SAVE_AGAIN,), G.AFTER_C2, (C.SAVE_AGAIN,)),),
    (S.CLOSING, E.PATHS_ACCEPTED): (Rule(S.CLOSING, (F.NEXT_STEP,), G.BEFORE_ENDING, (C.PATHS,)),),
    (S.CLOSING, E.DESKTOP_REUSED): (
        Rule(S.CLOSED, (F.THAW, F.OPEN_STREAM), G.RETURNABLE, (C.CLOSED_REUSED,), True),
    ),
    (S.CLOSING, E.DESKTOP_ABSENT): (_ABSENT,),
    (S.CLOSING, E.TAKEN_OVER): (_TAKEN_OVER,),
    (S.CLOSING, E.NODE_GONE): (_NODE_GONE,),
    (S.CLOSING, E.SETTLED): _SETTLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a rule gave: the next record, the effects in order, and the audit record; commit all of them
    together.
    """

    session: Session
    effects: tuple[Effect, ...]
    audit: AuditEntry


def step(session: Session | None, event: Event, facts: Facts) -> Step:
    """Return the next record, the effects to carry out in order after the commit, and the audit record.

    Args:
        session: the record as read; None for START.
        event: what happened.
        facts: what the caller knows and saw; times are readings, nothing is looked up.

    Raises:
        TransitionRefused: not in the table, a guard says no, or the node is not settled. Nothing changed.
        `facts["why"]` says why.
    """
    record = session if session is not None else facts.new
    state = session.state if session is not None else None
    rules = TRANSITIONS.get((state, event), ())
    if record is None or not rules:
        raise refused(session, event, "this event is not allowed in this state")
    reasons: list[str] = []
    for rule in rules:
        why = GUARDS[rule.guard](record, facts)
        if not why and rule.destructive and not _is_settled(record, facts):
            why = "the node is not settled in the registry's epoch"
        if not why:
            return _apply(rule, record, event, facts, fresh=session is None)
        reasons.append(why)
    raise refused(session, event, "; ".join(dict.fromkeys(reasons)))


def _is_settled(session: Session, facts: Facts) -> bool:
    return facts.settled and session.registry_epoch == facts.epoch


def _apply(rule: Rule, session: Session, event: Event, facts: Facts, *, fresh: bool) -> Step:
    fields: dict[str, Any] = {}
    for change in rule.changes:
        fields |= CHANGES[change](session, event, facts)
    fields["state"] = rule.to
    fields["generation"] = 1 if fresh else session.generation + 1
    after = replace(session, **fields)
    check(after)
    return Step(
        session=after, effects=rule.effects, audit=audit_of(session, after, event, facts, fresh=fresh)
    )


def refenced(session: Session, fence: int, *, at_ms: int) -> Step:
    """Return a starting session under a higher fence: the log had an entry E that the registry did not know
    (7).
    """
    assert session.state is State.STARTING
    assert fence > session.fence, "a fence only grows"
    after = replace(session, fence=fence, generation=session.generation + 1)
    audit = AuditEntry(
        kind="session.refenced",
        actor="system",
        at_ms=at_ms,
        session_id=session.id,
        workspace_id=session.workspace_id,
        user_id=session.user_id,
        facts=(("fence", fence), ("was", session.fence)),
    )
    return Step(session=after, effects=(), audit=audit)


def returned(old: Session, *, session_id: SessionId, hold_s: float, facts: Facts) -> Step:
    """Return the session that a user's held desktop goes on as: same lease, same fence, new id (5.6).

    It begins held, as after a loss that never attached: it is active once a link is attached. Commit it with
    the old one's close, thaw afterwards.
    """
    assert old.outcome is Outcome.REUSED
    new = Session(
        id=session_id,
        workspace_id=old.workspace_id,
        user_id=old.user_id,
        policy_id=old.policy_id,
        policy_rev=old.policy_rev,
        state=State.STARTING,
        generation=1,
        registry_epoch=facts.epoch,
        fence=old.fence,
        node_id=old.node_id,
        hold_s=hold_s,
        created_at_ms=facts.at_ms,
        start_from=old.start_from,
    )
    fields = CHANGES[Change.LOSS_NEVER_ATTACHED](new, Event.DESKTOP_REUSED, facts)
    new = replace(new, state=State.HELD, **fields)
    check(new)
    audit = AuditEntry(
        kind="session.returned",
        actor=facts.actor,
        at_ms=facts.at_ms,
        session_id=new.id,
        workspace_id=new.workspace_id,
        user_id=new.user_id,
        facts=(("from", old.id), ("to", new.state.value), ("fence", new.fence)),
    )
    return Step(session=new, effects=(Effect.THAW, Effect.ARM_HOLD), audit=audit)


def adopted(
    *,
    session_id: SessionId,
    workspace_id: WorkspaceId,
    user_id: UserId,
    fence: int,
    node_id: NodeId,
    policy_id: PolicyId,
    policy_rev: int,
    hold_s: float,
    facts: Facts,
    running: bool,
) -> Step:
    """Return the record of a desktop that the registry does not know (8.5).

    It runs: held, with a full hold. Its processes ended: closing, with its home to be saved as it lies.
    """
    new = Session(
        id=session_id,
        workspace_id=workspace_id,
        user_id=user_id,
        policy_id=policy_id,
        policy_rev=policy_rev,
        state=State.STARTING,
        generation=1,
        registry_epoch=facts.epoch,
        fence=fence,
        node_id=node_id,
        hold_s=hold_s,
        created_at_ms=facts.at_ms,
        grant=GRANT_STEP,
        grant_cause="login",
    )
    if running:
        lost = replace(facts, cause=LossCause.SERVER_RESTART)
        new = replace(new, state=State.HELD, **CHANGES[Change.LOSS](new, Event.SETTLED, lost))
    else:
        dead = CHANGES[Change.CLOSE_OF_DEAD](new, Event.SETTLED, facts)
        new = replace(new, state=State.CLOSING, **dead)
    check(new)
    audit = AuditEntry(
        kind="session.adopted",
        actor=facts.actor,
        at_ms=facts.at_ms,
        session_id=new.id,
        workspace_id=workspace_id,
        user_id=user_id,
        facts=(("to", new.state.value), ("fence", fence), ("reason", facts.reason)),
    )
    return Step(session=new, effects=(Effect.THAW, Effect.ARM_HOLD), audit=audit)


def check(session: Session) -> None:
    """Assert what must be true of every record that is written, also what must not be."""
    assert session.generation >= 1
    assert (session.state is State.HELD) == (session.hold is not None), "a hold runs exactly while held"
    assert session.hold is None or session.hold.left_ms >= 0
    assert (session.state is State.CLOSED) == (session.outcome is not None)
    if session.state is State.CLOSING:
        assert session.close_step is not None
        assert session.close_cause is not None
    if session.state in (State.ACTIVE, State.HELD):
        assert session.close_step is None
        assert session.c2 is None
    if session.state is not State.ACTIVE and session.state is not State.STARTING:
        assert session.link_id is None, "only a live session has a link"


def audit_of(
    before: Session, after: Session, event: Event, facts: Facts, *, fresh: bool = False
) -> AuditEntry:
    """The one audit record of a transition, written in its transaction (S19)."""
    told: list[tuple[str, str | int | float | bool | None]] = [
        ("from", "" if fresh else before.state.value),
        ("to", after.state.value),
        ("generation", after.generation),
    ]
    if after.loss_epoch != before.loss_epoch and after.loss_cause is not None:
        told += [("cause", after.loss_cause.value), ("loss_epoch", after.loss_epoch)]
    if after.close_step is not before.close_step and after.close_step is not None:
        told.append(("step", after.close_step.value))
    if after.hook_state is not before.hook_state:
        told.append(("hook", after.hook_state.value))
    if after.close_cause is not None and before.close_cause is None:
        told.append(("cause", after.close_cause.value))
    if after.outcome is not None:
        told.append(("outcome", after.outcome.value))
    if facts.position is not None:
        told += [("seq", facts.position.seq), ("hash", facts.position.hash.hex())]
    if facts.delta_ms:
        told.append(("delta_s", facts.delta_ms / 1000))
    if facts.device_label:
        told.append(("device", facts.device_label))
    if facts.paths:
        told.append(("paths", "\n".join(facts.paths)))
    if facts.reason:
        told.append(("reason", facts.reason))
    return AuditEntry(
        kind=f"session.{event.value}",
        actor=facts.actor,
        at_ms=facts.at_ms,
        session_id=after.id,
        workspace_id=after.workspace_id,
        user_id=after.user_id,
        facts=tuple(told),
    )


def refused(session: Session | None, event: Event, why: str) -> TransitionRefused:
    """The error for an event that is not allowed."""
    state = session.state.value if session is not None else ""
    return TransitionRefused(
        f"{event.value} in {state or 'no session'}: {why}", event=event.value, state=state, why=why
    )

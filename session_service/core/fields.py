"""What each rule of the lifecycle changes in the record, by name: one writer per field.

Not conditions (`core/guards.py`) and not effects. A change returns the fields it sets; everything it does not
name stays.
Source: lifecycle.md sections 3, 4.2, 4.4, 5.5 and 8.5.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from session_service.core.events import Event, Facts
from session_service.core.records import (
    CloseCause,
    CloseStep,
    Hold,
    HookState,
    LossCause,
    Outcome,
    Session,
    State,
)

SHORTEN_LEFT_MS_MIN = 60_000
"""A running hold is never shortened below what is consumed plus this (5.5)."""

GRANT_STEP = 65_536
"""Added to a grant after a roll-back of the registry: more than were ever given since its last copy."""

Fields = dict[str, Any]


class Change(StrEnum):
    """Names of the changes."""

    LINK = "link"
    GRANT = "grant"
    READY = "ready"
    RESUMED = "resumed"
    LOSS = "loss"
    REVOKED = "revoked"
    LOSS_NEVER_ATTACHED = "loss_never_attached"
    HOLD_LENGTH = "hold_length"
    START_AGAIN = "start_again"
    CLOSE_BEGUN = "close_begun"
    CLOSE_OF_DEAD = "close_of_dead"
    NOT_ASKED = "not_asked"
    STEP = "step"
    SAVE_AGAIN = "save_again"
    PATHS = "paths"
    CLOSED_DONE = "closed_done"
    CLOSED_FAILED = "closed_failed"
    CLOSED_LOST = "closed_lost"
    CLOSED_NODE_LOST = "closed_node_lost"
    CLOSED_REUSED = "closed_reused"
    CARRIED = "carried"
    EPOCH = "epoch"
    SETTLED_LOSS = "settled_loss"
    SETTLED_LINK = "settled_link"


CAUSES: Mapping[Event, CloseCause] = {
    Event.HOLD_EXPIRED: CloseCause.HOLD,
    Event.IDLE_LIMIT: CloseCause.IDLE,
    Event.LENGTH_LIMIT: CloseCause.LENGTH,
    Event.USER_END: CloseCause.USER,
    Event.OPERATOR_END: CloseCause.OPERATOR,
    Event.DESKTOP_DIED: CloseCause.DEATH,
    Event.SETTLED: CloseCause.DEATH,
}

OUTCOMES: Mapping[CloseCause, Outcome] = {
    CloseCause.HOLD: Outcome.SAVED,
    CloseCause.IDLE: Outcome.SAVED,
    CloseCause.LENGTH: Outcome.SAVED,
    CloseCause.USER: Outcome.ENDED_BY_USER,
    CloseCause.OPERATOR: Outcome.ENDED_BY_OPERATOR,
    CloseCause.DEATH: Outcome.SAVED_AFTER_DEATH,
}


def fresh_hold(session: Session, facts: Facts) -> Hold:
    """A full hold that begins now. Its base is never below the counter at the loss: a lower one would end it
    early (4.2).
    """
    assert facts.clock is not None, "a loss needs a node whose counter counts"
    assert facts.base_count_ms is not None, "a loss needs a counter reading"
    return Hold(clock=facts.clock, base_ms=facts.base_count_ms, left_ms=round(session.hold_s * 1000))


def _link(session: Session, event: Event, facts: Facts) -> Fields:
    return {
        "link_id": facts.link_id,
        "device_id": facts.device_id,
        "device_label": facts.device_label,
    }


def _grant(session: Session, event: Event, facts: Facts) -> Fields:
    """Only an accepted `open` raises the grant; a resume rotates nothing."""
    if event is not Event.CLIENT_ATTACHED:
        return {}
    return {"grant": session.grant + 1, "grant_cause": "open"}


def _ready(session: Session, event: Event, facts: Facts) -> Fields:
    return {"start_from": facts.start_from}


def _resumed(session: Session, event: Event, facts: Facts) -> Fields:
    return {"hold": None, "loss_cause": None, "lost_at_ms": None}


def _loss_with(cause: LossCause, session: Session, facts: Facts) -> Fields:
    return {
        "loss_epoch": session.loss_epoch + 1,
        "loss_cause": cause,
        "lost_at_ms": facts.at_ms,
        "hold": fresh_hold(session, facts),
        "link_id": None,
    }


def _loss(session: Session, event: Event, facts: Facts) -> Fields:
    fields = _loss_with(facts.cause or LossCause.UNKNOWN, session, facts)
    return fields | _revoked(session, event, facts) if facts.revoked else fields


def _revoked(session: Session, event: Event, facts: Facts) -> Fields:
    return {"grant": session.grant + 1, "grant_cause": "login"}


def _loss_never_attached(session: Session, event: Event, facts: Facts) -> Fields:
    return _loss_with(LossCause.NEVER_ATTACHED, session, facts)


def _hold_length(session: Session, event: Event, facts: Facts) -> Fields:
    hold = session.hold
    if hold is None:
        return {"hold_s": max(0.0, session.hold_s + facts.delta_ms / 1000)}
    left = hold.left_ms + facts.delta_ms
    if facts.delta_ms < 0:
        consumed = max(0, (facts.base_count_ms or 0) - hold.base_ms)
        left = min(hold.left_ms, max(left, consumed + SHORTEN_LEFT_MS_MIN))
    return {"hold": Hold(clock=hold.clock, base_ms=hold.base_ms, left_ms=left)}


def _start_again(session: Session, event: Event, facts: Facts) -> Fields:
    return {"start_attempts": session.start_attempts + 1, "detail": facts.reason}


def _close_begun(session: Session, event: Event, facts: Facts) -> Fields:
    return {
        "close_step": CloseStep.ACCESS_ENDED,
        "close_cause": CAUSES[event],
        "close_actor": facts.actor,
        "hold": None,
        "link_id": None,
    }


def _close_of_dead(session: Session, event: Event, facts: Facts) -> Fields:
    """The home as it lies: nobody is left to be asked."""
    return {
        "close_step": CloseStep.EXITING,
        "close_cause": session.close_cause or CAUSES[event],
        "close_actor": session.close_actor or facts.actor,
        "asked_at_ms": facts.at_ms,
        "hook_state": HookState.SKIPPED,
        "c2": None,
        "hold": None,
        "link_id": None,
        "detail": facts.reason or session.detail,
    }


def _not_asked(session: Session, event: Event, facts: Facts) -> Fields:
    """A desktop that died while closing has nobody to ask; a hook that was started stays reported."""
    if session.close_step not in (CloseStep.ACCESS_ENDED, CloseStep.EXITING):
        return {}
    fields: Fields = {"asked_at_ms": session.asked_at_ms or facts.at_ms}
    if session.hook_state is HookState.NONE:
        fields["hook_state"] = HookState.SKIPPED
    return fields


def _step(session: Session, event: Event, facts: Facts) -> Fields:
    if facts.step is None:
        fields: Fields = {"hook_state": facts.hook}
        if session.asked_at_ms is None:
            fields["asked_at_ms"] = facts.at_ms
        if facts.refused_windows:
            fields["refused_windows"] = facts.refused_windows
        return fields
    fields = {"close_step": facts.step}
    if facts.step is CloseStep.EXITING:
        fields["c1"] = facts.position
    if facts.step is CloseStep.ENDING:
        fields["c2"] = facts.position
    if facts.freeze_method:
        fields["freeze_method"] = facts.freeze_method
    return fields


def _save_again(session: Session, event: Event, facts: Facts) -> Fields:
    """Back to `exiting`; c2 stays, and says `ending` was reached: no thaw, nobody is given it back."""
    return {
        "close_step": CloseStep.EXITING,
        "asked_at_ms": session.asked_at_ms or facts.at_ms,
        "hook_state": HookState.SKIPPED if session.hook_state is HookState.NONE else session.hook_state,
    }


def _paths(session: Session, event: Event, facts: Facts) -> Fields:
    return {"accepted_paths": tuple(sorted({*session.accepted_paths, *facts.paths}))}


def _closed(outcome: Outcome, facts: Facts) -> Fields:
    return {
        "outcome": outcome,
        "closed_at_ms": facts.at_ms,
        "hold": None,
        "link_id": None,
    }


def _closed_done(session: Session, event: Event, facts: Facts) -> Fields:
    assert session.close_cause is not None
    return _closed(OUTCOMES[session.close_cause], facts) | {"close_step": CloseStep.RECEIPTED}


def _closed_failed(session: Session, event: Event, facts: Facts) -> Fields:
    return _closed(Outcome.START_FAILED, facts) | {"detail": facts.reason}


def _closed_lost(session: Session, event: Event, facts: Facts) -> Fields:
    """Nothing of it is left here. A session that never launched anything lost nothing: its own end is its
    outcome.

    A running session may come after a close that was given back, whose final checkpoint is the newest still:
    that says nothing of what was written since.
    """
    ran = event is Event.DESKTOP_ABSENT and session.state is not State.CLOSING
    if facts.final_is_newest and not ran:
        outcome = Outcome.SAVED
    elif not facts.launched and session.close_cause is not None:
        outcome = OUTCOMES[session.close_cause]
    else:
        outcome = Outcome.DESKTOP_LOST
    return _closed(outcome, facts) | {"detail": facts.reason}


def _closed_node_lost(session: Session, event: Event, facts: Facts) -> Fields:
    outcome = Outcome.SAVED if facts.final_is_newest else Outcome.NODE_LOST
    return _closed(outcome, facts) | {"detail": facts.reason}


def _closed_reused(session: Session, event: Event, facts: Facts) -> Fields:
    return _closed(Outcome.REUSED, facts)


def _carried(session: Session, event: Event, facts: Facts) -> Fields:
    """Another node counts on: consumption is only ever forgotten, readings of two counters are never compared
    (4.4).
    """
    hold = session.hold
    assert hold is not None
    assert facts.clock is not None
    assert facts.old_count_ms is not None
    assert facts.base_count_ms is not None
    left = max(0, hold.left_ms - max(0, facts.old_count_ms - hold.base_ms))
    return {
        "fence": facts.fence,
        "node_id": facts.node_id,
        "hold": Hold(clock=facts.clock, base_ms=facts.base_count_ms, left_ms=left),
    }


def _epoch(session: Session, event: Event, facts: Facts) -> Fields:
    return {"registry_epoch": facts.epoch}


def _settled_loss(session: Session, event: Event, facts: Facts) -> Fields:
    """A registry that may have lost anything costs nobody a minute: a full hold, also out of closing."""
    cause = session.loss_cause or LossCause.SERVER_RESTART
    return _loss_with(cause, session, facts) | _out_of_closing() | _older_keys_void(session)


def _settled_link(session: Session, event: Event, facts: Facts) -> Fields:
    return (
        {"loss_epoch": session.loss_epoch + 1, "hold": None}
        | _out_of_closing()
        | _older_keys_void(session)
        | _link(session, event, facts)
    )


def _older_keys_void(session: Session) -> Fields:
    """A registry that was rolled back may name a grant whose key was void already: none of them attaches.

    Source: gateway.md 9.2 ("Registry rolled back").
    """
    return {"grant": session.grant + GRANT_STEP, "grant_cause": "login"}


def _out_of_closing() -> Fields:
    return {
        "close_step": None,
        "close_cause": None,
        "close_actor": None,
        "asked_at_ms": None,
        "hook_state": HookState.NONE,
        "c1": None,
        "c2": None,
    }


CHANGES: Mapping[Change, Callable[[Session, Event, Facts], Fields]] = {
    Change.LINK: _link,
    Change.GRANT: _grant,
    Change.READY: _ready,
    Change.RESUMED: _resumed,
    Change.LOSS: _loss,
    Change.REVOKED: _revoked,
    Change.LOSS_NEVER_ATTACHED: _loss_never_attached,
    Change.HOLD_LENGTH: _hold_length,
    Change.START_AGAIN: _start_again,
    Change.CLOSE_BEGUN: _close_begun,
    Change.CLOSE_OF_DEAD: _close_of_dead,
    Change.NOT_ASKED: _not_asked,
    Change.STEP: _step,
    Change.SAVE_AGAIN: _save_again,
    Change.PATHS: _paths,
    Change.CLOSED_DONE: _closed_done,
    Change.CLOSED_FAILED: _closed_failed,
    Change.CLOSED_LOST: _closed_lost,
    Change.CLOSED_NODE_LOST: _closed_node_lost,
    Change.CLOSED_REUSED: _closed_reused,
    Change.CARRIED: _carried,
    Change.EPOCH: _epoch,
    Change.SETTLED_LOSS: _settled_loss,
    Change.SETTLED_LINK: _settled_link,
}

WORDS: Mapping[Change, str] = {
    Change.LINK: "link_id, device",
    Change.GRANT: "attached: grant + 1",
    Change.READY: "start_from",
    Change.RESUMED: "hold and loss cleared",
    Change.LOSS: "loss_epoch + 1, cause, hold (4.2), link_id null; revoked: grant + 1",
    Change.REVOKED: "grant + 1, grant_cause login",
    Change.LOSS_NEVER_ATTACHED: "as a loss, cause never_attached",
    Change.HOLD_LENGTH: "hold_left_ms (5.5); without a hold hold_s",
    Change.START_AGAIN: "start_attempts + 1",
    Change.CLOSE_BEGUN: "close_step access_ended, cause, actor",
    Change.CLOSE_OF_DEAD: "close_step exiting, asking skipped",
    Change.NOT_ASKED: "asking skipped",
    Change.STEP: "close_step, c1, c2, asked_at, hook_state",
    Change.SAVE_AGAIN: "close_step exiting; c2 stays until the next one",
    Change.PATHS: "accepted_paths",
    Change.CLOSED_DONE: "outcome by cause, lease freed",
    Change.CLOSED_FAILED: "outcome start_failed, lease freed",
    Change.CLOSED_LOST: "outcome desktop_lost (saved if the log's newest is C*), lease freed",
    Change.CLOSED_NODE_LOST: "outcome node_lost (saved if C*)",
    Change.CLOSED_REUSED: "outcome reused; the new session keeps lease and fence",
    Change.CARRIED: "fence + 1, node, hold carried (4.4)",
    Change.EPOCH: "registry_epoch",
    Change.SETTLED_LOSS: "loss_epoch + 1, full hold, grant + 65,536",
    Change.SETTLED_LINK: "loss_epoch + 1, link_id, grant + 65,536",
}

"""The conditions of the lifecycle's rules, each a named question about a record and the facts.

Not decisions: `core/lifecycle.py` says which rule asks what. A guard answers with the reason why not, or ""
for yes.
Source: lifecycle.md sections 3, 5 and 6.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from session_service.core.events import Facts, Found
from session_service.core.records import CloseStep, HookState, Session

STARTS_MAX = 3
"""A desktop that dies while starting is started this often in all; then its home is closed through the saga
(5.8).
"""

BEFORE_ENDING = frozenset({CloseStep.ACCESS_ENDED, CloseStep.EXITING})
"""Close steps at which the frozen desktop can still be given back."""


class Guard(StrEnum):
    """Names of the conditions."""

    ALWAYS = "always"
    NEW_RECORD = "new_record"
    LINK_ATTACHED = "link_attached"
    NO_LINK = "no_link"
    NO_PROCESS = "no_process"
    STARTS_LEFT = "starts_left"
    STARTS_SPENT = "starts_spent"
    RECORDED_LINK = "recorded_link"
    TAKEOVER_ALLOWED = "takeover_allowed"
    LIMIT_REACHED = "limit_reached"
    HOLD_OVER = "hold_over"
    DESKTOP_ABSENT = "desktop_absent"
    STEP_FOLLOWS = "step_follows"
    STEP_LAST = "step_last"
    BEFORE_ENDING = "before_ending"
    AFTER_C2 = "after_c2"
    RETURNABLE = "returnable"
    RECEIVER_READY = "receiver_ready"
    NEWER_EPOCH = "newer_epoch"
    SETTLED_ATTACHED = "settled_attached"
    SETTLED_RUNNING = "settled_running"
    SETTLED_ENDED = "settled_ended"
    SETTLED_ABSENT = "settled_absent"


def _always(session: Session, facts: Facts) -> str:
    return ""


def _new_record(session: Session, facts: Facts) -> str:
    return ""


def _link_attached(session: Session, facts: Facts) -> str:
    return "" if facts.attached else "no link is attached now"


def _no_link(session: Session, facts: Facts) -> str:
    return "a link is attached now" if facts.attached else ""


def _no_process(session: Session, facts: Facts) -> str:
    gone = facts.found in (Found.ABSENT, Found.PROCESSES_ENDED)
    return "" if gone else "the census does not prove that no process is left"


def _starts_left(session: Session, facts: Facts) -> str:
    return "" if session.start_attempts + 1 < STARTS_MAX else "it died too often"


def _starts_spent(session: Session, facts: Facts) -> str:
    return "it may be started again" if session.start_attempts + 1 < STARTS_MAX else ""


def _recorded_link(session: Session, facts: Facts) -> str:
    if session.link_id != facts.link_id:
        return "another link is the recorded one: an old link's end changes nothing"
    return ""


def _takeover_allowed(session: Session, facts: Facts) -> str:
    return "" if facts.takeover_allowed else "the policy does not allow to take this session over"


def _limit_reached(session: Session, facts: Facts) -> str:
    return "" if facts.limit_reached else "the limit is not reached"


def _hold_over(session: Session, facts: Facts) -> str:
    """Checked against the record, never against the timer that fired: an old timer cannot end a new hold."""
    hold = session.hold
    if hold is None:
        return "no hold runs"
    if facts.loss_epoch != session.loss_epoch:
        return "the expiry names another loss"
    if facts.clock != hold.clock:
        return "the hold is counted on another node's counter"
    if facts.written_count_ms is None or facts.written_count_ms < hold.deadline_ms:
        return "the written counter has not reached the deadline"
    if facts.attached:
        return "memory knows of a client"
    if facts.marked:
        return "a provisional resume left its mark"
    return ""


def _desktop_absent(session: Session, facts: Facts) -> str:
    if facts.found is not Found.ABSENT:
        return "the owner's own census does not say that the desktop is absent"
    return _before_ending(session, facts) if session.close_step else ""


STEP_ORDER = tuple(CloseStep)


def _step_follows(session: Session, facts: Facts) -> str:
    done = session.close_step
    if done is None:
        return "the record names no step"
    if facts.step is None:
        if facts.hook is None:
            return "neither a step nor a word about the hook"
        if done is not CloseStep.EXITING:
            return "applications are asked after `exiting` and before `ending` only"
        if facts.hook is HookState.STARTED and session.hook_state is not HookState.NONE:
            return "the hook is never run twice"
        return ""
    if STEP_ORDER.index(facts.step) != STEP_ORDER.index(done) + 1:
        return f"{facts.step} does not follow {done}"
    if facts.step is CloseStep.RECEIPTED:
        return "the last step closes"
    if facts.step in (CloseStep.EXITING, CloseStep.ENDING) and facts.position is None:
        return "no verified checkpoint is given"
    if facts.step is CloseStep.ENDING and session.asked_at_ms is None:
        return "the applications were not asked"
    if facts.step is CloseStep.ENDED and facts.found is Found.RUNNING:
        return "processes are left"
    return ""


def _step_last(session: Session, facts: Facts) -> str:
    if session.close_step is not CloseStep.WIPED or facts.step is not CloseStep.RECEIPTED:
        return "the receipt follows the wipe"
    return ""


def _before_ending(session: Session, facts: Facts) -> str:
    return "" if session.close_step in BEFORE_ENDING else "the point of no return is passed"


def _after_c2(session: Session, facts: Facts) -> str:
    """Home and log are looked at before anything ends and again before the wipe; both looks may differ."""
    return "" if session.close_step in (CloseStep.ENDING, CloseStep.ENDED) else "only at `ending` or `ended`"


def _returnable(session: Session, facts: Facts) -> str:
    if facts.found is not Found.RUNNING:
        return "the desktop does not run any more"
    if session.c2 is not None:
        # A kill whose `ending` was answered may still finish late, though the store lost that checkpoint.
        return "the point of no return was passed once"
    return _before_ending(session, facts)


def _receiver_ready(session: Session, facts: Facts) -> str:
    complete = facts.node_id and facts.fence == session.fence + 1 and facts.old_count_ms is not None
    return "" if complete else "the receiver does not say who it is, its fence and both counters"


def _newer_epoch(session: Session, facts: Facts) -> str:
    return "" if facts.epoch > session.registry_epoch else "the session is settled in this epoch"


def _settled(found: Found, attached: bool | None) -> Callable[[Session, Facts], str]:
    def guard(session: Session, facts: Facts) -> str:
        if facts.found is not found:
            return f"the desktop is {facts.found}"
        if attached is not None and facts.attached is not attached:
            return "a link is attached now" if facts.attached else "no link is attached now"
        return _newer_epoch(session, facts)

    return guard


GUARDS: Mapping[Guard, Callable[[Session, Facts], str]] = {
    Guard.ALWAYS: _always,
    Guard.NEW_RECORD: _new_record,
    Guard.LINK_ATTACHED: _link_attached,
    Guard.NO_LINK: _no_link,
    Guard.NO_PROCESS: _no_process,
    Guard.STARTS_LEFT: _starts_left,
    Guard.STARTS_SPENT: _starts_spent,
    Guard.RECORDED_LINK: _recorded_link,
    Guard.TAKEOVER_ALLOWED: _takeover_allowed,
    Guard.LIMIT_REACHED: _limit_reached,
    Guard.HOLD_OVER: _hold_over,
    Guard.DESKTOP_ABSENT: _desktop_absent,
    Guard.STEP_FOLLOWS: _step_follows,
    Guard.STEP_LAST: _step_last,
    Guard.BEFORE_ENDING: _before_ending,
    Guard.AFTER_C2: _after_c2,
    Guard.RETURNABLE: _returnable,
    Guard.RECEIVER_READY: _receiver_ready,
    Guard.NEWER_EPOCH: _newer_epoch,
    Guard.SETTLED_ATTACHED: _settled(Found.RUNNING, True),
    Guard.SETTLED_RUNNING: _settled(Found.RUNNING, False),
    Guard.SETTLED_ENDED: _settled(Found.PROCESSES_ENDED, None),
    Guard.SETTLED_ABSENT: _settled(Found.ABSENT, None),
}

WORDS: Mapping[Guard, str] = {
    Guard.ALWAYS: "",
    Guard.NEW_RECORD: "lease free; store readable",
    Guard.LINK_ATTACHED: "a link is attached now",
    Guard.NO_LINK: "no link is attached now",
    Guard.NO_PROCESS: "census proves no process of this session",
    Guard.STARTS_LEFT: "fewer than three deaths",
    Guard.STARTS_SPENT: "the third death",
    Guard.RECORDED_LINK: "link_id = the record's",
    Guard.TAKEOVER_ALLOWED: "takeover rule of the policy",
    Guard.LIMIT_REACHED: "limit checked against the record",
    Guard.HOLD_OVER: "session, loss epoch and deadline hold; no link, no mark",
    Guard.DESKTOP_ABSENT: "own census and disk; before `ending`",
    Guard.STEP_FOLLOWS: "the step follows; its evidence is given",
    Guard.STEP_LAST: "wiped, and the receipt was read back",
    Guard.BEFORE_ENDING: "before `ending`",
    Guard.AFTER_C2: "at `ending` or `ended`",
    Guard.RETURNABLE: "before `ending`, and never there; the desktop runs",
    Guard.RECEIVER_READY: "receiver settled and up; both counters read",
    Guard.NEWER_EPOCH: "the registry has a newer epoch",
    Guard.SETTLED_ATTACHED: "newer epoch; desktop runs, link attached",
    Guard.SETTLED_RUNNING: "newer epoch; desktop runs",
    Guard.SETTLED_ENDED: "newer epoch; processes ended, home there",
    Guard.SETTLED_ABSENT: "newer epoch; neither desktop nor home",
}

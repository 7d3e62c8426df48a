"""The close saga as data: the steps between a session's last moment and its receipt, in order, each with
evidence and limit.

Not the doing: `control/closing.py` has one method per step. Each step is repeated for ever until its evidence
holds, then recorded in one transaction. Later issues insert steps here and rewrite none. Source: lifecycle.md
section 6.1.
"""

from dataclasses import dataclass
from enum import StrEnum

from session_service.core import limits
from session_service.core.records import CloseStep, HookState, Session


class StepName(StrEnum):
    """What the saga does, in order."""

    SAVE_FIRST = "save_first"
    ASK = "ask"
    SAVE_FINAL = "save_final"
    END = "end"
    WIPE = "wipe"
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStep:
    """One step: what it is after, what it records, what proves it, and when its delay is an alarm."""

    name: StepName
    after: CloseStep
    """The step that the record names while this one is done."""
    records: CloseStep | None
    """What the record names when it is done; None: a word within the same step (the applications were
    asked).
    """
    evidence: str
    harmless_repeat: str
    alarm_s: float
    destroys: bool = False
    """Ends or wipes something: only after a recorded `ending`, and with a proof from the storage worker."""


CLOSE_STEPS: tuple[SagaStep, ...] = (
    SagaStep(
        name=StepName.SAVE_FIRST,
        after=CloseStep.ACCESS_ENDED,
        records=CloseStep.EXITING,
        evidence="frozen before and after; a new scan, read back, complete or accepted by name",
        harmless_repeat="freezing twice is once; entries are create-only",
        alarm_s=limits.STEP_ALARM_S,
    ),
    SagaStep(
        name=StepName.ASK,
        after=CloseStep.EXITING,
        records=None,
        evidence="the intent is recorded before the thaw",
        harmless_repeat="a hook that was started is never run again, it is reported",
        alarm_s=limits.STEP_ALARM_S,
    ),
    SagaStep(
        name=StepName.SAVE_FINAL,
        after=CloseStep.EXITING,
        records=CloseStep.ENDING,
        evidence="as save_first; a final entry in the log that is not recorded proves nothing",
        harmless_repeat="asked and saved again from `exiting`",
        alarm_s=limits.STEP_ALARM_S,
    ),
    SagaStep(
        name=StepName.END,
        after=CloseStep.ENDING,
        records=CloseStep.ENDED,
        evidence="the census finds no process of the session",
        harmless_repeat="already gone is done",
        alarm_s=limits.ENDING_ALARM_S,
        destroys=True,
    ),
    SagaStep(
        name=StepName.WIPE,
        after=CloseStep.ENDED,
        records=CloseStep.WIPED,
        evidence="the home as it lies equals the recorded checkpoint and the log still holds it",
        harmless_repeat="a home that is gone was wiped with that proof; the log is looked at again",
        alarm_s=limits.ENDING_ALARM_S,
        destroys=True,
    ),
    SagaStep(
        name=StepName.RECEIPT,
        after=CloseStep.WIPED,
        records=CloseStep.RECEIPTED,
        evidence="the receipt was read back; closed and lease free in the same transaction",
        harmless_repeat="create-only; the body that is there is kept",
        alarm_s=limits.STEP_ALARM_S,
    ),
)


def next_step(session: Session, *, asked: bool) -> SagaStep:
    """Return the step to do now. Nothing but `asked` is remembered, and that not beyond a crash.

    Args:
        asked: the applications were asked in this life of the service; after a crash they are asked again,
        without the hook.
    """
    assert session.close_step is not None
    for step in CLOSE_STEPS:
        if step.after is session.close_step and not (
            step.name is StepName.ASK and not must_ask(session, asked=asked)
        ):
            return step
    raise AssertionError(session.close_step)


def must_ask(session: Session, *, asked: bool) -> bool:
    """Say whether applications are still to be asked: nobody is there to be asked when the desktop died.

    After `ending` was recorded once nothing is thawed, whatever was lost since.
    """
    return session.hook_state is not HookState.SKIPPED and session.c2 is None and not asked


def may_run_hook(session: Session) -> bool:
    """Say whether the user's hook was never started for this close."""
    return session.hook_state is HookState.NONE and session.asked_at_ms is None

"""The small pure parts around the table: policy, close steps, refusals, the choice of a checkpoint, words."""

from dataclasses import dataclass, fields

import pytest

from session_service.base.errors import BadInput, OlderOnly
from session_service.core import chain, policy, refusals
from session_service.core.close import CLOSE_STEPS, StepName, may_run_hook, next_step
from session_service.core.close_codes import ENDINGS
from session_service.core.events import Event
from session_service.core.explain import WORDS, in_words
from session_service.core.records import (
    AuditEntry,
    CloseCause,
    CloseStep,
    HookState,
    LogPosition,
    Outcome,
    State,
)
from tests.unit.test_core_lifecycle import closing, session


@dataclass(frozen=True)
class Listed:
    seq: int
    hash: bytes
    complete: bool = True


def at(seq: int, hash_: bytes = b"h") -> LogPosition:
    return LogPosition(seq=seq, hash=hash_)


def test_the_newest_checkpoint_is_chosen_when_it_is_the_recorded_one_or_later() -> None:
    """Later: a checkpoint stood in the log, and the crash came before the registry knew."""
    one, two = Listed(1, b"h"), Listed(2, b"i")
    assert chain.choose(recorded=at(1), newest=one, history=[], chosen_seq=None).start_from == at(1)
    assert chain.choose(recorded=at(1), newest=two, history=[one, two], chosen_seq=None).start_from == at(
        2, b"i"
    )
    assert chain.choose(recorded=None, newest=two, history=[], chosen_seq=None).start_from == at(2, b"i")


def test_an_empty_home_only_where_nothing_was_ever_recorded() -> None:
    """The log is there, and empty."""
    assert chain.choose(recorded=None, newest=None, history=[], chosen_seq=None).start_from is None
    with pytest.raises(OlderOnly):
        chain.choose(recorded=at(1), newest=None, history=[], chosen_seq=None)


@pytest.mark.parametrize("newest", [Listed(4, b"h"), Listed(5, b"another"), Listed(6, b"x")])
def test_a_log_that_lacks_what_was_recorded_starts_nothing_by_itself(newest: Listed) -> None:
    """Shorter, or of the right length with another hash (M41), or grown over the loss by our own entries
    (M33).
    """
    with pytest.raises(OlderOnly) as refused:
        chain.choose(recorded=at(5), newest=newest, history=[Listed(4, b"h"), newest], chosen_seq=None)
    assert refused.value.facts["recorded_seq"] == 5


def test_a_user_may_choose_an_older_checkpoint_that_is_there() -> None:
    """Told what is missing, by number; one that is not there is refused."""
    older = Listed(2, b"o")
    chosen = chain.choose(recorded=at(9), newest=Listed(4, b"h"), history=[older], chosen_seq=2)
    assert chosen.start_from == at(2, b"o")
    with pytest.raises(OlderOnly):
        chain.choose(recorded=None, newest=None, history=[older], chosen_seq=3)


def test_an_incomplete_checkpoint_that_was_accepted_by_name_is_the_newest() -> None:
    """The close recorded it; the newest complete one is older."""
    accepted, whole = Listed(5, b"a", complete=False), Listed(4, b"h")
    choice = chain.choose(recorded=at(5, b"a"), newest=whole, history=[whole, accepted], chosen_seq=None)
    assert choice.start_from == at(5, b"a")


def test_the_steps_of_a_close_follow_each_other() -> None:
    """Each step begins where another one ended, and only the last two kinds destroy."""
    assert [step.name for step in CLOSE_STEPS] == list(StepName)
    reached = CloseStep.ACCESS_ENDED
    for one in CLOSE_STEPS:
        assert one.after is reached
        reached = one.records or reached
    assert reached is CloseStep.RECEIPTED
    assert [one.name for one in CLOSE_STEPS if one.destroys] == [StepName.END, StepName.WIPE]
    destroying = [one.after for one in CLOSE_STEPS if one.destroys]
    assert all(
        list(CloseStep).index(after) >= list(CloseStep).index(CloseStep.ENDING) for after in destroying
    )


@pytest.mark.parametrize(
    ("at_step", "asked", "name"),
    [
        (CloseStep.ACCESS_ENDED, False, StepName.SAVE_FIRST),
        (CloseStep.EXITING, False, StepName.ASK),
        (CloseStep.EXITING, True, StepName.SAVE_FINAL),
        (CloseStep.ENDING, False, StepName.END),
        (CloseStep.ENDED, False, StepName.WIPE),
        (CloseStep.WIPED, False, StepName.RECEIPT),
    ],
)
def test_the_next_step_follows_from_the_record(at_step: CloseStep, asked: bool, name: StepName) -> None:
    """Nothing else is remembered over a crash."""
    assert next_step(closing(at_step), asked=asked).name is name


def test_a_dead_desktop_is_not_asked_and_a_hook_is_started_once() -> None:
    """Skipped when nobody is there; never twice, whatever became of it."""
    dead = closing(CloseStep.EXITING, hook_state=HookState.SKIPPED, asked_at_ms=1)
    assert next_step(dead, asked=False).name is StepName.SAVE_FINAL
    assert may_run_hook(closing(CloseStep.EXITING))
    assert not may_run_hook(closing(CloseStep.EXITING, hook_state=HookState.STARTED, asked_at_ms=1))
    assert not may_run_hook(closing(CloseStep.EXITING, asked_at_ms=1))


@pytest.mark.parametrize(
    ("record", "code", "next_"),
    [
        (closing(CloseStep.ACCESS_ENDED), 4423, "login"),
        (closing(CloseStep.EXITING), 4423, "login"),
        (closing(CloseStep.ENDING), 4423, "wait"),
        (closing(CloseStep.WIPED), 4423, "wait"),
        (session(State.CLOSED), 4410, "start"),
        (session(State.CLOSED, outcome=Outcome.DESKTOP_LOST), 4410, "start"),
        (session(State.CLOSED, outcome=Outcome.ENDED_BY_USER, close_cause=CloseCause.USER), 4480, "start"),
        (session(State.CLOSED, outcome=Outcome.START_FAILED), 4480, "start"),
    ],
)
def test_a_refused_caller_is_told_the_way_forward(record: object, code: int, next_: str) -> None:
    """Code, why and next of the one table; never just no."""
    refusal = refusals.by_state(record, saved_as_of_ms=7)  # type: ignore[arg-type]  # all of them are sessions
    assert refusal is not None
    assert (refusal.code, refusal.next, refusal.saved_as_of_ms) == (code, next_, 7)
    assert ENDINGS[refusal.code].why == refusal.why  # type: ignore[index]  # each code is in the one table


@pytest.mark.parametrize("state", [State.STARTING, State.ACTIVE, State.HELD])
def test_nobody_is_refused_where_an_attach_is_possible(state: State) -> None:
    """S6: a valid attach is accepted or told to try again."""
    assert refusals.by_state(session(state), saved_as_of_ms=None) is None


def test_a_policy_is_parsed_strictly_and_explains_itself() -> None:
    """Unknown keys, wrong types and values outside the range are refused by name."""
    assert policy.parse({}) == policy.DEFAULT
    assert policy.parse({"hold_s": 10}).hold_s == 10.0
    assert policy.parse({"warnings_s": [60, 300]}).warnings_s == (300.0, 60.0)
    bad: list[dict[str, object]] = [
        {"hold": 1},
        {"hold_s": -1},
        {"hold_s": 7 * 86_400 + 1},
        {"hold_s": "10"},
        {"hold_s": True},
        {"takeover": "steal"},
        {"ticket_in_path": 1},
        {"warnings_s": "60"},
        {"warnings_s": [0]},
        {"template": ""},
    ]
    for data in bad:
        with pytest.raises(BadInput) as refused:
            policy.parse(data)
        assert refused.value.facts["field"] in data
    assert {name for name, _ in policy.explain(policy.DEFAULT)} | {"id", "rev"} == {
        field.name for field in fields(policy.Policy)
    }


def test_every_transition_can_be_told_in_words() -> None:
    """An audit record of any event becomes a sentence; an unknown kind is shown by its name."""
    for event in Event:
        assert f"session.{event.value}" in WORDS
        entry = AuditEntry(kind=f"session.{event.value}", actor="system", at_ms=1)
        assert in_words(entry).endswith(".")
    assert in_words(AuditEntry(kind="x.y", actor="system", at_ms=1)) == "x.y"

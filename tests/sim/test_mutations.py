"""Seeded bugs of lifecycle.md section 13: each naive line is put into the real code, and a checker must find
it.

A checker that cannot fail proves nothing. Numbers are those of the table there; what has no place on one node
(take-over, hand-over, provisional resumes) or inside the storage is left to those parts.
"""

from collections.abc import Callable
from typing import Any

import pytest

from session_service.base.errors import StorageUnavailable
from session_service.control import starts as starts_module
from session_service.control.attachments import LinkDesk
from session_service.control.closing import Closer
from session_service.control.runners import Runners
from session_service.control.saving import position_of, saved
from session_service.control.starts import Starter
from session_service.core import fields, lifecycle
from session_service.core.availability import Availability
from session_service.core.chain import Choice
from session_service.core.close_codes import Close
from session_service.core.events import Event, Facts
from session_service.core.fields import Change
from session_service.core.guards import GUARDS, Guard
from session_service.core.lifecycle import Rule
from session_service.core.records import CloseStep, LossCause, Session, State
from session_service.core.refusals import Refusal
from session_service.ports.checkpoints import LogHead, SavePlan
from session_service.ports.streams import LinkEnd
from tests.sim.schedule import ALL_FAULTS, Schedule

Patch = Callable[[pytest.MonkeyPatch], None]
SEEDS = {"fast": 40, "all": 60, "soak": 400}


def always(session: Session, facts: Facts) -> str:
    return ""


def old_links_end_is_a_loss(patch: pytest.MonkeyPatch) -> None:
    """M1: the end of an old link counts as a loss of the session."""

    def ended(self: Any, end: LinkEnd) -> None:
        live = self._sessions.find(end.session_id)
        if live is not None:
            live.links.clear()
            self.lost(live, live.record.link_id, LossCause.UNKNOWN)

    patch.setattr(LinkDesk, "ended", ended)
    patch.setitem(GUARDS, Guard.RECORDED_LINK, always)  # type: ignore[arg-type]  # a plain dict behind a Mapping


def late_tick_counts_its_whole_gap(patch: pytest.MonkeyPatch) -> None:
    """M2, M14: the gap is taken as it is, by the clock that runs through a suspend."""

    def gap_ms(self: Availability, *, boot_ms: int, mono_ms: int) -> int:
        return max(0, boot_ms - self.boot_ms)

    patch.setattr(Availability, "gap_ms", gap_ms)


def counts_while_users_are_refused(patch: pytest.MonkeyPatch) -> None:
    """M3: the counter runs while the node refuses resumes."""
    patch.setattr(Availability, "refused_users", lambda self: self)


def takeover_leaves_the_older_link_open(patch: pytest.MonkeyPatch) -> None:
    """M62: the displaced device's link is not closed in the same step."""
    patch.setattr(LinkDesk, "_displace", lambda self, live, newest: None)


def second_loss_keeps_the_first_base(patch: pytest.MonkeyPatch) -> None:
    """M67: a second loss keeps the base reading of the first."""
    first: dict[str, Any] = {}
    fresh_hold = fields.fresh_hold

    def kept(session: Session, facts: Facts) -> Any:
        return first.setdefault(session.id, fresh_hold(session, facts))

    patch.setattr(fields, "fresh_hold", kept)


def told_expired_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """M37: the client is told `expired` when the timer would fire, before the commit."""
    refusal = LinkDesk._refusal

    async def early(self: Any, session_id: Any) -> Refusal | None:
        live = self._sessions.find(session_id)
        hold = live.record.hold if live is not None else None
        if hold is not None and self._node.reading_ms() >= hold.deadline_ms:
            return Refusal(code=Close.HOLD_EXPIRED, why="hold_expired", next="start")
        return await refusal(self, session_id)

    patch.setattr(LinkDesk, "_refusal", early)


def ended_after_the_first_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """M8: exit handlers run, no second checkpoint."""

    async def naive(self: Any, live: Any) -> None:
        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda now: self.node.facts(step=CloseStep.ENDING, position=now.c1),
        )

    patch.setattr(Closer, "_save_final", naive)
    _no_last_look(patch)


def _no_last_look(patch: pytest.MonkeyPatch) -> None:
    async def naive(self: Any, live: Any) -> None:
        handle, c2 = await self._handle(live), live.record.c2
        if (await self._look(live)).presence.value != "absent":
            proof = await self.parts.checkpoints.prove(
                live.workspace,
                session_id=handle.session_id,
                fence=live.record.fence,
                seq=c2.seq,
                hash=c2.hash,
                home=handle.home,
            )
            same = type(proof)(
                **{name: getattr(proof, name) for name in proof.__struct_fields__} | {"kind": "same"}
            )
            await self.parts.desktops.wipe(handle, same)
        await self.sessions.move(live, Event.STEP_DONE, lambda _: self.node.facts(step=CloseStep.WIPED))

    patch.setattr(Closer, "_wipe", naive)


def no_last_look(patch: pytest.MonkeyPatch) -> None:
    """M13: wipe without a last look at home and log."""
    _no_last_look(patch)


def final_without_a_freeze(patch: pytest.MonkeyPatch) -> None:
    """M24: C2 is taken without the second freeze."""
    freeze = Closer._freeze

    async def naive(self: Any, live: Any, handle: Any) -> Any:
        if live.record.close_step is CloseStep.EXITING:
            return None
        return await freeze(self, live, handle)

    async def unlooked(self: Any, live: Any, *, final: bool) -> Any:
        handle = await self._handle(live)
        frozen = await self._freeze(live, handle)
        plan = starts_plan(live, handle, final=final)
        return frozen, await self.parts.checkpoints.save(plan)

    patch.setattr(Closer, "_freeze", naive)
    patch.setattr(Closer, "_frozen_save", unlooked)


def starts_plan(live: Any, handle: Any, *, final: bool) -> Any:
    return SavePlan(
        workspace=live.workspace,
        session_id=live.record.id,
        fence=live.record.fence,
        home=handle.home,
        reason="final" if final else "first_of_close",
        frozen=True,
        final=final,
        first_of_close=not final,
    )


def periodic_counts_as_final(patch: pytest.MonkeyPatch) -> None:
    """M40, M25: whatever the log holds already is taken as the final checkpoint."""

    async def naive(self: Any, live: Any) -> None:
        head = await self.parts.checkpoints.head(live.workspace)
        info = head.newest
        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda _: self.node.facts(step=CloseStep.ENDING, position=position_of(info)),
            lease=lambda lease: saved(lease, info, info.scan_ms),
        )

    patch.setattr(Closer, "_save_final", naive)


def incomplete_satisfies_the_close(patch: pytest.MonkeyPatch) -> None:
    """M18: an incomplete checkpoint is good enough."""
    patch.setattr(Closer, "_judge", lambda self, live, result: None)


def store_error_reads_as_none(patch: pytest.MonkeyPatch) -> None:
    """M19: a store error while looking for the newest checkpoint reads as "there is none"."""
    own_log = Starter._own_log
    choose = Starter._choose

    async def naive(self: Any, live: Any) -> LogHead:
        try:
            return await own_log(self, live)
        except StorageUnavailable:
            return LogHead(fence=live.record.fence, seq=0, hash=b"", newest=None)

    async def trusting(self: Any, name: Any, lease: Any, head: Any, from_seq: Any) -> Any:
        if head is not None and head.newest is None:
            return None
        return await choose(self, name, lease, head, from_seq)

    async def ungated(self: Any, *args: Any) -> None:
        return None

    patch.setattr(Starter, "_own_log", naive)
    patch.setattr(Starter, "_choose", trusting)
    patch.setattr(Starter, "_look_at_log", ungated)


def restores_what_the_registry_recorded(patch: pytest.MonkeyPatch) -> None:
    """M20: the registry's newest checkpoint instead of the log's."""

    def naive(*, recorded: Any, newest: Any, history: Any, chosen_seq: Any) -> Choice:
        return Choice(start_from=recorded)

    patch.setattr(starts_module.chain, "choose", naive)


def old_hold_goes_on_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    """M44: after a registry roll-back the old hold goes on."""
    rules = list(lifecycle.TRANSITIONS[State.HELD, Event.SETTLED])
    rules[1] = Rule(State.HELD, (), Guard.SETTLED_RUNNING, (Change.EPOCH,))
    patch.setitem(lifecycle.TRANSITIONS, (State.HELD, Event.SETTLED), tuple(rules))  # type: ignore[arg-type]  # a dict


def given_back_without_a_thaw(patch: pytest.MonkeyPatch) -> None:
    """M26: the held desktop is given back and stays frozen."""
    patch.setattr(Runners, "thaw", lambda self, live: None)


NAIVE: list[tuple[Patch, str, frozenset[str]]] = [
    (old_links_end_is_a_loss, "S5|S12|S6", frozenset()),
    (late_tick_counts_its_whole_gap, "S5", frozenset({"suspend", "stall"})),
    (counts_while_users_are_refused, "S5", frozenset({"refuse_users"})),
    (takeover_leaves_the_older_link_open, "S12", frozenset()),
    (second_loss_keeps_the_first_base, "S5", frozenset()),
    (told_expired_before_the_commit, "S6", frozenset({"registry", "lost_answer"})),
    (ended_after_the_first_checkpoint, "S1|S2", frozenset()),
    (no_last_look, "S1", frozenset({"past_freezer", "kill"})),
    (final_without_a_freeze, "S2", frozenset()),
    (periodic_counts_as_final, "S1|S2", frozenset({"kill"})),
    (incomplete_satisfies_the_close, "S1", frozenset({"unreadable"})),
    (store_error_reads_as_none, "S10", frozenset({"store"})),
    (restores_what_the_registry_recorded, "S10", frozenset({"kill", "lost_answer", "restore"})),
    (old_hold_goes_on_after_a_restore, "S5|S7", frozenset({"restore"})),
    (given_back_without_a_thaw, "liveness", frozenset({"store"})),
]


@pytest.mark.parametrize(
    ("naive", "names", "faults"), NAIVE, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_checkers_find_a_seeded_bug(
    naive: Patch, names: str, faults: frozenset[str], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the naive line the same schedules break nothing; with it one of them does, by the right
    name.
    """
    naive(monkeypatch)
    expected = tuple(names.split("|"))
    for seed in range(SEEDS[lane]):
        found = (
            Schedule(seed, faults=faults & ALL_FAULTS, lives=5 if "restore" in faults else 2)
            .run()
            .witness.all_violations()
        )
        if any(name in words for words in found for name in expected):
            return
    pytest.fail(f"no schedule of {SEEDS[lane]} found it")

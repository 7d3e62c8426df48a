"""Saving: periodic checkpoints, one after a loss, one on demand; and what is pending, for display.

Not the final ones: a closing session's checkpoints belong to `control/closing.py`. Only a verified, complete
checkpoint moves saved-as-of, which is kept in the lease row with the log's newest number and hash.
"""

import asyncio
from dataclasses import replace

from session_service.base.errors import (
    Conflict,
    FenceMoved,
    NotFound,
    SessionError,
    StorageUnavailable,
    TransitionRefused,
)
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.parts import Parts
from session_service.control.progress import while_moving
from session_service.control.sessions import Live, Sessions
from session_service.core import limits
from session_service.core.events import Effect
from session_service.core.pace import after_failure, after_save, crowd_of, pace
from session_service.core.records import Lease, LogPosition, State
from session_service.ports.checkpoints import CheckpointInfo, CheckpointResult, PendingLook, SavePlan

SAVED_STATES = frozenset({State.ACTIVE, State.HELD})
IDLE_S = 0.5
"""How often it is looked who is due."""
JUDGE_S = 5.0
"""How often it is looked whose newest checkpoint is too old."""


def position_of(info: CheckpointInfo) -> LogPosition:
    """Return where a checkpoint stands in the log."""
    return LogPosition(seq=info.seq, hash=info.hash)


def saved(lease: Lease, info: CheckpointInfo, saved_as_of_ms: int) -> Lease | None:
    """Return the lease that knows of this checkpoint; None when it knows of it already. Never goes back.

    A checkpoint that is incomplete but accepted by name is the newest of the log, and moves no saved-as-of.
    """
    if lease.newest is not None and info.seq < lease.newest.seq:
        return None
    after = replace(lease, newest=position_of(info))
    if info.complete:
        as_of_ms = max(saved_as_of_ms, lease.saved_as_of_ms or 0)
        after = replace(after, saved_as_of_ms=as_of_ms, saved_seq=info.seq)
    return None if after == lease else after


class Saver:
    """One loop per core takes the session that is due longest."""

    def __init__(self, *, parts: Parts, sessions: Sessions, alarms: Alarms, cores: int) -> None:
        self._parts = parts
        self._sessions = sessions
        self._alarms = alarms
        self.loops = max(1, cores) * limits.SAVES_PER_CORE
        self._log = get_logger()
        sessions.listen(self._changed)

    def _changed(self, live: Live, effects: tuple[Effect, ...]) -> None:
        if Effect.CHECKPOINT in effects:
            live.save_due_mono_ms = 0

    async def run(self) -> None:
        """Save whoever is due, one at a time; for ever."""
        while True:
            live = self._most_due()
            if live is None:
                await asyncio.sleep(IDLE_S)
                continue
            reason = "loss" if live.save_due_mono_ms == 0 else "periodic"
            await self._once(live, reason)

    def _most_due(self) -> Live | None:
        now_ms = self._parts.clock.monotonic_ms()
        due = [
            live
            for live in self._sessions.all()
            if live.record.state in SAVED_STATES
            and live.handle is not None
            and not live.saving.locked()
            and live.save_due_mono_ms <= now_ms
        ]
        return min(due, key=lambda live: live.save_due_mono_ms, default=None)

    async def _once(self, live: Live, reason: str) -> None:
        target_s = self._parts.policy.checkpoint_target_s
        now_ms = self._parts.clock.monotonic_ms()
        live.save_due_mono_ms = now_ms + round(target_s * 1000)
        try:
            await self.save(live, reason)
        except FenceMoved as exc:
            self._alarms.raise_("fence", str(exc), session_id=live.record.id)
            live.save_due_mono_ms += round(limits.RECONCILE_S * 1000)
        except (SessionError, TimeoutError) as exc:
            self._log.warning("checkpoint.failed", session_id=live.record.id, error=str(exc))
            if isinstance(exc, StorageUnavailable | TimeoutError):
                live.save_cost = after_failure(live.save_cost)
                self._plan_next(live)
                self._alarms.raise_("storage", str(exc) or "The object store does not answer in time.")
            await self._look(live)
        except Exception as exc:  # noqa: BLE001  # the edge of one save: the others go on
            self._log.error("task.failed", name="save", session_id=live.record.id, error=repr(exc))
            self._alarms.raise_("task", f"save: {exc!r}")

    async def judge(self) -> None:
        """Look how old each newest checkpoint is; for ever. A save that hangs holds nothing up here."""
        while True:
            for live in self._sessions.all():
                if live.record.state in SAVED_STATES and live.handle is not None:
                    self._age(live)
            await asyncio.sleep(JUDGE_S)

    def _age(self, live: Live) -> None:
        """Files that are not saved for minutes beyond what was promised, whatever the reason, are an alarm.

        While the store fails the pause grows; the alarm does not wait for that.
        """
        now_ms = self._parts.clock.monotonic_ms()
        if live.saved_mono_ms is None:
            live.saved_mono_ms = now_ms
        promise_s = live.pace.promise_s if live.pace is not None and not live.save_cost.failures else 0.0
        planned_s = max(self._parts.policy.checkpoint_target_s, promise_s)
        if (now_ms - live.saved_mono_ms) / 1000 <= limits.SAVED_AGE_ALARM_S + planned_s:
            self._alarms.clear("saved_age", session_id=live.record.id)
        else:
            words = "Not saved for minutes; some files may be unreadable, or the store does not take them."
            self._alarms.raise_("saved_age", words, session_id=live.record.id)

    async def save(self, live: Live, reason: str) -> CheckpointResult:
        """Take one checkpoint of a running desktop now, after one that is under way; a new scan, always.

        Raises:
            TransitionRefused: the session is not active or held.
            SessionError: as the store or the worker says.
        """
        async with live.saving:
            if live.record.state not in SAVED_STATES or live.handle is None:
                raise TransitionRefused("Only a running desktop is saved.", state=live.record.state.value)
            plan = SavePlan(
                workspace=live.workspace,
                session_id=live.record.id,
                fence=live.record.fence,
                home=live.handle.home,
                reason=reason,
                frozen=False,
                resume=live.save_unsure,
            )
            begun_ms, last_ms = self._parts.clock.monotonic_ms(), live.save_begun_mono_ms
            live.save_unsure, live.save_begun_mono_ms = True, begun_ms
            result = await while_moving(lambda told: self._parts.checkpoints.save(plan, progress=told))
            live.save_unsure = False
            if result.store_asked and self._alarms.clear("storage"):
                self._sessions.wake_all()
            live.save_cost = after_save(
                live.save_cost,
                scan_s=result.scan_s,
                total_s=result.total_s,
                stored_bytes=0 if result.unchanged else result.info.new_stored_bytes,
                since_last_s=None if last_ms is None else (begun_ms - last_ms) / 1000,
            )
            self._plan_next(live)
            if result.info.complete:
                await self._record(live, result)
            else:
                self._log.warning(
                    "checkpoint.incomplete",
                    session_id=live.record.id,
                    seq=result.info.seq,
                    unreadable=result.info.unreadable,
                )
            return result

    def _plan_next(self, live: Live) -> None:
        """Say when the next periodic save is due, by what the last ones cost."""
        saved = [one.save_cost for one in self._sessions.all() if one.record.state in SAVED_STATES]
        crowd = crowd_of(
            saved, workers=self._parts.workers, upload_bytes_per_s=self._parts.upload_bytes_per_s
        )
        live.pace = pace(self._parts.policy, live.save_cost, crowd)
        now_ms = self._parts.clock.monotonic_ms()
        live.save_due_mono_ms = now_ms + round(live.pace.interval_s * 1000)

    async def _record(self, live: Live, result: CheckpointResult) -> None:
        # The scan began at saved_as_of: everything older is in it, so at that moment nothing was pending.
        live.saved_mono_ms = self._parts.clock.monotonic_ms()
        live.home_bytes = result.info.bytes
        live.pending = PendingLook(files=0, bytes=0, looked_at_ms=result.saved_as_of_ms)
        if live.record.state not in SAVED_STATES:
            return
        try:
            await self._sessions.put_lease(
                live, lambda lease: saved(lease, result.info, result.saved_as_of_ms)
            )
        except (Conflict, NotFound):
            return
        if result.unchanged:
            return
        self._log.info(
            "checkpoint.verified",
            session_id=live.record.id,
            seq=result.info.seq,
            bytes=result.info.new_stored_bytes,
            seconds=round(result.total_s, 3),
        )

    async def _look(self, live: Live) -> None:
        """The store is away: say what is at risk."""
        if live.handle is None:
            return
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                live.pending = await self._parts.checkpoints.pending(live.workspace, home=live.handle.home)
        except (SessionError, TimeoutError):
            live.pending = None
        self._sessions.tell(live)

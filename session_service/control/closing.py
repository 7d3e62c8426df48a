"""Closing: the saga's steps carried out, one by one, each repeated for ever until its evidence is recorded.

Not the order (`core/close.py`) and not the law (`core/lifecycle.py`). Before `ending` is recorded nothing
here destroys and the desktop can be given back; after it every destructive call carries a proof that only the
storage worker can make. Source: lifecycle.md 6.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from session_service.base.errors import (
    CheckpointIncomplete,
    Conflict,
    DesktopGone,
    FreezeFailed,
    NotFound,
    RegistryUnavailable,
    SessionError,
    StorageUnavailable,
    TransitionRefused,
)
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.beside import calls_for_it, save_beside
from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.control.pause import Pause
from session_service.control.progress import while_moving
from session_service.control.receipts import closed_facts, receipt_body
from session_service.control.saving import position_of, saved
from session_service.control.sessions import Live, Sessions
from session_service.core import limits
from session_service.core.changes import AddReceipt, ForgetDesktop, Write
from session_service.core.close import SagaStep, StepName, may_run_hook, next_step
from session_service.core.events import Event, Found
from session_service.core.lifecycle import Step
from session_service.core.records import CloseStep, HookState, Receipt, State
from session_service.ports.checkpoints import CheckpointResult, Progress, SavePlan
from session_service.ports.desktops import FreezeReceipt, Handle, ObservedDesktop, Presence

SAVES = frozenset({StepName.SAVE_FIRST, StepName.SAVE_FINAL})
"""They take as long as they move: a save that is cut off keeps nothing."""
HOOKS = {
    "none": HookState.NONE,
    "done": HookState.DONE,
    "failed": HookState.FAILED,
    "timed_out": HookState.TIMED_OUT,
}


@dataclass(slots=True, kw_only=True)
class Closer:
    """Carries closes out; one runner per closing session, a few steps at a time."""

    parts: Parts
    node: Node
    sessions: Sessions
    alarms: Alarms
    slots: asyncio.Semaphore
    _do: dict[StepName, Callable[[Live], Awaitable[None]]] = field(init=False)

    def __post_init__(self) -> None:
        self._do = {
            StepName.SAVE_FIRST: self._save_first,
            StepName.ASK: self._ask,
            StepName.SAVE_FINAL: self._save_final,
            StepName.END: self._end,
            StepName.WIPE: self._wipe,
            StepName.RECEIPT: self._receipt,
        }

    async def run(self, live: Live) -> None:
        """Close one session; ends when it is closed, given back, or not ours any more."""
        pause, changed = Pause(self.parts.ids), Pause(self.parts.ids)
        changes = 0
        session_id = live.record.id
        live.beside = ""
        while live.record.state is State.CLOSING and self.sessions.find(session_id) is live:
            todo = next_step(live.record, asked=live.asked)
            try:
                async with self.slots:
                    await self._watched(live, todo)
                self._progress(live, pause)
                after_c2 = todo.name in (StepName.END, StepName.WIPE)
                if after_c2 and live.record.close_step is CloseStep.EXITING:
                    changes += 1
                    self._home_changed(live, changes)
                    await changed.wait(live.woken)
            except (TransitionRefused, Conflict):
                # Given back, died, accepted or settled meanwhile: the record says what to do now.
                await self._refreshed(live)
                await pause.wait(live.woken)
            except NotFound as exc:
                # The session is gone from the registry; or the log, and that is waited for like a store.
                if self.sessions.find(session_id) is live:
                    self._failed(live, exc, todo.alarm_s)
                    await pause.wait(live.woken)
            except (SessionError, TimeoutError) as exc:
                self._failed(live, await self._beside(live, todo, exc), todo.alarm_s)
                await pause.wait(live.woken)
        if live.record.state is State.CLOSED:
            self.alarms.clear_session(session_id)

    async def _watched(self, live: Live, todo: SagaStep) -> None:
        """Do one step. One that neither ends nor tells of progress is an alarm, though nothing has failed."""
        loop = asyncio.get_running_loop()
        pause_s = max(todo.alarm_s, limits.STEP_ALARM_S)  # proofs and looks of a large home take their time
        timer: asyncio.TimerHandle | None = None

        def look(seen: Progress | None) -> None:
            nonlocal timer
            if live.progress is seen:
                self.alarms.raise_("close", "It takes longer than it should.", session_id=live.record.id)
            timer = loop.call_later(pause_s, look, live.progress)

        timer = loop.call_later(pause_s, look, live.progress)
        try:
            async with asyncio.timeout(None if todo.name in SAVES else limits.CLOSE_STEP_S_MAX):
                await self._do[todo.name](live)
        finally:
            timer.cancel()

    async def _beside(self, live: Live, todo: SagaStep, exc: Exception) -> Exception:
        """The log does not take what a frozen desktop holds: save it beside, once, and say so for as long."""
        if todo.name not in SAVES or not isinstance(exc, SessionError) or not calls_for_it(exc):
            return exc
        if live.handle is None:
            return exc
        if not live.beside:
            try:
                live.beside = await save_beside(self.parts, live, exc)
            except (SessionError, TimeoutError):
                return exc
        return type(exc)(live.beside)

    def _home_changed(self, live: Live, times: int) -> None:
        if times >= limits.HOME_CHANGES_ALARM:
            words = f"The home changed {times} times after its last checkpoint."
            self.alarms.raise_("home", words, session_id=live.record.id)

    async def _refreshed(self, live: Live) -> None:
        try:
            await self.sessions.refresh(live)
        except (RegistryUnavailable, NotFound):
            return

    # -- trouble --------------------------------------------------------------------------------------

    def _progress(self, live: Live, pause: Pause) -> None:
        pause.reset()
        trouble = live.trouble
        trouble.error, trouble.since_ms, trouble.attempts = "", None, 0
        live.progress = None
        live.beside = ""
        for kind in ("close", "freeze", "incomplete"):
            self.alarms.clear(kind, session_id=live.record.id)
        self.sessions.tell(live)

    def _failed(self, live: Live, exc: BaseException, alarm_s: float) -> None:
        trouble = live.trouble
        trouble.error = str(exc) or "It takes longer than it should."
        trouble.attempts += 1
        if trouble.since_ms is None:
            trouble.since_ms = self.parts.clock.wall_ms()
            trouble.begun_mono_ms = self.parts.clock.monotonic_ms()
        waited_ms = self.parts.clock.monotonic_ms() - trouble.begun_mono_ms
        get_logger().warning(
            "session.step_failed",
            session_id=live.record.id,
            error=trouble.error,
            attempts=trouble.attempts,
        )
        if isinstance(exc, CheckpointIncomplete):
            self.alarms.raise_(
                "incomplete", trouble.error, session_id=live.record.id, facts=tuple(exc.facts.items())
            )
        elif isinstance(exc, FreezeFailed):
            self.alarms.raise_("freeze", trouble.error, session_id=live.record.id)
        elif trouble.attempts >= limits.ALARM_ATTEMPTS or waited_ms >= alarm_s * 1000:
            if isinstance(exc, StorageUnavailable):
                self.alarms.raise_("storage", trouble.error)
            self.alarms.raise_("close", trouble.error, session_id=live.record.id)
        self.sessions.tell(live)

    # -- looking --------------------------------------------------------------------------------------

    async def _handle(self, live: Live) -> Handle:
        """Return the desktop's handle: from the record, else from the census.

        Raises:
            DesktopGone: neither knows one.
        """
        if live.handle is None:
            async with asyncio.timeout(limits.CALL_S_MAX):
                census = await self.parts.desktops.census()
            for found in census:
                named = (found.handle.workspace_id, found.handle.fence)
                if named == (live.record.workspace_id, live.record.fence):
                    live.handle = named_handle(found.handle, live.record.id)
        if live.handle is None:
            raise DesktopGone()
        return live.handle

    async def _look(self, live: Live) -> ObservedDesktop:
        handle = await self._handle(live)
        async with asyncio.timeout(limits.CALL_S_MAX):
            return await self.parts.desktops.observe(handle)

    async def _absent(self, live: Live, *, launched: bool) -> None:
        """The owner's own machine has neither desktop nor home: closed, and the user is told the newest
        checkpoint's time.
        """
        final = False
        if launched:
            async with asyncio.timeout(limits.CALL_S_MAX):
                head = await self.parts.checkpoints.head(live.workspace)
            newest = head.newest if head is not None else None
            own = (live.record.id, live.record.fence)
            final = newest is not None and newest.final and (newest.session_id, newest.fence) == own
        reason = "the desktop and its home are not on this machine" if launched else ""
        await self.sessions.move(
            live,
            Event.DESKTOP_ABSENT,
            lambda _: self.node.facts(
                found=Found.ABSENT, final_is_newest=final, launched=launched, reason=reason
            ),
            also=lambda _: [_forget(live)],
        )

    # -- the steps ------------------------------------------------------------------------------------

    async def _frozen_save(
        self, live: Live, *, final: bool
    ) -> tuple[FreezeReceipt | None, CheckpointResult] | None:
        """Freeze, save, and look that it is still frozen; None when the session was closed as absent."""
        try:
            handle = await self._handle(live)
        except DesktopGone:
            await self._absent(live, launched=False)
            return None
        frozen = await self._freeze(live, handle)
        if frozen is None and (await self._look(live)).presence is Presence.ABSENT:
            await self._absent(live, launched=True)
            return None

        def seen(progress: Progress) -> None:
            live.show(progress, at_ms=self.parts.clock.monotonic_ms())
            self.sessions.tell(live)

        plan = SavePlan(
            workspace=live.workspace,
            session_id=live.record.id,
            fence=live.record.fence,
            home=handle.home,
            reason="final" if final else "first_of_close",
            frozen=True,
            final=final,
            first_of_close=not final,
            resume=True,
        )
        async with live.saving:
            # A periodic checkpoint that is under way ends first: it is neither of the two.
            result = await while_moving(lambda told: self.parts.checkpoints.save(plan, progress=told), seen)
        if self.alarms.clear("storage"):
            self.sessions.wake_all()
        self._judge(live, result)
        if final:
            await self._second_copy(live, result)
        after = await self._look(live)
        if after.presence is Presence.RUNNING and not after.frozen:
            raise FreezeFailed("Something let the desktop run while it was being saved.")
        return frozen, result

    async def _second_copy(self, live: Live, result: CheckpointResult) -> None:
        """Where the policy asks for it, wait until the final checkpoint stands on the second store as well.

        The desktop stays frozen and can still be given back; nothing is saved again meanwhile.
        """
        second = self.parts.second
        if second is None or not self.parts.second_required:
            return
        pause = Pause(self.parts.ids)
        while True:
            look = await second.replicate(live.workspace)
            if look.replica_seq is not None and look.replica_seq >= result.info.seq:
                self._progress(live, pause)
                return
            words = f"Saved; the close waits for the second store: {look.state}. {look.error}".rstrip()
            self._failed(live, StorageUnavailable(words), limits.STEP_ALARM_S)
            await pause.wait(live.woken)

    async def _freeze(self, live: Live, handle: Handle) -> FreezeReceipt | None:
        """Freeze everything; None when no process is left, which is as good."""
        try:
            async with asyncio.timeout(limits.FREEZE_S_MAX + limits.CALL_S_MAX):
                return await self.parts.desktops.freeze(handle)
        except DesktopGone:
            if (await self._look(live)).presence is Presence.RUNNING:
                raise
            return None

    def _judge(self, live: Live, result: CheckpointResult) -> None:
        """Incomplete is not success, unless somebody accepted each unreadable path by name."""
        info = result.info
        if info.complete:
            return
        bad = [path.path for path in info.bad_paths if path.grade not in ("skipped", "fuzzy")]
        missing = [path for path in bad if path not in live.record.accepted_paths]
        if bad and not missing and info.unreadable <= len(bad):
            return
        raise CheckpointIncomplete(
            paths="\n".join(missing[:200]), count=max(len(missing), info.unreadable), seq=info.seq
        )

    async def _save_first(self, live: Live) -> None:
        done = await self._frozen_save(live, final=False)
        if done is None:
            return
        frozen, result = done
        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda _: self.node.facts(
                step=CloseStep.EXITING,
                position=position_of(result.info),
                freeze_method=frozen.method if frozen is not None else None,
            ),
            lease=lambda lease: saved(lease, result.info, result.saved_as_of_ms),
        )

    async def _ask(self, live: Live) -> None:
        """Thaw and ask, so that exit handlers save; the intent is recorded before anything runs again."""
        hook = self.parts.policy.hook and may_run_hook(live.record)
        said = HookState.STARTED if hook else live.record.hook_state
        if live.record.asked_at_ms is None:
            await self.sessions.move(live, Event.STEP_DONE, lambda _: self.node.facts(hook=said))
        handle = await self._handle(live)
        refused: tuple[str, ...] = ()
        word = said
        try:
            async with asyncio.timeout(limits.ASK_S_MAX):
                await self.parts.desktops.thaw(handle)
                report = await self.parts.desktops.ask_close(handle, hook=hook)
            refused = report.refused_windows
            word = HOOKS.get(report.hook, HookState.FAILED) if hook else said
        except TimeoutError:
            word = HookState.TIMED_OUT if hook else said
        except DesktopGone:
            # Nobody is left to be asked; the final checkpoint takes the home as it lies.
            word = said
        if word is not said or refused:
            await self.sessions.move(
                live,
                Event.STEP_DONE,
                lambda _: self.node.facts(hook=word, refused_windows=refused),
            )
        live.asked = True

    async def _save_final(self, live: Live) -> None:
        done = await self._frozen_save(live, final=True)
        if done is None:
            return
        frozen, result = done
        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda _: self.node.facts(
                step=CloseStep.ENDING,
                position=position_of(result.info),
                freeze_method=frozen.method if frozen is not None else None,
            ),
            lease=lambda lease: saved(lease, result.info, result.saved_as_of_ms),
        )

    async def _end(self, live: Live) -> None:
        """End the processes, with the proof that the recorded checkpoint is in the log and verified."""
        handle, c2 = await self._handle(live), live.record.c2
        assert c2 is not None
        try:
            proof = await self.parts.checkpoints.prove(
                live.workspace,
                session_id=handle.session_id,
                fence=live.record.fence,
                seq=c2.seq,
                hash=c2.hash,
                home=handle.home,
            )
        except NotFound:
            await self._save_again(live, "the log does not hold it any more")
            return
        if (await self._look(live)).presence is not Presence.ABSENT:
            # Also where a quick look finds nothing: only the host's end looks at every mark.
            async with asyncio.timeout(limits.CALL_S_MAX):
                await self.parts.desktops.end(handle, proof)
        found = Found((await self._look(live)).presence.value)
        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda _: self.node.facts(step=CloseStep.ENDED, found=found),
        )

    async def _wipe(self, live: Live) -> None:
        """Look once more at home and log; what differs is saved again, never wiped."""
        handle, c2 = await self._handle(live), live.record.c2
        assert c2 is not None
        if (await self._look(live)).presence is Presence.ABSENT:
            # Wiped with its proof before a crash; the log is asked once more all the same.
            await self.parts.checkpoints.prove(
                live.workspace,
                session_id=handle.session_id,
                fence=live.record.fence,
                seq=c2.seq,
                hash=c2.hash,
                home=handle.home,
            )
        else:
            look = await self.parts.checkpoints.last_look(
                live.workspace,
                session_id=handle.session_id,
                fence=live.record.fence,
                seq=c2.seq,
                hash=c2.hash,
                home=handle.home,
                accepted=bool(live.record.accepted_paths),
            )
            if not look.same or look.proof is None:
                await self._save_again(live, "; ".join(look.differences[:10]))
                return
            async with asyncio.timeout(limits.CALL_S_MAX):
                await self.parts.desktops.wipe(handle, look.proof)
        await self.sessions.move(live, Event.STEP_DONE, lambda _: self.node.facts(step=CloseStep.WIPED))

    async def _save_again(self, live: Live, why: str) -> None:
        """Home and the recorded checkpoint differ, or the log lost it: nothing is ended or wiped on it."""
        live.asked = True
        await self.sessions.move(live, Event.HOME_CHANGED, lambda _: self.node.facts(reason=why))

    async def _receipt(self, live: Live) -> None:
        """Write the receipt once, read it back, and close in one transaction with the lease."""
        record = live.record
        body = await self.parts.checkpoints.receipt(live.workspace, session_id=record.id)
        if body is None:
            history = await self.parts.checkpoints.history(live.workspace)
            told = closed_facts(record, history)
            body = receipt_body(record, told, at_ms=self.parts.clock.wall_ms())
            await self.parts.checkpoints.put_receipt(live.workspace, session_id=record.id, body=body)
            body = await self.parts.checkpoints.receipt(live.workspace, session_id=record.id)
        if body is None:
            raise StorageUnavailable("The receipt that was written cannot be read back.")
        kept = body

        def also(done: Step) -> list[Write]:
            at_ms = done.session.closed_at_ms or 0
            receipt = Receipt(
                session_id=record.id,
                workspace_id=record.workspace_id,
                user_id=record.user_id,
                body=kept,
                written_at_ms=at_ms,
            )
            return [AddReceipt(receipt=receipt), _forget(live)]

        await self.sessions.move(
            live,
            Event.STEP_DONE,
            lambda _: self.node.facts(step=CloseStep.RECEIPTED),
            also=also,
        )


def named_handle(handle: Handle, session_id: str) -> Handle:
    """Return a handle with a session: that of a home whose desktop nobody remembers has none."""
    return handle if handle.session_id else msgspec.structs.replace(handle, session_id=session_id)


def _forget(live: Live) -> ForgetDesktop:
    return ForgetDesktop(workspace_id=live.record.workspace_id, fence=live.record.fence)

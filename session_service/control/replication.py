"""Keeps the second store in step: after each checkpoint what is new, once an hour a whole comparison.

Not part of a save or a close: a second store that is away delays nothing here, it is told, tried again, and
is an alarm once the oldest checkpoint that it lacks is too old. (A close that must wait for the second copy
asks for it itself: `control/closing.py`.) All memory here may be lost: the next comparison finds out again.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from session_service.base.errors import NotFound, RegistryUnavailable, SessionError
from session_service.base.ids import WorkspaceId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.parts import Parts
from session_service.control.sessions import Live, Sessions
from session_service.core.events import Effect
from session_service.core.records import State
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.replication import ReplicaLook, SecondCopies

LOOK_S: Final = 0.5
"""How often it is looked whether anything is due."""
COPIES_AT_ONCE: Final = 2
"""Workspaces under way: one with a large first copy must not hold up the others."""
EVERY_MS: Final = 3_600_000
"""Between two comparisons of one workspace by listing both stores."""
LIST_MS: Final = 30_000
"""How often the registry is asked which workspaces there are."""
RETRY_MS: Final = 15_000
"""After a run in which a store did not answer."""
STOPPED_RETRY_MS: Final = 300_000
"""After one that a person has to look at."""
RUN_S_MAX: Final = 3_600.0
"""One run; the next one goes on where it ended."""
LAG_ALARM_MS: Final = 900_000
"""The oldest checkpoint that is not on the second store may be so old before somebody is woken."""
ALARMED: Final = ("diverged", "refused", "damaged")


@dataclass(slots=True, kw_only=True)
class Copy:
    """What is remembered of one workspace."""

    name: WorkspaceName
    look: ReplicaLook | None = None
    looked_at_ms: int | None = None
    """UTC; for display."""
    changed: bool = True
    whole_mono_ms: int | None = None
    """When a comparison ended well; None: the next run compares."""
    not_before_mono_ms: int = 0
    running: bool = False
    seen_seq: int = 0
    receipts: set[str] = field(default_factory=set)
    unsaved_since_ms: int | None = None
    """When the oldest checkpoint was noted that no run has copied; the log says it better once it is read."""


class Replication:
    """One for the node."""

    def __init__(self, *, parts: Parts, sessions: Sessions, alarms: Alarms, second: SecondCopies) -> None:
        self._parts = parts
        self._alarms = alarms
        self.second = second
        self.required = parts.second_required
        """Whether a close waits for the second copy."""
        self._copies: dict[str, Copy] = {}
        self._listed_mono_ms: int | None = None
        self._log = get_logger()
        sessions.listen(self._changed)

    async def run(self) -> None:
        """Copy, for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(COPIES_AT_ONCE):
                group.create_task(self._copying(), name=f"replicate-{number}")

    def copies(self) -> list[Copy]:
        """Return what is known of every workspace's copy."""
        return [self._copies[key] for key in sorted(self._copies)]

    def compare_soon(self, workspace_id: str | None = None) -> None:
        """Compare a workspace, or all of them, as soon as possible."""
        for key, copy in self._copies.items():
            if workspace_id in (None, key):
                copy.whole_mono_ms = None
                copy.not_before_mono_ms = 0

    async def workspace(self, workspace_id: str) -> WorkspaceName:
        """Return a workspace by its id. Raises NotFound."""
        found = await self._parts.registry.workspace(WorkspaceId(workspace_id))
        if found is None:
            raise NotFound()
        return WorkspaceName(tenant_id=found.tenant_id, workspace_id=found.id)

    async def _copying(self) -> None:
        while True:
            try:
                await self._list()
                copy = self._most_due()
                if copy is not None:
                    await self.copy(copy)
                    continue
            except (RegistryUnavailable, SessionError, TimeoutError) as exc:
                self._log.warning("replica.failed", error=str(exc))
            await asyncio.sleep(LOOK_S)

    async def _list(self) -> None:
        now_ms = self._parts.clock.monotonic_ms()
        if self._listed_mono_ms is not None and now_ms - self._listed_mono_ms < LIST_MS:
            return
        self._listed_mono_ms = now_ms
        for one in await self._parts.registry.workspaces():
            name = WorkspaceName(tenant_id=one.tenant_id, workspace_id=one.id)
            self._copies.setdefault(str(one.id), Copy(name=name))

    def _changed(self, live: Live, effects: tuple[Effect, ...]) -> None:
        """A checkpoint or a receipt of a session was written."""
        copy = self._copies.setdefault(str(live.record.workspace_id), Copy(name=live.workspace))
        newest = live.lease.newest
        if newest is not None and newest.seq > copy.seen_seq:
            copy.seen_seq = newest.seq
            self._note(copy)
        if live.record.state is State.CLOSED and live.record.id not in copy.receipts:
            copy.receipts.add(live.record.id)
            self._note(copy)

    def _note(self, copy: Copy) -> None:
        copy.changed = True
        if copy.unsaved_since_ms is None:
            copy.unsaved_since_ms = self._parts.clock.wall_ms()

    def _most_due(self) -> Copy | None:
        now_ms = self._parts.clock.monotonic_ms()
        due = [
            copy
            for copy in self._copies.values()
            if not copy.running
            and copy.not_before_mono_ms <= now_ms
            and (copy.changed or self._old(copy, now_ms))
        ]
        # What is new goes first; comparisons take the time that is left.
        return min(due, key=lambda copy: (not copy.changed, copy.whole_mono_ms or 0), default=None)

    def _old(self, copy: Copy, now_ms: int) -> bool:
        return copy.whole_mono_ms is None or now_ms - copy.whole_mono_ms >= EVERY_MS

    async def copy(self, copy: Copy) -> None:
        """Run once for a workspace, and judge what it says."""
        whole = self._old(copy, self._parts.clock.monotonic_ms())
        receipts = tuple(sorted(copy.receipts))
        noted_ms = copy.unsaved_since_ms
        copy.running, copy.changed, copy.unsaved_since_ms = True, False, None
        look = ReplicaLook(state="away", error="It takes longer than it should.")
        try:
            async with asyncio.timeout(RUN_S_MAX):
                look = await self.second.replicate(copy.name, whole=whole, receipts=receipts)
        except (SessionError, TimeoutError) as exc:
            look = ReplicaLook(state="away", error=str(exc) or look.error)
        finally:
            copy.running = False
        self._judge(copy, look, whole=whole, receipts=receipts, noted_ms=noted_ms)

    def _judge(
        self, copy: Copy, look: ReplicaLook, *, whole: bool, receipts: tuple[str, ...], noted_ms: int | None
    ) -> None:
        now_ms = self._parts.clock.monotonic_ms()
        copy.look, copy.looked_at_ms = look, self._parts.clock.wall_ms()
        good = look.state in ("in_step", "behind", "erased", "none")
        if good:
            copy.receipts.difference_update(receipts)
            copy.whole_mono_ms = now_ms if whole else copy.whole_mono_ms
            copy.changed = copy.changed or look.state == "behind"
            if look.copied_objects or look.removed_objects:
                self._log.info(
                    "replica.copied",
                    workspace_id=copy.name.workspace_id,
                    objects=look.copied_objects,
                    bytes=look.copied_bytes,
                    removed=look.removed_objects,
                )
        else:
            copy.changed = True
            copy.unsaved_since_ms = noted_ms if noted_ms is not None else copy.unsaved_since_ms
            if copy.whole_mono_ms is None and copy.unsaved_since_ms is None and look.oldest_ms is None:
                # Nothing was compared since the start or an erasure: nobody knows that it lacks nothing.
                copy.unsaved_since_ms = copy.looked_at_ms
            pause_ms = STOPPED_RETRY_MS if look.state in ALARMED else RETRY_MS
            copy.not_before_mono_ms = now_ms + pause_ms
            self._log.warning(
                "replica.failed", workspace_id=copy.name.workspace_id, state=look.state, error=look.error
            )
        self._alarm()

    def _alarm(self) -> None:
        """One alarm for the second store, with the worst of what is known."""
        stopped = [copy for copy in self.copies() if copy.look is not None and copy.look.state in ALARMED]
        if stopped:
            look = stopped[0].look
            assert look is not None, "filtered above"
            words = "; ".join(look.faults[:3]) or look.error
            told = f"{len(stopped)} workspaces are not copied to the second store: {look.state}: {words}"
            self._alarms.raise_("second_store", told)
            return
        lag_ms = self.lag_ms()
        if lag_ms > LAG_ALARM_MS:
            self._alarms.raise_("second_store", "Copies wait for the second store; it does not answer.")
        else:
            self._alarms.clear("second_store")

    def lag_ms(self, copy: Copy | None = None) -> int:
        """Return how old the oldest checkpoint is that the second store lacks, of one workspace or of all."""
        now_ms = self._parts.clock.wall_ms()
        oldest = [self.oldest_ms(one) for one in ([copy] if copy is not None else self.copies())]
        return max((now_ms - one for one in oldest if one is not None), default=0)

    def oldest_ms(self, copy: Copy) -> int | None:
        """Return since when the second store lacks something of a workspace; UTC."""
        known = copy.look.oldest_ms if copy.look is not None else None
        times = [one for one in (known, copy.unsaved_since_ms) if one is not None]
        return min(times, default=None)

"""Upkeep once an hour: every workspace's log is tidied, one at a time, while nobody needs it for more.

Not the rules of what may be forgotten or deleted (storage's own), and no decision about a session: a
workspace that is starting or closing is left alone, and a run under way is given up when its close begins. A
run that failed or was given up costs nothing but an hour.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from session_service.base.errors import RegistryUnavailable, SessionError
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.parts import Parts
from session_service.control.sessions import Sessions
from session_service.core.policy import Policy
from session_service.core.records import State, Workspace
from session_service.ports.checkpoints import WorkspaceName
from session_service.ports.upkeep import KeepRule, Upkept

EVERY_MS: Final = 3_600_000
"""Between two runs over one workspace. What one run gives up, the next one deletes."""
FIRST_AFTER_MS: Final = 600_000
"""After the start: returning users come first."""
LOOK_S: Final = 20.0
"""How often it is looked which workspace is due: at most one begins per look."""
RUN_S_MAX: Final = 300.0
"""One run; a repository that needs longer is tidied by hand (`checkpoints gc`), and it is logged."""
CLOSE_LOOK_S: Final = 0.5
"""How soon a run is given up when its workspace begins to close."""
OUTCOMES: Final = ("done", "refused", "contended", "failed", "given_up")
"""Of a run: given up because its workspace began to close; contended where others wrote meanwhile."""
REASONS: Final = {"clocks": "clocks", "snapshot": "index", "missing": "missing", "size": "missing"}
"""Words of a refusal, and what a counter calls it; whatever is not here is `other`."""
BUSY: Final = (State.STARTING, State.CLOSING)


def keep_rule(policy: Policy) -> KeepRule:
    """Return what a policy says about old checkpoints."""
    return KeepRule(
        keep_last=policy.keep_last,
        keep_hourly=policy.keep_hourly,
        keep_daily=policy.keep_daily,
        keep_weekly=policy.keep_weekly,
        keep_monthly=policy.keep_monthly,
        keep_within_s=policy.keep_within_s,
    )


@dataclass(slots=True)
class UpkeepCount:
    """What all runs since the start came to."""

    runs: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    freed_bytes: int = 0
    forgotten: int = 0


def reason_of(done: Upkept) -> str:
    """Return in one word why a run was refused."""
    if done.clocks_apart:
        return "clocks"
    return next((reason for words, reason in REASONS.items() if words in done.refused), "other")


class Upkeep:
    """One for the node."""

    def __init__(self, *, parts: Parts, sessions: Sessions, alarms: Alarms) -> None:
        self._alarms = alarms
        self.count = UpkeepCount()
        self._refused: dict[str, str] = {}
        self._parts = parts
        self._sessions = sessions
        self._log = get_logger()
        self._began_mono_ms = parts.clock.monotonic_ms()
        self._done_mono_ms: dict[str, int] = {}

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except (RegistryUnavailable, SessionError, TimeoutError) as exc:
                self._log.warning("reconcile.failed", name="upkeep", error=str(exc))

    async def look(self) -> str | None:
        """Tidy the workspace that is due longest, if one is; return its id."""
        now_ms = self._parts.clock.monotonic_ms()
        if now_ms - self._began_mono_ms < FIRST_AFTER_MS:
            return None
        known = {str(one.id): one for one in await self._parts.registry.workspaces()}
        self._done_mono_ms = {key: at for key, at in self._done_mono_ms.items() if key in known}
        due = [key for key in known if now_ms - self._done_mono_ms.get(key, -EVERY_MS) >= EVERY_MS]
        due = [key for key in due if not self._is_busy(key)]
        if not due:
            return None
        chosen = min(due, key=lambda key: (self._done_mono_ms.get(key, -EVERY_MS), key))
        self._done_mono_ms[chosen] = now_ms
        await self._tidy(known[chosen])
        return chosen

    def _is_busy(self, workspace_id: str) -> bool:
        return any(
            live.record.workspace_id == workspace_id and live.record.state in BUSY
            for live in self._sessions.all()
        )

    async def _tidy(self, workspace: Workspace) -> None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._collect(workspace), name=f"upkeep-{workspace.id}")
            while not work.done():
                if self._is_busy(workspace.id):
                    work.cancel()
                    self.count.runs["given_up"] += 1
                    return
                await asyncio.wait([work], timeout=CLOSE_LOOK_S)

    async def _collect(self, workspace: Workspace) -> None:
        lease = await self._parts.registry.lease(workspace.id)
        newest = lease.newest if lease is not None else None
        try:
            async with asyncio.timeout(RUN_S_MAX):
                done = await self._parts.checkpoints.collect(
                    WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id),
                    actor="service",
                    forget=keep_rule(self._parts.policy),
                    witness=(newest.seq, newest.hash) if newest is not None else None,
                )
        except (SessionError, TimeoutError) as exc:
            self._log.warning("upkeep.failed", workspace_id=workspace.id, error=str(exc))
            self.count.runs["failed"] += 1
            return
        self._take(done)
        self._look(workspace, done)
        if done.refused:
            self._log.warning("upkeep.failed", workspace_id=workspace.id, error=done.refused)
        elif any(
            (done.forgotten, done.deleted_objects, done.retired_packs, done.folded_entries, done.adopted)
        ):
            self._log.info(
                "upkeep.finished",
                workspace_id=workspace.id,
                forgotten=len(done.forgotten),
                deleted=done.deleted_objects,
                bytes=done.deleted_bytes,
                folded=done.folded_entries,
                adopted=done.adopted,
            )

    def _take(self, done: Upkept) -> None:
        self.count.freed_bytes += done.deleted_bytes
        self.count.forgotten += len(done.forgotten)
        if done.refused and not done.contended:
            self.count.runs["refused"] += 1
            self.count.refusals[reason_of(done)] += 1
        else:
            self.count.runs["contended" if done.contended else "done"] += 1

    def _look(self, workspace: Workspace, done: Upkept) -> None:
        """Wake somebody where a repository contradicts itself, or two clocks each other."""
        if done.clocks_apart:
            detail = "The clocks of this machine and of the object store differ by more than a day."
            self._alarms.raise_("clocks_apart", detail)
            return
        self._alarms.clear("clocks_apart")
        self._refused.pop(str(workspace.id), None)
        if done.refused and not done.contended:
            self._refused[str(workspace.id)] = done.refused
        if self._refused:
            named, why = next(iter(sorted(self._refused.items())))
            detail = f"{len(self._refused)} workspaces are not collected; {named}: {why}"
            self._alarms.raise_("upkeep", detail)
        else:
            self._alarms.clear("upkeep")

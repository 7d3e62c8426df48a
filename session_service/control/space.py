"""The guard of the disk: looks at free space every few seconds and carries out what `core/space.py` decides.

Not a quota: how much a home grew is known from its checkpoints and its pending files, and nothing is asked
while there is space. Nothing is ended; what is frozen here is thawed here, and the reconciler asks before it
thaws anything (`keeps`).
"""

import asyncio
from collections import deque
from typing import Final

from session_service.base.errors import NotFound, RegistryUnavailable, SessionError
from session_service.base.ids import SessionId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.parts import Parts
from session_service.control.sessions import Live, Sessions
from session_service.core import limits
from session_service.core.actor import SYSTEM
from session_service.core.changes import Unit
from session_service.core.records import AuditEntry, State
from session_service.core.space import Decision, Growth, decide, keeps_frozen

LOOK_S: Final = 3.0
"""How often free space is looked at: one call of the kernel."""
PENDING_LOOK_S: Final = 10.0
"""How often workers are asked for pending files, and only while space is low."""
WINDOW_MS: Final = 600_000
"""Growth is what a home grew in this time."""
STOPPED: Final = "The disk of this machine is nearly full: programs are stopped until there is space."
"""Shown to the user of a desktop whose applications are frozen, and to operators."""

_RUNNING: Final = (State.ACTIVE, State.HELD)


class SpaceGuard:
    """One for the node."""

    def __init__(self, *, parts: Parts, sessions: Sessions, alarms: Alarms) -> None:
        self._parts = parts
        self._sessions = sessions
        self._alarms = alarms
        self._sizes: dict[SessionId, deque[tuple[int, int]]] = {}
        self._asked_mono_ms: int | None = None
        self._log = get_logger()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self.look()
            except (RegistryUnavailable, SessionError, TimeoutError) as exc:
                self._log.warning("reconcile.failed", name="space", error=str(exc))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> Decision:
        """Look once and do what is due."""
        lives = {live.record.id: live for live in self._sessions.all() if _runs(live)}
        for live in self._sessions.all():
            live.crowded = live.crowded and _runs(live)  # a close freezes and thaws by itself
        for session_id in self._sizes.keys() - lives.keys():
            del self._sizes[session_id]
        free_mb, limit_mb = self._parts.admission.disk()
        if free_mb < limit_mb:
            await self._ask_pending(lives)
        decision = decide(
            free_mb=free_mb,
            limit_mb=limit_mb,
            homes=tuple(self._growth(live) for live in lives.values()),
            frozen=frozenset(live.record.id for live in lives.values() if live.crowded),
        )
        self._tell(decision, lives, free_mb=free_mb, limit_mb=limit_mb)
        if decision.freeze is not None:
            await self._freeze(lives[decision.freeze], free_mb=free_mb)
        for session_id in decision.thaw:
            await self._thaw(lives[session_id], free_mb=free_mb)
        return decision

    def keeps(self, live: Live) -> bool:
        """Say whether a frozen desktop is to stay so for want of space; after a restart, too."""
        if not live.crowded:
            free_mb, limit_mb = self._parts.admission.disk()
            live.crowded = keeps_frozen(free_mb=free_mb, limit_mb=limit_mb)
        return live.crowded

    def _growth(self, live: Live) -> Growth:
        now_ms = self._parts.clock.monotonic_ms()
        sizes = self._sizes.setdefault(live.record.id, deque())
        if live.home_bytes is not None and (not sizes or sizes[-1][1] != live.home_bytes):
            sizes.append((now_ms, live.home_bytes))
        while len(sizes) > 1 and now_ms - sizes[1][0] > WINDOW_MS:
            sizes.popleft()
        grown = max(0, sizes[-1][1] - sizes[0][1]) if sizes else 0
        pending = (live.pending.bytes or 0) if live.pending is not None else 0
        return Growth(session_id=live.record.id, grown_bytes=grown + pending)

    async def _ask_pending(self, lives: dict[SessionId, Live]) -> None:
        """Ask what is not saved yet: a home that fills in seconds has no checkpoint that tells of it."""
        now_ms = self._parts.clock.monotonic_ms()
        if self._asked_mono_ms is not None and now_ms - self._asked_mono_ms < PENDING_LOOK_S * 1000:
            return
        self._asked_mono_ms = now_ms
        for live in lives.values():
            if live.handle is None or live.crowded:
                continue
            try:
                async with asyncio.timeout(limits.CALL_S_MAX):
                    live.pending = await self._parts.checkpoints.pending(
                        live.workspace, home=live.handle.home
                    )
            except (SessionError, TimeoutError):
                continue

    def _tell(self, decision: Decision, lives: dict[SessionId, Live], *, free_mb: int, limit_mb: int) -> None:
        if not decision.low:
            self._alarms.clear("disk_low")
            return
        names = ", ".join(
            f"{lives[home.session_id].workspace_name} of {lives[home.session_id].user_name} "
            f"(+{home.grown_bytes >> 20} MB)"
            for home in decision.named
        )
        stopped = sum(live.crowded for live in lives.values())
        words = f"{free_mb} MB are free, {limit_mb} MB must stay so. Grew most: {names or 'unknown'}."
        if stopped or decision.freeze is not None:
            words += " Programs of the fastest are stopped until there is space; nothing is ended."
        self._alarms.raise_("disk_low", words)

    async def _freeze(self, live: Live, *, free_mb: int) -> None:
        assert live.handle is not None
        live.crowded = True  # before the freeze: a look of the reconciler between the two must not thaw it
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                receipt = await self._parts.desktops.freeze(live.handle, applications_only=True)
        except BaseException:
            live.crowded = False
            raise
        if not _runs(live):
            return  # it began to close meanwhile: that freezes and thaws by itself
        self._log.warning("desktop.frozen", session_id=live.record.id, method=receipt.method, cause="space")
        self._sessions.tell(live)
        await self._audit(live, "desktop.frozen_for_space", free_mb=free_mb)

    async def _thaw(self, live: Live, *, free_mb: int) -> None:
        if live.handle is None:
            return
        try:
            async with asyncio.timeout(limits.CALL_S_MAX):
                await self._parts.desktops.thaw(live.handle)
        except NotFound:
            pass
        live.crowded = False
        self._log.info("desktop.thawed", session_id=live.record.id)
        self._sessions.tell(live)
        await self._audit(live, "desktop.thawed_for_space", free_mb=free_mb)

    async def _audit(self, live: Live, kind: str, *, free_mb: int) -> None:
        entry = AuditEntry(
            kind=kind,
            actor=str(SYSTEM),
            at_ms=self._parts.clock.wall_ms(),
            session_id=live.record.id,
            workspace_id=live.record.workspace_id,
            user_id=live.record.user_id,
            facts=(("free_mb", free_mb),),
        )
        await self._parts.registry.commit(Unit(audit=(entry,)))


def _runs(live: Live) -> bool:
    return live.record.state in _RUNNING and live.handle is not None

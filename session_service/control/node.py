"""This node in the registry: its incarnation, its epoch, and the availability counter that is its heartbeat,
too.

Not the holds: `control/holds.py` asks for readings. The counter is written as an absolute value under a beat
number; a tick whose answer was lost is settled by reading the beat, never sent again blindly. Source:
lifecycle.md section 4.1.
"""

import asyncio
from typing import Any

from session_service.base.errors import Conflict, RegistryUnavailable
from session_service.base.ids import NodeId
from session_service.base.log import get_logger
from session_service.control.alarms import Alarms
from session_service.control.parts import NodeFacts, Parts
from session_service.control.pause import Pause
from session_service.core.availability import LOOP_LAG_MS_MAX, TICK_MS, Availability
from session_service.core.changes import PutNode, Rank, Tick, Unit
from session_service.core.events import Facts
from session_service.core.records import Node as NodeRecord
from session_service.core.records import NodeState

PULSE_S = 0.5
"""How often it is asked whether users could reach us, and whether the loop lagged."""

ANSWERED_MS_MAX = 10_000
"""Ticks that were not answered for this long make the node not ready."""


class NodeSuperseded(Exception):
    """Another process has started as this node; this one must end without touching anything."""


class Node:
    """The counter of this node, and the facts that every rule needs."""

    def __init__(self, *, facts: NodeFacts, parts: Parts, alarms: Alarms) -> None:
        self.id = NodeId(facts.id)
        self.epoch = 0
        self._facts = facts
        self._parts = parts
        self._alarms = alarms
        self._incarnation = 0
        self._clock: Availability | None = None
        self._sent: Availability | None = None
        """A tick that was sent and not answered: it may have landed."""
        self._one_tick = asyncio.Lock()
        self._log = get_logger()
        self.draining = False

    # -- the start ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Register this start of the node; returns once the registry answered, however long that takes."""
        pause = Pause(self._parts.ids)
        while True:
            try:
                await self._register()
                self._alarms.clear("registry")
                return
            except (RegistryUnavailable, Conflict) as exc:
                self._alarms.raise_("registry", str(exc))
                await pause.wait()

    async def _register(self) -> None:
        registry = self._parts.registry
        known = await registry.node(self.id)
        self.epoch = (await registry.mark()).epoch
        self._incarnation = known.incarnation + 1 if known is not None else 1
        record = NodeRecord(
            id=self.id,
            boot_id=self._facts.boot_id,
            incarnation=self._incarnation,
            address=self._facts.address,
            count_ms=known.count_ms if known is not None else 0,
            beat=known.beat + 1 if known is not None else 1,
            state=NodeState.UP,
        )
        expected = known.incarnation if known is not None else None
        boot_ms, mono_ms = self._now()
        await registry.commit(Unit(writes=(PutNode(node=record, expected_incarnation=expected),)))
        self._clock = Availability(
            count_ms=record.count_ms, beat=record.beat, boot_ms=boot_ms, mono_ms=mono_ms
        )

    # -- readings -------------------------------------------------------------------------------------

    @property
    def ticking(self) -> bool:
        """Say whether the counter was written lately."""
        if self._clock is None:
            return False
        return self._parts.clock.boot_ms() - self._clock.boot_ms <= ANSWERED_MS_MAX

    @property
    def counting(self) -> bool:
        """Say whether holds are counted now."""
        return self._clock is not None and self._clock.accepted and self.ticking

    def reading_ms(self) -> int:
        """Return counter plus gap so far: timers and displays go by it."""
        boot_ms, mono_ms = self._now()
        return self._opened().reading_ms(boot_ms=boot_ms, mono_ms=mono_ms)

    def written_ms(self) -> int:
        """Return the counter as last answered: what an expiry is compared with."""
        return self._opened().count_ms

    def base_ms(self) -> int:
        """Return the base of a hold that begins now, whether or not a tick under way lands."""
        boot_ms, mono_ms = self._now()
        base = self._opened().base_ms(boot_ms=boot_ms, mono_ms=mono_ms)
        if self._sent is not None:
            base = max(base, self._sent.base_ms(boot_ms=boot_ms, mono_ms=mono_ms))
        return base

    def facts(self, **more: Any) -> Facts:
        """Return the facts of this moment; `more` adds what the event brings."""
        values: dict[str, Any] = {
            "at_ms": self._parts.clock.wall_ms(),
            "epoch": self.epoch,
            "clock": self.id,
            "base_count_ms": self.base_ms(),
            "written_count_ms": self.written_ms(),
        }
        return Facts(**(values | more))

    # -- ticks ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick every two seconds, look twice a second whether users could reach us; for ever."""
        since_tick_s = 0.0
        while True:
            before_ms = self._parts.clock.monotonic_ms()
            await asyncio.sleep(PULSE_S)
            lag_ms = self._parts.clock.monotonic_ms() - before_ms - PULSE_S * 1000
            if lag_ms > LOOP_LAG_MS_MAX:
                self._log.warning("loop.stalled", lag_ms=round(lag_ms))
            if lag_ms > LOOP_LAG_MS_MAX or self.draining or not self._parts.admission.accepting():
                self._users_refused()
            since_tick_s += PULSE_S
            if since_tick_s * 1000 >= TICK_MS:
                since_tick_s = 0.0
                await self.tick()

    def _users_refused(self) -> None:
        self._clock = self._opened().refused_users()
        if self._sent is not None:
            self._sent = self._sent.refused_users()

    async def tick(self) -> bool:
        """Write the counter once; say whether it was answered. One at a time, so that gaps never overlap."""
        async with self._one_tick:
            try:
                if self._sent is not None:
                    await self._settle_sent()
                await self._write()
            except RegistryUnavailable as exc:
                self._alarms.raise_("registry", str(exc))
                return False
            self._alarms.clear("registry")
            return True

    async def _write(self) -> None:
        boot_ms, mono_ms = self._now()
        after = self._opened().next_tick(boot_ms=boot_ms, mono_ms=mono_ms)
        self._sent = after
        write = Tick(
            node_id=self.id, incarnation=self._incarnation, beat=self._opened().beat, count_ms=after.count_ms
        )
        try:
            await self._parts.registry.commit(Unit(rank=Rank.TICK, writes=(write,)))
        except Conflict:
            await self._settle_sent()
            return
        self._clock, self._sent = self._sent, None

    async def _settle_sent(self) -> None:
        """Read the beat: did the tick land whose answer is unknown?"""
        row = await self._parts.registry.node(self.id)
        if row is None or row.incarnation != self._incarnation:
            raise NodeSuperseded(self.id)
        sent, clock = self._sent, self._opened()
        if sent is not None and row.beat == sent.beat and row.count_ms == sent.count_ms:
            self._clock = sent
        elif row.beat != clock.beat:
            # The registry went back to an older state: count from what it says, from now on.
            boot_ms, mono_ms = self._now()
            self._clock = Availability(count_ms=row.count_ms, beat=row.beat, boot_ms=boot_ms, mono_ms=mono_ms)
        self._sent = None

    def _opened(self) -> Availability:
        assert self._clock is not None, "the node is not open"
        return self._clock

    def _now(self) -> tuple[int, int]:
        return self._parts.clock.boot_ms(), self._parts.clock.monotonic_ms()

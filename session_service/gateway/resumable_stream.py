"""The bytes between one desktop leg and its client, kept over the loss of the link that carries them.

Not a link: links come and go, this stays as long as its leg and its session's hold. While nobody is attached
nothing is asked or answered in the client's name; the desktop is read until its ring is full, and what was
held down is let go of after two seconds.
"""

from typing import Protocol

from session_service.core.continuity.messages import Resume
from session_service.core.continuity.serving import ServerStream
from session_service.core.rfb import ClientTracker, RfbError
from session_service.gateway.hub import Hub
from session_service.gateway.leg import DesktopLeg


class ResumableCarrier(Protocol):
    """The link that carries it now."""

    @property
    def link_id(self) -> str: ...
    def carry(self, data: bytes | memoryview) -> None: ...
    def stream_opened(self) -> None: ...
    def stream_lost(self) -> None: ...
    def stream_full(self) -> None: ...
    def stream_ready(self) -> None: ...


class ResumableStream:
    """One stream of one session. Made attached to the link that opens it."""

    __slots__ = (
        "_asked_at",
        "_carrier",
        "_detached_at",
        "_first_frame_due",
        "_hold_s",
        "_hub",
        "_is_broken",
        "_is_released",
        "_leg",
        "_leg_full",
        "_link_full",
        "_proved_at",
        "_session_id",
        "_time",
        "_tracker",
        "bytes_down",
        "bytes_up",
        "core",
        "heard_at",
    )

    def __init__(
        self,
        hub: Hub,
        *,
        session_id: str,
        name: str,
        carrier: ResumableCarrier,
        view_only: bool,
        hold_s: float,
        proved_at: float = 0.0,
    ) -> None:
        self._hub = hub
        self._session_id = session_id
        self._carrier: ResumableCarrier | None = carrier
        self._tracker = ClientTracker(view_only=view_only)
        self._leg: DesktopLeg | None = None
        self._hold_s = hold_s
        self._proved_at = proved_at
        """When the proof came that led to this stream; 0 after a ticket."""
        self._time = hub.time()
        self._leg_full = self._link_full = self._is_broken = self._is_released = False
        self._first_frame_due = True
        self._asked_at = self._detached_at = 0.0
        self.bytes_down = self.bytes_up = 0
        self.heard_at = self._time()
        """When its client acknowledged last."""
        self.core = ServerStream(name, ring_bytes=hub.limits.ring_bytes)

    # What a link calls.

    def can_replay(self, attempt: Resume) -> bool:
        """Say whether it can go on from where the client stands."""
        return self._leg is not None and not self._is_broken and self.core.can_replay(attempt)

    def replay(self, carrier: ResumableCarrier, attempt: Resume) -> None:
        """Go on with this link; the caller has said `resumed` and what is written from here follows it."""
        self._hub.ticker.remove(self)
        self._hub.rings.attach(self)
        self._carrier = carrier
        self._link_full = False
        self.heard_at = self._time()
        let_go = self.core.replay(attempt)
        for piece in self.core.ring.since(attempt.received):
            carrier.carry(piece)
        self._hub.rings.count(self, self.kept_bytes, self._time())
        if let_go:
            self._release()
        if self._leg_full:
            carrier.stream_full()
        self._read_or_not()

    def detach(self, carrier: ResumableCarrier) -> None:
        """A link is gone. Nothing happens when another one carries the stream by now."""
        if self._carrier is not carrier:
            return
        self._carrier = None
        if self._leg is None or self._is_broken or self._hub.is_closing:
            self.end()
            return
        self._link_full = self._is_released = False
        self._detached_at = self._time()
        self.core.detach()
        self._hub.ticker.add(self, self._release_at)
        self._hub.rings.detach(self, self._detached_at)
        self._read_or_not()

    def up(self, data: bytes) -> None:
        """Pass on what the client said, as far as it is whole. Raises RfbError; the stream is over then."""
        try:
            ready = self._tracker.feed(data)
        except RfbError:
            self._is_broken = True
            raise
        self.bytes_up += len(data)
        let_go = self.core.receive(data)
        if self._leg is not None and ready:
            self._leg.write(ready)
        if let_go:
            self._release()
        if self._first_frame_due and self._tracker.update_requested:
            self._first_frame_due = False
            self._asked_at = self._time()

    def acknowledge(self, offset: int) -> None:
        """Trim the ring. Raises FrameError (4400) when it cannot be true."""
        before = self.core.ring.acked
        self.core.acknowledge(offset)
        self.heard_at = self._time()
        if offset != before:
            self._hub.rings.count(self, self.core.ring.size, self.heard_at)
            self._read_or_not()

    def pause(self) -> None:
        """The client cannot take more."""
        self._link_full = True
        self._read_or_not()

    def resume(self) -> None:
        """The client can take more."""
        self._link_full = False
        self._read_or_not()

    # What the leg calls.

    def leg_opened(self, leg: DesktopLeg) -> None:
        self._leg = leg
        if self._carrier is None:
            self.end()
        else:
            self._carrier.stream_opened()

    def leg_said(self, data: bytes) -> None:
        self.bytes_down += len(data)
        if self._asked_at:
            now = self._time()
            self._hub.stats.first_frame(now - self._asked_at)
            if self._proved_at:
                self._hub.stats.back_frame(now - self._proved_at)
            self._asked_at = 0.0
        is_full = self.core.send(data)
        if self._carrier is not None:
            self._carrier.carry(data)
        self._hub.rings.count(self, self.core.ring.size, self._time())
        if is_full:
            self._read_or_not()

    def leg_full(self) -> None:
        self._leg_full = True
        if self._carrier is not None:
            self._carrier.stream_full()

    def leg_ready(self) -> None:
        self._leg_full = False
        if self._carrier is not None:
            self._carrier.stream_ready()

    def leg_lost(self) -> None:
        """What was read is on its way already; a resume begins a new stream."""
        self._leg = None
        carrier = self._carrier
        if carrier is not None:
            carrier.stream_lost()
        self.end()

    # What the ticker and the budget call.

    def look(self, now: float, excused: float) -> float | None:
        """Let go of what is down two seconds after a drop; say when nobody will come back any more."""
        if not self._is_released:
            if now < self._release_at:
                return self._release_at
            self._is_released = True
            if self._tracker.is_opaque:
                return None  # Nobody knows what is down: only the end of its leg lets go of it.
            self._release()
        ends = self._detached_at + self._hold_s + self._hub.limits.detached_s
        return None if now >= ends else ends

    def judge(self, now: float, excused: float) -> None:
        if self._carrier is None:
            self.end()

    @property
    def _release_at(self) -> float:
        """Early by the turns of the ticker, so that nothing is down for longer than was promised."""
        limits = self._hub.limits
        return self._detached_at + limits.release_s - 2 * limits.tick_s

    @property
    def kept_bytes(self) -> int:
        """Memory that is held for a replay."""
        return self.core.ring.size

    def forget(self) -> None:
        """Give up the replay of what was sent; the link goes on."""
        self.core.ring.forget()

    def end(self) -> bool:
        """Let go of keys and buttons, then close the leg; say whether anything was down. Repeating is
        harmless.
        """
        hub, leg = self._hub, self._leg
        hub.ticker.remove(self)
        hub.rings.leave(self)
        if hub.streams.get(self._session_id) is self:
            del hub.streams[self._session_id]
        self._leg = self._carrier = None
        self.core.ring.forget()
        if leg is None:
            return False
        last = self._tracker.release()
        leg.close(last, self._time())
        return bool(last)

    def _release(self) -> None:
        last = self._tracker.release()
        if last and self._leg is not None:
            self._leg.write(last)
            self._hub.stats.keys_released += 1
            self._hub.log.info("keys.released", session_id=self._session_id)

    def _read_or_not(self) -> None:
        if self._leg is None:
            return
        if self._link_full or self.core.is_full:
            self._leg.pause()
        else:
            self._leg.resume()

"""The bytes between one desktop leg and the link that carries them, and what a client holds down on the way.

Not a link: a stream belongs to a desktop leg and could outlive its link. On `binary` it has no ring of sent
bytes, so it ends with its link; keys and buttons are released first, then the leg is closed.
"""

from collections.abc import Callable
from typing import Protocol

from session_service.core.rfb import ClientTracker
from session_service.gateway.leg import DesktopLeg
from session_service.gateway.stats import GatewayStats


class Carrier(Protocol):
    """The link that carries a stream now."""

    def carry(self, data: bytes) -> None: ...
    def stream_opened(self) -> None: ...
    def stream_lost(self) -> None: ...
    def stream_full(self) -> None: ...
    def stream_ready(self) -> None: ...


class CarriedStream(Protocol):
    """A stream as its link and its opening see it."""

    @property
    def bytes_down(self) -> int: ...
    @property
    def bytes_up(self) -> int: ...
    def up(self, data: bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end(self) -> bool: ...
    def leg_opened(self, leg: DesktopLeg) -> None: ...
    def leg_said(self, data: bytes) -> None: ...
    def leg_full(self) -> None: ...
    def leg_ready(self) -> None: ...
    def leg_lost(self) -> None: ...


class BinaryStream:
    """Passes bytes both ways with backpressure: never a loss, never more waiting than the limits say."""

    __slots__ = (
        "_asked_at",
        "_carrier",
        "_first_frame_due",
        "_leg",
        "_stats",
        "_time",
        "_tracker",
        "bytes_down",
        "bytes_up",
    )

    def __init__(
        self, *, carrier: Carrier, view_only: bool, stats: GatewayStats, time: Callable[[], float]
    ) -> None:
        self._carrier = carrier
        self._stats = stats
        self._time = time
        self._tracker = ClientTracker(view_only=view_only)
        self._leg: DesktopLeg | None = None
        self._first_frame_due = True
        self._asked_at = 0.0
        self.bytes_down = 0
        self.bytes_up = 0

    def up(self, data: bytes) -> None:
        """Pass on what the client said, as far as it is whole. Raises RfbError; nothing more may be passed
        then.
        """
        self.bytes_up += len(data)
        ready = self._tracker.feed(data)
        if ready and self._leg is not None:
            self._leg.write(ready)
            if self._first_frame_due and self._tracker.update_requested:
                self._first_frame_due = False
                self._asked_at = self._time()

    def leg_opened(self, leg: DesktopLeg) -> None:
        self._leg = leg
        self._carrier.stream_opened()

    def leg_said(self, data: bytes) -> None:
        self.bytes_down += len(data)
        if self._asked_at:
            self._stats.first_frame(self._time() - self._asked_at)
            self._asked_at = 0.0
        self._carrier.carry(data)

    def leg_full(self) -> None:
        self._carrier.stream_full()

    def leg_ready(self) -> None:
        self._carrier.stream_ready()

    def leg_lost(self) -> None:
        self._leg = None
        self._carrier.stream_lost()

    def pause(self) -> None:
        """The client cannot take more."""
        if self._leg is not None:
            self._leg.pause()

    def resume(self) -> None:
        """The client can take more."""
        if self._leg is not None:
            self._leg.resume()

    def end(self) -> bool:
        """Let go of keys and buttons, then close the leg; say whether anything was down. Repeating is
        harmless.
        """
        leg, self._leg = self._leg, None
        if leg is None:
            return False
        last = self._tracker.release()
        leg.close(last, self._time())
        return bool(last)

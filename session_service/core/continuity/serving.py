"""The server's side of a stream and of the link that carries it now: offsets, acknowledgements, replay or
resync, liveness.

No socket, clock or desktop: bytes, messages and readings of a clock in seconds come in; what to do comes out.
A stream belongs to one desktop leg and outlives links; a link is mortal. Whoever holds both passes on what
one says about the other.

Source: docs/protocol.md, "Acknowledgements and buffers", "Resume".
"""

import zlib
from dataclasses import dataclass
from typing import Final

from session_service.core.continuity import messages
from session_service.core.continuity.limits import (
    ACK_DOWN_BYTES,
    ACK_S,
    ACK_UP_BYTES,
    BEAT_S,
    DOWN_DETACHED_BYTES,
    DOWN_RING_BYTES,
    DOWN_RING_BYTES_MAX,
    DOWN_RING_BYTES_MIN,
    JITTER_MS,
    OFFSET_MAX,
    UP_RING_BYTES,
)
from session_service.core.continuity.messages import Beat, FromClient, Resume, say
from session_service.core.continuity.proof import encode
from session_service.core.continuity.ring import Ring

OFFSET_MARGIN: Final = 1 << 40
"""A stream this near to the largest offset is not resumed but resynced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a stream has come, for the answer to a resume."""

    taken: int
    checksum: int


class ServerStream:
    """Both directions of one stream, as the server knows them.

    Args:
        leg: its name: 8 random bytes as text.
        ring_bytes: unacknowledged towards the client, until its desktop is not read; 1 to 32 MiB.
    """

    __slots__ = ("_cap", "_checksum", "_detached_cap", "_replay_end", "leg", "received", "ring")

    def __init__(self, leg: str, *, ring_bytes: int = DOWN_RING_BYTES) -> None:
        assert DOWN_RING_BYTES_MIN <= ring_bytes <= DOWN_RING_BYTES_MAX, ring_bytes
        self.leg = leg
        self._cap = ring_bytes
        self.ring = Ring()
        """Towards the client."""
        self.received = 0
        """Bytes of the client that were handed on."""
        self._checksum = 0
        self._replay_end: int | None = None
        self._detached_cap: int | None = None

    # Towards the desktop.

    def receive(self, data: bytes) -> bool:
        """Count bytes of the client, which the caller hands on; return True when everything that is down must
        be let go of afterwards: what was down over a cut never stays down.
        """
        self.received += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        if self._replay_end is None or self.received < self._replay_end:
            return False
        self._replay_end = None
        return True

    def standing(self) -> Standing:
        """Return what `resumed` says; to be asked when the older link is read no more, not before."""
        return Standing(taken=self.received, checksum=self._checksum)

    # Towards the client.

    def send(self, data: bytes) -> bool:
        """Keep bytes of the desktop, which the caller sends if a link is there; say whether `is_full` now."""
        self.ring.append(data)
        return self.is_full

    def acknowledge(self, offset: int) -> None:
        """Trim. Raises FrameError (4400) when it cannot be true."""
        if not self.ring.acknowledge(offset):
            raise messages.bad("acknowledgement of what was never sent, or that falls")

    @property
    def is_full(self) -> bool:
        """True while the desktop must not be read."""
        ring = self.ring
        return ring.end - ring.acked >= (self._detached_cap or self._cap)

    # Links.

    def detach(self) -> None:
        """No link carries it: keep what is there, and little more."""
        self._detached_cap = max(self.ring.unacknowledged, DOWN_DETACHED_BYTES)

    def attach(self) -> None:
        """A link carries it."""
        self._detached_cap = None

    def can_replay(self, attempt: Resume) -> bool:
        """Say whether the attempt names this stream and what it lacks is here, on both sides; else resync."""
        return (
            attempt.leg == self.leg
            and self.ring.holds(attempt.received)
            and attempt.have <= self.received <= attempt.end
            and max(self.ring.end, attempt.end) < OFFSET_MAX - OFFSET_MARGIN
        )

    def replay(self, attempt: Resume) -> bool:
        """Go on from where the client stands: `ring.since(attempt.received)` follows `resumed` at once.
        Returns True when everything that is down must be let go of now.
        """
        assert self.can_replay(attempt)
        self.ring.acknowledge(attempt.received)
        self.attach()
        self._replay_end = attempt.end
        return self.receive(b"")


class ServerLink:
    """What one link owes its client in time: acknowledgements and signs of life. Times in seconds."""

    __slots__ = ("_acknowledged", "due_at", "said_at")

    def __init__(self, *, received: int, now: float) -> None:
        self._acknowledged = received
        self.due_at: float | None = None
        """When an acknowledgement is due; None when everything is acknowledged."""
        self.said_at = now
        """When anything that the client can see was sent last; whoever sends it notes that here."""

    def received(self, offset: int, now: float) -> str | None:
        """The client's bytes were handed on up to `offset`; return an acknowledgement that is due by size."""
        if offset - self._acknowledged >= ACK_UP_BYTES:
            return self.acknowledge(offset, now)
        if offset > self._acknowledged and self.due_at is None:
            self.due_at = now + ACK_S
        return None

    def acknowledge(self, offset: int, now: float) -> str:
        """Return an acknowledgement now; also the answer to a probe."""
        self._acknowledged = offset
        self.due_at = None
        self.said_at = now
        return f'{{"a":{offset}}}'

    def next_deadline(self) -> float:
        """When `tick` has something to say at the latest, if nothing happens until then."""
        beat, due = self.said_at + BEAT_S, self.due_at
        return beat if due is None or beat < due else due

    def tick(self, now: float, *, received: int, sent: int) -> str | None:
        """Return what is due: an acknowledgement, or where the stream stands."""
        if self.due_at is not None and now >= self.due_at:
            return self.acknowledge(received, now)
        if now - self.said_at >= BEAT_S:
            self.said_at = now
            return f'{{"h":{sent}}}'
        return None


def asks(message: FromClient) -> bool:
    """Say whether a message is a probe, answered by an acknowledgement at once."""
    return isinstance(message, Beat)


def hello(challenge: bytes) -> str:
    """Return the first message of every link, written with the 101."""
    return say(t="hello", c=encode(challenge))


def opened(
    *,
    session_id: str,
    leg: str,
    mode: str,
    grant: int,
    key: bytes | None,
    hold_s: float,
    gap_s: float | None,
    soft_s: float | None = None,
    ring_bytes: int = DOWN_RING_BYTES,
) -> str:
    """Return the answer to `open`. It holds the key and is never logged."""
    return say(
        t="opened",
        sid=session_id,
        grant=grant,
        key=None if key is None else encode(key),
        leg=leg,
        n=0,
        mode=mode,
        hold=hold_s,
        soft=soft_s,
        win=[ring_bytes, UP_RING_BYTES],
        ack=[ACK_DOWN_BYTES, ACK_UP_BYTES, round(ACK_S * 1000)],
        hb=round(BEAT_S),
        jitter=list(JITTER_MS),
        gap=gap_s,
        use=[],
    )


def replayed(attempt: Resume, standing: Standing, *, gap_s: float | None) -> str:
    """Return the answer to a resume whose stream goes on."""
    return say(
        t="resumed",
        n=attempt.number,
        how="replay",
        leg=attempt.leg,
        rx=standing.taken,
        x=standing.checksum,
        gap=gap_s,
    )


def resynced(attempt: Resume, *, leg: str, was: int | None, gap_s: float | None) -> str:
    """Return the answer to a resume that begins a new stream under the same key."""
    return say(t="resumed", n=attempt.number, how="resync", leg=leg, rx=0, x=0, gap=gap_s, was=was)


def taken(by: str) -> str:
    """Return what a displaced client is told; close 4409 follows."""
    return say(t="taken", by=by)


def drain(
    after_ms: tuple[int, int], to: str | None = None, *, back_ms: int | None = None, note: str = ""
) -> str:
    """Return when to come back, while this server still answers; `back` and `note` are for the user."""
    planned = {} if back_ms is None else {"back": back_ms, "note": note}
    return say(t="drain", after=list(after_ms), to=to, **planned)


def pause(*, begins_ms: int | None, back_ms: int | None, note: str) -> str:
    """Return the announcement of a planned pause; both times None: there is none any more."""
    return say(t="pause", begin=begins_ms, back=back_ms, note=note)

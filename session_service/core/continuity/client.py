"""The client's side of `continuity.v1`: when to dial, what to say, what to hand on, and what an end means.

No socket, clock or randomness: a shell dials, passes on what comes with the number of its socket, and does
what the returned acts say. It arms one timer for `next_deadline()` and then calls `tick`. Whatever comes from
an older socket than the newest one dialled counts for nothing, its refusals and `taken` included.

Source: docs/protocol.md, "The client"; session_service/http/pages/channel.js is its twin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from session_service.core.close_codes import Close, Next
from session_service.core.continuity import messages, proof
from session_service.core.continuity.limits import (
    ACK_DOWN_BYTES,
    ACK_S,
    BACKOFF_S,
    BACKOFF_S_MAX,
    DIAL_S,
    JITTER_MS,
    MESSAGE_BYTES_MAX,
    PROBE_S,
    REDIRECTS_MAX,
    RETRY_MS_MAX,
    SILENT_S,
    UP_RING_BYTES,
)
from session_service.core.continuity.messages import say
from session_service.core.continuity.ring import Ring, messages_of
from session_service.core.websocket import FrameError


class Phase(StrEnum):
    """Where a client stands."""

    IDLE = "idle"
    """Has no ticket and no key."""
    WAITING = "waiting"
    """Will dial at `next_deadline`."""
    DIALLING = "dialling"
    """A socket was dialled and has not answered."""
    OPEN = "open"
    DOWN = "down"
    """Ended; the last `Ended` says why, and a new ticket begins anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Dial now, give the socket this number, and leave every older one."""

    number: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Send a text message on the newest socket."""

    text: str

    def __repr__(self) -> str:
        return "Say()"  # It may hold a ticket or a proof.


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send one message of bytes on the newest socket."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Hand bytes of the desktop on; they count as handed on from now."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A new stream begins at its first byte: after `open`, or after a resync."""

    resync: bool
    mode: str
    gap_s: float | None
    lost_input: bool
    """True when some of what was sent before may not have reached the desktop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The old stream goes on, and nothing of it was lost."""

    gap_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The session is not ready yet."""

    why: str
    percent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The service announced a pause, took it back (`back_ms` None), or goes away for it now (`begins_ms`
    None). For people: what is done is the same as without it.
    """

    begins_ms: int | None
    back_ms: int | None
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The link is gone, the stream is not: no input is taken until it is back."""

    retry_in_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Nothing goes on by itself: `step` says what its user may do."""

    code: int
    why: str
    step: str
    facts: dict[str, Any]


Act = Dial | Say | Send | Deliver | Began | Replayed | Progress | Planned | Lost | Ended

_BY_ITSELF = frozenset(
    {Close.TOO_SLOW, Close.TOO_MANY, Close.LEG_LOST, Close.MOVED, Close.RETRY, Close.NODE_UNREACHABLE}
)
_BROKEN = frozenset({Close.PROTOCOL, Close.NOT_UTF8, Close.TOO_BIG, Close.BAD_MESSAGE, Close.MESSAGE_TOO_BIG})


class Client:
    """One stream and the links that carry it, one after the other.

    Args:
        aud: the address as it is dialled (scheme, host, port).
        path: where to dial, `/s/<shard>/ws`.
        draw: returns a number uniform in [0, 1), for pauses.
    """

    def __init__(self, *, aud: str, path: str, draw: Callable[[], float]) -> None:
        self.aud = aud
        self.path = path
        self.phase = Phase.IDLE
        self.session_id = ""
        self.mode = "control"
        self.up = Ring(checked=True)
        """Towards the desktop."""
        self.received = 0
        """Bytes of the desktop that were handed on."""
        self._draw = draw
        self._ticket = ""
        self._auth = ""
        """A ticket that proves a login, for the next attempt."""
        self._asked_login = False
        self._key: bytes | None = None
        self._grant = 0
        self._leg = proof.NO_LEG
        self._number = 0
        self._attempts = 0
        self._tries = 0
        self._redirects = 0
        self._broken = False
        self._doubt = False
        """True when unacknowledged input was given up with its stream."""
        self._acknowledged = 0
        self._dialled_at = 0.0
        self._ack_at: float | None = None
        self._dial_at: float | None = None
        self._give_up_at: float | None = None
        self._refusal: messages.No | None = None
        self._range_ms: tuple[int, int] | None = None

    # What the shell says.

    def open(self, ticket: str, now: float) -> list[Act]:
        """Begin, or begin anew, with a fresh ticket."""
        self._ticket, self._auth, self._asked_login = ticket, "", False
        self._forget()
        self._key = None
        self._tries = 0
        self._broken = self._doubt = False
        return self._dial(now)

    def again(self, ticket: str, now: float) -> list[Act]:
        """Ask again with the key that is there, after its user signed in: a fresh ticket proves it. Nothing
        is done (an empty answer) without a key; then `open` is the way.
        """
        if self.phase is not Phase.DOWN or self._key is None:
            return []
        self._auth = ticket
        self._tries = 0
        return self._dial(now)

    @property
    def has_key(self) -> bool:
        """True when a loss can be resumed without a new ticket."""
        return self._key is not None

    @property
    def takes_input(self) -> bool:
        """True while bytes of the user are taken: attached, and the ring has room."""
        return self.phase is Phase.OPEN and self.up.unacknowledged < UP_RING_BYTES

    def send(self, data: bytes) -> list[Act]:
        """Take bytes of the user. Refused as a whole (an empty answer) while `takes_input` is False: typing
        blind into a frozen picture is worse than waiting.
        """
        if not self.takes_input or not data:
            return []
        self.up.append(data)
        return [Send(data=piece) for piece in messages_of(data, MESSAGE_BYTES_MAX)]

    def hurry(self, now: float) -> list[Act]:
        """The network is back, or the user looks: dial at once what would be dialled, ask what is open."""
        hangs = self.phase is Phase.DIALLING and self._key is not None and now - self._dialled_at > PROBE_S
        if self.phase is Phase.WAITING or hangs:
            self._tries = 0
            return self._dial(now)
        return self.probe(now)

    def probe(self, now: float) -> list[Act]:
        """Ask whether the other end is there; the answer has three seconds."""
        if self.phase is not Phase.OPEN:
            return []
        self._give_up_at = min(now + PROBE_S, self._give_up_at or now + PROBE_S)
        return [Say(text=say(h=1))]

    def leave(self, *, end: bool) -> list[Act]:
        """The user leaves: the session is held, or ended."""
        was, self.phase = self.phase, Phase.DOWN
        self._dial_at = self._give_up_at = self._ack_at = None
        self._key = None
        gone = Ended(code=int(Close.NORMAL), why="left", step=Next.NONE, facts={})
        return [Say(text=say(t="bye", end=end)), gone] if was is Phase.OPEN else [gone]

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        known = [at for at in (self._dial_at, self._give_up_at, self._ack_at) if at is not None]
        return min(known, default=None)

    def tick(self, now: float) -> list[Act]:
        """Do what is due."""
        if self._dial_at is not None and now >= self._dial_at:
            return self._dial(now)
        if self._give_up_at is not None and now >= self._give_up_at:
            return self._lose(now, "silent")
        if self._ack_at is not None and now >= self._ack_at:
            return [self._acknowledge()]
        return []

    # What comes from a socket.

    def heard(self, number: int, now: float) -> None:
        """Any byte came, a ping included."""
        if number == self._number and self.phase is Phase.OPEN:
            self._give_up_at = now + SILENT_S

    def text(self, number: int, text: str, now: float) -> list[Act]:
        """A text message came."""
        if number != self._number or self.phase not in {Phase.DIALLING, Phase.OPEN}:
            return []
        self.heard(number, now)
        try:
            return self._take(messages.read_server(text), now)
        except FrameError as error:
            return self._break(now, error.detail)

    def data(self, number: int, data: bytes, now: float) -> list[Act]:
        """A message of bytes came."""
        if number != self._number or self.phase not in {Phase.DIALLING, Phase.OPEN}:
            return []
        if self.phase is not Phase.OPEN:
            return self._break(now, "bytes before the answer")
        self.heard(number, now)
        if not data:
            return []
        self.received += len(data)
        acts: list[Act] = [Deliver(data=data)]
        if self.received - self._acknowledged >= ACK_DOWN_BYTES:
            acts.append(self._acknowledge())
        elif self._ack_at is None:
            self._ack_at = now + ACK_S
        return acts

    def closed(self, number: int, code: int, now: float) -> list[Act]:
        """The socket ended, or was never there (1006)."""
        if number != self._number or self.phase not in {Phase.DIALLING, Phase.OPEN}:
            return []
        refusal, self._refusal = self._refusal, None
        if code in _BROKEN:
            return self._break(now, f"closed with {code}")
        if refusal is None:
            # Proxies invent codes; only a `no` decides. Asked again, the server gives the same answer.
            return self._lose(now, "network", 0 if code == Close.LEG_LOST else None)
        if refusal.code not in _BY_ITSELF:
            if refusal.code == Close.LOGIN and self._asked_login:
                self._key = None  # A login was proved and the key is void all the same: only `open` is left.
            return self._end(refusal.code, refusal.why, refusal.step, dict(refusal.facts))
        retry_ms = refusal.retry_ms
        if refusal.code == Close.MOVED:
            self._redirects += 1
            if refusal.to is not None and self._redirects <= REDIRECTS_MAX:
                self.path, retry_ms = refusal.to, 0
            else:
                retry_ms = retry_ms or None  # never round and round without a pause
        return [*_planned(refusal.planned), *self._lose(now, refusal.why, retry_ms)]

    # Parts of the above.

    def _dial(self, now: float) -> list[Act]:
        self._number += 1
        self.phase = Phase.DIALLING
        self._dial_at = self._ack_at = None
        self._dialled_at = now
        self._give_up_at = now + DIAL_S
        self._refusal = None
        self._tries += 1
        return [Dial(number=self._number, path=self.path)]

    def _take(self, message: messages.FromServer, now: float) -> list[Act]:
        if self.phase is Phase.OPEN:
            return self._take_open(message, now)
        match message:
            case messages.Hello():
                return [Say(text=self._first(message.challenge))]
            case messages.Wait():
                self._give_up_at = now + SILENT_S
                return [Progress(why=message.why, percent=message.percent)]
            case messages.Opened() if self._key is None:
                return self._opened(message, now)
            case messages.Resumed() if self._key is not None and message.number == self._attempts:
                return self._resumed(message, now)
            case messages.No():
                self._refusal = message
            case messages.Pause():
                return _planned(message)
            case messages.Unknown() | messages.Drain() | messages.Taken():
                pass
            case _:
                return self._break(now, "an answer to nothing")
        return []

    def _take_open(self, message: messages.FromServer, now: float) -> list[Act]:
        match message:
            case messages.Ack():
                if not self.up.acknowledge(message.offset):
                    return self._break(now, "acknowledgement of what was never sent, or that falls")
            case messages.Beat():
                if message.offset != self.received:
                    return self._break(now, "bytes are missing or doubled")
                return [self._acknowledge()]
            case messages.Drain():
                self._range_ms = message.after_ms
                self.path = message.to or self.path
                low, high = message.after_ms
                self._dial_at = now + (low + self._draw() * (high - low)) / 1000
                return _planned(message.planned)
            case messages.Pause():
                return _planned(message)
            case messages.Taken():
                self._refusal = messages.No(
                    code=int(Close.TAKEN),
                    why="taken",
                    step=Next.CLICK,
                    retry_ms=None,
                    to=None,
                    facts={"by": message.by},
                )
            case messages.No():
                self._refusal = message
            case _:
                pass
        return []

    def _first(self, challenge: str) -> str:
        if self._key is None:
            ticket, self._ticket = self._ticket, ""
            return say(t="open", aud=self.aud, auth=ticket, can=[])
        self._attempts += 1
        text = proof.attempt_text(
            aud=self.aud,
            session_id=self.session_id,
            grant=self._grant,
            leg=self._leg,
            number=self._attempts,
            received=self.received,
            have=self.up.base,
            end=self.up.end,
            challenge=challenge,
        )
        login = {"auth": self._auth} if self._auth else {}
        self._asked_login, self._auth = bool(login), ""
        return say(
            t="resume",
            aud=self.aud,
            sid=self.session_id,
            grant=self._grant,
            leg=self._leg,
            n=self._attempts,
            rx=self.received,
            have=self.up.base,
            end=self.up.end,
            mac=proof.encode(proof.sign(self._key, text)),
            **login,
        )

    def _opened(self, message: messages.Opened, now: float) -> list[Act]:
        self.session_id, self.mode = message.session_id, message.mode
        self._key, self._grant, self._attempts = message.key, message.grant, 0
        self._forget()
        self._leg = message.leg
        self._attached(now)
        return [Began(resync=False, mode=self.mode, gap_s=message.gap_s, lost_input=False)]

    def _resumed(self, message: messages.Resumed, now: float) -> list[Act]:
        if not message.replay:
            unsure = self.up.unacknowledged > 0 and (message.was is None or message.was < self.up.end)
            lost, self._doubt = unsure or self._doubt, False
            self._forget()
            self._leg = message.leg
            self._attached(now)
            return [Began(resync=True, mode=self.mode, gap_s=message.gap_s, lost_input=lost)]
        taken = message.taken
        if message.leg != self._leg or not self.up.holds(taken):
            return self._break(now, "an answer about another stream")
        if self.up.checksum(taken) != message.checksum:
            # This memory is a copy of another client's: two would take turns for ever.
            return self._end(int(Close.PROOF_USED), "copied", str(Next.CLICK), {})
        self.up.acknowledge(taken)
        self._attached(now)
        self._acknowledged = self.received
        rest = [
            Send(data=part)
            for piece in self.up.since(taken)
            for part in messages_of(piece, MESSAGE_BYTES_MAX)
        ]
        return [Replayed(gap_s=message.gap_s), *rest]

    def _attached(self, now: float) -> None:
        self.phase = Phase.OPEN
        self._asked_login = False
        self._tries = self._redirects = 0
        self._give_up_at = now + SILENT_S
        self._range_ms = None

    def _acknowledge(self) -> Act:
        self._ack_at = None
        self._acknowledged = self.received
        return Say(text=say(a=self.received))

    def _forget(self) -> None:
        """Everything of the old stream is void; unacknowledged input is never sent again."""
        self.up = Ring(checked=True)
        self.received = self._acknowledged = 0
        self._leg = proof.NO_LEG
        self._ack_at = None

    def _break(self, now: float, detail: str) -> list[Act]:
        """Somebody broke the protocol: one resync, then nothing more by itself."""
        if self._broken or self._key is None:
            return self._end(int(Close.BAD_MESSAGE), detail, str(Next.REPORT), {})
        self._broken = True
        self._doubt = self._doubt or self.up.unacknowledged > 0
        self._forget()
        return self._lose(now, "protocol")

    def _lose(self, now: float, why: str, retry_ms: int | None = None) -> list[Act]:
        self._number += 1  # The socket is left: what it still says counts for nothing.
        self._give_up_at = self._ack_at = None
        if self._key is None:
            # The ticket may be used: without a key only a new one leads anywhere.
            return self._end(int(Close.ABNORMAL), why, str(Next.OPEN), {"retry_ms": retry_ms})
        self.phase = Phase.WAITING
        pause_s = self._pause(retry_ms)
        self._dial_at = now + pause_s
        return [Lost(retry_in_s=pause_s, why=why)]

    def _pause(self, retry_ms: int | None) -> float:
        given, self._range_ms = self._range_ms, None
        if given is not None:
            return (given[0] + self._draw() * (given[1] - given[0])) / 1000
        if retry_ms is not None:
            return min(RETRY_MS_MAX, retry_ms * (1 + self._draw() / 2)) / 1000
        if self._tries == 0:
            return (JITTER_MS[0] + self._draw() * (JITTER_MS[1] - JITTER_MS[0])) / 1000
        return float(self._draw() * min(BACKOFF_S_MAX, BACKOFF_S * 2 ** min(self._tries, 10)))

    def _end(self, code: int, why: str, step: str, facts: dict[str, Any]) -> list[Act]:
        self._number += 1
        self.phase = Phase.DOWN
        self._dial_at = self._give_up_at = self._ack_at = None
        return [Ended(code=code, why=why, step=step, facts=facts)]


def _planned(pause: messages.Pause | None) -> list[Act]:
    if pause is None:
        return []
    return [Planned(begins_ms=pause.begins_ms, back_ms=pause.back_ms, note=pause.note)]

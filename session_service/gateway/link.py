"""One websocket: from its 101 to its end. Frames in and out, liveness, refusals, the canonical report of
its end.

Not the stream: what it carries is a `BinaryStream`, which ends with it; `resumable_link.py` carries one that
outlives it. No coroutine and no timer per link: the loop calls it when bytes came, the ticker looks at it,
and one short task asks control for its desktop.
"""

import asyncio
import socket
import struct
from collections.abc import Collection
from enum import IntEnum
from math import inf
from typing import Final

import msgspec

from session_service.core import websocket
from session_service.core.close_codes import Close, Next
from session_service.core.records import LossCause
from session_service.core.rfb import RfbError
from session_service.core.websocket import Decoder, FrameError, close_frame, frame_head
from session_service.gateway import answers
from session_service.gateway.address import address_class
from session_service.gateway.first_message import read_open
from session_service.gateway.handshake import Upgrade, refuse
from session_service.gateway.hub import Hub
from session_service.gateway.opening import open_link
from session_service.gateway.stream import BinaryStream, CarriedStream
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer, LinkRefusal

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build of websockets without its compiled part
    from websockets.utils import apply_mask

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
JOINED_BYTES_MAX: Final = 4096
"""Up to here one copy is cheaper than two buffers."""
_PING: Final = frame_head(websocket.PING, 0)
_LEFT: Final = frozenset({Close.NORMAL, Close.GOING_AWAY, Close.NO_STATUS})


class Phase(IntEnum):
    """Where a link stands; only ever grows."""

    UPGRADING = 0
    """Ticket in the path: its 101 is sent when control has said yes."""
    FIRST = 1
    """The 101 is sent; the first message has not come."""
    OPENING = 2
    """Control is asked, or the desktop's socket is being opened."""
    OPEN = 3
    ENDING = 4
    """Said goodbye; what the client still sends is read and thrown away until it closes."""
    GONE = 5


class Link(asyncio.Protocol):
    """The protocol of an upgraded connection. `begin` takes the transport over from the first bytes."""

    __slots__ = (
        "_accepted",
        "_asked_at",
        "_attachment",
        "_began_at",
        "_controls",
        "_controls_at",
        "_decoder",
        "_drained_at",
        "_early",
        "_ended_at",
        "_frame_at",
        "_full",
        "_hub",
        "_joins",
        "_offer",
        "_pong_due",
        "_read_paused",
        "_seen_at",
        "_stalled_at",
        "_stalled_s",
        "_stalls",
        "_stream",
        "_time",
        "_transport",
        "cause",
        "close_code",
        "link_id",
        "phase",
    )

    _transport: asyncio.Transport

    def __init__(self, hub: Hub, upgrade: Upgrade, address: str) -> None:
        self._hub = hub
        self._accepted = upgrade.accepted
        self._time = hub.time()
        self._decoder = Decoder(
            unmask=apply_mask,
            message_bytes_max=hub.limits.message_bytes_max,
            text_bytes_max=hub.limits.text_bytes_max,
        )
        self._stream: CarriedStream | None = None
        self._attachment: Attachment | None = None
        self._early = b""
        self._full = self._read_paused = False
        self._pong_due: bytes | None = None
        self._controls = self._stalls = 0
        self._stalled_s = self._stalled_at = 0.0
        self._began_at = self._seen_at = self._controls_at = self._time()
        self._asked_at = self._drained_at = self._frame_at = self._ended_at = 0.0
        self.phase = Phase.FIRST if upgrade.ticket is None else Phase.UPGRADING
        self.cause = LossCause.UNKNOWN
        self.close_code: int | None = None
        self.link_id = hub.ids.ulid()
        self._offer = LinkOffer(
            link_id=self.link_id,
            ticket=upgrade.ticket or "",
            subprotocol="binary",
            address=address,
            user_agent=upgrade.user_agent,
            in_path=upgrade.ticket is not None,
        )

    # What the loop calls.

    def begin(self, transport: asyncio.Transport, rest: bytes) -> None:
        """Take over a connection whose request head was read; `rest` came behind it."""
        self._transport = transport
        # asyncio's own writelines joins its buffers (3.11) or leaves flow control out (seen in 3.12 and
        # 3.13: 25 MB for a client that read nothing); uvloop's transports, which are no subclasses, do
        # neither.
        self._joins = isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=self._hub.limits.down_bytes_max)
        self._hub.options.ensure(transport)
        self._hub.enter(self)
        limits = self._hub.limits
        self._hub.ticker.add(
            self, self._began_at + min(limits.ping_s, limits.first_message_s, limits.frame_s, limits.silent_s)
        )
        if self.phase is Phase.FIRST:
            transport.write(self._greeting())
            self._hub.wait_for_first(self)
        else:
            self._ask()
        if rest:
            self.data_received(rest)

    def data_received(self, data: bytes) -> None:
        self._seen_at = self._time()
        if self.phase is Phase.UPGRADING:
            self._early += data
            if len(self._early) > self._hub.limits.early_bytes_max:
                self.reset()
            return
        try:
            messages = self._decoder.feed(data)
        except FrameError as error:
            for opcode, payload in error.messages:
                self._take(opcode, payload)
            self._broke(error.code, error.detail)
            return
        stream = self._stream
        if stream is not None and self.phase is Phase.OPEN and len(messages) == 1 and messages[0][0] == 2:
            self._pass(stream, messages[0][1])
        else:
            self._take_all(messages)
        if not self._decoder.is_partial:
            self._frame_at = 0.0
        elif not self._frame_at or messages:
            self._frame_at = self._seen_at

    def pause_writing(self) -> None:
        self._full = True
        self._stalls += 1
        self._stalled_at = self._time()
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        self._full = False
        self._drained_at = self._time()
        self._stalled_s += self._drained_at - self._stalled_at
        if self._pong_due is not None and self.phase < Phase.ENDING:
            pong, self._pong_due = self._pong_due, None
            self._transport.write(frame_head(websocket.PONG, len(pong)) + pong)
        if self._stream is not None:
            self._stream.resume()

    def eof_received(self) -> None:
        self._lost(LossCause.RESET)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(LossCause.SILENT if isinstance(exc, TimeoutError) else LossCause.RESET)
        self.phase = Phase.GONE
        self._hub.ticker.remove(self)
        self._hub.waiting.pop(self, None)
        self._hub.leave(self)

    # What the ticker calls.

    def look(self, now: float, excused: float) -> float | None:
        """Ping a silent client and say when to look again; None when something is due that should be judged
        once more after reading.
        """
        limits = self._hub.limits
        calm = self._seen_at + limits.calm_s
        if now < calm and self.phase is Phase.OPEN and not self._frame_at:
            return calm  # bytes came since the last look: what nearly every look finds
        again = now + min(limits.ping_s, limits.frame_s)
        if self.phase <= Phase.OPEN and self.phase is not Phase.UPGRADING:
            asks = max(self._seen_at, self._asked_at, excused) + limits.ping_s
            if now >= asks:
                if self._full:
                    asks = now + limits.look_s
                else:
                    self._asked_at = now
                    asks = now + limits.ping_s
                    self._transport.write(_PING)
            again = min(again, asks)
        ends, _code = self._ends(excused)
        return None if now >= ends else min(again, ends)

    def judge(self, now: float, excused: float) -> None:
        """End the link if what `look` saw is still so."""
        ends, code = self._ends(excused)
        if now < ends:
            return
        if code is Close.TOO_SLOW:
            self.end(LossCause.UNKNOWN, code)
        else:
            self.reset(LossCause.SILENT)

    def _ends(self, excused: float) -> tuple[float, Close]:
        """Return when it is ended, and how: TOO_SLOW to be told so, ABNORMAL to be reset."""
        limits = self._hub.limits
        if self.phase >= Phase.ENDING:
            return max(self._ended_at, excused) + limits.close_s, Close.ABNORMAL
        ends = inf
        if not self._read_paused and self.phase is not Phase.UPGRADING:
            # Else we do not read, so its silence says nothing; the kernel's keepalive finds a dead peer.
            seen_at = max(self._seen_at, excused)
            slow = min(self._drained_at + limits.silent_s, seen_at + limits.slow_s)
            ends = max(seen_at + limits.silent_s - 2 * limits.tick_s, slow)
        if self._frame_at:
            ends = min(ends, max(self._frame_at, excused) + limits.frame_s)
        if self.phase is Phase.FIRST:
            first = max(self._began_at, excused) + limits.first_message_s
            if first <= ends:
                return first, Close.TOO_SLOW
        return ends, Close.ABNORMAL

    # What the stream calls.

    def carry(self, data: bytes | memoryview) -> None:
        """Send bytes of the desktop as one message; a large one is not copied for the sake of its head."""
        head = frame_head(websocket.BINARY, len(data))
        if len(data) <= JOINED_BYTES_MAX:
            self._transport.write(b"".join((head, data)))
        else:
            self._write((head, data))

    def _write(self, parts: Collection[bytes | memoryview]) -> None:
        """Write heads and what belongs to them in one call of the kernel, where the loop can do that."""
        if self._joins:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def stream_opened(self) -> None:
        """The desktop's socket is open: say so before its first byte."""
        attachment = self._attachment
        assert attachment is not None
        if self.phase is Phase.UPGRADING:
            self._transport.write(self._take_accepted())
        else:
            self._transport.write(self._answer(attachment))
        self.phase = Phase.OPEN
        if self._full and self._stream is not None:
            self._stream.pause()
        self._hub.log.info(
            "link.opened",
            session_id=attachment.session_id,
            link_id=self.link_id,
            mode=attachment.mode,
            address=self._offer.address,
            user_agent=self._offer.user_agent,
            in_path=self._offer.in_path,
        )
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def stream_lost(self) -> None:
        """The desktop closed its side. The link is told, control is told; whether the desktop died is for
        the host to say.
        """
        if self.phase >= Phase.ENDING:
            return
        assert self._attachment is not None
        self._hub.attachments.leg_lost(self._attachment.session_id, self.link_id)
        self.end(LossCause.UNKNOWN, Close.LEG_LOST)

    def stream_full(self) -> None:
        """The desktop cannot take more: read the client no more for now."""
        if not self._read_paused and self.phase < Phase.ENDING:
            self._read_paused = True
            self._transport.pause_reading()

    def stream_ready(self) -> None:
        """The desktop can take more."""
        if self._read_paused:
            self._read_paused = False
            self._seen_at = self._time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _greeting(self) -> bytes:
        """What follows a request that is let in."""
        return self._take_accepted()

    def _take_accepted(self) -> bytes:
        """Return the 101 answer, once: thousands of links need not keep theirs."""
        accepted, self._accepted = self._accepted, b""
        return accepted

    def _answer(self, attachment: Attachment) -> bytes:
        """What is said when the desktop's socket is open, before its first byte."""
        return answers.opened(attachment)

    # What the opening task and control call.

    @property
    def retry_step(self) -> Next:
        """What a client does after a failure of ours: its ticket is used up."""
        return Next.OPEN

    def is_over(self) -> bool:
        """True when nobody is there to be opened for any more."""
        return self.phase >= Phase.ENDING

    @property
    def session_id(self) -> str:
        """Where it leads; "" before control has said so."""
        return "" if self._attachment is None else self._attachment.session_id

    @property
    def payload_bytes(self) -> tuple[int, int]:
        """Bytes carried down and up so far."""
        return (0, 0) if self._stream is None else (self._stream.bytes_down, self._stream.bytes_up)

    def attached(self, attachment: Attachment) -> CarriedStream | None:
        """Control has committed: report the end at once if it came first, else return the stream to be
        opened.
        """
        self._attachment = attachment
        if self.is_over():
            self._report()
            return None
        self._hub.add_link(attachment.session_id, self.link_id)
        made = self._make_stream(attachment)
        self._stream = self._stream if made is None else made
        return made

    def _make_stream(self, attachment: Attachment) -> CarriedStream | None:
        """Return the stream whose leg is to be opened; None when one goes on that is open already."""
        if attachment.mode == "control":
            self._hub.end_stream(attachment.session_id)  # no key of an older link leads to it any more
        return BinaryStream(
            carrier=self, view_only=attachment.mode != "control", stats=self._hub.stats, time=self._time
        )

    def tell_wait(self, why: str, percent: int | None) -> None:
        """Say that the session is starting; stock clients are told nothing, their 101 just takes longer."""
        if self.phase is Phase.OPENING:
            self._transport.write(answers.wait(why, percent))

    def refuse(self, refusal: LinkRefusal) -> None:
        """Say no, with the way forward, and close."""
        if self.is_over():
            return
        if self.phase is not Phase.UPGRADING:
            self._transport.write(answers.no(refusal))
        self.end(LossCause.UNKNOWN, refusal.code, refusal.why)

    def close_link(self, code: int, why: str, by: str) -> None:
        """End it on control's word: nothing more of it is read, and it is reset after a second."""
        cause = LossCause.UNKNOWN
        if code == Close.TAKEN:
            cause = LossCause.TAKEN_OVER
        elif code == Close.RESTART:
            cause = LossCause.SERVER_RESTART
        if self.phase is Phase.OPENING:
            self._transport.write(answers.no(answers.refusal(code, why, by)))
        self.end(cause, code, f"{why} {by}".rstrip())

    def tell_pause(self) -> None:
        """A pause of the service was announced, or taken back; on `binary` nobody can be told."""

    def end(self, cause: LossCause, code: int, why: str = "") -> None:
        """Say goodbye with a code; the client then has a moment to close. Repeating this is harmless."""
        if self.phase >= Phase.ENDING:
            return
        if code not in _LEFT:
            self._hub.stats.refused(code)
        upgrading = self.phase is Phase.UPGRADING
        self._stop(cause, code)
        if upgrading:
            later = code in {
                Close.RETRY,
                Close.RESTART,
                Close.TOO_MANY,
                Close.NODE_UNREACHABLE,
                Close.LEG_LOST,
            }
            status, text = (503, "Not now; try again soon.") if later else (403, "This ticket opens nothing.")
            self._transport.write(refuse(status, text, *(("Retry-After: 2",) if later else ())).answer)
            self._transport.close()
            return
        self._transport.write(close_frame(code, why or answers.refusal(code).why))

    def reset(self, cause: LossCause = LossCause.RESET) -> None:
        """Drop the connection without waiting for what lies in a buffer: close() would wait for a dead
        peer.
        """
        self._lost(cause)
        connection = self._transport.get_extra_info("socket")
        if connection is not None and not self._transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self._transport.abort()

    # What it does by itself.

    def _take_all(self, messages: list[tuple[int, bytes]]) -> None:
        """Act on what came in one read."""
        for opcode, payload in messages:
            self._take(opcode, payload)

    def _take(self, opcode: int, payload: bytes) -> None:
        """Act on one message, whatever the phase."""
        if self.phase >= Phase.ENDING:
            if opcode == websocket.CLOSE:
                self._transport.close()
            return
        if opcode == websocket.BINARY:
            if self.phase is Phase.OPEN and self._stream is not None:
                self._pass(self._stream, payload)
            else:
                self._broke(Close.BAD_MESSAGE, "bytes before the answer")
        elif opcode == websocket.TEXT:
            self._take_text(payload)
        elif opcode == websocket.CLOSE:
            self._take_close(payload)
        else:
            self._take_control(opcode, payload)

    def _pass(self, stream: CarriedStream, payload: bytes) -> None:
        try:
            stream.up(payload)
        except RfbError as error:
            self._broke_rfb(error)

    def _take_text(self, payload: bytes) -> None:
        """Only the first message may be text on `binary`."""
        if self.phase is not Phase.FIRST:
            self._broke(Close.BAD_MESSAGE, "text where only bytes are legal")
            return
        try:
            ticket = read_open(websocket.decode_text(payload), self._hub.origins())
        except FrameError as error:
            self._broke(error.code, error.detail)
            return
        self.phase = Phase.OPENING
        self._offer = msgspec.structs.replace(self._offer, ticket=ticket)
        self._ask()

    def _take_close(self, payload: bytes) -> None:
        """The client leaves. Its code is given back, then the socket is closed behind it."""
        try:
            code, _reason = websocket.parse_close(payload)
        except FrameError as error:
            self._broke(error.code, error.detail)
            return
        self._stop(LossCause.TAB_CLOSED if code in _LEFT else LossCause.UNKNOWN, code)
        self._transport.write(close_frame(code))
        self._transport.close()

    def _take_control(self, opcode: int, payload: bytes) -> None:
        """Answer a ping; while nothing can be written only the last one is kept."""
        if self._is_flooded() or opcode != websocket.PING:
            return
        if self._full:
            self._pong_due = payload
        else:
            self._transport.write(frame_head(websocket.PONG, len(payload)) + payload)

    def _is_flooded(self) -> bool:
        """Count a message that moves nothing; say whether that was one too many, and end the link then."""
        limits = self._hub.limits
        if self._seen_at - self._controls_at > limits.controls_s:
            self._controls_at, self._controls = self._seen_at, 0
        self._controls += 1
        if self._controls <= limits.controls_max:
            return False
        self.end(LossCause.UNKNOWN, Close.TOO_MANY)
        return True

    def _ask(self) -> None:
        """Ask control, in the one task of this link's life."""
        self._hub.waiting.pop(self, None)
        self._hub.links[self.link_id] = self
        self._hub.tasks.spawn(open_link(self._hub, self, self._offer), name=f"open-link-{self.link_id}")

    def _broke(self, code: Close, detail: str) -> None:
        """The client broke the protocol: tell it once, obey it no more."""
        if self.phase >= Phase.ENDING:
            self._transport.abort()
            return
        self._hub.log.info(
            "link.refused", link_id=self.link_id, session_id=self.session_id, code=int(code), detail=detail
        )
        if self.phase in {Phase.FIRST, Phase.OPENING}:
            self._transport.write(answers.no(answers.refusal(code)))
        self.end(LossCause.UNKNOWN, code)

    def _broke_rfb(self, error: RfbError) -> None:
        self._broke(Close.MESSAGE_TOO_BIG if error.too_big else Close.BAD_MESSAGE, error.detail)

    def _lost(self, cause: LossCause) -> None:
        """The socket is gone without a goodbye."""
        if self.phase < Phase.ENDING:
            self._stop(cause, None)

    def _stop(self, cause: LossCause, code: int | None) -> None:
        """From here nothing is carried any more: release what is down, close the leg, report."""
        self.phase = Phase.ENDING
        self._ended_at = self._time()
        if not self._transport.is_closing():  # else it is gone, or goes by itself
            self._hub.ticker.add(self, self._ended_at + self._hub.limits.close_s)
        self.cause, self.close_code = cause, code
        self._hub.waiting.pop(self, None)
        if self._read_paused:
            self.stream_ready()
        if self._stream is not None:
            self._let_go(self._stream)
        if self._attachment is not None:
            self._report()

    def _let_go(self, stream: CarriedStream) -> None:
        """This link carries it no more; without a ring it ends, and what is down is released first."""
        if stream.end():
            self._hub.stats.keys_released += 1
            self._hub.log.info("keys.released", session_id=self.session_id, link_id=self.link_id)

    def _report(self) -> None:
        """Count, and tell control, which writes the one canonical line of the link."""
        assert self._attachment is not None
        hub, (down, up) = self._hub, self.payload_bytes
        seconds = round(self._ended_at - self._began_at, 3)
        self.cause = hub.regular.cause(self._attachment.session_id, self.cause, seconds)
        end = self._complete(
            LinkEnd(
                session_id=self._attachment.session_id,
                link_id=self.link_id,
                cause=self.cause.value,
                bytes_down=down,
                bytes_up=up,
                seconds=seconds,
                close_code=self.close_code,
                mode=self._attachment.mode,
                subprotocol=self._offer.subprotocol,
                address_class=address_class(self._offer.address),
                stalls=self._stalls,
                stalled_s=round(self._stalled_s + (self._ended_at - self._stalled_at) * self._full, 3),
            )
        )
        hub.stats.links_ended[end.cause] += 1
        hub.stats.bytes_down += down
        hub.stats.bytes_up += up
        hub.remove_link(end.session_id, self.link_id)
        hub.attachments.ended(end)

    def _complete(self, end: LinkEnd) -> LinkEnd:
        """Add what only a kind of link knows."""
        return end

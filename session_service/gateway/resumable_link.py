"""One websocket of `continuity.v1`: a link whose stream outlives it.

Not the protocol's state: that is `core/continuity/`. This is its shell: `hello` with the 101, `open` or
`resume` as the first message, acknowledgements and signs of life in time, and the words before a goodbye.

Source: docs/protocol.md.
"""

from typing import Final

import msgspec

from session_service.core import websocket
from session_service.core.close_codes import Close, Next
from session_service.core.continuity import serving
from session_service.core.continuity.limits import ACK_S, MESSAGE_BYTES_MAX, SUBPROTOCOL
from session_service.core.continuity.messages import (
    Ack,
    Beat,
    Bye,
    FromClient,
    Open,
    Resume,
    read_client,
    read_first,
    read_plain_ack,
)
from session_service.core.continuity.proof import CHALLENGE_BYTES, LEG_BYTES, encode
from session_service.core.continuity.ring import Piece, messages_of
from session_service.core.continuity.serving import ServerLink
from session_service.core.records import LossCause
from session_service.core.rfb import RfbError
from session_service.core.websocket import BINARY, TEXT, FrameError, frame_head
from session_service.gateway import answers
from session_service.gateway.first_message import audiences
from session_service.gateway.handshake import Upgrade
from session_service.gateway.hub import Hub
from session_service.gateway.link import JOINED_BYTES_MAX, Link, Phase
from session_service.gateway.opening import resume_link
from session_service.gateway.resumable_stream import ResumableStream
from session_service.gateway.stats import NO_CAUSE, resume_key
from session_service.gateway.stream import CarriedStream
from session_service.ports.streams import Attachment, LinkEnd, LinkRefusal, ResumeOffer

ALONG_S: Final = ACK_S / 2
"""So long before it is due, an acknowledgement goes along with something large."""


class ResumableLink(Link):
    """The protocol of a connection that agreed on `continuity.v1`."""

    __slots__ = (
        "_acks_in",
        "_acks_out",
        "_attempt",
        "_bytes_down",
        "_bytes_up",
        "_challenge",
        "_how",
        "_owed",
        "_owes_ack",
        "_proved_at",
        "_replayed",
        "_resumable",
        "_was",
    )

    def __init__(self, hub: Hub, upgrade: Upgrade, address: str) -> None:
        super().__init__(hub, upgrade, address)
        self._challenge = hub.ids.secret()[:CHALLENGE_BYTES]
        self._attempt: Resume | None = None
        self._resumable: ResumableStream | None = None
        self._owed = ServerLink(received=0, now=self._began_at)
        self._was: int | None = None
        self._bytes_down = self._bytes_up = 0
        self._acks_in = self._acks_out = self._replayed = 0
        self._how = "no"
        self._proved_at = 0.0
        self._owes_ack = False

    # Opening and resuming.

    def _greeting(self) -> bytes:
        return super()._greeting() + _text(serving.hello(self._challenge))

    @property
    def retry_step(self) -> Next:
        """A proof is not used up by a failure of ours; a ticket is."""
        return Next.OPEN if self._attempt is None else Next.RESUME

    def _take_all(self, messages: list[tuple[int, bytes]]) -> None:
        """Of acknowledgements that come behind one another, each true and above the last one, only the newest
        is acted on: it says it all. Whatever is odd about one has it judged by itself, in its place, so that
        a false one does not hide behind a true one, and repeated ones are counted.
        """
        stream = self._resumable
        if stream is None or self.phase is not Phase.OPEN:
            super()._take_all(messages)
            return
        ring, waiting = stream.core.ring, 0
        newest = ring.acked
        for opcode, payload in messages:
            offset = read_plain_ack(payload) if opcode == TEXT else None
            if offset is not None and newest < offset <= ring.end:
                newest, waiting = offset, waiting + 1
                continue
            if waiting:
                self._acknowledged(stream, newest, waiting)
                waiting = 0
            if offset is None:
                self._take(opcode, payload)
            else:
                self._acknowledged(stream, offset, 1)
            newest = ring.acked
        if waiting:
            self._acknowledged(stream, newest, waiting)

    def _acknowledged(self, stream: ResumableStream, offset: int, count: int) -> None:
        """Act on the newest of so many acknowledgements, unless what stood before them ended the link."""
        if self.phase is Phase.OPEN:
            try:
                self._take_ack(stream, offset, count)
            except FrameError as error:
                self._broke(error.code, error.detail)

    def _take_text(self, payload: bytes) -> None:
        try:
            if self.phase is Phase.FIRST:
                self._take_first(read_first(websocket.decode_text(payload)))
            elif self.phase is Phase.OPEN and self._resumable is not None:
                self._take_message(self._resumable, read_client(websocket.decode_text(payload)))
            else:
                raise FrameError(Close.BAD_MESSAGE, "a message before the answer")
        except FrameError as error:
            self._broke(error.code, error.detail)

    def _take_first(self, message: Open | Resume) -> None:
        if message.aud not in audiences(self._hub.origins()):
            raise FrameError(Close.BAD_MESSAGE, "aud is not one of public_origins")
        self.phase = Phase.OPENING
        if isinstance(message, Open):
            self._offer = msgspec.structs.replace(self._offer, ticket=message.ticket, subprotocol=SUBPROTOCOL)
            self._ask()
            return
        self._attempt = message
        self._proved_at = self._time()
        offer = ResumeOffer(
            link_id=self.link_id,
            attempt=message,
            challenge=encode(self._challenge),
            address=self._offer.address,
            user_agent=self._offer.user_agent,
        )
        self._hub.waiting.pop(self, None)
        self._hub.links[self.link_id] = self
        self._hub.tasks.spawn(resume_link(self._hub, self, offer), name=f"resume-link-{self.link_id}")

    def _make_stream(self, attachment: Attachment) -> CarriedStream | None:
        """Go on with the stream that is there (and return None: nothing is to be opened), or make one."""
        hub, attempt = self._hub, self._attempt
        old = hub.streams.get(attachment.session_id) if attachment.mode == "control" else None
        if attempt is not None and old is not None:
            if old.can_replay(attempt):
                self._replay(old, attempt, attachment)
                return None
            self._was = old.core.received if old.core.leg == attempt.leg else None
        if old is not None:
            old.end()
        stream = ResumableStream(
            hub,
            session_id=attachment.session_id,
            name=encode(hub.ids.secret()[:LEG_BYTES]),
            carrier=self,
            view_only=attachment.mode != "control",
            hold_s=attachment.hold_s,
            proved_at=self._proved_at,
        )
        if attachment.mode == "control":
            hub.streams[attachment.session_id] = stream
        self._resumable = stream
        return stream

    def _replay(self, stream: ResumableStream, attempt: Resume, attachment: Attachment) -> None:
        # The older link is read no more: where the stream stands now is where it goes on.
        standing = stream.core.standing()
        self._stream = self._resumable = stream
        self._owed = ServerLink(received=standing.taken, now=self._time())
        self.phase = Phase.OPEN
        self._transport.write(_text(serving.replayed(attempt, standing, gap_s=attachment.gap_s)))
        stream.replay(self, attempt)
        self._replayed = self._bytes_down
        self._hub.stats.replayed(self._time() - self._proved_at)
        self._resumed(attachment, "replay")
        self._tell_announced()

    def _answer(self, attachment: Attachment) -> bytes:
        """A new stream begins: the answer to `open`, or a resync."""
        assert self._resumable is not None
        self._owed = ServerLink(received=0, now=self._time())
        leg = self._resumable.core.leg
        if self._attempt is None:
            return _text(
                serving.opened(
                    session_id=attachment.session_id,
                    leg=leg,
                    mode=attachment.mode,
                    grant=attachment.grant,
                    key=attachment.key,
                    hold_s=attachment.hold_s,
                    gap_s=attachment.gap_s,
                    soft_s=attachment.soft_s,
                    ring_bytes=self._hub.limits.ring_bytes,
                )
            )
        self._resumed(attachment, "resync")
        return _text(serving.resynced(self._attempt, leg=leg, was=self._was, gap_s=attachment.gap_s))

    def _resumed(self, attachment: Attachment, how: str) -> None:
        self._how = how
        self._hub.stats.resumes[resume_key(how, attachment.cause)] += 1
        self._hub.log.info(
            "link.resumed",
            session_id=attachment.session_id,
            link_id=self.link_id,
            how=how,
            cause=attachment.cause,
            gap_s=attachment.gap_s,
        )

    def refuse(self, refusal: LinkRefusal) -> None:
        if self._attempt is not None and not self.is_over():
            self._hub.stats.resumes[resume_key("refused", NO_CAUSE)] += 1
        super().refuse(refusal)

    # Carrying.

    def stream_opened(self) -> None:
        super().stream_opened()
        self._tell_announced()

    def tell_pause(self) -> None:
        """Tell of the pause that is announced now; None: there is none any more."""
        if self.phase is Phase.OPEN:
            planned = self._hub.planned
            self._say(
                serving.pause(
                    begins_ms=None if planned is None else planned.begins_at_ms,
                    back_ms=None if planned is None else planned.back_at_ms,
                    note="" if planned is None else planned.note,
                )
            )

    def _tell_announced(self) -> None:
        if self._hub.planned is not None:
            self.tell_pause()

    def carry(self, data: Piece) -> None:
        length, now, owed = len(data), self._time(), self._owed
        self._bytes_down += length
        owed.said_at = now
        if length <= JOINED_BYTES_MAX:
            self._transport.write(b"".join((frame_head(BINARY, length), data)))
            return
        parts: list[Piece] = []
        due = owed.due_at
        if due is not None and now >= due - ALONG_S and self._resumable is not None and not self._full:
            # What is owed for a while goes along with something large; not at once, and never beside
            # something small, so that there is not one for each answer.
            self._acks_out += 1
            parts.append(_text(owed.acknowledge(self._resumable.core.received, now)))
        for piece in messages_of(data, MESSAGE_BYTES_MAX):
            parts += (
                _FULL_HEAD if len(piece) == MESSAGE_BYTES_MAX else frame_head(BINARY, len(piece)),
                piece,
            )
        self._write(parts)

    def _pass(self, stream: CarriedStream, payload: bytes) -> None:
        try:
            stream.up(payload)
        except RfbError as error:
            self._broke_rfb(error)
        if self.phase is not Phase.OPEN or self._resumable is None:
            return
        self._bytes_up += len(payload)
        said = self._owed.received(self._resumable.core.received, self._seen_at)
        if said is not None:
            self._acknowledge(said)
        else:
            self._hub.soon.add(self)

    def _acknowledge(self, said: str) -> None:
        """Say how far the client's bytes have come. While it does not read, only that something is owed is
        kept: the newest number says it all, and a client that only writes makes nothing grow here.
        """
        if self._full:
            self._owes_ack = True
            return
        self._acks_out += 1
        self._say(said)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._owes_ack and self.phase is Phase.OPEN and self._resumable is not None:
            self._owes_ack = False
            self._acknowledge(self._owed.acknowledge(self._resumable.core.received, self._time()))

    def _take_ack(self, stream: ResumableStream, offset: int, count: int) -> None:
        # What moves nothing is limited in number (4429).
        if offset <= stream.core.ring.acked and self._is_flooded():
            return
        self._acks_in += count
        stream.acknowledge(offset)

    def _take_message(self, stream: ResumableStream, message: FromClient) -> None:
        if isinstance(message, Ack):
            self._take_ack(stream, message.offset, 1)
            return
        if not isinstance(message, Bye) and self._is_flooded():
            return
        if isinstance(message, Beat):
            self._acknowledge(self._owed.acknowledge(stream.core.received, self._seen_at))
        elif isinstance(message, Bye):
            if message.end and self._attachment is not None and self._attachment.mode == "control":
                self._hub.attachments.leave(self.session_id, self.link_id)
            self.end(LossCause.TAB_CLOSED, Close.NORMAL)

    def pay(self) -> None:
        """Acknowledge what is due, or say where the stream stands after a silence."""
        stream = self._resumable
        if self.phase is not Phase.OPEN or stream is None or self._full:
            return
        core, now, limits = stream.core, self._time(), self._hub.limits
        # What is owed may be a moment younger than the shared timer: it is paid early, never late.
        said = self._owed.tick(max(now, self._owed.due_at or 0.0), received=core.received, sent=core.ring.end)
        if said is None:
            return
        self._say(said)
        if said.startswith('{"a"'):
            self._acks_out += 1
        else:
            # It asks for an answer as a ping does: one follows only if this gets none (a frozen page).
            self._asked_at = now - limits.ping_s + limits.look_s

    def look(self, now: float, excused: float) -> float | None:
        if now >= self._owed.next_deadline():
            self.pay()
        at = super().look(now, excused)
        beat = self._owed.next_deadline()
        if at is None or at < beat:
            return at
        return beat if beat > now else now + self._hub.limits.look_s  # it cannot be said yet

    @property
    def payload_bytes(self) -> tuple[int, int]:
        """Bytes that this link carried; its stream may have had others before."""
        return self._bytes_down, self._bytes_up

    def _complete(self, end: LinkEnd) -> LinkEnd:
        kept = 0 if self._resumable is None else self._resumable.core.ring.unacknowledged
        return msgspec.structs.replace(
            end,
            subprotocol=SUBPROTOCOL,
            resumed=self._how,
            replayed_bytes=self._replayed,
            unacknowledged_bytes=kept,
            acks_in=self._acks_in,
            acks_out=self._acks_out,
        )

    # Ending.

    def _let_go(self, stream: CarriedStream) -> None:
        attachment = self._attachment
        if self._resumable is None or attachment is None or attachment.mode != "control":
            super()._let_go(stream)
        else:
            self._resumable.detach(self)

    def close_link(self, code: int, why: str, by: str) -> None:
        """Say why before the close frame: proxies turn codes into 1006, and a code alone is not believed."""
        if self.phase is Phase.OPEN:
            if code == Close.TAKEN:
                self._say(serving.taken(by))
            elif code == Close.RESTART:
                self._say(self._farewell())
            else:
                self._transport.write(answers.no(answers.refusal(code, why, by)))
        super().close_link(code, why, by)

    def _farewell(self) -> str:
        planned, jitter_ms = self._hub.planned, self._hub.limits.restart_jitter_ms
        if planned is None:
            return serving.drain(jitter_ms)
        return serving.drain(jitter_ms, back_ms=planned.back_at_ms, note=planned.note)

    def _say(self, text: str) -> None:
        self._transport.write(_text(text))


_FULL_HEAD: Final = frame_head(BINARY, MESSAGE_BYTES_MAX)


def _text(text: str) -> bytes:
    data = text.encode()
    return frame_head(websocket.TEXT, len(data)) + data

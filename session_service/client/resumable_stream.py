"""A stream to a desktop that survives its links: `continuity.v1` for programs.

Not a viewer: bytes of RFB go in and out unread. The protocol is `core.continuity.client`; this dials, carries
and keeps its time. While the link is gone nothing is lost and nothing is taken; a new stream (a resync) is
told, because whoever reads must begin anew.

Example:
    async with ResumableStream("http://127.0.0.1:8080", tickets) as stream:
        async for event in stream.events():
            ...
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from ssl import SSLContext
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin, Subprotocol

from session_service.base import errors
from session_service.base.aio import Tasks
from session_service.client.desktop_link import audience
from session_service.client.dialling import StraightConnect, trust
from session_service.client.models import Ticket
from session_service.core.close_codes import Close
from session_service.core.continuity.client import (
    Act,
    Began,
    Client,
    Deliver,
    Dial,
    Ended,
    Lost,
    Phase,
    Planned,
    Progress,
    Replayed,
    Say,
    Send,
)
from session_service.core.continuity.limits import DIAL_S, MESSAGE_BYTES_MAX, SUBPROTOCOL

READ_AHEAD_BYTES: Final = 1 << 20
"""Read and not taken by the program; then the link is not read, and the desktop is slowed down."""
PIECE_BYTES: Final = 16_384
"""Bytes of a write that are handed over at once, so that a full ring refuses little."""
TICKET_S: Final = DIAL_S
"""For a ticket. The line that died in silence may also be the API's: the next ask dials anew."""
TICKET_PAUSE_S: Final = (0.5, 15.0)
"""Pauses between asking for tickets, doubled from the first to the second, with jitter."""
LOOK_S: Final = 5.0
"""Between two looks at a program that does not take what was read."""
ABNORMAL: Final = 1006

Event = bytes | Began | Replayed | Lost | Progress | Planned
Tickets = Callable[[], Awaitable[Ticket]]


class StreamEnded(errors.SessionError):
    """The stream does not go on by itself; `next` in the facts says what its user may do."""

    code, status, action = "stream_ended", 409, "Do what `next` in the facts says."


class NewStream(errors.SessionError):
    """A new stream began: what belongs to the old one must not be written to it."""

    code, retryable, status, action = "new_stream", True, 409, "Begin anew with the RFB handshake."


class ResumableStream:
    """One session's stream. Use as an async context manager; leaving it holds the session.

    Args:
        base_url: the service's address, http or https.
        tickets: asks the API for a fresh ticket; called again when a new stream is needed.
        ssl: for https with a certificate of one's own.
        dial_url: where to dial instead of `base_url`, e.g. through a tunnel; what is signed stays `base_url`.
    """

    def __init__(
        self, base_url: str, tickets: Tickets, *, ssl: SSLContext | None = None, dial_url: str = ""
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._dial = audience(dial_url or base_url)
        self._tickets = tickets
        self._ssl = ssl
        self._tasks = Tasks(self._failed)
        self._client = Client(aud=audience(base_url), path="/s/0/ws", draw=random.random)
        self._socket: ClientConnection | None = None
        self._carrier: asyncio.Task[Any] | None = None
        self._outgoing: deque[str | bytes] = deque()
        self._to_send = asyncio.Event()
        self._changed = asyncio.Event()
        self._events: deque[Event] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._error: BaseException | None = None
        self._ticket_pause_s = 0.0
        self.number = 0
        """Grows with each new stream."""
        self.replays = 0
        self.resyncs = 0

    async def __aenter__(self) -> "ResumableStream":
        self._tasks.spawn(self._open(0.0), name="open-stream")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.leave()

    @property
    def mode(self) -> str:
        """`control`, or `view` where it only looks on; as the service said it last."""
        return self._client.mode

    @property
    def is_attached(self) -> bool:
        """True while a link carries it."""
        return self._client.phase is Phase.OPEN

    async def events(self) -> AsyncIterator[Event]:
        """Yield bytes of the desktop and what happened to the stream, in order. Raises StreamEnded."""
        while True:
            yield await self.next_event()

    async def next_event(self) -> Event:
        """Return the next of `events`; a cancelled wait loses none. Raises StreamEnded."""
        while not self._events:
            if self._error is not None:
                raise self._error
            await self._change()
        event = self._events.popleft()
        if isinstance(event, bytes):
            self._waiting_bytes -= len(event)
            self._tell()
        return event

    async def write(self, data: bytes, *, number: int | None = None) -> None:
        """Send bytes; waits while the link is gone or the ring is full.

        Args:
            number: the stream they belong to, see `self.number`; None = the one of now, or the first.

        Raises:
            NewStream: that one is over; nothing more of `data` was sent. StreamEnded.
        """
        while self.number == 0 and self._error is None:
            await self._change()
        number = self.number if number is None else number
        for at in range(0, len(data), PIECE_BYTES):
            while not self._client.takes_input or self.number != number:
                if self.number != number:
                    raise NewStream()
                if self._error is not None:
                    raise self._error
                await self._change()
            self._perform(self._client.send(data[at : at + PIECE_BYTES]))

    def hurry(self) -> None:
        """The network is back: try at once, or ask whether the other end is there."""
        self._perform(self._client.hurry(self._now()))

    def cut(self) -> None:
        """Cut the link as a network does: no close, no goodbye."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def leave(self, *, end: bool = False) -> None:
        """Leave: the session is held, or ended. Repeating it is harmless."""
        if self._client.phase is not Phase.DOWN:
            self._perform(self._client.leave(end=end))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while self._outgoing and self._socket is not None:
                    await self._change()
        if self._socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._socket.close()
        await self._tasks.close()

    # -- acts -----------------------------------------------------------------------------------------

    def _perform(self, acts: list[Act]) -> None:
        for act in acts:
            match act:
                case Dial():
                    self._leave_socket()
                    self._carrier = self._tasks.spawn(
                        self._carry(act.number, act.path), name=f"link-{act.number}"
                    )
                case Say():
                    self._outgoing.append(act.text)
                case Send():
                    self._outgoing.append(bytes(act.data))
                case Deliver():
                    self._waiting_bytes += len(act.data)
                    self._events.append(act.data)
                case Ended():
                    self._ended(act)
                case Lost():
                    self._leave_socket()
                    self._events.append(act)
                case _:
                    self._note(act)
        self._to_send.set()
        self._arm()
        self._tell()

    def _note(self, act: Began | Replayed | Progress | Planned) -> None:
        if isinstance(act, Began):
            self.number += 1
            self.resyncs += act.resync
            self._ticket_pause_s = 0.0
            self._events = deque(event for event in self._events if not isinstance(event, bytes))
            self._waiting_bytes = 0
        elif isinstance(act, Replayed):
            self.replays += 1
        self._events.append(act)

    def _ended(self, ended: Ended) -> None:
        if ended.step == "open":
            retry_s = (ended.facts.get("retry_ms") or 0) / 1000
            low_s, high_s = TICKET_PAUSE_S
            pause_s = max(retry_s, random.random() * self._ticket_pause_s)
            self._ticket_pause_s = min(high_s, max(low_s, 2 * self._ticket_pause_s))
            self._leave_socket()
            self._events.append(Lost(retry_in_s=pause_s, why=ended.why))
            self._tasks.spawn(self._open(pause_s), name="open-stream")
            return
        if ended.code == Close.LOGIN and self._client.has_key:
            self._leave_socket()
            self._events.append(Lost(retry_in_s=0.0, why=ended.why))
            self._tasks.spawn(self._sign_in(ended), name="sign-in")
            return
        self._error = StreamEnded(
            f"The stream ended: {ended.why}.", why=ended.why, code=ended.code, next=ended.step, **ended.facts
        )

    def _leave_socket(self) -> None:
        self._outgoing.clear()
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.transport.abort()
        carrier, self._carrier = self._carrier, None
        if carrier is not None and carrier is not asyncio.current_task():
            carrier.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._client.next_deadline()
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._client.tick(self._now()))

    # -- tasks ----------------------------------------------------------------------------------------

    async def _open(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        try:
            ticket = await self._ticket()
        except errors.SessionError as exc:
            if not exc.retryable:
                self._error = exc
                self._tell()
                return
            ended = Ended(code=ABNORMAL, why=exc.code, step="open", facts={})
            self._perform([ended])
            return
        self._client.path = ticket.path
        self._perform(self._client.open(ticket.ticket, self._now()))

    async def _ticket(self) -> Ticket:
        """Ask for a ticket; without an answer in time that is a service that is away, and is told as one."""
        try:
            async with asyncio.timeout(TICKET_S):
                return await self._tickets()
        except TimeoutError as exc:
            raise errors.PartUnavailable("No ticket came in time.", cause="TimeoutError") from exc

    async def _sign_in(self, ended: Ended) -> None:
        """The service wants a login for this return: a fresh ticket proves one; the stream goes on."""
        pause_s, longest_s = TICKET_PAUSE_S
        while True:
            try:
                ticket = await self._ticket()
            except errors.SessionError as exc:
                if not exc.retryable:
                    self._error = StreamEnded(
                        f"The stream ended: {ended.why}.", why=ended.why, code=ended.code, next=ended.step
                    )
                    self._tell()
                    return
                await asyncio.sleep(random.random() * pause_s)
                pause_s = min(longest_s, 2 * pause_s)
            else:
                self._perform(self._client.again(ticket.ticket, self._now()))
                return

    async def _carry(self, number: int, path: str) -> None:
        code = ABNORMAL
        try:
            async with StraightConnect(
                self._dial + path,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                origin=Origin(self._base_url),
                compression=None,
                proxy=None,
                max_size=MESSAGE_BYTES_MAX,
                ping_interval=None,
                open_timeout=DIAL_S,
                close_timeout=1.0,
                ssl=trust(self._dial, self._ssl),
            ) as socket:
                if socket.subprotocol == SUBPROTOCOL:
                    self._socket = socket
                    code = await self._talk(socket, number)
        except (OSError, InvalidHandshake, TimeoutError, EOFError):
            pass  # What was not opened is the network: the core tries again.
        self._perform(self._client.closed(number, code, self._now()))

    async def _talk(self, socket: ClientConnection, number: int) -> int:
        """Carry one socket until it ends; return its close code."""
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._send(socket), name="send")
            try:
                while True:
                    message = await socket.recv()
                    now = self._now()
                    if isinstance(message, str):
                        self._perform(self._client.text(number, message, now))
                    else:
                        self._perform(self._client.data(number, message, now))
                    await self._read_ahead(number)
            except ConnectionClosed as exc:
                return exc.rcvd.code if exc.rcvd is not None else ABNORMAL
            finally:
                sender.cancel()

    async def _read_ahead(self, number: int) -> None:
        """Read no more while the program has enough; the link's silence is ours then."""
        while self._waiting_bytes > READ_AHEAD_BYTES:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._change()
            self._client.heard(number, self._now())
            self._arm()

    async def _send(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                while self._outgoing and socket is self._socket:
                    await socket.send(self._outgoing.popleft())
                self._tell()
                self._to_send.clear()
                await self._to_send.wait()

    # -- waiting --------------------------------------------------------------------------------------

    async def _change(self) -> None:
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _failed(self, name: str, error: BaseException) -> None:
        self._error = self._error or error
        self._tell()

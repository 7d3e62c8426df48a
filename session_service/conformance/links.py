"""One websocket of a client under test: what it says goes to its desk, and what a case does to the line.

Not the gateway's: that one is fast and forgives nothing, this one can go mute, read nothing, send a byte at
a time and lie. Frames are read by the same core.
"""

import asyncio
import json
import secrets
from typing import Final

from session_service.conformance import rules
from session_service.conformance.desk import Desk, Socket
from session_service.conformance.doors import Door
from session_service.core.continuity import serving
from session_service.core.continuity.limits import ACK_S, MESSAGE_BYTES_MAX, TEXT_BYTES_MAX
from session_service.core.continuity.messages import Open, Resume, read_first, say
from session_service.core.continuity.proof import decode, encode
from session_service.core.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Decoder,
    FrameError,
    close_frame,
    frame_head,
    parse_close,
    unmask_slowly,
)

READ_BYTES: Final = 65536
CLOSE_S: Final = 2.0
"""For a client's own close after ours."""


class Link(Socket):
    """One upgraded socket."""

    def __init__(
        self, desk: Desk, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.desk, self.door, self.number = desk, door, number
        self.challenge = encode(secrets.token_bytes(16))
        self.first_seen = False
        self.close_code: int | None = None
        self.is_closed = False
        self._said_last = False
        """A close frame is out: a frame after it would be a fault of ours, and browsers take it for one."""
        self.reads = asyncio.Event()
        """Cleared: nothing of the client is read any more."""
        self.reads.set()
        self.is_mute = False
        """True: nothing is sent any more, and nobody is told."""
        self.trickle: tuple[int, float] | None = None
        """Bytes of each piece and the pause after it, for a slow line."""
        self._reader, self._writer = reader, writer
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._ack_due = asyncio.Event()
        self._decoder = Decoder(
            unmask=unmask_slowly, message_bytes_max=MESSAGE_BYTES_MAX, text_bytes_max=TEXT_BYTES_MAX
        )

    # -- towards the client ---------------------------------------------------------------------------

    def text(self, words: str) -> None:
        """Send a text message."""
        data = words.encode()
        self._put(frame_head(TEXT, len(data)) + data)

    def send(self, data: bytes | memoryview) -> None:
        """Send a message of bytes."""
        self._put(frame_head(BINARY, len(data)) + data)

    def close(self, code: int, reason: str = "") -> None:
        """Close it with a code. 1006 is no code on the wire: then it is cut."""
        if code == 1006:
            self.abort()
        else:
            self.desk.note(f"kit: closes with {code}")
            self._put(close_frame(code, reason))
            self._said_last = True

    def abort(self) -> None:
        """Cut it: what was not sent yet is lost."""
        self.is_attached = False
        self._writer.transport.abort()

    def _put(self, data: bytes) -> None:
        if not self.is_closed and not self.is_mute and not self._said_last:
            self._out.put_nowait(data)

    # -- its life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry it until it ends."""
        self.text(serving.hello(decode(self.challenge)))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._send(), name="send"),
                    group.create_task(self._acknowledge(), name="acknowledge"),
                ]
                try:
                    await self._read()
                finally:
                    for task in tasks:
                        task.cancel()
        except* (OSError, EOFError):
            pass  # A line that ends is what most cases are about.
        finally:
            self.is_closed = True
            self.is_attached = False
            self._writer.transport.abort()
            self.desk.tell()

    async def _send(self) -> None:
        while True:
            data = await self._out.get()
            size, pause_s = self.trickle or (len(data), 0.0)
            for at in range(0, len(data), max(1, size)):
                if self.is_mute:
                    break
                self._writer.write(data[at : at + size])
                await self._writer.drain()
                if pause_s:
                    await asyncio.sleep(pause_s)

    async def _acknowledge(self) -> None:
        while True:
            await self._ack_due.wait()
            await asyncio.sleep(ACK_S)
            self._ack_due.clear()
            if self is self.desk.newest and self.is_attached and not self.desk.holds_acks:
                self.text(say(a=self.desk.stream.received))

    async def _read(self) -> None:
        async with asyncio.TaskGroup() as group:
            while data := await self._reader.read(READ_BYTES):
                await self.reads.wait()
                try:
                    messages = self._decoder.feed(data)
                except FrameError as exc:
                    self.desk.fault(f"broken framing: {exc.detail}", rules.FRAMING)
                    return
                for opcode, payload in messages:
                    if opcode == CLOSE:
                        self._closed(payload)
                        return
                    if opcode == TEXT and not self.first_seen:
                        self._first(payload, group)
                    else:
                        self._hear(opcode, bytes(payload))

    def _closed(self, payload: bytes) -> None:
        try:
            self.close_code, _ = parse_close(payload)
            self.desk.note(f"client: closes with {self.close_code}")
        except FrameError as exc:
            self.desk.fault(f"broken framing: {exc.detail}", rules.FRAMING)

    def _hear(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._put(frame_head(PONG, len(payload)) + payload)
        elif opcode in {TEXT, BINARY} and not self.is_answered:
            # An older socket of a client that dialled again may still say something.
            if self is self.desk.links[-1] and not self.is_closed:
                self.desk.fault("said something before the answer: no early data", rules.FIRST)
        elif opcode == BINARY:
            self.desk.hear_bytes(self, payload)
            self._ack_due.set()
        elif opcode == TEXT:
            now = asyncio.get_running_loop().time()
            if self.desk.hear_text(self, payload.decode("utf-8", "replace"), now):
                self.text(say(a=self.desk.stream.received))

    def _first(self, payload: bytes, group: asyncio.TaskGroup) -> None:
        self.first_seen = True
        try:
            first = read_first(payload.decode())
        except (FrameError, UnicodeDecodeError) as exc:
            self.desk.fault(f"first message that is refused: {exc}", rules.FIRST)
            return
        self.desk.hear_first(self, first)
        group.create_task(self._answer(first), name="answer")

    async def _answer(self, first: Open | Resume) -> None:
        door = self.door
        for number in range(door.waits):
            self.text(say(t="wait", why="starting", pct=number))
            await asyncio.sleep(door.wait_s)
        if door.delay_s:
            await asyncio.sleep(door.delay_s)
        if door.early_bytes:
            self.send(b"early")
        if door.mute:
            return
        if door.refusal is not None:
            self.refuse(json.dumps(dict(door.refusal)), int(door.refusal["code"]))
            return
        if self is self.desk.links[-1]:
            self.desk.answer(self, first, door)

    def refuse(self, words: str, code: int) -> None:
        """Say no (or taken) and close with its code."""
        self.is_answered = True
        self.is_attached = False
        self.text(words)
        self.close(code)

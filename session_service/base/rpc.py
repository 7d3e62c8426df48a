"""Calls between the parts of one machine: length-prefixed msgpack over a private unix socket.

Not for anything that crosses a machine. The three parts (service, host, worker) are processes of
different rights, so what
travels is plain data (msgspec structs) and is checked by type on arrival; who speaks is checked by the
socket's peer
credentials. A call may stream events (progress) before its answer; what is only told has none. If the
caller is cancelled the
callee's task is
cancelled too; if the callee dies the caller gets `PartUnavailable`, which is retryable, since every call
may be repeated.
Wire: u32 little-endian length, then a msgpack `_Frame`. Why not HTTP or multiprocessing: docs/design/0004.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from session_service.base import aio, errors, log, private_socket

FRAME_BYTES_MAX: Final = 64 << 20
"""One message; a listing of a large folder is the biggest that is sent."""
CONNECT_S: Final = 5.0
CLOSE_S: Final = 1.0
"""For the last words to be read by the other part, once the connection is to be closed."""
CALLS_PER_CONNECTION_MAX: Final = 256
READ_BYTES: Final = 64 * 1024
"""Read at once; what came together is taken apart without asking the socket again."""
TOGETHER_BYTES_MAX: Final = 64 * 1024
"""Said in one turn of the loop and sent in one call of the kernel; what is more goes at once."""
TOLD_WAITING_BYTES_MAX: Final = 16 << 20
"""Told to a part that does not read; one that stands still for so much (an hour and more) is given up."""

Result = TypeVar("Result")
_LENGTH: Final = struct.Struct("<I")
_ENCODER: Final = msgspec.msgpack.Encoder()


class _Frame(msgspec.Struct, array_like=True):
    kind: Literal["call", "cancel", "tell", "event", "done", "error"]
    call: int
    method: str = ""
    body: msgspec.Raw = msgspec.Raw(b"\xc0")


_DECODER: Final = msgspec.msgpack.Decoder(_Frame)


class _Failure(msgspec.Struct, array_like=True):
    code: str
    detail: str
    facts: dict[str, str | int | float | bool | None]


class Word:
    """Something that a part is told: typed parameters in, and nothing out."""

    __slots__ = ("_body", "peer_pid", "peer_uid")

    def __init__(self, body: msgspec.Raw, peer_uid: int, peer_pid: int) -> None:
        self._body = body
        self.peer_uid = peer_uid
        self.peer_pid = peer_pid
        """Of whoever connected, as the kernel saw it: no caller can say that it is another one."""

    def params(self, kind: type[Result]) -> Result:
        """Return the parameters as `kind`. Raises BadInput when they have another form."""
        try:
            return msgspec.msgpack.decode(self._body, type=kind)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise errors.BadInput(f"parameters are not {kind.__name__}: {exc}") from exc


class Call(Word):
    """One call as its handler sees it: typed parameters in, events out."""

    def __init__(
        self, body: msgspec.Raw, emit: Callable[[Any], Awaitable[None]], peer_uid: int, peer_pid: int = 0
    ) -> None:
        super().__init__(body, peer_uid, peer_pid)
        self._emit = emit

    async def event(self, value: Any) -> None:
        """Send one event (progress) to the caller; slows down when the caller does not read."""
        await self._emit(value)


Handler = Callable[[Call], Awaitable[Any]]
Listener = Callable[[Word], None]
"""Takes what is told. It cannot wait: the connection is read on when it returns."""


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of the other end of a unix socket, as the kernel saw it connect."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


class _Reader:
    """One connection's way in: what came together is taken apart without asking the socket again."""

    def __init__(self, reader: asyncio.StreamReader, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._reader = reader
        self._bytes_max = bytes_max
        self._waiting = bytearray()

    async def some(self) -> list[_Frame]:
        """Return at least one message, oldest first; none when the connection has ended.

        Raises:
            BadInput, DecodeError: what comes now is too long or no message; what came before was returned.
        """
        waiting, found, need = self._waiting, list[_Frame](), _LENGTH.size
        while True:
            at = 0
            while len(waiting) - at >= need:
                (length,) = _LENGTH.unpack_from(waiting, at)
                if length > self._bytes_max:
                    if found:
                        break
                    raise errors.BadInput("message too long", limit=self._bytes_max)
                need = _LENGTH.size + length
                if len(waiting) - at < need:
                    break
                try:
                    found.append(_DECODER.decode(bytes(memoryview(waiting)[at + _LENGTH.size : at + need])))
                except msgspec.DecodeError:
                    if found:
                        break
                    raise
                at, need = at + need, _LENGTH.size
            del waiting[:at]
            if found:
                return found
            data = await self._reader.read(READ_BYTES)
            if not data:
                return found
            waiting += data


class _Writer:
    """One connection's way out. What is said in one turn of the loop goes in one call of the kernel: each
    wakes the other part up.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._said: list[bytes] = []
        self._bytes = 0

    def say(self, frame: _Frame) -> None:
        """Send one message, in order."""
        data = _ENCODER.encode(frame)
        if len(data) > FRAME_BYTES_MAX:
            raise errors.PartRefused("message too long", limit=FRAME_BYTES_MAX)
        if not self._said:
            self._loop.call_soon(self._send)
        self._said += (_LENGTH.pack(len(data)), data)
        self._bytes += len(data)
        if self._bytes > TOGETHER_BYTES_MAX:
            self._send()

    async def drain(self) -> None:
        """Wait while the other part does not read."""
        await self._writer.drain()

    @property
    def waiting_bytes(self) -> int:
        """How much is said and not sent."""
        return self._bytes + self._writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Give the connection up, and what was not sent with it."""
        self._writer.transport.abort()

    def is_closing(self) -> bool:
        return self._writer.is_closing()

    def close(self) -> None:
        """Close behind what was said."""
        self._send()
        self._writer.close()

    async def closed(self, limit_s: float) -> None:
        """Close, and return when what was said is sent; drop what is not after `limit_s`."""
        self.close()
        try:
            async with asyncio.timeout(limit_s):
                await self._writer.wait_closed()
        except TimeoutError:
            self.abort()
        except OSError:  # the other part was quicker
            pass

    def _send(self) -> None:
        said, self._said, self._bytes = self._said, [], 0
        if said and not self._writer.is_closing():  # else whoever waits for an answer is told that it is gone
            self._writer.write(b"".join(said))


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(value))


def _forget(calls: dict[int, asyncio.Task[Any]], number: int) -> Callable[[asyncio.Task[Any]], None]:
    def forget(_: asyncio.Task[Any]) -> None:
        calls.pop(number, None)

    return forget


class Server:
    """Answers calls on one socket file; only peers of the named uids are heard.

    The limits are for peers that may be taken over through a network: at either one the connection ends.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        peer_uids: frozenset[int],
        listeners: Mapping[str, Listener] | None = None,
        calls_max: int = CALLS_PER_CONNECTION_MAX,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        connections_max: int | None = None,
    ) -> None:
        self._path = path
        self._calls_max = calls_max
        self._frame_bytes_max = frame_bytes_max
        self._connections_max = connections_max
        self._connections = 0
        self._handlers = handlers
        self._listeners = listeners or {}
        self._peer_uids = peer_uids
        self._tasks = aio.Tasks(log.task_failed)
        self._server: asyncio.Server | None = None

    async def start(self, *, mode: int = 0o600, gid: int | None = None) -> None:
        """Listen; a stale socket of an earlier run is replaced."""
        listening = private_socket.bound(self._path, socket.SOCK_STREAM)
        self._server = await asyncio.start_unix_server(self._connected, sock=listening)
        if gid is not None:
            os.chown(self._path, -1, gid)
        self._path.chmod(mode)

    async def close(self) -> None:
        """Stop listening and cancel what is under way."""
        if self._server is not None:
            self._server.close()
        await self._tasks.close()

    async def _connected(self, reader: asyncio.StreamReader, stream: asyncio.StreamWriter) -> None:
        pid, uid, _ = peer_credentials(stream.get_extra_info("socket"))
        reading, writer = _Reader(reader, self._frame_bytes_max), _Writer(stream)
        full = self._connections_max is not None and self._connections >= self._connections_max
        if uid not in self._peer_uids or full:
            log.get_logger().warning("part.refused", peer_uid=uid, connections=self._connections)
            writer.close()
            return
        calls: dict[int, asyncio.Task[Any]] = {}
        self._connections += 1
        try:
            while frames := await reading.some():
                for frame in frames:
                    await self._take(frame, calls, writer, uid, pid)
        except (ConnectionError, msgspec.DecodeError, errors.BadInput):
            pass
        finally:
            self._connections -= 1
            for task in list(calls.values()):
                task.cancel()
            writer.close()

    async def _take(
        self, frame: _Frame, calls: dict[int, asyncio.Task[Any]], writer: _Writer, uid: int, pid: int
    ) -> None:
        if frame.kind == "tell":
            self._heed(frame, uid, pid)
        elif frame.kind == "cancel":
            if (task := calls.get(frame.call)) is not None:
                task.cancel()
        elif frame.kind != "call" or frame.call in calls:
            raise errors.BadInput("neither a call nor what belongs to one")
        elif len(calls) >= self._calls_max:
            # To cut the connection would cancel every other call, a start under way too.
            busy = _Failure("part_unavailable", "too many calls at once", {})
            writer.say(_Frame("error", frame.call, body=_raw(busy)))
            await writer.drain()
        else:
            task = self._tasks.spawn(self._answer(frame, writer, uid, pid), name=f"rpc-{frame.method}")
            calls[frame.call] = task
            task.add_done_callback(_forget(calls, frame.call))

    def _heed(self, frame: _Frame, uid: int, pid: int) -> None:
        """Take what is only told, each before the next is read. Nobody waits to hear that it failed."""
        try:
            listener = self._listeners.get(frame.method)
            if listener is None:
                raise errors.BadInput(f"nobody listens to {frame.method}")
            listener(Word(frame.body, uid, pid))
        except errors.SessionError as exc:  # of another form, or about somebody who is not there any more
            log.get_logger().debug("request.failed", method=frame.method, error=exc.code)
        except Exception as exc:  # noqa: BLE001 - the edge of one message: the next ones are heard as well
            log.get_logger().error("request.failed", method=frame.method, error=repr(exc), exc_info=True)

    async def _answer(self, frame: _Frame, writer: _Writer, uid: int, pid: int) -> None:
        async def emit(value: Any) -> None:
            writer.say(_Frame("event", frame.call, body=_raw(value)))
            await writer.drain()

        try:
            handler = self._handlers.get(frame.method)
            if handler is None:
                raise errors.BadInput(f"no such call: {frame.method}")
            answered = await handler(Call(frame.body, emit, uid, pid))
            writer.say(_Frame("done", frame.call, body=_raw(answered)))
        except errors.SessionError as exc:  # of the handler, or its answer is too long
            failure = _Failure(exc.code, exc.detail, dict(exc.facts))
            writer.say(_Frame("error", frame.call, body=_raw(failure)))
        except Exception as exc:  # noqa: BLE001 - a task's edge: the caller must hear of every failure
            log.get_logger().error("request.failed", method=frame.method, error=repr(exc), exc_info=True)
            failure = _Failure("part_refused", repr(exc), {})
            writer.say(_Frame("error", frame.call, body=_raw(failure)))
        with contextlib.suppress(ConnectionError):
            await writer.drain()


class Client:
    """Calls another part; connects on first use and again after a loss. Safe for concurrent calls."""

    def __init__(self, path: Path, *, part: str) -> None:
        self._path = path
        self._part = part
        self._lock = asyncio.Lock()
        self._writer: _Writer | None = None
        self._waiting: dict[int, asyncio.Queue[_Frame | None]] = {}
        self._next = 0
        self._tasks = aio.Tasks(log.task_failed)

    async def call(
        self,
        method: str,
        params: Any,
        answer: type[Result],
        *,
        event: type[Any] | None = None,
        on_event: Callable[[Any], None] | None = None,
    ) -> Result:
        """Call and return the typed answer.

        Raises:
            SessionError: what the other part raised, by its code.
            PartUnavailable: the other part is not there or went away before it answered.
        """
        writer = await self._connected()
        self._next += 1
        number = self._next
        queue: asyncio.Queue[_Frame | None] = asyncio.Queue()
        self._waiting[number] = queue
        try:
            writer.say(_Frame("call", number, method, _raw(params)))
            await writer.drain()
            while (frame := await queue.get()) is not None:
                if frame.kind == "event":
                    if on_event is not None and event is not None:
                        on_event(msgspec.msgpack.decode(frame.body, type=event))
                elif frame.kind == "done":
                    return msgspec.msgpack.decode(frame.body, type=answer)
                else:
                    failure = msgspec.msgpack.decode(frame.body, type=_Failure)
                    raise errors.by_code(failure.code)(failure.detail, **failure.facts)
            raise errors.PartUnavailable(part=self._part, method=method)
        except asyncio.CancelledError:
            writer.say(_Frame("cancel", number))
            raise
        except ConnectionError as exc:
            raise errors.PartUnavailable(part=self._part, method=method) from exc
        finally:
            del self._waiting[number]

    def tell(self, method: str, params: Any) -> None:
        """Say something to one of the listeners of a part that is connected, without an answer; a part that
        is away is told nothing, and one that does not read is away at TOLD_WAITING_BYTES_MAX. What is told
        and called arrives in this order.
        """
        if self._writer is not None:
            self._writer.say(_Frame("tell", 0, method, _raw(params)))
            if self._writer.waiting_bytes > TOLD_WAITING_BYTES_MAX:
                self._writer.abort()

    async def stream(self, method: str, params: Any, event: type[Result]) -> AsyncIterator[Result]:
        """Call on a connection of its own and yield each event; a slow consumer slows the other part down.

        Raises: as `call`; leaving the iteration early cancels the call.
        """
        reader, writer = await self._open()
        try:
            writer.say(_Frame("call", 1, method, _raw(params)))
            await writer.drain()
            while frames := await reader.some():
                for frame in frames:
                    if frame.kind == "event":
                        yield msgspec.msgpack.decode(frame.body, type=event)
                    elif frame.kind == "error":
                        failure = msgspec.msgpack.decode(frame.body, type=_Failure)
                        raise errors.by_code(failure.code)(failure.detail, **failure.facts)
                    else:
                        return
            raise errors.PartUnavailable(part=self._part, method=method)
        except ConnectionError as exc:
            raise errors.PartUnavailable(part=self._part, method=method) from exc
        finally:
            writer.close()

    async def _open(self) -> tuple[_Reader, _Writer]:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            return _Reader(reader), _Writer(writer)
        except (OSError, TimeoutError) as exc:
            raise errors.PartUnavailable(part=self._part) from exc

    async def close(self) -> None:
        """Close the connection behind what was said; calls under way get PartUnavailable."""
        if self._writer is not None:
            await self._writer.closed(CLOSE_S)
        await self._tasks.close()

    async def _connected(self) -> _Writer:
        async with self._lock:
            if self._writer is not None and not self._writer.is_closing():
                return self._writer
            reader, writer = await self._open()
            self._writer = writer
            self._tasks.spawn(self._receive(reader, writer), name=f"rpc-receive-{self._part}")
            return writer

    async def _receive(self, reader: _Reader, writer: _Writer) -> None:
        try:
            while frames := await reader.some():
                for frame in frames:
                    if (queue := self._waiting.get(frame.call)) is not None:
                        queue.put_nowait(frame)
        except (ConnectionError, msgspec.DecodeError, errors.BadInput):
            pass
        finally:
            writer.close()
            if self._writer is writer:
                self._writer = None
            for queue in self._waiting.values():
                queue.put_nowait(None)

"""A proxy in front of an S3 server that answers badly on request. Also runs alone, for tests of whole
processes.

    proxy = S3FaultProxy(server.port)
    await proxy.start()                                        # then talk to proxy.endpoint
    proxy.plan(HttpFault.LOST_ANSWER, method="PUT", times=1)   # done by the server, never told
    await proxy.go_down()                                      # connection refused, until come_up()

    python -m tests.fakes.s3_fault_proxy --target 8333 --port 8444
    curl -d '[{"fault": "status", "status": 503, "method": "PUT", "times": 5}]' http://127.0.0.1:8444/-/faults
    curl -X DELETE http://127.0.0.1:8444/-/faults              # heal
    curl http://127.0.0.1:8444/-/seen                          # [["PUT", "/bucket/key", "status"], ...]

Requests are passed on byte for byte (they are signed), one connection to the server each. It knows as much
of HTTP as S3 servers and our client use: lengths, chunks, and the 100 before a body.
"""

import argparse
import asyncio
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 128 * 1024 * 1024
CONTROL = "/-/"


class HttpFault(Enum):
    """What goes wrong with one request."""

    STATUS = "status"
    """Answered by the proxy with `status`; the server never hears of it."""
    FOREIGN_404 = "foreign 404"
    """A page of a web server that knows nothing of S3."""
    CUT_REQUEST = "cut request"
    """The connection breaks before the server got it."""
    CUT_BODY = "cut body"
    """The server gets the head and `part` of the body, then the connection breaks."""
    LOST_ANSWER = "lost answer"
    """The server did it; the connection breaks before a byte of the answer."""
    TRUNCATED = "truncated"
    """Half of the answer's body, then the connection breaks."""
    FLIPPED = "flipped"
    """One bit of the answer's body is wrong."""
    SLOW = "slow"
    """Waits for `gate` before it is passed on."""
    REPEATED = "repeated"
    """The answer to the request before, again."""


@dataclass(slots=True, kw_only=True)
class _Planned:
    fault: HttpFault
    method: str | None
    path: re.Pattern[str]
    times: int
    after: int
    status: int
    part: float


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer, as it came."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)


class S3FaultProxy:
    """Listens on the loopback and passes on to one port of it."""

    def __init__(self, target_port: int) -> None:
        self.gate = asyncio.Event()
        self.seen: list[tuple[str, str, str]] = []
        """Method, path, and the fault it met or "passed"."""
        self.port = 0
        self._target_port = target_port
        self._plans: list[_Planned] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._last: _Message | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=HEAD_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]

    async def go_down(self) -> None:
        """Close everything: open connections break, new ones are refused."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def come_up(self) -> None:
        await self.start(self.port)

    def plan(
        self,
        fault: HttpFault,
        *,
        method: str | None = None,
        path: str = ".*",
        times: int = 1,
        after: int = 0,
        status: int = 503,
        part: float = 0.5,
    ) -> None:
        """Let `fault` happen `times` times to requests that match, after `after` matching ones went well."""
        self._plans.append(
            _Planned(
                fault=fault,
                method=method,
                path=re.compile(path),
                times=times,
                after=after,
                status=status,
                part=part,
            )
        )

    def heal(self) -> None:
        self._plans.clear()
        self.gate.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._answer(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, or we cut it off
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _answer(self, request: _Message, writer: asyncio.StreamWriter) -> bool:
        """Deal with one request; False ends the connection."""
        method, path, _ = request.first_line
        if path.startswith(CONTROL):
            writer.write(self._control(method, path, request.body))
            return True
        planned = self._next(method, path)
        fault = planned.fault if planned is not None else None
        self.seen.append((method, path, fault.value if fault is not None else "passed"))
        if planned is not None and fault is HttpFault.STATUS:
            writer.write(_plain(planned.status, _error("Planned"), method))
            return True
        if fault is HttpFault.FOREIGN_404:
            writer.write(_plain(404, b"<html>Not here</html>", method))
            return True
        if fault is HttpFault.CUT_REQUEST:
            return False
        if planned is not None and fault is HttpFault.CUT_BODY:
            await self._break_off(request, planned.part)
            return False
        if fault is HttpFault.REPEATED and self._last is not None:
            writer.write(self._last.head + self._last.body)
            return True
        if fault is HttpFault.SLOW:
            await self.gate.wait()
        answer = await self._ask_server(request)
        self._last = answer
        if fault is HttpFault.LOST_ANSWER:
            return False
        body = answer.body
        if fault is HttpFault.FLIPPED:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 0x01]) + body[at + 1 :]
        if fault is HttpFault.TRUNCATED:
            writer.write(answer.head + body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(answer.head + body)
        await writer.drain()
        return True

    def _next(self, method: str, path: str) -> _Planned | None:
        for planned in self._plans:
            if planned.times < 1 or planned.method not in {None, method} or not planned.path.search(path):
                continue
            if planned.after > 0:
                planned.after -= 1
                continue
            planned.times -= 1
            return planned
        return None

    async def _ask_server(self, request: _Message) -> _Message:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target_port, limit=HEAD_BYTES_MAX)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 1"):
                    break
            without_body = request.first_line[0] == "HEAD" or b" 204 " in head[:20] or b" 304 " in head[:20]
            return _Message(head, b"" if without_body else await _read_body(reader, head))
        finally:
            writer.close()

    async def _break_off(self, request: _Message, part: float) -> None:
        """Send some of a request as a client would that is killed meanwhile, and wait until that was
        noticed.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target_port, limit=HEAD_BYTES_MAX)
        writer.write(request.head)
        if _header(request.head, b"expect"):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(request.body[: int(len(request.body) * part)])
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()

    def _control(self, method: str, path: str, body: bytes) -> bytes:
        if method == "POST" and path == "/-/faults":
            for item in json.loads(body):
                self.plan(HttpFault(item.pop("fault")), **item)
        elif method == "DELETE" and path == "/-/faults":
            self.heal()
        elif method == "GET" and path == "/-/seen":
            return _plain(200, json.dumps(self.seen).encode(), method)
        else:
            return _plain(404, b"", method)
        return _plain(200, b"{}", method)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if not exc.partial:
            return None
        raise
    if _header(head, b"expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return _Message(head, await _read_body(reader, head))


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"chunked" in _header(head, b"transfer-encoding").lower():
        parts: list[bytes] = []
        while True:
            line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(line.split(b";")[0], 16) + 2)
            parts += [line, chunk]
            if len(chunk) == 2:
                return b"".join(parts)
    length = int(_header(head, b"content-length") or b"0")
    assert length <= BODY_BYTES_MAX
    return await reader.readexactly(length)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return b""


def _plain(status: int, body: bytes, method: str) -> bytes:
    head = (
        f"HTTP/1.1 {status} Planned\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>planned</Message></Error>'.encode()


async def _run(target: int, port: int, plans: list[dict[str, Any]]) -> None:
    proxy = S3FaultProxy(target)
    for item in plans:
        proxy.plan(HttpFault(item.pop("fault")), **item)
    await proxy.start(port)
    print(proxy.endpoint, flush=True)  # noqa: T201 # whoever started it reads the port here
    await asyncio.Event().wait()


def main() -> None:
    """Run until ended."""
    parser = argparse.ArgumentParser(description="An S3 server's bad days.")
    parser.add_argument("--target", type=int, required=True, help="port of the real server on the loopback")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--plan", type=json.loads, default=[], help="faults from the start, as JSON")
    given = parser.parse_args()
    asyncio.run(_run(given.target, given.port, given.plan))


if __name__ == "__main__":
    main()

"""A proxy in front of an S3 server that answers badly on request.

    proxy = S3FaultProxy(server.port)
    await proxy.start()                                        # then talk to proxy.endpoint
    proxy.plan(HttpFault.LOST_ANSWER, method="PUT", times=1)   # done by the server, never told
    await proxy.go_down()                                      # connection refused, until come_up()

Requests are passed on byte for byte (they are signed), one connection to the server each. For tests only: it
listens on the loopback, knows no one, and whoever reaches it may plan faults. The service never imports it.

Source: docs/fault-proxy.md.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from storage.fault_proxy.script import BadPlan, HttpFault, Plan, Script
from storage.fault_proxy.wire import (
    HEAD_BYTES_MAX,
    BadMessage,
    Message,
    header,
    plain,
    read_answer,
    read_request,
    s3_error,
)

CONTROL: Final = "/-/"
OLD_ANSWERS_MAX: Final = 200
"""Answers to reads that are kept for STALE."""
OLD_ANSWER_BYTES_MAX: Final = 1024 * 1024
SERVER_CODES: Final = {409: "ConditionalRequestConflict", 412: "PreconditionFailed", 503: "SlowDown"}


class S3FaultProxy:
    """Listens on the loopback and passes on to one S3 server."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1", *, seed: int = 0) -> None:
        self.gate = asyncio.Event()
        self.script = Script(seed)
        self.port = 0
        self._target = target_host, target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._last: Message | None = None
        self._old: OrderedDict[tuple[str, str, bytes], Message] = OrderedDict()

    @property
    def endpoint(self) -> str:
        """Return the address to talk to."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen(self) -> list[tuple[str, str, str]]:
        """Return method, path, and the fault it met or "passed", of every request."""
        return list(self.script.seen)

    def forget_seen(self) -> None:
        """Begin the record anew."""
        self.script.seen.clear()

    async def start(self, port: int = 0) -> None:
        """Listen."""
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
        """Listen again at the same port."""
        await self.start(self.port)

    def plan(self, fault: HttpFault, **more: Any) -> None:
        """Let a fault happen; the fields are those of `Plan`."""
        plan = Plan(fault=fault, **more)
        plan.check()
        self.script.add(plan)

    def heal(self) -> None:
        """Let nothing more go wrong, and whatever waits go on."""
        self.script.clear()
        self.gate.set()
        self.gate = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while (request := await read_request(reader, writer)) is not None:
                if not await self._answer(request, writer):
                    break
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, BadMessage):
            pass  # the client or the server went away, we cut it off, or it spoke no HTTP
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _answer(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Deal with one request; False ends the connection."""
        method, path, _ = request.first_line
        if path.startswith(CONTROL):
            writer.write(await self._control(method, path, request.body))
            return True
        plan = self.script.meet(method, path)
        if plan is None:
            answer = await self._ask_server(request)
            writer.write(answer.head + answer.body)
            return True
        own = self._own_answer(plan, request)
        if own is not None:
            writer.write(own)
            return True
        match plan.fault:
            case HttpFault.CUT_REQUEST:
                return False
            case HttpFault.CUT_BODY:
                await self._break_off(request, plan.part)
                return False
            case HttpFault.DELAY:
                with suppress(TimeoutError):
                    async with asyncio.timeout(plan.delay_ms / 1000):
                        await self.gate.wait()
            case HttpFault.SLOW:
                await self.gate.wait()
            case _:
                pass
        return await self._spoil(plan, await self._ask_server(request), writer)

    def _own_answer(self, plan: Plan, request: Message) -> bytes | None:
        """Return what the proxy answers by itself, if it does."""
        method = request.first_line[0]
        match plan.fault:
            case HttpFault.STATUS:
                return plain(plan.status, s3_error(SERVER_CODES.get(plan.status, "Planned")), method)
            case HttpFault.FOREIGN_404:
                return plain(404, b"<html>Not here</html>", method)
            case HttpFault.SWALLOWED:
                tag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
                status = 204 if method == "DELETE" else 200
                return plain(status, b"", method, more=f'ETag: "{tag}"\r\n')
            case HttpFault.STALE:
                old = self._old.get(_question(request))
                return plain(404, s3_error("NoSuchKey"), method) if old is None else old.head + old.body
            case HttpFault.REPEATED if self._last is not None:
                return self._last.head + self._last.body
            case _:
                return None

    async def _spoil(self, plan: Plan, answer: Message, writer: asyncio.StreamWriter) -> bool:
        """Give an answer of the server, or what is left of it."""
        body = answer.body
        match plan.fault:
            case HttpFault.LOST_ANSWER:
                return False
            case HttpFault.TIMEOUT:
                await self.gate.wait()
                return False
            case HttpFault.TRUNCATED:
                writer.write(answer.head + body[: int(len(body) * plan.part)])
                await writer.drain()
                return False
            case HttpFault.FLIPPED if body:
                spoilt, bit = bytearray(body), self.script.chance.randrange(8 * len(body))
                spoilt[bit // 8] ^= 1 << bit % 8
                body = bytes(spoilt)
            case _:
                pass
        writer.write(answer.head + body)
        return True

    async def _ask_server(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self._target, limit=HEAD_BYTES_MAX)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            answer = await read_answer(reader, request.first_line[0])
        finally:
            writer.close()
        self._last = answer
        if request.first_line[0] in {"GET", "HEAD"} and len(answer.body) <= OLD_ANSWER_BYTES_MAX:
            self._old.setdefault(_question(request), answer)
            if len(self._old) > OLD_ANSWERS_MAX:
                self._old.popitem(last=False)
        return answer

    async def _break_off(self, request: Message, part: float) -> None:
        """Send some of a request as a client would that is killed meanwhile; wait until that was noticed."""
        reader, writer = await asyncio.open_connection(*self._target, limit=HEAD_BYTES_MAX)
        writer.write(request.head)
        if header(request.head, b"expect"):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(request.body[: int(len(request.body) * part)])
        await writer.drain()
        writer.write_eof()
        await reader.read()
        writer.close()

    async def _control(self, method: str, path: str, body: bytes) -> bytes:
        told: object = {}
        match method, path:
            case "POST", "/-/faults":
                try:
                    items = json.loads(body)
                    plans = [Plan.from_json(one) for one in (items if isinstance(items, list) else [items])]
                    for plan in plans:
                        self.script.add(plan)
                except (BadPlan, ValueError, RecursionError) as exc:
                    words = json.dumps({"error": str(exc)}).encode()
                    return plain(400, words, method, kind="application/json")
                told = [{**asdict(plan), "fault": plan.fault.value} for plan in plans]
            case "DELETE", "/-/faults":
                self.heal()
            case "GET", "/-/seen":
                told = self.seen
            case "DELETE", "/-/seen":
                self.forget_seen()
            case _:
                return plain(404, b'{"error": "no such control"}', method, kind="application/json")
        return plain(200, json.dumps(told).encode(), method, kind="application/json")


def _question(request: Message) -> tuple[str, str, bytes]:
    method, path, _ = request.first_line
    return method, path, header(request.head, b"range")

"""A long answer, with how far it is: lines of JSON, of which the last is the answer or the problem.

For whoever asks with `Accept: application/x-ndjson`; everybody else gets the plain answer at its end. A line
is `{"progress": {...}}` where something moved, `{}` as a sign of life for proxies, and at the end
`{"done": {...}}` or `{"problem": {...}}`. Without one of these the work was cut off.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel

from session_service.base import errors
from session_service.http import limits, problems
from session_service.http.routes import Exchange
from session_service.http.serve import begin_stream, unbuffered
from session_service.ports.checkpoints import Progress

LINES: Final = "application/x-ndjson"

Tell = Callable[[Progress], None]


async def answered(
    exchange: Exchange, work: Callable[[Tell | None], Awaitable[BaseModel]]
) -> BaseModel | web.StreamResponse:
    """Do long work; tell how far it is to whoever asked for lines."""
    accepted = exchange.request.headers.get("Accept", "")
    if LINES not in {part.partition(";")[0].strip() for part in accepted.split(",")}:
        return await work(None)
    response = unbuffered(LINES)
    await begin_stream(exchange, response)
    newest = _Newest()
    try:
        async with asyncio.TaskGroup() as group:
            # Whoever leaves ends the work, too: what it did so far stays, and it may be asked for again.
            working = group.create_task(_last_line(exchange, work, newest), name="long-work")
            while not working.done():
                moved = await newest.next()
                for one in moved:
                    await _send(response, {"progress": _shown(one)})
                if not moved and not working.done():
                    await _send(response, {})
            await _send(response, working.result())
            await response.write_eof()
    except* (ConnectionError, TimeoutError):
        if exchange.request.transport is not None:
            exchange.request.transport.abort()
    return response


class _Newest:
    """The newest word of each stage of the work, in order; older ones are not worth a line."""

    def __init__(self) -> None:
        self._values: dict[str, Progress] = {}
        self._news = asyncio.Event()

    def put(self, value: Progress) -> None:
        self._values[value.stage] = value
        self._news.set()

    def wake(self) -> None:
        """Say that the work is over."""
        self._news.set()

    async def next(self) -> list[Progress]:
        """Wait for news, for the end of the work, or until a sign of life is due: the last two bring none."""
        try:
            async with asyncio.timeout(limits.STREAM_HEARTBEAT_S):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        values, self._values = list(self._values.values()), {}
        return values


async def _last_line(
    exchange: Exchange, work: Callable[[Tell | None], Awaitable[BaseModel]], newest: _Newest
) -> dict[str, Any]:
    try:
        return {"done": (await work(newest.put)).model_dump(mode="json")}
    except errors.SessionError as exc:
        return {"problem": problems.document(exc, exchange.reference)}
    finally:
        newest.wake()


def _shown(value: Progress) -> dict[str, Any]:
    return {"stage": value.stage, "done": value.done, "total": value.total, "unit": value.unit}


async def _send(response: web.StreamResponse, line: dict[str, Any]) -> None:
    async with asyncio.timeout(limits.DOWNLOAD_IDLE_S):
        await response.write(json.dumps(line).encode() + b"\n")

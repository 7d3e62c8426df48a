"""One request to the API and its answer: over TCP with a token, or over the unix socket by credentials.

Not the calls (`api.py`). A problem document becomes the error of its code, so that callers catch
`errors.NotFound` and not a status; a service that does not answer is `PartUnavailable`. Nothing is tried
again here.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from session_service.base import errors
from session_service.client.models import Progress

LINES: Final = "application/x-ndjson"
ANSWER_S: Final = 60.0
"""How long an answer may take; saves and starts wait for the object store."""
CONNECT_S: Final = 5.0
STREAM_SILENT_S: Final = 45.0
"""A live stream sends a sign of life every 15 s; three missing ones mean that it is gone."""
ANSWER_BYTES_MAX: Final = 64 << 20
CHUNK_BYTES: Final = 256 << 10
_LOCAL: Final = "http://localhost"

Answer = TypeVar("Answer")
Query = Mapping[str, str | int | bool | None]


class Transport:
    """Sends requests. Use as an async context manager.

    Args:
        base_url: the service's address, http or https.
        token: an API token; none = only what anybody may ask.
        socket: the service's own socket instead of TCP.
        ssl: for https with a certificate of one's own; None = the authorities of this machine.
    """

    def __init__(
        self, base_url: str, *, token: str = "", socket: Path | None = None, ssl: SSLContext | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._ssl: SSLContext | bool = True if ssl is None else ssl
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._socket = socket
        self._client: aiohttp.ClientSession | None = None

    @classmethod
    def over_socket(cls, socket: Path) -> "Transport":
        """Speak to the service of this machine as whoever we are."""
        return cls(_LOCAL, socket=socket)

    async def __aenter__(self) -> "Transport":
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(str(self._socket))
            if self._socket is not None
            else aiohttp.TCPConnector(ssl=self._ssl)
        )
        self._client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def base_url(self) -> str:
        """The address that requests go to."""
        return self._base_url

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        body: Mapping[str, Any] | None = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        """Send a request and return its typed answer.

        Raises:
            SessionError: the problem that the service named, by its code.
            PartUnavailable: the service is not there, or went away before it answered.
        """
        sent = dict(headers or {})
        if method == "POST":
            sent.setdefault("Idempotency-Key", str(uuid.uuid4()))
        async with self.opened(method, path, body=body, query=query, headers=sent, limit_s=limit_s) as answer:
            return self._decoded(await self._read(answer, path), answer, path, kind)

    def _decoded(self, raw: bytes, answer: aiohttp.ClientResponse, path: str, kind: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(raw or b"null", type=kind)
        except msgspec.MsgspecError as exc:
            if not answer.content_type.endswith("json"):
                raise errors.NotTheService(f"A page answers at {self._place}.", status=answer.status) from exc
            raise errors.PartRefused(f"The answer of {path} has another form: {exc}") from exc

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        data: Any = None,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its answer once its head is there and good, to be read bit by bit."""
        assert self._client is not None, "use `async with`"
        params = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        try:
            async with asyncio.timeout(limit_s or ANSWER_S):
                answer = await self._client.request(
                    method,
                    self._base_url + path,
                    json=body if data is None else None,
                    data=data,
                    params=params,
                    headers=headers,
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise self._away(exc) from exc
        async with answer:
            if answer.status >= 300:
                raise self._problem(await self._read(answer, path), answer.status)
            yield answer

    async def _read(self, answer: aiohttp.ClientResponse, path: str) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                raw = await answer.content.read(ANSWER_BYTES_MAX)
                while not answer.content.at_eof() and len(raw) < ANSWER_BYTES_MAX:
                    raw += await answer.content.read(ANSWER_BYTES_MAX - len(raw))
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise self._away(exc) from exc
        if not answer.content.at_eof():
            raise errors.PartRefused(f"The answer of {path} is too long.", limit=ANSWER_BYTES_MAX)
        return raw

    def _away(self, exc: Exception) -> errors.PartUnavailable:
        return errors.PartUnavailable(
            f"The service does not answer at {self._place}.", cause=type(exc).__name__
        )

    @property
    def _place(self) -> str:
        return str(self._socket) if self._socket is not None else self._base_url

    def _problem(self, raw: bytes, status: int) -> errors.SessionError:
        """Return what a refused request was told; without a problem document it was not by the service."""
        return _error(raw) or errors.NotTheService(
            f"Something answers {status} at {self._place} that is no problem document.", status=status
        )

    async def chunks(self, path: str, query: Query) -> AsyncIterator[bytes]:
        """Stream a download; half a file raises PartUnavailable, so that it is never taken for a whole
        one.
        """
        async with self.opened("GET", path, query=query) as answer:
            try:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
            except (aiohttp.ClientError, OSError) as exc:
                raise self._away(exc) from exc

    async def lines(self, path: str) -> AsyncIterator[str]:
        """Stream lines of a live stream; PartUnavailable when it went silent."""
        async with self.opened("GET", path) as answer:
            try:
                while True:
                    async with asyncio.timeout(STREAM_SILENT_S):
                        line = await answer.content.readuntil(b"\n")
                    if not line:
                        return
                    yield line.decode().rstrip("\n")
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                raise self._away(exc) from exc

    async def told(
        self,
        path: str,
        kind: type[Answer],
        *,
        body: Mapping[str, Any],
        limit_s: float,
        on_progress: Callable[[Progress], None],
    ) -> Answer:
        """Post and return the typed answer; pass on how far it is. Raises as `ask` does."""
        headers = {"Accept": LINES, "Idempotency-Key": str(uuid.uuid4())}
        async with self.opened("POST", path, body=body, headers=headers, limit_s=limit_s) as answer:
            if answer.content_type != LINES:  # an older service
                return self._decoded(await self._read(answer, path), answer, path, kind)
            try:
                while True:
                    async with asyncio.timeout(STREAM_SILENT_S):
                        raw = await answer.content.readuntil(b"\n")
                    line = self._decoded(raw, answer, path, _Line)
                    if line.progress is not None:
                        on_progress(line.progress)
                    if bytes(line.problem):
                        raise self._problem(bytes(line.problem), answer.status)
                    if bytes(line.done):
                        return self._decoded(bytes(line.done), answer, path, kind)
            except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, TimeoutError) as exc:
                raise self._away(exc) from exc


class _Line(msgspec.Struct, frozen=True):
    """One line of a long answer; {} is a sign of life."""

    progress: Progress | None = None
    done: msgspec.Raw = msgspec.Raw()
    problem: msgspec.Raw = msgspec.Raw()


def _text(value: str | int | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _error(raw: bytes) -> errors.SessionError | None:
    """Return the error that a problem document names, None when it is none."""
    try:
        problem = json.loads(raw)
        kind, detail, facts = errors.by_code(str(problem["code"])), str(problem["detail"]), problem["facts"]
        plain = {
            str(name): value
            for name, value in facts.items()
            if value is None or isinstance(value, str | int | float | bool)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    error = kind(detail)
    error.facts = plain | {"reference": str(problem.get("reference", ""))}
    return error

"""From a route of the table to an answer: who asks, may they, is the request whole, was it answered before.

The order is part of the contract: nothing of a body is looked at before the caller was found and allowed,
and no handler runs with anything unchecked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from pydantic import BaseModel, ValidationError

from session_service.base import errors
from session_service.http import asks, callers, idempotency, limits
from session_service.http.idempotency import Kept, KeptAnswers
from session_service.http.routes import Exchange, Reply, Result, Route, Services

REFERENCE: Final = web.RequestKey("reference", str)
CALLER: Final = web.RequestKey("caller", str)
STREAMING: Final = web.RequestKey("streaming", bool)
JSON: Final = "application/json"


def handler_of(
    route: Route, services: Services, kept: KeptAnswers
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler of a route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        caller = await _allowed_caller(route, request, services)
        _check_ids(request)
        _check_encoding(request)
        query = _checked_query(route, request)
        raw = b"" if route.raw_body else await _raw_body(route, request)
        body = _checked_body(route, raw)
        exchange = Exchange(
            request=request,
            services=services,
            reference=request[REFERENCE],
            route=route,
            caller_or_none=caller,
            body_or_none=body,
            query_or_none=query,
        )
        key = request.headers.get(idempotency.HEADER)
        if route.idempotent and key is not None and caller is not None:
            return await _answer_once(exchange, kept, idempotency.checked_key(key), raw)
        return _response(route, await route.handler(exchange))

    return handle


async def _allowed_caller(route: Route, request: web.Request, services: Services) -> callers.Caller | None:
    if route.access.role is None and request.method in callers.SAFE_METHODS:
        caller = await _caller_or_nobody(request, services)
    else:
        caller = await services.identification.caller(request)
    if caller is not None:
        request[CALLER] = caller.user.id
    if route.access.role is None:
        via = caller.via if caller is not None else "nobody"
        callers.check_origin(request, via=via, origins=services.origins())
        return caller
    if caller is None:
        raise errors.SignInRequired()
    callers.check_origin(request, via=caller.via, origins=services.origins())
    if not callers.has_role(caller.user.role, route.access.role):
        raise errors.NotAllowed(role_needed=route.access.role)
    if route.access.scope not in caller.scopes:
        raise errors.NotAllowed(scope_needed=route.access.scope)
    return caller


async def _caller_or_nobody(request: web.Request, services: Services) -> callers.Caller | None:
    """Find the caller of a public page; it is shown without the registry, too."""
    try:
        return await services.identification.caller(request)
    except errors.RegistryUnavailable:
        return None


def _check_ids(request: web.Request) -> None:
    """Answer "not found" for a path that cannot name anything, before anybody parses it."""
    for name, value in request.match_info.items():
        if name.endswith("_id") and not asks.is_id(value):
            raise errors.NotFound()
        if name == "seq" and not (value.isascii() and value.isdigit() and len(value) <= 16):
            raise errors.NotFound()


def _check_encoding(request: web.Request) -> None:
    """Refuse a body that would have to be unpacked: a kilobyte of it can be a megabyte, and no limit here is
    one of what comes out.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise errors.UnsupportedMedia("A body is sent as it is, not packed.", wanted="identity")


def _checked_query(route: Route, request: web.Request) -> BaseModel | None:
    if route.query is None:
        return None
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise errors.BadInput("A parameter stands twice in the address.", field=name)
        given[name] = value
    try:
        return route.query.model_validate(given)
    except ValidationError as exc:
        raise _refused(exc) from exc


async def _raw_body(route: Route, request: web.Request) -> bytes:
    if not request.can_read_body:
        return b""
    if (
        route.body is None
        and (request.content_length or 0) == 0
        and "Transfer-Encoding" not in request.headers
    ):
        return b""
    try:
        async with asyncio.timeout(limits.BODY_READ_S):
            raw = await request.read()
    except TimeoutError as exc:
        raise errors.BadInput("The body did not arrive in time.", limit_s=limits.BODY_READ_S) from exc
    if raw and route.body is not None and request.content_type != JSON:
        raise errors.UnsupportedMedia(wanted=JSON)
    return raw


def _checked_body(route: Route, raw: bytes) -> BaseModel | None:
    if route.body is None:
        if raw:
            raise errors.BadInput("This address takes no body.", field="body")
        return None
    try:
        return route.body.model_validate_json(raw or b"{}")
    except ValidationError as exc:
        raise _refused(exc) from exc


def _refused(exc: ValidationError) -> errors.BadInput:
    """Return the first fault with its field; what was sent is never told back: it may be a password."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:200] or "body"
    shown = field.encode("utf-8", "backslashreplace").decode()
    return errors.BadInput(f"{shown}: {first['msg']}", field=shown, faults=exc.error_count())


async def _answer_once(exchange: Exchange, kept: KeptAnswers, key: str, raw: bytes) -> web.StreamResponse:
    request, user_id = exchange.request, exchange.caller.user.id
    wanted = idempotency.request_hash(request.method, request.path_qs, raw)
    async with kept.one_at_a_time(user_id, key):
        found = await kept.find(user_id, key, wanted)
        if found is not None:
            answer = web.Response(status=found.status, body=found.body, content_type=JSON)
            answer.headers[idempotency.REPLAYED_HEADER] = "true"
            answer.headers["Cache-Control"] = "no-store"
            return answer
        response = _response(exchange.route, await exchange.route.handler(exchange))
        if isinstance(response, web.Response) and response.status < 300:
            body = response.body if isinstance(response.body, bytes) else b""
            await kept.keep(user_id, key, wanted, Kept(status=response.status, body=body))
        return response


def _response(route: Route, result: Result) -> web.StreamResponse:
    if isinstance(result, web.StreamResponse):
        return result
    reply = result if isinstance(result, Reply) else Reply(body=result)
    status = reply.status or route.status
    response = (
        web.Response(status=204)
        if reply.body is None
        else web.Response(status=status, body=reply.body.model_dump_json().encode(), content_type=JSON)
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(reply.headers)
    if reply.cookie is not None:
        _set_cookie(response, reply)
    return response


def _set_cookie(response: web.Response, reply: Reply) -> None:
    assert reply.cookie is not None
    name, value, seconds = reply.cookie
    response.set_cookie(
        name,
        value,
        max_age=seconds if value else 0,
        path="/",
        secure=name.startswith("__Host-"),
        httponly=True,
        samesite="Strict",
    )


def unbuffered(media: str) -> web.StreamResponse:
    """Return the head of a stream that nobody may keep, and no proxy may hold back."""
    response = web.StreamResponse()
    response.content_type = media
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def begin_stream(exchange: Exchange, response: web.StreamResponse) -> None:
    """Send the head of a stream; a failure after this can only cut the link."""
    exchange.request[STREAMING] = True
    await response.prepare(exchange.request)


def etag(generation: int) -> str:
    """Return the entity tag of a record at a generation."""
    return f'"{generation}"'


def check_generation(exchange: Exchange, generation: int) -> None:
    """Refuse a request whose If-Match names another generation. Raises GenerationMoved."""
    wanted = exchange.request.headers.get("If-Match")
    if wanted is None or wanted.strip() == "*":
        return
    if etag(generation) not in {part.strip() for part in wanted.split(",")}:
        raise errors.GenerationMoved(generation=generation)

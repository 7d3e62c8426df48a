"""The HTTP application: routes, pages, and the edge around them all.

`create_app` builds it; `app` listens with it, on the one port and on the unix socket alike. The edge gives
each request a reference, turns every failure into a problem document, sets the security headers and writes
one line.
"""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import ClientError, web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from session_service.base import errors, log
from session_service.http import limits, openapi, problems, uploads
from session_service.http.callers import Identification
from session_service.http.facade import ControlFacade
from session_service.http.figures import NONE, PAGE, Figures
from session_service.http.idempotency import KeptAnswers
from session_service.http.pages import Pages
from session_service.http.passwords import Passwords
from session_service.http.routes import API, OwnerOf, Services
from session_service.http.serve import CALLER, REFERENCE, STREAMING, handler_of
from session_service.http.settings import HttpSettings
from session_service.http.store_look import StoreLook
from session_service.http.table import ROUTES
from session_service.http.throttle import Throttle
from session_service.http.turns import DownloadTurns, StreamTurns, UploadTurns
from session_service.ports.checkpoints import Checkpoints
from session_service.ports.clock import Clock, Ids
from session_service.ports.registry import Registry

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
}
TRANSPORT_SECURITY: Final = "max-age=31536000"
_PROBES: Final = frozenset({"healthz", "readyz", "metrics"})
"""Asked every second by machines; their success is no fact for operators."""
REFERENCE_HEADER: Final = "X-Request-Reference"
_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    *,
    control: ControlFacade,
    registry: Registry,
    checkpoints: Checkpoints,
    clock: Clock,
    ids: Ids,
    settings: HttpSettings,
    owner_of: OwnerOf,
    origins: Callable[[], frozenset[str]] | None = None,
    passwords: Passwords | None = None,
    figures: CollectorRegistry | None = None,
) -> web.Application:
    """Build the application.

    Args:
        owner_of: `DesktopProvider.owner`, asked where an uploaded file is to belong.
        origins: our own origins where they are known only once a port is bound; else those of the settings.
        figures: where further figures (the gateway's) are registered, to be sent by `/metrics`.
    """
    numbers = Figures(figures or CollectorRegistry())
    services = Services(
        control=control,
        registry=registry,
        checkpoints=checkpoints,
        clock=clock,
        ids=ids,
        settings=settings,
        identification=Identification(registry=registry, clock=clock, settings=settings),
        passwords=passwords or Passwords(),
        pair_tries=Throttle(tries=limits.SIGN_IN_TRIES),
        account_tries=Throttle(tries=limits.ACCOUNT_TRIES),
        address_tries=Throttle(tries=limits.ADDRESS_TRIES),
        setup_tries=Throttle(tries=limits.SETUP_TRIES),
        upload_turns=UploadTurns(),
        download_turns=DownloadTurns(),
        origins=origins or (lambda: settings.public_origins),
        owner_of=owner_of,
        store_look=StoreLook(checkpoints=checkpoints, clock=clock),
        streams=StreamTurns(),
        figures=numbers,
        accounts=asyncio.Lock(),
    )
    pages = Pages(services)
    app = web.Application(
        client_max_size=limits.JSON_BODY_BYTES_MAX, middlewares=[_edge(_Edge(services, pages))]
    )
    kept = KeptAnswers(registry=registry, clock=clock, ids=ids)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, handler_of(route, services, kept), name=route.name)
    numbers.know(route.name for route in ROUTES)
    _add_documentation(app, settings.version)
    app.router.add_route("*", "/s/{rest:.*}", _misdirected, name="misdirected")
    pages.add_to(app.router)
    app.on_response_prepare.append(_secure(settings))

    async def stop_streams(_: web.Application) -> None:
        services.streams.stopping.set()

    async def sweep(_: web.Application) -> None:
        await asyncio.to_thread(uploads.sweep, settings.uploads)

    app.on_startup.append(sweep)
    app.on_shutdown.append(stop_streams)
    return app


async def _misdirected(request: web.Request) -> web.StreamResponse:
    """The gateway takes links by the first bytes of a connection, so one that comes here came too late."""
    response = problems.response(errors.Misdirected(), request[REFERENCE])
    response.force_close()
    return response


def _secure(settings: HttpSettings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def secure(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = "session-service"  # versions of ours are for those who are signed in
        if settings.secure:
            response.headers.setdefault("Strict-Transport-Security", TRANSPORT_SECURITY)
        response.headers.setdefault(REFERENCE_HEADER, request.get(REFERENCE, ""))

    return secure


def _add_documentation(app: web.Application, version: str) -> None:
    # Made when somebody asks: it needs every model, which takes longer than all the rest of the start.
    @functools.cache
    def described() -> bytes:
        return json.dumps(openapi.document(ROUTES, version=version), sort_keys=True).encode()

    @functools.cache
    def page() -> str:
        return openapi.page(ROUTES, version=version)

    async def document(_: web.Request) -> web.Response:
        return web.Response(body=await asyncio.to_thread(described), content_type="application/json")

    async def readable(_: web.Request) -> web.Response:
        return web.Response(text=await asyncio.to_thread(page), content_type="text/html")

    async def style(_: web.Request) -> web.Response:
        return web.Response(text=openapi.STYLE, content_type="text/css")

    app.router.add_get(f"{API}/openapi.json", document, name="openapi")
    app.router.add_get(f"{API}/docs", readable, name="docs")
    app.router.add_get(f"{API}/docs.css", style, name="docs_style")


def _edge(frame: "_Edge") -> Middleware:
    @web.middleware
    async def edge(request: web.Request, handler: _Handle) -> web.StreamResponse:
        return await frame.around(request, handler)

    return edge


class _Edge:
    """The outermost frame of every request."""

    def __init__(self, services: Services, pages: Pages) -> None:
        self._services = services
        self._pages = pages
        self._known = {route.name for route in ROUTES}

    async def around(self, request: web.Request, handle: _Handle) -> web.StreamResponse:
        """Answer a request, whatever happens within, and write its one line."""
        request[REFERENCE] = self._services.ids.ulid()
        began_ms = self._services.clock.monotonic_ms()
        status = 499  # the reader left before an answer
        try:
            response = await self._answer(request, handle)
            status = response.status
            return response
        finally:
            self._tell(request, status, self._services.clock.monotonic_ms() - began_ms)

    async def _answer(self, request: web.Request, handle: _Handle) -> web.StreamResponse:
        try:
            return await handle(request)
        except web.HTTPRedirection as exc:
            return web.Response(status=exc.status, headers={"Location": exc.headers["Location"]})
        except web.HTTPException as exc:
            return await self._failed(request, problems.from_http(exc), exc.headers.get("Allow"))
        except errors.SessionError as exc:
            return await self._failed(request, exc, None)
        except (ConnectionError, ClientError):
            return web.Response(status=400)  # the sender left; nobody reads this
        except Exception as exc:  # noqa: BLE001 - a task's edge: whatever fails is told and logged
            reference = request[REFERENCE]
            log.get_logger().error("request.failed", reference=reference, error=repr(exc), exc_info=True)
            if request.get(STREAMING) and request.transport is not None:
                request.transport.abort()
            hidden = errors.SessionError("The service failed; the reference finds the cause in its log.")
            return await self._failed(request, hidden, None)

    async def _failed(
        self, request: web.Request, error: errors.SessionError, allow: str | None
    ) -> web.StreamResponse:
        shown = await self._pages.error_page(request, error.status)
        response = shown if shown is not None else problems.response(error, request[REFERENCE])
        if allow is not None:
            response.headers["Allow"] = allow
        return response

    def _tell(self, request: web.Request, status: int, spent_ms: int) -> None:
        route = request.match_info.route
        name = route.name or NONE
        counted = name if name in self._known else (NONE if name in {NONE, "misdirected"} else PAGE)
        stream = bool(request.get(STREAMING))
        self._services.figures.done(counted, status, spent_ms / 1000, stream=stream)
        logger = log.get_logger()
        probe = name in _PROBES and status < 400
        (logger.debug if probe else logger.info)(
            "request.done",
            method=request.method,
            route=name,
            status=status,
            duration_ms=spent_ms,
            reference=request[REFERENCE],
            user_id=request.get(CALLER, ""),
        )

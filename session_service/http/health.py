"""What machines ask: alive, ready, and the figures.

Not the status for people (`history.status`). An object store that is away does not make us unready:
desktops run on, and taking the service out of a balancer would cut them off for nothing.
"""

import asyncio

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from session_service.base import errors
from session_service.http import addresses, limits
from session_service.http.routes import Exchange


async def healthz(exchange: Exchange) -> web.Response:
    """Say that the process is alive; it asks nobody."""
    return web.json_response({"alive": True})


async def readyz(exchange: Exchange) -> web.Response:
    """Say whether control is settled and the registry answers. Raises PartUnavailable,
    RegistryUnavailable.
    """
    try:
        async with asyncio.timeout(limits.STATUS_S):
            if not await exchange.services.control.ready():
                raise errors.PartUnavailable(part="control")
            await exchange.services.registry.mark()
    except TimeoutError as exc:
        raise errors.PartUnavailable("It did not answer in time.") from exc
    return web.json_response({"ready": True})


async def metrics(exchange: Exchange) -> web.Response:
    """Send the figures in Prometheus' text form, to a token with scope read or to the loopback.

    Behind a proxy nobody is on the loopback.

    Raises:
        SignInRequired: neither.
    """
    caller = exchange.caller_or_none
    allowed = caller is not None and caller.via in {"token", "socket"} and "read" in caller.scopes
    services = exchange.services
    # A proxy may leave out what it should add, and send any host: then only a token tells who asks.
    local = not services.settings.behind_proxy and addresses.is_loopback(exchange.request)
    if not allowed and not local:
        raise errors.SignInRequired("Figures are for the loopback, or for a token with scope read.")
    services.figures.seen(
        await services.control.views(),
        alarms=len(services.control.alarms()),
        streams=len(services.streams),
        now_ms=services.clock.wall_ms(),
    )
    store = await services.store_look.status()
    if store is not None:
        services.figures.watched(store.watching)
        services.figures.asked_of_store(store.traffic)
    text = await asyncio.to_thread(generate_latest, services.figures.registry)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

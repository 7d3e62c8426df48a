"""Who speaks to us: the client's address behind trusted proxies, or the uid at the other end of the unix
socket.

Not authority by address, with two exceptions that are named where they are used: the unix socket's
credentials and the loopback for `/metrics`.
"""

import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from session_service.http.settings import HttpSettings

_FORWARDED_HOPS_MAX: Final = 16
UNKNOWN: Final = ""


def client_address(request: web.Request, settings: HttpSettings) -> str:
    """Return the address of the client; what a proxy says counts only if we trust that proxy."""
    peer = _peer(request)
    if peer is None:
        return UNKNOWN
    hops = [peer]
    if settings.trusted_proxies:
        for header in reversed(request.headers.getall("X-Forwarded-For", [])):
            hops.extend(part.strip() for part in reversed(header.split(",")))
    for hop in hops[:_FORWARDED_HOPS_MAX]:
        address = _parsed(hop)
        if address is None:
            break
        peer = str(address)
        if not any(address in network for network in settings.trusted_proxies):
            break
    return peer


def throttle_key(address: str) -> str:
    """Return what is counted for an address: itself, or its /64 for IPv6, which one client owns whole."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def is_loopback(request: web.Request) -> bool:
    """Say whether the peer itself is on this machine and no proxy stands between."""
    peer = _parsed(_peer(request) or "")
    forwarded = any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "Via"))
    host = request.host.rsplit(":", 1)[0].strip("[]")
    named_locally = host == "localhost" or ((parsed := _parsed(host)) is not None and parsed.is_loopback)
    return peer is not None and peer.is_loopback and not forwarded and named_locally


def socket_uid(request: web.Request) -> int | None:
    """Return the peer's uid when the request came over the unix socket, else None."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _peer(request: web.Request) -> str | None:
    name: object = request.transport.get_extra_info("peername") if request.transport is not None else None
    if isinstance(name, Sequence) and not isinstance(name, str | bytes) and name:
        return str(name[0])
    return None


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address

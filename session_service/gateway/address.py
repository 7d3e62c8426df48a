"""Whose connection it is when a proxy stands in front: believed only from proxies that were named.

Not authentication: an address is for logs and for throttling. Without `trusted` no header is ever looked at.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Networks = Sequence[IPv4Network | IPv6Network]


def client_address(peer: str, forwarded: Sequence[str], trusted: Networks) -> str:
    """Return the nearest address that is not one of our proxies.

    Args:
        peer: address of the socket's other end.
        forwarded: values of X-Forwarded-For, in the order of the request.
        trusted: networks of the proxies in front (`--behind-proxy`).
    """
    if not trusted and ":" not in peer:
        return peer  # nobody's word is looked at, and an IPv4 address has one spelling on a socket
    chain = [part.strip() for value in forwarded for part in value.split(",")]
    address = _plain(peer)
    while chain and _is_trusted(address, trusted):
        nearer = chain.pop()
        if not _is_address(nearer):
            break
        address = _plain(nearer)
    return address


@lru_cache(maxsize=1024)
def address_class(address: str) -> str:
    """Return what kind of address it is: for a log line that shows patterns and no person."""
    try:
        known = ip_address(address)
    except ValueError:
        return "unix"
    if known.is_loopback:
        return "loopback"
    if known.is_private or known.is_link_local:
        return "private"
    return f"public{known.version}"


def _plain(text: str) -> str:
    """Return an IPv4 address as such where a socket for both families shows it as ::ffff:1.2.3.4."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return text if mapped is None else str(mapped)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_trusted(text: str, trusted: Networks) -> bool:
    return _is_address(text) and any(ip_address(text) in network for network in trusted)

"""Dialling a websocket at exactly the address that was asked for.

The library follows redirects by itself. A portal's or a proxy's redirect would be shown our ticket or our
proof; only the service's own `moved` and `drain` say where to dial next, and only on the same origin.

Source: gateway.md 9.4 "Redirect".
"""

from ssl import SSLContext

from websockets.asyncio.client import connect


class StraightConnect(connect):
    """`websockets.connect` that takes every answer but 101 for a failure, redirects among them."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow nothing."""
        return exc


def trust(address: str, ssl: SSLContext | None) -> SSLContext | bool | None:
    """Return what the library wants for an address: the authorities of this machine where none were given
    (`SSL_CERT_FILE` names others), and nothing at all without encryption, which it would refuse.
    """
    if not address.startswith("wss:"):
        return None
    return True if ssl is None else ssl

"""Failed proofs and tickets, counted per client address: who keeps guessing is told to wait, nobody else is.

Not a lock: a good proof or ticket is never looked up here, so that no stranger can lock a session's user out,
from the same address or another. Per address and not per session for the same reason. An IPv6 client owns a
whole /64, so that is what counts. Pure: the time is an argument.

Source: gateway.md 9.7 ("junk, lockout").
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

FAILURES_MAX: Final = 20
"""Failed attempts in `WINDOW_MS`; further ones are told 4429 instead of what was wrong with them."""
WINDOW_MS: Final = 60_000
RETRY_MS: Final = 10_000
"""What such a client is told to wait."""
ADDRESSES_MAX: Final = 10_000
"""Addresses that are remembered; beyond it the one that failed longest ago is forgotten."""
NETWORK_BITS: Final = 64


def address_key(address: str) -> str:
    """Return what an address counts as: itself, or the /64 of an IPv6 one."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(known, IPv6Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ip_network((known, NETWORK_BITS), strict=False))


class Failures:
    """The failures of the last minute, in a fixed window per address."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """When the window began, and how many since; the one that failed last is at the end."""

    def __len__(self) -> int:
        return len(self._known)

    def failed(self, address: str, now_ms: int) -> bool:
        """Count one failed attempt; return True when it was one too many.

        Args:
            now_ms: a reading of a clock that never goes back.
        """
        key = address_key(address)
        began_ms, count = self._known.pop(key, (now_ms, 0))
        if now_ms - began_ms >= WINDOW_MS:
            began_ms, count = now_ms, 0
        self._known[key] = (began_ms, count + 1)
        if len(self._known) > ADDRESSES_MAX:
            self._known.popitem(last=False)
        return count >= FAILURES_MAX

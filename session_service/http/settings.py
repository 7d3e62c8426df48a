"""What the one who starts the HTTP side decides: addresses, folders and trust. Plain and frozen.

Not read from anywhere here: `app` makes it from its settings. Limits without a setting are in `limits.py`.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from session_service.ports.upkeep import KeepRule


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Settings of the HTTP side of one process."""

    uploads: Path
    """Folder for files under way into a home; on the disk of the state folder."""
    public_origins: frozenset[str] = frozenset()
    """Origins of our own pages, such as https://desk.example; a port that is not the usual one is part of
    it.
    """
    secure: bool = False
    """Browsers reach us over TLS (our own or a proxy's): cookies are `__Host-` and Secure, HSTS is sent."""
    behind_proxy: bool = False
    """Everybody reaches us through a proxy on this machine: that a peer is on the loopback says nothing."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = field(default=())
    """Peers whose X-Forwarded-For is believed; empty = nobody's."""
    gateway_processes: int = 1
    """How many there are: a ticket names the one that its session belongs to."""
    keep: KeepRule = field(default_factory=KeepRule)
    """Which checkpoints stay when old ones are forgotten."""
    node_id: str = ""
    node_name: str = ""
    version: str = "0"
    pages: Path = Path(__file__).parent / "pages"
    assets: Path = Path(__file__).parent / "assets"
    socket_uids: frozenset[int] = frozenset()
    """Uids that are the administrator on the unix socket besides root; usually our own."""

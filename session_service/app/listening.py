"""The one public port as sockets that outlive the processes which use it: opened by the parent, kept by it
while parts are started again, and handed on to the version that replaces it.

Not a server: the service part takes the connections. Because the parent only ever holds the sockets, nobody
who dials while the service dies, restarts or is replaced is refused: he waits in the kernel's queue. They
come and go by systemd's rule (LISTEN_FDS, numbers from 3), so that a unit can open or keep them as well.
"""

import contextlib
import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from session_service.app import descriptors
from session_service.app.refused import ConfigurationRefused
from session_service.base import log
from session_service.gateway.limits import GatewayLimits

if TYPE_CHECKING:
    from session_service.app.settings import Settings

BACKLOG: Final = 4096
"""Connections that the kernel keeps for us; 128 lost clients for 90 s in a storm of 5,000."""
SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
FIRST_DESCRIPTOR: Final = 3
PART_VARIABLE: Final = "SESSION_SERVICE_PART_LISTEN"
"""Numbers of the descriptors that the service part gets, with commas."""
STORED_NAME: Final = "session-service-port"


def open_sockets(
    host: str, port: int, environment: MutableMapping[str, str] | None = None
) -> tuple[socket.socket, ...]:
    """Return listening sockets for an address: those that were handed to us where they fit, else new ones.

    Raises:
        ConfigurationRefused: the address cannot be used.
    """
    given = _handed_over(os.environ if environment is None else environment)
    fitting = tuple(one for one in given if _fits(one, host, port))
    for one in given:
        if one not in fitting:
            one.close()
    if fitting:
        return fitting
    try:
        return _opened(host, port)
    except OSError as exc:
        raise ConfigurationRefused(
            f"port {port} on {host} cannot be used ({exc.strerror}): "
            "stop what uses it, or give another one with --port"
        ) from exc


def hand_over(sockets: Sequence[socket.socket], environment: MutableMapping[str, str]) -> None:
    """Arrange that the program which replaces this process finds the sockets; right before it is executed."""
    # Moved out of the way first, so that none is overwritten while another one is put in its place.
    moved = [os.dup(one.fileno()) for one in sockets]
    high = [_above(descriptor, FIRST_DESCRIPTOR + len(moved)) for descriptor in moved]
    for place, descriptor in enumerate(high, FIRST_DESCRIPTOR):
        os.dup2(descriptor, place, inheritable=True)
        os.close(descriptor)
    environment["LISTEN_FDS"] = str(len(high))
    environment["LISTEN_PID"] = str(os.getpid())
    environment.pop("LISTEN_FDNAMES", None)


def for_part(environment: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """Return the sockets that the parent gave to this part."""
    numbers = environment.pop(PART_VARIABLE, "")
    return tuple(socket.socket(fileno=int(number)) for number in numbers.split(",") if number)


def store(sockets: Sequence[socket.socket]) -> None:
    """Let systemd keep the sockets over a restart of the unit, where it is one that does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, contextlib.suppress(OSError):
        notify.connect(name)
        words = f"FDSTORE=1\nFDNAME={STORED_NAME}".encode()
        socket.send_fds(notify, [words], [one.fileno() for one in sockets])


def trusted_networks(settings: "Settings") -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Return the proxies whose X-Forwarded-For is believed."""
    if not settings.listen.behind_proxy:
        return ()
    return tuple(ipaddress.ip_network(text) for text in settings.listen.trusted_proxies)


def gateway_limits(settings: "Settings") -> GatewayLimits:
    """Return the limits of every gateway process: as they are, but for the one that is a setting and those
    that this machine is too small for.
    """
    chosen = GatewayLimits(ring_bytes=settings.gateway.ring_mib << 20)
    return descriptors.fitted(chosen, descriptors.allowed())


def queue_limit() -> int | None:
    """Return the kernel's limit of a listening queue when it is below what we ask for, else None."""
    try:
        limit = int(SOMAXCONN.read_text())
    except (OSError, ValueError):
        return None
    return limit if limit < BACKLOG else None


def _opened(host: str, port: int) -> tuple[socket.socket, ...]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, _, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = port or (opened[0].getsockname()[1] if len(opened) > 1 else 0)
            one.bind((address[0], chosen, *address[2:]))
            one.setblocking(False)
            one.listen(BACKLOG)
    except OSError:
        for one in opened:
            one.close()
        raise
    if (limit := queue_limit()) is not None:
        log.get_logger().warning("listen.limited", somaxconn=limit, wanted=BACKLOG)
    return tuple(opened)


def _handed_over(environment: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    found: list[socket.socket] = []
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        os.set_inheritable(descriptor, False)
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=descriptor)
            one.setblocking(False)
            found.append(one)
    return tuple(found)


def _fits(one: socket.socket, host: str, port: int) -> bool:
    if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    if one.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    address, bound = one.getsockname()[:2]
    wanted = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return port in {0, bound} and any(each[4][0] == address for each in wanted)


def _above(descriptor: int, least: int) -> int:
    """Return the same open file under a number that is not below `least`."""
    kept: list[int] = []
    while descriptor < least:
        kept.append(descriptor)
        descriptor = os.dup(descriptor)
    for one in kept:
        os.close(one)
    return descriptor

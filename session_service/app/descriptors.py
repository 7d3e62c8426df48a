"""How many files and sockets a part may have open, and how many connections fit into that.

Not a setting: whoever starts us sets it (LimitNOFILE= in a unit, `ulimit -n`). A process begins with the soft
limit, 1,024 nearly everywhere, which some hundred idle connections of one stranger would use up: then nobody
could dial, and no desktop could be connected. Parts that carry connections take all that they are allowed;
the host and its desktops do not, because old programs count on the smaller number.
"""

import contextlib
import resource
from dataclasses import replace
from typing import Final

from session_service.gateway.limits import GatewayLimits

OWN: Final = 256
"""Of the part itself: the registry, calls to the others, uploads, downloads."""


def take_all() -> None:
    """Allow ourselves as many as we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox around us that says no
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def allowed() -> int:
    """Return how many this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def fitted(limits: GatewayLimits, descriptors: int) -> GatewayLimits:
    """Return limits at which connections are turned away before the descriptors for desktops are gone.

    A link has two, and one in the service where another process carries it. What is left over is for streams
    that wait for their client, one each.
    """
    if descriptors == resource.RLIM_INFINITY:
        return limits
    left = max(64, descriptors - OWN)
    return replace(
        limits,
        links_max=min(limits.links_max, left // 4),
        legs_max=min(limits.legs_max, left // 8),
        waiting_sockets_max=min(limits.waiting_sockets_max, left // 4),
        page_sockets_max=min(limits.page_sockets_max, left // 16),
    )

"""What a gateway process and the service tell each other, as plain data over `base/rpc`.

Not the ports: those stand in `ports/streams.py` and travel inside of these. The service is the callee; what
it says by itself goes as events of the one call `serve`, which lasts as long as the gateway process does.
"""

from typing import Literal

import msgspec

from session_service.gateway.stats import GatewayStats
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal, PlannedPause, ResumeOffer


class Serve(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway process is there."""

    shard: str
    process_id: int


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the service says to a gateway process.

    `welcome` comes first and names the origins; `close_link`, `end_stream` and `announce` are orders;
    `leave` = tell every link when to come back and take nothing new. `number` is given when it is sent, grows
    by one and is given back as `Heard`.
    """

    kind: Literal["welcome", "close_link", "end_stream", "announce", "leave"]
    number: int = 0
    session_id: str = ""
    link_id: str = ""
    code: int = 0
    why: str = ""
    by: str = ""
    origins: tuple[str, ...] = ()
    pause: PlannedPause | None = None
    """With `welcome` and `announce`: the pause that is planned now."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything up to `number` was done."""

    shard: str
    number: int


class Attach(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that came over a gateway process."""

    shard: str
    offer: LinkOffer


class ResumeAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A proof that came over a gateway process; the service checks it, since it alone has the secret."""

    shard: str
    offer: ResumeOffer


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the two."""

    attachment: Attachment | None = None
    refusal: LinkRefusal | None = None


class LinkNamed(msgspec.Struct, frozen=True, kw_only=True):
    """A link about which something is reported."""

    session_id: str
    link_id: str


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a gateway process as they are now."""

    shard: str
    stats: GatewayStats


class Passed(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="client"):
    """What goes with a socket that is handed on: who is at its other end, and what was read of it already."""

    peer: str
    head: bytes


class DesktopOf(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag="desktop"):
    """What goes with the connected socket of a desktop: the link that it was asked for."""

    link_id: str

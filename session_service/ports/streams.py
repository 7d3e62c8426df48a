"""Between control and gateway, both ways, as plain data: a gateway is told which desktop a ticket leads
to, and reports.

Control alone owns sessions; a gateway owns sockets and bytes. In one process today, callable over a
socket tomorrow: nothing here
carries a socket, a callback into the other's memory, or a live capability that is listed anywhere.
"""

from typing import Protocol

import msgspec

from session_service.core.continuity.messages import Resume


class LinkOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that wants a desktop. `mode` stands in the ticket, not here."""

    link_id: str
    ticket: str
    subprotocol: str
    """"binary" today; "continuity.v1" has resume as well."""
    address: str
    user_agent: str = ""
    in_path: bool = False
    """True when the ticket came in the path (stock clients); allowed by policy only."""


class ResumeOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A socket whose client has the key of a grant and wants its stream back (`continuity.v1`)."""

    link_id: str
    attempt: Resume
    challenge: str
    """What this socket was told to sign."""
    address: str
    user_agent: str = ""


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a link leads, once the commit is durable."""

    session_id: str
    generation: int
    mode: str
    socket: str
    uid: int | None
    """The desktop's uid: socket owner and peer must be it. None = our own uid."""
    hold_s: float
    device_label: str
    gap_s: float | None = None
    """Seconds since the loss that this attachment ended, for "You are back after ..."."""
    cause: str = "none"
    """Why its client was lost, a LossCause value; "none" when no loss was recorded (a link was replaced)."""
    grant: int = 0
    key: bytes | None = None
    """The key of that grant, for `opened` on a resumable control link; else None. Never logged."""
    soft_s: float | None = None
    """How long a lost client may be away and come back without a login; None: as long as the hold."""

    def __repr__(self) -> str:
        return f"Attachment(session_id={self.session_id!r}, mode={self.mode!r}, grant={self.grant})"


class LinkRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why not, with the way forward: code, why, next of gateway.md section 9.5."""

    code: int
    why: str
    next: str
    retry_ms: int | None = None
    by: str = ""
    saved_as_of_ms: int | None = None
    outcome: str = ""
    to: str | None = None
    """A path of the same origin, where the session is carried now; with `moved` only."""
    back_at_ms: int | None = None
    """When the service means to be back from a planned pause, UTC milliseconds."""
    note: str = ""
    """What people are told about that pause; plain text."""


class PlannedPause(msgspec.Struct, frozen=True, kw_only=True):
    """An announced pause of the service, for people: nothing is ever decided by these times."""

    begins_at_ms: int
    back_at_ms: int
    """UTC milliseconds, both."""
    note: str = ""


class LinkEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The canonical report of an ended link."""

    session_id: str
    link_id: str
    cause: str
    """A LossCause value; `taken_over` is reported too and changes nothing."""
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    close_code: int | None = None
    mode: str = ""
    subprotocol: str = ""
    address_class: str = ""
    """loopback, private, public4, public6 or unix: enough to see a pattern, too little to be somebody."""
    resumed: str = "no"
    """How it began: no (a ticket), replay or resync."""
    replayed_bytes: int = 0
    unacknowledged_bytes: int = 0
    """Kept for a replay when it ended."""
    acks_in: int = 0
    acks_out: int = 0
    stalls: int = 0
    """How often its client took bytes too slowly, so that the desktop was not read."""
    stalled_s: float = 0.0


class Attachments(Protocol):
    """What a gateway asks control."""

    async def attach(self, offer: LinkOffer) -> Attachment | LinkRefusal:
        """Use the ticket up and attach; the answer comes after the commit. An older control link is
        closed by `Streams.close_link`.
        """
        ...

    async def resume(self, offer: ResumeOffer) -> Attachment | LinkRefusal:
        """Check the proof and attach; the answer comes after the commit. The older link is closed by
        `Streams.close_link` before it; where the stream stands is to be read after it, not before.
        """
        ...

    def leave(self, session_id: str, link_id: str) -> None:
        """The user ended the session over its control link. Never blocks; anybody else's word changes
        nothing.
        """
        ...

    async def wait_starting(self, offer: LinkOffer) -> str:
        """Return the current progress word of a starting session ("starting", "restoring 40 %"), or ""
        when it is ready.
        """
        ...

    def ended(self, end: LinkEnd) -> None:
        """A link ended. Never blocks; an old link's end changes nothing."""
        ...

    def leg_lost(self, session_id: str, link_id: str) -> None:
        """The desktop's side of a link broke while the link lived."""
        ...


class Streams(Protocol):
    """What control asks a gateway."""

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None:
        """End one link with a code: read no more at once, close frame, reset after a second. Unknown is
        done.
        """
        ...

    def links(self, session_id: str) -> tuple[str, ...]:
        """Return the ids of the links that are open now."""
        ...

    def announce(self, pause: PlannedPause | None) -> None:
        """Tell every open link, and those to come, of a planned pause; None takes it back."""
        ...

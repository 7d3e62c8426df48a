"""A gateway without sockets: links that are open, and what each was closed with."""

from dataclasses import dataclass

from session_service.ports.streams import PlannedPause


@dataclass(frozen=True, slots=True)
class Closed:
    """How control ended a link."""

    session_id: str
    link_id: str
    code: int
    why: str
    by: str


class FakeStreams:
    """A `ports.streams.Streams`; a test opens and drops links."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        self.closed: list[Closed] = []
        self.announced: list[PlannedPause | None] = []

    def close_link(self, session_id: str, link_id: str, *, code: int, why: str, by: str = "") -> None:
        self.closed.append(Closed(session_id, link_id, code, why, by))
        self.open.pop(link_id, None)

    def announce(self, pause: PlannedPause | None) -> None:
        self.announced.append(pause)

    def links(self, session_id: str) -> tuple[str, ...]:
        return tuple(link for link, session in self.open.items() if session == session_id)

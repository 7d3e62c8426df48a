"""Routes of planned pauses: announced by an operator, told on every open link, shown to whoever waits.

Not the pause itself: nothing stops at these times by itself, and no client decides by them. They are words
for people, so that "reconnecting" becomes "back at 15:00". An announcement lives as long as the process;
pages remember it over the pause.
"""

from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from session_service.base import errors
from session_service.core.changes import Unit
from session_service.core.continuity.limits import NOTE_CHARACTERS_MAX
from session_service.http import access, audit
from session_service.http.answers import Answer, Instant
from session_service.http.asks import Ask
from session_service.http.instants import iso_or_none
from session_service.http.routes import API, Exchange, Reply, Route
from session_service.ports.streams import PlannedPause


class PauseAsk(Ask):
    """When the service pauses and when it means to be back."""

    begins_at: AwareDatetime | None = None
    """None: now."""
    back_at: AwareDatetime
    note: Annotated[str, Field(max_length=NOTE_CHARACTERS_MAX)] = ""


class PauseOut(Answer):
    """The pause that is announced; all null when there is none."""

    begins_at: Instant | None
    back_at: Instant | None
    note: str


async def read(exchange: Exchange) -> PauseOut:
    """Say which pause is announced."""
    return _shown(exchange.services.control.planned)


async def announce(exchange: Exchange) -> PauseOut:
    """Announce a pause, or another time for it."""
    ask = exchange.body(PauseAsk)
    now_ms = exchange.services.clock.wall_ms()
    begins_ms = now_ms if ask.begins_at is None else round(ask.begins_at.timestamp() * 1000)
    back_ms = round(ask.back_at.timestamp() * 1000)
    if back_ms <= max(now_ms, begins_ms):
        raise errors.BadInput("back_at lies in the future and after begins_at.", field="back_at")
    note = "".join(filter(str.isprintable, ask.note)).strip()
    pause = PlannedPause(begins_at_ms=begins_ms, back_at_ms=back_ms, note=note)
    written = audit.entry(exchange, "pause.announced", begins_ms=begins_ms, back_ms=back_ms, note=note)
    await exchange.services.registry.commit(Unit(audit=(written,)))
    exchange.services.control.announce(pause)
    return _shown(pause)


async def withdraw(exchange: Exchange) -> Reply:
    """Take the announcement back."""
    await exchange.services.registry.commit(Unit(audit=(audit.entry(exchange, "pause.withdrawn"),)))
    exchange.services.control.announce(None)
    return Reply(body=None)


def _shown(pause: PlannedPause | None) -> PauseOut:
    return PauseOut(
        begins_at=iso_or_none(None if pause is None else pause.begins_at_ms),
        back_at=iso_or_none(None if pause is None else pause.back_at_ms),
        note="" if pause is None else pause.note,
    )


ROUTES: Final = (
    Route(
        method="GET",
        path=f"{API}/pause",
        name="readPause",
        tag="upkeep",
        summary="The planned pause that is announced, for everybody who is signed in.",
        handler=read,
        access=access.READ,
        answer=PauseOut,
    ),
    Route(
        method="POST",
        path=f"{API}/pause",
        name="announcePause",
        tag="upkeep",
        summary="Announce a planned pause: every page says when the service is back.",
        handler=announce,
        access=access.OPERATE,
        body=PauseAsk,
        answer=PauseOut,
        idempotent=True,
    ),
    Route(
        method="DELETE",
        path=f"{API}/pause",
        name="withdrawPause",
        tag="upkeep",
        summary="Take the announcement of a pause back.",
        handler=withdraw,
        access=access.OPERATE,
        status=204,
    ),
)

"""Cases of the API that gives out tickets: portals in its place, lines cut, a busy service, an expired token.

Not the wire (`cases_lines.py`, `cases_words.py`). A client needs the API at two moments only, for its first
stream and after a login was asked for; at both it must neither give up for a portal nor hammer.
"""

import asyncio
from typing import Final

from session_service.conformance import rules
from session_service.conformance.casework import Book, Scene
from session_service.conformance.desk import Red
from session_service.conformance.doors import Door, refused
from session_service.core.close_codes import Close

book = Book()
PORTALS: Final = (
    (200, "<html>Sign in to this network.</html>"),
    (302, ""),
    (407, "Proxy authentication required"),
    (503, "Try later"),
)
EXPIRED: Final = Door(problem=(401, "sign_in_required"))
GONE: Final = Door(problem=(404, "not_found"))
BUSY: Final = Door(problem=(503, "part_unavailable"))
STORM_S: Final = 5.0
STORM_ASKS_MAX: Final = 25
ASKS_MAX: Final = 2
"""A client may try a token once more, or renew it; more often is a loop."""


async def _asked(scene: Scene, count: int, words: str, *, limit_s: float = 0.0) -> None:
    desk = scene.desk
    await desk.until(
        lambda: len(desk.ticket_asks) >= count, limit_s or scene.patience.back_s, f"{words} was not asked for"
    )


async def _is_told_to_its_user(scene: Scene, door: Door, why: str) -> None:
    """The next ask is refused for good: what follows is neither a loop nor a dial."""
    desk = scene.desk
    desk.ticket_doors.extend([door] * 1000)
    before, dials = len(desk.ticket_asks), len(desk.dials)
    limit_s = scene.patience.start_s if before == 0 else scene.patience.back_s
    await _asked(scene, before + 1, "a ticket", limit_s=limit_s)
    await asyncio.sleep(scene.patience.quiet_s)
    asks = len(desk.ticket_asks) - before
    if asks > ASKS_MAX:
        raise Red(f"asked for a ticket {asks} times in {scene.patience.quiet_s:g} s after {why}")
    if len(desk.dials) > dials:
        raise Red(f"dialled without a ticket after {why}")
    scene.check()


def _portal(status: int, body: str) -> None:
    async def script(scene: Scene) -> None:
        scene.desk.ticket_doors.extend([Door(http=(status, body))] * 2)
        await scene.begun()

    promise = f"A page ({status}) in place of the API's answer is the network: the ticket is asked for again."
    book.add(f"ticket_portal_{status}", script, rules.TICKETS, promise=promise)


for _status, _body in PORTALS:
    _portal(_status, _body)


@book.case(rules.TICKETS)
async def ticket_line_is_cut(scene: Scene) -> None:
    """A line that is cut while a ticket is asked for is the network: it is asked for again."""
    scene.desk.ticket_doors.extend([Door(resets=True)] * 2)
    await scene.begun()


@book.case(rules.TICKETS)
async def busy_api(scene: Scene) -> None:
    """A problem that may be tried again is tried again."""
    scene.desk.ticket_doors.extend([BUSY] * 2)
    await scene.begun()


@book.case(rules.TICKETS)
async def token_expired(scene: Scene) -> None:
    """When the API says that the token has expired, it is told and not asked again in a loop."""
    await _is_told_to_its_user(scene, EXPIRED, "its token had expired (401 sign_in_required)")


@book.case(rules.TICKETS)
async def session_is_gone(scene: Scene) -> None:
    """When the API knows no such session, it is told and not asked again in a loop."""
    await _is_told_to_its_user(scene, GONE, "the session was not found (404 not_found)")


@book.case(rules.TICKETS)
async def token_expired_at_a_login(scene: Scene) -> None:
    """When a login is asked for and the token has expired, the user must sign in: no loop, no dial."""
    await scene.begun()
    scene.desk.doors.append(refused(Close.LOGIN))
    scene.desk.cut()
    await scene.dialled(2)
    await _is_told_to_its_user(scene, EXPIRED, "its token had expired (401 sign_in_required)")


@book.case(rules.TICKETS)
async def portal_at_a_login(scene: Scene) -> None:
    """A portal in the API's place, when a login is asked for, costs neither key nor stream."""
    await scene.begun()
    scene.desk.ticket_doors.extend([Door(http=PORTALS[0])] * 2)
    scene.desk.doors.append(refused(Close.LOGIN))
    scene.desk.cut()
    await scene.back(2)
    await scene.goes_on()


@book.case(rules.PAUSES, is_long=True)
async def pauses_between_tickets(scene: Scene) -> None:
    """While the API cannot answer, a client asks more and more seldom: it neither hammers nor gives up."""
    desk = scene.desk
    desk.ticket_doors.extend([BUSY] * 1000)
    await _asked(scene, 2, "a second ticket", limit_s=scene.patience.start_s)
    before = len(desk.ticket_asks)
    await asyncio.sleep(STORM_S)
    asks = len(desk.ticket_asks) - before
    desk.ticket_doors.clear()
    if asks > STORM_ASKS_MAX:
        raise Red(f"asked for a ticket {asks} times in {STORM_S:g} s")
    await scene.begun()

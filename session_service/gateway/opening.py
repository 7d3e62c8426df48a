"""From a ticket to an open desktop: the only task in a link's life, over within milliseconds where the
desktop runs.

Not a decision: control uses the ticket up and says where it leads. It is never cancelled while control
commits, because a commit whose answer nobody takes would leave a session with a link that does not exist.
"""

import asyncio
import contextlib
import re
import socket
from typing import TYPE_CHECKING, Final

from session_service.core.close_codes import Close, Next
from session_service.gateway.hub import Hub
from session_service.gateway.leg import DesktopLeg, DesktopSocketRefused, open_desktop_socket
from session_service.ports.streams import Attachment, LinkOffer, LinkRefusal, ResumeOffer

if TYPE_CHECKING:
    from session_service.gateway.link import Link

_PROGRESS: Final = re.compile(r"(.*?)\s*(\d{1,3}) ?%")
RETRY_MS: Final = 1000


async def open_link(hub: Hub, link: "Link", offer: LinkOffer) -> None:
    """Wait for a starting session, attach, and connect the desktop; every failure is told to the client."""
    try:
        if not await _wait_started(hub, link, offer):
            return
        answer = await hub.attachments.attach(offer)
    except Exception as error:
        # The edge of this task: control failed in a way it has no words for. The ticket may be used, so a
        # new one is needed.
        hub.log.exception("task.failed", task="open-link", link_id=offer.link_id, error=type(error).__name__)
        link.refuse(_retry(Next.OPEN))
        return
    finally:
        if link.is_over() and not link.session_id:
            hub.links.pop(offer.link_id, None)
    if isinstance(answer, LinkRefusal):
        hub.links.pop(offer.link_id, None)
        link.refuse(answer)
        return
    await _open_leg(hub, link, answer)


async def resume_link(hub: Hub, link: "Link", offer: ResumeOffer) -> None:
    """Let control check the proof and attach; then the stream goes on, or a new leg is connected."""
    try:
        answer = await hub.attachments.resume(offer)
    except Exception as error:
        # The edge of this task: control failed in a way it has no words for. The proof is not used up.
        hub.log.exception(
            "task.failed", task="resume-link", link_id=offer.link_id, error=type(error).__name__
        )
        answer = _retry(Next.RESUME)
    finally:
        if link.is_over() and not link.session_id:
            hub.links.pop(offer.link_id, None)
    if isinstance(answer, LinkRefusal):
        hub.links.pop(offer.link_id, None)
        link.refuse(answer)
        return
    await _open_leg(hub, link, answer)


async def _wait_started(hub: Hub, link: "Link", offer: LinkOffer) -> bool:
    """Tell the client how far its session is; say whether anybody is still there when it is ready."""
    loop = asyncio.get_running_loop()
    told, told_at = "", loop.time()
    while not link.is_over():
        word = await hub.attachments.wait_starting(offer)
        if not word:
            return not link.is_over()
        if word != told or loop.time() - told_at >= hub.limits.wait_s - hub.limits.poll_s:
            told, told_at = word, loop.time()
            progress = _PROGRESS.fullmatch(word)
            link.tell_wait(progress[1] if progress else word, int(progress[2]) if progress else None)
        await asyncio.sleep(hub.limits.poll_s)
    return False


async def _open_leg(hub: Hub, link: "Link", attachment: Attachment) -> None:
    stream = link.attached(attachment)
    if stream is None:
        return
    try:
        leg = await _connected_leg(hub, attachment, link.link_id)
        if link.is_over():
            leg.abort()
        elif not leg.begin(stream):
            raise DesktopSocketRefused("closed at once")
    except Exception as error:
        # The edge of this task: without its desktop a link would stay attached to nothing.
        refused = isinstance(error, DesktopSocketRefused)
        if not (refused and link.is_over()):  # else it was closed meanwhile, and given none for that
            hub.log.error(
                "desktop.refused",
                session_id=attachment.session_id,
                link_id=link.link_id,
                reason=str(error) if refused else type(error).__name__,
                exc_info=not isinstance(error, DesktopSocketRefused | OSError),
            )
        hub.attachments.leg_lost(attachment.session_id, link.link_id)
        link.refuse(_retry(link.retry_step))


async def _connected_leg(hub: Hub, attachment: Attachment, link_id: str) -> DesktopLeg:
    if hub.desktops is None:
        connected = await open_desktop_socket(attachment.socket, attachment.uid, hub.limits)
    else:
        connected = await hub.desktops(attachment.session_id, link_id)
    leg = DesktopLeg(hub.limits, hub.ticker, connected)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: leg, sock=connected)
    except BaseException:
        with contextlib.suppress(OSError):  # uvloop has closed it where it had taken it over
            connected.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            connected.close()
        raise
    return leg


def _retry(step: Next) -> LinkRefusal:
    return LinkRefusal(code=Close.RETRY, why="retry", next=step, retry_ms=RETRY_MS)

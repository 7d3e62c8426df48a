"""Links that look on at a session beside the one that has control: who joins, and who is sent away.

Not attachments: they change no state, hold nothing up, and their end is no loss (`attachments.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from session_service.base.errors import Conflict
from session_service.base.ids import DeviceId
from session_service.control.parts import Parts
from session_service.control.sessions import Live
from session_service.core import limits, refusals
from session_service.core.changes import Unit, UseTicket
from session_service.core.close_codes import Close, Next
from session_service.core.continuity.failures import RETRY_MS
from session_service.core.records import AuditEntry, State, Ticket
from session_service.core.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewers:
    """Lets links look on at a session whose desktop is there."""

    parts: Parts

    async def join(self, live: Live, ticket: Ticket, link_id: str) -> Refusal | None:
        """Use the ticket up and count a link as one that looks on; None: it does.

        Returns:
            SIGNED_OUT also where every link was cut while the ticket was used up.

        Raises:
            RegistryUnavailable: nobody looks on.
        """
        if live.record.state not in (State.ACTIVE, State.HELD) or live.handle is None:
            return refusals.STARTING
        if len(live.viewers) >= limits.VIEWERS_PER_SESSION_MAX:
            return refusals.too_many(step=Next.OPEN, retry_ms=RETRY_MS)
        now_ms = self.parts.clock.wall_ms()
        audit = AuditEntry(
            kind="link.looked_on",
            actor=f"user:{ticket.user_id}",
            at_ms=now_ms,
            session_id=live.record.id,
            workspace_id=live.record.workspace_id,
            user_id=live.record.user_id,
            facts=(("mode", ticket.mode), ("device", ticket.device_label)),
        )
        live.viewers[link_id] = ticket.device_id
        attached = False
        try:
            await self.parts.registry.commit(
                Unit(writes=(UseTicket(hash=ticket.hash, now_ms=now_ms),), audit=(audit,))
            )
            attached = link_id in live.viewers
        except Conflict:
            return refusals.USED_TICKET
        finally:
            if not attached:
                live.viewers.pop(link_id, None)
        return None if attached else refusals.SIGNED_OUT

    def close(self, live: Live, device_ids: Callable[[DeviceId], bool]) -> int:
        """Close the links that look on from some devices; return how many."""
        found = sorted(link_id for link_id, device_id in live.viewers.items() if device_ids(device_id))
        for link_id in found:
            del live.viewers[link_id]
            self.parts.streams.close_link(live.record.id, link_id, code=Close.LOGIN, why="login")
        return len(found)

"""One-use tickets as control sees them: what is stored of one, and which one proves a login at a return.

Not their issue (`control/control.py`) and not their use, which is part of the transaction that attaches.
"""

import hashlib
from dataclasses import dataclass

from session_service.control.node import Node
from session_service.control.parts import Parts
from session_service.core.continuity.messages import Resume
from session_service.core.records import Session, State, Ticket


def hash_of(token: str) -> bytes:
    """Return what is stored of a ticket; the token itself is never kept."""
    return hashlib.sha256(b"session-service ticket 1\n" + token.encode("utf-8", "replace")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnLogin:
    """Whether a return needs a login, by policy, and what counts as one: a fresh ticket in the attempt."""

    parts: Parts
    node: Node

    def is_needed(self, record: Session) -> bool:
        """Say whether the policy wants a login for a return now. Whichever clock counted more decides: one
        that was set forward asks too often, never too rarely.
        """
        limit_s = self.parts.policy.reauthenticate_after_s
        if limit_s is None:
            return False
        away_ms = 0
        if record.state is State.HELD and record.hold is not None and record.lost_at_ms is not None:
            counted_ms = self.node.reading_ms() - record.hold.base_ms
            away_ms = max(counted_ms, self.parts.clock.wall_ms() - record.lost_at_ms)
        return away_ms >= limit_s * 1000

    async def ticket_of(self, record: Session, attempt: Resume) -> Ticket | None:
        """Return the unused ticket that proves a login of this session's user, if the attempt has one.

        Raises:
            RegistryUnavailable: nobody can say now.
        """
        if not attempt.ticket:
            return None
        ticket = await self.parts.registry.ticket(hash_of(attempt.ticket))
        if ticket is None or ticket.used_at_ms is not None or ticket.mode != "control":
            return None
        if (ticket.session_id, ticket.user_id) != (record.id, record.user_id):
            return None
        return ticket if self.parts.clock.wall_ms() < ticket.expires_at_ms else None

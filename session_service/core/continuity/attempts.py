"""Which attempt to resume is accepted: the order of the checks, and the highest number that each grant has
seen.

Not a commit: who passes here still has to be recorded, and is looked at once more in that moment, because a
newer attempt or a takeover may have come in between. Memory only: freshness is the challenge, so that nothing
about an attempt needs to be durable.

Source: docs/protocol.md, "The proof", order of checks.
"""

from dataclasses import replace

from session_service.core.close_codes import Close, Next
from session_service.core.continuity.messages import Resume
from session_service.core.continuity.proof import attempt_text, grant_key, is_signed, session_secret
from session_service.core.refusals import Refusal

NOT_FOUND = Refusal(code=Close.NOT_FOUND, why="not_found", next=Next.LOGIN)
"""One answer for an unknown session, somebody else's, and a bad proof; they cost the same time."""
PROOF_USED = Refusal(code=Close.PROOF_USED, why="proof_used", next=Next.CLICK)
TAKEN = Refusal(code=Close.TAKEN, why="taken", next=Next.CLICK)
LOGIN = Refusal(code=Close.LOGIN, why="login", next=Next.LOGIN)


def is_proved(service_secret: bytes, attempt: Resume, challenge: str) -> bool:
    """Say whether the key of the named session and grant signed exactly this attempt on this socket."""
    key = grant_key(session_secret(service_secret, attempt.session_id), attempt.session_id, attempt.grant)
    text = attempt_text(
        aud=attempt.aud,
        session_id=attempt.session_id,
        grant=attempt.grant,
        leg=attempt.leg,
        number=attempt.number,
        received=attempt.received,
        have=attempt.have,
        end=attempt.end,
        challenge=challenge,
    )
    return is_signed(key, text, attempt.mac)


class Order:
    """The highest number of an accepted proof, for the grant it came under. One per open session."""

    __slots__ = ("_grant", "_number")

    def __init__(self) -> None:
        self._grant = -1
        self._number = 0

    def admit(self, attempt: Resume, *, grant: int, cause: str, by: str) -> Refusal | None:
        """Note a proved attempt, or say why it may not attach: an older grant, or not the newest number."""
        refusal = _old_grant(attempt, grant, cause, by)
        if refusal is not None:
            return refusal
        if attempt.grant == self._grant and attempt.number <= self._number:
            return PROOF_USED
        self._grant, self._number = attempt.grant, attempt.number
        return None

    def still(self, attempt: Resume, *, grant: int, cause: str, by: str) -> Refusal | None:
        """Look once more, in the transaction that would record it."""
        refusal = _old_grant(attempt, grant, cause, by)
        if refusal is None and (attempt.grant, attempt.number) != (self._grant, self._number):
            return PROOF_USED
        return refusal


def _old_grant(attempt: Resume, grant: int, cause: str, by: str) -> Refusal | None:
    """An older key answers, so that its page knows what happened; one from the future proves a roll-back."""
    if attempt.grant == grant:
        return None
    return LOGIN if cause == "login" or attempt.grant > grant else replace(TAKEN, by=by)

"""Who does something, for the audit record. Not an account and not a permission: those were checked
before.
"""

from dataclasses import dataclass
from typing import Literal

from session_service.base.ids import UserId

ActorKind = Literal["user", "operator", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A user, an operator, or the service itself (`user_id` None)."""

    kind: ActorKind
    user_id: UserId | None
    name: str

    def __str__(self) -> str:
        """The form in which audit records name an actor: by id, since names change."""
        return self.kind if self.user_id is None else f"{self.kind}:{self.user_id}"


SYSTEM = Actor(kind="system", user_id=None, name="session-service")

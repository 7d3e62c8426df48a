"""Who acts: the one form in which a person or the service itself stands behind a change and in the audit.

Not a right: whether the actor may do it was decided before (`http/` for people, the table for the service).
"""

from dataclasses import dataclass
from typing import Literal

from session_service.base.ids import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """A user acting for themselves, an operator acting for others, or the service."""

    kind: Literal["user", "operator", "system"]
    user_id: UserId | None = None
    name: str = ""

    @property
    def audit_name(self) -> str:
        """The actor's text in audit records: `kind:id`, since names may change and ids may not."""
        return f"{self.kind}:{self.user_id or self.name or 'service'}"


SERVICE = Actor(kind="system", name="service")

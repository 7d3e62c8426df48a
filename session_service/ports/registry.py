"""The truth about sessions: a store that carries out units by compare-and-set and answers questions.

Adapters: SQLite (one writer thread), an in-memory twin for simulation; PostgreSQL follows behind the same
contract suite
(`tests/contract/test_registry.py`). An adapter knows nothing of the lifecycle.
"""

from collections.abc import Sequence
from typing import Protocol

from session_service.base.ids import NodeId, SessionId, UserId, WorkspaceId
from session_service.core.changes import Unit
from session_service.core.records import (
    ApiToken,
    AuditRecord,
    Desktop,
    EffectRecord,
    Idempotency,
    Lease,
    Node,
    Receipt,
    RegistryMark,
    Session,
    SignIn,
    State,
    Ticket,
    User,
    Workspace,
)


class Registry(Protocol):
    """Every read sees at least what this object's earlier commits wrote. Lists are ordered by id unless
    said.
    """

    async def commit(self, unit: Unit) -> None:
        """Carry out one unit; returns after it is durable. Units of 20 ms share a transaction.

        Raises:
            Conflict: a guard or an expected value did not hold; nothing of this unit was written. `facts`
            name it.
            RegistryUnavailable: not durable, or unknown whether it is: read the record, the generation
            decides.
        """
        ...

    async def session(self, session_id: SessionId) -> Session | None: ...

    async def sessions(
        self,
        *,
        states: frozenset[State] | None = None,
        user_id: UserId | None = None,
        workspace_id: WorkspaceId | None = None,
        after: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> Sequence[Session]:
        """Return sessions ordered by id (ids sort by creation), strictly after the id `after` in that
        order.
        """
        ...

    async def workspace(self, workspace_id: WorkspaceId) -> Workspace | None: ...

    async def workspaces(self, *, user_id: UserId | None = None) -> Sequence[Workspace]: ...

    async def lease(self, workspace_id: WorkspaceId) -> Lease | None: ...

    async def leases(self) -> Sequence[Lease]: ...

    async def desktop(self, workspace_id: WorkspaceId, fence: int) -> Desktop | None: ...

    async def desktops(self, node_id: NodeId) -> Sequence[Desktop]: ...

    async def node(self, node_id: NodeId) -> Node | None: ...

    async def nodes(self) -> Sequence[Node]: ...

    async def mark(self) -> RegistryMark: ...

    async def effects(self, session_id: SessionId | None = None) -> Sequence[EffectRecord]: ...

    async def ticket(self, hash: bytes) -> Ticket | None: ...

    async def user(self, user_id: UserId) -> User | None: ...

    async def user_by_name(self, name: str) -> User | None:
        """Find an account by name, without case."""
        ...

    async def users(self) -> Sequence[User]: ...

    async def sign_in(self, hash: bytes) -> SignIn | None: ...

    async def sign_ins(self, user_id: UserId) -> Sequence[SignIn]: ...

    async def api_token(self, hash: bytes) -> ApiToken | None: ...

    async def api_tokens(self, user_id: UserId | None = None) -> Sequence[ApiToken]: ...

    async def receipt(self, session_id: SessionId) -> Receipt | None: ...

    async def receipts(self, *, user_id: UserId | None = None, limit: int = 100) -> Sequence[Receipt]:
        """Return receipts, newest first."""
        ...

    async def idempotency(self, user_id: UserId, key: str) -> Idempotency | None: ...

    async def setting(self, name: str) -> bytes | None: ...

    async def audit(
        self,
        *,
        after: int = 0,
        limit: int = 1000,
        session_id: SessionId | None = None,
        newest_first: bool = False,
    ) -> Sequence[AuditRecord]:
        """Return audit records by number: after `after` ascending, or before it (0 = the end) descending."""
        ...

    async def verify_audit(self) -> int:
        """Recompute the whole chain; return the number of records. Raises AuditBroken with the first bad
        number.
        """
        ...

    async def backup(self, path: str) -> None:
        """Write a consistent copy to a new file, fsynced. Raises BadInput when the file exists."""
        ...

    async def close(self) -> None: ...

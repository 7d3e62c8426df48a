"""The in-memory twin of the registry: the same answers as SQLite, without a thread, a file or a clock.

For simulation and for tests of what stands on the registry; nothing is durable. Units that are committed in
one turn of the loop share a group, as units of 20 ms do in SQLite. It can be told to fail in every way in
which a real one fails: away, answer lost after the commit, last transaction lost, an old backup put in place.
"""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from session_service.base.errors import BadInput, Conflict, RegistryUnavailable
from session_service.base.ids import NodeId, SessionId, UserId, WorkspaceId
from session_service.core import audit_chain
from session_service.core.audit_chain import AuditHead
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
from session_service.registry.checks import check_unit, list_limit, name_key
from session_service.registry.memory_tables import MemoryTables, Rows, Undo

Row = TypeVar("Row")

TRANSACTIONS_KEPT: Final = 64
"""How many transactions can be lost at most; a simulation loses one or two."""


@dataclass(slots=True)
class _Waiting:
    unit: Unit
    answer: "asyncio.Future[None]"


class MemoryRegistry:
    """A `ports.registry.Registry` in memory, with hooks for a simulation (the methods after `close`)."""

    def __init__(self, *, system_id: str = "memory", epoch: int = 1) -> None:
        self._tables = MemoryTables(RegistryMark(epoch=epoch, system_id=system_id))
        self._waiting: list[_Waiting] = []
        self._history: deque[list[Undo]] = deque(maxlen=TRANSACTIONS_KEPT)
        self._backups: dict[str, Rows] = {}
        self._away = False
        self._paused = False
        self._refusals = 0
        self._lost_answers = 0
        self.transactions = 0
        """Groups that wrote something, for tests."""

    # -- the port -------------------------------------------------------------------------------------

    async def commit(self, unit: Unit) -> None:
        check_unit(unit)
        self._reachable()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(unit=unit, answer=loop.create_future())
        if self._waiting and self._waiting[0].answer.get_loop() is not loop:
            self._waiting.clear()  # their process is dead: a simulation goes on with a new loop
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(waiting)
        await waiting.answer

    async def session(self, session_id: SessionId) -> Session | None:
        return self._one(Session, "session", session_id)

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
        found = [
            row
            for row in self._all("session")
            if (states is None or row.state in states)
            and (user_id is None or row.user_id == user_id)
            and (workspace_id is None or row.workspace_id == workspace_id)
            and (after is None or (row.id < after if newest_first else row.id > after))
        ]
        return sorted(found, key=lambda row: str(row.id), reverse=newest_first)[: list_limit(limit)]

    async def workspace(self, workspace_id: WorkspaceId) -> Workspace | None:
        return self._one(Workspace, "workspace", workspace_id)

    async def workspaces(self, *, user_id: UserId | None = None) -> Sequence[Workspace]:
        return _by_id(r for r in self._all("workspace") if user_id in (None, r.user_id))

    async def lease(self, workspace_id: WorkspaceId) -> Lease | None:
        return self._one(Lease, "lease", workspace_id)

    async def leases(self) -> Sequence[Lease]:
        return sorted(self._all("lease"), key=lambda row: str(row.workspace_id))

    async def desktop(self, workspace_id: WorkspaceId, fence: int) -> Desktop | None:
        return self._one(Desktop, "desktop", (workspace_id, fence))

    async def desktops(self, node_id: NodeId) -> Sequence[Desktop]:
        found = [row for row in self._all("desktop") if row.node_id == node_id]
        return sorted(found, key=lambda row: (str(row.workspace_id), row.fence))

    async def node(self, node_id: NodeId) -> Node | None:
        return self._one(Node, "node", node_id)

    async def nodes(self) -> Sequence[Node]:
        return _by_id(self._all("node"))

    async def mark(self) -> RegistryMark:
        mark = self._one(RegistryMark, "mark", 1)
        assert mark is not None
        return mark

    async def effects(self, session_id: SessionId | None = None) -> Sequence[EffectRecord]:
        return _by_id(r for r in self._all("effect") if session_id in (None, r.session_id))

    async def ticket(self, hash: bytes) -> Ticket | None:
        return self._one(Ticket, "ticket", hash)

    async def user(self, user_id: UserId) -> User | None:
        return self._one(User, "account", user_id)

    async def user_by_name(self, name: str) -> User | None:
        wanted = name_key(name)
        return next((row for row in self._all("account") if name_key(row.name) == wanted), None)

    async def users(self) -> Sequence[User]:
        return _by_id(self._all("account"))

    async def sign_in(self, hash: bytes) -> SignIn | None:
        return self._one(SignIn, "sign_in", hash)

    async def sign_ins(self, user_id: UserId) -> Sequence[SignIn]:
        found = [row for row in self._all("sign_in") if row.user_id == user_id]
        return sorted(found, key=lambda row: (row.created_at_ms, row.hash))

    async def api_token(self, hash: bytes) -> ApiToken | None:
        return next((row for row in self._all("api_token") if row.hash == hash), None)

    async def api_tokens(self, user_id: UserId | None = None) -> Sequence[ApiToken]:
        return _by_id(r for r in self._all("api_token") if user_id in (None, r.user_id))

    async def receipt(self, session_id: SessionId) -> Receipt | None:
        return self._one(Receipt, "receipt", session_id)

    async def receipts(self, *, user_id: UserId | None = None, limit: int = 100) -> Sequence[Receipt]:
        found = [row for row in self._all("receipt") if user_id in (None, row.user_id)]
        found.sort(key=lambda row: (row.written_at_ms, str(row.session_id)), reverse=True)
        return found[: list_limit(limit)]

    async def idempotency(self, user_id: UserId, key: str) -> Idempotency | None:
        return self._one(Idempotency, "idempotency", (user_id, key))

    async def setting(self, name: str) -> bytes | None:
        return self._one(bytes, "setting", name)

    async def audit(
        self,
        *,
        after: int = 0,
        limit: int = 1000,
        session_id: SessionId | None = None,
        newest_first: bool = False,
    ) -> Sequence[AuditRecord]:
        found = [
            row
            for row in self._all("audit")
            if session_id in (None, row.entry.session_id)
            and (after == 0 or (row.seq < after if newest_first else row.seq > after))
        ]
        return sorted(found, key=lambda row: int(row.seq), reverse=newest_first)[: list_limit(limit)]

    async def verify_audit(self) -> int:
        records = sorted(self._all("audit"), key=lambda row: int(row.seq))
        return audit_chain.verify(records, end=self._one(AuditHead, "audit_head", 1)).seq

    async def backup(self, path: str) -> None:
        self._reachable()
        if path in self._backups:
            raise BadInput("the file exists already; choose a new name", field="path")
        self._backups[path] = self._tables.copy()

    async def close(self) -> None:
        self._flush()
        self._away = True

    # -- hooks of a simulation -------------------------------------------------------------------------

    def go_away(self) -> None:
        """Answer nothing from now on: every call raises RegistryUnavailable, nothing is written."""
        self._away = True

    def come_back(self) -> None:
        """Answer again."""
        self._away = False

    def refuse_commits(self, count: int = 1) -> None:
        """Let the next `count` units fail without being written."""
        self._refusals = count

    def lose_answers(self, count: int = 1) -> None:
        """Carry out the next `count` units and say RegistryUnavailable all the same."""
        self._lost_answers = count

    def pause(self) -> None:
        """Keep committed units waiting, unanswered, until `go_on`."""
        self._paused = True

    def go_on(self) -> None:
        """Carry out what waits as one group."""
        self._paused = False
        self._flush()

    def forget_waiting(self) -> None:
        """Drop units that wait unanswered, as when their process dies before it wrote them."""
        self._waiting.clear()

    def lose_transactions(self, count: int = 1) -> int:
        """Take the newest transactions back, as a fail-over does; return how many there were to lose.

        The mark is not changed: noticing it, and the new epoch, are the business of who stands on this.
        """
        lost = 0
        while lost < count and self._history:
            for undo in reversed(self._history.pop()):
                self._tables.take_back(undo)
            lost += 1
        return lost

    def restore(self, path: str, *, system_id: str = "restored") -> RegistryMark:
        """Put a backup in place as the restore command does: a higher epoch and a new system id."""
        epoch = max(self._tables.rows["mark"][1].epoch, self._backups[path]["mark"][1].epoch) + 1
        mark = RegistryMark(epoch=epoch, system_id=system_id)
        self._tables.rows = {name: dict(rows) for name, rows in self._backups[path].items()}
        self._tables.rows["mark"][1] = mark
        self._history.clear()
        return mark

    def empty(self, *, system_id: str = "emptied") -> None:
        """Lose everything, as when somebody deleted the file."""
        self._tables = MemoryTables(RegistryMark(epoch=1, system_id=system_id))
        self._history.clear()

    def edit(self, table: str, key: Any, **changes: Any) -> None:
        """Change one row behind everybody's back, as an editor of the file would."""
        self._tables.rows[table][key] = replace(self._tables.rows[table][key], **changes)

    # -- inside ----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._paused or not self._waiting:
            return
        group, self._waiting = self._waiting, []
        if self._away:
            for waiting in group:
                _answer(waiting, RegistryUnavailable(cause="away"))
            return
        undone: list[Undo] = []
        for waiting in sorted(group, key=lambda one: one.unit.rank):
            _answer(waiting, self._carry_out(waiting.unit, undone))
        if undone:
            self.transactions += 1
            self._history.append(undone)

    def _carry_out(self, unit: Unit, undone: list[Undo]) -> Exception | None:
        if self._refusals > 0:
            self._refusals -= 1
            return RegistryUnavailable(cause="refused")
        try:
            undo = self._tables.carry_out(unit)
        except (Conflict, BadInput) as refusal:
            return refusal
        if undo:
            undone.append(undo)
        if self._lost_answers > 0:
            self._lost_answers -= 1
            return RegistryUnavailable(cause="answer_lost")
        return None

    def _reachable(self) -> None:
        if self._away:
            raise RegistryUnavailable(cause="away")

    def _one(self, kind: type[Row], table: str, key: Hashable) -> Row | None:
        self._reachable()
        row = self._tables.rows[table].get(key)
        assert row is None or isinstance(row, kind), table
        return row

    def _all(self, table: str) -> list[Any]:
        self._reachable()
        return list(self._tables.rows[table].values())


def _by_id(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: str(row.id))


def _answer(waiting: _Waiting, error: Exception | None) -> None:
    if waiting.answer.done():  # its caller was cancelled; the unit stands all the same
        return
    if error is None:
        waiting.answer.set_result(None)
    else:
        waiting.answer.set_exception(error)

"""The rows of the in-memory twin, and how one unit is carried out on them so that it can be taken back.

No task, time or randomness: plain dictionaries of frozen records. Every change is noted with what was there
before, so a refused unit, and a transaction that a simulation wants lost, can be undone exactly.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Final, assert_never

from session_service.core import audit_chain
from session_service.core.changes import (
    AddEffect,
    AddIdempotency,
    AddReceipt,
    AddTicket,
    CounterReached,
    EffectDone,
    EffectFailed,
    EpochIs,
    ForgetDesktop,
    ForgetSignIns,
    Guard,
    LeaseIs,
    PutApiToken,
    PutDesktop,
    PutLease,
    PutMark,
    PutNode,
    PutSession,
    PutSetting,
    PutSignIn,
    PutUser,
    PutWorkspace,
    SessionIs,
    Tick,
    Unit,
    UseTicket,
    Write,
)
from session_service.core.records import NodeState, RegistryMark, State
from session_service.registry.checks import (
    EFFECT_ERROR_CHARS_MAX,
    IDEMPOTENCY_KEPT_MS,
    IMMUTABLE,
    SIGN_IN_KEPT_MS,
    TICKET_KEPT_MS,
    Reason,
    name_key,
    opened_workspaces,
    refused,
)

TABLES: Final = (
    "session",
    "workspace",
    "lease",
    "desktop",
    "node",
    "mark",
    "effect",
    "ticket",
    "account",
    "sign_in",
    "api_token",
    "receipt",
    "idempotency",
    "setting",
    "audit",
    "audit_head",
)
_ABSENT: Final = object()

Undo = list[tuple[str, Hashable, object]]
Rows = dict[str, dict[Any, Any]]


class MemoryTables:
    """All rows of one registry. Not safe for threads; the twin uses it from one loop."""

    def __init__(self, mark: RegistryMark) -> None:
        self.rows: Rows = {name: {} for name in TABLES}
        self.rows["mark"][1] = mark
        self.rows["audit_head"][1] = audit_chain.EMPTY
        self._undo: Undo = []

    def carry_out(self, unit: Unit) -> Undo:
        """Carry out one unit and return how to undo it; on a Conflict nothing has changed."""
        self._undo = []
        try:
            # Its own tick first: an expiry carries the tick that makes it due (lifecycle.md 4.3).
            for write in unit.writes:
                if isinstance(write, Tick):
                    self._tick(write)
            for guard in unit.guards:
                self._look(guard)
            for write in unit.writes:
                if not isinstance(write, Tick):
                    self._write(write)
            for workspace_id in opened_workspaces(unit):
                self._one_open_session(workspace_id)
            for entry in unit.audit:
                record = audit_chain.append(self.rows["audit_head"][1], entry)
                self._put("audit", record.seq, record)
                self._put("audit_head", 1, audit_chain.head_of(record))
        except BaseException:
            self.take_back(self._undo)
            raise
        return self._undo

    def take_back(self, undo: Undo) -> None:
        """Undo what a unit did; the newest unit first."""
        for table, key, before in reversed(undo):
            if before is _ABSENT:
                del self.rows[table][key]
            else:
                self.rows[table][key] = before

    def copy(self) -> Rows:
        """Return the rows as they are now; records are frozen, so this is a whole backup."""
        return {name: dict(rows) for name, rows in self.rows.items()}

    def _put(self, table: str, key: Hashable, value: object) -> None:
        self._undo.append((table, key, self.rows[table].get(key, _ABSENT)))
        self.rows[table][key] = value

    def _forget(self, table: str, key: Hashable) -> None:
        if key in self.rows[table]:
            self._undo.append((table, key, self.rows[table].pop(key)))

    def _forget_where(self, table: str, unwanted: Callable[[Any], bool]) -> None:
        for key in [key for key, row in self.rows[table].items() if unwanted(row)]:
            self._forget(table, key)

    def _look(self, guard: Guard) -> None:
        match guard:
            case CounterReached(node_id=node_id, at_ms=at_ms):
                node = self.rows["node"].get(node_id)
                if node is None or node.count_ms < at_ms:
                    found = None if node is None else node.count_ms
                    raise refused("CounterReached", Reason.NOT_REACHED, id=node_id, found=found)
            case SessionIs(session_id=session_id, generation=generation, loss_epoch=loss_epoch):
                session = self.rows["session"].get(session_id)
                if session is None:
                    raise refused("SessionIs", Reason.ABSENT, id=session_id)
                if session.generation != generation:
                    raise refused("SessionIs", Reason.GENERATION, id=session_id, found=session.generation)
                if session.loss_epoch != loss_epoch:
                    raise refused("SessionIs", Reason.LOSS_EPOCH, id=session_id, found=session.loss_epoch)
            case LeaseIs(workspace_id=workspace_id, node_id=node_id, fence=fence):
                lease = self.rows["lease"].get(workspace_id)
                if lease is None:
                    raise refused("LeaseIs", Reason.ABSENT, id=workspace_id)
                if lease.session_id is None or lease.node_id != node_id or lease.fence != fence:
                    raise refused("LeaseIs", Reason.OTHER_OWNER, id=workspace_id, found=lease.fence)
            case EpochIs(epoch=epoch):
                found = self.rows["mark"][1].epoch
                if found != epoch:
                    raise refused("EpochIs", Reason.EPOCH, found=found)
            case _:
                assert_never(guard)

    def _write(self, write: Write) -> None:
        match write:
            case PutSession() | PutLease() | PutWorkspace() | PutUser():
                self._replace(write)
            case PutDesktop(desktop=desktop):
                self._put("desktop", (desktop.workspace_id, desktop.fence), desktop)
            case ForgetDesktop(workspace_id=workspace_id, fence=fence):
                self._forget("desktop", (workspace_id, fence))
            case AddEffect(effect=effect):
                if effect.id not in self.rows["effect"]:
                    self._put("effect", effect.id, effect)
            case EffectDone(effect_id=effect_id):
                self._forget("effect", effect_id)
            case EffectFailed(effect_id=effect_id, error=error):
                old = self.rows["effect"].get(effect_id)
                if old is not None:
                    text = error[:EFFECT_ERROR_CHARS_MAX]
                    self._put("effect", effect_id, replace(old, attempts=old.attempts + 1, last_error=text))
            case PutNode() | PutMark():
                self._replace_node_or_mark(write)
            case AddTicket() | UseTicket():
                self._ticket(write)
            case PutSignIn() | ForgetSignIns() | PutApiToken():
                self._sign_in(write)
            case AddReceipt(receipt=receipt):
                if receipt.session_id not in self.rows["receipt"]:
                    self._put("receipt", receipt.session_id, receipt)
            case AddIdempotency(entry=entry):
                old_ms = entry.created_at_ms - IDEMPOTENCY_KEPT_MS
                self._forget_where("idempotency", lambda row: row.created_at_ms < old_ms)
                if (entry.user_id, entry.key) in self.rows["idempotency"]:
                    raise refused("AddIdempotency", Reason.EXISTS)
                self._put("idempotency", (entry.user_id, entry.key), entry)
            case PutSetting(name=name, value=value, expected=expected):
                if self.rows["setting"].get(name) != expected:
                    raise refused("PutSetting", Reason.VALUE, id=name)
                self._put("setting", name, value)
            case Tick():
                self._tick(write)
            case _:
                assert_never(write)

    def _replace(self, write: PutSession | PutLease | PutWorkspace | PutUser) -> None:
        what = type(write).__name__
        table, key, new = _named(write)
        old = self.rows[table].get(key)
        if write.expected is None:
            if old is not None:
                raise refused(what, Reason.EXISTS, id=key, found=old.generation)
        elif old is None:
            raise refused(what, Reason.ABSENT, id=key)
        elif old.generation != write.expected:
            raise refused(what, Reason.GENERATION, id=key, found=old.generation)
        if table == "session" and any(old and getattr(old, n) != getattr(new, n) for n in IMMUTABLE):
            raise refused(what, Reason.IMMUTABLE, id=key)
        if table == "lease" and old is not None and new.fence < old.fence:
            raise refused(what, Reason.FENCE_BACKWARDS, id=key, found=old.fence)
        if table in ("workspace", "account"):
            self._name_is_free(table, new)
        self._put(table, key, new)

    def _name_is_free(self, table: str, new: Any) -> None:
        wanted = name_key(new.name)
        for row in self.rows[table].values():
            same_scope = table == "account" or row.user_id == new.user_id
            if same_scope and row.id != new.id and name_key(row.name) == wanted:
                what = "PutUser" if table == "account" else "PutWorkspace"
                raise refused(what, Reason.NAME_TAKEN, field="name")

    def _one_open_session(self, workspace_id: str) -> None:
        count = sum(
            row.workspace_id == workspace_id and row.state is not State.CLOSED
            for row in self.rows["session"].values()
        )
        if count > 1:
            raise refused("PutSession", Reason.SECOND_SESSION, id=workspace_id)

    def _replace_node_or_mark(self, write: PutNode | PutMark) -> None:
        if isinstance(write, PutMark):
            found = self.rows["mark"][1].epoch
            if found != write.expected:
                raise refused("PutMark", Reason.EPOCH, found=found)
            self._put("mark", 1, write.mark)
            return
        node, expected = write.node, write.expected_incarnation
        old = self.rows["node"].get(node.id)
        if expected is None:
            if old is not None:
                raise refused("PutNode", Reason.EXISTS, id=node.id, found=old.incarnation)
        elif old is None:
            raise refused("PutNode", Reason.ABSENT, id=node.id)
        elif old.incarnation != expected:
            raise refused("PutNode", Reason.INCARNATION, id=node.id, found=old.incarnation)
        self._put("node", node.id, node)

    def _tick(self, write: Tick) -> None:
        node = self.rows["node"].get(write.node_id)
        if node is None:
            raise refused("Tick", Reason.ABSENT, id=write.node_id)
        if node.incarnation != write.incarnation:
            raise refused("Tick", Reason.INCARNATION, id=node.id, found=node.incarnation)
        if node.beat != write.beat:
            raise refused("Tick", Reason.BEAT, id=node.id, found=node.beat)
        if node.state is not NodeState.UP:
            raise refused("Tick", Reason.NODE_NOT_UP, id=node.id)
        if node.count_ms > write.count_ms:
            raise refused("Tick", Reason.COUNT_BACKWARDS, id=node.id, found=node.count_ms)
        self._put("node", node.id, replace(node, beat=node.beat + 1, count_ms=write.count_ms))

    def _ticket(self, write: AddTicket | UseTicket) -> None:
        tickets = self.rows["ticket"]
        if isinstance(write, UseTicket):
            used = tickets.get(write.hash)
            if used is None:
                raise refused("UseTicket", Reason.ABSENT)
            if used.used_at_ms is not None:
                raise refused("UseTicket", Reason.USED)
            if write.now_ms >= used.expires_at_ms:
                raise refused("UseTicket", Reason.EXPIRED)
            self._put("ticket", write.hash, replace(used, used_at_ms=write.now_ms))
            return
        new = write.ticket
        self._forget_where("ticket", lambda row: row.expires_at_ms < new.created_at_ms - TICKET_KEPT_MS)
        if new.hash in tickets:
            raise refused("AddTicket", Reason.EXISTS)
        for old in list(tickets.values()):
            same = old.session_id == new.session_id and old.device_id == new.device_id
            if same and old.mode == new.mode == "control" and old.used_at_ms is None:
                self._put("ticket", old.hash, replace(old, used_at_ms=new.created_at_ms))
        self._put("ticket", new.hash, new)

    def _sign_in(self, write: PutSignIn | ForgetSignIns | PutApiToken) -> None:
        match write:
            case PutSignIn(sign_in=new):
                old_ms = new.last_seen_ms - SIGN_IN_KEPT_MS
                self._forget_where(
                    "sign_in", lambda row: row.user_id == new.user_id and row.expires_at_ms < old_ms
                )
                self._put("sign_in", new.hash, new)
            case ForgetSignIns(hash=hash_, user_id=user_id):
                known = self.rows["sign_in"].get(hash_)
                if known is not None:
                    self._forget_tickets(known.user_id, known.device_id)
                elif hash_ is None and user_id is not None:
                    self._forget_tickets(user_id, None)
                self._forget_where(
                    "sign_in", lambda row: row.hash == hash_ if hash_ is not None else row.user_id == user_id
                )
            case PutApiToken(token=token):
                for row in self.rows["api_token"].values():
                    if row.hash == token.hash and row.id != token.id:
                        raise refused("PutApiToken", Reason.EXISTS, id=row.id)
                self._put("api_token", token.id, token)
                if token.revoked_at_ms is not None:
                    self._forget_tickets(token.user_id, token.id)

    def _forget_tickets(self, user_id: str, device_id: str | None) -> None:
        """Whoever is signed out has nothing left to come back with."""
        self._forget_where(
            "ticket",
            lambda row: (
                row.user_id == user_id and device_id in (None, row.device_id) and row.used_at_ms is None
            ),
        )


def _named(write: PutSession | PutLease | PutWorkspace | PutUser) -> tuple[str, str, Any]:
    match write:
        case PutSession(session=session):
            return "session", session.id, session
        case PutLease(lease=lease):
            return "lease", lease.workspace_id, lease
        case PutWorkspace(workspace=workspace):
            return "workspace", workspace.id, workspace
        case PutUser(user=user):
            return "account", user.id, user
        case _:
            assert_never(write)

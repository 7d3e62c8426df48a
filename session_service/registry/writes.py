"""One unit on SQLite: its guards, writes and audit records, inside a transaction that the writer has begun.

Each compare-and-set is one statement whose WHERE names what was expected; only when it changed nothing is the
row read, to say what was found. The lifecycle is not known here, and nothing is retried.
"""

from collections.abc import Mapping
from typing import Any, assert_never

import apsw

from session_service.base.errors import Conflict
from session_service.core import audit_chain
from session_service.core.audit_chain import AuditHead
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
from session_service.core.records import NodeState
from session_service.registry import rows as codec
from session_service.registry.checks import (
    EFFECT_ERROR_CHARS_MAX,
    IDEMPOTENCY_KEPT_MS,
    IMMUTABLE,
    SIGN_IN_KEPT_MS,
    TICKET_KEPT_MS,
    Reason,
    opened_workspaces,
    refused,
)
from session_service.registry.connection import row
from session_service.registry.statements import statements


class Transaction:
    """What the units of one group share: the connection, and the end of the audit chain as they extend it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._sql = statements()
        head = self._row("audit_head", {})
        assert head is not None
        self._kept = self._head = codec.head_from(head)

    def carry_out(self, unit: Unit) -> None:
        """Carry out one unit in a savepoint; a Conflict leaves nothing of it.

        Raises:
            Conflict: a guard or an expected value did not hold.
            apsw.Error: the whole transaction is lost.
        """
        self._connection.execute("SAVEPOINT unit")
        head: AuditHead | None = None
        try:
            head = self._apply(unit)
        finally:
            # A full disk may have ended the whole transaction already; then nothing is left to undo.
            if head is None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO unit")
                self._connection.execute("RELEASE unit")
        self._connection.execute("RELEASE unit")
        self._head = head

    def finish(self) -> None:
        """Write the end of the audit chain; the caller commits."""
        if self._head != self._kept:
            self._change("put_audit_head", {"seq": self._head.seq, "hash": self._head.hash})

    def _apply(self, unit: Unit) -> AuditHead:
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
            counted = self._row("open_sessions", {"workspace_id": workspace_id})
            if counted is not None and counted["count"] > 1:
                raise refused("PutSession", Reason.SECOND_SESSION, id=workspace_id)
        head = self._head
        for entry in unit.audit:
            record = audit_chain.append(head, entry)
            self._change("add_audit", codec.audit_row(record))
            head = audit_chain.head_of(record)
        return head

    def _row(self, name: str, bindings: Mapping[str, Any]) -> dict[str, Any] | None:
        return row(self._connection, self._sql[name], bindings)

    def _change(self, name: str, bindings: dict[str, Any]) -> int:
        self._connection.execute(self._sql[name], bindings)
        return self._connection.changes()

    def _look(self, guard: Guard) -> None:
        match guard:
            case CounterReached(node_id=node_id, at_ms=at_ms):
                node = self._row("node", {"id": node_id})
                if node is None or node["count_ms"] < at_ms:
                    found = None if node is None else node["count_ms"]
                    raise refused("CounterReached", Reason.NOT_REACHED, id=node_id, found=found)
            case SessionIs(session_id=session_id, generation=generation, loss_epoch=loss_epoch):
                session = self._row("session", {"id": session_id})
                if session is None:
                    raise refused("SessionIs", Reason.ABSENT, id=session_id)
                if (found := session["generation"]) != generation:
                    raise refused("SessionIs", Reason.GENERATION, id=session_id, found=found)
                if (found := session["loss_epoch"]) != loss_epoch:
                    raise refused("SessionIs", Reason.LOSS_EPOCH, id=session_id, found=found)
            case LeaseIs(workspace_id=workspace_id, node_id=node_id, fence=fence):
                lease = self._row("lease", {"workspace_id": workspace_id})
                if lease is None:
                    raise refused("LeaseIs", Reason.ABSENT, id=workspace_id)
                if (lease["node_id"], lease["fence"]) != (node_id, fence) or lease["session_id"] is None:
                    raise refused("LeaseIs", Reason.OTHER_OWNER, id=workspace_id, found=lease["fence"])
            case EpochIs(epoch=epoch):
                mark = self._row("mark", {})
                assert mark is not None
                if mark["epoch"] != epoch:
                    raise refused("EpochIs", Reason.EPOCH, found=mark["epoch"])
            case _:
                assert_never(guard)

    def _write(self, write: Write) -> None:
        match write:
            case PutSession(session=session, expected=expected):
                self._replace("session", "PutSession", codec.session_row(session), expected)
            case PutLease(lease=lease, expected=expected):
                self._replace("lease", "PutLease", codec.lease_row(lease), expected, key="workspace_id")
            case PutWorkspace(workspace=workspace, expected=expected):
                self._replace("workspace", "PutWorkspace", codec.flat_row(workspace), expected)
            case PutUser(user=user, expected=expected):
                self._replace("account", "PutUser", codec.flat_row(user), expected)
            case PutDesktop(desktop=desktop):
                self._change("put_desktop", codec.flat_row(desktop))
            case ForgetDesktop(workspace_id=workspace_id, fence=fence):
                self._change("forget_desktop", {"workspace_id": workspace_id, "fence": fence})
            case AddEffect(effect=effect):
                self._change("add_effect", codec.flat_row(effect))
            case EffectDone(effect_id=effect_id):
                self._change("effect_done", {"id": effect_id})
            case EffectFailed(effect_id=effect_id, error=error):
                self._change("effect_failed", {"id": effect_id, "error": error[:EFFECT_ERROR_CHARS_MAX]})
            case PutNode() | PutMark():
                self._node_or_mark(write)
            case AddTicket() | UseTicket():
                self._ticket(write)
            case PutSignIn() | ForgetSignIns() | PutApiToken():
                self._sign_in(write)
            case AddReceipt(receipt=receipt):
                self._change("add_receipt", codec.flat_row(receipt))
            case AddIdempotency(entry=entry):
                self._change(
                    "forget_old_idempotency", {"before_ms": entry.created_at_ms - IDEMPOTENCY_KEPT_MS}
                )
                if not self._change("add_idempotency", codec.flat_row(entry)):
                    raise refused("AddIdempotency", Reason.EXISTS)
            case PutSetting(name=name, value=value, expected=before):
                statement = "insert_setting" if before is None else "update_setting"
                if not self._change(statement, {"name": name, "value": value, "expected": before}):
                    raise refused("PutSetting", Reason.VALUE, id=name)
            case Tick():
                self._tick(write)
            case _:
                assert_never(write)

    def _replace(
        self, table: str, what: str, values: dict[str, Any], expected: int | None, *, key: str = "id"
    ) -> None:
        if "name_key" in values and self._row(f"{table}_named", self._name_scope(table, values)) is not None:
            if (refusal := self._why_not(table, what, values, expected, key=key)) is not None:
                raise refusal
            raise refused(what, Reason.NAME_TAKEN, field="name")
        if expected is None:
            changed = self._change(f"insert_{table}", values)
        else:
            changed = self._change(f"update_{table}", {**values, "expected": expected})
        if not changed:
            refusal = self._why_not(table, what, values, expected, key=key)
            assert refusal is not None, what
            raise refusal

    def _name_scope(self, table: str, values: dict[str, Any]) -> dict[str, Any]:
        names = ("id", "name_key") if table == "account" else ("id", "name_key", "user_id")
        return {name: values[name] for name in names}

    def _why_not(
        self, table: str, what: str, values: dict[str, Any], expected: int | None, *, key: str
    ) -> Conflict | None:
        found = self._row(table, {key: values[key]})
        if expected is None:
            if found is None:
                return None
            return refused(what, Reason.EXISTS, id=values[key], found=found["generation"])
        if found is None:
            return refused(what, Reason.ABSENT, id=values[key])
        if found["generation"] != expected:
            return refused(what, Reason.GENERATION, id=values[key], found=found["generation"])
        if table == "session" and any(found[name] != values[name] for name in IMMUTABLE):
            return refused(what, Reason.IMMUTABLE, id=values[key])
        if table == "lease" and found["fence"] > values["fence"]:
            return refused(what, Reason.FENCE_BACKWARDS, id=values[key], found=found["fence"])
        return None

    def _node_or_mark(self, write: PutNode | PutMark) -> None:
        if isinstance(write, PutMark):
            if not self._change("put_mark", {**codec.flat_row(write.mark), "expected": write.expected}):
                mark = self._row("mark", {})
                raise refused("PutMark", Reason.EPOCH, found=None if mark is None else mark["epoch"])
            return
        values, expected = codec.flat_row(write.node), write.expected_incarnation
        if expected is None:
            changed = self._change("insert_node", values)
        else:
            changed = self._change("update_node", {**values, "expected": expected})
        if changed:
            return
        found = self._row("node", {"id": write.node.id})
        if found is None:
            raise refused("PutNode", Reason.ABSENT, id=write.node.id)
        reason = Reason.EXISTS if expected is None else Reason.INCARNATION
        raise refused("PutNode", reason, id=write.node.id, found=found["incarnation"])

    def _tick(self, write: Tick) -> None:
        values = {
            "id": write.node_id,
            "incarnation": write.incarnation,
            "beat": write.beat,
            "count_ms": write.count_ms,
        }
        if self._change("tick", values):
            return
        node = self._row("node", {"id": write.node_id})
        if node is None:
            raise refused("Tick", Reason.ABSENT, id=write.node_id)
        if node["incarnation"] != write.incarnation:
            raise refused("Tick", Reason.INCARNATION, id=write.node_id, found=node["incarnation"])
        if node["beat"] != write.beat:
            raise refused("Tick", Reason.BEAT, id=write.node_id, found=node["beat"])
        if node["state"] != NodeState.UP:
            raise refused("Tick", Reason.NODE_NOT_UP, id=write.node_id)
        raise refused("Tick", Reason.COUNT_BACKWARDS, id=write.node_id, found=node["count_ms"])

    def _ticket(self, write: AddTicket | UseTicket) -> None:
        if isinstance(write, UseTicket):
            if self._change("use_ticket", {"hash": write.hash, "now_ms": write.now_ms}):
                return
            found = self._row("ticket", {"hash": write.hash})
            if found is None:
                raise refused("UseTicket", Reason.ABSENT)
            raise refused("UseTicket", Reason.USED if found["used_at_ms"] is not None else Reason.EXPIRED)
        new = write.ticket
        self._change("forget_old_tickets", {"before_ms": new.created_at_ms - TICKET_KEPT_MS})
        if new.mode == "control":
            self._change(
                "use_older_tickets",
                {"session_id": new.session_id, "device_id": new.device_id, "now_ms": new.created_at_ms},
            )
        if not self._change("add_ticket", codec.flat_row(new)):
            raise refused("AddTicket", Reason.EXISTS)

    def _sign_in(self, write: PutSignIn | ForgetSignIns | PutApiToken) -> None:
        match write:
            case PutSignIn(sign_in=new):
                before_ms = new.last_seen_ms - SIGN_IN_KEPT_MS
                self._change("forget_old_sign_ins", {"user_id": new.user_id, "before_ms": before_ms})
                self._change("put_sign_in", codec.flat_row(new))
            case ForgetSignIns(hash=bytes() as hash_):
                if (known := self._row("sign_in", {"hash": hash_})) is not None:
                    device = {"user_id": known["user_id"], "device_id": known["device_id"]}
                    self._change("forget_tickets_of_device", device)
                self._change("forget_sign_in", {"hash": hash_})
            case ForgetSignIns(user_id=user_id):
                self._change("forget_tickets_of_user", {"user_id": user_id})
                self._change("forget_sign_ins", {"user_id": user_id})
            case PutApiToken(token=token):
                other = self._row("api_token_hashed", {"hash": token.hash, "id": token.id})
                if other is not None:
                    raise refused("PutApiToken", Reason.EXISTS, id=other["id"])
                self._change("put_api_token", codec.token_row(token))
                if token.revoked_at_ms is not None:
                    device = {"user_id": token.user_id, "device_id": token.id}
                    self._change("forget_tickets_of_device", device)

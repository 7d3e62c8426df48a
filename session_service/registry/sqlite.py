"""The registry on one SQLite file: opening it, handing units to the writer, asking the readers.

Not the SQL and not the rules of a session. One file, one service (a lock says so), one writer thread, two
readers. A unit is answered when it is on the disk; a read sees everything that was answered before it.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import apsw

from session_service.base import log
from session_service.base.errors import BadInput, RegistryUnavailable
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
from session_service.registry import rows as codec
from session_service.registry.backups import RESTORING, copy_to
from session_service.registry.checks import check_unit, list_limit, name_key
from session_service.registry.connection import SQLITE_NEEDED, open_connection, quick_check, unavailable
from session_service.registry.lock import take_lock
from session_service.registry.migrations import Migration, known_migrations, migrate
from session_service.registry.reads import Readers, verify_chain
from session_service.registry.writer import Waiting, Writer

FILE_NAME: Final = "registry.sqlite"
"""The registry's file inside `Layout.registry`."""


class SqliteRegistry:
    """A `ports.registry.Registry` on one file. Made by `open`, on the loop that will use it."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._batch: list[Waiting] = []
        self._writer = Writer(path, self._loop)
        self._readers = Readers(path)
        self._slow = Readers(path, threads=1)
        """For what takes long (verify, backup), so that short questions do not wait for it."""
        self._writer.start()

    @classmethod
    async def open(cls, path: Path, *, migrations: Sequence[Migration] | None = None) -> Self:
        """Open or make the registry file, bring its schema up to date, and check it.

        Raises:
            RegistryUnavailable: in use, damaged, of a newer release, not writable, or an unfinished restore;
                the text says what to do.
        """
        lock = take_lock(path)
        try:
            known = known_migrations() if migrations is None else migrations
            names = await asyncio.to_thread(_prepare, path, known)
        except BaseException:
            os.close(lock)
            raise
        logger = log.get_logger()
        if names:
            logger.info("registry.migrated", path=str(path), migrations=names)
        logger.info("registry.opened", path=str(path), sqlite=apsw.sqlite_lib_version())
        return cls(path, lock)

    # -- the port -------------------------------------------------------------------------------------

    async def commit(self, unit: Unit) -> None:
        check_unit(unit)
        assert asyncio.get_running_loop() is self._loop, "a registry belongs to one loop"
        waiting = Waiting(unit=unit, answer=self._loop.create_future())
        if not self._batch:
            # Units of one turn of the loop arrive together, so that their ranks decide and not their order.
            self._loop.call_soon(self._hand_in)
        self._batch.append(waiting)
        await waiting.answer

    async def session(self, session_id: SessionId) -> Session | None:
        return await self._readers.one("session", {"id": session_id}, codec.session_from)

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
        wanted: dict[str, Any] = {"limit": list_limit(limit)}
        conditions = []
        if states is not None:
            names = sorted(state.value for state in states)
            wanted |= {f"state{number}": name for number, name in enumerate(names)}
            conditions.append(f"state IN ({', '.join(f':state{number}' for number in range(len(names)))})")
        for column, value in (("user_id", user_id), ("workspace_id", workspace_id)):
            if value is not None:
                wanted[column] = value
                conditions.append(f"{column} = :{column}")
        if after is not None:
            wanted["after"] = after
            conditions.append("id < :after" if newest_first else "id > :after")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "DESC" if newest_first else "ASC"
        sql = f"SELECT * FROM session{where} ORDER BY id {order} LIMIT :limit"  # noqa: S608 - fixed words only
        return await self._readers.found(sql, wanted, codec.session_from)

    async def workspace(self, workspace_id: WorkspaceId) -> Workspace | None:
        return await self._readers.one("workspace", {"id": workspace_id}, codec.workspace_from)

    async def workspaces(self, *, user_id: UserId | None = None) -> Sequence[Workspace]:
        name = "workspaces" if user_id is None else "workspaces_of_user"
        return await self._readers.many(name, {"user_id": user_id}, codec.workspace_from)

    async def lease(self, workspace_id: WorkspaceId) -> Lease | None:
        return await self._readers.one("lease", {"workspace_id": workspace_id}, codec.lease_from)

    async def leases(self) -> Sequence[Lease]:
        return await self._readers.many("leases", {}, codec.lease_from)

    async def desktop(self, workspace_id: WorkspaceId, fence: int) -> Desktop | None:
        keys = {"workspace_id": workspace_id, "fence": fence}
        return await self._readers.one("desktop", keys, codec.desktop_from)

    async def desktops(self, node_id: NodeId) -> Sequence[Desktop]:
        return await self._readers.many("desktops", {"node_id": node_id}, codec.desktop_from)

    async def node(self, node_id: NodeId) -> Node | None:
        return await self._readers.one("node", {"id": node_id}, codec.node_from)

    async def nodes(self) -> Sequence[Node]:
        return await self._readers.many("nodes", {}, codec.node_from)

    async def mark(self) -> RegistryMark:
        mark = await self._readers.one("mark", {}, codec.mark_from)
        assert mark is not None, "the first migration writes the mark"
        return mark

    async def effects(self, session_id: SessionId | None = None) -> Sequence[EffectRecord]:
        name = "effects" if session_id is None else "effects_of_session"
        return await self._readers.many(name, {"session_id": session_id}, codec.effect_from)

    async def ticket(self, hash: bytes) -> Ticket | None:
        return await self._readers.one("ticket", {"hash": hash}, codec.ticket_from)

    async def user(self, user_id: UserId) -> User | None:
        return await self._readers.one("account", {"id": user_id}, codec.user_from)

    async def user_by_name(self, name: str) -> User | None:
        return await self._readers.one("account_by_name", {"name_key": name_key(name)}, codec.user_from)

    async def users(self) -> Sequence[User]:
        return await self._readers.many("accounts", {}, codec.user_from)

    async def sign_in(self, hash: bytes) -> SignIn | None:
        return await self._readers.one("sign_in", {"hash": hash}, codec.sign_in_from)

    async def sign_ins(self, user_id: UserId) -> Sequence[SignIn]:
        return await self._readers.many("sign_ins", {"user_id": user_id}, codec.sign_in_from)

    async def api_token(self, hash: bytes) -> ApiToken | None:
        return await self._readers.one("api_token", {"hash": hash}, codec.token_from)

    async def api_tokens(self, user_id: UserId | None = None) -> Sequence[ApiToken]:
        name = "api_tokens" if user_id is None else "api_tokens_of_user"
        return await self._readers.many(name, {"user_id": user_id}, codec.token_from)

    async def receipt(self, session_id: SessionId) -> Receipt | None:
        return await self._readers.one("receipt", {"session_id": session_id}, codec.receipt_from)

    async def receipts(self, *, user_id: UserId | None = None, limit: int = 100) -> Sequence[Receipt]:
        name = "receipts" if user_id is None else "receipts_of_user"
        wanted = {"user_id": user_id, "limit": list_limit(limit)}
        return await self._readers.many(name, wanted, codec.receipt_from)

    async def idempotency(self, user_id: UserId, key: str) -> Idempotency | None:
        keys = {"user_id": user_id, "key": key}
        return await self._readers.one("idempotency", keys, codec.idempotency_from)

    async def setting(self, name: str) -> bytes | None:
        return await self._readers.one("setting", {"name": name}, lambda row: bytes(row["value"]))

    async def audit(
        self,
        *,
        after: int = 0,
        limit: int = 1000,
        session_id: SessionId | None = None,
        newest_first: bool = False,
    ) -> Sequence[AuditRecord]:
        name = "audit" if session_id is None else "audit_of_session"
        wanted: dict[str, Any] = {"session_id": session_id, "limit": list_limit(limit)}
        if newest_first:
            name, wanted["before"] = f"{name}_down", after or (1 << 63) - 1
        else:
            name, wanted["after"] = f"{name}_up", after
        return await self._readers.many(name, wanted, codec.audit_from)

    async def verify_audit(self) -> int:
        return await self._slow.ask(verify_chain)

    async def backup(self, path: str) -> None:
        try:
            await self._slow.ask(lambda connection: copy_to(connection, Path(path)))
        except OSError as exc:
            raise BadInput(f"The backup cannot be written: {exc}", field="path", path=path) from exc
        log.get_logger().info("registry.backed_up", path=path)

    async def close(self) -> None:
        self._hand_in()
        # Readers first: the last connection to close removes the WAL, and may be none that only reads.
        await self._readers.close()
        await self._slow.close()
        await self._writer.stop()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _hand_in(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._writer.hand_in(batch)


def _prepare(path: Path, migrations: Sequence[Migration]) -> tuple[str, ...]:
    """Make the file if there is none, check it and apply migrations; return the names of the new ones."""
    assert sqlite_version() >= SQLITE_NEEDED
    if not path.exists() and path.with_name(path.name + RESTORING).exists():
        raise RegistryUnavailable(
            "A restore was interrupted and the registry is not in place. Run the restore again.",
            cause="restore_interrupted",
            path=str(path),
        )
    try:
        # Made here with its rights, so that SQLite and its WAL never make one that others may read.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = open_connection(path, writes=True)
        try:
            if found := quick_check(connection):
                raise apsw.CorruptError(found)
            return migrate(connection, migrations)
        finally:
            connection.close()
    except apsw.Error as exc:
        raise unavailable(exc, path=path) from exc
    except OSError as exc:
        raise RegistryUnavailable(
            f"The registry's file cannot be opened: {exc}", cause="not_writable", path=str(path)
        ) from exc


def sqlite_version() -> tuple[int, ...]:
    """Return the version of the SQLite library that is in use, such as (3, 54, 1)."""
    return tuple(int(part) for part in apsw.sqlite_lib_version().split("."))

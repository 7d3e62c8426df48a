"""How this adapter opens SQLite, and what SQLite's failures mean to the rest of the service.

Not a pool and not a retry: the writer and the readers own their connections. Why apsw: its SQLite is new
enough (3.7.0 to 3.51.2 can lose a WAL when it is reset) and it hides no transaction. synchronous=FULL,
because an answer means "durable"; no automatic checkpoints, because they would stop a group in the middle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import apsw

from session_service.base.errors import RegistryUnavailable

BUSY_MS: Final = 2000
"""How long a statement waits for another process's lock before the registry counts as unavailable."""
CACHE_KIB: Final = 16 << 10
"""Page cache of one connection."""
SQLITE_NEEDED: Final = (3, 51, 3)
"""The first release without the WAL-reset bug."""
APPLICATION_ID: Final = 0x5353_5631
""""SSV1": what `file` and a restore recognise a registry by."""

Bindings = Mapping[str, Any]


def open_connection(path: Path, *, writes: bool) -> apsw.Connection:
    """Open an existing registry file; it is never created here, an absent file is a failure.

    Raises:
        apsw.Error: as SQLite says; the caller turns it into RegistryUnavailable.
    """
    flags = apsw.SQLITE_OPEN_READWRITE if writes else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW)
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA trusted_schema = OFF")
        if writes:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA foreign_keys = ON")
        else:
            connection.execute("PRAGMA query_only = ON")
    except apsw.Error:
        connection.close()
        raise
    return connection


def rows(connection: apsw.Connection, sql: str, bindings: Bindings | None = None) -> list[dict[str, Any]]:
    """Return every row by column name."""
    cursor = connection.execute(sql, dict(bindings) if bindings else None)
    try:
        names = [column[0] for column in cursor.get_description()]
    except apsw.ExecutionCompleteError:
        return []
    return [dict(zip(names, row, strict=True)) for row in cursor]


def row(connection: apsw.Connection, sql: str, bindings: Bindings) -> dict[str, Any] | None:
    """Return the one row, or None."""
    found = rows(connection, sql, bindings)
    assert len(found) <= 1, sql
    return found[0] if found else None


def quick_check(connection: apsw.Connection) -> str:
    """Return what SQLite finds wrong with the file, or an empty text."""
    found = [str(line[0]) for line in connection.execute("PRAGMA quick_check(3)")]
    return "" if found == ["ok"] else "; ".join(found)[:500]


def unavailable(error: apsw.Error, *, path: Path) -> RegistryUnavailable:
    """Return what an operator has to know about a failure of SQLite: the cause, and what to do."""
    cause, advice = _meaning(error)
    return RegistryUnavailable(
        f"The registry cannot be used: {advice} ({error})", cause=cause, path=str(path)
    )


def breaks_connection(error: apsw.Error) -> bool:
    """Say whether a connection must not be used again: after a failed fsync a descriptor proves nothing."""
    return not isinstance(error, apsw.FullError | apsw.BusyError | apsw.LockedError | apsw.ConstraintError)


def _meaning(error: apsw.Error) -> tuple[str, str]:
    match error:
        case apsw.FullError():
            return "disk_full", "its disk is full. Free some space; the service goes on by itself."
        case apsw.BusyError() | apsw.LockedError():
            return (
                "locked",
                "another program holds its file. End that program; the service goes on by itself.",
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return "damaged", "its file is damaged. Stop the service and restore the newest backup."
        case apsw.IOError():
            return "disk_error", "its disk fails or is full. Free space or replace the disk."
        case apsw.CantOpenError() | apsw.PermissionsError() | apsw.ReadOnlyError() | apsw.AuthError():
            return "not_writable", "its file is missing or may not be written. Correct the folder's owner."
        case _:
            return "sqlite", "SQLite refuses. Run `session-service doctor`."

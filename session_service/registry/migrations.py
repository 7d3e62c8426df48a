"""Numbered changes of the schema, each applied once; a file of a newer release is refused, never guessed at.

Two kinds: a *pre* migration only adds, and the last release still runs on the result; a *post* migration may
take away what only the last release needed, and says in `schema_reader` which release is the oldest that may
still use the file. So an upgrade can be undone until its post migration has run.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import apsw

from session_service.base.errors import RegistryUnavailable
from session_service.registry.connection import APPLICATION_ID

_FILE: Final = re.compile(r"^(\d{4})_([a-z0-9_]+)\.(pre|post)\.sql$")
_BOOTSTRAP: Final = """
CREATE TABLE IF NOT EXISTS migration (
    name TEXT PRIMARY KEY NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schema_reader (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    oldest INTEGER NOT NULL
) STRICT;
INSERT INTO schema_reader (only, oldest) VALUES (1, 0) ON CONFLICT (only) DO NOTHING;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `sql/`."""

    number: int
    kind: str
    """pre or post."""
    name: str
    sql: str


def known_migrations() -> tuple[Migration, ...]:
    """Return the migrations of this release, in the order in which they are applied."""
    entries = (files("session_service.registry") / "sql").iterdir()
    found = (
        Migration(number=int(parts[1]), kind=parts[3], name=entry.name, sql=entry.read_text(encoding="utf-8"))
        for entry in entries
        if (parts := _FILE.match(entry.name)) is not None
    )
    # pre before post of the same number
    return tuple(sorted(found, key=lambda one: (one.number, one.kind != "pre")))


def migrate(
    connection: apsw.Connection,
    migrations: Sequence[Migration],
    *,
    kinds: frozenset[str] = frozenset({"pre"}),
) -> tuple[str, ...]:
    """Apply what is not applied yet, all in one transaction, and return the names. Nothing to do is no write.

    Raises:
        RegistryUnavailable: the file belongs to a newer release, or an applied migration was changed since.
    """
    refuse_newer(connection, migrations)
    done = applied(connection)
    wanted = [one for one in migrations if one.kind in kinds and one.name not in done]
    for one in migrations:
        if one.name in done and done[one.name] != _sha256(one):
            raise RegistryUnavailable(
                f"The migration {one.name} is not the one this registry was made with."
                " Install the release again.",
                cause="migration_changed",
            )
    if not wanted:
        return ()
    with connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(_BOOTSTRAP)
        for one in wanted:
            connection.execute(one.sql)
            connection.execute(
                "INSERT INTO migration (name, number, kind, sha256, applied_at_ms)"
                " VALUES (?, ?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
                (one.name, one.number, one.kind, _sha256(one)),
            )
    return tuple(one.name for one in wanted)


def refuse_newer(connection: apsw.Connection, migrations: Sequence[Migration]) -> None:
    """Raise RegistryUnavailable when only a newer release may use this file."""
    if not _has_tables(connection):
        return
    newest = max((one.number for one in migrations), default=0)
    oldest = int(connection.execute("SELECT oldest FROM schema_reader").get or 0)
    if oldest > newest:
        raise RegistryUnavailable(
            f"This registry was changed by a newer release (schema {oldest}; this release knows {newest})."
            " Start the newer release, or restore a backup that was made before the upgrade.",
            cause="newer_schema",
            found=oldest,
            known=newest,
        )


def applied(connection: apsw.Connection) -> dict[str, str]:
    """Return the applied migrations and the hash of what was applied."""
    if not _has_tables(connection):
        return {}
    return {
        str(name): str(digest) for name, digest in connection.execute("SELECT name, sha256 FROM migration")
    }


def _has_tables(connection: apsw.Connection) -> bool:
    sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('migration', 'schema_reader')"
    return bool(connection.execute(sql).get == 2)


def _sha256(migration: Migration) -> str:
    return hashlib.sha256(migration.sql.encode()).hexdigest()

"""Backup and restore of a registry file, and the check that both stand on.

Not a schedule and not a command: `cli` asks, `app` says where. A backup is one consistent file made while the
service works. A restore is done with the service stopped; it proves the backup first, gives the registry a
new epoch and system id (so that every owner settles before anything destructive, lifecycle.md 8.5), and keeps
the old file beside it: a restore can be undone by hand.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

import apsw

from session_service.base.errors import BadInput, RegistryUnavailable
from session_service.core.changes import PutMark, Rank, Unit
from session_service.core.records import AuditEntry, RegistryMark
from session_service.registry import rows as codec
from session_service.registry.connection import (
    APPLICATION_ID,
    open_connection,
    quick_check,
    row,
    unavailable,
)
from session_service.registry.lock import hold_lock
from session_service.registry.migrations import known_migrations, migrate, refuse_newer
from session_service.registry.reads import verify_chain
from session_service.registry.statements import statements
from session_service.registry.writes import Transaction

RESTORING: Final = ".restoring"
"""Ending of the file that a restore prepares. While it lies beside no registry, no empty one is made."""
BEFORE: Final = ".before-restore"
"""Ending of the file that a restore replaced, with a number."""


def copy_to(source: apsw.Connection, target: Path) -> None:
    """Copy a registry to a new file, whole or not at all: fsynced, checked, then named.

    Raises:
        BadInput: the file exists, or its folder does not.
        apsw.Error: reading or writing failed; the target does not exist.
    """
    if target.exists():
        raise BadInput("The file exists already; a backup never overwrites.", field="path", path=str(target))
    if not target.parent.is_dir():
        raise BadInput("The folder of the file does not exist.", field="path", path=str(target.parent))
    partial = target.with_name(target.name + ".partial")
    try:
        _copy(source, partial)
        os.rename(partial, target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_backup(path: Path) -> int:
    """Prove that a file is a whole registry with an unbroken audit chain; return the number of audit records.

    Raises:
        BadInput: it is not a registry.
        RegistryUnavailable: it is damaged, or belongs to a newer release.
        AuditBroken: an audit record was changed or removed.
    """
    if not path.is_file():
        raise BadInput("There is no such file.", field="path", path=str(path))
    try:
        connection = apsw.Connection(f"file:{_quoted(path)}?immutable=1", flags=_READ_URI)
        try:
            if connection.pragma("application_id") != APPLICATION_ID:
                raise BadInput("This file is not a registry.", field="path", path=str(path))
            if found := quick_check(connection):
                raise RegistryUnavailable(f"The backup is damaged: {found}", cause="damaged", path=str(path))
            refuse_newer(connection, known_migrations())
            return verify_chain(connection)
        finally:
            connection.close()
    except apsw.NotADBError as exc:
        raise BadInput("This file is not a registry.", field="path", path=str(path)) from exc
    except apsw.Error as exc:
        raise unavailable(exc, path=path) from exc


def restore(*, backup: Path, registry: Path, system_id: str, actor: str, at_ms: int) -> RegistryMark:
    """Put a checked backup in place of a registry whose service is stopped; return the new mark.

    The epoch becomes one more than the greater of the backup's and the replaced file's: a number that any
    desktop may already carry would prove nothing. Repeating after an interruption is safe.

    Raises:
        BadInput, AuditBroken: as `check_backup`.
        RegistryUnavailable: damaged or newer, the service runs, or the disk fails; the old file is in place,
            or kept beside it with the ending `.before-restore-N`.
    """
    check_backup(backup)
    try:
        with hold_lock(registry):
            replaced = _greatest_epoch(registry)
            prepared = registry.with_name(registry.name + RESTORING)
            for stale in _family(prepared):
                stale.unlink(missing_ok=True)
            source = apsw.Connection(f"file:{_quoted(backup)}?immutable=1", flags=_READ_URI)
            try:
                _copy(source, prepared)
            finally:
                source.close()
            mark = _new_epoch(prepared, replaced=replaced, system_id=system_id, actor=actor, at_ms=at_ms)
            _set_aside(registry)
            os.rename(prepared, registry)
            _sync(registry.parent)
            return mark
    except apsw.Error as exc:
        raise unavailable(exc, path=registry) from exc
    except OSError as exc:
        raise RegistryUnavailable(
            f"The restore failed: {exc}", cause="disk_error", path=str(registry)
        ) from exc


_READ_URI: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


def _copy(source: apsw.Connection, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    copy = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        with copy.backup("main", source, "main") as work:
            work.step(-1)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, no WAL beside it
        if found := quick_check(copy):
            raise apsw.CorruptError(found)
    finally:
        copy.close()
    _sync(target)


def _new_epoch(path: Path, *, replaced: int, system_id: str, actor: str, at_ms: int) -> RegistryMark:
    connection = open_connection(path, writes=True)
    try:
        migrate(connection, known_migrations())
        found = row(connection, statements()["mark"], {})
        assert found is not None
        before = codec.mark_from(found)
        mark = RegistryMark(epoch=max(before.epoch, replaced) + 1, system_id=system_id)
        facts = (("epoch_of_backup", before.epoch), ("epoch_replaced", replaced), ("epoch", mark.epoch))
        unit = Unit(
            rank=Rank.OTHER,
            writes=(PutMark(mark=mark, expected=before.epoch),),
            audit=(AuditEntry(kind="registry.restored", actor=actor, at_ms=at_ms, facts=facts),),
        )
        with connection:
            transaction = Transaction(connection)
            transaction.carry_out(unit)
            transaction.finish()
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    _sync(path)
    return mark


def _greatest_epoch(registry: Path) -> int:
    """Return the greatest epoch of the file to be replaced and of what earlier restores left; 0 without any.

    The file's WAL is copied back on the way, so that it can be set aside as one file.
    """
    prepared = registry.with_name(registry.name + RESTORING)
    older = sorted(registry.parent.glob(f"{registry.name}{BEFORE}-*"))
    return max(_epoch_of(path) for path in (registry, prepared, *older))


def _epoch_of(path: Path) -> int:
    if not path.is_file() or path.name.endswith(("-wal", "-shm", "-journal")):
        return 0
    with contextlib.suppress(apsw.Error):  # a damaged file is the usual reason for a restore
        connection = open_connection(path, writes=True)
        try:
            found = row(connection, statements()["mark"], {})
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return 0 if found is None else int(found["epoch"])
        finally:
            connection.close()
    return 0


def _set_aside(registry: Path) -> None:
    number = 1
    while (aside := registry.with_name(f"{registry.name}{BEFORE}-{number}")).exists():
        number += 1
    for member in _family(registry):
        if member.exists():
            os.rename(member, aside.with_name(aside.name + member.name[len(registry.name) :]))
    _sync(registry.parent)


def _family(path: Path) -> tuple[Path, ...]:
    """The file and what SQLite keeps beside it; the file first, so that it is never seen without its WAL."""
    return tuple(path.with_name(path.name + ending) for ending in ("", "-wal", "-shm", "-journal"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    return text.replace("%", "%25").replace("?", "%3f").replace("#", "%23")

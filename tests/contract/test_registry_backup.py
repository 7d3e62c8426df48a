"""Backup and restore of the SQLite registry: whole copies, proved before use, and a new epoch after."""

import asyncio
from pathlib import Path

import apsw
import pytest

from session_service.base.errors import AuditBroken, BadInput, RegistryUnavailable, SessionError
from session_service.core.changes import PutMark, PutSetting, Unit
from session_service.core.records import RegistryMark
from session_service.registry import backups
from session_service.registry.backups import RESTORING, check_backup, restore
from session_service.registry.sqlite import FILE_NAME, SqliteRegistry
from tests.contract.registry_world import a_session, an_entry, with_session, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


@pytest.fixture
async def backup(path: Path, tmp_path: Path) -> Path:
    """A backup with session S1, of a registry that has gone on to session S2."""
    registry = await SqliteRegistry.open(path)
    await with_session(registry, a_session("S1"))
    await write(registry, audit=(an_entry(), an_entry()))
    await registry.backup(str(tmp_path / "backup"))
    await with_session(registry, a_session("S2"))
    await registry.close()
    return tmp_path / "backup"


def put_back(backup: Path, path: Path) -> RegistryMark:
    return restore(backup=backup, registry=path, system_id="restored", actor="operator", at_ms=5)


async def sessions(path: Path) -> list[str]:
    registry = await SqliteRegistry.open(path)
    try:
        await registry.verify_audit()
        return [one.id for one in await registry.sessions()]
    finally:
        await registry.close()


async def test_a_backup_made_under_load_is_whole(path: Path, tmp_path: Path) -> None:
    registry = await SqliteRegistry.open(path)

    async def load() -> None:
        for number in range(200):
            halves = [PutSetting(name=f"{half}{number}", value=b"x" * 500, expected=None) for half in "ab"]
            await registry.commit(Unit(writes=tuple(halves), audit=(an_entry(),)))

    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        for number in range(3):
            group.create_task(registry.backup(str(tmp_path / f"backup {number}")))
    await registry.close()
    for number in range(3):
        copy = tmp_path / f"backup {number}"
        records = check_backup(copy)
        connection = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.execute("SELECT count(*) FROM setting").get == 2 * records
        connection.close()
        assert not list(tmp_path.glob(f"{copy.name}?*"))


async def test_a_backup_never_overwrites_and_names_what_is_wrong(path: Path, tmp_path: Path) -> None:
    registry = await SqliteRegistry.open(path)
    (tmp_path / "precious").write_bytes(b"holiday")
    for target in (tmp_path / "precious", tmp_path / "no such folder" / "backup"):
        with pytest.raises(BadInput):
            await registry.backup(str(target))
    await registry.close()
    assert (tmp_path / "precious").read_bytes() == b"holiday"


async def test_a_restore_goes_back_with_a_new_epoch_and_keeps_the_old_file(path: Path, backup: Path) -> None:
    mark = put_back(backup, path)
    assert mark == RegistryMark(epoch=2, system_id="restored")
    registry = await SqliteRegistry.open(path)
    assert await registry.mark() == mark
    (record,) = await registry.audit(newest_first=True, limit=1)
    assert (record.seq, record.entry.kind, record.entry.actor) == (3, "registry.restored", "operator")
    await registry.close()
    assert await sessions(path) == ["S1"]
    assert await sessions(path.with_name(f"{FILE_NAME}.before-restore-1")) == ["S1", "S2"]


async def test_the_new_epoch_is_above_that_of_the_replaced_file_too(path: Path, backup: Path) -> None:
    """Desktops may carry the replaced registry's epoch; the same number again would prove nothing."""
    registry = await SqliteRegistry.open(path)
    await write(registry, PutMark(mark=RegistryMark(epoch=7, system_id="x"), expected=1))
    await registry.close()
    assert put_back(backup, path).epoch == 8
    assert put_back(backup, path).epoch == 9


async def test_a_restore_without_a_registry_makes_one(path: Path, backup: Path) -> None:
    path.unlink()
    assert put_back(backup, path).epoch == 2
    assert await sessions(path) == ["S1"]


async def test_a_damaged_registry_can_be_replaced_and_is_kept(path: Path, backup: Path) -> None:
    path.write_bytes(b"\xff" * 10_000)
    assert put_back(backup, path).epoch == 2
    assert await sessions(path) == ["S1"]
    assert path.with_name(f"{FILE_NAME}.before-restore-1").read_bytes() == b"\xff" * 10_000


async def test_a_restore_under_a_running_service_is_refused(path: Path, backup: Path) -> None:
    registry = await SqliteRegistry.open(path)
    with pytest.raises(RegistryUnavailable) as caught:
        put_back(backup, path)
    assert caught.value.facts["cause"] == "locked"
    assert len(await registry.sessions()) == 2
    await registry.close()


def no_file(backup: Path) -> None:
    backup.unlink()


def a_letter(backup: Path) -> None:
    backup.write_bytes(b"Dear bank, " * 1000)


def another_database(backup: Path) -> None:
    backup.unlink()
    connection = apsw.Connection(str(backup))
    connection.execute("CREATE TABLE recipe (name TEXT)")
    connection.close()


def cut_short(backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[: 30 * 4096])


def edited(backup: Path) -> None:
    connection = apsw.Connection(str(backup))
    connection.execute("UPDATE audit SET actor = 'somebody' WHERE seq = 1")
    connection.close()


def newer(backup: Path) -> None:
    connection = apsw.Connection(str(backup))
    connection.execute("UPDATE schema_reader SET oldest = 99")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (no_file, BadInput),
        (a_letter, BadInput),
        (another_database, BadInput),
        (cut_short, RegistryUnavailable),
        (edited, AuditBroken),
        (newer, RegistryUnavailable),
    ],
)
async def test_a_backup_that_is_not_whole_is_refused_and_nothing_changes(
    path: Path, backup: Path, spoil: object, error: type[SessionError]
) -> None:
    assert callable(spoil)
    spoil(backup)
    with pytest.raises(error):
        put_back(backup, path)
    assert await sessions(path) == ["S1", "S2"]
    assert not list(path.parent.glob("*restor*"))


async def test_an_interrupted_restore_never_becomes_an_empty_registry(
    path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes between setting the old file aside and putting the new one in place."""

    def power_goes(registry: Path) -> None:
        aside(registry)
        raise KeyboardInterrupt

    aside = backups._set_aside
    monkeypatch.setattr(backups, "_set_aside", power_goes)
    with pytest.raises(KeyboardInterrupt):
        put_back(backup, path)
    assert path.with_name(FILE_NAME + RESTORING).exists()
    with pytest.raises(RegistryUnavailable) as caught:
        await SqliteRegistry.open(path)
    assert caught.value.facts["cause"] == "restore_interrupted"
    assert not path.exists()
    monkeypatch.undo()
    assert put_back(backup, path).epoch == 3
    assert await sessions(path) == ["S1"]

"""What only the SQLite registry has: a file that survives kill -9, full disks, locks, damage and upgrades."""

import asyncio
import json
import os
import random
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

import session_service
from session_service.base.errors import AuditBroken, RegistryUnavailable
from session_service.core.changes import PutSession, PutSetting, Rank, Unit
from session_service.registry import connection as connection_module
from session_service.registry import writer as writer_module
from session_service.registry.backups import check_backup
from session_service.registry.migrations import Migration, applied, known_migrations, migrate
from session_service.registry.sqlite import FILE_NAME, SqliteRegistry
from session_service.registry.statements import statements
from session_service.registry.writes import Transaction
from tests.contract.registry_world import (
    TOUCH,
    a_held_session,
    a_session,
    all_at_once,
    an_entry,
    with_session,
    write,
)

PROGRAM = Path(__file__).parents[1] / "fakes" / "registry_writer.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(session_service.__file__).parents[1])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


@pytest.fixture
async def registry(path: Path) -> AsyncIterator[SqliteRegistry]:
    opened = await SqliteRegistry.open(path)
    yield opened
    await opened.close()


def edit(path: Path, sql: str, *values: Any) -> None:
    """Change a registry behind its back, as somebody with an SQLite tool would."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute(sql, values)
    finally:
        connection.close()


async def unavailable(registry: SqliteRegistry, *writes: Any) -> str:
    with pytest.raises(RegistryUnavailable) as caught:
        await write(registry, *(writes or (TOUCH,)))
    return str(caught.value.facts["cause"])


async def cannot_open(path: Path, **rest: Any) -> RegistryUnavailable:
    with pytest.raises(RegistryUnavailable) as caught:
        await SqliteRegistry.open(path, **rest)
    return caught.value


# kill -9 and full disks


@pytest.mark.slow
async def test_kill_at_any_moment_leaves_a_whole_file_with_everything_that_was_answered(
    path: Path, request: pytest.FixtureRequest
) -> None:
    """Four deaths of a writing process on one file; a unit is there whole or not at all."""
    seed = random.randrange(1 << 32)
    request.node.add_report_section("call", "seed", str(seed))
    chance = random.Random(seed)
    answered: set[int] = set()
    for death in range(4):
        command = [str(PROGRAM), "kill", str(path.parent), str(death * 100_000)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 300)):
            answered.add(int(await process.stdout.readline()))
        process.kill()
        rest = (await process.stdout.read()).split(b"\n")
        answered |= {int(line) for line in rest[:-1]}  # the last line may have been cut by the kill
        await process.wait()
        registry = await SqliteRegistry.open(path)
        try:
            for number in answered:
                assert await registry.setting(f"b{number}") == str(number).encode()
            written = await registry.verify_audit()
        finally:
            await registry.close()
        connection = apsw.Connection(str(path))
        names = [name for (name,) in connection.execute("SELECT name FROM setting")]
        connection.close()
        assert {name[1:] for name in names if name[0] == "a"} == {
            name[1:] for name in names if name[0] == "b"
        }
        assert written == len(names) // 2 >= len(answered)


async def test_a_disk_that_takes_no_more_is_unavailable_and_recovers_by_itself(path: Path) -> None:
    """The kernel refuses to let files grow, in a process of its own; then the limit goes away."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        "full",
        str(path.parent),
        "0",
        stdout=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(output)
    assert set(report["causes"]) <= {"disk_full", "disk_error"}
    assert report["readable"] == len(report["answered"]) - 1
    assert report["records"] == len(report["answered"])


async def test_a_full_disk_leaves_nothing_half_written_and_reading_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[apsw.Connection] = []

    def limited(path: Path, *, writes: bool) -> apsw.Connection:
        connection = connection_module.open_connection(path, writes=writes)
        connection.execute("PRAGMA max_page_count = 120")
        opened.append(connection)
        return connection

    monkeypatch.setattr(writer_module, "open_connection", limited)
    registry = await SqliteRegistry.open(path)
    try:
        await write(registry, PutSetting(name="before", value=b"1", expected=None), audit=(an_entry(),))
        large = PutSetting(name="large", value=b"x" * 1_000_000, expected=None)
        small = PutSetting(name="small", value=b"1", expected=None)
        assert await unavailable(registry, small, large) == "disk_full"
        assert await registry.setting("small") is None
        assert await registry.setting("before") == b"1"
        opened[-1].execute("PRAGMA max_page_count = 100000")
        await write(registry, small, large)
        assert await registry.verify_audit() == 1
    finally:
        await registry.close()


async def test_another_programs_lock_is_waited_for_and_then_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_MS", 20)
    registry = await SqliteRegistry.open(path)
    other = apsw.Connection(str(path))
    try:
        other.execute("BEGIN IMMEDIATE")
        assert await unavailable(registry) == "locked"
        other.execute("ROLLBACK")
        await write(registry, TOUCH)
    finally:
        other.close()
        await registry.close()


# files that are not as they should be


async def test_one_service_per_file(registry: SqliteRegistry, path: Path) -> None:
    refusal = await cannot_open(path)
    assert refusal.facts["cause"] == "locked"
    assert "Stop the service" in refusal.detail


async def test_the_file_is_for_its_owner_only(registry: SqliteRegistry, path: Path) -> None:
    await write(registry, TOUCH)
    for member in path.parent.iterdir():
        assert stat.S_IMODE(member.stat().st_mode) == 0o600, member.name


async def test_a_link_in_place_of_the_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    assert (await cannot_open(path)).facts["cause"] == "not_writable"
    assert not (tmp_path / "elsewhere").exists()


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert (await cannot_open(tmp_path / "no" / FILE_NAME)).facts["cause"] == "not_writable"


async def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_bytes(b"This is a letter to my bank. " * 1000)
    refusal = await cannot_open(path)
    assert refusal.facts["cause"] == "damaged"
    assert path.read_bytes().startswith(b"This is a letter")


async def test_damage_is_found_when_the_file_is_opened(path: Path) -> None:
    registry = await SqliteRegistry.open(path)
    for number in range(200):
        await with_session(registry, a_session(f"S{number}", detail="x" * 200))
    await registry.close()
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 3 * 4096)
    refusal = await cannot_open(path)
    assert refusal.facts["cause"] == "damaged"
    assert "backup" in refusal.detail


async def test_a_file_removed_while_in_use_takes_no_more_and_can_still_be_backed_up(
    registry: SqliteRegistry, path: Path, tmp_path: Path
) -> None:
    await write(registry, TOUCH)
    path.rename(tmp_path / "moved")
    assert await unavailable(registry, PutSetting(name="b", value=b"", expected=None)) == "file_gone"
    assert await registry.setting("touched") == b""
    await registry.backup(str(tmp_path / "saved"))
    assert check_backup(tmp_path / "saved") == 0
    (tmp_path / "moved").rename(path)
    await write(registry, PutSetting(name="b", value=b"", expected=None))


async def test_a_closed_registry_answers_unavailable(path: Path) -> None:
    registry = await SqliteRegistry.open(path)
    await write(registry, TOUCH)
    await registry.close()
    await registry.close()
    assert await unavailable(registry) == "closed"
    with pytest.raises(RegistryUnavailable):
        await registry.session("S1")


async def test_units_on_their_way_are_answered_before_it_closes(path: Path) -> None:
    registry = await SqliteRegistry.open(path)
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(write(registry, PutSetting(name=str(number), value=b"", expected=None)))
        group.create_task(registry.close())
    again = await SqliteRegistry.open(path)
    try:
        assert await again.setting("99") == b""
    finally:
        await again.close()
    assert sorted(member.name for member in path.parent.iterdir()) == [FILE_NAME, f"{FILE_NAME}.lock"]


async def test_a_storm_is_written_in_groups_of_a_limited_size(
    registry: SqliteRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waits is sorted by rank first, so no group holds a drop while a resume waits for the next."""
    groups = 0

    def counted(transaction: Transaction) -> None:
        nonlocal groups
        groups += 1
        finish(transaction)

    def seen(transaction: Transaction, unit: Unit) -> None:
        carry_out(transaction, unit)
        ranks.append(unit.rank)

    ranks: list[int] = []
    finish, carry_out = Transaction.finish, Transaction.carry_out
    monkeypatch.setattr(writer_module, "GROUP_UNITS_MAX", 50)
    monkeypatch.setattr(Transaction, "finish", counted)
    monkeypatch.setattr(Transaction, "carry_out", seen)
    units = [
        Unit(
            rank=Rank.DROP if number % 2 else Rank.RESUME,
            writes=(PutSetting(name=str(number), value=b"", expected=None),),
        )
        for number in range(220)
    ]
    assert await all_at_once(registry, units) == [None] * 220
    assert groups == 5
    assert ranks == [Rank.RESUME] * 110 + [Rank.DROP] * 110


async def test_the_wal_is_copied_back_when_nothing_waits(
    registry: SqliteRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_S", 0.01)
    before = path.stat().st_size
    for number in range(50):
        await write(registry, PutSetting(name=str(number), value=b"x" * 4000, expected=None))
    async with asyncio.timeout(20):
        while path.stat().st_size < before + 50 * 4000:
            await registry.setting("1")


# audit


CHANGES = {
    "kind": "session.resumed",
    "actor": "somebody",
    "at_ms": 7,
    "session_id": None,
    "workspace_id": "W9",
    "user_id": "U9",
    "facts": '{"cause":"silent","n":1.0}',
    "prev": b"p" * 32,
    "hash": b"h" * 32,
}


async def three_records(path: Path) -> None:
    registry = await SqliteRegistry.open(path)
    for number in range(3):
        await write(registry, audit=(an_entry(session_id="S1", at_ms=number),))
    assert await registry.verify_audit() == 3
    await registry.close()


async def broken_at(path: Path) -> int:
    registry = await SqliteRegistry.open(path)
    try:
        with pytest.raises(AuditBroken) as caught:
            await registry.verify_audit()
    finally:
        await registry.close()
    return int(str(caught.value.facts["seq"]))


@pytest.mark.parametrize("column", CHANGES)
async def test_a_changed_audit_record_is_found(path: Path, column: str) -> None:
    await three_records(path)
    edit(path, f"UPDATE audit SET {column} = ? WHERE seq = 2", CHANGES[column])
    assert await broken_at(path) == 2


@pytest.mark.parametrize(
    ("sql", "seq"),
    [
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 2", 2),
        ("DELETE FROM audit WHERE seq = 3", 3),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET seq = 9 WHERE seq = 3", 3),
        ("UPDATE audit SET facts = 'no json' WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3", 2),
        ("INSERT INTO audit VALUES (4, 'k', 'a', 1, NULL, NULL, NULL, '{}', zeroblob(32), zeroblob(32))", 4),
        ("UPDATE audit_head SET seq = 2", 3),
    ],
)
async def test_a_removed_moved_or_added_audit_record_is_found(path: Path, sql: str, seq: int) -> None:
    await three_records(path)
    edit(path, sql)
    assert await broken_at(path) == seq


# schema


async def test_opening_again_applies_nothing_again(path: Path) -> None:
    for _ in range(2):
        registry = await SqliteRegistry.open(path)
        mark = await registry.mark()
        await registry.close()
    connection = apsw.Connection(str(path))
    names = list(applied(connection))
    connection.close()
    assert names == [one.name for one in known_migrations() if one.kind == "pre"]
    again = await SqliteRegistry.open(path)
    assert await again.mark() == mark
    await again.close()


async def test_a_registry_of_a_newer_release_is_refused_with_a_way_forward(path: Path) -> None:
    await (await SqliteRegistry.open(path)).close()
    edit(path, "UPDATE schema_reader SET oldest = 99")
    refusal = await cannot_open(path)
    assert refusal.facts["cause"] == "newer_schema"
    assert "newer release" in refusal.detail


NEXT = Migration(
    number=2,
    kind="pre",
    name="0002_mood.pre.sql",
    sql="ALTER TABLE session ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'; CREATE TABLE mood (name TEXT);",
)
AFTER = Migration(
    number=2,
    kind="post",
    name="0002_mood.post.sql",
    sql="DROP TABLE mood; UPDATE schema_reader SET oldest = 2;",
)


async def test_the_last_release_runs_on_the_schema_of_the_next_until_its_post_migration(path: Path) -> None:
    known = known_migrations()
    await (await SqliteRegistry.open(path, migrations=[*known, NEXT, AFTER])).close()
    older = await SqliteRegistry.open(path, migrations=known)
    session = await with_session(older, a_held_session())
    await write(older, PutSession(session=replace(session, generation=2), expected=1))
    assert await older.session("S1") == replace(session, generation=2)
    await older.close()
    connection = apsw.Connection(str(path))
    both = frozenset({"pre", "post"})
    assert migrate(connection, [*known, NEXT, AFTER], kinds=both) == ("0002_mood.post.sql",)
    assert migrate(connection, [*known, NEXT, AFTER], kinds=both) == ()
    connection.close()
    assert (await cannot_open(path, migrations=known)).facts["cause"] == "newer_schema"


async def test_a_migration_that_fails_leaves_the_schema_as_it_was(path: Path) -> None:
    bad = replace(NEXT, sql="CREATE TABLE mood (name TEXT) STRICT; INSERT INTO nowhere VALUES (1);")
    await cannot_open(path, migrations=[*known_migrations(), bad])
    registry = await SqliteRegistry.open(path)
    assert (await registry.mark()).epoch == 1
    await registry.close()


async def test_a_migration_changed_after_it_was_applied_is_refused(path: Path) -> None:
    await (await SqliteRegistry.open(path, migrations=[*known_migrations(), NEXT])).close()
    changed = replace(NEXT, sql=NEXT.sql + " -- better")
    refusal = await cannot_open(path, migrations=[*known_migrations(), changed])
    assert refusal.facts["cause"] == "migration_changed"


async def test_every_statement_is_valid_against_the_schema(registry: SqliteRegistry, path: Path) -> None:
    connection = apsw.Connection(str(path))
    try:
        for sql in statements().values():
            list(connection.execute(f"EXPLAIN {sql}", _anything(sql)))
    finally:
        connection.close()


def _anything(sql: str) -> dict[str, Any]:
    words = sql.replace(",", " ").replace(")", " ").replace("(", " ").split()
    return {word[1:]: None for word in words if word.startswith(":")}


async def test_what_is_due_is_found_by_an_index(registry: SqliteRegistry, path: Path) -> None:
    """An operator's question, and later the one of a node that takes over a million holds."""
    await with_session(registry, a_held_session("S1", left_ms=10_000))
    await with_session(registry, a_held_session("S2", left_ms=20_000))
    sql = "SELECT id FROM session WHERE hold_clock = 'N1' AND hold_deadline_ms <= 15000"
    connection = apsw.Connection(str(path))
    try:
        assert [name for (name,) in connection.execute(sql)] == ["S1"]
        plan = " ".join(str(line) for line in connection.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "session_due" in plan
    finally:
        connection.close()

"""Checks and copies for administrators: each written down before it is done."""

from pathlib import Path

import pytest

from session_service.base import errors
from session_service.client.api import Api
from session_service.client.transport import Transport
from session_service.http.callers import SCOPES
from session_service.registry.sqlite import SqliteRegistry
from tests.fakes.http_world import HttpWorld


async def test_a_workspace_and_the_audit_chain_are_checked(world: HttpWorld) -> None:
    """Over the client, as the CLI does."""
    ada = await world.signed_in("ada")
    home = (await ada.get("/api/v1/workspaces")).body["items"][0]["id"]
    program = await world.program("root", "administrator", scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    async with Transport(world.origin, token=token) as transport:
        api = Api(transport)
        assert (await api.verify(home, level="structure")).faults == []
        assert (await api.verify(home, level="full")).faults == ["one fault"]
        assert (await api.verify_audit()).records == 3
        with pytest.raises(errors.NotFound):
            await api.verify("0" * 26, level="full")
    kinds = [record.entry.kind for record in await world.registry.audit()]
    assert kinds == ["user.signed_in", "workspace.verified", "workspace.verified"]


async def test_checkpoints_are_forgotten_pinned_compared_and_collected_by_administrators_only(
    world: HttpWorld,
) -> None:
    """Each act is in the audit log; users may do none of it."""
    ada = await world.signed_in("ada")
    listed = (await ada.get("/api/v1/workspaces")).body["items"][0]
    home = listed["id"]
    refused = await ada.post(f"/api/v1/workspaces/{home}/collect", {})
    assert refused.status == 403
    program = await world.program("root", "administrator", scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    async with Transport(world.origin, token=token) as transport:
        api = Api(transport)
        await api.forget(home, [2, 3], reason="asked")
        await api.keep(home, 4, pin=True, reason="exhibit")
        await api.keep(home, 4, pin=False)
        assert (await api.collect(home)).deleted_objects == 2
        assert (await api.keys(home)).key_epoch == 1
        assert (await api.rotate_keys(home, leaked=True)).key_epoch == 2
        with pytest.raises(errors.BadInput):
            await api.erase(home, name="another", reason="asked")
        assert (await api.erase(home, name=listed["name"], reason="asked")).objects == 5
        [change] = (await api.diff(home, 5, against=1)).changes
        assert (change.path, change.what) == ("letter", "changed")
    done = [(act, seqs, reason) for act, seqs, _, reason in world.files.upkept]
    assert done == [
        ("forget", (2, 3), "asked"),
        ("keep", (4,), "exhibit"),
        ("release", (4,), ""),
        ("collect", (), home),
        ("rotate", (), "True"),
        ("erase", (), "asked"),
    ]
    kinds = [record.entry.kind for record in await world.registry.audit()]
    assert kinds[-8:] == [
        "checkpoints.forgotten",
        "checkpoint.pinned",
        "checkpoint.unpinned",
        "workspace.collected",
        "keys.rotated",
        "workspace.erased",
        "workspace.erasure_proved",
        "checkpoints.compared",
    ]


async def test_a_copy_of_the_registry_is_whole_and_nothing_is_left_behind(
    world: HttpWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real database comes down and opens."""
    root = await world.signed_in("root", "administrator")
    real = await SqliteRegistry.open(tmp_path / "real.sqlite3")
    try:
        monkeypatch.setattr(world.registry, "backup", real.backup)
        seen = await root.get("/api/v1/registry/backup")
    finally:
        await real.close()
    assert seen.status == 200, seen.raw
    (tmp_path / "copy.sqlite3").write_bytes(seen.raw)
    copy = await SqliteRegistry.open(tmp_path / "copy.sqlite3")
    assert await copy.users() == []
    await copy.close()
    assert list(world.settings.uploads.iterdir()) == []
    assert "registry.backed_up" in {record.entry.kind for record in await world.registry.audit()}

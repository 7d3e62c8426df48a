"""Checks and copies for administrators: each written down before it is done."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from session_service.base import errors
from session_service.client.api import Api
from session_service.client.transport import Transport
from session_service.http.callers import SCOPES
from session_service.registry.sqlite import SqliteRegistry
from tests.fakes.http_world import HttpWorld
from tests.fakes.until import until


async def home_and_token(world: HttpWorld) -> tuple[str, str]:
    """Return a user's workspace, and the token of an administrator's program."""
    home = (await (await world.signed_in("ada")).get("/api/v1/workspaces")).body["items"][0]["id"]
    program = await world.program("root", "administrator", scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    return home, token


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


async def test_a_long_check_tells_how_far_it_is_to_whoever_asks_for_lines(world: HttpWorld) -> None:
    """The last line is the answer, or the problem that a plain request would get. Each stage is told before,
    however many of them one look of the loop finds, the last one included.
    """
    home, token = await home_and_token(world)
    async with Transport(world.origin, token=token) as transport:
        api, seen = Api(transport), []
        assert (await api.verify(home, level="full", on_progress=seen.append)).faults == ["one fault"]
        assert [(one.stage, one.done, one.total) for one in seen] == [
            ("verify", 2, 2),
            ("trees", 1, 1),
            ("packs", 1, 1),
        ]
        world.files.failure = errors.StorageUnavailable("nobody is there")
        with pytest.raises(errors.StorageUnavailable, match="nobody is there"):
            await api.verify(home, level="full")


async def test_a_silent_check_keeps_its_link_with_signs_of_life(world: HttpWorld, monkeypatch) -> None:
    """A proxy that gives up silent links must not end an hour's work."""
    monkeypatch.setattr("session_service.http.limits.STREAM_HEARTBEAT_S", 0.01)
    home, token = await home_and_token(world)
    world.files.hangs = True
    async with Transport(world.origin, token=token) as transport:
        path, headers = f"/api/v1/workspaces/{home}/verify", {"Accept": "application/x-ndjson"}
        async with transport.opened("POST", path, body={"level": "full"}, headers=headers) as answer:
            assert [await answer.content.readline() for _ in range(3)] == [b"{}\n"] * 3


async def test_who_leaves_a_long_check_ends_it_and_that_is_no_failure(world: HttpWorld, monkeypatch) -> None:
    monkeypatch.setattr("session_service.http.limits.STREAM_HEARTBEAT_S", 0.01)
    home, token = await home_and_token(world)
    world.files.hangs = True
    with capture_logs() as told:
        async with Transport(world.origin, token=token) as transport:
            path, headers = f"/api/v1/workspaces/{home}/verify", {"Accept": "application/x-ndjson"}
            async with transport.opened("POST", path, body={"level": "full"}, headers=headers) as answer:
                assert await answer.content.readline() == b"{}\n"
                assert world.files.hanging == 1
        await until(lambda: any(line.get("route") == "verifyWorkspace" for line in told))
    assert world.files.hanging == 0
    assert "request.failed" not in {line["event"] for line in told}


async def test_who_takes_nothing_of_a_long_answer_is_cut_off_and_that_is_no_failure(
    world: HttpWorld, monkeypatch
) -> None:
    """A line that is never taken stands for megabytes of them, which is what the kernel's buffers hold."""

    async def never(response: web.StreamResponse, line: bytes) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("session_service.http.limits.STREAM_HEARTBEAT_S", 0.01)
    monkeypatch.setattr("session_service.http.limits.DOWNLOAD_IDLE_S", 0.01)
    monkeypatch.setattr(web.StreamResponse, "write", never)
    home, token = await home_and_token(world)
    world.files.hangs = True
    with capture_logs() as told:
        async with Transport(world.origin, token=token) as transport:
            with pytest.raises(errors.PartUnavailable):
                await Api(transport).verify(home, level="full")
    assert world.files.hanging == 0
    assert "request.failed" not in {line["event"] for line in told}


async def test_a_page_in_place_of_a_long_answer_is_told_as_somebody_elses() -> None:
    """As a network does that wants a sign-in: 200 and HTML, whatever was asked."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<h1>Sign in</h1>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", page)
    async with TestServer(app) as portal, Transport(str(portal.make_url(""))) as transport:
        with pytest.raises(errors.NotTheService):
            await Api(transport).verify("0" * 26, level="full")


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


async def test_what_jams_a_log_is_shown_and_stepped_over_by_administrators_only(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    home = (await ada.get("/api/v1/workspaces")).body["items"][0]["id"]
    assert (await ada.get(f"/api/v1/workspaces/{home}/log/foreign")).status == 403
    body = {"objects": [{"seq": 3, "hash": "00" * 32}], "reason": "rubbish"}
    assert (await ada.post(f"/api/v1/workspaces/{home}/log/step-over", body)).status == 403
    program = await world.program("root", "administrator", scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    async with Transport(world.origin, token=token) as transport:
        api = Api(transport)
        [foreign] = (await api.foreign_objects(home)).items
        assert (foreign.seq, foreign.hash) == (3, "00" * 32)
        with pytest.raises(errors.BadInput):
            await api.step_over(home, [(3, "00")], reason="rubbish")
        with pytest.raises(errors.BadInput):
            await api.step_over(home, [(3, foreign.hash)], reason="")
        assert (await api.step_over(home, [(3, foreign.hash)], reason="rubbish")).seq == 4
    assert [act for act, *_ in world.files.upkept] == ["step over"]
    last = [record.entry for record in await world.registry.audit()][-1]
    assert last.kind == "log.stepped_over"
    assert dict(last.facts)["objects"] == f"3:{foreign.hash}"


async def test_a_user_sees_which_checkpoints_stay_and_is_told_of_conflicts(world: HttpWorld) -> None:
    ada = await world.signed_in("ada")
    home = (await ada.get("/api/v1/workspaces")).body["items"][0]["id"]
    rule = (await ada.get(f"/api/v1/workspaces/{home}/retention")).body
    assert (rule["keep_last"], rule["keep_daily"]) == (10, 14)
    listed = (await ada.get(f"/api/v1/workspaces/{home}/conflicts")).body["items"]
    assert [one["seq"] for one in listed] == [9]
    assert [(act, seqs) for act, seqs, *_ in world.files.upkept] == [("told", (9,))]
    bob = await world.signed_in("bob")
    assert (await bob.get(f"/api/v1/workspaces/{home}/conflicts")).status == 404
    assert (await bob.ask("DELETE", f"/api/v1/workspaces/{home}/conflicts/9")).status == 404
    assert (await ada.ask("DELETE", f"/api/v1/workspaces/{home}/conflicts/8")).status == 404
    assert (await ada.ask("DELETE", f"/api/v1/workspaces/{home}/conflicts/9")).status == 204
    assert [(act, seqs) for act, seqs, *_ in world.files.upkept] == [("told", (9,)), ("forget", (9,))]


@pytest.mark.parametrize("role", ["operator", "administrator"])
async def test_what_was_saved_beside_is_told_to_its_own_user_and_dropped_by_nobody_else(
    world: HttpWorld, role: str
) -> None:
    """A look by an operator would start the thirty days after which it may go, and its user knows nothing."""
    home = (await (await world.signed_in("ada")).get("/api/v1/workspaces")).body["items"][0]["id"]
    other = await world.signed_in("olga", role)
    assert [
        one["seq"] for one in (await other.get(f"/api/v1/workspaces/{home}/conflicts")).body["items"]
    ] == [9]
    assert (await other.ask("DELETE", f"/api/v1/workspaces/{home}/conflicts/9")).code == "not_allowed"
    assert world.files.upkept == []


@pytest.mark.parametrize("number", [0, -1, 1 << 53, 10**30])
async def test_a_number_that_no_entry_has_is_refused(world: HttpWorld, number: int) -> None:
    """The largest could not be told to a worker, and each request was a failure of ours."""
    ada = await world.signed_in("ada")
    session, home = await world.session_of(ada), (await ada.get("/api/v1/workspaces")).body["items"][0]["id"]
    root = await world.signed_in("root", "administrator")
    place, hash_ = f"/api/v1/workspaces/{home}", "0" * 64
    over = {"objects": [{"seq": number, "hash": hash_}], "reason": "x"}
    for seen in (
        await ada.post(f"/api/v1/sessions/{session}/restores", {"seq": number, "path": ""}),
        await root.post(f"{place}/checkpoints/forget", {"checkpoints": [number]}),
        await root.get(f"{place}/checkpoints/5/diff?against={number}"),
        await root.post(f"{place}/log/step-over", over),
    ):
        assert seen.code == "bad_input"

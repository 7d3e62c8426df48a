"""The Python client against the real application: over TCP with a token, over the unix socket by
credentials.
"""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from session_service.base import errors
from session_service.client import models
from session_service.client import transport as transport_module
from session_service.client.api import Api
from session_service.client.transport import Transport
from session_service.core.records import Outcome
from session_service.http import answers, erasure, keys, replication, tidying, upkeep
from session_service.http.callers import SCOPES
from tests.fakes.http_world import HttpWorld, http_world
from tests.fakes.until import until

SENT_AS = {
    "AuditEvent": answers.EventOut,
    "NewToken": answers.NewTokenOut,
    "Explained": answers.ExplainedOut,
    "Verification": upkeep.VerifyOut,
    "AuditChain": upkeep.AuditOut,
    "Collected": upkeep.CollectOut,
    "PathChange": upkeep.ChangeOut,
    "Difference": upkeep.DiffOut,
    "Keys": keys.KeysOut,
    "EpochOfKeys": keys.EpochOut,
    "StoreKeys": keys.StoreKeysOut,
    "TenantKeys": keys.TenantKeysOut,
    "Rewrapped": keys.RewrapOut,
    "Erased": erasure.ErasedOut,
    "ErasedWorkspace": erasure.ErasedWorkspaceOut,
    "Erasure": erasure.ErasureOut,
    "Foreign": tidying.ForeignOut,
    "Foreigners": tidying.ForeignListOut,
    "Retention": tidying.RetentionOut,
    "SteppedOver": tidying.StepOverOut,
    "Promotion": replication.PromoteOut,
    "Repair": replication.RepairOut,
    "Replica": replication.ReplicaOut,
    "SecondCopy": replication.SecondVerifyOut,
    "SecondStore": replication.SecondStoreOut,
    "Spared": replication.SparedOut,
}


@asynccontextmanager
async def api_of(world: HttpWorld, name: str, role: str = "user") -> AsyncIterator[Api]:
    """The client of a program with every scope of its account."""
    program = await world.program(name, role, scopes=SCOPES)
    token = program.headers["Authorization"].removeprefix("Bearer ")
    async with Transport(world.origin, token=token) as transport:
        yield Api(transport)


def test_the_client_reads_only_what_the_api_sends() -> None:
    """Field by field, so that neither side can be renamed alone."""
    for name, kind in inspect.getmembers(models, inspect.isclass):
        if not issubclass(kind, msgspec.Struct) or name in {"_Answer", "LiveEvent"}:
            continue
        sent = SENT_AS.get(name) or getattr(answers, f"{name}Out")
        assert set(kind.__struct_fields__) <= set(sent.model_fields), name


async def test_a_session_from_start_to_end(world: HttpWorld) -> None:
    """As the CLI and the demo use it."""
    async with api_of(world, "ada") as api:
        assert (await api.me()).user.name == "ada"
        session = await api.start(geometry=(1024, 768))
        assert (await api.start()).id == session.id
        ticket = await api.ticket(session.id, device_label="demo")
        assert ticket.ticket not in repr(ticket)
        assert (await api.save(session.id)).complete
        held = await api.disconnect(session.id)
        assert (held.state, held.loss_cause) == ("held", "tab_closed")
        await api.extend(session.id, seconds=60)
        assert (await api.end(session.id)).state == "closing"
        assert (await api.accept_paths(session.id, paths=["x"], reason="known")).state == "closing"
        again = await api.reuse(session.id)
        assert [each.id for each in await api.sessions()] == [again.id, session.id]
        assert [each.id for each in await api.sessions(open_only=True)] == [again.id]
        assert (await api.explanation(again.id))[0].words


async def test_lists_are_followed_to_their_end(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pages are."""
    monkeypatch.setattr("session_service.client.api.PAGE_ITEMS", 2)
    async with api_of(world, "ada") as api:
        for _ in range(5):
            session = await api.start()
            await world.control.close(session.id, Outcome.SAVED)  # type: ignore[arg-type]  # its text
        assert len(await api.sessions()) == 5
        workspace = (await api.workspaces())[0].id
        assert [each.seq for each in await api.checkpoints(workspace)] == [5, 4, 3, 2, 1]
        assert len(await api.files(workspace, 5, path="docs")) == 2
        assert (
            b"".join([part async for part in api.content(workspace, 5, path="notes.txt")]) == b"hello world"
        )
        assert b"".join([part async for part in api.archive(workspace, 5)]).startswith(b"PK")
        assert len(await api.events(limit=3)) <= 3
        assert await api.receipts() == []


async def test_a_problem_becomes_the_error_of_its_code(world: HttpWorld) -> None:
    """With the service's words, facts and reference."""
    async with api_of(world, "ada") as api:
        with pytest.raises(errors.NotFound):
            await api.session("0" * 26)
        with pytest.raises(errors.NotAllowed) as refused:
            await api.users()
        assert refused.value.facts["role_needed"] == "administrator"
        assert refused.value.facts["reference"]
        world.control.failure = errors.NoRoom(free_bytes=5)
        with pytest.raises(errors.NoRoom) as full:
            await api.start()
        assert full.value.facts["free_bytes"] == 5
    async with Transport(world.origin, token="sst_wrong") as transport:
        with pytest.raises(errors.SignInRequired):
            await Api(transport).me()


async def test_half_a_download_is_never_taken_for_a_whole_one(world: HttpWorld) -> None:
    """It raises."""
    world.files.fails_after = 8
    async with api_of(world, "ada") as api:
        workspace = (await api.workspaces())[0].id
        with pytest.raises(errors.PartUnavailable):
            async for _ in api.content(workspace, 5, path="notes.txt"):
                pass


async def test_a_file_is_uploaded(world: HttpWorld, tmp_path: Path) -> None:
    """Refused here since no desktop is recorded; its way there is tested with the routes."""
    (tmp_path / "file.bin").write_bytes(b"x" * 100_000)
    async with api_of(world, "ada") as api:
        session = await api.start()
        with pytest.raises(errors.DesktopGone):
            await api.upload(session.id, name="file.bin", source=tmp_path / "file.bin")


async def test_nobody_there_is_said_with_the_place(tmp_path: Path) -> None:
    """Over TCP and over the socket."""
    async with Transport("http://127.0.0.1:9") as transport:
        with pytest.raises(errors.PartUnavailable, match=r"http://127\.0\.0\.1:9"):
            await Api(transport).status()
    async with Transport.over_socket(tmp_path / "none.sock") as transport:
        with pytest.raises(errors.PartUnavailable, match=r"none\.sock"):
            await Api(transport).status()


async def test_another_program_behind_the_address_is_told_apart(tmp_path: Path) -> None:
    """An answer without a problem document is not one of ours."""

    async def other(request: web.Request) -> web.Response:
        return web.Response(status=502 if "502" in request.path_qs else 200, text="<html>")

    from aiohttp.test_utils import TestServer

    app = web.Application()
    app.router.add_get("/{rest:.*}", other)
    async with TestServer(app) as server:
        async with Transport(str(server.make_url("/"))) as transport:
            with pytest.raises(errors.PartRefused):
                await Api(transport).status()
            with pytest.raises(errors.PartRefused):
                await Api(transport).sessions(state="502")


async def test_an_answer_without_end_is_refused(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of the client is bounded, too."""
    monkeypatch.setattr(transport_module, "ANSWER_BYTES_MAX", 10)
    async with api_of(world, "ada") as api:
        with pytest.raises(errors.PartRefused, match="too long"):
            await api.status()


async def test_accounts_and_tokens_over_the_unix_socket(tmp_path: Path) -> None:
    """As the CLI does, before anybody has an account."""
    async with http_world(tmp_path, socket_uids=frozenset({os.geteuid()})) as world:
        assert world.server.runner is not None
        await web.UnixSite(world.server.runner, str(tmp_path / "api.sock")).start()
        async with Transport.over_socket(tmp_path / "api.sock") as transport:
            api = Api(transport)
            user = await api.create_user(name="demo", password="a long password")
            assert [each.name for each in await api.users()] == ["demo"]
            token = await api.create_token(
                name="demo", scopes=["read", "sessions"], expires_in_s=600, user_id=user.id
            )
            assert token.token not in repr(token)
            async with Transport(world.origin, token=token.token) as other:
                session = await Api(other).start()
                assert session.user.id == user.id
            assert [each.id for each in await api.sessions()] == [session.id]
            assert [each.id for each in await api.tokens()] == [token.id]
            await api.revoke_token(token.id)
            assert await api.alarms() == []
            assert (await api.change_user(user.id, disabled=True)).disabled
            assert (await api.status()).storage.url == "file:///store"


async def test_changes_are_read_as_they_happen(world: HttpWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream that went silent raises, so that nobody waits for ever."""
    async with api_of(world, "ada") as api:
        session = await api.start()
        live = api.live()
        assert (await anext(live)).kind == "snapshot"
        await until(lambda: world.control.readers == 1)
        await api.disconnect(session.id)
        event = await anext(live)
        assert (event.kind, event.data["state"]) == ("session", "held")
        monkeypatch.setattr(transport_module, "STREAM_SILENT_S", 0.05)
        with pytest.raises(errors.PartUnavailable):
            async with asyncio.timeout(10):
                await anext(live)
                await anext(live)

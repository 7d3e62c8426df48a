"""The unix socket: the same routes, and the machine's own people are the administrator by credentials."""

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from session_service.http import addresses
from tests.fakes.http_world import Browser, HttpWorld, http_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[HttpWorld]:
    """An application that our own uid may administer."""
    async with http_world(tmp_path, socket_uids=frozenset({os.geteuid()})) as made:
        yield made


async def local(world: HttpWorld, folder: Path) -> Browser:
    """A client on the unix socket, as the CLI is."""
    path = folder / "api.sock"
    assert world.server.runner is not None
    site = web.UnixSite(world.server.runner, str(path))
    await site.start()
    client = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))
    await world.stack.enter_async_context(client)
    return Browser(world, client)


async def test_the_machines_owner_is_the_administrator(world: HttpWorld, tmp_path: Path) -> None:
    """Without cookie, header or Origin; before any account exists, too."""
    cli = await local(world, tmp_path)
    me = (await cli.get("/api/v1/me")).body
    assert (me["via"], me["user"]["role"]) == ("socket", "administrator")
    assert (await cli.post("/api/v1/sessions")).code == "conflict"
    assert (await cli.post("/api/v1/tokens", {"name": "x", "scopes": ["read"]})).code == "conflict"
    made = await cli.post("/api/v1/users", {"name": "ada", "password": "a long password"})
    assert made.status == 201
    ask = {"name": "demo", "scopes": ["read", "sessions"], "user_id": made.body["id"]}
    token = (await cli.post("/api/v1/tokens", ask)).body["token"]
    program = Browser(world, (await world.browser()).client, {"Authorization": f"Bearer {token}"})
    assert (await program.post("/api/v1/sessions")).status == 201
    assert len((await cli.get("/api/v1/sessions")).body["items"]) == 1
    entry = (await world.registry.audit())[0].entry
    assert dict(entry.facts)["address"] == f"uid {os.geteuid()}"


async def test_it_acts_in_the_name_of_the_first_administrator(world: HttpWorld, tmp_path: Path) -> None:
    """So that what it starts belongs to somebody."""
    root = await world.account("root", "administrator")
    cli = await local(world, tmp_path)
    assert (await cli.get("/api/v1/me")).body["user"]["id"] == root.id
    assert (await cli.post("/api/v1/sessions")).body["user"]["name"] == "root"


async def test_other_uids_are_nobody(
    world: HttpWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's mode is one guard, the peer's credentials are the other."""
    cli = await local(world, tmp_path)
    monkeypatch.setattr(addresses, "socket_uid", lambda request: 65_534)
    assert (await cli.get("/api/v1/me")).code == "sign_in_required"
    assert (await cli.post("/api/v1/users", {"name": "x", "password": "a long password"})).status in {
        401,
        403,
    }


async def test_a_tcp_peer_is_never_taken_for_the_socket(world: HttpWorld) -> None:
    """Whatever headers it sends."""
    browser = await world.browser(Cookie="session=x")
    assert (await browser.get("/api/v1/me")).status == 401
    assert socket.AF_UNIX != socket.AF_INET

"""Calls between parts: one caller too many is told so, and takes nothing from the others."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from session_service.base import errors, private_socket, rpc


async def test_a_call_too_many_is_refused_and_cuts_nobody_off(tmp_path: Path) -> None:
    """Cutting the connection would cancel what the others wait for, such as a desktop's start."""
    go, full, running = asyncio.Event(), asyncio.Event(), 0

    async def wait(call: rpc.Call) -> int:
        nonlocal running
        running += 1
        if running == rpc.CALLS_PER_CONNECTION_MAX:
            full.set()
        await go.wait()
        return call.params(int)

    server = rpc.Server(tmp_path / "part.sock", {"wait": wait}, peer_uids=frozenset({_uid(tmp_path)}))
    await server.start()
    client = rpc.Client(tmp_path / "part.sock", part="test")
    try:
        async with asyncio.TaskGroup() as group:
            early = [
                group.create_task(client.call("wait", number, int))
                for number in range(rpc.CALLS_PER_CONNECTION_MAX)
            ]
            await full.wait()
            with pytest.raises(errors.PartUnavailable):
                await client.call("wait", 1, int)
            go.set()
        assert [task.result() for task in early] == list(range(rpc.CALLS_PER_CONNECTION_MAX))
        assert await client.call("wait", 7, int) == 7
    finally:
        await client.close()
        await server.close()


def _uid(folder: Path) -> int:
    return folder.stat().st_uid


async def test_servers_that_start_beside_each_other_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """A umask that one of them left behind would make every later folder one that nobody can enter."""
    servers = [
        rpc.Server(tmp_path / f"{number}.sock", {}, peer_uids=frozenset({_uid(tmp_path)}))
        for number in range(8)
    ]
    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.start())
    try:
        (tmp_path / "folder").mkdir()
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) & 0o700 == 0o700
        assert {stat.S_IMODE((tmp_path / f"{number}.sock").stat().st_mode) for number in range(8)} == {0o600}
    finally:
        for server in servers:
            await server.close()


def test_a_private_socket_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """Between bind and a chmod anybody could connect."""
    old = os.umask(0)
    try:
        with private_socket.bound(tmp_path / "one.sock", socket.SOCK_STREAM):
            assert stat.S_IMODE((tmp_path / "one.sock").stat().st_mode) == 0o600
    finally:
        os.umask(old)

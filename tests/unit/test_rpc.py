"""Calls between parts: one caller too many is told so, and takes nothing from the others."""

import asyncio
from pathlib import Path

import pytest

from session_service.base import errors, rpc


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

"""Where a client dials: at the address that it was told, and nowhere else."""

import asyncio

import pytest
from websockets.exceptions import InvalidStatus

from session_service.client.dialling import StraightConnect


async def test_a_redirect_is_an_answer_like_any_other_that_is_no_upgrade() -> None:
    """A captive portal would be shown the ticket."""
    dialled = []

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append((await reader.readuntil(b"\r\n")).split()[1])
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /portal\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(InvalidStatus):
            await StraightConnect(f"ws://127.0.0.1:{port}/s/0/ws", proxy=None)
    assert dialled == [b"/s/0/ws"]

"""The gateway in front of a real Xvnc: a picture arrives, keys reach applications, nothing stays down."""

import struct
from pathlib import Path

from tests.fakes.gateway_world import greet, read_bytes, running, xvnc


async def test_a_picture_of_a_real_desktop_arrives(tmp_path: Path) -> None:
    """Raw encoding: one update request is answered by the whole screen."""
    async with xvnc(tmp_path) as desktop, running() as world:
        world.control.add_session("s", str(desktop))
        async with world.opened("s") as client:
            init = await greet(client)
            width, height = struct.unpack(">HH", init[:4])
            assert (width, height) == (640, 480)
            await client.send(struct.pack(">BBHi", 2, 0, 1, 0))
            await client.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
            update = await read_bytes(client, 16 + width * height * 4)
            assert update[:1] == b"\x00"
        end = await world.control.end_of()
        assert end.cause == "tab_closed"
        assert end.bytes_down > width * height * 4

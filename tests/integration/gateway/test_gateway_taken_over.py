"""What a gateway process that was taken over through the network can do to others: nothing.

The intruder is a real process of the same account beside the real private sockets; each act was one that the
service obeyed.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from session_service.base.errors import BadInput, PartUnavailable
from session_service.base.rpc import Client
from session_service.core.close_codes import Close
from session_service.gateway import opening, shards
from session_service.gateway.leg import DesktopLeg
from session_service.gateway.link import Phase
from session_service.gateway.messages import (
    Answer,
    Attach,
    Counted,
    Heard,
    LinkNamed,
    Serve,
    Told,
)
from session_service.gateway.passing import INTRODUCING_MAX, Passer, PassingDoor
from session_service.gateway.shards import CALL_BYTES_MAX, SOCKETS_MAX, added
from session_service.gateway.stats import GatewayStats, believed
from session_service.ports.streams import LinkEnd, LinkOffer
from tests.fakes.child import child_environment
from tests.fakes.gateway_world import World, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until

INTRUDER = """
import asyncio, sys
from pathlib import Path
import msgspec
from session_service.base.errors import SessionError
from session_service.base.rpc import Client

TOLD = {"heard", "ended", "leave", "leg_lost", "counted"}

async def main(path, asks):
    client = Client(Path(path), part="service")
    for method, params in asks:
        try:
            async with asyncio.timeout(3):
                if method in TOLD:
                    try:
                        await client.call(method, params, object)  # nobody answers it
                    except SessionError as error:
                        client.tell(method, params)
                        print(method, error.code)
                else:
                    print(method, "done", await client.call(method, params, object))
        except TimeoutError:
            print(method, "lasts")
        except SessionError as error:
            print(method, error.code)
    try:
        await client.call("nothing", None, object)  # it comes behind what was told
    except SessionError:
        pass
    await client.close()

asyncio.run(main(sys.argv[1], msgspec.msgpack.decode(sys.stdin.buffer.read())))
"""


@pytest.fixture
async def pair() -> AsyncIterator[World]:
    async with running(processes=2) as started:
        yield started


async def intrude(world: World, *asks: tuple[str, object]) -> list[str]:
    """Let another process of our account call these, one after the other; what it was answered."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INTRUDER, str(world.settings.calls)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
    )
    told, _ = await process.communicate(msgspec.msgpack.encode(asks))
    return told.decode().splitlines()


async def test_a_process_ends_and_reports_no_links_but_its_own(pair: World, desktop: FakeDesktop) -> None:
    """`leave` closes a session, and a reported end holds it; both were obeyed from any gateway process."""
    pair.control.add_session("s", str(desktop.path))
    async with pair.opened("s"):
        (link_id,) = pair.shards.links("s")
        link = LinkNamed(session_id="s", link_id=link_id)
        end = LinkEnd(session_id="s", link_id=link_id, cause="tab_closed")
        told = await intrude(pair, ("leave", link), ("leg_lost", link), ("ended", end))
        assert told == ["leave bad_input", "leg_lost bad_input", "ended bad_input"]
        assert (pair.control.left, pair.control.legs_lost, pair.control.ends) == ([], [], [])
        assert pair.shards.links("s") == (link_id,)
    assert (await pair.control.end_of()).cause == "tab_closed"


async def test_a_process_takes_no_shard_of_another_and_speaks_for_none(
    pair: World, desktop: FakeDesktop
) -> None:
    pair.control.add_session("s", str(desktop.path))
    token = pair.control.ticket("s")
    offer = LinkOffer(link_id="x", ticket=token, subprotocol="binary", address="a")
    told = await intrude(
        pair,
        ("serve", Serve(shard="1", process_id=os.getpid())),
        ("heard", Heard(shard="1", number=1 << 40)),
        ("attach", Attach(shard="1", offer=offer)),
        ("counted", Counted(shard="1", stats=GatewayStats(links_opened=1 << 40))),
    )
    assert told == [
        *("serve part_unavailable", "heard bad_input", "attach part_unavailable", "counted bad_input")
    ]
    assert pair.shards.joined() == ("1",)
    assert token in pair.control.tickets
    assert pair.shards.stats().links_opened == 0


async def test_a_living_process_keeps_its_shard(pair: World) -> None:
    """A newcomer under its own name is told to ask again, too: who has died has left by then."""
    program = INTRUDER.replace('"done"', "os.getpid()").replace("import asyncio", "import os, asyncio")
    program = program.replace("asks:", "[('serve', {'shard': '1', 'process_id': os.getpid()})]:", 1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(pair.settings.calls)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(),
    )
    told, _ = await process.communicate(msgspec.msgpack.encode([]))
    assert told == b"serve part_unavailable\n"
    assert pair.second is not None
    assert not pair.second.done()


async def test_a_link_has_an_id_of_its_own(pair: World, desktop: FakeDesktop) -> None:
    """Under the id of another link a process would be told of its takeover in that one's place."""
    pair.control.add_session("s", str(desktop.path))
    async with pair.opened("s"):
        (link_id,) = pair.shards.links("s")
        client = Client(pair.settings.calls, part="service")
        for name in (link_id, "", "x" * 65):
            offer = LinkOffer(link_id=name, ticket="t" * 20, subprotocol="binary", address="a")
            with pytest.raises(BadInput):
                await client.call("attach", Attach(shard="1", offer=offer), Answer)
        await client.close()
        assert len(pair.control.offers) == 1
        assert pair.shards.links("s") == (link_id,)


async def test_what_a_process_says_of_a_link_names_its_session(pair: World, desktop: FakeDesktop) -> None:
    """The right process, its own link, and somebody else's session."""
    pair.control.add_session("s", str(desktop.path))
    pair.control.add_session("other", str(desktop.path))
    async with pair.opened("s"):
        (link_id,) = pair.shards.links("s")
        calls = pair.process._calls
        calls.leave("other", link_id)
        calls.leg_lost("other", link_id)
        calls.ended(LinkEnd(session_id="other", link_id=link_id, cause="tab_closed"))
        with pytest.raises(BadInput):
            await calls._client.call("nothing", None, bool)  # it comes behind them
        assert (pair.control.left, pair.control.legs_lost, pair.control.ends) == ([], [], [])


async def test_a_call_is_short_and_connections_are_few(pair: World) -> None:
    """64 MiB a call and any number of connections were taken."""
    reader, writer = await asyncio.open_unix_connection(str(pair.settings.calls))
    writer.write(struct.pack("<I", CALL_BYTES_MAX + 1))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    client = Client(pair.settings.calls, part="service")
    lines = [await asyncio.open_unix_connection(str(pair.settings.calls)) for _ in range(SOCKETS_MAX)]
    with pytest.raises(PartUnavailable):
        await client.call("serve", Serve(shard="1", process_id=0), bool, event=Told)
    assert pair.shards.joined() == ("1",)
    for _, writer in lines:
        writer.close()
    await until(lambda: pair.shards._server._connections == 1)
    await client.close()


@pytest.mark.parametrize("subprotocol", ["binary", "continuity.v1"])
async def test_a_link_that_is_taken_over_while_its_desktop_is_opened_stays_down(
    pair: World, desktop: FakeDesktop, monkeypatch: pytest.MonkeyPatch, subprotocol: str
) -> None:
    """Between the connection to the desktop and the word of it the link was open again, beside its
    successor.
    """
    pair.control.add_session("s", str(desktop.path))
    made, phases = DesktopLeg.connection_made, list[Phase]()

    def too_late(leg: DesktopLeg, transport: asyncio.BaseTransport) -> None:
        pair.gateway.close_link("s", pair.control.sessions["s"].link_id, code=Close.TAKEN, why="taken")
        made(leg, transport)
        phases.extend(link.phase for link in pair.gateway._hub.connections)

    monkeypatch.setattr(DesktopLeg, "connection_made", too_late)
    async with pair.connect(subprotocols=[subprotocol]) as client:
        await client.send(pair.first(pair.control.ticket("s")))
        assert await closed_without_opening(client) == Close.TAKEN
    assert phases == [Phase.ENDING]
    assert (await pair.control.end_of()).cause == "taken_over"
    await until(lambda: pair.shards.links("s") == ())
    (viewer,) = desktop.viewers
    await until(lambda: viewer.transport is None or viewer.transport.is_closing())


@pytest.mark.parametrize("shard", ["0", "1"])
@pytest.mark.parametrize("subprotocol", ["binary", "continuity.v1"])
async def test_a_link_whose_desktop_cannot_be_connected_for_any_reason_ends(
    pair: World, desktop: FakeDesktop, monkeypatch: pytest.MonkeyPatch, subprotocol: str, shard: str
) -> None:
    """It stayed attached with nothing behind it, for as long as its client answered pings."""
    pair.control.add_session("s", str(desktop.path))

    async def closed_already(*_: object) -> socket.socket:
        one = socket.socket()
        one.close()
        return one

    for opener in (opening, shards):
        monkeypatch.setattr(opener, "open_desktop_socket", closed_already)
    async with pair.connect(f"/s/{shard}/ws", subprotocols=[subprotocol]) as client:
        await client.send(pair.first(pair.control.ticket("s")))
        assert await closed_without_opening(client) == Close.RETRY
    await pair.control.end_of()
    await until(lambda: pair.shards.links("s") == ())


async def closed_without_opening(client: ClientConnection) -> int:
    """The code of the close frame; nothing before it says that a desktop is there."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            async with asyncio.timeout(5):
                assert '"opened"' not in str(await client.recv())
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


def test_counters_of_another_process_make_no_series_and_break_no_sum() -> None:
    told = GatewayStats(links_opened=-5, bytes_up=7, first_frames=[1], loop_stall_sum_s=float("nan"))
    told.links_ended = {"tab_closed": 2, "x" * 1000: 1, "silent": -1}
    told.refusals[123_456] = 9
    kept = believed(told)
    assert (kept.links_opened, kept.bytes_up, kept.loop_stall_sum_s) == (0, 7, 0.0)
    assert (kept.links_ended["tab_closed"], kept.links_ended["silent"]) == (2, 0)
    assert (kept.links_ended.keys(), kept.refusals.keys()) == (
        GatewayStats().links_ended.keys(),
        GatewayStats().refusals.keys(),
    )
    assert added((kept, GatewayStats())).bytes_up == 7
    honest = GatewayStats(links_opened=3, first_frame_sum_s=0.5)
    assert believed(honest) == honest


@pytest.fixture
def door(tmp_path: Path) -> tuple[PassingDoor, list[tuple[Serve, Passer]]]:
    arrived: list[tuple[Serve, Passer]] = []
    made = PassingDoor(
        tmp_path / "door",
        peer_uids=frozenset({os.geteuid()}),
        arrived=lambda serve, passer: arrived.append((serve, passer)),
    )
    return made, arrived


Door = tuple[PassingDoor, list[tuple[Serve, Passer]]]


def channel(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.connect(str(path))
    made.setblocking(False)
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_the_sockets_of_a_shard_go_to_no_other_process(door: Door, tmp_path: Path) -> None:
    """The kernel knows who connected; what a datagram says of it is only compared."""
    passing, arrived = door
    passing.open(mode=0o600)
    with channel(tmp_path / "door") as liar:
        liar.send(msgspec.msgpack.encode(Serve(shard="1", process_id=os.getpid() + 1)))
        assert await until_closed(liar)
    assert not arrived
    passing.close()


async def test_channels_that_say_nothing_are_few_and_closed_with_the_door(door: Door, tmp_path: Path) -> None:
    passing, _ = door
    before = descriptors()
    passing.open(mode=0o600)
    silent = [channel(tmp_path / "door") for _ in range(INTRODUCING_MAX)]
    await until(lambda: len(passing._silent) == INTRODUCING_MAX)
    with channel(tmp_path / "door") as one_more:
        assert await until_closed(one_more)
    passing.close()
    for each in silent:
        assert await until_closed(each)
        each.close()
    assert descriptors() == before


async def test_channels_whose_process_never_joins_are_closed_with_the_shards(pair: World) -> None:
    """One each time that it comes back, and the last one at the end."""
    serve = msgspec.msgpack.encode(Serve(shard="9", process_id=os.getpid()))
    first, second = channel(pair.settings.sockets), channel(pair.settings.sockets)
    first.send(serve)
    await until(lambda: len(pair.shards._arrived) == 1)
    second.send(serve)
    assert await until_closed(first)
    await pair.shards.close()
    assert await until_closed(second)
    first.close()
    second.close()


async def test_a_second_channel_waits_for_the_next_life_of_its_process_and_a_third_takes_its_place(
    pair: World,
) -> None:
    passer, said = pair.shards._outposts["1"].passer, Serve(shard="1", process_id=os.getpid())
    with channel(pair.settings.sockets) as second, channel(pair.settings.sockets) as third:
        second.send(msgspec.msgpack.encode(said))
        await until(lambda: len(pair.shards._arrived) == 1)
        third.send(msgspec.msgpack.encode(said))
        assert await until_closed(second)
        assert len(pair.shards._arrived) == 1
        assert pair.shards._outposts["1"].passer is passer


async def until_closed(one: socket.socket) -> bool:
    """Say that the other end was closed; waits for it."""

    def is_closed() -> bool:
        try:
            return one.recv(10) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    await until(is_closed)
    return True

"""Links over two gateway processes: who owns them, what a loss of one costs, and that nothing is spliced;
then a whole gateway that is replaced by its successor on the same port.
"""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from session_service.app import listening
from session_service.base.errors import PartUnavailable
from session_service.base.rpc import Client
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.core.continuity.client import Began
from session_service.core.shards import names, shard_of
from session_service.gateway.gateway import Gateway
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.messages import Answer, Attach, Passed, Serve, Told
from session_service.gateway.passing import Passer, PassingDoor, Receiver
from session_service.gateway.process import GatewayProcess
from session_service.gateway.shards import added, ended
from session_service.gateway.stats import GatewayStats
from session_service.ports.streams import LinkOffer
from tests.fakes.gateway_control import FakeControl, FakeIds
from tests.fakes.gateway_world import World, greet, request, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_resume import SID, Page, add, page

KEY_DOWN = b"\x04\x01\x00\x00\x00\x00\x00a"
STORM = 300


@pytest.fixture
async def pair() -> AsyncIterator[World]:
    async with running(processes=2) as started:
        yield started


@asynccontextmanager
async def page_at(world: World, shard: str) -> AsyncIterator[Page]:
    """A page that dials a shard by name."""
    async with world.connect(f"/s/{shard}/ws", subprotocols=["continuity.v1"]) as socket:
        made = Page(world, socket)
        made.challenge = (await made.text())["c"]
        yield made


async def lose_the_service(world: World) -> None:
    """Cut the line between the service and its gateway process, as the death of either does."""
    writer = world.process._calls._client._writer
    assert writer is not None
    writer._writer.transport.abort()
    await until(lambda: not world.shards.joined())


def test_a_session_keeps_its_shard_and_sessions_spread() -> None:
    found = [shard_of(f"01JD{number:022d}", 4) for number in range(400)]
    assert found == [shard_of(f"01JD{number:022d}", 4) for number in range(400)]
    assert {found.count(name) > 50 for name in names(4)} == {True}
    assert shard_of("01JD", 1) == "0"


async def test_a_link_is_carried_by_the_process_of_its_shard_and_control_sees_one_gateway(
    pair: World, desktop: FakeDesktop
) -> None:
    pair.control.add_session("s", str(desktop.path))
    async with pair.opened("s") as client:
        assert (await greet(client)).startswith(b"\x02\x80")
        link_id = pair.control.sessions["s"].link_id
        assert pair.gateway.links("s") == pair.shards.links("s") == (link_id,)
        assert pair.inside.links("s") == ()
        await until(lambda: pair.shards.stats().links_open == 1)
    assert (await pair.control.end_of()).cause == "tab_closed"
    await until(lambda: pair.shards.links("s") == ())


async def test_a_takeover_across_processes_reads_the_older_link_no_more(
    pair: World, desktop: FakeDesktop
) -> None:
    """The older one is told in its own process before the newer one is answered in another."""
    add(pair, desktop)
    async with page_at(pair, "1") as older, page_at(pair, "0") as newer:
        await older.open()
        await older.bytes(12)
        stream = pair.gateway._hub.streams[SID]
        answer = await newer.open()
        assert answer["t"] == "opened"
        assert stream._leg is None, "the older stream still leads to the desktop"
        with contextlib.suppress(ConnectionClosed):
            await older.socket.send(KEY_DOWN)
        assert (await older.text())["t"] == "taken"
        with pytest.raises(ConnectionClosed) as closed:
            await older.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4409
    assert all(KEY_DOWN not in viewer.messages for viewer in desktop.viewers)


async def test_a_lost_process_costs_a_resync_and_its_page_is_served_by_whoever_is_there(
    pair: World, desktop: FakeDesktop
) -> None:
    """First inside while nobody else is there, then by the next process; what stayed behind is over."""
    add(pair, desktop)
    stop = asyncio.Event()
    async with page(pair) as first:
        opened = await first.open()
        await first.bytes(12)
        link_id = pair.control.sessions[SID].link_id
        await lose_the_service(pair)
        end = await pair.control.end_of(0)
        assert (end.link_id, end.cause) == (link_id, "server_restart")
        assert (await first.text())["t"] == "drain"
    async with page(pair) as second:
        answer = await second.resume(opened, 1, received=12)
        assert answer["how"] == "resync"
        assert pair.inside.links(SID)
        await second.bytes(12)
        second.socket.transport.abort()
    await pair.control.end_of(1)
    assert SID in pair.inside._hub.streams
    assert pair.second is not None
    process = GatewayProcess(pair.settings)
    running_on = asyncio.ensure_future(process.run(stop))
    await until(lambda: pair.shards.joined() == ("1",))
    async with page(pair) as third:
        answer = await third.resume({**opened, "leg": answer["leg"]}, 2, received=12)
        assert answer["how"] == "resync"
        assert SID not in pair.inside._hub.streams
        assert process.gateway.links(SID)
    await pair.control.end_of(2)
    stop.set()
    await running_on


async def test_a_process_that_dies_while_control_commits_leaves_no_link_behind(
    pair: World, desktop: FakeDesktop
) -> None:
    pair.control.add_session("s", str(desktop.path))
    pair.control.gate.clear()
    async with pair.connect() as client:
        await client.send(pair.first(pair.control.ticket("s")))
        await until(lambda: len(pair.control.offers) == 1)
        await lose_the_service(pair)
        pair.control.gate.set()
        end = await pair.control.end_of(0)
    assert (end.cause, end.link_id) == ("server_restart", pair.control.offers[0].link_id)
    assert pair.control.sessions["s"].link_id == ""
    assert pair.shards.links("s") == ()


async def test_a_storm_is_passed_on_in_order_and_nobody_is_lost(pair: World) -> None:
    """More at once than the kernel takes between two processes: the rest waits its turn."""
    sockets = await asyncio.gather(*(pair.raw(request("/s/1/ws")) for _ in range(STORM)))
    heads = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in sockets))
    assert all(head.startswith(b"HTTP/1.1 101") for head in heads)
    assert pair.gateway.stats().waiting == STORM
    assert pair.inside.stats().waiting == 0


async def test_a_client_that_talks_too_much_before_the_answer_is_not_passed_on(pair: World) -> None:
    """Whoever accepted it says what it would have said."""
    reader, _ = await pair.raw(request("/s/1/ws") + bytes(200_000))
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 101")


async def test_sockets_wait_for_a_process_that_is_busy_and_come_in_order(tmp_path: Path) -> None:
    """A channel that nobody reads takes some; the others follow when it is read, and none is doubled."""
    serve, passers, got = Serve(shard="1", process_id=os.getpid()), list[Passer](), list[str]()
    door = PassingDoor(
        tmp_path / "door", peer_uids=frozenset({os.geteuid()}),
        arrived=lambda _, passer: passers.append(passer),
    )  # fmt: skip
    door.open(mode=0o600)

    def take(passed: Passed, connection: socket.socket) -> None:
        got.append(passed.peer)
        connection.close()

    receiver = Receiver(take, lambda _link_id, _connected: None)
    receiver.open(tmp_path / "door", serve)
    await until(lambda: len(passers) == 1)
    loop = asyncio.get_running_loop()
    assert receiver._channel is not None
    loop.remove_reader(receiver._channel.fileno())
    with socket.socket() as one:
        for number in range(2000):
            assert passers[0].take(Passed(peer=str(number), head=b"x" * 500), one.fileno())
    assert passers[0]._waiting, "the kernel took all of them"
    loop.add_reader(receiver._channel.fileno(), receiver._receive)
    await until(lambda: len(got) == 2000)
    assert got == [str(number) for number in range(2000)]
    receiver.close()
    await until(lambda: not passers[0].take(Passed(peer="", head=b""), 0))
    passers[0].close()
    door.close()


async def test_without_descriptors_a_busy_channel_takes_nothing_and_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    passer = Passer(ours)
    with theirs, socket.socket() as one:
        while passer.take(Passed(peer="", head=b"x" * 500), one.fileno()) and not passer._waiting:
            pass
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            assert not passer.take(Passed(peer="", head=b""), one.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(passer._waiting) == 1
    passer.close()


async def test_the_channel_of_a_next_life_outlives_the_one_before(pair: World) -> None:
    """It may come before the service has seen the end of the older; without it nobody would be passed on."""
    older, stop = pair.shards._outposts["1"], asyncio.Event()
    again = GatewayProcess(pair.settings)
    living = asyncio.ensure_future(again.run(stop))
    await again.joined.wait()
    assert pair.shards._outposts["1"] is not older
    await until(lambda: pair.shards.joined() == ("1",))
    reader, _ = await pair.raw(request("/s/1/ws"))
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 101")
    assert again.gateway.stats().waiting == 1
    stop.set()
    await living


async def test_strangers_at_the_private_sockets_are_nobody(pair: World, tmp_path: Path) -> None:
    folder = pair.settings.sockets.parent
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with stranger:
        stranger.connect(str(folder / "sockets"))
        stranger.send(b"\xff junk")
        stranger.settimeout(5)
        assert await asyncio.to_thread(stranger.recv, 10) == b""
    client = Client(folder / "calls", part="service")
    with pytest.raises(PartUnavailable):
        offer = LinkOffer(link_id="x", ticket="t", subprotocol="binary", address="a")
        await client.call("attach", Attach(shard="7", offer=offer), Answer)
    await client.close()


def test_counters_of_a_process_that_is_gone_stay_and_its_gauges_do_not() -> None:
    here, gone = GatewayStats(links_opened=1, links_open=1), GatewayStats(links_opened=2, links_open=2)
    gone.refused(4404)
    gone.first_frame(0.02)
    total = added((here, ended(GatewayStats(), gone)))
    assert (total.links_opened, total.links_open, total.refusals[4404]) == (3, 1, 1)
    assert sum(total.first_frames) == 1


def test_an_order_travels_as_it_was_given() -> None:
    told = Told(
        kind="close_link", number=3, session_id="s", link_id="l", code=4409, why="taken", by="Téléphone"
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Told) == told


# -- a successor ------------------------------------------------------------------------------------------


class Site:
    """A port that stays, and one gateway after the other on it, before the same control."""

    def __init__(self, control: FakeControl) -> None:
        self.control = control
        (self.listening,) = listening.open_sockets("127.0.0.1", 0, {})
        self.port = self.listening.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.gateway: Gateway | None = None

    async def begin(self, limits: GatewayLimits) -> None:
        self.gateway = Gateway(
            attachments=self.control,
            http=asyncio.Protocol,
            origins=lambda: {self.origin},
            ids=FakeIds("first" if self.gateway is None else "next"),
            limits=limits,
        )
        self.control.streams = self.gateway
        await self.gateway.listen_on([self.listening.dup()])

    def stream(self, session_id: str) -> ResumableStream:
        async def ticket() -> Ticket:
            token = self.control.ticket(session_id)
            return Ticket(ticket=token, expires_at="", mode="control", path="/s/0/ws", stock_path="")

        return ResumableStream(self.origin, ticket)


async def test_fifty_live_clients_come_back_to_the_successor_and_nobody_is_refused(tmp_path: Path) -> None:
    """Told to come back, they dial while nobody takes connections, and are served by the next one: same key,
    same desktop, a new stream. (5,000: `deploy/bench gateway`.)
    """
    limits = GatewayLimits(close_s=0.2, poll_s=0.01, restart_jitter_ms=(0, 200))
    control = FakeControl()
    site = Site(control)
    sessions = [f"01JD{number:022d}" for number in range(50)]
    began: list[tuple[str, bool]] = []

    async def sit(session_id: str, stream: ResumableStream) -> None:
        while True:
            event = await stream.next_event()
            if isinstance(event, Began):
                began.append((session_id, event.resync))

    async with FakeDesktop(tmp_path / "rfb.sock") as desktop, contextlib.AsyncExitStack() as stack:
        await site.begin(limits)
        streams = []
        for session_id in sessions:
            control.add_session(session_id, str(desktop.path))
            streams.append(await stack.enter_async_context(site.stream(session_id)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sit(*each)) for each in zip(sessions, streams, strict=True)]
            await until(lambda: len(began) == 50)
            assert site.gateway is not None
            await site.gateway.close()
            dial = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", site.port))
            _, writer = await dial
            await site.begin(limits)
            await until(lambda: len(began) == 100, 20)
            writer.close()
            for task in tasks:
                task.cancel()
        assert sorted(began[50:]) == [(each, True) for each in sorted(sessions)]
        assert len(control.resumes) >= 50
        assert len(control.used) == 50, "a new ticket was needed"
        assert {end.cause for end in control.ends[:50]} == {"server_restart"}
    await site.gateway.close()
    site.listening.close()

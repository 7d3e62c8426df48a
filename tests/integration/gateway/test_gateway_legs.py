"""Desktops' sockets that the service hands to gateway processes: one for each attachment, none kept, and cut
by the service where an older one is overtaken, even if the process that has it stands still.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from session_service.base.errors import PartUnavailable
from session_service.base.rpc import Client
from session_service.core.close_codes import Close
from session_service.gateway import shards
from session_service.gateway.leg import open_desktop_socket
from session_service.gateway.legs_given import LegsGiven
from session_service.gateway.legs_taken import LegsTaken
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.messages import Answer, Attach, LinkNamed, Serve, Told
from session_service.gateway.outpost import Outpost
from session_service.ports.streams import LinkEnd, LinkOffer
from tests.fakes.gateway_world import GREETING, World, greet, running
from tests.fakes.rfb_desktop import FakeDesktop
from tests.fakes.until import until
from tests.integration.gateway.test_gateway_processes import KEY_DOWN, page_at
from tests.integration.gateway.test_gateway_resume import SID, add

GATEWAY = """
import asyncio, sys
from pathlib import Path
from session_service.app.system import SystemClock, SystemIds
from session_service.gateway import process
folder = Path(sys.argv[1])
told = process.ProcessSettings(
    calls=folder / "calls", sockets=folder / "sockets", shard="2", shards=("0", "1", "2"),
    ids=SystemIds(SystemClock()),
)
asyncio.run(process.run(told, asyncio.Event()))
"""


@pytest.fixture
async def pair() -> AsyncIterator[World]:
    async with running(processes=2) as started:
        yield started


@asynccontextmanager
async def gateway_process(world: World) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own for shard 2."""
    folder = world.shards._door._path.parent
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", GATEWAY, str(folder))
    try:
        await until(lambda: world.shards.joined() == ("2",), 30)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await until(lambda: not world.shards.joined())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_what_a_stopped_process_had_read_of_a_displaced_link_reaches_no_desktop(
    desktop: FakeDesktop,
) -> None:
    """The service cuts the desktop's side itself, before the newer link is answered."""
    async with running(processes=3) as world, gateway_process(world) as process:
        add(world, desktop)
        async with page_at(world, "2") as older, page_at(world, "0") as newer:
            assert (await older.open())["t"] == "opened"
            await older.socket.send(GREETING + b"\x01\x01")
            viewer = await desktop.viewer(0)
            process.send_signal(signal.SIGSTOP)
            await older.socket.send(KEY_DOWN)
            assert (await newer.open())["t"] == "opened"
            await asyncio.wait_for(viewer.closed.wait(), 5)
            process.send_signal(signal.SIGCONT)
            assert await closed_with(older.socket) in {Close.TAKEN, Close.LEG_LOST}
            assert viewer.messages == []
            await newer.bytes(12)


async def test_a_desktop_hears_at_once_that_the_process_of_its_link_was_killed(desktop: FakeDesktop) -> None:
    """The service has a descriptor of the connection, too: it must not keep it open."""
    async with running(processes=3) as world, gateway_process(world) as process:
        add(world, desktop)
        async with page_at(world, "2") as only:
            assert (await only.open())["t"] == "opened"
            await only.socket.send(GREETING + b"\x01\x01")
            viewer = await desktop.viewer(0)
            process.kill()
            await asyncio.wait_for(viewer.closed.wait(), 10)
            await until(lambda: not len(world.shards._legs))


async def test_no_descriptor_is_left_behind_by_links_that_came_and_went(
    pair: World, desktop: FakeDesktop
) -> None:
    async def once(mode: str) -> None:
        pair.control.add_session(mode, str(desktop.path))
        pair.control.sessions[mode].mode = mode
        async with pair.opened(mode) as client:
            await greet(client)
            assert len(pair.shards._legs) == 1
        await until(lambda: pair.shards.links(mode) == () and not len(pair.shards._legs))
        await until(lambda: all(viewer.closed.is_set() for viewer in desktop.viewers))

    await once("control")
    before = descriptors()
    for mode in ("control", "view") * 5:
        await once(mode)
    await until(lambda: descriptors() <= before)


async def test_a_process_gets_one_desktop_for_each_attachment_and_none_for_a_displaced_link(
    pair: World, desktop: FakeDesktop
) -> None:
    add(pair, desktop)
    async with page_at(pair, "1") as older, page_at(pair, "1") as newer:
        await older.open()
        first = pair.control.sessions[SID].link_id
        ask = pair.process._calls.desktop
        with pytest.raises(PartUnavailable):
            await ask(LinkNamed(session_id=SID, link_id=first))
        outpost = pair.shards._outposts["1"]
        await newer.open()
        second = pair.control.sessions[SID].link_id
        with pytest.raises(PartUnavailable):
            await ask(LinkNamed(session_id=SID, link_id=second))
        assert outpost.due == {}
        assert len(pair.shards._legs) == 1


async def test_beyond_the_limit_no_desktop_is_handed_on_and_its_client_is_told_to_come_back(
    desktop: FakeDesktop,
) -> None:
    """The service has a descriptor of each; those are for everybody."""
    limits = replace(GatewayLimits(close_s=0.2, poll_s=0.01), legs_max=1)
    async with running(limits, processes=2) as pair:
        for name in ("first", "second"):
            pair.control.add_session(name, str(desktop.path))
        async with pair.opened("first") as client:
            await greet(client)
            async with pair.connect() as refused:
                await refused.send(pair.first(pair.control.ticket("second")))
                assert (await closed_with(refused)) == Close.RETRY
            assert len(pair.shards._legs) == 1
        await until(lambda: not len(pair.shards._legs))
        async with pair.opened("second") as client:
            await greet(client)


async def test_a_link_that_is_closed_while_its_desktop_is_connected_is_given_none(
    pair: World, desktop: FakeDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may have taken its right away, or its desktop, in that moment."""
    is_asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(path: str, uid: int | None, limits: GatewayLimits) -> socket.socket:
        connected = await open_desktop_socket(path, uid, limits)
        is_asked.set()
        await go_on.wait()
        return connected

    monkeypatch.setattr(shards, "open_desktop_socket", slow)
    pair.control.add_session("s", str(desktop.path))
    with structlog.testing.capture_logs() as logs:
        async with pair.connect() as client:
            await client.send(pair.first(pair.control.ticket("s")))
            await is_asked.wait()
            (link_id,) = pair.shards.links("s")
            pair.shards.close_link("s", link_id, code=Close.ENDED, why="ended")
            await until(lambda: pair.gateway.links("s") == ())
            go_on.set()
            assert (await closed_with(client)) == Close.ENDED
        await until(lambda: len(desktop.viewers) == 1)
        await asyncio.wait_for(desktop.viewers[0].closed.wait(), 10)
        await pair.control.end_of()
    assert not [line for line in logs if line["log_level"] == "error"]
    assert not len(pair.shards._legs)
    assert pair.shards._outposts["1"].connecting == set()


async def test_a_shard_belongs_to_the_account_of_its_process(pair: World) -> None:
    """Whoever has ended another process cannot answer in its place."""
    pair.shards._uid_of = lambda shard: os.geteuid() + int(shard)
    stranger = Client(pair.settings.calls, part="service")
    with pytest.raises(PartUnavailable):
        await stranger.call("serve", Serve(shard="2", process_id=os.getpid()), bool)
    await stranger.close()
    assert pair.shards.joined() == ("1",)


async def closed_with(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(10):
            while True:
                await client.recv()
    return None if closed.value.rcvd is None else closed.value.rcvd.code


async def test_a_desktop_that_is_gone_is_told_and_leaves_nothing(pair: World, tmp_path: Path) -> None:
    pair.control.add_session(SID, str(tmp_path / "gone.sock"))
    before = descriptors()
    async with page_at(pair, "1") as only:
        answer = await only.open()
        assert (answer["t"], answer["why"]) == ("no", "retry")
    await until(lambda: not len(pair.shards._legs) and descriptors() <= before)


async def test_a_socket_that_nobody_waits_for_is_closed_and_a_missing_one_is_told() -> None:
    async def asked(_: LinkNamed) -> bool:
        return True

    taken = LegsTaken(asked, limit_s=5)
    ours, theirs = socket.socketpair()
    taken.arrived("unknown", theirs)
    assert theirs.fileno() < 0
    ours.close()
    waiting = asyncio.ensure_future(taken.connected("s", "l"))
    await until(lambda: "l" in taken._awaited)
    taken.arrived("l", None)
    with pytest.raises(Exception, match="no descriptor is left"):
        await waiting


async def test_a_leg_whose_two_ends_are_over_is_let_go_of_and_bytes_wake_nobody() -> None:
    legs, outpost = LegsGiven(), Outpost(Serve(shard="1", process_id=1))
    desktop, ours = socket.socketpair()
    handed = ours.dup()
    legs.keep(("s", ""), outpost, ours)
    desktop.send(b"a picture")
    assert legs._ends is not None
    assert legs._ends.poll(0) == []
    handed.shutdown(socket.SHUT_RDWR)
    handed.close()
    await until(lambda: not len(legs))
    desktop.close()
    legs.close()


async def test_a_desktop_hears_of_a_socket_that_nobody_waits_for() -> None:
    """The service's descriptor alone would keep it connected."""

    async def asked(_: LinkNamed) -> bool:
        return True

    desktop, ours = socket.socketpair()
    with desktop, ours, ours.dup():
        desktop.setblocking(False)
        LegsTaken(asked, limit_s=5).arrived("unknown", ours)
        assert desktop.recv(1) == b""


@pytest.mark.parametrize("mode", ["control", "view"])
async def test_a_link_that_has_the_name_of_a_session_elsewhere_takes_nothing_from_it(
    pair: World, desktop: FakeDesktop, mode: str
) -> None:
    """A process chooses the ids of its links, and every account can see the ids of sessions."""
    pair.control.add_session("other", str(desktop.path))
    pair.control.add_session("own", str(desktop.path))
    pair.control.sessions["own"].mode = mode
    liar = Client(pair.settings.calls, part="service")
    serve = Serve(shard="2", process_id=os.getpid())
    serving = asyncio.ensure_future(liar.call("serve", serve, bool, event=Told, on_event=lambda _: None))
    await until(lambda: "2" in pair.shards._outposts)
    async with pair.opened("other") as client:
        await greet(client)
        ticket = pair.control.ticket("own")
        offer = LinkOffer(link_id="other", ticket=ticket, subprotocol="binary", address="a")
        link = LinkNamed(session_id="own", link_id="other")
        assert (await liar.call("attach", Attach(shard="2", offer=offer), Answer)).attachment is not None
        with pytest.raises(PartUnavailable):  # it has no channel for it
            await liar.call("desktop", link, bool)
        liar.tell("ended", LinkEnd(session_id="own", link_id="other", cause="reset", close_code=None))
        with pytest.raises(PartUnavailable):
            await liar.call("desktop", link, bool)
        assert ("other", "") in pair.shards._legs
        assert not desktop.viewers[0].closed.is_set()
    serving.cancel()
    await asyncio.wait([serving])
    await liar.close()

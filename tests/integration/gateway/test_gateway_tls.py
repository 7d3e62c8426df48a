"""TLS in the same process: pages, links, big pictures, and clients that speak no TLS at all."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from session_service.app.certificate import Certificate
from session_service.client.models import Ticket
from session_service.client.resumable_stream import ResumableStream
from session_service.core.continuity.client import Began, Lost
from session_service.gateway import tls_door
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.tls_door import Handshake
from tests.fakes.certificates import make_certificate
from tests.fakes.gateway_world import World, greet, read_bytes, request, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until

PICTURE_BYTES = 8 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def server_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def client_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


def picture(viewer: Viewer, message: bytes) -> None:
    """Answer each update request with a lot."""
    assert viewer.transport is not None
    if message[0] == 3:
        viewer.transport.write(bytes(range(256)) * (PICTURE_BYTES // 256))


async def open_secure(
    world: World, certificate: tuple[Path, Path]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port, ssl=client_side(certificate))
    world.writers.append(writer)
    return reader, writer


async def test_our_own_client_trusts_the_machines_authorities_and_those_of_a_context_and_no_others(
    certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a context it asks the machine, which `SSL_CERT_FILE` may send elsewhere."""
    async with FakeDesktop(tmp_path / "rfb.sock") as desktop, running(tls=server_side(certificate)) as world:
        world.control.add_session("s", str(desktop.path))

        async def ticket() -> Ticket:
            return Ticket(
                ticket=world.control.ticket("s"),
                expires_at="",
                mode="control",
                path=f"/s/{world.shard}/ws",
                stock_path="",
            )

        async with ResumableStream(world.origin, ticket) as stranger:
            assert isinstance(await stranger.next_event(), Lost)
        async with ResumableStream(world.origin, ticket, ssl=client_side(certificate)) as given:
            assert isinstance(await given.next_event(), Began)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        async with ResumableStream(world.origin, ticket) as told:
            assert isinstance(await told.next_event(), Began)


async def test_a_page_and_a_link_share_the_secure_port(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """8 MB arrive whole and in order, through backpressure of both layers."""
    async with (
        FakeDesktop(tmp_path / "rfb.sock", answer=picture) as desktop,
        running(tls=server_side(certificate)) as world,
    ):
        reader, writer = await open_secure(world, certificate)
        writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 0")
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s", ssl=client_side(certificate)) as client:
            await greet(client)
            await client.send(b"\x03" + bytes(9))
            found = await read_bytes(client, PICTURE_BYTES)
            assert found == bytes(range(256)) * (PICTURE_BYTES // 256)
            await client.send(b"\x04\x01\x00\x00\x00\x00\x00\x61")
            client.transport.abort()
        assert (await world.control.end_of()).cause == "reset"
        viewer = await desktop.viewer()
        assert (await viewer.wait_messages(3))[-1] == b"\x04\x00\x00\x00\x00\x00\x00\x61"


async def test_a_client_without_tls_is_dropped(certificate: tuple[Path, Path]) -> None:
    async with running(tls=server_side(certificate)) as world:
        reader, _ = await world.raw(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1 << 16), 10)
        await until(lambda: world.gateway.stats().waiting == 0)


async def test_at_the_limit_of_handshakes_the_oldest_makes_room(certificate: tuple[Path, Path]) -> None:
    """Whoever dials and says nothing, or half of a handshake, keeps nobody out; and each counts once."""
    limits = replace(GatewayLimits(close_s=0.2), handshakes_max=3)
    async with running(limits, tls=server_side(certificate)) as world:
        hub = world.inside._hub
        silent = [await world.raw(said) for said in (b"", b"\x16\x03\x01\x02\x00\x01", b"")]
        for count, (oldest, _) in enumerate(silent[:2], 1):
            await until(lambda: len(hub.handshakes) == 3)
            reader, writer = await open_secure(world, certificate)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(oldest.read(), 10)
            assert world.gateway.stats().waiting_reset == count
            writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 0")
            await until(lambda: len(hub.handshakes) == len(hub.waiting) == 2)
            await world.raw(b"")


async def test_a_handshake_makes_room_for_first_messages_and_never_for_its_own(
    certificate: tuple[Path, Path],
) -> None:
    """The limits are two, the oldest is found over both, and a connection is not counted beside its
    handshake.
    """
    limits = replace(GatewayLimits(close_s=0.2), waiting_sockets_max=1)
    async with running(limits, tls=server_side(certificate)) as world:
        older, _ = await world.raw(b"")
        await until(lambda: world.gateway.stats().waiting == 1)
        for _ in range(3):
            reader, writer = await open_secure(world, certificate)
            writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 0")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(older.read(), 10)
        assert world.gateway.stats().waiting_reset == 1


async def test_a_handshake_that_takes_too_long_or_never_ends_leaves_nothing(
    certificate: tuple[Path, Path],
) -> None:
    """By its time, by its client, and by the end of the gateway."""
    limits = replace(GatewayLimits(close_s=0.2), head_s=0.2)
    async with running(limits):
        pass  # uvloop keeps a descriptor of its own from its first listening on
    before = len(os.listdir("/proc/self/fd"))
    async with running(limits, tls=server_side(certificate)) as world:
        slow, _ = await world.raw(b"\x16\x03\x01\x02\x00\x01")
        with contextlib.suppress(ConnectionResetError):
            assert not await asyncio.wait_for(slow.read(), 10)
        _, writer = await world.raw(b"")
        writer.close()
        await until(lambda: world.gateway.stats().waiting == 0)
        assert not world.inside._hub.handshakes
    async with running(tls=server_side(certificate)) as world:
        last, _ = await world.raw(b"\x16")
        await until(lambda: len(world.inside._hub.handshakes) == 1)
        await world.inside.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(last.read(), 10)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_handshake_that_is_dropped_before_it_began_is_closed() -> None:
    """Room for a newer one may be needed in the turn of the loop in which it came."""
    async with running() as world:
        ours, theirs = socket.socketpair()
        handshake = Handshake(ours, world.inside._hub)
        handshake.begin(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        handshake.reset()
        assert ours.fileno() < 0
        theirs.close()


async def test_without_descriptors_nobody_is_taken_for_a_moment_and_then_all_are(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in the kernel's queue meanwhile; the door does not turn in circles."""
    monkeypatch.setattr(tls_door, "FULL_S", 0.2)
    async with running(tls=server_side(certificate)) as world:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reader, writer = await open_secure(world, certificate)
        dialling = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0) + 1, hard))
            with structlog.testing.capture_logs() as logs:
                dialling.connect(("127.0.0.1", world.port))
                await until(lambda: any(line["event"] == "listen.limited" for line in logs))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: len(world.inside._hub.handshakes) == 1)
        dialling.close()
        writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 0")


async def test_a_secure_connection_of_another_process_is_carried_whole(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its inner bytes are relayed, with backpressure; the address that is told is the client's."""
    async with (
        FakeDesktop(tmp_path / "rfb.sock", answer=picture) as desktop,
        running(tls=server_side(certificate), processes=2) as world,
    ):
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s", ssl=client_side(certificate)) as client:
            assert world.control.offers[0].address == "127.0.0.1"
            assert world.gateway.links("s")
            assert not world.inside.links("s")
            await greet(client)
            await client.send(b"\x03" + bytes(9))
            assert await read_bytes(client, PICTURE_BYTES) == bytes(range(256)) * (PICTURE_BYTES // 256)
            assert world.inside._hub.relayed == 1
            client.transport.abort()
        assert (await world.control.end_of()).cause == "reset"
        await until(lambda: world.inside._hub.relayed == 0)


async def test_secure_connections_of_other_processes_count_as_links_of_the_one_that_relays(
    certificate: tuple[Path, Path], desktop: FakeDesktop
) -> None:
    """Each has two descriptors there, in any number; and what cannot be relayed is told to come back."""
    limits = replace(GatewayLimits(close_s=0.2, poll_s=0.01), links_max=1)
    async with running(limits, tls=server_side(certificate), processes=2) as world:
        world.control.add_session("s", str(desktop.path))
        async with world.opened("s", ssl=client_side(certificate)) as client:
            reader, writer = await open_secure(world, certificate)
            writer.write(request("/s/1/ws"))
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 503")
            writer.close()
            client.transport.abort()
        await world.control.end_of()
        await until(lambda: world.inside._hub.relayed == 0)
        async with world.opened("s", ssl=client_side(certificate)):
            assert world.inside._hub.relayed == 1
        await world.control.end_of(1)
        await until(lambda: world.inside._hub.relayed == 0)


async def test_a_new_certificate_is_shown_without_a_restart_and_old_tls_is_refused(tmp_path: Path) -> None:
    """Links that are open go on; the next one sees the new certificate."""
    certificate, key = make_certificate(tmp_path)
    inuse = Certificate(certificate, key)
    async with (
        FakeDesktop(tmp_path / "rfb.sock", answer=picture) as desktop,
        running(tls=inuse.context) as world,
    ):
        world.control.add_session("s", str(desktop.path))
        older = client_side((certificate, key))
        async with world.opened("s", ssl=older) as client:
            (tmp_path / "next").mkdir()
            newer = make_certificate(tmp_path / "next")
            for old, new in zip((certificate, key), newer, strict=True):
                old.write_bytes(new.read_bytes())
            watching = asyncio.ensure_future(inuse.watch(0.01))
            await until(lambda: inuse._look() == inuse._seen)
            reader, writer = await open_secure(world, newer)
            writer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"aiohttp /hello 0")
            await greet(client)
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", world.port, ssl=older)
            watching.cancel()
        ancient = client_side(newer)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            ancient.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", world.port, ssl=ancient)

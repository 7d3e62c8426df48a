"""TLS in the same process: pages, links, big pictures, and clients that speak no TLS at all."""

import asyncio
import datetime as dt
import ssl
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.gateway_world import World, greet, read_bytes, running
from tests.fakes.rfb_desktop import FakeDesktop, Viewer
from tests.fakes.until import until

PICTURE_BYTES = 8 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


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

"""A running gateway for tests: a real port, aiohttp behind it, a fake control, and clients with and without
manners.

Not a mock of the gateway: only control and, where a test says so, the desktop are ours.
"""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect

from session_service.core.shards import names
from session_service.gateway.gateway import Gateway
from session_service.gateway.limits import GatewayLimits
from session_service.gateway.process import GatewayProcess, ProcessSettings
from session_service.gateway.shards import Shards
from tests.fakes.gateway_control import FakeControl, FakeIds
from tests.fakes.until import until

SHORT = GatewayLimits(
    head_s=0.5,
    first_message_s=0.5,
    ping_s=0.2,
    silent_s=0.8,
    stall_s=0.3,
    slow_s=2.0,
    close_s=0.2,
    poll_s=0.01,
    wait_s=0.1,
    frame_s=0.6,
)
XVNC = (
    *(
        "Xvnc",
        "-rfbunixmode",
        "0600",
        "-rfbport",
        "-1",
        "-SecurityTypes",
        "None",
        "-AlwaysShared=1",
        "-noreset",
    ),
    *("-depth", "24", "-nolisten", "tcp", "-extension", "GLX"),
)
GREETING = b"RFB 003.008\n"


class World:
    """One gateway on one port."""

    def __init__(
        self, gateway: Gateway, control: FakeControl, port: int, *, secure: bool = False, shard: str = "0"
    ) -> None:
        self.gateway = gateway
        """The one that carries this world's links."""
        self.shard = shard
        self.control = control
        self.port = port
        self.origin = f"http{'s' if secure else ''}://127.0.0.1:{port}"
        self.inside = gateway
        """The one that accepts."""
        self.shards: Shards
        self.second: asyncio.Future[bool] | None = None
        self.settings: ProcessSettings
        self.process: GatewayProcess
        self.writers: list[asyncio.StreamWriter] = []
        self.aud = f"ws{'s' if secure else ''}://127.0.0.1:{port}"

    def connect(self, path: str = "", **options: Any) -> connect:
        """A websockets client as our SDK uses it."""
        path = path or f"/s/{self.shard}/ws"
        options.setdefault("subprotocols", ["binary"])
        options.setdefault("origin", self.origin)
        return connect(
            self.aud + path,
            compression=None,
            ping_interval=None,
            proxy=None,
            max_size=None,
            close_timeout=2,
            **options,
        )

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client without manners: these bytes, on a fresh connection, which is dropped with the world."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    def first(self, ticket: str, **more: object) -> str:
        """The first message of the page."""
        return json.dumps({"t": "open", "aud": self.aud, "auth": ticket, "can": [], **more})

    @asynccontextmanager
    async def opened(self, session_id: str, **options: Any) -> AsyncIterator[ClientConnection]:
        """An open link with the answer read, before any byte of RFB."""
        async with self.connect(**options) as client:
            await client.send(self.first(self.control.ticket(session_id)))
            answer = json.loads(await client.recv())
            while answer["t"] == "wait":
                answer = json.loads(await client.recv())
            assert answer["t"] == "opened", answer
            yield client


@asynccontextmanager
async def running(
    limits: GatewayLimits | None = None, *, processes: int = 1, public: str = "", **options: Any
) -> AsyncIterator[World]:
    """A gateway with aiohttp behind it, as the program builds them. With two processes its links are carried
    by a second one, which has its own end of every private socket, though it lives in this process.
    `public` is an origin that a proxy in front gives it.
    """
    control = FakeControl()
    application = web.Application()

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"aiohttp {request.path} {len(await request.read())}")

    async def misdirected(request: web.Request) -> web.Response:
        response = web.Response(status=421)
        response.force_close()
        return response

    application.router.add_route("*", "/hello", hello)
    application.router.add_route("*", "/s/{rest:.*}", misdirected)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    origins: set[str] = set()
    tls = options.pop("tls", None)
    ids = FakeIds()
    limits = limits or GatewayLimits(close_s=0.2, poll_s=0.01)
    folder = Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))  # short, for sockets
    shards = Shards(
        control,
        calls=folder / "calls",
        sockets=folder / "sockets",
        peer_uids=frozenset({os.geteuid()}),
        origins=lambda: origins,
        limits=limits,
    )
    gateway = Gateway(
        attachments=shards,
        http=runner.server,
        origins=lambda: origins,
        ids=ids,
        limits=limits,
        shards=names(processes),
        elsewhere=shards.owner,
        **options,
    )
    control.streams = shards
    ((_host, port),) = await gateway.listen("127.0.0.1", 0, tls=tls)
    world = World(gateway, control, port, secure=tls is not None, shard=str(processes - 1))
    if public:
        world.origin, world.aud = public, public.replace("http", "ws", 1)
    origins.add(world.origin)
    await shards.open(gateway)
    second = process = None
    stop = asyncio.Event()
    if processes == 2:
        trusted = options.get("trusted", ())
        told = ProcessSettings(
            calls=folder / "calls",
            sockets=folder / "sockets",
            shard="1",
            shards=names(processes),
            ids=ids,
            trusted=trusted,
            limits=limits,
        )
        second = GatewayProcess(told)
        world.settings, world.process = told, second
        process = asyncio.ensure_future(second.run(stop))
        await until(lambda: shards.joined() == ("1",))
        await second.joined.wait()
        world.gateway = second.gateway
    world.inside, world.shards, world.second = gateway, shards, process
    try:
        yield world
    finally:
        for writer in world.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await gateway.close()
        await shards.close()
        if process is not None:
            stop.set()
            await process
        await runner.cleanup()
        shutil.rmtree(folder)
        for each in (gateway, second.gateway if second is not None else gateway):
            hub = each._hub
            left = (hub.links, hub.sessions, hub.connections, hub.waiting, len(hub.tasks), len(hub.ticker))
            assert not any(left), f"a closed gateway still knows {left}"
        known = (shards._owners, shards._outposts, shards._arrived, len(shards._tasks))
        assert not any(known), f"closed shards still know {known}"


async def greet(client: ClientConnection) -> bytes:
    """The RFB handshake of a sharing client; returns what came after ServerInit was begun."""
    seen = await read_bytes(client, 12)
    assert seen == GREETING
    await client.send(GREETING)
    assert await read_bytes(client, 2) == b"\x01\x01"
    await client.send(b"\x01")
    assert await read_bytes(client, 4) == bytes(4)
    await client.send(b"\x00")
    return await read_bytes(client, 24)


async def everything(reader: asyncio.StreamReader, limit_s: float = 10.0) -> bytes:
    """What comes until the end of a connection, a reset after a close frame included."""
    found = b""
    async with asyncio.timeout(limit_s):
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                found += piece
    return found


async def read_bytes(client: ClientConnection, count: int) -> bytes:
    """At least `count` bytes of the stream, whole messages."""
    found = b""
    while len(found) < count:
        message = await client.recv()
        assert isinstance(message, bytes), message
        found += message
    return found


def request(path: str, *headers: str, method: str = "GET", key: str = "dGhlIHNhbXBsZSBub25jZQ==") -> bytes:
    """The head of an upgrade, with further headers at will."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def masked(
    opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0, mask: bytes | None = b"abcd"
) -> bytes:
    """A client frame; `mask=None` leaves it unmasked, which is against the rules."""
    head = bytearray(((0x80 if fin else 0) | reserved | opcode,))
    flag = 0 if mask is None else 0x80
    if len(payload) < 126:
        head.append(flag | len(payload))
    elif len(payload) < 65536:
        head += bytes((flag | 126,)) + len(payload).to_bytes(2, "big")
    else:
        head += bytes((flag | 127,)) + len(payload).to_bytes(8, "big")
    if mask is None:
        return bytes(head) + payload
    return bytes(head) + mask + bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))


@asynccontextmanager
async def xvnc(folder: Path, geometry: str = "640x480") -> AsyncIterator[Path]:
    """A real Xvnc without a sandbox; yields its RFB socket. Its display is a number of its own, by
    -displayfd.
    """
    rfb_socket = folder / "rfb.sock"
    reading, writing = os.pipe()
    with (folder / "xvnc.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *XVNC, "-geometry", geometry, "-displayfd", str(writing), "-rfbunixpath", str(rfb_socket),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,),
        )  # fmt: skip
    os.close(writing)
    try:
        display = await asyncio.to_thread(_read_line, reading)
        (folder / "display").write_text(display)
        yield rfb_socket
    finally:
        os.close(reading)
        process.terminate()
        await process.wait()


def _read_line(descriptor: int) -> str:
    """Read to the newline: Xvnc writes it separately, and dies when its reader is gone by then."""
    found = b""
    while not found.endswith(b"\n"):
        piece = os.read(descriptor, 64)
        assert piece, "Xvnc ended before it was ready"
        found += piece
    return found.decode().strip()

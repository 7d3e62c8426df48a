"""What the relay benchmark measures, as a process: our gateway with a control that lets everybody in, or a
bare TCP relay.

    python _relay_gateway.py gateway --port PORT --target UNIX_SOCKET
    python _relay_gateway.py raw --port PORT --target UNIX_SOCKET

The bare relay is the peer that shows what the kernel allows: the same loop and buffers, no frames, no
protocol. It is not part of the product.
"""

import argparse
import asyncio
from typing import cast

import uvloop

from session_service.app import heap
from session_service.app.system import SystemClock, SystemIds
from session_service.gateway.gateway import Gateway
from session_service.gateway.limits import GatewayLimits
from session_service.ports.streams import Attachment, LinkEnd, LinkOffer

LIMITS = GatewayLimits()


class OpenDoor:
    """Attaches everybody to one desktop."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def attach(self, offer: LinkOffer) -> Attachment:
        return Attachment(
            session_id=offer.link_id,
            generation=1,
            mode="control",
            socket=self._socket,
            uid=None,
            hold_s=1800.0,
            device_label="bench",
        )

    async def wait_starting(self, offer: LinkOffer) -> str:
        return ""

    def ended(self, end: LinkEnd) -> None:
        pass

    def leg_lost(self, session_id: str, link_id: str) -> None:
        pass


class RawClient(asyncio.Protocol):
    """One side of the bare relay; `peer` is the other one."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.peer: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=LIMITS.down_bytes_max)
        self.opening = asyncio.ensure_future(
            asyncio.get_running_loop().create_unix_connection(lambda: RawDesktop(self), self._target)
        )

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self.early.append(data)
        else:
            self.peer.write(data)

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None:
            self.peer.abort()


class RawDesktop(asyncio.Protocol):
    """The desktop's side."""

    def __init__(self, client: RawClient) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client.peer = cast("asyncio.Transport", transport)
        self._client.peer.set_write_buffer_limits(high=LIMITS.up_bytes_max)
        self._client.peer.writelines(self._client.early)

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.transport.abort()


async def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("kind", choices=("gateway", "raw"))
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--target", required=True)
    chosen = made.parse_args()
    if chosen.kind == "raw":
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: RawClient(chosen.target), "127.0.0.1", chosen.port, backlog=4096)
    else:
        gateway = Gateway(
            attachments=OpenDoor(chosen.target),
            http=asyncio.Protocol,
            origins=lambda: (),
            ids=SystemIds(SystemClock()),
        )
        await gateway.listen("127.0.0.1", chosen.port)
    heap.settle()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())

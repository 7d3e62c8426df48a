"""A connection goes from the process that accepted it to the one that owns its shard, with the bytes read.

Not a relay: the socket itself is handed on by SCM_RIGHTS, and the first process has nothing to do with it any
more. One datagram each over a unix socket of kind SEQPACKET, so that no message is ever cut. The kernel
cannot know the owner of a connection before its request head was read, which is why sockets are passed.
"""

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from session_service.base import private_socket
from session_service.base.rpc import peer_credentials
from session_service.gateway.messages import DesktopOf, Passed, Serve

DATAGRAM_BYTES_MAX: Final = 64 * 1024
"""A request head and what a client said behind it; nobody with manners says more before the answer."""
WAITING_MAX: Final = 8192
"""Sockets that wait for a busy gateway process; beyond it the service serves them itself."""
INTRODUCED_S: Final = 5.0
"""For a gateway process to say who it is, once it has connected; it says so at once."""
INTRODUCING_MAX: Final = 64
"""Channels that have not said whose they are; more of them are closed."""
PASSED_AT_ONCE: Final = 64
"""Taken in one turn of the loop, so that a storm does not stop the streams."""
_DESCRIPTOR_BYTES: Final = array("i").itemsize


class Owner(Protocol):
    """Whoever carries the connections of a shard."""

    def take(self, passed: Passed, descriptor: int) -> bool:
        """Take a connection; False when that is impossible, and nothing happened. The descriptor stays the
        caller's and may be closed at once.
        """
        ...


class Passer:
    """The service's end: sends sockets to one gateway process, in order, without blocking."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel: socket.socket | None = channel
        self._waiting: deque[tuple[bytes, int]] = deque()

    def take(self, passed: Passed | DesktopOf, descriptor: int) -> bool:
        data = msgspec.msgpack.encode(passed)
        if self._channel is None or len(data) > DATAGRAM_BYTES_MAX or len(self._waiting) >= WAITING_MAX:
            return False
        channel = self._channel
        if not self._waiting:
            if self._send(channel, data, descriptor):
                return True
            if channel.fileno() < 0:
                return False
        try:
            kept = os.dup(descriptor)
        except OSError:  # no descriptor is left to keep it by
            return False
        if not self._waiting:
            asyncio.get_running_loop().add_writer(channel.fileno(), self._send_waiting)
        self._waiting.append((data, kept))
        return True

    def close(self) -> None:
        """Send no more; what waits is dropped, and its clients dial again. Repeating this is harmless."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if self._waiting:
            asyncio.get_running_loop().remove_writer(channel.fileno())
        while self._waiting:
            os.close(self._waiting.popleft()[1])
        channel.close()

    def _send(self, channel: socket.socket, data: bytes, descriptor: int) -> bool:
        """Say whether it is sent. The other end may be gone, or the kernel have too many on their way."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", (descriptor,)))]
        try:
            channel.sendmsg((data,), rights)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def _send_waiting(self) -> None:
        while self._waiting and self._channel is not None:
            data, descriptor = self._waiting[0]
            if not self._send(self._channel, data, descriptor):
                return
            self._waiting.popleft()
            os.close(descriptor)
        if self._channel is not None:
            asyncio.get_running_loop().remove_writer(self._channel.fileno())


class PassingDoor:
    """Where gateway processes come for their sockets: one channel each, the first datagram says whose."""

    def __init__(
        self, path: Path, *, peer_uids: frozenset[int], arrived: Callable[[Serve, Passer], None]
    ) -> None:
        self._path = path
        self._peer_uids = peer_uids
        self._arrived = arrived
        self._listening: socket.socket | None = None
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        """Channels that have not said yet whose they are."""

    def open(self, *, mode: int, gid: int | None = None) -> None:
        """Listen; a stale socket of an earlier run is replaced."""
        listening = private_socket.bound(self._path, socket.SOCK_SEQPACKET)
        if gid is not None:
            os.chown(self._path, -1, gid)
        self._path.chmod(mode)
        listening.listen()
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Take no more of them."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        for channel in tuple(self._silent):
            self._drop(channel)

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            channel, _ = self._listening.accept()
        except OSError:
            return
        channel.setblocking(False)
        if peer_credentials(channel)[1] not in self._peer_uids or len(self._silent) >= INTRODUCING_MAX:
            channel.close()
            return
        # It says who it is before it connects to anything else; without a word it is nobody.
        loop = asyncio.get_running_loop()
        self._silent[channel] = loop.call_later(INTRODUCED_S, self._drop, channel)
        loop.add_reader(channel.fileno(), self._introduced, channel)

    def _introduced(self, channel: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(channel.fileno())
        self._silent.pop(channel).cancel()
        try:
            serve = msgspec.msgpack.decode(channel.recv(DATAGRAM_BYTES_MAX), type=Serve)
        except (OSError, msgspec.DecodeError):
            channel.close()
            return
        if serve.process_id != peer_credentials(channel)[0]:
            # It would be given the connections of another one.
            channel.close()
            return
        self._arrived(serve, Passer(channel))

    def _drop(self, channel: socket.socket) -> None:
        self._silent.pop(channel).cancel()
        asyncio.get_running_loop().remove_reader(channel.fileno())
        channel.close()


class Receiver:
    """The gateway process's end."""

    def __init__(
        self,
        take: Callable[[Passed, socket.socket], None],
        desktop: Callable[[str, socket.socket | None], None],
    ) -> None:
        self._take = take
        self._desktop = desktop
        self._channel: socket.socket | None = None

    def open(self, path: Path, serve: Serve) -> None:
        """Connect and say who we are. Raises OSError when the service is not there."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            channel.connect(str(path))
            channel.send(msgspec.msgpack.encode(serve))
        except OSError:
            channel.close()
            raise
        channel.setblocking(False)
        self._channel = channel
        asyncio.get_running_loop().add_reader(channel.fileno(), self._receive)

    def close(self) -> None:
        """Receive no more. Repeating this is harmless."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _receive(self) -> None:
        for _ in range(PASSED_AT_ONCE):
            if self._channel is None:
                return
            try:
                data, rights, _flags, _ = self._channel.recvmsg(
                    DATAGRAM_BYTES_MAX + 1, socket.CMSG_SPACE(_DESCRIPTOR_BYTES), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, rights = b"", []
            if not data:
                self.close()
                return
            found = array("i")
            for _level, _kind, content in rights:
                found.frombytes(content[: len(content) - len(content) % _DESCRIPTOR_BYTES])
            sockets = [socket.socket(fileno=descriptor) for descriptor in found]
            try:
                passed = msgspec.msgpack.decode(data, type=Passed | DesktopOf)
            except msgspec.DecodeError:
                for one in sockets:
                    one.close()
                continue
            for one in sockets:
                one.setblocking(False)
            if isinstance(passed, DesktopOf):
                self._desktop(passed.link_id, sockets[0] if sockets else None)
                continue
            for one in sockets:
                self._take(passed, one)

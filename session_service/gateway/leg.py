"""The desktop's side of a stream: one RFB unix socket, opened so that a desktop cannot lead us anywhere else.

Not RFB: bytes go up and down unread. Nothing in a folder that a desktop can write is trusted: a symbolic
link in place of its socket reached another socket as root in a trial (design.md section 3).
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from typing import Final, Protocol, cast

from session_service.gateway.limits import GatewayLimits
from session_service.gateway.liveness import Ticker

_RETRY_S: Final = 0.02
_CREDENTIALS: Final = struct.Struct("3i")


class DesktopSocketRefused(Exception):
    """What lies at the desktop's socket path is not the desktop's socket; the path is never followed
    further.
    """


class LegOwner(Protocol):
    """Whoever takes what a desktop says."""

    def leg_opened(self, leg: "DesktopLeg") -> None: ...
    def leg_said(self, data: bytes) -> None: ...
    def leg_full(self) -> None: ...
    def leg_ready(self) -> None: ...
    def leg_lost(self) -> None: ...


class DesktopLeg(asyncio.Protocol):
    """One connection to a desktop. Closing lets what was written still arrive, for a limited time.

    It has no owner until `begin`. Who may have ended since is looked at there, and not while the loop still
    takes the socket over: uvloop forgets to let go of one that is closed in that moment, so that later the
    number of its descriptor is closed, whoever has it by then.
    """

    __slots__ = (
        "_connected",
        "_early",
        "_limits",
        "_owner",
        "_paused",
        "_ticker",
        "_transport",
        "closing_at",
    )

    def __init__(self, limits: GatewayLimits, ticker: Ticker, connected: socket.socket) -> None:
        self._connected = connected
        self._owner: LegOwner | None = None
        self._early: bytes | None = b""
        """What the desktop said before `begin`; None from there on."""
        self._limits = limits
        self._ticker = ticker
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self.closing_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By a cast: the transports of uvloop are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.up_bytes_max)

    def begin(self, owner: LegOwner) -> bool:
        """Belong to `owner` from now on, and tell it what was said already; False when the desktop has gone
        since it was connected.
        """
        if self._transport is None or self._transport.is_closing():
            return False
        early, self._early = self._early, None
        self._owner = owner
        owner.leg_opened(self)
        if early and self._owner is not None:
            owner.leg_said(early)
        return True

    def data_received(self, data: bytes) -> None:
        if self._owner is not None:
            self._owner.leg_said(data)
        elif self._early is not None:
            self._early += data  # for the one turn of the loop until `begin`

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.leg_full()

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.leg_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        owner, self._owner, self._transport = self._owner, None, None
        # The service may have a descriptor of it, too: the desktop hears of its end by this.
        with contextlib.suppress(OSError):
            self._connected.shutdown(socket.SHUT_RDWR)
        self._ticker.remove(self)
        if owner is not None:
            owner.leg_lost()

    def write(self, data: bytes) -> None:
        """Send whole messages to the desktop."""
        if self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        """Read the desktop no more for now; it is slowed down by its full socket, and nothing is lost."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def close(self, last: bytes, now: float) -> None:
        """Send `last`, then close. What cannot be sent yet gets `leg_close_s`, then it is dropped."""
        self._owner = None
        if self._transport is None:
            return
        if last:
            self._transport.write(last)
        self._transport.close()
        self.closing_at = now
        self._ticker.add(self, now + self._limits.leg_close_s)

    def abort(self) -> None:
        """Drop the connection and whatever waits for it."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

    def look(self, now: float, excused: float) -> float | None:
        ends = max(self.closing_at, excused) + self._limits.leg_close_s
        return None if self._transport is None or now >= ends else ends

    def judge(self, now: float, excused: float) -> None:
        if self.look(now, excused) is None:
            self.abort()


async def open_desktop_socket(path: str, uid: int | None, limits: GatewayLimits) -> socket.socket:
    """Return a connected, non-blocking socket to the desktop.

    Args:
        path: the desktop's RFB socket; only its last component may be under the desktop's control.
        uid: who must own it and serve it; None = we ourselves.

    Raises:
        DesktopSocketRefused: it is a link, no socket, or of somebody else.
        OSError, TimeoutError: it is not there, or does not take connections.
    """
    wanted = os.geteuid() if uid is None else uid
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except ValueError as exc:
        raise DesktopSocketRefused("path that is none") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != wanted:
            raise DesktopSocketRefused("not a socket of this desktop")
        # Through the descriptor, so that what was looked at is what is connected, whatever lies at the path
        # by now.
        connected = await _connect(f"/proc/self/fd/{descriptor}", limits.leg_connect_s)
    finally:
        os.close(descriptor)
    _pid, peer_uid, _gid = _CREDENTIALS.unpack(
        connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    if peer_uid != wanted:
        connected.close()
        raise DesktopSocketRefused("served by somebody else")
    return connected


async def _connect(path: str, limit_s: float) -> socket.socket:
    """Connect without blocking. A full backlog of a unix socket says EAGAIN and is tried again; it is never
    "in progress", so that nearly every desktop is connected at once and without a timer.
    """
    connected = _try_to_connect(path)
    if connected is not None:
        return connected
    async with asyncio.timeout(limit_s):
        while True:
            await asyncio.sleep(_RETRY_S)
            connected = _try_to_connect(path)
            if connected is not None:
                return connected


def _try_to_connect(path: str) -> socket.socket | None:
    """Return a connected socket, or None while the backlog is full."""
    candidate = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        candidate.connect(path)
    except BlockingIOError:
        candidate.close()
        return None
    except BaseException:
        candidate.close()
        raise
    return candidate

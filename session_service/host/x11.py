"""Ask an X server three things: is a window manager there, which windows are open, and please close.

Not an X library: the few requests of the core protocol that are needed, over the display's private unix
socket. Why by hand: no program has to run inside the sandbox for it, which keeps "ready" at a fifth of a
second, and what comes back is parsed with a limit on every length, because whoever listens on that socket
belongs to the desktop, not to us. Source: X Window System Protocol, X.Org release 7.7; EWMH 1.5.
"""

import asyncio
import contextlib
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_service.base import errors
from session_service.base.rpc import peer_credentials

REPLY_BYTES_MAX: Final = 1 << 20
WINDOWS_MAX: Final = 500
TITLE_LETTERS_MAX: Final = 200
CALL_S: Final = 2.0
LOOK_AGAIN_S: Final = 0.02
"""When nothing is told: the check window is named by the root before it names itself."""
_COOKIE_NAME: Final = b"MIT-MAGIC-COOKIE-1"
_CHECK: Final = "_NET_SUPPORTING_WM_CHECK"
_EVENT_MASK, _PROPERTY_CHANGES, _PROPERTY_NOTIFY = 1 << 11, 1 << 22, 28
_ANY_TYPE: Final = 0
_TERMINALS: Final = ("term", "konsole", "kitty", "alacritty", "urxvt", "rxvt", "foot")
_FURNITURE_TYPES: Final = ("_NET_WM_WINDOW_TYPE_DOCK", "_NET_WM_WINDOW_TYPE_DESKTOP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window of an application. Its title is shown to its user, never logged."""

    number: int
    title: str
    closable: bool
    terminal: bool = False
    """By its class, which it chooses itself: a hint for the order in which windows are asked."""


def open_socket(path: Path, *, uid: int) -> socket.socket:
    """Connect to a unix socket in a folder that a desktop can write, without being led elsewhere.

    The file is opened without following a link, must be a socket of `uid`, is connected through its
    descriptor, and the peer must be `uid` too (design.md 3: a symlink there reached another socket as root in
    a trial).

    Raises: PartRefused when it is anything else; OSError when nobody listens.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != uid:
            raise errors.PartRefused("what lies in place of the desktop's socket is not its socket")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{descriptor}")
            if peer_credentials(connection)[1] != uid:
                raise errors.PartRefused("another user listens on the desktop's socket")
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(descriptor)


class Display:
    """One connection to the X server of a desktop; every call has a limit of time and size."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._atoms: dict[str, int] = {}
        self.root = 0

    @classmethod
    async def connect(cls, path: Path, *, cookie: bytes, uid: int) -> "Display":
        """Connect and authenticate. Raises OSError or PartRefused when that fails."""
        reader, writer = await asyncio.open_unix_connection(sock=open_socket(path, uid=uid))
        display = cls(reader, writer)
        try:
            async with asyncio.timeout(CALL_S):
                await display._set_up(cookie)
        except BaseException:
            await display.close()
            raise
        return display

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CALL_S):
                await self._writer.wait_closed()

    async def has_window_manager(self) -> bool:
        """Say whether EWMH's check window is there and points at itself."""
        first = await self._numbers(self.root, _CHECK)
        if len(first) != 1:
            return False
        return await self._numbers(first[0], _CHECK) == first

    async def window_manager(self) -> None:
        """Return when a window manager is there.

        The display tells of each change of the property: to ask again and again would slow down the start
        that is waited for. The caller sets the limit of time.
        """
        check = await self._atom(_CHECK)
        self._writer.write(struct.pack("<BBHIII", 2, 0, 4, self.root, _EVENT_MASK, _PROPERTY_CHANGES))
        while not await self.has_window_manager():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._changed(check)

    async def windows(self) -> list[Window]:
        """Return the windows of applications.

        Those that the window manager lists, without panel and wallpaper.
        """
        furniture = {await self._atom(name) for name in _FURNITURE_TYPES}
        delete = await self._atom("WM_DELETE_WINDOW")
        found = []
        for number in (await self._numbers(self.root, "_NET_CLIENT_LIST"))[:WINDOWS_MAX]:
            if furniture & set(await self._numbers(number, "_NET_WM_WINDOW_TYPE")):
                continue
            protocols = await self._numbers(number, "WM_PROTOCOLS")
            title = await self._text(number, "_NET_WM_NAME") or await self._text(number, "WM_NAME")
            kind = (await self._text(number, "WM_CLASS")).lower()
            found.append(
                Window(
                    number=number,
                    title=title,
                    closable=delete in protocols,
                    terminal=any(word in kind for word in _TERMINALS),
                )
            )
        return found

    async def ask_to_close(self, window: Window) -> None:
        """Send WM_DELETE_WINDOW, what the close button of its frame would send."""
        data = struct.pack("<5I", await self._atom("WM_DELETE_WINDOW"), 0, 0, 0, 0)
        event = struct.pack("<BBHII", 33, 32, 0, window.number, await self._atom("WM_PROTOCOLS")) + data
        self._writer.write(struct.pack("<BBHII", 25, 0, 11, window.number, 0) + event)
        await self._numbers(self.root, "_NET_CLIENT_LIST")  # a round trip: it has been received

    async def _set_up(self, cookie: bytes) -> None:
        name = _COOKIE_NAME + b"\0" * (-len(_COOKIE_NAME) % 4)
        data = cookie + b"\0" * (-len(cookie) % 4)
        self._writer.write(
            struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(_COOKIE_NAME), len(cookie)) + name + data
        )
        status, length = struct.unpack("<BxxxxxH", await self._reader.readexactly(8))
        body = await self._reader.readexactly(length * 4)
        if status != 1 or len(body) < 32:
            raise errors.PartRefused("the display refuses our cookie")
        vendor_bytes, formats = struct.unpack_from("<H", body, 16)[0], body[21]
        place = 32 + vendor_bytes + (-vendor_bytes % 4) + 8 * formats
        if len(body) < place + 4:
            raise errors.PartRefused("the display's greeting is cut off")
        (self.root,) = struct.unpack_from("<I", body, place)

    async def _reply(self, request: bytes) -> bytes:
        """Send a request that has a reply and return that reply.

        B"" when the server answers with an error.
        """
        async with asyncio.timeout(CALL_S):
            self._writer.write(request)
            await self._writer.drain()
            while True:
                head = await self._reader.readexactly(32)
                if head[0] == 1:
                    (extra,) = struct.unpack_from("<I", head, 4)
                    if extra * 4 > REPLY_BYTES_MAX:
                        raise errors.PartRefused("the display's answer is too long")
                    return head + await self._reader.readexactly(extra * 4)
                if head[0] == 0:
                    return b""

    async def _changed(self, atom: int) -> None:
        """Return at the next event that says that this property of the root window has changed."""
        while True:
            event = await self._reader.readexactly(32)
            if event[0] & 0x7F == _PROPERTY_NOTIFY and struct.unpack_from("<I", event, 8)[0] == atom:
                return

    async def _atom(self, name: str) -> int:
        if (known := self._atoms.get(name)) is not None:
            return known
        text = name.encode("ascii")
        padded = text + b"\0" * (-len(text) % 4)
        reply = await self._reply(struct.pack("<BBHHxx", 16, 0, 2 + len(padded) // 4, len(text)) + padded)
        atom = int(struct.unpack_from("<I", reply, 8)[0]) if reply else 0
        self._atoms[name] = atom
        return atom

    async def _property(self, window: int, name: str) -> tuple[int, bytes]:
        """Return (bits per item, bytes) of a property, (0, b"") when there is none."""
        atom = await self._atom(name)
        reply = await self._reply(struct.pack("<BBHIIIII", 20, 0, 6, window, atom, _ANY_TYPE, 0, 4096))
        if not reply:
            return 0, b""
        (items,) = struct.unpack_from("<I", reply, 16)
        return reply[1], reply[32 : 32 + items * (reply[1] // 8)]

    async def _numbers(self, window: int, name: str) -> list[int]:
        bits, data = await self._property(window, name)
        return [number for (number,) in struct.iter_unpack("<I", data)] if bits == 32 else []

    async def _text(self, window: int, name: str) -> str:
        bits, data = await self._property(window, name)
        if bits != 8:
            return ""
        text = data.decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:TITLE_LETTERS_MAX]

"""A desktop for programs: look at it, type, click, copy, change its size, and go on over lost links.

Not a viewer and not the API: `api.py` starts and ends sessions, `ResumableStream` carries the bytes, `screen`
understands them. Input that was taken reaches the desktop exactly once while the stream goes on; after a new
stream (`Began` with `resync`) the handshake is done again here, and `lost_input` says whether keystrokes may
be missing. A program that types waits while the link is gone; it is never typing into a frozen picture.

Example:
    async with open_desktop("https://desk.example", token, session_id) as desktop:
        await desktop.type("ls\\n")
        Path("screen.png").write_bytes((await desktop.screenshot()).png())

For users: docs/client.md.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Final, Literal

from session_service.base import errors
from session_service.base.aio import Tasks
from session_service.client.api import Api
from session_service.client.framebuffer import NotRfb, Picture, key, keys_of, pointer
from session_service.client.models import Ticket
from session_service.client.resumable_stream import NewStream, ResumableStream, StreamEnded
from session_service.client.screen import Answer, Bell, Copied, Greeted, Painted, Resized, Screen
from session_service.client.transport import Transport
from session_service.core.continuity.client import Began, Lost, Planned, Progress, Replayed

__all__ = [
    "LEFT",
    "MIDDLE",
    "RIGHT",
    "WHEEL_DOWN",
    "WHEEL_UP",
    "Began",
    "Bell",
    "Copied",
    "Desktop",
    "DesktopEvent",
    "DesktopNotUnderstood",
    "Greeted",
    "LooksOnOnly",
    "Lost",
    "NotResizable",
    "Painted",
    "Picture",
    "Planned",
    "Progress",
    "Replayed",
    "Resized",
    "StreamEnded",
    "open_desktop",
]

EVENTS_MAX: Final = 1000
"""Kept for a program that does not read them; then the oldest go, never the desktop."""
COPY_BYTES_MAX: Final = 262_144
"""One text for the clipboard, in UTF-8, a line's end as two bytes. Xvnc drops a longer one in silence."""
LEFT, MIDDLE, RIGHT, WHEEL_UP, WHEEL_DOWN = 1, 2, 4, 8, 16
"""Buttons of the pointer, as bits of a mask."""

DesktopEvent = Began | Replayed | Lost | Progress | Planned | Greeted | Painted | Resized | Copied | Bell


class NotResizable(errors.SessionError):
    """This desktop cannot change its size."""

    code, status, action = "not_resizable", 409, "Go on with the size that it has."


class LooksOnOnly(errors.SessionError):
    """This desktop was opened to look on: nothing is sent to it."""

    code, status, action = "looks_on_only", 403, "Open it with mode `control`."


class DesktopNotUnderstood(errors.SessionError):
    """The desktop sent what no desktop sends."""

    code, status, action = "desktop_not_understood", 502, "Report this with the version of the desktop."


class Desktop:
    """One session's desktop. Use as an async context manager; leaving it holds the session.

    Args:
        stream: carries it; entered and left together with the desktop.
        compressed: ask for ZRLE instead of plain pixels: right for anything but the same machine.
    """

    def __init__(self, stream: ResumableStream, *, compressed: bool = True) -> None:
        self.stream = stream
        self._compressed = compressed
        self._screen = Screen(compressed=compressed)
        self._number = 0
        self._tasks = Tasks(self._failed)
        self._error: BaseException | None = None
        self._events: deque[DesktopEvent] = deque(maxlen=EVENTS_MAX)
        self._changed = asyncio.Event()
        self._painted = 0
        """Updates with pixels since the stream began; zero means that the picture is not whole yet."""
        self._seen = (0, 0)
        self._ready = False

    async def __aenter__(self) -> "Desktop":
        await self.stream.__aenter__()
        self._tasks.spawn(self._read(), name="read-desktop")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._tasks.close()
        await self.stream.__aexit__(*exc)

    # -- looking --------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The desktop's own name; empty until the first handshake."""
        return self._screen.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as they were last told."""
        return self._screen.framebuffer.width, self._screen.framebuffer.height

    @property
    def looks_on(self) -> bool:
        """True when it was opened with mode `view`; keys, clicks and texts are refused then."""
        return self.stream.mode == "view"

    @property
    def is_attached(self) -> bool:
        """True while a link carries it; else the picture stands still and input waits."""
        return self.stream.is_attached

    async def screenshot(self) -> Picture:
        """Return the picture as it is now; waits for the first whole one. Raises StreamEnded.

        While the link is gone it is the last one that came: see `is_attached`.
        """
        await self._until(lambda: self._painted > 0)
        return self._screen.picture()

    async def until(self, seen: Callable[[Picture], bool], *, limit_s: float) -> Picture:
        """Return the first picture for which `seen` is true. Raises TimeoutError, StreamEnded."""
        async with asyncio.timeout(limit_s):
            while True:
                picture, self._seen = await self.screenshot(), (self.stream.number, self._painted)
                if seen(picture):
                    return picture
                await self._until(lambda: (self.stream.number, self._painted) != self._seen)

    async def settled(self, *, quiet_s: float, limit_s: float) -> Picture:
        """Return the picture once nothing was painted for `quiet_s` on a line that was there. Raises
        TimeoutError, StreamEnded.
        """
        async with asyncio.timeout(limit_s):
            await self._until(lambda: self._painted > 0)
            while True:
                await self._until(lambda: self.is_attached)
                seen = self.stream.number, self._painted
                try:
                    async with asyncio.timeout(quiet_s):
                        await self._until(lambda seen=seen: (self.stream.number, self._painted) != seen)  # type: ignore[misc]  # a default binds it
                except TimeoutError:
                    if self.is_attached and self._painted > 0:
                        return self._screen.picture()

    async def events(self) -> AsyncIterator[DesktopEvent]:
        """Yield what happens: to the link, the picture, the clipboard. Raises StreamEnded."""
        while True:
            yield await self.next_event()

    async def next_event(self) -> DesktopEvent:
        """Return the next of `events`; a cancelled wait loses none. Raises StreamEnded."""
        await self._until(lambda: bool(self._events))
        return self._events.popleft()

    # -- acting ---------------------------------------------------------------------------------------
    # Each returns once what it sends was taken for good: it waits while the link is gone. Each raises
    # StreamEnded where nothing goes on by itself, and LooksOnOnly where only looking was asked for.

    async def type(self, text: str) -> None:
        """Type a text, key by key: any letters; `\\n` is Return, `\\t` Tab, `\\x1b` Escape."""
        for pressed in keys_of(text):
            await self._send(pressed)

    async def press(self, *symbols: int) -> None:
        """Press keys together and let go of them: `press(keys.CONTROL, ord("c"))`.

        Args:
            symbols: those of X: `ord` of a letter, or a name of `session_service.client.keys`.
        """
        down = b"".join(key(symbol, down=True) for symbol in symbols)
        await self._send(down + b"".join(key(symbol, down=False) for symbol in reversed(symbols)))

    async def hold(self, symbol: int, *, down: bool) -> None:
        """Press a key and keep it, or let go of it. After a drop the service lets go of it by itself."""
        await self._send(key(symbol, down=down))

    async def point(self, x: int, y: int, *, buttons: int = 0) -> None:
        """Move the pointer to a place in pixels from the upper left, with these buttons (a mask) down."""
        await self._send(pointer(x, y, buttons))

    async def click(self, x: int, y: int, *, button: int = LEFT) -> None:
        """Click once."""
        await self._send(pointer(x, y, 0) + pointer(x, y, button) + pointer(x, y, 0))

    async def drag(self, places: Sequence[tuple[int, int]], *, button: int = LEFT) -> None:
        """Press at the first place, move along the others, let go at the last."""
        moves = b"".join(pointer(x, y, button) for x, y in places)
        await self._send(pointer(*places[0], 0) + moves + pointer(*places[-1], 0))

    async def copy(self, text: str) -> None:
        """Put a text on the desktop's clipboard; paste it there with the keys of the application.

        Raises:
            BadInput: more than 256 KiB.
        """
        if len(text.replace("\n", "\r\n").encode()) > COPY_BYTES_MAX:
            raise errors.BadInput("This text is too long for a clipboard.", bytes_max=COPY_BYTES_MAX)
        await self._until(lambda: self._painted > 0)
        await self._send(self._screen.copy(text))

    async def resize(self, width: int, height: int) -> None:
        """Ask for another size in pixels; `Resized` tells when it is there. Raises NotResizable."""
        await self._until(lambda: self._painted > 0)
        asked = self._screen.resize(width, height)
        if asked is None:
            raise NotResizable(width=width, height=height)
        await self._send(asked)

    # -- parts of the above ---------------------------------------------------------------------------

    async def _send(self, data: bytes) -> None:
        """Send whole messages to the stream of now; where it ends before they are sent, to the next one."""
        while True:
            await self._until(lambda: self._greeted)
            if self.looks_on:
                raise LooksOnOnly()
            try:
                await self.stream.write(data, number=self._number)
            except NewStream:
                continue
            return

    @property
    def _greeted(self) -> bool:
        return self._ready and self._number == self.stream.number

    async def _read(self) -> None:
        try:
            while True:
                event = await self.stream.next_event()
                if isinstance(event, bytes):
                    await self._take(event)
                else:
                    self._note(event)
        except NotRfb as exc:
            self._error = DesktopNotUnderstood(str(exc))
        except errors.SessionError as exc:
            self._error = exc
        self._tell()

    def _note(self, event: Began | Replayed | Lost | Progress | Planned) -> None:
        if isinstance(event, Began):
            self._screen = Screen(compressed=self._compressed)
            self._number = self.stream.number
            self._painted = 0
            self._ready = False
        self._events.append(event)
        self._tell()

    async def _take(self, data: bytes) -> None:
        for event in self._screen.feed(data):
            if isinstance(event, Answer):
                try:
                    await self.stream.write(event.data, number=self._number)
                except NewStream:
                    return
                continue
            if isinstance(event, Painted) and event.pixels:
                self._painted += 1
            elif isinstance(event, Greeted):
                self._ready = True
            self._events.append(event)
        self._tell()

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _failed(self, name: str, error: BaseException) -> None:
        self._error = self._error or error
        self._tell()


@asynccontextmanager
async def open_desktop(
    base_url: str,
    token: str,
    session_id: str,
    *,
    mode: Literal["control", "view"] = "control",
    device_label: str = "Python",
    compressed: bool = True,
    ssl: SSLContext | None = None,
) -> AsyncIterator[Desktop]:
    """Open the desktop of a session with an API token, and hold the session at the end.

    Args:
        base_url: the service's address, http or https, as one of `listen.public_origins` names it.
        token: an API token with the scopes `read` and `sessions`.
        mode: `control` takes over from whoever is there; `view` looks on beside them and sends nothing.
        device_label: what another device is told that takes over or is taken over; at most 64 characters.
        compressed: see `Desktop`.
        ssl: for https with a certificate of one's own; None = the authorities of this machine.

    Raises:
        NotFound, NotAllowed, SignInRequired: the session is not one of this token's.
        PartUnavailable: nobody answers at this address now. Later, that is a lost link and is tried again.
    """
    async with Transport(base_url, token=token, ssl=ssl) as transport:
        api = Api(transport)
        await api.session(session_id)  # What will never work is said here, and not waited for.

        async def ticket() -> Ticket:
            return await api.ticket(session_id, mode=mode, device_label=device_label)

        async with Desktop(ResumableStream(base_url, ticket, ssl=ssl), compressed=compressed) as desktop:
            yield desktop

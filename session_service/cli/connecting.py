"""`connect`: a local port for any VNC viewer, whose stream to the desktop survives lost links.

Not a viewer. While the network is away the viewer's own socket stays open and the picture stands still; where
the stream cannot go on (the service was restarted, the desktop's own socket broke) that socket is closed, and
the viewer dials again. The port is on the loopback of this machine only, and takes one viewer at a time.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from session_service.base import errors
from session_service.cli import console
from session_service.cli.console import StateFolder
from session_service.client.api import Api
from session_service.client.models import Ticket
from session_service.client.resumable_stream import Event, ResumableStream
from session_service.client.transport import Transport
from session_service.core.continuity.client import Began, Lost, Progress, Replayed

READ_BYTES: Final = 16_384
LOCAL: Final = "127.0.0.1"
Viewer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Outcome(Enum):
    """Why a viewer and a stream were parted."""

    LEFT = "left"
    """The viewer went away; the session is held."""
    NEW_STREAM = "new_stream"
    """The stream began anew; the viewer must, too."""


class PortTaken(errors.SessionError):
    """The local port for the viewer cannot be opened."""

    code, status, action = "port_taken", 409, "Name another one with --port; 0 takes a free one."


class LocalPort:
    """Joins one viewer after the other with the session's stream.

    Args:
        stream: makes a stream; called again after a viewer left.
        tell: shows a line to the user.
    """

    def __init__(self, stream: Callable[[], ResumableStream], *, tell: Callable[[str], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._viewers: asyncio.Queue[Viewer] = asyncio.Queue()
        self._busy = False
        self._begun = 0
        """Streams whose beginning was read, of the object that is served."""
        self.port = 0

    async def run(self, port: int) -> None:
        """Serve viewers until cancelled. Raises SessionError where nothing goes on by itself."""
        try:
            server = await asyncio.start_server(self._take, LOCAL, port)
        except OSError as exc:
            raise PortTaken(
                f"The port {port} of {LOCAL} cannot be had: {os.strerror(exc.errno or 0)}."
            ) from exc
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self._tell(f"Point a VNC viewer at {LOCAL}:{self.port}. Ctrl-C leaves; the desktop is held.")
            try:
                while True:
                    await self._serve(await self._viewers.get())
            finally:
                # A server waits for the end of every line that it took.
                while not self._viewers.empty():
                    self._viewers.get_nowait()[1].close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one viewer: a second one beside it would get half of each message."""
        if self._busy:
            writer.close()
            return
        self._busy = True
        self._viewers.put_nowait((reader, writer))

    async def _serve(self, viewer: Viewer) -> None:
        """Serve the viewers of one stream and of its resyncs, until one leaves by itself."""
        async with self._stream() as stream:
            self._begun = 0
            while True:
                try:
                    outcome = await self._join(stream, viewer)
                finally:
                    viewer[1].close()
                    self._busy = False
                if outcome is Outcome.LEFT:
                    self._tell("The viewer left; the desktop is held.")
                    return
                self._tell("A new stream began; the viewer has to dial again.")
                viewer = await self._viewers.get()

    async def _join(self, stream: ResumableStream, viewer: Viewer) -> Outcome:
        """Carry bytes between a viewer and the stream until they are parted."""
        reader, writer = viewer
        number = max(1, stream.number)
        async with asyncio.TaskGroup() as group:
            tasks = {
                group.create_task(self._up(stream, number, reader), name="viewer-to-desktop"),
                group.create_task(self._down(stream, number, writer), name="desktop-to-viewer"),
            }
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
        found = next(iter(done)).result()
        if isinstance(found, errors.SessionError):
            raise found
        return found

    async def _up(self, stream: ResumableStream, number: int, reader: asyncio.StreamReader) -> Outcome:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                try:
                    await stream.write(data, number=number)
                except errors.SessionError:
                    await asyncio.Event().wait()  # The other direction hears of it, in order, and says so.
        return Outcome.LEFT

    async def _down(
        self, stream: ResumableStream, number: int, writer: asyncio.StreamWriter
    ) -> Outcome | errors.SessionError:
        """Carry the bytes of one stream. Each stream that begins after it is another viewer's: also one that
        is no resync, as where a new ticket was needed or where one only looks on.
        """
        try:
            while True:
                event = await stream.next_event()
                if isinstance(event, bytes):
                    writer.write(event)
                    await writer.drain()
                elif isinstance(event, Began):
                    self._begun += 1
                    if self._begun > number:
                        return Outcome.NEW_STREAM
                else:
                    self._say(event)
        except OSError:
            return Outcome.LEFT
        except errors.SessionError as exc:
            return exc

    def _say(self, event: Event) -> None:
        match event:
            case Lost():
                self._tell("The link is gone; the desktop is kept. Resuming ...")
            case Replayed():
                self._tell("Back, and nothing was lost.")
            case Progress():
                part = "" if event.percent is None else f" {event.percent} %"
                self._tell(f"The desktop is {event.why}{part}.")
            case _:
                pass


def connect(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Local port; 0 takes a free one.")] = 5901,
    view_only: Annotated[
        bool, typer.Option("--view-only", help="Look on: keys, pointer and clipboard stay here.")
    ] = False,
    url: Annotated[str, typer.Option(help="Address of the service; default: the one of this machine.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="File with an API token, for --url.")] = None,
    state_folder: StateFolder = None,
) -> None:
    """Give any VNC viewer a port whose stream survives lost links.

    Example: session-service connect 01J9Z3M4N5P6Q7R8S9T0V1W2X3 --port 5901
    """
    if url and not url.startswith(("http://", "https://")):
        raise typer.BadParameter("It is an address as in https://desk.example.", param_hint="--url")
    if token_file is not None and not url:
        raise typer.BadParameter(
            "A token is for --url; on this machine you are who you are.", param_hint="--token-file"
        )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            _connect(session, port, "view" if view_only else "control", url, token_file, state_folder)
        )


async def _connect(
    session: str, port: int, mode: str, url: str, token_file: Path | None, state_folder: Path | None
) -> None:
    async with _api(url, token_file, state_folder) as (api, base_url):
        await api.session(session)  # An unknown one is said now, not when a viewer dials.

        async def ticket() -> Ticket:
            return await api.ticket(session, mode=mode, device_label="VNC viewer")

        local = LocalPort(lambda: ResumableStream(base_url, ticket), tell=_tell)
        await local.run(port)


@asynccontextmanager
async def _api(
    url: str, token_file: Path | None, state_folder: Path | None
) -> AsyncIterator[tuple[Api, str]]:
    """Reach a service by address and token, or the one of this machine as the user who runs the command."""
    if url:
        token = console.text_of(token_file).strip() if token_file is not None else ""
        async with Transport(url, token=token) as transport:
            yield Api(transport), url
        return
    async with console.service(state_folder) as api:
        yield api, console.layout_of(state_folder).address.read_text().strip()


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)

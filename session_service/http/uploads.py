"""The route that puts a file into the home of a running desktop.

Not a write into the home from here: the bytes go to a folder of ours first, then the storage worker moves
them in, since a home is hostile ground (links, races) for a process that also holds sockets. Refused in
closing: a byte that comes after the final freeze would not be saved.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from session_service.base import errors
from session_service.core.records import Session, State
from session_service.http import answers, asks, audit, limits
from session_service.http.routes import Exchange, Reply
from session_service.http.sessions import own_view
from session_service.ports.checkpoints import WorkspaceName

OPEN_FOR_FILES: Final = frozenset({State.ACTIVE, State.HELD})
Value = TypeVar("Value")
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


async def upload(exchange: Exchange) -> Reply:
    """Put a file into the folder of uploads of the desktop's home."""
    query = exchange.query(asks.UploadQuery)
    session = open_for_files((await own_view(exchange)).session)
    length = exchange.request.content_length
    if length is not None and length > limits.UPLOAD_BYTES_MAX:
        raise errors.TooLarge(limit_bytes=limits.UPLOAD_BYTES_MAX)
    workspace = await exchange.services.registry.workspace(session.workspace_id)
    if workspace is None:
        raise errors.NotFound()
    async with exchange.services.upload_turns.turn(exchange.caller.user.id):
        temporary = exchange.services.settings.uploads / f"{exchange.services.ids.ulid()}.part"
        try:
            size = await _receive(exchange, temporary, length or 0)
            session = open_for_files((await own_view(exchange)).session)
            desktop = await exchange.services.registry.desktop(session.workspace_id, session.fence)
            if desktop is None:
                raise errors.DesktopGone()
            await audit.record(
                exchange,
                audit.entry(
                    exchange,
                    "file.uploaded",
                    user_id=session.user_id,
                    session_id=session.id,
                    workspace_id=session.workspace_id,
                    name=query.name,
                    bytes=size,
                ),
            )
            path = await exchange.services.checkpoints.upload(
                WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id),
                home=desktop.home,
                name=query.name,
                source=str(temporary),
                owner=await exchange.services.owner_of(
                    workspace_id=desktop.workspace_id, fence=desktop.fence
                ),
            )
        finally:
            await asyncio.to_thread(temporary.unlink, missing_ok=True)
    return Reply(body=answers.UploadOut(path=path, bytes=size), status=201)


def open_for_files(session: Session) -> Session:
    """Return the session if files may be put into its home now. Raises TransitionRefused."""
    if session.state not in OPEN_FOR_FILES:
        raise errors.TransitionRefused(
            "Files can be put into a desktop while it is active or held.", state=session.state.value
        )
    return session


async def _receive(exchange: Exchange, temporary: Path, expected: int) -> int:
    """Write the request's body to a temporary file; returns its size."""
    await _check_room(temporary.parent, expected)
    size = looked = 0
    descriptor = await _written(os.open, temporary, _NEW_FILE, 0o640)
    try:
        while chunk := await _next_chunk(exchange):
            size += len(chunk)
            if size > limits.UPLOAD_BYTES_MAX:
                raise errors.TooLarge(limit_bytes=limits.UPLOAD_BYTES_MAX)
            if size - looked >= limits.UPLOAD_LOOK_BYTES:
                looked = size
                await _check_room(temporary.parent, max(0, expected - size))
            await _written(_write_all, descriptor, chunk)
    finally:
        os.close(descriptor)
    return size


async def _check_room(folder: Path, expected: int) -> None:
    free = (await asyncio.to_thread(shutil.disk_usage, folder)).free
    if free - expected < limits.UPLOAD_FREE_BYTES_MIN:
        raise errors.NoRoom("There is not enough free disk for this file.", free_bytes=free)


async def _written(work: Callable[..., Value], *arguments: object) -> Value:
    """Do disk work in a thread; a full or broken disk is told as what it is."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as exc:
        raise errors.NoRoom("The file could not be written.", error=exc.strerror) from exc


async def _next_chunk(exchange: Exchange) -> bytes:
    try:
        async with asyncio.timeout(limits.UPLOAD_IDLE_S):
            return await exchange.request.content.read(limits.UPLOAD_CHUNK_BYTES)
    except TimeoutError as exc:
        raise errors.BadInput("The file stopped arriving.", limit_s=limits.UPLOAD_IDLE_S) from exc


def sweep(folder: Path) -> None:
    """Remove what an earlier run left half-way: files of our own under names that only we make."""
    for pattern in ("*.part", "backup-*.sqlite"):
        for left in folder.glob(pattern):
            left.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

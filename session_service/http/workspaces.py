"""Routes of workspaces, their checkpoints and the files in them, without a desktop.

Not restores (a start does them) and no cache: every look goes to the object store. Reading somebody else's
files needs an administrator and is in the audit log before the first byte is sent; one's own downloads are
there, too.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from session_service.base import errors, log
from session_service.base.ids import WorkspaceId
from session_service.core.records import Workspace
from session_service.http import answers, asks, audit, cursors, limits, paths, render
from session_service.http.routes import Exchange, Reply, workspace_id
from session_service.http.serve import begin_stream
from session_service.ports.checkpoints import WorkspaceName

Value = TypeVar("Value")
ARCHIVES = {"zip": "zip", "tar": "x-tar"}
FILE_POLICY = "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""A user's file is never a page of ours: it may run nothing and load nothing, if a browser shows it at
all.
"""


async def owned_workspace(exchange: Exchange, wanted: WorkspaceId) -> Workspace:
    """Return a workspace that is the caller's own, or anybody's for operators. Raises NotFound."""
    workspace = await exchange.services.registry.workspace(wanted)
    if workspace is None or not (workspace.user_id == exchange.caller.user.id or exchange.caller.may_operate):
        raise errors.NotFound()
    return workspace


async def any_workspace(exchange: Exchange) -> Workspace:
    """Return the workspace of the path, whoever's it is: for routes whose access says who may ask. Raises
    NotFound.
    """
    workspace = await exchange.services.registry.workspace(workspace_id(exchange))
    if workspace is None:
        raise errors.NotFound()
    return workspace


async def readable_workspace(exchange: Exchange) -> Workspace:
    """Return the workspace of the path if the caller may read the files in it.

    Raises:
        NotFound: unknown, or not visible to the caller.
        NotAllowed: visible, but somebody else's files are read by administrators only.
    """
    workspace = await owned_workspace(exchange, workspace_id(exchange))
    if workspace.user_id != exchange.caller.user.id and not exchange.caller.may_administer:
        raise errors.NotAllowed("Files of others are read by administrators only, and that is recorded.")
    return workspace


async def list_workspaces(exchange: Exchange) -> answers.WorkspacesOut:
    """List one's own workspaces."""
    query = exchange.query(asks.Page)
    registry = exchange.services.registry
    after = cursors.read(query.cursor) or ""
    own = [each for each in await registry.workspaces(user_id=exchange.caller.user.id) if each.id > after]
    page = own[: query.limit]
    items = [render.workspace(each, await registry.lease(each.id)) for each in page]
    more = len(own) > query.limit
    return answers.WorkspacesOut(items=items, next_cursor=cursors.write(page[-1].id) if more else None)


async def create_workspace(exchange: Exchange) -> Reply:
    """Make a further home."""
    ask = exchange.body(asks.WorkspaceAsk)
    user = exchange.caller.user
    try:
        made = await exchange.services.control.create_workspace(user=user, name=ask.name)
    except errors.Conflict as exc:
        if exc.facts.get("reason") == "name_taken":
            raise errors.NameTaken(name=ask.name) from exc
        raise
    return Reply(body=render.workspace(made, None), status=201)


async def list_checkpoints(exchange: Exchange) -> answers.CheckpointsOut:
    """List the restorable points of a workspace, newest first."""
    query = exchange.query(asks.Page)
    workspace = await owned_workspace(exchange, workspace_id(exchange))
    history = await _from_store(exchange.services.checkpoints.history(workspace_name(workspace)))
    before = cursors.read_number(query.cursor)
    newest_first = sorted(history, key=lambda info: info.seq, reverse=True)
    rest = [info for info in newest_first if before is None or info.seq < before]
    page = rest[: query.limit]
    more = len(rest) > query.limit
    return answers.CheckpointsOut(
        items=[render.checkpoint(info) for info in page],
        next_cursor=cursors.write(page[-1].seq) if more else None,
    )


async def list_files(exchange: Exchange) -> answers.FilesOut:
    """List a folder at the time of a checkpoint."""
    query = exchange.query(asks.FilesQuery)
    workspace = await readable_workspace(exchange)
    folder, seq = paths.raw(query.path), _seq(exchange)
    after, prefix = cursors.read_name(query.cursor), paths.raw_prefix(query.prefix)
    if workspace.user_id != exchange.caller.user.id:
        await _record_read(exchange, workspace, "folder.listed", folder, seq)
    page = await _from_store(
        exchange.services.checkpoints.folder(
            workspace_name(workspace), seq=seq, path=folder, after=after, prefix=prefix, limit=query.limit
        )
    )
    return answers.FilesOut(
        path=paths.shown(folder),
        seq=seq,
        items=[render.file(entry, folder) for entry in page.entries],
        next_cursor=cursors.write_name(page.entries[-1].raw_name) if page.more else None,
    )


async def download_file(exchange: Exchange) -> web.StreamResponse:
    """Send one file's bytes as they were at a checkpoint."""
    workspace = await readable_workspace(exchange)
    path, seq = paths.raw(exchange.query(asks.PathQuery).path), _seq(exchange)
    if not path:
        raise errors.BadInput("A file is named by its path.", field="path")
    await _record_read(exchange, workspace, "file.downloaded", path, seq)
    source = exchange.services.checkpoints.read(workspace_name(workspace), seq=seq, path=path)
    name = paths.shown(path.rsplit(b"/", 1)[-1])
    return await _stream(exchange, source, name=name, media="application/octet-stream")


async def download_archive(exchange: Exchange) -> web.StreamResponse:
    """Send a folder, or the whole home, as a zip or a tar."""
    workspace = await readable_workspace(exchange)
    query = exchange.query(asks.ArchiveQuery)
    path, seq = paths.raw(query.path), _seq(exchange)
    await _record_read(exchange, workspace, "archive.downloaded", path, seq)
    source = exchange.services.checkpoints.archive(
        workspace_name(workspace), seq=seq, path=path, kind=query.kind, checked=query.checked
    )
    name = paths.shown(path.rsplit(b"/", 1)[-1]) if path else workspace.name
    media = f"application/{ARCHIVES[query.kind]}"
    return await _stream(exchange, source, name=f"{name}.{query.kind}", media=media)


def workspace_name(workspace: Workspace) -> WorkspaceName:
    """Return the name under which the store keeps a workspace."""
    return WorkspaceName(tenant_id=workspace.tenant_id, workspace_id=workspace.id)


def _seq(exchange: Exchange) -> int:
    return int(exchange.request.match_info["seq"])


async def _from_store(work: Awaitable[Value]) -> Value:
    try:
        async with asyncio.timeout(limits.STORE_S):
            return await work
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The object store did not answer in time.") from exc


async def _record_read(exchange: Exchange, workspace: Workspace, kind: str, path: bytes, seq: int) -> None:
    actor = str(exchange.caller.actor(owner=workspace.user_id))
    await audit.record(
        exchange,
        audit.entry(
            exchange,
            kind,
            actor=actor,
            user_id=workspace.user_id,
            workspace_id=workspace.id,
            path=paths.shown(path),
            seq=seq,
        ),
    )


async def _stream(
    exchange: Exchange, source: AsyncIterator[bytes], *, name: str, media: str
) -> web.StreamResponse:
    """Send a stream. The first part is awaited before the status, so that a missing file is a problem
    document; a failure later cuts the link, so that half a file never looks whole.
    """
    turn = exchange.services.download_turns.turn(exchange.caller.user.id)
    async with turn, contextlib.aclosing(_closable(source)) as parts:
        try:
            async with asyncio.timeout(limits.STORE_S):
                first = await anext(parts, b"")
        except TimeoutError as exc:
            raise errors.StorageUnavailable("The object store did not answer in time.") from exc
        response = web.StreamResponse()
        response.content_type = media
        response.headers["Content-Disposition"] = paths.disposition(name)
        response.headers["Content-Security-Policy"] = FILE_POLICY
        response.headers["Cache-Control"] = "private, no-store"
        await begin_stream(exchange, response)
        try:
            async with asyncio.timeout(limits.DOWNLOAD_IDLE_S):
                await response.write(first)
            async for part in parts:
                async with asyncio.timeout(limits.DOWNLOAD_IDLE_S):
                    await response.write(part)
            await response.write_eof()
        except (errors.SessionError, TimeoutError) as exc:
            log.get_logger().warning("request.failed", reference=exchange.reference, error=repr(exc))
            if exchange.request.transport is not None:
                exchange.request.transport.abort()
    return response


async def _closable(source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give any iterator an `aclose`, so that a reader who leaves ends the worker's call at once."""
    try:
        async for part in source:
            yield part
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()

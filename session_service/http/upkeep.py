"""What administrators check and copy: a workspace's repository, the audit chain, the registry itself.

Not a schedule. Long questions have limits of their own; each is in the audit log before it is answered.
"""

import asyncio
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import Field

from session_service.base import errors
from session_service.http import answers, asks, audit, limits
from session_service.http.routes import API, Access, Exchange, Route, workspace_id
from session_service.http.serve import begin_stream
from session_service.http.workspaces import workspace_name

VERIFY_S: Final = 3600.0
"""Time for one verify; `full` reads every byte of a workspace. Over it: `storage_unavailable`."""
_ADMIN: Final = Access(role="administrator", scope="admin")


class VerifyAsk(asks.Ask):
    """How closely to look."""

    level: Annotated[Literal["structure", "sample", "full"], Field(description="full reads every byte")] = (
        "structure"
    )


class VerifyOut(answers.Answer):
    """The faults that were found; none is good."""

    level: str
    faults: list[str]


class AuditOut(answers.Answer):
    """The chain as it was recomputed."""

    records: int


async def verify_workspace(exchange: Exchange) -> VerifyOut:
    """Check a workspace's repository."""
    ask = exchange.body(VerifyAsk)
    workspace = await exchange.services.registry.workspace(workspace_id(exchange))
    if workspace is None:
        raise errors.NotFound()
    entry = audit.entry(exchange, "workspace.verified", workspace_id=workspace.id, level=ask.level)
    await audit.record(exchange, entry)
    try:
        async with asyncio.timeout(VERIFY_S):
            faults = await exchange.services.checkpoints.verify(workspace_name(workspace), level=ask.level)
    except TimeoutError as exc:
        raise errors.StorageUnavailable("The check did not end in time.") from exc
    return VerifyOut(level=ask.level, faults=faults)


async def verify_audit(exchange: Exchange) -> AuditOut:
    """Recompute the audit chain. Raises AuditBroken with the first bad number."""
    return AuditOut(records=await exchange.services.registry.verify_audit())


async def backup_registry(exchange: Exchange) -> web.StreamResponse:
    """Send a consistent copy of the registry. It holds no key and no password, only hashes."""
    await audit.record(exchange, audit.entry(exchange, "registry.backed_up"))
    file = exchange.services.settings.uploads / f"backup-{exchange.reference}.sqlite"
    try:
        await exchange.services.registry.backup(str(file))
        response = web.StreamResponse()
        response.content_type = "application/vnd.sqlite3"
        response.headers["Content-Disposition"] = 'attachment; filename="registry.sqlite"'
        response.content_length = file.stat().st_size
        await begin_stream(exchange, response)
        with file.open("rb") as source:
            while piece := await asyncio.to_thread(source.read, limits.UPLOAD_CHUNK_BYTES):
                async with asyncio.timeout(limits.DOWNLOAD_IDLE_S):
                    await response.write(piece)
        await response.write_eof()
        return response
    finally:
        file.unlink(missing_ok=True)  # our own copy


ROUTES: Final = (
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/verify",
        name="verifyWorkspace",
        tag="upkeep",
        summary="Check a workspace's repository: chain, structure, and with `full` every byte.",
        handler=verify_workspace,
        access=_ADMIN,
        body=VerifyAsk,
        answer=VerifyOut,
        may_fail_with=(errors.NotFound, errors.StorageUnavailable, errors.StorageRefused),
    ),
    Route(
        method="GET",
        path=f"{API}/audit/verification",
        name="verifyAudit",
        tag="upkeep",
        summary="Recompute the audit chain from its first record.",
        handler=verify_audit,
        access=_ADMIN,
        answer=AuditOut,
        may_fail_with=(errors.AuditBroken, errors.RegistryUnavailable),
    ),
    Route(
        method="GET",
        path=f"{API}/registry/backup",
        name="backUpRegistry",
        tag="upkeep",
        summary="A consistent copy of the registry; it holds no key.",
        handler=backup_registry,
        access=_ADMIN,
        media="application/vnd.sqlite3",
        may_fail_with=(errors.RegistryUnavailable,),
    ),
)

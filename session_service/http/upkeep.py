"""What administrators check, copy and tidy: a workspace's repository, the audit chain, the registry itself.

Not a schedule. Long questions have limits of their own; each is in the audit log before it is answered.
"""

import asyncio
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import Field

from session_service.base import errors
from session_service.http import answers, asks, audit, limits, progress
from session_service.http.routes import API, Access, Exchange, Reply, Result, Route
from session_service.http.serve import begin_stream
from session_service.http.workspaces import any_workspace, workspace_name
from session_service.ports.upkeep import Upkept

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


class ForgetAsk(asks.Ask):
    """Which checkpoints may go, and why."""

    checkpoints: Annotated[list[asks.Number], Field(min_length=1, max_length=1_000)]
    reason: asks.Reason = ""


class KeepAsk(asks.Ask):
    """Whether a checkpoint is pinned, and why."""

    pin: bool = True
    reason: asks.Reason = ""


class CollectAsk(asks.Ask):
    """Whether the retention policy forgets checkpoints first."""

    forget: bool = True
    renew_index: Annotated[
        bool, Field(description="First give up the index for cold starts: it contradicts the log.")
    ] = False


class CollectOut(answers.Answer):
    """What a run did. What it gave up is deleted by the next one."""

    forgotten: list[int]
    deleted_objects: int
    deleted_bytes: int
    given_up_packs: int
    repacked_packs: Annotated[int, Field(description="of these, packs whose contents were moved")]
    given_up_bytes: int
    orphans: int
    folded_entries: int
    refused: Annotated[str, Field(description="Why nothing was collected; empty if it was.")]


class DiffAsk(asks.Ask):
    """With which checkpoint to compare."""

    against: Annotated[asks.Number, Field(description="the earlier checkpoint's number")]


class ChangeOut(answers.Answer):
    """One path that differs."""

    path: str
    what: Annotated[str, Field(description="added, removed, changed")]
    size_before: int | None
    size_after: int | None


class DiffOut(answers.Answer):
    """What changed from one checkpoint to another."""

    changes: list[ChangeOut]
    more: Annotated[bool, Field(description="Not every path is named.")]
    left_out: Annotated[
        list[answers.LeftOutOut], Field(description="folders not compared to their end, for damage")
    ]


class AuditOut(answers.Answer):
    """The chain as it was recomputed."""

    records: int


async def verify_workspace(exchange: Exchange) -> Result:
    """Check a workspace's repository, and tell how far that is to whoever asks for lines."""
    ask = exchange.body(VerifyAsk)
    workspace = await any_workspace(exchange)
    entry = audit.entry(exchange, "workspace.verified", workspace_id=workspace.id, level=ask.level)
    await audit.record(exchange, entry)

    async def work(tell: progress.Tell | None) -> VerifyOut:
        checkpoints, name = exchange.services.checkpoints, workspace_name(workspace)
        try:
            async with asyncio.timeout(VERIFY_S):
                faults = await checkpoints.verify(name, level=ask.level, progress=tell)
        except TimeoutError as exc:
            raise errors.StorageUnavailable("The check did not end in time.") from exc
        return VerifyOut(level=ask.level, faults=faults)

    return await progress.answered(exchange, work)


async def forget_checkpoints(exchange: Exchange) -> Reply:
    """Forget checkpoints by hand; space is freed by later runs of collect."""
    ask = exchange.body(ForgetAsk)
    workspace = await any_workspace(exchange)
    numbers = " ".join(str(seq) for seq in ask.checkpoints)
    entry = audit.entry(
        exchange,
        "checkpoints.forgotten",
        workspace_id=workspace.id,
        checkpoints=numbers,
        reason=ask.reason,
    )
    await audit.record(exchange, entry)
    await exchange.services.checkpoints.forget(
        workspace_name(workspace),
        seqs=list(ask.checkpoints),
        actor=str(exchange.caller.actor()),
        reason=ask.reason or "by hand",
    )
    return Reply(body=None, status=204)


async def keep_checkpoint(exchange: Exchange) -> Reply:
    """Pin a checkpoint, or let the policy decide about it again."""
    ask = exchange.body(KeepAsk)
    workspace = await any_workspace(exchange)
    seq = int(exchange.request.match_info["seq"])
    kind = "checkpoint.pinned" if ask.pin else "checkpoint.unpinned"
    entry = audit.entry(exchange, kind, workspace_id=workspace.id, checkpoint=seq, reason=ask.reason)
    await audit.record(exchange, entry)
    await exchange.services.checkpoints.keep(
        workspace_name(workspace),
        seq=seq,
        pin=ask.pin,
        actor=str(exchange.caller.actor()),
        reason=ask.reason,
    )
    return Reply(body=None, status=204)


async def collect_workspace(exchange: Exchange) -> Result:
    """Forget by policy and free what nothing needs any more, now instead of within the hour."""
    ask = exchange.body(CollectAsk)
    workspace = await any_workspace(exchange)
    entry = audit.entry(
        exchange,
        "workspace.collected",
        workspace_id=workspace.id,
        forget=ask.forget,
        renew_index=ask.renew_index,
    )
    await audit.record(exchange, entry)
    lease = await exchange.services.registry.lease(workspace.id)
    newest = lease.newest if lease is not None else None

    async def work(tell: progress.Tell | None) -> CollectOut:
        try:
            async with asyncio.timeout(VERIFY_S):
                done = await exchange.services.checkpoints.collect(
                    workspace_name(workspace),
                    actor=str(exchange.caller.actor()),
                    forget=exchange.services.settings.keep if ask.forget else None,
                    witness=(newest.seq, newest.hash) if newest is not None else None,
                    renew_index=ask.renew_index,
                    progress=tell,
                )
        except TimeoutError as exc:
            raise errors.StorageUnavailable("Collecting did not end in time.") from exc
        return _collected(done)

    return await progress.answered(exchange, work)


def _collected(done: Upkept) -> CollectOut:
    return CollectOut(
        forgotten=list(done.forgotten),
        deleted_objects=done.deleted_objects,
        deleted_bytes=done.deleted_bytes,
        given_up_packs=done.retired_packs,
        repacked_packs=done.repacked_packs,
        given_up_bytes=done.retired_bytes,
        orphans=done.orphans,
        folded_entries=done.folded_entries,
        refused=done.refused,
    )


async def compare_checkpoints(exchange: Exchange) -> DiffOut:
    """Say which paths differ from an earlier checkpoint."""
    ask = exchange.query(DiffAsk)
    workspace = await any_workspace(exchange)
    seq = int(exchange.request.match_info["seq"])
    entry = audit.entry(
        exchange, "checkpoints.compared", workspace_id=workspace.id, checkpoint=seq, against=ask.against
    )
    await audit.record(exchange, entry)
    found = await exchange.services.checkpoints.diff(workspace_name(workspace), before=ask.against, after=seq)
    changes = [
        ChangeOut(path=one.path, what=one.what, size_before=one.size_before, size_after=one.size_after)
        for one in found.changes
    ]
    return DiffOut(changes=changes, more=found.more, left_out=answers.left_out(found.left_out))


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
        summary="Check a workspace's repository: chain, structure, and with `full` every byte. "
        "With `Accept: application/x-ndjson` lines tell how far it is.",
        handler=verify_workspace,
        access=_ADMIN,
        body=VerifyAsk,
        answer=VerifyOut,
        may_fail_with=(errors.NotFound, errors.StorageUnavailable, errors.StorageRefused),
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/checkpoints/forget",
        name="forgetCheckpoints",
        tag="upkeep",
        summary="Forget checkpoints; the newest, pinned ones and the first of a close stay.",
        handler=forget_checkpoints,
        access=_ADMIN,
        body=ForgetAsk,
        status=204,
        idempotent=True,
        may_fail_with=(
            errors.NotFound,
            errors.Conflict,
            errors.StorageUnavailable,
            errors.StorageRefused,
        ),
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/checkpoints/{{seq}}/keep",
        name="keepCheckpoint",
        tag="upkeep",
        summary="Pin a checkpoint, so that no policy forgets it; `pin` false lets it go its way again.",
        handler=keep_checkpoint,
        access=_ADMIN,
        body=KeepAsk,
        status=204,
        idempotent=True,
        may_fail_with=(errors.NotFound, errors.StorageUnavailable, errors.StorageRefused),
    ),
    Route(
        method="GET",
        path=f"{API}/workspaces/{{workspace_id}}/checkpoints/{{seq}}/diff",
        name="compareCheckpoints",
        tag="upkeep",
        summary="Which paths differ from an earlier checkpoint.",
        handler=compare_checkpoints,
        access=_ADMIN,
        query=DiffAsk,
        answer=DiffOut,
        may_fail_with=(errors.NotFound, errors.StorageUnavailable, errors.StorageRefused),
    ),
    Route(
        method="POST",
        path=f"{API}/workspaces/{{workspace_id}}/collect",
        name="collectWorkspace",
        tag="upkeep",
        summary="Forget by policy and free what nothing needs any more, now instead of within the hour. "
        "With `Accept: application/x-ndjson` lines tell how far it is.",
        handler=collect_workspace,
        access=_ADMIN,
        body=CollectAsk,
        answer=CollectOut,
        idempotent=True,
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
